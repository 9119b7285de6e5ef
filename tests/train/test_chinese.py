"""Chinese and mixed text in every task: no spaces, full-width forms, characters beyond 16 bits, two ways to write."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lc_finetune import (
    Checkpoint,
    EntityTagger,
    PairClassifier,
    QuestionAnswerer,
    RelationClassifier,
    TextClassifier,
)
from lc_finetune.answers import answer_f1, exact_match
from lc_finetune.checkpoint import TagUnit, Task
from lc_finetune.data import QuestionExample, RelationExample, TaggedExample, read_examples
from lc_finetune.inference.encode import Encoder, Encoding
from lc_finetune.labels import Span
from lc_finetune.testing import TOKENIZER_KINDS, TokenizerKind, tiny_base_model, tiny_checkpoint
from lc_finetune.train import TrainConfig, fine_tune
from lc_finetune.train.tokenization import align, choose_tag_unit

TEXTS = [
    "李明在北京工作。",
    "李明住在臺北，在台北工作。",  # traditional, then simplified
    "他用iPhone拍了一丁3张照片！",
    "ＩＢＭ公司（１９８４年）在丁丁路１２３号。",
    "𠮷野家在丈三街，电话：０１０－１２３４",  # a character of two 16-bit units
    "一丁丂七，丄丅丆万。“丈三”上下！",
    "㍿丁丂は東京 に ある😀",  # one character that some tokenizers read as four
    "丁" * 300,
    "\u3000",
    "",
]

CHARACTERS = "丁丂七北京臺台，。（）“”：\u3000ＡＢ１２㍿𠮷野は😀🏽\u0301é aZ9-._@\t\n"


def named(text: str, *entities: tuple[str, str]) -> TaggedExample:
    spans = [Span(text.index(found), text.index(found) + len(found), label) for found, label in entities]
    return TaggedExample(text, tuple(sorted(spans)))


TAGGED = [
    named("上书乃七丘中。", ("上书", "PER"), ("七丘", "LOC")),
    named("他用iPhone拍了照", ("iPhone", "ITEM")),
    named("ＩＢＭ公司（１９８４年）在丁丁路", ("ＩＢＭ", "ORG"), ("１９８４年", "DATE"), ("丁丁路", "LOC")),
    named("𠮷丁三乃臺上", ("𠮷丁三", "ORG"), ("臺上", "LOC")),
]


# Files.


def write(folder: Path, name: str, content: str) -> str:
    (folder / name).write_text(content, encoding="utf-8")
    return str(folder / name)


def test_lines_of_characters_become_text_without_spaces(tmp_path: Path) -> None:
    """A character and its tag a line, Latin letters and digits too; offsets count characters."""
    lines = ["李 B-PER", "明 I-PER", "看 O", "N B-ORG", "B I-ORG", "A I-ORG", "。 O", "",
             "𠮷 B-ORG", "野 I-ORG", "家 I-ORG", "２ O", "0 O", "号 O"]  # fmt: skip
    loaded = read_examples(write(tmp_path, "a.conll", "\n".join(lines)))

    assert loaded.examples == (
        TaggedExample("李明看NBA。", (Span(0, 2, "PER"), Span(3, 6, "ORG"))),
        TaggedExample("𠮷野家２0号", (Span(0, 3, "ORG"),)),
    )
    assert "a character a line" in " ".join(loaded.notes)


def test_lines_of_words_are_joined_as_they_are_written(tmp_path: Path) -> None:
    """Words of Chinese and its marks without spaces, others with; a file without Chinese is as it was."""
    lines = [
        "我们 O",
        "在 O",
        "New B-LOC",
        "York I-LOC",
        "，",
        "見面 O",
        "（ O",
        "Angela B-PER",
        "Merkel I-PER",
        "） O",
    ]
    lines[4] = "， O"
    chinese = read_examples(write(tmp_path, "a.conll", "\n".join(lines))).examples
    letters = read_examples(write(tmp_path, "b.conll", "a B-X\nb O\nc O")).examples

    assert chinese == (
        TaggedExample("我们在New York，見面（Angela Merkel）", (Span(3, 11, "LOC"), Span(15, 28, "PER"))),
    )
    assert letters == (TaggedExample("a b c", (Span(0, 1, "X"),)),)


def test_questions_as_xquad_has_them(tmp_path: Path) -> None:
    """Escaped characters, those of two 16-bit units too: offsets count characters, and answers are the context's."""
    context = "𠮷野家位於臺北，創立于１９５８年。𠮷田先生说：“很好！”"
    asked = [{"id": str(i), "question": "在哪里？", "answers": [{"text": found, "answer_start": context.index(found)}]}
             for i, found in enumerate(("臺北", "１９５８年", "𠮷田先生", "很好！"))]  # fmt: skip
    article = {"title": "丁", "paragraphs": [{"context": context, "qas": asked}]}
    content = json.dumps({"version": "1.1", "data": [article]}, ensure_ascii=True)
    examples = read_examples(write(tmp_path, "xquad.zh.json", content)).examples

    assert "\\ud842\\udfb7" in content
    assert [e.context[slice(*e.answers[0])] for e in examples if isinstance(e, QuestionExample)] == [
        "臺北", "１９５８年", "𠮷田先生", "很好！"]  # fmt: skip


