"""Kills a training at random moments, and looks at what it goes on to."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Table
from lc_finetune.checkpoint import Checkpoint
from lc_finetune.errors import ConfigError, LCFinetuneError
from lc_finetune.inference import Predictor
from lc_finetune.testing import tiny_base_model
from lc_finetune.train import TrainConfig
from lc_finetune.train.resuming import RUN_RECORD, whole_states

TINY = "tiny"
"""Stands for a random encoder that is built on the spot."""
SAME = "same metrics"
COLUMNS = ("killed after s", "resumed from step", SAME, "same weights")


def interrupted(config: TrainConfig, moments: int) -> Table:
    """Train once in peace, then kill a training at each of as many random moments and resume it.

    Moments are uniform between the first file of a run and its end. A row says what the killed run had left; `1` stands
    for what is as in the run that nobody killed. A run that ended before its moment is tried again with an earlier one.

    Raises:
        ConfigError: If there are no moments.
        LCFinetuneError: If a run fails that nobody killed.
    """
    if moments < 1:
        raise ConfigError(f"Expected --moments of at least 1, found {moments}.")
    chance = random.Random(config.seed)
    rows: dict[str, tuple[float | int | None, ...]] = {}
    with tempfile.TemporaryDirectory() as folder:
        base = str(tiny_base_model(Path(folder, TINY))) if config.base_model == TINY else config.base_model
        config = config.model_copy(update={"base_model": base})
        whole, seconds = _in_peace(config, Path(folder, "whole", "run"))
        for number in range(1, moments + 1):
            output = Path(folder, f"killed-{number}", "run")
            moment = chance.uniform(0.0, seconds)
            while not _killed(config, output, moment):
                moment /= 2
                shutil.rmtree(output.parent)
            stage, step = stage_of(output), _last_step(_work(output))
            if not output.exists():
                _finish(_command(config, output, "--resume"))
            made = Checkpoint.load(output)
            Predictor.load(made)  # it serves
            same = (made.metrics == whole.metrics, _weights(made) == _weights(whole))
            rows[f"{number}: {stage}"] = (moment, step, *map(int, same))
            print(f"{number} of {moments}: {stage}, metrics {'the same' if same[0] else 'others'}", file=sys.stderr)
            shutil.rmtree(output.parent)
    return Table("SIGKILL and --resume", COLUMNS, rows, [f"A run in peace: {seconds:.1f} s after its first file."])


def _in_peace(config: TrainConfig, output: Path) -> tuple[Checkpoint, float]:
    """Train without an interruption; returns the checkpoint, and the seconds from the first file on."""
    with subprocess.Popen(_command(config, output), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        _await_first_file(process, output)
        started = time.monotonic()
        _, error = process.communicate()
    _check(process.returncode, error)
    return Checkpoint.load(output), time.monotonic() - started


def _killed(config: TrainConfig, output: Path, moment: float) -> bool:
    """Start a training, and kill it as many seconds after its first file; says whether it was still running."""
    with subprocess.Popen(_command(config, output), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        _await_first_file(process, output)
        try:
            _, error = process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.kill()
            return True
    _check(process.returncode, error)
    return False


def _await_first_file(process: subprocess.Popen[bytes], output: Path) -> None:
    while not (_work(output) / RUN_RECORD).exists() and process.poll() is None:
        time.sleep(0.005)


def _command(config: TrainConfig, output: Path, *flags: str) -> Sequence[str]:
    output.parent.mkdir(exist_ok=True)
    file = output.with_suffix(".json")
    file.write_text(config.model_dump_json(exclude_unset=True), encoding="utf-8")
    return (
        sys.executable, "-m", "lc_finetune.train", "--config", str(file), "--output-dir", str(output), *flags,
    )  # fmt: skip


def _finish(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    _check(done.returncode, done.stderr)


def _check(status: int, error: bytes) -> None:
    if status:
        said = error.decode(errors="replace").strip().splitlines()
        raise LCFinetuneError(
            f"Expected a training that ends, found exit status {status}: {said[-1] if said else 'nothing said'}"
        )


def stage_of(output: Path) -> str:
    """Say how far a run had come, by what it left behind."""
    if output.exists():
        return "the checkpoint was in place"
    if staged := next(output.parent.glob(f".{output.name}.writing-*"), None):
        exported = any((staged / "onnx").glob("*.onnx"))
        return "writing the checkpoint, exported" if exported else "writing the checkpoint"
    states = list(_work(output).glob("checkpoint-*"))
    whole = len(whole_states(_work(output)))
    if len(states) > whole:
        return "saving the state of an epoch"
    return "between epochs' ends" if whole else "before the first epoch's end"


def _last_step(work: Path) -> int:
    """Give the step of the last whole state; 0 is the beginning."""
    states = whole_states(work)
    return int(states[-1].name.rpartition("-")[2]) if states else 0


def _work(output: Path) -> Path:
    return output.with_name(output.name + ".work")


def _weights(checkpoint: Checkpoint) -> bytes:
    return (checkpoint.path / "model.safetensors").read_bytes()
