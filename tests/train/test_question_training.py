"""Questions about contexts: from a file to a checkpoint, with the figures that such data is judged by."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForQuestionAnswering

from lc_finetune import Checkpoint, ConfigError, DataError, QuestionAnswerer
from lc_finetune.data import QuestionExample, sample_file
from lc_finetune.inference.encode import Encoder, Encoding
from lc_finetune.testing import TOKENIZER_KINDS, TokenizerKind, tiny_base_model
from lc_finetune.train import TrainConfig, fine_tune
from lc_finetune.train.metrics import answer_figures, window_f1
from lc_finetune.train.thresholds import choose_null_margin
from lc_finetune.train.tokenization import Windowing, answer_pieces, longest_answer, question_features

PEOPLE = ("Ann", "Bob", "Eve", "Zoe", "Leo", "Mia", "Ida", "Max", "Kim", "Jan")
CITIES = ("Oslo", "Rome", "Bonn", "Lima", "Cork")


def write_rows(folder: Path, *, rows: int = 160) -> Path:
    """Who is in which city; of every fourth question the context does not say it."""
    draw = random.Random(0)
    lines = []
    for i in range(rows):
        person, city = draw.choice(PEOPLE), draw.choice(CITIES)
        if i % 4:
            context = f"{person} is in {city} on day {i}."
            answers = {"text": [city], "answer_start": [context.index(city)]}
        else:
            context, answers = f"{person} is at home on day {i}.", {"text": [], "answer_start": []}
        lines.append(json.dumps({"question": "in which city?", "context": context, "answers": answers}) + "\n")
    path = folder / "train.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def options(base: Path, rows: Path, output: Path, **more: Any) -> dict[str, Any]:
    return {"base_model": str(base), "train_file": str(rows), "output_dir": str(output), "epochs": 8, "batch_size": 8,
            "learning_rate": 0.005, **more}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base_model(tmp_path_factory.mktemp("bases") / "base")


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("trained")
    rows = write_rows(folder)
    return fine_tune(TrainConfig(**options(base, rows, folder / "out", validation_file=str(rows), test_file=str(rows))))


# Figures.


def test_figures_tell_questions_with_and_without_an_answer_apart() -> None:
    """By hand: one right, one half right, one wrongly answered."""
    figures = answer_figures([["Oslo"], ["two working days"], []], ["oslo.", "two days", "Rome"])

    assert figures["rows"] == 3
    assert figures["exact_match"] == pytest.approx(1 / 3)
    assert figures["f1"] == pytest.approx((1 + 0.8 + 0) / 3)
    assert figures["answered_exact_match"] == 0.5
    assert figures["unanswered_accuracy"] == 0.0
    assert set(answer_figures([["Oslo"]], [None])) == {"rows", "exact_match", "f1"}


def test_windows_are_measured_by_the_pieces_that_they_share() -> None:
    """Pieces 1 to 2 found where 1 to 3 were wanted: F1 4/5; a span that ends before it starts is worth nothing."""
    starts, ends = np.eye(5)[[1, 4]], np.eye(5)[[2, 2]]

    assert window_f1((starts, ends), (np.array([1, 0]), np.array([3, 0]))) == pytest.approx(0.4)


def test_the_margin_is_chosen_for_the_highest_f1() -> None:
    """Between the questions that are better answered and those that are not; infinite margins decide nothing."""
    margins = np.array([-3.0, -1.0, 2.0, np.inf])
    chosen = choose_null_margin(margins, np.array([1.0, 1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0, 1.0]))

    assert chosen == 0.0
    assert choose_null_margin(margins, np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.0, 1.0, 1.0, 1.0])) == -2.0
    assert choose_null_margin(np.array([np.inf]), np.zeros(1), np.ones(1)) == 0.0


# Features.


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_positions_point_at_the_pieces_of_the_answer(tmp_path: Path, kind: TokenizerKind) -> None:
    """In each window that holds all of it; the others point at the first piece."""
    encoder = Encoder(tiny_base_model(tmp_path / kind, tokenizer=kind), offsets=True)
    context = "x " * 30 + "Paris " + "y " * 30
    example = QuestionExample("Where?", context, ((60, 65),))
    features, cut = question_features([example], encoder, Windowing(max_length=32, stride=8))
    whole = encoder.encode([context])[0]
    assert isinstance(whole, Encoding)
    span = answer_pieces(example, whole)
    assert span is not None
    first, last = span

    held = [one for one in features if one["end_positions"] > 0]
    assert context[whole.offsets[first][0] : whole.offsets[last][1]].strip() == "Paris"
    assert longest_answer([example], encoder) == last - first + 1
    assert cut == 0
    assert 0 < len(held) < len(features)
    for one in held:
        pieces = one["input_ids"][one["start_positions"] : one["end_positions"] + 1]
        assert pieces == list(whole.ids[first : last + 1])
    assert {one["start_positions"] for one in features if one not in held} == {0}


def test_an_answer_that_cuts_a_piece_is_counted(base: Path) -> None:
    """It is widened to the piece."""
    features, cut = question_features(
        [QuestionExample("Who?", "order it", ((1, 3),))], Encoder(base, offsets=True), Windowing(32, 8)
    )

    assert cut == 1
    assert features[0]["start_positions"] > 0


# Training.


def test_it_learns_what_answers_and_what_does_not(trained: Checkpoint) -> None:
    """The file is recognised; answers are exact, and none is given where there is none."""
    answerer = QuestionAnswerer.from_checkpoint(trained.path, device="cpu")
    found = answerer.batch(
        [("in which city?", "Ann is in Rome on day 7."), ("in which city?", "Ann is at home on day 7.")]
    )

    assert trained.task == "question-answering"
    assert trained.metrics["test"]["exact_match"] > 0.9
    assert [(one.answer, one.start, one.end) for one in found] == [("Rome", 10, 14), (None, None, None)]


def test_the_checkpoint_is_a_plain_question_answerer(trained: Checkpoint) -> None:
    """Transformers loads it as it is; the manifest says how an answer is chosen."""
    model: Any = AutoModelForQuestionAnswering.from_pretrained(trained.path)
    manifest = trained.manifest
    assert manifest is not None
    assert manifest.answering is not None

    assert model.config.id2label == {0: "start", 1: "end"}
    assert (manifest.answering.longest, manifest.answering.split, manifest.answering.rows) == (30, "validation", 160)
    assert {one.backend for one in manifest.calibration} == {"torch", "onnx"}


def test_scores_are_calibrated_and_answers_accepted(trained: Checkpoint) -> None:
    """A score is the probability that the answer is exactly right."""
    assert trained.metrics["test"]["confidence"]["ece"] < 0.1
    found = QuestionAnswerer.from_checkpoint(trained.path).invoke(("in which city?", "Bob is in Bonn on day 3."))

    assert found.accepted is not None


def test_the_report_has_no_baseline_and_the_card_says_how_to_ask(trained: Checkpoint) -> None:
    """No head on frozen states makes sense, so none is made up."""
    card = (trained.path / "README.md").read_text(encoding="utf-8")

    assert "frozen_baseline" not in trained.metrics["test"]
    assert "pipeline_tag: question-answering" in card
    assert '"context": "…"' in card
    assert "There is none where that is more probable" in card
    assert "exact match" in card
    assert "Kinds of errors" in (trained.path / "report.html").read_text(encoding="utf-8")


def test_without_unanswerable_rows_there_always_is_an_answer(base: Path, tmp_path: Path) -> None:
    """Nothing taught the model when to give none."""
    rows = [row for row in write_rows(tmp_path, rows=40).read_text().splitlines() if '"text": []' not in row]
    (tmp_path / "answered.jsonl").write_text("\n".join(rows) + "\n")
    made = fine_tune(TrainConfig(**options(base, tmp_path / "answered.jsonl", tmp_path / "out", epochs=1)))
    assert made.manifest is not None
    assert made.manifest.answering is not None

    assert made.manifest.answering.null_margin is None
    assert QuestionAnswerer.from_checkpoint(made.path).invoke(("who?", "at home")).answer is not None


@pytest.mark.slow
def test_the_bundled_sample_trains(tmp_path: Path) -> None:
    """Nested as SQuAD 2, in windows."""
    base = tiny_base_model(tmp_path / "base", max_length=160)
    made = fine_tune(TrainConfig(**options(base, sample_file("questions"), tmp_path / "out", epochs=1)))

    assert made.metrics["validation"]["rows"] > 0


def test_options_of_other_tasks_are_refused(base: Path, tmp_path: Path) -> None:
    """There are no classes to weigh, draw or soften."""
    config = options(base, write_rows(tmp_path, rows=20), tmp_path / "out")
    del config["epochs"], config["batch_size"]

    for name, value in (
        ("class_weights", "balanced"), ("label_smoothing", 0.1), ("few_shot", True), ("label_names", ("a", "b")),
        ("drop_unlabelled", True),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"^{name}: expected"):
            fine_tune(TrainConfig(**config, **{name: value}))


def test_a_question_that_leaves_no_room_is_refused_before_training(base: Path, tmp_path: Path) -> None:
    """With file and row, not its text."""
    row = {"question": "a " * 50, "context": "b " * 50, "answers": {"text": ["b"], "answer_start": [0]}}
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(row) + "\n")

    with pytest.raises(DataError, match=r"t.jsonl: labelled text number 1: Expected a question of at most"):
        fine_tune(TrainConfig(**options(base, path, tmp_path / "out")))