def test_answers_are_compared_by_characters() -> None:
    """Marks of either width are left out; two ways to write a character are two characters."""
    assert exact_match("北京。", ["北京"])
    assert answer_f1("北京市", ["北京"]) == pytest.approx(0.8)
    assert not exact_match("臺北", ["台北"])


def test_mentions_are_marked_between_characters(tmp_path: Path) -> None:
    """The text is what is left without the marks; offsets are of characters."""
    rows = [
        {"text": "<e1>𠮷田</e1>住在<e2>臺北</e2>。", "label": "住"},
        {"text": "在<e2>北京</e2>的<e1>李明</e1>", "label": "在"},
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    first, second = read_examples(write(tmp_path, "a.jsonl", lines)).examples

    assert isinstance(first, RelationExample)
    assert isinstance(second, RelationExample)
    assert (first.text, first.head, first.tail) == ("𠮷田住在臺北。", (0, 2), (4, 6))
    assert (second.text, second.head, second.tail) == ("在北京的李明", (4, 6), (1, 3))


def test_full_width_commas_part_no_columns(tmp_path: Path) -> None:
    """Nor do they end a quotation."""
    loaded = read_examples(write(tmp_path, "a.csv", "text,label\n你好，世界；“再见”,问候\n再见、谢谢,告别\n"))

    assert [example.text for example in loaded.examples] == ["你好，世界；“再见”", "再见、谢谢"]  # type: ignore[union-attr]


# Units and offsets.


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_characters_are_units_where_there_are_no_spaces(kind: TokenizerKind, tmp_path: Path) -> None:
    """The unit of words is chosen, since it cuts no entity: Latin words and full-width numbers stay whole in it."""
    encoder = Encoder(tiny_base_model(tmp_path / "base", tokenizer=kind), offsets=True)
    for example, encoding in zip(TAGGED, encoder.encode([one.text for one in TAGGED]), strict=True):
        assert isinstance(encoding, Encoding)
        aligned, cut = align(example, encoding, "word")
        assert cut == 0
        assert len(aligned) == len(example.spans)

    assert choose_tag_unit(TAGGED, encoder) == "word"


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_the_unit_is_smaller_where_an_entity_ends_in_a_word(kind: TokenizerKind, tmp_path: Path) -> None:
    """Part of a Latin word between characters: pieces, where words would widen it."""
    encoder = Encoder(tiny_base_model(tmp_path / "base", tokenizer=kind), offsets=True)
    assert choose_tag_unit([named("他用cards拍", ("card", "ITEM"))], encoder) == "piece"


@pytest.fixture(scope="module")
def taggers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TokenizerKind, TagUnit], EntityTagger]:
    """A tagger of each family and unit, made when it is first asked for."""
    made: dict[tuple[TokenizerKind, TagUnit], EntityTagger] = {}

    def tagger(kind: TokenizerKind, unit: TagUnit) -> EntityTagger:
        if (kind, unit) not in made:
            folder = tmp_path_factory.mktemp("tagger") / "made"
            path = tiny_checkpoint(folder, task="token-classification", tokenizer=kind, tag_unit=unit).path
            made[kind, unit] = EntityTagger.from_checkpoint(path, device="cpu")
        return made[kind, unit]

    return tagger


