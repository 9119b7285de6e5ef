"""Multi-label checkpoints: loaded, decoded and served by one class with one result type."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_finetune import (
    Checkpoint,
    CheckpointError,
    EntityTagger,
    InputError,
    LabelRouter,
    MultiLabelClassification,
    MultiLabelClassifier,
    TextClassifier,
)
from lc_finetune.bulk import PredictConfig, predict_file
from lc_finetune.confidence import Thresholds
from lc_finetune.inference.decode import Confidence, decode_labels, sigmoid
from lc_finetune.inference.predictor import Predictor
from lc_finetune.labels import LabelSet
from lc_finetune.testing import tiny_checkpoint

LABELS = LabelSet(("b", "a", "c"))
HALVES = np.full(3, 0.5)


@pytest.fixture(scope="module")
def classifier(tiny_multi_label: Checkpoint) -> MultiLabelClassifier:
    return MultiLabelClassifier.from_checkpoint(tiny_multi_label.path, device="cpu")


def test_each_label_is_judged_by_itself() -> None:
    """Sigmoids, which do not add up to 1; labels in the order of the label set, not of the scores."""
    result = decode_labels("x", np.array([0.1, 3.0, -2.0]), LABELS, HALVES)

    assert result.labels == ("b", "a")
    assert dict(result.scores) == pytest.approx({"b": 0.52498, "a": 0.95257, "c": 0.11920}, abs=1e-5)
    assert (result.text, result.accepted, result.source) == ("x", None, "model")


def test_a_score_that_reaches_its_threshold_is_enough() -> None:
    """Each label has its own; none at all is an answer too."""
    assert decode_labels("x", np.zeros(3), LABELS, np.array([0.5, 0.51, 0.1])).labels == ("b", "c")
    assert decode_labels("x", np.zeros(3), LABELS, np.ones(3)).labels == ()


@given(st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3))
def test_scores_are_probabilities_whatever_the_logits(logits: list[float]) -> None:
    """No overflow, and the order of the logits."""
    scores = sigmoid(np.array(logits, dtype=np.float32))

    assert ((scores >= 0) & (scores <= 1)).all()
    assert (np.diff(scores[np.argsort(logits)]) >= 0).all()


@pytest.mark.parametrize(
    ("text", "thresholds", "logits", "accepted"),
    [
        ("x", None, [3.0, 3.0, -3.0], None),
        (" ", None, [3.0, 3.0, -3.0], False),
        ("x", Thresholds(score=0.9), [3.0, 3.0, -3.0], True),
        ("x", Thresholds(score=0.9), [3.0, 1.0, -3.0], False),
        ("x", Thresholds(score=0.9, per_label={"a": 0.6}), [3.0, 1.0, -3.0], True),
        ("x", Thresholds(score=0.9), [-3.0, -3.0, -3.0], False),
    ],
)
def test_an_answer_is_accepted_if_each_of_its_labels_is(
    text: str, thresholds: Thresholds | None, logits: list[float], accepted: bool | None
) -> None:
    """One without labels has none that could be; `judged` says the same of a finished result."""
    confidence = Confidence(thresholds=thresholds)
    result = decode_labels(text, np.array(logits), LABELS, HALVES, confidence)

    assert result.accepted is accepted
    assert confidence.judged(decode_labels(text, np.array(logits), LABELS, HALVES)).accepted is accepted


def test_the_stored_thresholds_decide(classifier: MultiLabelClassifier) -> None:
    """From 0 on always, from 1 on never."""
    for result in classifier.batch(["my card", "some cash", ""]):
        assert isinstance(result, MultiLabelClassification)
        assert "card" in result.labels
        assert "cash" not in result.labels
        assert ("other" in result.labels) == (result.scores["other"] >= 0.5)


def test_windows_are_merged_before_the_sigmoid(tiny_multi_label: Checkpoint) -> None:
    """A long text's logit is the mean of its windows', weighted by what is their own."""
    predictor = Predictor.load(tiny_multi_label, device="cpu", backend="torch")
    seen: list[np.ndarray[Any, Any]] = []

    class Watched(Predictor):
        def decode(self, text: str, encoding: Any, logits: Any, features: Any) -> Any:
            seen.append(logits)
            return super().decode(text, encoding, logits, features)

    watched = Watched(tiny_multi_label, device="cpu", dtype="float32", backend="torch")
    (result,) = watched.predict(["where is my card " * 30])
    assert list(result.scores.values()) == pytest.approx((1 / (1 + np.exp(-seen[0]))).tolist())
    assert predictor.predict(["where is my card " * 30])[0].scores == result.scores


def test_each_class_names_the_one_that_serves_another_task(
    tiny_classifier: Checkpoint, tiny_tagger: Checkpoint, tiny_multi_label: Checkpoint
) -> None:
    """One class, one result type."""
    serving = {TextClassifier: tiny_classifier, EntityTagger: tiny_tagger, MultiLabelClassifier: tiny_multi_label}
    for refused in serving:
        for right, checkpoint in serving.items():
            if refused is not right:
                with pytest.raises(CheckpointError, match=f"Load it with {right.__name__}"):
                    refused.from_checkpoint(checkpoint.path, device="cpu")


def test_a_plain_folder_that_says_so_is_served_from_one_half_on(tiny_multi_label: Checkpoint, tmp_path: Path) -> None:
    """The checkpoint is a plain Hugging Face folder: without the manifest its thresholds are gone, nothing else."""
    from transformers import AutoModelForSequenceClassification

    plain = Path(shutil.copytree(tiny_multi_label.path, tmp_path / "plain"))
    (plain / "lc_finetune.json").unlink()
    result = MultiLabelClassifier.from_checkpoint(plain, device="cpu").invoke("my card")
    model = AutoModelForSequenceClassification.from_pretrained(plain)

    assert result.labels == tuple(name for name, score in result.scores.items() if score >= 0.5)
    assert model.config.problem_type == "multi_label_classification"


def test_a_plain_folder_that_does_not_say_so_gets_the_fix(tiny_classifier: Checkpoint, tmp_path: Path) -> None:
    """Its `problem_type` may be missing."""
    plain = Path(shutil.copytree(tiny_classifier.path, tmp_path / "plain"))
    (plain / "lc_finetune.json").unlink()

    with pytest.raises(CheckpointError, match=r"set problem_type in its config\.json to multi_label_classification"):
        MultiLabelClassifier.from_checkpoint(plain, device="cpu")


def test_thresholds_for_other_labels_are_refused(tmp_path: Path) -> None:
    """A manifest that was altered."""
    with pytest.raises(CheckpointError, match="expected a threshold for each of 3 labels, found 1"):
        tiny_checkpoint(tmp_path / "c", task="multi-label-classification", thresholds={"card": 0.5})


def test_accept_score_judges_a_call(tiny_multi_label: Checkpoint) -> None:
    """Each label given must reach it."""
    low, high = (
        MultiLabelClassifier.from_checkpoint(tiny_multi_label.path, device="cpu", accept_score=score).invoke("my card")
        for score in (0.0, 1.0)
    )

    assert (low.accepted, high.accepted) == (True, False)


def test_its_tool_answers_json_and_its_labels_can_be_picked(classifier: MultiLabelClassifier) -> None:
    """As any other Runnable of the package."""
    answered = json.loads(classifier.as_tool(name="topics", description="Topics.").invoke({"text": "my card"}))
    result = classifier.invoke("my card")

    assert answered["labels"] == list(result.labels)
    assert answered["scores"] == pytest.approx(dict(result.scores))
    assert classifier.pick("labels").invoke("my card") == result.labels


def test_a_router_of_single_labels_refuses_its_results(classifier: MultiLabelClassifier) -> None:
    """There is no one branch for several labels."""
    with pytest.raises(InputError, match="Classification"):
        (classifier | LabelRouter(routes={"card": lambda result: "card"})).invoke("my card")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_file_is_answered_with_lists_of_labels(tiny_multi_label: Checkpoint, tmp_path: Path, suffix: str) -> None:
    """JSON in a cell of CSV, a list elsewhere; scores when asked for."""
    import csv

    import pyarrow.parquet

    source, output = tmp_path / "in.csv", tmp_path / f"out.{suffix}"
    source.write_text("text\nmy card\nsome cash\n", encoding="utf-8")
    predict_file(PredictConfig(checkpoint=str(tiny_multi_label.path), input=source, output=output, scores=True,
                               device="cpu"))  # fmt: skip
    if suffix == "parquet":
        rows = pyarrow.parquet.read_table(output).to_pylist()
    elif suffix == "jsonl":
        rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    else:
        with output.open(newline="", encoding="utf-8") as file:
            rows = [{**row, "labels": json.loads(row["labels"])} for row in csv.DictReader(file)]

    assert list(rows[0]) == ["text", "labels", "accepted", "in_scope", "scores", "error"]
    assert all("card" in row["labels"] and "cash" not in row["labels"] for row in rows)
