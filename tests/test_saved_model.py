"""SavedModel exports: made by a Python of its own, kept only if TensorFlow answers as torch does."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lc_finetune.checkpoint import EXPORTS, Checkpoint, sha256
from lc_finetune.cli import main
from lc_finetune.errors import CheckpointError, ConfigError, MissingDependencyError
from lc_finetune.inference import Predictor
from lc_finetune.inference.backends import Batch
from lc_finetune.inference.export import CONVERTIBLE, export
from lc_finetune.inference.exported import ExportManifest
from lc_finetune.inference.parity import BelowParity, sample_texts
from lc_finetune.inference.saved_model import ENVIRONMENT, SavedModel, environment_python
from lc_finetune.inference.saved_model_script import read_arrays, write_arrays
from lc_finetune.testing import TOKENIZER_OF, Architecture, tiny_checkpoint

FAKE = """#!{python}
import importlib.util, os, shutil, sys
import onnxruntime

_, isolated, script, command, *paths = sys.argv
assert isolated == "-I"
loader = importlib.util.spec_from_file_location("script", script)
speech = importlib.util.module_from_spec(loader)
loader.loader.exec_module(speech)
if command == {fails_at!r}:
    print("ValueError: no such operator", file=sys.stderr)
    sys.exit({status})
if command == "convert":
    os.mkdir(os.path.join(paths[1], "variables"))
    shutil.copy(paths[0], os.path.join(paths[1], "saved_model.pb"))
    shutil.copy(paths[0], os.path.join(paths[1], "variables", "variables.index"))
else:
    session = onnxruntime.InferenceSession(os.path.join(paths[0], "saved_model.pb"))
    speech.write_arrays(sys.stdout.buffer, {{}})
    while (batch := speech.read_arrays(sys.stdin.buffer)) is not None and {fails_at!r} != "run":
        logits, features = session.run(["logits", "features"], batch)
        speech.write_arrays(sys.stdout.buffer, {{"logits": logits + {shift}, "features": features}})
"""
"""In the place of the environment's Python: "converts" by a copy and "serves" by ONNX Runtime."""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put an environment without TensorFlow in the place of the real one."""

    def build(*, shift: float = 0.0, fails_at: str = "", status: int = 1) -> None:
        python = tmp_path / "environment" / "bin" / "python"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(FAKE.format(python=sys.executable, shift=shift, fails_at=fails_at, status=status))
        python.chmod(0o755)
        monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "environment"))

    return build


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """A classifier to export."""
    return tiny_checkpoint(tmp_path / "c")


def content(folder: Path) -> list[str]:
    """The files of a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_without_its_environment_one_line_names_the_command(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the checkpoint is as it was."""
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "nowhere"))
    before = content(checkpoint.path)

    assert main(["export", str(checkpoint.path), "--format", "saved-model"]) == 2
    message = capsys.readouterr().err
    assert "make saved-model-env" in message
    assert str(tmp_path / "nowhere") in message
    assert len(message.splitlines()) == 1
    assert content(checkpoint.path) == before


def test_the_environment_lies_beside_the_package_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never in the folder one happens to work in, which may be somebody else's."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr("lc_finetune.inference.saved_model.__file__", "/nowhere/lc_finetune/inference/saved_model.py")

    with pytest.raises(MissingDependencyError, match=r"/nowhere/\.venv-saved-model, found none"):
        environment_python()


def test_the_folder_arrives_whole_with_its_manifest(checkpoint: Checkpoint, fake: Callable[..., None]) -> None:
    """Files of its subfolders are named by their path; no backend of this package reads it."""
    fake()
    made = export(checkpoint, format="saved-model", texts=sample_texts()[:40], source="rows at hand")
    manifest = ExportManifest.model_validate_json((made.folder / "export.json").read_text())

    assert made.folder == checkpoint.path / "saved-model"
    assert manifest == made.manifest
    assert content(made.folder) == sorted([*manifest.files, "export.json"])
    assert manifest.files["variables/variables.index"] == sha256(made.folder / "variables" / "variables.index")
    assert manifest.weights == checkpoint.weights_digest
    assert manifest.parity is not None
    assert (manifest.parity.texts, manifest.parity.source) == (40, "rows at hand")
    assert 0 < manifest.parity.max_logit_error < 1e-4
    assert not list(checkpoint.path.glob(".*"))
    assert "saved-model" not in EXPORTS