@pytest.mark.parametrize("unit", ["piece", "first", "word"])
@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.text(st.sampled_from("丁丂七北京臺台，。（）“”：　ＡＢ１２㍿𠮷野は😀🏽\u0301é aZ9-._@\t\n"), max_size=80),
        max_size=4,
    )
)
def test_offsets_are_of_characters(taggers: Any, kind: TokenizerKind, unit: TagUnit, texts: list[str]) -> None:
    """Whatever is mixed: `text[start:end]` is the entity's text, and entities do not overlap."""
    for text, result in zip(texts + TEXTS, taggers(kind, unit).batch(texts + TEXTS), strict=True):
        ends = 0
        for entity in result.entities:
            assert text[entity.start : entity.end] == entity.text == entity.text.strip() != ""
            assert entity.start >= ends
            ends = entity.end


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_a_text_without_spaces_is_read_in_windows(taggers: Any, kind: TokenizerKind) -> None:
    """Although it is one word to some tokenizers: there are entities in its last tenth."""
    text = "丁七丂万北京，" * 60
    assert max(entity.start for entity in taggers(kind, "word").invoke(text).entities) > 0.9 * len(text)


# Tasks.


def rows_of(task: Task, folder: Path) -> str:
    """Write a training file of Chinese for a task."""
    names, places = ("上书", "𠮷丁", "王丁", "Ann"), ("七丘", "臺上", "台上", "ＮＹ")
    texts = [f"{names[i % 4]}乃{places[i // 4 % 4]}{'，' * (i % 3)}第{i}天。" for i in range(48)]
    if task in ("text-classification", "text-pair-classification"):
        pair = ["text_pair"] if task == "text-pair-classification" else []
        with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["text", *pair, "label"])
            table.writerows([[text, *[text[::-1]] * len(pair), ("是", "否")[i % 2]] for i, text in enumerate(texts)])
        return str(folder / "rows.csv")
    if task == "token-classification":
        lines = []
        for i, text in enumerate(texts):
            name = len(names[i % 4])
            tags = ["B-人", *["I-人"] * (name - 1), "O", "B-地", "I-地", *["O"] * (len(text) - name - 3)]
            lines += [f"{character} {tag}" for character, tag in zip(text, tags, strict=True)] + [""]
        return write(folder, "rows.conll", "\n".join(lines))
    if task == "relation-classification":
        rows = []
        for i, text in enumerate(texts):
            name, place = names[i % 4], places[i // 4 % 4]
            marked = text.replace(name, f"<e1>{name}</e1>").replace(place, f"<e2>{place}</e2>")
            rows.append({"text": marked, "label": ("住", "去")[i % 2]})
        return write(folder, "rows.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    paragraphs = []
    for i, text in enumerate(texts):
        answers = [{"text": places[i // 4 % 4], "answer_start": len(names[i % 4]) + 1}]
        paragraphs.append({"context": text, "qas": [{"id": str(i), "question": "在哪里？", "answers": answers}]})
    return write(folder, "rows.json", json.dumps({"data": [{"title": "", "paragraphs": paragraphs}]}))


def related(text: str) -> dict[str, Any]:
    """Two mentions at the end of a text."""
    start = len(text[:40])
    return {"text": f"{text[:40]}𠮷田去台北。", "head": (start, start + 2), "tail": (start + 3, start + 5)}


ASKED: dict[Task, tuple[Any, Callable[[str], Any]]] = {
    "text-classification": (TextClassifier, str),
    "text-pair-classification": (PairClassifier, lambda text: {"text": text, "text_pair": "在臺北？"}),
    "token-classification": (EntityTagger, str),
    "relation-classification": (RelationClassifier, related),
    "question-answering": (QuestionAnswerer, lambda text: {"question": "在哪里？", "context": text}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        pytest.param(
            task, kind, marks=() if (task, kind) == ("token-classification", "bytelevel") else pytest.mark.slow
        )
        for task in ASKED
        for kind in TOKENIZER_KINDS
    ],
)
def test_each_task_goes_from_a_file_to_answers(task: Task, kind: TokenizerKind, tmp_path: Path) -> None:
    """On both backends, alone as in a batch; labels are Chinese; spans are the text's own."""
    base = tiny_base_model(tmp_path / "base", tokenizer=kind)
    made = fine_tune(
        TrainConfig(
            task=task, train_file=rows_of(task, tmp_path), base_model=str(base), output_dir=str(tmp_path / "out"),
            epochs=8, batch_size=8, learning_rate=5e-3, baseline=False,
        )
    )  # fmt: skip
    runnable, ask = ASKED[task]
    asked = [ask(text) for text in TEXTS]
    answered = {}
    for backend in ("torch", "onnx"):
        served = runnable.from_checkpoint(made.path, device="cpu", backend=backend)
        answered[backend] = [facts(result) for result in served.batch(asked)]
        alone = [facts(served.invoke(one)) for one in asked]
        assert_near(answered[backend], alone)
    assert_near(answered["torch"], answered["onnx"])
    assert_knows(made, task)


def facts(result: Any) -> tuple[Any, list[float]]:
    """What was decided, and with which scores; spans are checked on the way."""
    if hasattr(result, "entities"):
        spans = [(e.label, e.start, e.end) for e in result.entities]
        assert all(result.text[e.start : e.end] == e.text for e in result.entities)
        return spans, [e.score for e in result.entities]
    if hasattr(result, "answer"):
        assert result.answer is None or result.context[result.start : result.end] == result.answer
        return (result.start, result.end), [result.score]
    return None, list(result.scores.values())


def assert_near(one: list[tuple[Any, list[float]]], other: list[tuple[Any, list[float]]]) -> None:
    for (decided, scores), (as_decided, as_scored) in zip(one, other, strict=True):
        assert decided == as_decided
        assert np.abs(np.array(scores) - np.array(as_scored)).max(initial=0.0) < 1e-3


def assert_knows(made: Checkpoint, task: Task) -> None:
    """The labels are those of the file; a tagger's unit is that of text without spaces."""
    labels = {"text-classification": {"是", "否"}, "text-pair-classification": {"是", "否"},
              "relation-classification": {"住", "去"}, "question-answering": {"start", "end"},
              "token-classification": {"O", "B-人", "I-人", "B-地", "I-地"}}  # fmt: skip
    assert labels[task] == set(made.labels.names)
    if task == "token-classification":
        assert made.manifest is not None
        assert made.manifest.tag_unit == "word"
        tagger = EntityTagger.from_checkpoint(made.path, device="cpu")
        found = [(e.label, e.text) for e in tagger.invoke("王丁乃台上第9天。").entities]
        assert found == [("人", "王丁"), ("地", "台上")]


def test_a_blank_text_is_blank_in_any_width(tiny_classifier: Checkpoint) -> None:
    """The wide space too: nothing in it is accepted."""
    clf = TextClassifier.from_checkpoint(tiny_classifier.path, device="cpu")
    assert [result.accepted for result in clf.batch(["\u3000", "\u3000 \t"])] == [False, False]
