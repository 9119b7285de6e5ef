"""How good are the defaults, over data sets and seeds?

    python -m benchmarks.quality DATA [--sets banking77 wnut17 ...] [--seeds 0 1 2] [--output-dir runs/quality]

DATA is a folder with a folder for each data set. Every cell of the table is a training of its own, with nothing set but
the files, and reads its test file once. Finished cells are kept in `ledger.jsonl` beside their checkpoints: after an
interruption the same command goes on, and a cell that was interrupted goes on from its last epoch. Seed 0 of every set
comes first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Table, cores, machine, write
from lc_finetune.checkpoint import Checkpoint

LEDGER = "ledger.jsonl"


@dataclass(frozen=True)
class Cell:
    """A training on one data set with one seed."""

    name: str
    seed: int

    @property
    def key(self) -> str:
        """Name it, as a folder too."""
        return f"{self.name}-{self.seed}"


@dataclass(frozen=True)
class DataSet:
    """What of a folder is trained and measured on, and by what.

    Attributes:
        files: Options of training → files of the folder.
        figures: Names → paths of figures in the metrics of the test rows, the one that counts first.
        options: Further options, that say how the files are to be read.
    """

    files: Mapping[str, str]
    figures: Mapping[str, str]
    options: Sequence[str] = ()

    def command(self, folder: Path, cell: Cell, base_model: str, output: Path) -> list[str]:
        """Write the training as a user would."""
        files = [part for option, name in self.files.items() for part in (option, str(folder / name))]
        run = ["--base-model", base_model, "--seed", str(cell.seed), "--output-dir", str(output), "--overwrite"]
        resumed = ["--resume"] if output.with_name(f"{output.name}.work").is_dir() else []
        return [sys.executable, "-m", "lc_finetune.train", *files, *self.options, *run, *resumed]


_ONE_LABEL = {"accuracy": "accuracy", "macro F1": "macro_f1"}
SETS: dict[str, DataSet] = {
    "banking77": DataSet({"--train-file": "train.csv", "--test-file": "test.csv"}, _ONE_LABEL),
    "wnut17": DataSet(
        {"--train-file": "train.conll", "--validation-file": "dev.conll", "--test-file": "test.conll"},
        {"entity F1": "f1", "precision": "precision", "recall": "recall"},
    ),
    "finance_tweets": DataSet({"--train-file": "train.csv", "--test-file": "valid.csv"}, _ONE_LABEL),
    "semeval2010_task8": DataSet(
        {"--train-file": "train.txt", "--test-file": "test.txt"},
        {"official macro F1": "relation_macro_f1", "accuracy": "accuracy"},
    ),
    "goemotions": DataSet(
        {
            "--train-file": "train.tsv",
            "--validation-file": "dev.tsv",
            "--test-file": "test.tsv",
            "--label-names": "labels.txt",
        },
        {"macro F1": "macro_f1", "micro F1": "micro_f1"},
        ("--text-column", "0", "--label-column", "1"),
    ),
}


def finished(ledger: Path) -> dict[str, dict[str, Any]]:
    """Read the cells that ended: key → record."""
    lines = ledger.read_text(encoding="utf-8").splitlines() if ledger.is_file() else []
    return {record["key"]: record for record in map(json.loads, lines)}


def run(cell: Cell, data: Path, base_model: str, output_dir: Path) -> dict[str, Any]:
    """Train a cell, and return its record.

    Raises:
        SystemExit: If the training fails; names the file that has what it said.
    """
    output, started = output_dir / cell.key, time.monotonic()
    command = SETS[cell.name].command(data / cell.name, cell, base_model, output)
    log = output_dir / f"{cell.key}.log"
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, check=False, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{cell.key}: the training ended with status {done.returncode}; {log} says why.")
    checkpoint = Checkpoint.load(output)
    test = checkpoint.metrics["test"]
    return {
        "key": cell.key,
        "test": {name: test[path] for name, path in SETS[cell.name].figures.items()},
        "ece": test.get("confidence", {}).get("ece"),
        "rows": test["rows"],
        "seconds": round(time.monotonic() - started),
        "cores": cores(),
        "versions": checkpoint.manifest.versions if checkpoint.manifest else {},
    }


def tables(records: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Give a table for each data set: a row for each seed, then mean and spread."""
    made = []
    for name, kind in SETS.items():
        own = {key: record for key, record in sorted(records.items()) if key.rpartition("-")[0] == name}
        if not own:
            continue
        rows: dict[str, tuple[float | int | None, ...]] = {
            f"seed {key.rpartition('-')[2]}": (*record["test"].values(), record["ece"], record["seconds"])
            for key, record in own.items()
        }
        if len(own) > 1:
            figures = list(zip(*(record["test"].values() for record in own.values()), strict=True))
            rows["mean"] = (*map(statistics.mean, figures), None, None)
            rows["standard deviation"] = (*map(statistics.stdev, figures), None, None)
        made.append(Table(name, (*kind.figures, "ECE", "seconds"), rows))
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing from the ledger, and print the tables."""
    parser = argparse.ArgumentParser(prog="benchmarks.quality", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", choices=[*SETS], default=[*SETS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--base-model", default="minilm")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/quality"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(argv)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    ledger = options.output_dir / LEDGER
    for cell in (Cell(name, seed) for seed in options.seeds for name in options.sets):
        if cell.key not in finished(ledger):
            record = run(cell, options.data, options.base_model, options.output_dir)
            with ledger.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
    write(tables(finished(ledger)), machine("cpu"), options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
