"""Regression, from a file of numbers to a Runnable whose answers have an interval."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lc_finetune import (
    Checkpoint,
    CheckpointError,
    ConfigError,
    DataError,
    Regression,
    TextClassifier,
    TextRegressor,
)
from lc_finetune.bulk import PredictConfig, predict_file
from lc_finetune.checkpoint import NumberInterval, NumberScale
from lc_finetune.cli import main
from lc_finetune.data import (
    ReadOptions,
    RegressionExample,
    fingerprint,
    read_examples,
    sample_file,
    split_examples,
)
from lc_finetune.inference.backends import resolve_backend
from lc_finetune.inference.decode import decode_number
from lc_finetune.inference.export import export
from lc_finetune.labels import r_squared
from lc_finetune.testing import tiny_checkpoint
from lc_finetune.train import TrainConfig, fine_tune
from lc_finetune.train.metrics import regression_figures

OPTIONS = ReadOptions(task="regression")


def trained_on(numbers: Iterator[float], base_model: Path, folder: Path, **options: object) -> Checkpoint:
    """Train on texts whose first word says which half their number is in."""
    folder.mkdir()
    rows = [f"{'hot' if i % 2 else 'cold'} tea number {i * 7919 % 1000},{next(numbers)}" for i in range(60)]
    (folder / "train.csv").write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    config = {"task": "regression", "base_model": str(base_model), "train_file": str(folder / "train.csv"),
              "output_dir": str(folder / "out"), "epochs": 2, "learning_rate": 1e-3, **options}  # fmt: skip
    return fine_tune(TrainConfig.of(config), say=lambda _: None)


@pytest.fixture(scope="module")
def trained(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Numbers about 1000, so that a scale that is lost shows."""
    numbers = (1000.0 + 50 * (i % 2) + i % 7 for i in range(60))
    return trained_on(numbers, base_model, tmp_path_factory.mktemp("regression") / "run", test_file=None)


# Files.


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\na,1\nb,-0.5\nc,1e3\n"),
        ("a.tsv", "text\tscore\na\t1\nb\t-0.5\nc\t1000\n"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": -0.5}\n{"text": "c", "label": "1e3"}\n'),
        ("a.json", '[{"text": "a", "label": 1}, {"text": "b", "label": -0.5}, {"text": "c", "label": 1000.0}]'),
    ],
)
def test_numbers_are_read_from_every_table(tmp_path: Path, name: str, content: str) -> None:
    """Written as text or as numbers."""
    (tmp_path / name).write_text(content, encoding="utf-8")
    options = ReadOptions(task="regression", label_column="score" if "score" in content else None)

    loaded = read_examples(str(tmp_path / name), options)

    assert loaded.task == "regression"
    assert loaded.examples == tuple(RegressionExample(*row) for row in [("a", 1.0), ("b", -0.5), ("c", 1000.0)])


def test_numbers_are_classes_unless_the_task_is_given(tmp_path: Path) -> None:
    """A column of integers means classes."""
    (tmp_path / "a.csv").write_text("text,label\na,1\nb,2\n", encoding="utf-8")

    assert read_examples(str(tmp_path / "a.csv")).task == "text-classification"


@pytest.mark.parametrize("cell", ["high", "", "nan", "inf", "1,5", "true"])
def test_a_cell_that_is_no_number_is_named(tmp_path: Path, cell: str) -> None:
    """File and line, never the cell."""
    (tmp_path / "a.tsv").write_text(f"text\tlabel\na\t1\nb\t{cell}\n", encoding="utf-8")

    with pytest.raises(DataError, match=r"a\.tsv:3: expected a number in 'label'"):
        read_examples(str(tmp_path / "a.tsv"), OPTIONS)


def test_rows_without_a_number_are_dropped_when_told(tmp_path: Path) -> None:
    """And counted."""
    (tmp_path / "a.csv").write_text("text,label\na,1\nb,\n", encoding="utf-8")

    loaded = read_examples(str(tmp_path / "a.csv"), ReadOptions(task="regression", drop_unlabelled=True))

    assert loaded.examples == (RegressionExample("a", 1.0),)
    assert "1 of 2 rows had no number" in loaded.notes[0]


