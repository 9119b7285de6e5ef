"""What a classifier keeps and learns when it is trained further on new classes, measured.

    python -m benchmarks.continual --train-file banking77/train.csv --test-file banking77/test.csv [--old 50]

The classes are divided, at random but always alike, into old and new ones. A classifier of the old is trained, which
keeps some rows; it goes on with the rows of the new classes alone. Beside it, one classifier is trained on all rows
together. Fails if the one that went on is more than 1.5 points below that, on old or on new classes.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from benchmarks.measure import Table, machine, write
from benchmarks.training import write_rows
from lc_finetune import Checkpoint
from lc_finetune.data import ReadOptions, TextExample, read_examples
from lc_finetune.errors import LCFinetuneError
from lc_finetune.evaluation import evaluate
from lc_finetune.inference import Predictor
from lc_finetune.train import TrainConfig, fine_tune
from lc_finetune.train.writing import figures_of

MOST_LOST = 0.015
"""Accuracy that going on may cost against training on all rows together."""


def read(path: str) -> list[TextExample]:
    """Read a classifier's rows."""
    return cast("list[TextExample]", list(read_examples(path, ReadOptions(task="text-classification")).examples))


def divide(examples: Sequence[TextExample], old: int) -> tuple[set[str], set[str]]:
    """Divide the classes: as many old ones, and the others."""
    labels = sorted({example.label for example in examples})
    random.Random(0).shuffle(labels)
    return set(labels[:old]), set(labels[old:])


def of(examples: Sequence[TextExample], labels: set[str]) -> list[tuple[str, str]]:
    """Take the rows of some classes."""
    return [(example.text, example.label) for example in examples if example.label in labels]


def accuracy(checkpoint: Checkpoint, path: Path) -> float:
    """Measure a checkpoint on a file."""
    evaluation = evaluate(Predictor.load(checkpoint), read(str(path)), source="test")
    return float(figures_of(evaluation)["accuracy"])


def measure(arguments: argparse.Namespace) -> Table:
    """Train on the old classes, go on with the new ones, and train on all together."""
    train, test = read(arguments.train_file), read(arguments.test_file)
    old, new = divide(train, arguments.old)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rows = {"old": of(train, old), "new": of(train, new), "all": of(train, old | new)}
        files = {name: write_rows(folder / f"{name}.csv", some) for name, some in rows.items()}
        tests = {"old": write_rows(folder / "old-test.csv", of(test, old)),
                 "new": write_rows(folder / "new-test.csv", of(test, new))}  # fmt: skip

        def trained(name: str, part: str, **more: object) -> Checkpoint:
            given = {"train_file": str(files[part]), "output_dir": str(folder / name), "seed": arguments.seed}
            return fine_tune(
                TrainConfig.of({**given, "baseline": False, "epochs": arguments.epochs, **more}), say=print
            )

        base = {"base_model": arguments.base_model}
        earlier = trained("earlier", "old", keep_replay=arguments.keep_replay, **base)
        ways = {
            "old classes alone": earlier,
            "went on with the new classes": trained(
                "further", "new", continue_from=str(earlier.path), distillation=arguments.distillation
            ),
            "all rows together": trained("joint", "all", **base),
        }
        figures = {
            name: (accuracy(one, tests["old"]), None if one is earlier else accuracy(one, tests["new"]))
            for name, one in ways.items()
        }
    notes = [
        f"{len(old)} old and {len(new)} new classes, {arguments.keep_replay:,} of {len(rows['old']):,} rows kept; "
        "accuracy among all classes that the model has."
    ]
    return Table("going on with new classes", ("old classes", "new classes"), figures, notes)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and fail where too much is lost; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.continual", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--train-file", required=True, metavar="FILE")
    parser.add_argument("--test-file", required=True, metavar="FILE")
    parser.add_argument("--base-model", default="minilm", metavar="NAME")
    parser.add_argument("--old", type=int, default=50, metavar="N", help="old classes (default 50)")
    parser.add_argument("--keep-replay", type=int, default=1000, metavar="N", help="rows kept (default 1000)")
    parser.add_argument("--distillation", type=float, default=None, metavar="WEIGHT", help="default: the recipe's")
    parser.add_argument(
        "--epochs", type=int, default=None, metavar="N", help="of each training (default: the recipe's)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table to a .md or .json file too")
    arguments = parser.parse_args(argv)
    try:
        table = measure(arguments)
    except LCFinetuneError as error:
        print(f"benchmarks.continual: error: {error}", file=sys.stderr)
        return 2
    write([table], machine("cpu"), arguments.output)
    further, joint = table.rows["went on with the new classes"], table.rows["all rows together"]
    lost = [cast(float, whole) - cast(float, part) for part, whole in zip(further, joint, strict=True)]
    if max(lost) > MOST_LOST:
        print(f"benchmarks.continual: expected at most {MOST_LOST} of accuracy lost, found {max(lost):.4f}.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