@pytest.mark.slow
def test_the_command_line_prints_its_parity_and_no_calibration(
    checkpoint: Checkpoint, fake: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No scores are served from it, so none are calibrated, labelled rows or not."""
    fake()
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\nWhere is my card?,card\nI want cash.,cash\nHello,other\n")
    command = ["export", str(checkpoint.path), "--format", "saved-model"]

    for options in ([], ["--calibration-file", str(rows)]):
        assert main([*command, *options]) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"Written to {checkpoint.path / 'saved-model'}.\n\nParity with torch in fp32")
        assert "calibrat" not in out


def test_what_tells_the_texts_of_a_pair_apart_reaches_the_other_python(
    tmp_path: Path, fake: Callable[..., None]
) -> None:
    """A model of pairs takes `token_type_ids` as well."""
    fake()
    pairs = tiny_checkpoint(tmp_path / "pairs", task="text-pair-classification", architecture="electra")

    made = export(pairs, format="saved-model", texts=[("Where is it?", "It is lost."), ("Hi", "A card"), ("a b", "c")])
    assert made.manifest.parity is not None
    assert 0 < made.manifest.parity.max_logit_error < 1e-4


def test_below_the_least_parity_it_is_refused_unless_forced(checkpoint: Checkpoint, fake: Callable[..., None]) -> None:
    """As every export."""
    fake(shift=0.01)

    with pytest.raises(BelowParity, match=r"logits within 0\.0001, found 0\.01.*--force"):
        export(checkpoint, format="saved-model", texts=["Where is my card?"])
    assert not (checkpoint.path / "saved-model").exists()
    assert not list(checkpoint.path.glob(".*"))
    assert export(checkpoint, format="saved-model", texts=["Where is my card?"], force=True).manifest.forced


@pytest.mark.parametrize(
    ("fails_at", "status", "error", "expected"),
    [
        ("convert", 1, CheckpointError, "onnx2tf can convert.*status 1 .*no such operator"),
        ("convert", 3, MissingDependencyError, "incomplete .*make saved-model-env"),
        ("serve", 1, CheckpointError, "TensorFlow can load.*status 1 .*no such operator"),
        ("run", 0, CheckpointError, "TensorFlow can run.*status 0 .*it said nothing"),
    ],
)
def test_what_fails_in_the_other_python_is_one_clear_error(
    checkpoint: Checkpoint, fake: Callable[..., None], fails_at: str, status: int, error: Any, expected: str
) -> None:
    """With the last line that it wrote; the export that was there stays."""
    earlier = checkpoint.path / "saved-model" / "export.json"
    earlier.parent.mkdir()
    earlier.write_text("as it was")
    fake(fails_at=fails_at, status=status)

    with pytest.raises(error, match=expected):
        export(checkpoint, format="saved-model", texts=["Where is my card?"])
    assert earlier.read_text() == "as it was"
    assert not list(checkpoint.path.glob(".*"))


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_there_is_no_other_precision_than_fp32(checkpoint: Checkpoint, precision: Any) -> None:
    """Halves and integers are for the formats that serve."""
    with pytest.raises(ConfigError, match="Expected precision fp32"):
        export(checkpoint, format="saved-model", precision=precision, texts=sample_texts())


@pytest.mark.parametrize("architecture", ["deberta-v2", "modernbert"])
def test_a_family_that_cannot_be_converted_is_refused(tmp_path: Path, architecture: Architecture) -> None:
    """Layers that attend locally would be right on short texts and wrong on long ones."""
    checkpoint = tiny_checkpoint(tmp_path / "c", architecture=architecture)

    with pytest.raises(CheckpointError, match=f"found '{architecture}'. Use another format"):
        export(checkpoint, format="saved-model")


def test_arrays_pass_the_pipe_unpickled() -> None:
    """Named, of any shape, one message after the other, until the stream ends."""
    sent = [{}, {"ids": np.arange(6).reshape(2, 3), "none": np.zeros((0, 4), np.float32)}, {"x": np.float32([0.5])}]
    pipe = io.BytesIO()
    for arrays in sent:
        write_arrays(pipe, arrays)
    pipe.seek(0)
    received = [read_arrays(pipe) for _ in sent]

    assert [{name: array.tolist() for name, array in (one or {}).items()} for one in received] == [
        {name: array.tolist() for name, array in one.items()} for one in sent
    ]
    assert read_arrays(pipe) is None
    pickled = io.BytesIO()
    write_arrays(pickled, {"object": np.array([object()])})
    pickled.seek(0)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_arrays(pickled)


@pytest.fixture(scope="module")
def tensorflow_python() -> Path:
    """The real environment, where `make saved-model-env` built it."""
    try:
        return environment_python()
    except MissingDependencyError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "architecture"),
    [
        *(("text-classification", architecture) for architecture in CONVERTIBLE if architecture in TOKENIZER_OF),
        ("token-classification", "bert"),
        ("text-pair-classification", "bert"),
        ("question-answering", "roberta"),
    ],
)
def test_tensorflow_answers_as_torch_does(
    tmp_path: Path, tensorflow_python: Path, task: Any, architecture: Architecture
) -> None:
    """Any number of rows and of pieces, padded or not, whatever the neighbours."""
    checkpoint = tiny_checkpoint(tmp_path / "c", task=task, architecture=architecture)
    made = export(checkpoint, format="saved-model")
    theirs = Predictor.load(checkpoint, device="cpu", backend="torch")

    assert made.manifest.parity is not None
    assert made.manifest.parity.max_logit_error < 1e-4
    assert made.manifest.parity.batch_score_difference < 1e-4
    assert {"saved_model.pb", "variables/variables.index"} <= set(made.manifest.files)
    random = np.random.default_rng(0)
    with SavedModel(tensorflow_python, made.folder) as ours:
        for rows, pieces in ((1, 1), (1, 32), (2, 2), (3, 17), (32, 8)):
            ids = random.integers(5, 200, (rows, pieces))
            mask = (np.arange(pieces) < random.integers(1, pieces + 1, (rows, 1))).astype(np.int64)
            types = random.integers(0, 2, (rows, pieces)) if task == "text-pair-classification" else None
            batch = Batch(ids, mask, types)
            expected, found = theirs.forward(batch), ours.forward(batch)
            real = mask.astype(bool) if expected.logits.ndim == 3 else slice(None)
            assert np.abs(expected.logits - found.logits)[real].max() < 1e-4
            assert np.abs(expected.features - found.features).max() < 1e-4
