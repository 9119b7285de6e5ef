"""What our training takes beside transformers' own Trainer on the same rows."""

from __future__ import annotations

import csv
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from benchmarks.measure import Table
from lc_finetune.checkpoint import Checkpoint
from lc_finetune.data import Example, ReadOptions, TextExample, read_examples
from lc_finetune.errors import ConfigError, LCFinetuneError
from lc_finetune.train import TrainConfig

LARGEST_SHARE = 0.9
"""Seconds of our training, as a share of the plain Trainer's, at most."""
PLAIN, OURS = "transformers.Trainer, grouped by length", "ours"
COLUMNS = ("s in the Trainer", "share", "s of the command", "share of it", "epochs", "accuracy")

Figures = dict[str, float]


def beside_plain(
    train_file: str, test_file: str | None, *, base_model: str, rows: int | None, epochs: int | None, batch_size: int,
    rounds: int, seed: int,
) -> Table:  # fmt: skip
    """Train with both on the same training and validation rows, in turns, each time in a process of its own.

    Base model, epochs, batch size, encoder's learning rate, weight decay, warm-up and precision are the same, and both
    measure and save each epoch. The seconds in the Trainer are its own `train_runtime`, the same clock for both; our
    command exports, calibrates, and measures the frozen encoder besides. Medians of the rounds.

    Raises:
        ConfigError: If the file is not for a classifier of texts, or a number is out of bounds.
        LCFinetuneError: If a training fails.
    """
    if rounds < 1 or (rows is not None and rows < 1):
        raise ConfigError("Expected --rounds and --rows of at least 1.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = _drawn(_read(train_file), rows, seed)
        known = {example.label for example in train}
        test = [example for example in _read(test_file) if example.label in known] if test_file else None
        config = TrainConfig.of(
            {
                "train_file": str(_written(folder / "all.csv", train)), "base_model": base_model, "epochs": epochs,
                "batch_size": batch_size, "seed": seed, "output_dir": str(folder / "ours"), "overwrite": True,
                "test_file": str(_written(folder / "test.csv", test)) if test is not None else None,
            }
        )  # fmt: skip
        command = _plain_command(config, folder)
        ours = folder / "ours.json"
        ours.write_text(config.model_dump_json(exclude_none=True), encoding="utf-8")
        measured: dict[str, list[Figures]] = {PLAIN: [], OURS: []}
        for _ in range(rounds):
            printed, seconds = _timed(PLAIN, command)
            measured[PLAIN].append({**json.loads(printed.splitlines()[-1]), "command": seconds})
            _, seconds = _timed(OURS, [sys.executable, "-m", "lc_finetune.train", "--config", str(ours)])
            measured[OURS].append({**_figures_of(folder / "ours"), "command": seconds})
    return _table(measured, f"{len(train):,} rows, batches of {batch_size}.")


def shortfall(table: Table) -> str | None:
    """Say what our training is short of; None if nothing."""
    plain, ours = (dict(zip(COLUMNS, table.rows[name], strict=True)) for name in (PLAIN, OURS))
    share = cast(float, ours["share"])
    if share > LARGEST_SHARE:
        return f"expected at most {LARGEST_SHARE} of the plain Trainer's time, found {share:.2f}."
    if cast(float, ours["accuracy"]) < cast(float, plain["accuracy"]):
        return f"expected an accuracy of at least {plain['accuracy']:.4f}, found {ours['accuracy']:.4f}."
    return None


def _read(file: str) -> Sequence[TextExample]:
    loaded = read_examples(file, ReadOptions())
    if loaded.task != "text-classification":
        raise ConfigError(f"{file}: expected data for text-classification, found data for {loaded.task}.")
    return cast("Sequence[TextExample]", loaded.examples)


def _drawn(examples: Sequence[TextExample], rows: int | None, seed: int) -> Sequence[TextExample]:
    """Draw rows, one of each class, then another of each, until there are enough."""
    if rows is None:
        return examples
    shuffled = random.Random(seed).sample(examples, len(examples))
    turns: dict[str, int] = defaultdict(int)
    by_turn: list[tuple[int, int]] = []
    for place, example in enumerate(shuffled):
        by_turn.append((turns[example.label], place))
        turns[example.label] += 1
    return [shuffled[place] for _, place in sorted(by_turn)[:rows]]


def _written(path: Path, examples: Sequence[Example]) -> Path:
    rows = [(example.text, example.label) for example in cast("Sequence[TextExample]", examples)]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    return path


def _plain_command(config: TrainConfig, folder: Path) -> list[str]:
    """Write the parts that our training makes of the rows, and ask the plain Trainer for the same."""
    from lc_finetune.train.preparation import epochs_of, prepare
    from lc_finetune.train.trainer import training_arguments

    plan, _ = prepare(config)
    shared = training_arguments(config, plan.base, folder / "unused", epochs=epochs_of(plan))
    validation = str(_written(folder / "validation.csv", plan.splits.validation))
    options: dict[str, Any] = {
        "train-file": _written(folder / "train.csv", plan.splits.train), "validation-file": validation,
        "test-file": config.test_file or validation, "base-model": plan.base.folder, "output-dir": folder / "plain",
        "epochs": shared.num_train_epochs, "learning-rate": shared.learning_rate, "batch-size": config.batch_size,
        "max-length": plan.windowing.max_length, "seed": config.seed,
    }  # fmt: skip
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    flags = [flag for flag, asked in (("--bf16", shared.bf16), ("--use-cpu", shared.use_cpu)) if asked]
    return [sys.executable, "-m", "benchmarks.plain_trainer", *given, *flags]


def _timed(name: str, command: Sequence[str]) -> tuple[str, float]:
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise LCFinetuneError(f"{name}: expected a training that ends, found: {said[-1] if said else 'nothing said'}")
    return done.stdout, seconds


def _figures_of(output: Path) -> Figures:
    """Read what a checkpoint's own log and metrics say."""
    log = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    ended = next(entry for entry in reversed(log) if "train_runtime" in entry)
    metrics = Checkpoint.load(output).metrics
    accuracy = metrics["test" if "test" in metrics else "validation"]["accuracy"]
    return {"seconds": ended["train_runtime"], "epochs": ended["epoch"], "accuracy": accuracy}


def _table(measured: dict[str, list[Figures]], note: str) -> Table:
    median = {
        name: {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}
        for name, runs in measured.items()
    }
    plain = median[PLAIN]
    rows = {
        name: (
            one["seconds"], one["seconds"] / plain["seconds"], one["command"], one["command"] / plain["command"],
            one["epochs"], one["accuracy"],
        )
        for name, one in median.items()
    }  # fmt: skip
    return Table("training beside the plain Trainer", COLUMNS, rows, [note])
