"""A run whose output is a URL: nothing half there, nothing lost, nothing trained twice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lc_finetune import Checkpoint, CheckpointError, ConfigError, MissingDependencyError, TextClassifier
from lc_finetune.cli import main
from lc_finetune.remote import MARKER
from lc_finetune.train import TrainConfig, fine_tune

URL = "memory://uploaded/support"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The cache of this test; nothing is in memory before and after."""
    monkeypatch.setenv("LC_FINETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lc_finetune.remote.RETRY_AFTER", ())
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield tmp_path / "cache"
    MemoryFileSystem.store.clear()


@pytest.fixture
def given(base_model: Path, tmp_path: Path) -> dict[str, Any]:
    """A run of seconds."""
    rows = [f"{text} {i},{label}" for i in range(12) for text, label in (("my card", "card"), ("some cash", "cash"))]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]))
    return {"train_file": str(tmp_path / "train.csv"), "base_model": str(base_model), "epochs": 1, "baseline": False,
            "output_dir": URL}  # fmt: skip


def broken(*_: Any, **__: Any) -> None:
    """Stand for a network that is down."""
    raise ConnectionError("secret")


def forbidden(*_: Any, **__: Any) -> None:
    """Stand for what must not happen."""
    raise AssertionError


def test_a_run_ends_at_its_url(
    given: dict[str, Any], cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Card, metrics and export too; what was trained is the cached copy, so loading it here fetches nothing."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if name != "baseline"]
    assert main(["train", *options, "--no-baseline"]) == 0
    monkeypatch.setattr(MemoryFileSystem, "get_file", forbidden)
    stored = {name.removeprefix("/uploaded/support/") for name in MemoryFileSystem.store}

    assert {"lc_finetune.json", "model.safetensors", "onnx/model.onnx", "README.md", "metrics.jsonl"} <= stored
    assert MARKER not in stored
    assert f'TextClassifier.from_checkpoint("{URL}")' in capsys.readouterr().out
    assert set(TextClassifier.from_checkpoint(URL, device="cpu").invoke("my card").scores) == {"card", "cash"}
    assert not list((cache / "uploads").rglob("support*"))


def test_a_failed_upload_costs_no_training(given: dict[str, Any], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint's path is said, and it is whole; the same command with `resume` uploads it."""
    with monkeypatch.context() as network:
        network.setattr(MemoryFileSystem, "put_file", broken)
        with pytest.raises(ConfigError, match=r"The checkpoint is whole in .* with --resume") as failed:
            fine_tune(TrainConfig(**given))
    (local,) = (cache / "uploads").rglob("support")
    trained = Checkpoint.load(local).digest
    assert str(local) in str(failed.value)
    assert "secret" not in str(failed.value)
    with pytest.raises(CheckpointError, match="whose upload has not ended"):
        Checkpoint.load(URL)
    with pytest.raises(ConfigError, match="upload that has not ended"):
        fine_tune(TrainConfig(**given))
    with pytest.raises(ConfigError, match="epochs changed"):
        fine_tune(TrainConfig(**{**given, "epochs": 2}, resume=True))

    monkeypatch.setattr("lc_finetune.train.trainer.prepare", forbidden)
    uploaded = fine_tune(TrainConfig(**given, resume=True))

    assert uploaded.digest == trained == Checkpoint.load(URL).digest
    assert not local.exists()


def test_a_store_that_was_never_reached_costs_no_training_either(
    given: dict[str, Any], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a marker there, the checkpoint that waits here is what is asked about."""
    with monkeypatch.context() as network:
        network.setattr(MemoryFileSystem, "pipe_file", broken)
        with pytest.raises(ConfigError, match="The checkpoint is whole"):
            fine_tune(TrainConfig(**given))
    assert not MemoryFileSystem.store

    with pytest.raises(ConfigError, match=r"waits for its upload.*--resume.*--overwrite"):
        fine_tune(TrainConfig(**given))


def test_what_is_there_is_refused_before_any_work(given: dict[str, Any], cache: Path) -> None:
    """And untouched."""
    MemoryFileSystem().pipe_file("/uploaded/support/notes.md", b"mine")
    with pytest.raises(ConfigError, match="with content"):
        fine_tune(TrainConfig(**given))

    assert list(MemoryFileSystem.store) == ["/uploaded/support/notes.md"]
    assert not cache.exists()


def test_a_run_that_fails_leaves_nothing_at_the_url(given: dict[str, Any]) -> None:
    """Not even the marker."""
    with pytest.raises(ConfigError, match="max_length"):
        fine_tune(TrainConfig(**given, max_length=100_000))

    assert not MemoryFileSystem.store


def test_a_store_without_its_package_is_said_before_any_work(given: dict[str, Any], cache: Path) -> None:
    """With the command that installs it."""
    import fsspec

    fsspec.register_implementation("lost", "no_such_package.Files", errtxt="Install it", clobber=True)
    with pytest.raises(MissingDependencyError, match="pip install no_such_package"):
        fine_tune(TrainConfig(**{**given, "output_dir": "lost://bucket/model"}))

    assert not cache.exists()
