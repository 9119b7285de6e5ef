"""Extractive question answering: rows, pieces, spans, the Runnable, exports and the command line."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document

from lc_finetune import (
    Checkpoint,
    CheckpointError,
    DataError,
    InputError,
    QuestionAnswer,
    QuestionAnswerer,
    TextClassifier,
)
from lc_finetune.answers import answer_f1, exact_match
from lc_finetune.checkpoint import AnswerRule
from lc_finetune.cli import main
from lc_finetune.data import QuestionExample, ReadOptions, read_examples, sample_file, split_examples
from lc_finetune.inference.decode import best_span, decode_answer
from lc_finetune.inference.encode import Encoder, Encoding
from lc_finetune.inference.export import export
from lc_finetune.inference.worker import merge_with_first
from lc_finetune.testing import TOKENIZER_KINDS, TokenizerKind, tiny_checkpoint

XQUAD = Path(__file__).parents[2] / "shared" / "data" / "xquad"
PARIS = {"question": "Where did she fly?", "context": "Angela Merkel flew from Berlin to Paris on Monday."}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("questions") / "c", task="question-answering")


@pytest.fixture(scope="module")
def answerer(checkpoint: Checkpoint) -> QuestionAnswerer:
    return QuestionAnswerer.from_checkpoint(checkpoint.path, device="cpu")


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def squad(*qas: dict[str, Any], context: str = "Ann is in Oslo.") -> str:
    return json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": qas}]}]})


# Comparing answers.


@pytest.mark.parametrize(
    ("found", "wanted", "exact", "f1"),
    [
        ("the Shop!", ["shop"], True, 1.0),
        ("two days", ["two working days", "a week"], False, 0.8),
        (None, [], True, 1.0),
        ("Oslo", [], False, 0.0),
        (None, ["Oslo"], False, 0.0),
        ("三百零八", ["三百"], False, 2 / 3),
        ("北京。", ["北京"], True, 1.0),
        ("NFL 联盟", ["NFL联盟"], True, 1.0),
    ],
)
def test_answers_are_compared_as_squad_does(found: str | None, wanted: list[str], exact: bool, f1: float) -> None:
    """Case, punctuation and articles do not count; a Chinese character is a word."""
    assert exact_match(found, wanted) is exact
    assert answer_f1(found, wanted) == pytest.approx(f1)


# Reading.


def test_squad_is_read_with_its_offsets(tmp_path: Path) -> None:
    """Several right answers are kept, each once; a question without one has none."""
    given = {"text": "Oslo", "answer_start": 10}
    path = write(tmp_path / "t.json", squad(
        {"id": "1", "question": "Where?", "answers": [given, given, {"text": "in Oslo", "answer_start": 7}]},
        {"id": "2", "question": "When?", "answers": [], "is_impossible": True, "plausible_answers": [given]},
    ))  # fmt: skip
    loaded = read_examples(path)

    assert loaded.task == "question-answering"
    assert loaded.examples == (
        QuestionExample("Where?", "Ann is in Oslo.", ((10, 14), (7, 14))),
        QuestionExample("When?", "Ann is in Oslo.", ()),
    )
    assert loaded.notes == (f"{path}: 2 questions about 1 contexts, 1 without an answer.",)


def test_rows_are_read_with_their_offsets(tmp_path: Path) -> None:
    """As the library `datasets` has them; other names of columns can be given."""
    row = {"q": "Where?", "c": "In 👍 Oslo", "a": {"text": ["Oslo"], "answer_start": [5]}}
    path = write(tmp_path / "t.jsonl", json.dumps(row) + "\n")
    options = ReadOptions("q", "a", task="question-answering", text_pair_column="c")

    assert read_examples(path, options).examples == (QuestionExample("Where?", "In 👍 Oslo", ((5, 9),)),)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.skipif(not XQUAD.is_dir(), reason="the data set is not here")
def test_real_data_is_read(language: str) -> None:
    """Every offset fits, also where no spaces part words."""
    loaded = read_examples(XQUAD / f"xquad.{language}.json")

    assert len(loaded.examples) == 1190
    assert all(one.answers and all(one.answer_texts) for one in loaded.examples)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"answers": [{"text": "Oslo", "answer_start": 9}]}, "at character 9, found another text.*stands at 10"),
        ({"answers": [{"text": "Rome", "answer_start": 10}]}, "which the context does not hold"),
        ({"answers": [{"text": "Ann", "answer_start": -15}]}, "at character -15"),
        ({"answers": [{"text": "Oslo", "answer_start": "10"}]}, "a whole number"),
        ({"answers": [{"text": "", "answer_start": 0}]}, "an answer's 'text'"),
        ({"answers": [], "is_impossible": False}, "is_impossible false"),
        ({"answers": [{"text": "it", "answer_start": 0}], "is_impossible": True}, "no answers where is_impossible"),
        ({}, "expected answers with 'text' and 'answer_start'"),
    ],
)
def test_an_answer_that_is_not_there_is_refused(tmp_path: Path, entry: dict[str, Any], match: str) -> None:
    """With the path in the file and the id of the question; never with a text."""
    fine = {"id": "q0", "question": "Who?", "answers": [{"text": "Ann", "answer_start": 0}]}
    path = write(tmp_path / "t.json", squad(fine, {"id": "q1", "question": "Where is Ann now?", **entry}))

    with pytest.raises(DataError, match=match) as caught:
        read_examples(path)
    assert "t.json: data[0].paragraphs[0].qas[1] (question q1): " in str(caught.value)
    assert "Oslo" not in str(caught.value)


def test_a_row_that_is_wrong_is_named_by_its_line(tmp_path: Path) -> None:
    """Also lists of unequal length."""
    rows = [{"id": i, "question": "Where?", "context": "In Oslo", "answers": {"text": ["Oslo"], "answer_start": start}}
            for i, start in enumerate(([3], [4]))]  # fmt: skip
    path = write(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"t.jsonl:2 \(question 1\): expected the answer at character 4"):
        read_examples(path)
    rows[1]["answers"] = {"text": ["Oslo"], "answer_start": []}
    write(path, "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="lists of one length"):
        read_examples(path)


def test_a_context_is_in_one_part() -> None:
    """What is measured are contexts that training never saw."""
    splits = split_examples(read_examples(sample_file("questions")).examples, seed=0)
    train, validation = ({one.text for one in part} for part in (splits.train, splits.validation))

    assert validation
    assert not train & validation
    assert splits.duplicates == 0


# Pieces and windows.


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_a_question_is_repeated_before_each_window(tmp_path: Path, kind: TokenizerKind) -> None:
    """Even if it is longer than the context; offsets count in the context."""
    encoder = Encoder(tiny_checkpoint(tmp_path / kind, task="question-answering", tokenizer=kind).path, offsets=True)
    long, short = encoder.encode_questions([("Where?", "a b " * 50), ("Where is my card now?", "Oslo")], max_length=32)
    question = encoder.encode(["Where?"])[0]
    assert isinstance(long, Encoding)
    assert isinstance(short, Encoding)
    assert isinstance(question, Encoding)

    assert len(long.frames) == 1
    assert set(question.ids) <= set(long.frames[0].before)
    assert short.offsets[-1][1] == 4


def test_a_question_that_leaves_too_little_room_is_refused(answerer: QuestionAnswerer) -> None:
    """Alone; beside a context that fits with it into one window it is answered."""
    refused, answered = answerer.batch([("a " * 18, "b " * 30), ("a " * 18, "b")], return_exceptions=True)

    assert isinstance(refused, InputError)
    assert "found one of 18" in str(refused)
    assert isinstance(answered, QuestionAnswer)


def test_windows_are_merged_before_the_softmax() -> None:
    """Of the first pieces, the least sure of no answer counts; of the others, each from the window around it."""
    left = np.array([[5.0, 5.0], [0.0, 0.0], [1.0, 1.0], [9.0, 9.0]])
    right = np.array([[1.0, 2.0], [8.0, 8.0], [2.0, 2.0], [3.0, 3.0]])
    logits, _ = merge_with_first([(0, 3), (2, 5)], [left, right], [np.zeros(2)] * 2)

    assert logits[0].tolist() == [1.0, 2.0]
    assert logits[1:, 0].tolist() == [0.0, 1.0, 8.0, 2.0, 3.0]


# Spans.

CONTEXT = "It is in Oslo now"
ENCODED = Encoding([1, 2, 3, 4, 5], [(0, 2), (2, 5), (5, 8), (8, 13), (13, 17)], [0, 1, 2, 3, 4])


def logits_of(start: int, end: int, *, null: float = 0.0) -> Any:
    """Sure of a start and an end, by piece."""
    logits = np.zeros((6, 2))
    logits[0] = null / 2
    logits[start + 1, 0] = logits[end + 1, 1] = 5.0
    return logits


def test_the_best_span_has_exact_offsets() -> None:
    """Without the spaces that tokenizers count to a word."""
    result = decode_answer(("Where?", CONTEXT), ENCODED, logits_of(3, 3))

    assert (result.answer, result.start, result.end) == ("Oslo", 9, 13)
    assert result.score == pytest.approx((np.exp(5) / (np.exp(5) + 5)) ** 2)


def test_an_answer_never_ends_before_it_starts_nor_is_longer_than_allowed() -> None:
    """The next best is taken."""
    reversed_ = best_span(CONTEXT, ENCODED, logits_of(4, 1), longest=5)
    short = best_span(CONTEXT, ENCODED, logits_of(0, 4), longest=2)

    assert reversed_.start < reversed_.end
    assert short.end - short.start <= 8


def test_there_is_no_answer_where_none_is_more_probable_by_the_margin() -> None:
    """By as much as the validation rows had it; never without a margin."""
    logits = logits_of(3, 3, null=12.0)
    rule = AnswerRule(longest=5, null_margin=1.0, split="validation", rows=10)
    none = decode_answer(("Where?", CONTEXT), ENCODED, logits, rule)
    strict = decode_answer(("Where?", CONTEXT), ENCODED, logits, rule.model_copy(update={"null_margin": 3.0}))
    always = decode_answer(("Where?", CONTEXT), ENCODED, logits, rule.model_copy(update={"null_margin": None}))

    assert (none.answer, none.start, none.end) == (None, None, None)
    assert strict.answer == always.answer == "Oslo"
    assert none.score is not None
    assert strict.score is not None
    assert none.score > strict.score


# The Runnable.


def test_an_answer_is_a_part_of_the_context(answerer: QuestionAnswerer) -> None:
    """Also of long ones, with emoji and Chinese; the same alone and in a batch."""
    contexts = [PARIS["context"], "Ünïcode 👍🏽 中国 in 北京。" * 20, PARIS["context"] * 30, "x"]
    inputs = [{"question": "Where?", "context": context} for context in contexts]
    found = answerer.batch(inputs)

    for given, one in zip(inputs, found, strict=True):
        alone = answerer.invoke(given)
        assert (one.question, one.context) == (given["question"], given["context"])
        assert one.answer is None or one.context[one.start : one.end] == one.answer
        assert (alone.answer, alone.start) == (one.answer, one.start)
        assert alone.score == pytest.approx(one.score, abs=1e-5)


def test_inputs_may_be_written_in_many_ways(answerer: QuestionAnswerer, checkpoint: Checkpoint) -> None:
    """A tuple, a document as context, an earlier result, other keys."""
    expected = answerer.invoke(PARIS)
    question, context = PARIS.values()
    named = QuestionAnswerer.from_checkpoint(checkpoint.path, device="cpu", input_key="q", context_key="c")

    for value in ((question, context), {**PARIS, "context": Document(page_content=context)}, expected):
        assert answerer.invoke(value) == expected
    assert named.invoke({"q": question, "c": context}) == expected


@pytest.mark.parametrize("value", ["Where?", 3, {"question": "Where?"}, ("Where?",), {"question": 3, "context": "x"}])
def test_an_input_without_both_is_refused(answerer: QuestionAnswerer, value: Any) -> None:
    """It says what was found, never the text."""
    with pytest.raises(InputError) as caught:
        answerer.invoke(value)
    assert "Where" not in str(caught.value)


def test_an_empty_context_has_no_answer(answerer: QuestionAnswerer) -> None:
    """And that is never accepted."""
    for context in ("", "  \n"):
        found = answerer.invoke(("Where?", context))
        assert (found.answer, found.accepted) == (None, False)


def test_accepted_follows_the_score_asked_for(checkpoint: Checkpoint) -> None:
    """At load."""
    given = {"checkpoint": str(checkpoint.path), "device": "cpu"}

    assert QuestionAnswerer(**given, accept_score=1.0).invoke(PARIS).accepted is False
    assert QuestionAnswerer(**given, accept_score=0.0).invoke(PARIS).accepted is True


def test_as_a_tool_it_answers_json(answerer: QuestionAnswerer) -> None:
    """Without the texts, which the caller has."""
    tool = answerer.as_tool(name="answer", description="Answers from a text.")
    answer = json.loads(tool.invoke(PARIS))

    assert set(tool.args) == {"question", "context"}
    assert set(answer) == {"answer", "start", "end", "score", "accepted", "source"}


def test_results_are_frozen_and_hashable(answerer: QuestionAnswerer) -> None:
    """And survive JSON; the texts are not in their repr."""
    result = answerer.invoke(PARIS)

    assert hash(result) == hash(QuestionAnswer.model_validate_json(result.model_dump_json()))
    assert PARIS["question"] not in repr(result)


def test_other_classes_name_the_right_one(checkpoint: Checkpoint, tiny_classifier: Checkpoint) -> None:
    """And the reverse."""
    with pytest.raises(CheckpointError, match="Load it with QuestionAnswerer"):
        TextClassifier.from_checkpoint(checkpoint.path)
    with pytest.raises(CheckpointError, match=r"expected a question answerer.*Load it with TextClassifier"):
        QuestionAnswerer.from_checkpoint(tiny_classifier.path)


def test_a_plain_folder_is_served(tmp_path: Path, answerer: QuestionAnswerer) -> None:
    """A question answerer of the Hub, uncalibrated."""
    made = tiny_checkpoint(tmp_path / "c", task="question-answering")
    (made.path / "lc_finetune.json").unlink()
    config = json.loads((made.path / "config.json").read_text())
    config.pop("id2label", None)
    (made.path / "config.json").write_text(json.dumps(config))
    plain = QuestionAnswerer.from_checkpoint(made.path, device="cpu").invoke(PARIS)

    assert plain == answerer.invoke(PARIS)


# Exports, files, the command line.


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_an_export_gives_the_same_answers(tmp_path: Path, backend: Any) -> None:
    """Measured on the bundled sample, and served."""
    if backend == "openvino":
        pytest.importorskip("openvino")
    made = tiny_checkpoint(tmp_path / "c", task="question-answering", max_length=64)
    manifest = export(made.path, format=backend).manifest
    exported = QuestionAnswerer.from_checkpoint(made.path, device="cpu", backend=backend).invoke(PARIS)
    plain = QuestionAnswerer.from_checkpoint(made.path, device="cpu", backend="torch").invoke(PARIS)

    assert manifest.parity is not None
    assert manifest.parity.texts == len(read_examples(sample_file("questions", "test")).examples)
    assert (exported.answer, exported.start) == (plain.answer, plain.start)
    assert exported.score == pytest.approx(plain.score, abs=1e-4)


def test_predict_answers_rows(checkpoint: Checkpoint, tmp_path: Path, answerer: QuestionAnswerer) -> None:
    """From the columns of question and context, whatever else there is."""
    question, context = PARIS.values()
    rows = [{"question": question, "context": context, "answer": "?"}, {"question": question, "context": None}]
    source = write(tmp_path / "in.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "out.jsonl"
    asked = ["predict", str(checkpoint.path), "--input", str(source), "--output", str(output), "--prefix", "x_"]
    assert main(asked) == 0

    first, second = map(json.loads, output.read_text(encoding="utf-8").splitlines())
    expected = answerer.invoke(PARIS)
    assert (first["x_answer"], first["x_start"], first["x_end"]) == (expected.answer, expected.start, expected.end)
    assert "context" in second["x_error"]


def test_predict_writes_tables(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Of the same columns; scores of labels are refused in one line."""
    table = write(tmp_path / "in.csv", "question,context\nWhere?,In Oslo\n")
    asked = ["predict", str(checkpoint.path), "--input", str(table), "--output"]
    assert main([*asked, str(tmp_path / "out.csv")]) == 0
    assert main([*asked, str(tmp_path / "other.csv"), "--scores"]) == 2

    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        assert list(next(csv.DictReader(file))) == [
            "question", "context", "answer", "start", "end", "score", "accepted", "error",
        ]  # fmt: skip


def test_evaluate_and_calibrate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On rows as SQuAD has them: figures, a page, rows to correct that training reads, another checkpoint beside."""
    made = tiny_checkpoint(tmp_path / "c", task="question-answering", max_length=64)
    other = tiny_checkpoint(tmp_path / "other", task="question-answering", max_length=64, seed=1)
    rows, page, errors = str(sample_file("questions", "test")), tmp_path / "page.html", tmp_path / "errors.jsonl"
    assert main(["calibrate", str(made.path), rows, "--accept", "score=0.5,maybe=1"]) == 2
    assert main(["calibrate", str(made.path), rows, "--accept", "coverage=0.5"]) == 0
    assert main([
        "evaluate", str(made.path), rows, "--report", str(page), "--errors", str(errors), "--against", str(other.path),
        "--show-texts",
    ]) == 0  # fmt: skip

    said = capsys.readouterr().out
    assert "exact match" in said
    assert "Against" in said
    assert "Kinds of errors" in page.read_text(encoding="utf-8")
    corrected = read_examples(errors).examples
    assert corrected
    assert set(corrected) <= set(read_examples(rows).examples)
