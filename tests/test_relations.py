"""Relations between two marked mentions: read from files, decoded, and served by a class of their own."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_finetune import (
    Checkpoint,
    CheckpointError,
    DataError,
    Entity,
    EntityTagger,
    InputError,
    Mention,
    RelationClassification,
    RelationClassifier,
    Relations,
    Tagging,
    TextClassifier,
)
from lc_finetune.checkpoint import write_manifest
from lc_finetune.cli import main
from lc_finetune.data import ReadOptions, RelationExample, inputs_of, read_examples, sample_file
from lc_finetune.inference.encode import Encoder, Encoding
from lc_finetune.inference.export import export
from lc_finetune.inference.marked import TooFarApart, encode_marked
from lc_finetune.inference.predictor import Predictor
from lc_finetune.markers import MARKERS, as_marked, mark, relation_of, unmark
from lc_finetune.schemas import Result
from lc_finetune.testing import TOKENIZER_KINDS, FakeTagger, TokenizerKind, tiny_checkpoint

ANN = {"text": "Ann runs the shop.", "head": (0, 3), "tail": (13, 17)}
DIRECTED = ("Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Other")
words = st.text(st.characters(blacklist_characters="<>[]", blacklist_categories=("Cs",)), min_size=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("relations") / "undirected"
    return tiny_checkpoint(folder, task="relation-classification", labels=("owns", "runs", "Other"), max_length=64)


@pytest.fixture(scope="module")
def relations(checkpoint: Checkpoint) -> RelationClassifier:
    return RelationClassifier.from_checkpoint(checkpoint.path, device="cpu")


@pytest.fixture(scope="module")
def directed(tmp_path_factory: pytest.TempPathFactory) -> RelationClassifier:
    folder = tmp_path_factory.mktemp("relations") / "directed"
    made = tiny_checkpoint(folder, task="relation-classification", labels=DIRECTED, max_length=64)
    return RelationClassifier.from_checkpoint(made.path, device="cpu")


# Markers.


def test_markers_stand_around_head_and_tail_whichever_comes_first() -> None:
    """The first pair around the head, the second around the tail; nothing else changes."""
    assert mark("Ann runs it.", (0, 3), (9, 11)) == "[E1] Ann [/E1] runs [E2] it [/E2]."
    assert mark("Ann runs it.", (9, 11), (0, 3)) == "[E2] Ann [/E2] runs [E1] it [/E1]."
    assert mark("AB", (0, 1), (1, 2)) == "[E1] A [/E1][E2] B [/E2]"


@pytest.mark.parametrize("spans", [((0, 0), (1, 2)), ((0, 9), (1, 2)), ((-1, 1), (1, 2)), ((0, 2), (1, 3)),
                                   ((0, 3), (1, 2)), ((1, 2), (1, 2)), ((2, 1), (2, 3)), ((3, 4), (0, 1))])  # fmt: skip
def test_spans_that_are_none_or_overlap_are_refused(spans: Any) -> None:
    """Empty, outside the text, crossing, one within the other, or blank."""
    with pytest.raises(InputError, match=r"Expected head( and tail apart)?"):
        mark("abc def", *spans)


def test_a_text_with_the_models_own_markers_is_refused_and_not_quoted() -> None:
    """They would be taken for the marks of head and tail."""
    with pytest.raises(InputError, match=r"\[E1\]") as refused:
        mark("secret [E1] words", (0, 6), (12, 17))
    assert "secret" not in str(refused.value)


@given(st.tuples(words, words, words, words, words).filter(lambda parts: parts[1].strip() and parts[3].strip()))
def test_taking_inline_markers_out_loses_nothing(parts: tuple[str, ...]) -> None:
    """The text is what stands around them; the offsets are exact, less white space at the ends of a mention."""
    before, head, between, tail, after = parts
    text, (start, end), (begin, stop) = unmark(f"{before}<e1>{head}</e1>{between}<e2>{tail}</e2>{after}")

    assert text == "".join(parts)
    assert (text[start:end], text[begin:stop]) == (head.strip(), tail.strip())
    assert before + head[: start - len(before)] == text[:start]


def test_the_direction_comes_off_a_label() -> None:
    """And nothing else does."""
    assert [relation_of(label) for label in (*DIRECTED, "f(x)")] == ["Cause-Effect", "Cause-Effect", "Other", "f(x)"]


# Files.


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_a_table_with_inline_markers_is_recognised(tmp_path: Path) -> None:
    """The text is without them; the tail may come first."""
    rows = ["text,label", "<e1>Ann</e1> runs <e2>it</e2>,runs", "The <e2>dog</e2> of <e1>Bo</e1>,owns"]
    loaded = read_examples(write(tmp_path / "t.csv", "\n".join(rows)))

    assert loaded.task == "relation-classification"
    assert loaded.examples == (
        RelationExample("Ann runs it", "runs", (0, 3), (9, 11)),
        RelationExample("The dog of Bo", "owns", (11, 13), (4, 7)),
    )


@pytest.mark.parametrize(
    ("fields", "head", "tail"),
    [
        ({"head": {"start": 0, "end": 3}, "tail": {"start": 9, "end": 11}, "label": "runs"}, (0, 3), (9, 11)),
        ({"h": {"name": "Ann", "pos": [0, 3]}, "t": {"pos": [9, 11]}, "relation": "runs"}, (0, 3), (9, 11)),
        ({"subject": [9, 11], "object": [0, 4], "label": "runs"}, (9, 11), (0, 3)),
    ],
)
def test_columns_of_spans_are_recognised(tmp_path: Path, fields: Any, head: Any, tail: Any) -> None:
    """By the names that data sets give them; white space at the ends of a span is left out."""
    file = write(tmp_path / "t.jsonl", json.dumps({"text": "Ann runs it", **fields}) + "\n")

    assert read_examples(file).examples == (RelationExample("Ann runs it", "runs", head, tail),)


SEMEVAL = (
    '1\t"The <e1>child</e1> was put into the <e2>cradle</e2>."\r\nEntity-Destination(e1,e2)\r\nComment:\r\n\r\n'
    '2\t"He said "<e2>no</e2>" to <e1>all</e1>."\r\nOther\r\nComment: with\ttab\r\n\r\n'
)


def test_the_files_of_semeval_2010_task_8_are_recognised(tmp_path: Path) -> None:
    """Number, quoted text, relation, comment, blank line; the quotation marks around the text belong to the format."""
    loaded = read_examples(write(tmp_path / "train.txt", SEMEVAL))

    assert loaded.task == "relation-classification"
    assert loaded.examples == (
        RelationExample("The child was put into the cradle.", "Entity-Destination(e1,e2)", (4, 9), (27, 33)),
        RelationExample('He said "no" to all.', "Other", (16, 19), (9, 11)),
    )


@pytest.mark.parametrize(
    ("content", "line", "match"),
    [
        (SEMEVAL + '3\t"One <e1>mark</e1>."\nOther\n', 9, "none of <e2> </e2>"),
        (SEMEVAL + '3\t"<e1>a <e2>b</e1> c</e2>"\nOther\n', 9, "crosses"),
        (SEMEVAL + '3\t"<e1> </e1> c <e2>d</e2>"\nOther\n', 9, "around nothing"),
        (SEMEVAL + '3\t"<e1>a</e1> <e2>b</e2>"\n\n', 9, "relation on the next line"),
        (SEMEVAL + "three\nOther\n", 9, "expected a number"),
    ],
)  # fmt: skip
def test_a_broken_record_is_refused_with_its_line(tmp_path: Path, content: str, line: int, match: str) -> None:
    """A missing marker, crossing ones, an empty mention, no relation, no number."""
    path = write(tmp_path / "train.txt", content)

    with pytest.raises(DataError, match=match) as refused:
        read_examples(path)
    assert str(refused.value).startswith(f"{path}:{line}: ")


@pytest.mark.parametrize("tail", [None, {"start": 1}, {"start": 0, "end": 2}, [9, 99], "it", [True, 2]])
def test_a_broken_span_is_refused_with_its_line(tmp_path: Path, tail: Any) -> None:
    """Missing, without an end, overlapping the head, outside the text, no span."""
    good = {"text": "Ann runs it", "head": [0, 3], "tail": [9, 11], "label": "runs"}
    path = write(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in (good, good, {**good, "tail": tail})))

    with pytest.raises(DataError, match="expected") as refused:
        read_examples(path)
    assert str(refused.value).startswith(f"{path}:3: ")
    assert "Ann" not in str(refused.value)


def test_a_table_row_with_one_marker_is_refused_with_its_line(tmp_path: Path) -> None:
    """Most rows have both, so that this one is a mistake."""
    row = "<e1>Ann</e1> runs <e2>it</e2>,runs\n"
    path = write(tmp_path / "t.csv", f"text,label\n{row}{row}<e1>Bo</e1> left,owns\n")

    with pytest.raises(DataError, match="none of <e2> </e2>") as refused:
        read_examples(path)
    assert str(refused.value).startswith(f"{path}:4: ")


def test_texts_are_taken_for_relations_only_if_they_are(tmp_path: Path) -> None:
    """A few tags in a table of texts change nothing; asked for, they must be there."""
    path = write(tmp_path / "t.csv", "text,label\nplain,a\nplain too,b\n<e1>x</e1> and <e2>y</e2>,a\n")

    loaded = read_examples(path)
    assert (loaded.task, loaded.examples[2].text) == ("text-classification", "<e1>x</e1> and <e2>y</e2>")
    assert "1 of 3 texts have markers such as <e1>, and were read as they are" in " ".join(loaded.notes)
    assert "markers" not in " ".join(read_examples(path, ReadOptions(task="text-classification")).notes)
    with pytest.raises(DataError, match=r":2: expected two entities"):
        read_examples(path, ReadOptions(task="relation-classification"))


def test_rows_without_a_label_are_dropped_when_asked(tmp_path: Path) -> None:
    """The others keep their own spans."""
    rows = [{"text": "a b", "head": [0, 1], "tail": [2, 3], "label": label} for label in ("x", "", "y")]
    rows[2]["head"], rows[2]["tail"] = rows[2]["tail"], rows[2]["head"]
    path = write(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    loaded = read_examples(path, ReadOptions(drop_unlabelled=True))
    assert loaded.examples == (RelationExample("a b", "x", (0, 1), (2, 3)), RelationExample("a b", "y", (2, 3), (0, 1)))
    assert "1 of 3 rows had no label" in loaded.notes[0]


# Pieces.


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_markers_are_whole_pieces_and_mentions_read_as_without_them(tmp_path: Path, kind: TokenizerKind) -> None:
    """On each family of tokenizers: a word after a space stays one."""
    made = tiny_checkpoint(tmp_path / kind, task="relation-classification", tokenizer=kind)
    encoder = Encoder(made.path, offsets=False)
    markers = [encoder.id_of(marker) for marker in MARKERS]
    text = "flew to Paris from Berlin now"
    plain, marked = encoder.encode([text, mark(text, (8, 13), (19, 25))])
    assert isinstance(plain, Encoding)
    assert isinstance(marked, Encoding)

    assert [piece for piece in marked.ids if piece in markers] == markers
    assert [piece for piece in marked.ids if piece not in markers] == list(plain.ids)


def test_a_long_text_is_read_around_both_mentions(checkpoint: Checkpoint) -> None:
    """In one window that is as full as can be; at the ends of the text it does not go beyond."""
    encoder = Encoder(checkpoint.path, offsets=False)
    room = 64 - len(encoder.frame)
    text = "a " * 100 + "b c " + "d " * 100
    middle, first, last = encode_marked(
        encoder, [mark(text, (200, 201), (202, 203)), mark(text, (0, 1), (2, 3)), mark(text, (400, 401), (402, 403))],
        max_length=64,
    )  # fmt: skip
    whole = [encoding.ids for encoding in encoder.encode([mark(text, (200, 201), (202, 203))])]  # type: ignore[union-attr]

    assert [len(one.ids) for one in (middle, first, last)] == [room] * 3  # type: ignore[union-attr]
    assert list(middle.ids) == list(whole[0][103 - room // 2 : 103 - room // 2 + room])  # type: ignore[union-attr]
    assert first.ids[0] == encoder.id_of("[E1]")  # type: ignore[union-attr]
    assert last.ids[-1] == encoder.id_of("[/E2]")  # type: ignore[union-attr]


def test_mentions_too_far_apart_are_refused(relations: RelationClassifier) -> None:
    """No window would hold both; the others of the batch are answered."""
    far = {"text": "a " * 100, "head": (0, 1), "tail": (198, 199)}
    refused, answered = relations.batch([far, ANN], return_exceptions=True)

    assert isinstance(refused, TooFarApart)
    assert isinstance(answered, RelationClassification)


def test_crossing_markers_are_refused_by_the_engine(checkpoint: Checkpoint) -> None:
    """What stands in a file as a model would read it is checked too."""
    outcomes = Predictor.load(checkpoint, device="cpu").predict(["[E1] a [E2] b [/E1] c [/E2]", "plain"])

    assert [type(outcome) for outcome in outcomes] == [InputError, InputError]


# The Runnable.


def test_an_answer_names_both_mentions(relations: RelationClassifier) -> None:
    """With exact offsets in the text as given, and a probability of each label."""
    result = relations.invoke(ANN)
    assert isinstance(result, RelationClassification)

    assert (result.text, result.head, result.tail) == (
        "Ann runs the shop.", Mention(text="Ann", start=0, end=3), Mention(text="shop", start=13, end=17),
    )  # fmt: skip
    assert set(result.scores) == {"owns", "runs", "Other"}
    assert sum(result.scores.values()) == pytest.approx(1.0)
    assert result.score == max(result.scores.values()) == result.scores[result.label]
    assert (result.accepted, result.source) == (None, "model")
    assert relations.pick("label").invoke(ANN) == result.label


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        ([0, 3], {"start": 13, "end": 17}),
        ("Ann", "shop"),
        (Mention(text="Ann", start=0, end=3), Mention(text="shop", start=13, end=17)),
    ],
)
def test_spans_may_be_written_in_many_ways(relations: RelationClassifier, head: Any, tail: Any) -> None:
    """All give the same answer."""
    assert relations.invoke({"text": ANN["text"], "head": head, "tail": tail}) == relations.invoke(ANN)


def test_a_text_may_bring_its_marks(relations: RelationClassifier) -> None:
    """As files do; the result's text is without them."""
    assert relations.invoke("<e1>Ann</e1> runs the <e2>shop</e2>.") == relations.invoke(ANN)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("Ann runs the shop.", "none of <e1>"),
        (3, "found int"),
        ({"text": "a b", "head": (0, 1)}, "no 'tail'"),
        ({"text": 3, "head": (0, 1), "tail": (2, 3)}, "int as 'text'"),
        ({"text": "a b", "head": (0, 1), "tail": (2, 9)}, "tail within the text"),
        ({"text": "a b", "head": (0, 2), "tail": (1, 3)}, "overlap"),
        ({"text": "a b", "head": (0, 1.0), "tail": (1, 3)}, "head as"),
        ({"text": "a b a", "head": "a", "tail": "b"}, "found them 2 times"),
        ({"text": "a b", "head": Entity(label="X", text="c", start=0, end=1), "tail": "b"}, "another text"),
    ],
)
def test_an_input_without_two_mentions_is_refused(relations: RelationClassifier, value: Any, match: str) -> None:
    """It says what was found, never the text."""
    with pytest.raises(InputError, match=match):
        relations.invoke(value)


