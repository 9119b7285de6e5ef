"""What is unlike anything the model was trained on is said to be so, and is not accepted."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from lc_finetune import Checkpoint, CheckpointError, ConfigError, DataError, TextClassifier
from lc_finetune.checkpoint import MANIFEST, SCOPE, Manifest, write_manifest
from lc_finetune.inference import Predictor
from lc_finetune.inference.acceptance import Aim
from lc_finetune.inference.calibrate import Way, calibrate, record
from lc_finetune.inference.outputs import outputs_of
from lc_finetune.inference.scope import SIGNIFICANCE, ScopeDetector, fit_detector, read_detector
from lc_finetune.testing import SENTENCES, tiny_checkpoint
from lc_finetune.train import TrainConfig, fine_tune
from lc_finetune.train.preparation import prepare
from lc_finetune.train.replay import in_turn

HIDDEN, CLASSES = 16, 3
WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})


def clusters(rows: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Draw features around three fixed points, and the class of each."""
    random = np.random.default_rng(seed)
    classes = np.arange(rows) % CLASSES
    return (5 * np.eye(CLASSES, HIDDEN)[classes] + random.normal(size=(rows, HIDDEN))).astype(np.float32), classes


def elsewhere(rows: int, seed: int) -> NDArray[np.float32]:
    """Draw features around a point that is no class's."""
    random = np.random.default_rng(seed)
    return (5 * np.eye(HIDDEN)[np.full(rows, HIDDEN - 1)] + random.normal(size=(rows, HIDDEN))).astype(np.float32)


def detector(**options: Any) -> ScopeDetector:
    return fit_detector(*clusters(300, 0), clusters(199, 1)[0], **options)


def some_texts(count: int, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, size=random.integers(1, 9))) for _ in range(count)]


def scoped(checkpoint: Checkpoint, texts: list[str], held_out: list[str], **options: Any) -> Checkpoint:
    """Fit the statistics of a folder on texts, a third of them, by a feature that tells them apart, to each class."""
    predictor = Predictor.load(checkpoint, device="cpu", backend="torch")
    features = outputs_of(predictor, texts).features
    classes = features[:, 0].argsort().argsort() * 3 // len(texts)
    fit_detector(features, classes, outputs_of(predictor, held_out).features, **options).save(checkpoint.path)
    assert checkpoint.manifest is not None
    write_manifest(checkpoint.path, checkpoint.manifest)
    return Checkpoint.load(checkpoint.path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    made = tiny_checkpoint(tmp_path_factory.mktemp("scope") / "c", onnx=True)
    return scoped(made, some_texts(300), some_texts(99, seed=1), significance=0.2)


@pytest.fixture
def copy(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint.path, tmp_path / "copy"))


# The p-value.


@given(st.integers(0, 1_000), st.sampled_from([0.05, 0.1, 0.3]))
@settings(max_examples=25)
def test_few_texts_of_the_known_kind_have_a_small_p_value(seed: int, level: float) -> None:
    """A conformal p-value: below a level with that probability at most, here within four standard errors."""
    features, _ = clusters(2_000, seed)
    reference = fit_detector(*clusters(300, seed + 1), clusters(2_000, seed + 2)[0])
    rejected = (reference.p_values(features) < level).mean()

    assert rejected <= level + 4 * np.sqrt(level * (1 - level) * (2 / 2_000))


def test_texts_of_another_kind_have_small_p_values() -> None:
    """None of them lies near a class."""
    assert (detector().p_values(elsewhere(100, 2)) < SIGNIFICANCE).mean() > 0.9


def test_a_p_value_is_one_for_the_nearest_text_and_smallest_for_the_farthest() -> None:
    """With n held-out texts it goes from 1 / (n + 1) to 1."""
    found = detector()
    at_a_class = found.center + 3 * found.classes[0]
    across = found.center + 100 * np.eye(HIDDEN, dtype=np.float32)[10]
    p_values = found.p_values(np.stack([at_a_class, across]))

    assert p_values.tolist() == [1.0, 1 / 200]


def test_rounding_hardly_moves_a_p_value() -> None:
    """Features that differ in the last digits, as in another batch, do not jump over a whole step."""
    features, _ = clusters(500, 3)
    found = detector()

    np.testing.assert_allclose(found.p_values(features), found.p_values(features * (1 + 1e-6)), atol=1e-3)


def test_known_texts_out_of_scope_make_their_like_farther() -> None:
    """Texts of their kind move away from the classes; those in scope keep their share of small p-values."""
    near = (clusters(200, 4)[0] + elsewhere(200, 5)) / 2
    without, informed = detector(), detector(outside=near[:50])
    features, _ = clusters(500, 6)

    assert (informed.p_values(near[50:]) < SIGNIFICANCE).mean() > (without.p_values(near[50:]) < SIGNIFICANCE).mean()
    assert (informed.p_values(features) < SIGNIFICANCE).mean() <= 0.1


