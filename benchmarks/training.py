"""What training costs and what it gives, measured.

    python -m benchmarks.training memory [--base-model minilm] [--adapters lora ia3] [--words 16] [--steps 8]
    python -m benchmarks.training few-shot --train-file banking77/train.csv --test-file banking77/test.csv [--rows 10]

`memory` takes some steps on random texts, in a process of its own for the whole model and for each adapter, and gives
the peak of the memory that is added once the libraries and the data are loaded: resident on CPU, allocated on CUDA. It
fails if LoRA adds more than 0.7 of what the whole model does. `few-shot` draws a few rows a class, trains on each draw
with and without the warm-up, and reads the test file once for each training.
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

from benchmarks.measure import Table, cores, machine, write
from lc_finetune.data import ReadOptions, TextExample, read_examples
from lc_finetune.errors import LCFinetuneError
from lc_finetune.testing import SENTENCES
from lc_finetune.train import TrainConfig, fine_tune

LARGEST_SHARE = 0.7
"""Memory that LoRA adds, as a share of what the whole model does, at most."""
WHOLE = "whole model"


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


def memory(arguments: argparse.Namespace) -> Table:
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
    return Table("peak memory of training", ("MiB added", "share"), rows, notes)


def few_shot(arguments: argparse.Namespace) -> Table:
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
    return Table(f"accuracy from {arguments.rows} rows a class", columns, rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and fail where LoRA saves too little; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=(__doc__ or "").split("\n")[0])
    modes = parser.add_subparsers(dest="mode", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--base-model", default="minilm", metavar="NAME")
    common.add_argument("--output", type=Path, metavar="FILE", help="write the table to a .md or .json file too")
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
    mode = modes.add_parser("one")  # what `memory` starts for each row
    mode.add_argument("config")
    arguments = parser.parse_args(argv)
    if arguments.mode == "one":
        print(json.dumps(added_memory(TrainConfig.model_validate_json(arguments.config))))
        return 0
    try:
        table = memory(arguments) if arguments.mode == "memory" else few_shot(arguments)
    except LCFinetuneError as error:
        print(f"benchmarks.training: error: {error}", file=sys.stderr)
        return 2
    write([table], machine("cpu"), arguments.output)
    share = table.rows["lora"][1] if "lora" in table.rows else None
    if share is not None and share > LARGEST_SHARE:
        print(f"benchmarks.training: expected LoRA to add at most {LARGEST_SHARE} of it, found {share:.2f}.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