TAGGED = FakeTagger(type_of={"Ann": "PERSON", "Bo": "PERSON", "Oslo": "CITY"})


def test_a_tagger_composes_with_relations(relations: RelationClassifier) -> None:
    """All couples, both ways, since these labels say no direction; each is answered as if it were asked about alone."""
    text = "Ann met Bo in Oslo."
    result = (TAGGED | relations).invoke(text)
    assert isinstance(result, Relations)

    assert [(r.head.text, r.tail.text) for r in result.relations] == [
        ("Ann", "Bo"), ("Ann", "Oslo"), ("Bo", "Ann"), ("Bo", "Oslo"), ("Oslo", "Ann"), ("Oslo", "Bo"),
    ]  # fmt: skip
    assert result.relations[1].tail == Mention(text="Oslo", start=14, end=18, label="CITY")
    alone = relations.batch([{"text": text, "head": r.head, "tail": r.tail} for r in result.relations])
    assert [r.label for r in result.relations] == [one.label for one in alone]  # type: ignore[union-attr]
    assert [r.score for r in result.relations] == pytest.approx([one.score for one in alone], abs=1e-5)  # type: ignore[union-attr]


def test_labels_with_a_direction_need_each_couple_once(directed: RelationClassifier) -> None:
    """In order of position."""
    result = (TAGGED | directed).invoke("Ann met Bo in Oslo.")
    assert isinstance(result, Relations)

    assert [(r.head.text, r.tail.text) for r in result.relations] == [("Ann", "Bo"), ("Ann", "Oslo"), ("Bo", "Oslo")]