def test_a_single_number_teaches_nothing() -> None:
    """Refused, as one class is."""
    with pytest.raises(DataError, match="different numbers"):
        split_examples([RegressionExample(f"{i * 7919}", 3.0) for i in range(20)], seed=0)


def test_the_fingerprint_sees_numbers() -> None:
    """Another number is other data."""
    assert fingerprint([RegressionExample("a", 1.0)]) != fingerprint([RegressionExample("a", 1.5)])


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_the_bundled_sample_spans_its_range(part: str) -> None:
    """Numbers from 0 to 10, in every part."""
    values = {e.value for e in read_examples(str(sample_file("urgency", part)), OPTIONS).examples}  # type: ignore[union-attr]

    assert min(values) == 0.0
    assert max(values) == 10.0


# Figures and results.


def test_figures_are_those_of_scikit_learn_and_scipy() -> None:
    """On numbers with ties."""
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    generator = np.random.default_rng(0)
    gold = generator.integers(0, 5, 50).astype(float)
    found = gold + generator.normal(size=50)
    figures = regression_figures(gold.tolist(), found.tolist())

    assert figures["mae"] == pytest.approx(mean_absolute_error(gold, found))
    assert figures["rmse"] == pytest.approx(root_mean_squared_error(gold, found))
    assert figures["r2"] == pytest.approx(r2_score(gold, found))
    assert figures["pearson"] == pytest.approx(pearsonr(gold, found).statistic)
    assert figures["spearman"] == pytest.approx(spearmanr(gold, found).statistic)


def test_constant_numbers_have_no_correlation() -> None:
    """0, not a division by zero."""
    figures = regression_figures([1.0, 2.0], [3.0, 3.0])

    assert (figures["pearson"], figures["spearman"], r_squared(np.ones(2), np.ones(2))) == (0.0, 0.0, 0.0)


def test_a_logit_is_scaled_and_has_its_interval() -> None:
    """Centre and unit of the training rows; the same width on either side."""
    interval = NumberInterval(half_width=2.0, coverage=0.9, split="x", rows=19)
    result = decode_number("x", np.array([0.5], np.float32), NumberScale(centre=10.0, unit=4.0, interval=interval))

    assert result == Regression(text="x", value=12.0, low=10.0, high=14.0, coverage=0.9)
    assert decode_number("x", np.array([0.5], np.float32)) == Regression(text="x", value=0.5)


# From file to Runnable.


def test_a_trained_regressor_answers_in_the_units_of_its_rows(trained: Checkpoint) -> None:
    """And better than their mean, which no unscaled logit would be."""
    regressor = TextRegressor.from_checkpoint(trained.path, device="cpu")
    cold, hot = regressor.batch(["cold tea number 4", "hot tea number 4"])

    assert 990 < cold.value < hot.value < 1070
    assert trained.metrics["validation"]["r2"] > 0
    assert {"mae", "rmse", "pearson", "spearman", "frozen_baseline"} <= set(trained.metrics["validation"])


def test_the_folder_is_a_plain_one_whose_logit_is_in_standard_deviations(trained: Checkpoint) -> None:
    """What `AutoModel` gives, scaled as `lc_finetune.json` says, is our number."""
    model = AutoModelForSequenceClassification.from_pretrained(trained.path)
    batch = AutoTokenizer.from_pretrained(trained.path)(["hot tea"], return_tensors="pt")
    with torch.inference_mode():
        logit = model.eval()(**batch).logits.item()
    scale = trained.manifest.scale if trained.manifest else None

    assert scale is not None
    assert model.config.problem_type == "regression"
    ours = TextRegressor.from_checkpoint(trained.path, device="cpu", backend="torch").invoke("hot tea").value
    assert ours == pytest.approx(scale.centre + scale.unit * logit, abs=1e-3)


def test_six_held_out_rows_are_too_few_for_an_interval(trained: Checkpoint) -> None:
    """Nine are the least for 90 %; without, `low` and `high` are None."""
    result = TextRegressor.from_checkpoint(trained.path, device="cpu").invoke("hot tea")

    assert trained.metrics["validation"]["rows"] == 6
    assert (result.low, result.high, result.coverage) == (None, None, None)