# The folder.


def test_statistics_come_back_as_written(checkpoint: Checkpoint) -> None:
    """From safetensors, named in the manifest by their SHA-256."""
    found = read_detector(checkpoint)

    assert found is not None
    assert checkpoint.manifest is not None
    assert SCOPE in checkpoint.manifest.files
    assert found.significance == 0.2
    assert found.reference.shape == (99,)
    assert found.outside.shape == (0, 32)


def test_altered_statistics_are_refused(copy: Path) -> None:
    """Before anything of them is used."""
    (copy / SCOPE).write_bytes((copy / SCOPE).read_bytes()[:-1] + b"\0")

    with pytest.raises(CheckpointError, match="SHA-256"):
        Checkpoint.load(copy)


@pytest.mark.parametrize(
    ("name", "altered"),
    [
        ("classes", lambda tensor: tensor[:2]),
        ("center", lambda tensor: tensor[:16]),
        ("center", lambda tensor: tensor.astype(np.float64)),
        ("outside", lambda tensor: np.full((1, 32), np.nan, np.float32)),
        ("reference", lambda tensor: tensor[::-1].copy()),
        ("reference", lambda tensor: tensor[:0]),
    ],
)
def test_statistics_of_another_model_are_refused(copy: Path, name: str, altered: Any) -> None:
    """Shapes, types, finite numbers and their order are checked, whatever the manifest says."""
    tensors = load_file(copy / SCOPE)
    save_file({**tensors, name: altered(tensors[name])}, copy / SCOPE, metadata={"significance": "0.05"})
    _sign(copy)

    with pytest.raises(CheckpointError, match="expected the scope statistics of this model"):
        TextClassifier.from_checkpoint(copy)


def _sign(folder: Path) -> None:
    """Write the manifest for the files as they are."""
    write_manifest(folder, Manifest.model_validate_json((folder / MANIFEST).read_text()))


@pytest.mark.parametrize("metadata", [None, {}, {"significance": "0"}, {"significance": "often"}])
def test_a_significance_that_is_no_share_is_refused(copy: Path, metadata: dict[str, str] | None) -> None:
    """It stands in the file's own metadata."""
    save_file(load_file(copy / SCOPE), copy / SCOPE, metadata=metadata)
    _sign(copy)

    with pytest.raises(CheckpointError, match="expected the scope statistics of this model"):
        TextClassifier.from_checkpoint(copy)


def test_statistics_that_no_manifest_names_are_not_read(copy: Path) -> None:
    """Without the manifest the folder is a plain one, and nothing is known of its scope."""
    (copy / MANIFEST).unlink()

    assert TextClassifier.from_checkpoint(copy).invoke("card").in_scope is None


def test_statistics_do_not_change_what_exports_are_tied_to(tmp_path: Path) -> None:
    """Not even where the weights are in several files."""
    from transformers import AutoModelForSequenceClassification

    made = tiny_checkpoint(tmp_path / "c")
    loader: Any = AutoModelForSequenceClassification
    model = loader.from_pretrained(made.path)
    (made.path / "model.safetensors").unlink()
    model.save_pretrained(made.path, max_shard_size="40KB")
    _sign(made.path)
    sharded = Checkpoint.load(made.path)
    digest = sharded.weights_digest

    assert len(list(made.path.glob("model-*.safetensors"))) > 1
    assert scoped(sharded, some_texts(60), some_texts(30)).weights_digest == digest


# What is served.


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_every_backend_gives_the_same_p_values(checkpoint: Checkpoint, backend: Any) -> None:
    """For short texts and for texts of many windows, alone and in a batch."""
    texts = [*some_texts(20, seed=2), " ".join(SENTENCES), "", SENTENCES[0] * 9]
    expected = [result.in_scope for result in TextClassifier.from_checkpoint(checkpoint, backend="torch").batch(texts)]
    classifier = TextClassifier.from_checkpoint(checkpoint, backend=backend)

    assert all(0 < p <= 1 for p in expected)
    assert [result.in_scope for result in classifier.batch(texts)] == pytest.approx(expected, abs=1e-3)
    assert [classifier.invoke(text).in_scope for text in texts] == pytest.approx(expected, abs=1e-3)


def test_a_text_out_of_scope_is_not_accepted(checkpoint: Checkpoint) -> None:
    """Whatever its score and the threshold; of the others, nothing is known without calibration."""
    texts = some_texts(200, seed=3)
    plain = TextClassifier.from_checkpoint(checkpoint).batch(texts)
    lenient = TextClassifier.from_checkpoint(checkpoint, accept_score=0.0).batch(texts)
    outside = [result.in_scope < 0.2 for result in plain]

    assert 0 < sum(outside) < 200
    assert [False if out else None for out in outside] == [result.accepted for result in plain]
    assert [not out for out in outside] == [result.accepted for result in lenient]


