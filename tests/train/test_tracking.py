"""What trackers are told, where they write, and when a run is refused; read back with the trackers' own readers."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lc_finetune import Checkpoint, ConfigError, MissingDependencyError
from lc_finetune.cli import main
from lc_finetune.train import TrainConfig, fine_tune
from lc_finetune.train.tracking import Tracker, report_final, tracking

TEXT = "zanzibar"
"""Is in every text, and nowhere else."""


def environment(folder: Path) -> dict[str, str]:
    """Keep the trackers offline, and what they write in one folder."""
    (folder / "wandb-run").mkdir(exist_ok=True)
    return {
        "WANDB_MODE": "offline", "WANDB_DIR": str(folder / "wandb-run"), "WANDB_CACHE_DIR": str(folder / "wandb-cache"),
        "WANDB_CONFIG_DIR": str(folder / "wandb-config"), "WANDB_DATA_DIR": str(folder / "wandb-data"),
        "WANDB_ERROR_REPORTING": "false", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip


class Run(NamedTuple):
    """A run that all three trackers followed."""

    folder: Path
    checkpoint: Checkpoint
    said: str


@pytest.fixture(scope="module")
def run(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train once, in a process of its own, from the command line."""
    for package in ("tensorboard", "wandb", "mlflow"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("tracked")
    for part, numbers in {"train": range(20), "validation": range(20, 26), "test": range(26, 32)}.items():
        rows = [f"{TEXT} {text} {i},{label}" for i in numbers for text, label in (("my", "card"), ("some", "cash"))]
        (folder / f"{part}.csv").write_text("\n".join(["text,label", *rows]))
    files = [part for name in ("train", "validation", "test") for part in (f"--{name}-file", f"{name}.csv")]
    command = [sys.executable, "-m", "lc_finetune.train", *files, "--base-model", str(base_model), "--epochs", "2",
               "--no-baseline", "--output-dir", "out", "--report-to", "tensorboard,wandb,mlflow"]  # fmt: skip
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, **environment(folder), "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Run(folder, Checkpoint.load(folder / "out"), done.stdout)


def test_tensorboard_has_the_epochs_and_the_final_figures(run: Run) -> None:
    """Beside the checkpoint, in a folder named after it, one below it for each start."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (started,) = (run.folder / "out.logs").iterdir()
    events = EventAccumulator(str(started)).Reload()
    final = run.checkpoint.metrics["test"]["accuracy"]

    assert len(events.Scalars("eval/accuracy")) == 2
    assert [pytest.approx(final)] == [event.value for event in events.Scalars("test/accuracy")]
    assert [event.step for event in events.Scalars("test/accuracy")] == [
        max(event.step for event in events.Scalars("eval/accuracy"))
    ]


def test_wandb_has_the_epochs_and_the_final_figures(run: Run) -> None:
    """Offline, where WANDB_DIR says, in the run's own record."""
    (record,) = run.folder.glob("wandb-run/wandb/offline-run-*/run-*.wandb")
    content = record.read_bytes()

    def logged(figure: str) -> list[float]:
        return [float(value) for value in re.findall(re.escape(figure.encode()) + rb".{1,4}?([01]\.?[0-9]*)", content)]

    assert b"eval/accuracy" in content
    assert run.checkpoint.metrics["test"]["accuracy"] in logged("test/accuracy")
    assert b"lc-finetune" in content


def test_mlflow_has_the_epochs_the_options_and_the_final_figures(run: Run) -> None:
    """In the store that MLFLOW_TRACKING_URI names, as a run named after the output folder that has ended well."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run.folder}/mlflow.db")
    (tracked,) = client.search_runs(["0"])

    assert (tracked.info.run_name, tracked.info.status) == ("out", "FINISHED")
    assert len(client.get_metric_history(tracked.info.run_id, "eval_accuracy")) == 2
    assert tracked.data.metrics["test/accuracy"] == run.checkpoint.metrics["test"]["accuracy"]
    assert tracked.data.metrics["validation/accuracy"] == run.checkpoint.metrics["validation"]["accuracy"]
    assert (tracked.data.params["config.epochs"], tracked.data.params["config.train_file"]) == ("2", "train.csv")


def test_no_text_reaches_a_tracker(run: Run) -> None:
    """Nor does a tracker write into the checkpoint."""
    written = [path for path in run.folder.rglob("*") if path.is_file() and run.checkpoint.path not in path.parents]
    holding = {path.name for path in written if TEXT.encode() in path.read_bytes()}

    assert holding == {"train.csv", "validation.csv", "test.csv"}
    assert not [path for path in run.checkpoint.path.rglob("*") if re.search("event|wandb|mlflow|mlruns", path.name)]
    assert (run.checkpoint.path / "metrics.jsonl").is_file()


def test_where_each_tracker_writes_is_said(run: Run) -> None:
    """Before training."""
    before, _, _ = run.said.partition("Training\n")

    for tracker, place in (("tensorboard", "out.logs"), ("wandb", "offline-run-"), ("mlflow", "mlflow.db")):
        assert re.search(rf"tracking +{tracker}, .*{re.escape(place)}", before)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Trackers that keep to this test's folder."""
    mlflow = pytest.importorskip("mlflow")
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    while mlflow.active_run():
        mlflow.end_run()


def test_a_run_that_fails_has_failed_in_its_tracker(offline: Path) -> None:
    """Whatever ends it."""
    from mlflow import MlflowClient

    with pytest.raises(KeyboardInterrupt), tracking(TrainConfig(report_to=("mlflow",)), "out", print):
        raise KeyboardInterrupt

    (tracked,) = MlflowClient().search_runs(["0"])
    assert tracked.info.status == "FAILED"


def test_a_run_that_the_caller_has_open_is_joined(offline: Path) -> None:
    """And left open."""
    import mlflow

    with mlflow.start_run(run_name="mine") as mine:
        with tracking(TrainConfig(report_to=("mlflow",)), "out", print) as (tracker,):
            tracker.report({"test/accuracy": 0.5}, 3)
        assert mlflow.active_run() is not None

    assert mlflow.get_run(mine.info.run_id).data.metrics == {"test/accuracy": 0.5}
    assert len(mlflow.search_runs(["0"], output_format="list")) == 1


def test_a_tracker_that_cannot_be_reached_is_said_before_training(
    offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to check."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://host")

    with (
        pytest.raises(ConfigError, match=r"expected to open a run in mlflow.*Check MLFLOW_TRACKING_URI"),
        tracking(TrainConfig(report_to=("mlflow",)), "out", print),
    ):
        pass


def test_a_tracker_that_fails_at_the_end_costs_no_checkpoint(caplog: pytest.LogCaptureFixture) -> None:
    """The others are told all the same; no table of labels goes out, only figures."""

    def refuse(*_: Any) -> None:
        raise ConnectionError("secret")

    told: list[Any] = []
    trackers = [Tracker(object(), refuse), Tracker(object(), lambda *given: told.append(given))]
    metrics = {"test": {"rows": 9, "accuracy": 0.5, "confidence": {"ece": 0.1}, "per_label": {"card": {"f1": 1.0}}}}
    with caplog.at_level(logging.WARNING):
        report_final(trackers, metrics, 7)

    assert told == [({"test/rows": 9.0, "test/accuracy": 0.5, "test/confidence/ece": 0.1}, 7)]
    assert "the checkpoint has them" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("package", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_said_before_any_work(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(MissingDependencyError, match=rf"pip install 'lc-finetune\[{package}\]'"):
        fine_tune(TrainConfig(report_to=(package,), output_dir=str(tmp_path / "out")))
    assert main(["train", "--report-to", package, "--output-dir", str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B leaves one, which Python takes for a package without code."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])

    with pytest.raises(MissingDependencyError, match="pip install"):
        fine_tune(TrainConfig(report_to=("wandb",), output_dir=str(tmp_path / "out")))


@pytest.mark.parametrize("field", ["report_to", "run_name", "push_to_hub", "hub_model_id"])
def test_one_place_for_each_option(field: str) -> None:
    """What has a field of its own is refused among those of TrainingArguments."""
    with pytest.raises(ConfigError, match=rf"trainer: {field} is set by the field"):
        TrainConfig.of({"trainer": {field: "wandb"}})