def test_enough_rows_give_an_interval_that_holds_as_often_as_it_says(base_model: Path, tmp_path: Path) -> None:
    """Among the rows that it was measured on, at least; the card and the report say it."""
    rows = "".join(f"iced tea number {i * 6007 % 1000},{i % 9}\n" for i in range(30))
    (tmp_path / "validation.csv").write_text("text,label\n" + rows, encoding="utf-8")
    numbers = (float(i % 9) for i in range(60))
    checkpoint = trained_on(numbers, base_model, tmp_path / "run", validation_file=str(tmp_path / "validation.csv"))
    figures = checkpoint.metrics["validation"]["interval"]
    result = TextRegressor.from_checkpoint(checkpoint.path, device="cpu").invoke("iced tea")

    assert figures["coverage"] >= figures["stated"] == result.coverage == 0.9
    assert result.low is not None
    assert result.high is not None
    assert result.low < result.value < result.high
    assert "lie in their interval, which says 90%" in (checkpoint.path / "README.md").read_text(encoding="utf-8")


def test_another_class_names_the_right_one(trained: Checkpoint, tiny_classifier: Checkpoint) -> None:
    """In both directions."""
    with pytest.raises(CheckpointError, match="TextRegressor"):
        TextClassifier.from_checkpoint(trained.path)
    with pytest.raises(CheckpointError, match="TextClassifier"):
        TextRegressor.from_checkpoint(tiny_classifier.path)


def test_a_plain_folder_with_one_output_is_a_regressor(trained: Checkpoint, tmp_path: Path) -> None:
    """Its logit is the number; nothing is known of an interval."""
    model = AutoModelForSequenceClassification.from_pretrained(trained.path)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(trained.path).save_pretrained(tmp_path)

    result = TextRegressor.from_checkpoint(tmp_path, device="cpu").invoke("hot tea")

    assert -5 < result.value < 5
    assert result.coverage is None


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_exports_answer_alike(tmp_path: Path, name: str) -> None:
    """Parity holds, also with R² of labelled texts."""
    folder = tiny_checkpoint(tmp_path / "tiny", task="regression").path
    texts = [f"tea number {i}" for i in range(40)]
    manifest = export(folder, format=name, texts=texts, gold=[float(i) for i in range(40)]).manifest  # type: ignore[arg-type]
    plain, exported = (
        TextRegressor.from_checkpoint(folder, device="cpu", backend=backend).invoke("my card")
        for backend in ("torch", name)
    )

    assert manifest.parity.metric == "r2"
    assert resolve_backend(Checkpoint.load(folder), "auto", "cpu", "auto") == name
    assert exported.value == pytest.approx(plain.value, abs=1e-4)


def test_predict_writes_numbers(trained: Checkpoint, tmp_path: Path) -> None:
    """As columns; scores are refused."""
    (tmp_path / "in.jsonl").write_text('{"text": "hot tea"}\n{"text": 3}\n', encoding="utf-8")
    options = {"checkpoint": str(trained.path), "input": str(tmp_path / "in.jsonl")}
    predict_file(PredictConfig(**options, output=str(tmp_path / "out.jsonl")))
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines())

    assert first["value"] > 900
    assert second["value"] is None
    assert "Expected a text" in second["error"]
    with pytest.raises(ConfigError, match="found a regressor"):
        predict_file(PredictConfig(**options, output=str(tmp_path / "b.jsonl"), scores=True))


def test_what_takes_labels_is_refused(trained: Checkpoint, base_model: Path, tmp_path: Path) -> None:
    """Acceptance, smoothing, calibration, names of labels."""
    for i, (options, message) in enumerate(
        [
            ({"accept": "precision=0.9"}, "found numbers, which have intervals"),
            ({"label_smoothing": 0.1}, "label_smoothing: expected .* found data for regression"),
            ({"focal_gamma": 2.0}, "focal_gamma: expected a task with classes"),
            ({"balanced_sampling": True}, "balanced_sampling: .* Leave it out"),
            ({"label_names": ("a", "b")}, "found --label-names as well"),
        ]
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            trained_on((float(i) for i in range(60)), base_model, tmp_path / str(i), **options)
    assert main(["calibrate", str(trained.path), str(sample_file("urgency", "test"))]) == 2