async def test_couples_are_batched_over_all_inputs(
    relations: RelationClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One engine call, whatever the shapes of the inputs; a text with fewer than two entities has no relations."""
    asked: list[int] = []
    predict = Predictor.predict

    def counted(self: Predictor, texts: Any) -> list[Any]:
        asked.append(len(texts))
        return predict(self, texts)

    monkeypatch.setattr(Predictor, "predict", counted)
    inputs = [TAGGED.invoke("Ann met Bo."), ANN, TAGGED.invoke("Oslo"), TAGGED.invoke("Bo in Oslo")]
    found = relations.batch(inputs)

    assert asked == [5]
    assert [type(one) for one in found] == [Relations, RelationClassification, Relations, Relations]
    assert found[2] == Relations(text="Oslo")
    assert [len(one.relations) for one in await relations.abatch([inputs[0], inputs[3]])] == [2, 2]  # type: ignore[union-attr]


def test_couples_too_far_apart_are_counted_and_the_rest_answered(directed: RelationClassifier) -> None:
    """A long text has many; the result says how many there were."""
    text = "Ann met Bo " + "and " * 70 + "left Oslo"
    result = (TAGGED | directed).invoke(text)
    assert isinstance(result, Relations)

    assert [(r.head.text, r.tail.text) for r in result.relations] == [("Ann", "Bo")]
    assert result.too_far_apart == 2


def test_a_real_tagger_composes(relations: RelationClassifier, tiny_tagger: Checkpoint) -> None:
    """With the result of `EntityTagger`."""
    tagger = EntityTagger.from_checkpoint(tiny_tagger.path, device="cpu")
    text = "Ann in Oslo"
    found = (tagger | relations).invoke(text)
    count = len(tagger.invoke(text).entities)

    assert isinstance(found, Relations)
    assert len(found.relations) + found.too_far_apart == count * (count - 1)


def test_accepted_follows_the_score_asked_for(checkpoint: Checkpoint) -> None:
    """At load, for single answers and for all couples of a text."""
    never = RelationClassifier(checkpoint=str(checkpoint.path), device="cpu", accept_score=1.0)
    always = RelationClassifier(checkpoint=str(checkpoint.path), device="cpu", accept_score=0.0)

    assert (never.invoke(ANN).accepted, always.invoke(ANN).accepted) == (False, True)  # type: ignore[union-attr]
    found = (TAGGED | always).invoke("Ann met Bo.")
    assert [r.accepted for r in found.relations] == [True, True]  # type: ignore[union-attr]


def test_as_a_tool_it_takes_words_and_answers_json(relations: RelationClassifier) -> None:
    """Language models do not count characters."""
    tool = relations.as_tool(name="relation", description="Says in which relation two parts of a text stand.")
    answer = json.loads(tool.invoke({"text": ANN["text"], "head": "Ann", "tail": "shop"}))

    assert set(tool.args) == {"text", "head", "tail"}
    assert (answer["head"]["end"], answer["tail"]["start"], answer["label"]) == (3, 13, relations.invoke(ANN).label)  # type: ignore[union-attr]
    assert "text" not in answer


async def test_a_tool_answers_what_it_cannot_read_with_an_error(relations: RelationClassifier) -> None:
    """As JSON, so that the language model can ask better, and without the words."""
    tool = relations.as_tool(name="relation", description="d")
    args = {"text": ANN["text"], "head": "secret", "tail": "shop"}
    call = {"type": "tool_call", "name": "relation", "args": args, "id": "1"}

    for message in (tool.invoke(call), await tool.ainvoke(call)):
        assert message.status == "error"
        assert json.loads(message.content)["error"].startswith("Expected ")
        assert "secret" not in message.content


def test_results_are_frozen_and_hashable(relations: RelationClassifier) -> None:
    """And survive JSON."""
    for value in (ANN, Tagging(text="Ann met Bo.", entities=TAGGED.invoke("Ann met Bo.").entities)):
        result: Result = relations.invoke(value)  # type: ignore[assignment]
        assert hash(result) == hash(type(result).model_validate_json(result.model_dump_json()))


@pytest.mark.parametrize("kind", [TextClassifier, EntityTagger])
def test_another_class_names_the_right_one(checkpoint: Checkpoint, kind: Any) -> None:
    """And the reverse."""
    with pytest.raises(CheckpointError, match="Load it with RelationClassifier"):
        kind.from_checkpoint(checkpoint.path)


def test_a_checkpoint_for_texts_is_refused(tiny_classifier: Checkpoint) -> None:
    """It names the class that serves it."""
    with pytest.raises(CheckpointError, match=r"expected a classifier of relations.*Load it with TextClassifier"):
        RelationClassifier.from_checkpoint(tiny_classifier.path)


def test_a_tokenizer_without_markers_is_refused(tmp_path: Path) -> None:
    """It would read them as words."""
    made = tiny_checkpoint(tmp_path / "c")
    assert made.manifest is not None
    write_manifest(made.path, made.manifest.model_copy(update={"task": "relation-classification"}))

    with pytest.raises(CheckpointError, match=r"expected a tokenizer that knows \[E1\]"):
        RelationClassifier.from_checkpoint(made.path)


# Exports, files, calibration.


def test_an_export_gives_the_same_answers(tmp_path: Path) -> None:
    """Measured on the bundled sample, and served."""
    made = tiny_checkpoint(tmp_path / "c", task="relation-classification", max_length=192)
    manifest = export(made.path).manifest
    exported = RelationClassifier.from_checkpoint(made.path, device="cpu", backend="onnx")
    plain = RelationClassifier.from_checkpoint(made.path, device="cpu", backend="torch")

    assert manifest.parity is not None
    assert manifest.parity.texts == len(read_examples(sample_file("relations", "test")).examples)
    assert exported.invoke(ANN).score == pytest.approx(plain.invoke(ANN).score, abs=1e-4)  # type: ignore[union-attr]


def test_predict_answers_rows_with_inline_markers(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """A row without them has no answer but says why; the column stays as it is."""
    rows = ["<e1>Ann</e1> runs the <e2>shop</e2>.", "Ann runs the shop.", "<e1>Ann runs the <e2>shop</e2>."]
    table = write(tmp_path / "in.csv", "\n".join(["text", *rows]) + "\n")
    assert main(["predict", str(checkpoint.path), "--input", str(table), "--output", str(tmp_path / "out.csv")]) == 0

    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        answered = list(csv.DictReader(file))
    expected = RelationClassifier.from_checkpoint(checkpoint.path, device="cpu").invoke(ANN)
    assert [row["text"] for row in answered] == rows
    assert list(answered[0]) == ["text", "label", "score", "accepted", "error"]
    assert answered[0]["label"] == expected.label  # type: ignore[union-attr]
    assert ["each between its two markers" in row["error"] for row in answered] == [False, True, True]


def test_calibrate_and_export_take_labelled_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores are calibrated, and answers accepted, as a text classifier's are."""
    labels = sorted({example.label for example in read_examples(sample_file("relations")).examples})  # type: ignore[union-attr]
    made = tiny_checkpoint(tmp_path / "c", task="relation-classification", labels=labels, max_length=192)
    rows = str(sample_file("relations"))
    assert main(["export", str(made.path), "--format", "onnx", "--calibration-file", rows]) == 0
    assert main(["calibrate", str(made.path), rows, "--accept", "coverage=0.5"]) == 0

    assert "accuracy" in capsys.readouterr().out
    calibrated = RelationClassifier.from_checkpoint(made.path, device="cpu", backend="torch")
    answers = calibrated.batch([as_marked_row(row) for row in read_examples(sample_file("relations")).examples])
    assert {one.accepted for one in answers} == {True, False}  # type: ignore[union-attr]


def as_marked_row(example: Any) -> dict[str, Any]:
    return {"text": example.text, "head": example.head, "tail": example.tail}


def test_what_a_file_marks_is_what_the_runnable_asks() -> None:
    """Both give the model the same text."""
    example = RelationExample("Ann runs it", "runs", (0, 3), (9, 11))
    assert inputs_of([example]) == [as_marked("<e1>Ann</e1> runs <e2>it</e2>")]
