"""What training costs and what it gives, measured.

    python -m benchmarks.training memory [--base-model minilm] [--adapters lora ia3] [--words 16] [--steps 8]
    python -m benchmarks.training few-shot --train-file banking77/train.csv --test-file banking77/test.csv [--rows 10]
    python -m benchmarks.training time banking77/train.csv --test-file banking77/test.csv [--rows 1500 --epochs 2]
    python -m benchmarks.training kill [--moments 20] [--base-model minilm]

`memory` takes some steps on random texts, in a process of its own for the whole model and for each adapter, and gives
the peak of the memory that is added once the libraries and the data are loaded: resident on CPU, allocated on CUDA. It
fails if LoRA adds more than 0.7 of what the whole model does. `few-shot` draws a few rows a class, trains on each draw
with and without the warm-up, and reads the test file once for each training. `time` trains on the same rows with our
defaults and with transformers' own Trainer, batches grouped by length, in a process each; it fails if ours takes more
than 0.9 of the time, or is less accurate. `kill` ends a training on the bundled sample with SIGKILL at random moments,
resumes it, and fails if one ends with other metrics than the training that nobody killed.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from benchmarks import interruption, timing
from benchmarks.measure import Table, cores, machine, write
from lc_finetune.data import ReadOptions, TextExample, read_examples
from lc_finetune.errors import LCFinetuneError
from lc_finetune.testing import SENTENCES
from lc_finetune.train import TrainConfig, fine_tune

LARGEST_SHARE = 0.7
"""Memory that LoRA adds, as a share of what the whole model does, at most."""
WHOLE = "whole model"
Measured = tuple[Table, str | None]
"""A table, and what in it is short of its goal."""


def write_rows(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
    """Write texts and labels as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def random_rows(rows: int, words: int, labels: int = 4) -> list[tuple[str, str]]:
    """Make texts of as many words, the same for the same arguments."""
    known, chance = " ".join(SENTENCES).split(), random.Random(0)
    return [(" ".join(chance.choices(known, k=words)), f"label {row % labels}") for row in range(rows)]


def draw(examples: Sequence[TextExample], rows: int, seed: int) -> list[tuple[str, str]]:
    """Draw rows of each class."""
    texts: dict[str, list[str]] = defaultdict(list)
    for example in examples:
        texts[example.label].append(example.text)
    chance = random.Random(seed)
    return [(text, label) for label in sorted(texts) for text in chance.sample(texts[label], rows)]


def added_memory(config: TrainConfig) -> float:
    """Take the steps of a configuration in this process; returns the memory that they add at their peak, in MiB."""
    import torch

    from lc_finetune.inference.backends.torch import quiet
    from lc_finetune.train.preparation import prepare
    from lc_finetune.train.trainer import train_model  # what follows it, the export, needs more than training does

    torch.set_num_threads(cores())
    plan, _ = prepare(config)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with quiet(), tempfile.TemporaryDirectory() as work:
        train_model(plan, Path(work), None, lambda _: None)
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss: bytes there, KiB elsewhere
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit


def memory(arguments: argparse.Namespace) -> Measured:
    """Compare the whole model with adapters."""
    rows: dict[str, tuple[float | int | None, ...]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = random_rows(2 * arguments.batch_size * arguments.steps, arguments.words)
        train = write_rows(Path(folder, "train.csv"), data)
        validation = write_rows(Path(folder, "validation.csv"), data[: arguments.batch_size])
        for adapter in (None, *arguments.adapters):
            config = TrainConfig(
                train_file=str(train), validation_file=str(validation), base_model=arguments.base_model,
                output_dir=str(Path(folder, "out")), adapter=adapter, batch_size=arguments.batch_size,
                trainer={"max_steps": arguments.steps, "save_strategy": "no",
                         "load_best_model_at_end": False},
            )  # fmt: skip
            command = [sys.executable, "-m", "benchmarks.training", "one", config.model_dump_json()]
            added = json.loads(subprocess.run(command, check=True, capture_output=True).stdout.splitlines()[-1])
            rows[adapter or WHOLE] = (added, added / whole if (whole := rows.get(WHOLE, (added,))[0]) else None)
    notes = [f"{arguments.steps} steps of {arguments.batch_size} texts of {arguments.words} words."]
    share = rows["lora"][1] if "lora" in rows else None
    failure = None
    if share is not None and share > LARGEST_SHARE:
        failure = f"expected LoRA to add at most {LARGEST_SHARE} of it, found {share:.2f}."
    return Table("peak memory of training", ("MiB added", "share"), rows, notes), failure


def few_shot(arguments: argparse.Namespace) -> Measured:
    """Compare the warm-up with none, and with the frozen encoder."""
    examples = cast("Sequence[TextExample]", read_examples(arguments.train_file, ReadOptions()).examples)
    figures: dict[str, list[float]] = defaultdict(list)
    for seed in range(arguments.draws):
        with tempfile.TemporaryDirectory() as folder:
            train = write_rows(Path(folder, "train.csv"), draw(examples, arguments.rows, seed))
            for warmed in (True, False):
                made = fine_tune(
                    TrainConfig(
                        train_file=str(train), test_file=arguments.test_file, base_model=arguments.base_model,
                        output_dir=str(Path(folder, str(warmed))), few_shot=warmed, seed=seed,
                    )
                )  # fmt: skip
                test = made.metrics["test"]
                figures["with --few-shot" if warmed else "without"].append(test["accuracy"])
            figures["frozen encoder + logistic regression"].append(test["frozen_baseline"]["accuracy"])
    rows = {name: (*values, statistics.mean(values)) for name, values in figures.items()}
    columns = (*(f"draw {seed}" for seed in range(arguments.draws)), "mean")
    return Table(f"accuracy from {arguments.rows} rows a class", columns, rows), None


def time_beside_plain(arguments: argparse.Namespace) -> Measured:
    """Train with ours and with transformers' own Trainer."""
    table = timing.beside_plain(
        arguments.train_file, arguments.test_file, base_model=arguments.base_model, rows=arguments.rows,
        epochs=arguments.epochs, batch_size=arguments.batch_size, rounds=arguments.rounds, seed=arguments.seed,
    )  # fmt: skip
    return table, timing.shortfall(table)


def kill(arguments: argparse.Namespace) -> Measured:
    """Kill trainings, and resume them."""
    config = TrainConfig.of(
        {
            "base_model": arguments.base_model, "train_file": arguments.train_file, "epochs": arguments.epochs,
            "patience": arguments.epochs, "batch_size": arguments.batch_size, "seed": arguments.seed,
            "baseline": False,
        }
    )  # fmt: skip
    table = interruption.interrupted(config, arguments.moments)
    column = interruption.COLUMNS.index(interruption.SAME)
    others = sum(not figures[column] for figures in table.rows.values())
    return table, f"expected the same metrics whenever it is killed, found {others} others." if others else None


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and fail where LoRA saves too little; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=(__doc__ or "").split("\n")[0])
    modes = parser.add_subparsers(dest="mode", required=True)
    written = argparse.ArgumentParser(add_help=False)
    written.add_argument("--output", type=Path, metavar="FILE", help="write the table to a .md or .json file too")
    common = argparse.ArgumentParser(add_help=False, parents=[written])
    common.add_argument("--base-model", default="minilm", metavar="NAME")
    mode = modes.add_parser("memory", parents=[common], help="peak memory, with and without an adapter")
    mode.add_argument("--adapters", nargs="+", default=["lora", "adalora", "ia3"], metavar="KIND")
    mode.add_argument("--words", type=int, default=16, metavar="N", help="of each text (default 16)")
    mode.add_argument("--batch-size", type=int, default=32, metavar="N")
    mode.add_argument("--steps", type=int, default=8, metavar="N")
    mode = modes.add_parser("few-shot", parents=[common], help="accuracy from a few rows a class")
    mode.add_argument("--train-file", required=True, metavar="FILE")
    mode.add_argument("--test-file", required=True, metavar="FILE")
    mode.add_argument("--rows", type=int, default=10, metavar="N", help="of each class (default 10)")
    mode.add_argument("--draws", type=int, default=3, metavar="N")
    mode = modes.add_parser("time", parents=[common], help="seconds and accuracy, beside transformers' own Trainer")
    mode.add_argument("train_file", metavar="FILE")
    mode.add_argument("--test-file", metavar="FILE", help="default: the validation rows")
    mode.add_argument("--rows", type=int, metavar="N", help="of the training file (default: all)")
    mode.add_argument("--epochs", type=int, metavar="N", help="of both (default: ours)")
    mode.add_argument("--batch-size", type=int, default=32, metavar="N")
    mode.add_argument("--rounds", type=int, default=1, metavar="N", help="trainings of each, in turns (default 1)")
    mode.add_argument("--seed", type=int, default=0, metavar="N")
    mode = modes.add_parser("kill", parents=[written], help="SIGKILL at random moments, then --resume")
    mode.add_argument("--base-model", default=interruption.TINY, metavar="NAME", help="default: a tiny random one")
    mode.add_argument("--train-file", metavar="FILE", help="default: the bundled sample")
    mode.add_argument("--epochs", type=int, default=20, metavar="N", help="all of them (default 20)")
    mode.add_argument("--batch-size", type=int, default=8, metavar="N")
    mode.add_argument("--moments", type=int, default=20, metavar="N")
    mode.add_argument("--seed", type=int, default=0, metavar="N")
    mode = modes.add_parser("one")  # what `memory` starts for each row
    mode.add_argument("config")
    arguments = parser.parse_args(argv)
    if arguments.mode == "one":
        print(json.dumps(added_memory(TrainConfig.model_validate_json(arguments.config))))
        return 0
    measured = {"memory": memory, "few-shot": few_shot, "time": time_beside_plain, "kill": kill}[arguments.mode]
    try:
        table, failure = measured(arguments)
    except LCFinetuneError as error:
        print(f"benchmarks.training: error: {error}", file=sys.stderr)
        return 2
    write([table], machine("cpu"), arguments.output)
    if failure:
        print(f"benchmarks.training: {failure}")
    return int(failure is not None)


if __name__ == "__main__":
    sys.exit(main())