def test_the_coverage_of_a_threshold_leaves_out_what_is_out_of_scope(checkpoint: Checkpoint, copy: Path) -> None:
    """The threshold is chosen among the texts that can be accepted."""
    texts = some_texts(200, seed=4)
    results = TextClassifier.from_checkpoint(checkpoint, backend="torch").batch(texts)
    calibration = calibrate(
        Checkpoint.load(copy), texts, [result.label for result in results], split="texts",
        aim=Aim.parse("score=0.01"), way=Way("torch", "cpu", "float32"),
    )  # fmt: skip
    record(Checkpoint.load(copy), [calibration])
    accepted = [result.accepted for result in TextClassifier.from_checkpoint(copy, backend="torch").batch(texts)]

    assert calibration.acceptance is not None
    assert calibration.acceptance.coverage == np.mean([result.in_scope >= 0.2 for result in results])
    assert calibration.acceptance.coverage == np.mean(accepted)


# Training.


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two classes of 120 rows, and 30 rows of neither."""
    rows = [(f"{name} {i} {text}", name) for name in ("card", "cash") for i, text in enumerate(some_texts(120))]
    rows += [(f"fox {i} {text}", "neither") for i, text in enumerate(some_texts(30, seed=5))]
    return write_rows(tmp_path / "train.csv", rows)


def write_rows(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def config(base_model: Path, table: Path, **more: Any) -> TrainConfig:
    options = {"base_model": str(base_model), "train_file": str(table), "output_dir": str(table.parent / "out")}
    return TrainConfig.of({**options, "epochs": 1, "baseline": False, "batch_size": 16, **more})


def test_training_leaves_in_scope_behind(base_model: Path, table: Path, tmp_path: Path) -> None:
    """Rows with the out-of-scope label are no class, are counted, and are measured on if the test file has some."""
    test = write_rows(tmp_path / "test.csv", [("card 1", "card"), ("cash 1", "cash"), ("fox 1", "neither")])
    said: list[str] = []
    trained = fine_tune(config(base_model, table, test_file=str(test), out_of_scope_label="neither"), say=said.append)
    found = read_detector(trained)

    assert trained.labels.names == ("card", "cash")
    assert "  no class    train and validation 30, test 1 rows out of scope" in said[0]
    assert "labels      2: " in said[0]
    assert found is not None
    assert found.classes.shape == (2, 32)
    assert found.outside.shape == (30, 32)
    assert found.reference.shape == (trained.metrics["validation"]["rows"],)
    assert trained.metrics["test"]["rows"] == 2
    assert trained.metrics["test"]["out_of_scope"]["rows"] == 1
    assert "out of scope: " in (trained.path / "README.md").read_text()
    assert TextClassifier.from_checkpoint(trained).invoke("card").in_scope is not None


def test_too_few_held_out_rows_are_said(base_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With fewer than 20 no p-value could be small, so there is none."""
    rows = [(f"{name} {i}", name) for name in ("card", "cash") for i in range(20)]
    trained = fine_tune(config(base_model, write_rows(tmp_path / "small.csv", rows)))

    assert read_detector(trained) is None
    assert "expected at least 20 rows held out of training, found 4" in caplog.text


def test_an_out_of_scope_label_that_no_row_has_gets_a_guess(base_model: Path, table: Path) -> None:
    """Else all of those rows would quietly be a class."""
    with pytest.raises(DataError, match=r"'neithr', found none \(did you mean 'neither'"):
        prepare(config(base_model, table, out_of_scope_label="neithr"))


def test_rows_out_of_scope_alone_are_refused(base_model: Path, tmp_path: Path) -> None:
    """There is nothing to learn from them."""
    table = write_rows(tmp_path / "train.csv", [("fox", "neither")])
    with pytest.raises(DataError, match="at least two classes, found only out-of-scope ones"):
        prepare(config(base_model, table, out_of_scope_label="neither"))


def test_a_tagger_has_no_out_of_scope_label(base_model: Path, tmp_path: Path) -> None:
    """Its rows have no label."""
    table = tmp_path / "train.jsonl"
    table.write_text('{"text": "Oslo", "entities": [{"start": 0, "end": 4, "label": "LOC"}]}\n' * 9)
    with pytest.raises(ConfigError, match="out_of_scope_label: expected data for text-classification"):
        prepare(config(base_model, table, out_of_scope_label="neither"))


def test_each_class_gets_its_turn() -> None:
    """However rare it is, and however few rows are taken."""
    classes = np.array([0] * 50 + [1] * 3 + [2])

    assert {0, 1, 2} == set(classes[in_turn(classes.tolist(), 3)])
    assert len(set(in_turn(classes.tolist(), 20))) == 20
    assert in_turn(classes.tolist(), 100) == list(range(54))
