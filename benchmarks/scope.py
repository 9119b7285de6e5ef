"""Texts of classes that training never saw: how well are they told from the others, and by what?

    python -m benchmarks.scope --train-file train.csv --test-file test.csv [--held-out 27] [--output-dir FOLDER]

A share of the classes is held out of training. The test rows of those classes are out of scope, the others in scope.
Detectors that need no text out of scope are compared on the features that the trained checkpoint serves, beside its own
`in_scope`; one reads the texts a second time, with the encoder as it was before training.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Table, machine, write
from lc_finetune.checkpoint import Checkpoint
from lc_finetune.data import TextExample, read_examples
from lc_finetune.errors import LCFinetuneError
from lc_finetune.inference import Predictor
from lc_finetune.inference.outputs import outputs_of
from lc_finetune.train import TrainConfig, fine_tune
from lc_finetune.train.base_model import resolve_base_model
from lc_finetune.train.baseline import encoder_states
from lc_finetune.train.metrics import out_of_scope_figures, separation

FloatArray = NDArray[np.float64]
Distance = Callable[[str], FloatArray]
"""Distances of the texts of a part, `known` or `unknown`: the farther, the less in scope."""
COLUMNS = ("AUROC", "FPR at 95 % TPR", "let in with 95 % of the known")
NEIGHBOURS = 5
SHRINKAGE = 0.1
"""Share of a sphere in the covariance of the Mahalanobis distance."""


@dataclass(frozen=True)
class Rows:
    """Texts by part (`train`, `known`, `unknown`), and the label of each training text."""

    texts: dict[str, list[str]]
    labels: list[str]


def _read(file: str) -> Sequence[TextExample]:
    """Read a file of texts with one label each."""
    return cast("Sequence[TextExample]", read_examples(file).examples)


def divide(train: Sequence[TextExample], test: Sequence[TextExample], held_out: int, seed: int) -> Rows:
    """Hold classes out of the training rows; the test rows are known or unknown accordingly."""
    names = sorted({example.label for example in train})
    outside = set(random.Random(seed).sample(names, held_out))
    kept = [example for example in train if example.label not in outside]
    texts = {
        "train": [example.text for example in kept],
        "known": [example.text for example in test if example.label not in outside],
        "unknown": [example.text for example in test if example.label in outside],
    }
    return Rows(texts, [example.label for example in kept])


def train(rows: Rows, output: Path, options: dict[str, Any]) -> Checkpoint:
    """Train on the known classes, or take the checkpoint that is there."""
    if (output / "config.json").is_file():
        return Checkpoint.load(output)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.csv"
        with file.open("w", newline="", encoding="utf-8") as opened:
            table = csv.writer(opened)
            table.writerow(["text", "label"])
            table.writerows(zip(rows.texts["train"], rows.labels, strict=True))
        config = TrainConfig(
            train_file=str(file), text_column="text", label_column="label", output_dir=str(output), baseline=False,
            **options,
        )  # fmt: skip
        return fine_tune(config, say=lambda line: print(line, file=sys.stderr))


# The detectors.


def softmax_probability(logits: dict[str, FloatArray]) -> Distance:
    """Take the largest softmax probability: Hendrycks and Gimpel 2017."""

    def distance(part: str) -> FloatArray:
        shifted = logits[part] - logits[part].max(axis=1, keepdims=True)
        return np.asarray(-1.0 / np.exp(shifted).sum(axis=1))

    return distance


def energy(logits: dict[str, FloatArray]) -> Distance:
    """Take the log of the sum of exponentials: Liu et al. 2020, "Energy-based Out-of-distribution Detection"."""
    return lambda part: np.asarray(-np.logaddexp.reduce(logits[part], axis=1))


def mahalanobis(features: dict[str, FloatArray], classes: NDArray[np.intp], *, relative: bool = False) -> Distance:
    """Take the Mahalanobis distance to the nearest class: Podolskiy et al. 2021, arXiv 2101.03778.

    Relative: less the distance from all texts taken as one class (Ren et al. 2021, arXiv 2106.09022).
    """
    means = _means(features["train"], classes)
    nearest = _mahalanobis(features["train"] - means[classes], means)
    whole = features["train"].mean(axis=0, keepdims=True)
    background = _mahalanobis(features["train"] - whole, whole)
    return lambda part: nearest(features[part]) - (background(features[part]) if relative else 0.0)


def _mahalanobis(around: FloatArray, means: FloatArray) -> Callable[[FloatArray], FloatArray]:
    covariance = around.T @ around / len(around)
    sphere = np.trace(covariance) / len(covariance)
    values, vectors = np.linalg.eigh((1 - SHRINKAGE) * covariance + SHRINKAGE * sphere * np.eye(len(covariance)))
    projection = vectors / np.sqrt(values)
    centers = means @ projection

    def distance(features: FloatArray) -> FloatArray:
        points = features @ projection
        nearest = ((centers**2).sum(axis=1) - 2 * points @ centers.T).min(axis=1)
        return np.asarray((points**2).sum(axis=1) + nearest)

    return distance


def nearest_neighbour(features: dict[str, FloatArray]) -> Distance:
    """Take the cosine distance to the fifth nearest training text: Sun et al. 2022, arXiv 2204.06507."""
    known = _unit(features["train"])

    def distance(part: str) -> FloatArray:
        return np.asarray(1 - np.sort(_unit(features[part]) @ known.T, axis=1)[:, -min(NEIGHBOURS, len(known))])

    return distance


def class_cosine(features: dict[str, FloatArray], classes: NDArray[np.intp]) -> Distance:
    """Take the cosine distance to the nearest class mean, from the center of the means: what a checkpoint serves."""
    means = _means(features["train"], classes)
    center = means.mean(axis=0)
    return lambda part: np.asarray(1 - (_unit(features[part] - center) @ _unit(means - center).T).max(axis=1))


def _means(features: FloatArray, classes: NDArray[np.intp]) -> FloatArray:
    return np.stack([features[classes == one].mean(axis=0) for one in range(classes.max() + 1)])


def _unit(vectors: FloatArray) -> FloatArray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


# The table.


def compare(checkpoint: Checkpoint, rows: Rows, base: Path) -> list[Table]:
    """Compare the detectors, and say what the checkpoint's own one does."""
    predictor = Predictor.load(checkpoint)
    served = {part: outputs_of(predictor, texts) for part, texts in rows.texts.items()}
    features = {part: outputs.features.astype(np.float64) for part, outputs in served.items()}
    logits = {part: outputs.logits.astype(np.float64) for part, outputs in served.items()}
    before = {part: _before_training(base, texts, predictor.max_length) for part, texts in rows.texts.items()}
    classes = np.array([checkpoint.labels.id_of[label] for label in rows.labels])
    detectors = {
        "maximum softmax probability": softmax_probability(logits),
        "energy": energy(logits),
        "Mahalanobis": mahalanobis(features, classes),
        "relative Mahalanobis": mahalanobis(features, classes, relative=True),
        f"nearest neighbour, {NEIGHBOURS}th": nearest_neighbour(features),
        "cosine to the class mean": class_cosine(features, classes),
        "encoder before training: relative Mahalanobis": mahalanobis(before, classes, relative=True),
        f"encoder before training: nearest neighbour, {NEIGHBOURS}th": nearest_neighbour(before),
    }
    figures = {name: separation(distance("known"), distance("unknown")) for name, distance in detectors.items()}
    tables = [
        Table(
            f"{len(rows.texts['unknown']):,} test texts of unseen classes, {len(rows.texts['known']):,} of seen ones",
            COLUMNS,
            {name: (row["auroc"], row["fpr95"], row["missed95"]) for name, row in figures.items()},
            [
                "FPR at 95 % TPR: the share of known texts that a threshold rejects which rejects 95 % of the unknown.",
                "The last column: the share of unknown texts that one lets in which lets in 95 % of the known.",
            ],
        )
    ]
    if predictor.scope is not None:
        own = out_of_scope_figures(predictor.scope, served["known"].features, served["unknown"].features)
        tables.append(
            Table(
                f"in_scope of the checkpoint, out of scope below {predictor.scope.significance:g}",
                (*COLUMNS, "known rejected", "unknown rejected"),
                {
                    f"{len(predictor.scope.reference):,} held-out rows": tuple(
                        own[name] for name in ("auroc", "fpr95", "missed95", "rejected_inside", "rejected_outside")
                    )
                },
            )
        )
    return tables


def _before_training(base: Path, texts: Sequence[str], max_length: int) -> FloatArray:
    """Give the mean state of the pieces of each text, by the encoder as it was: `(texts, hidden)`."""
    states = encoder_states(base, texts, max_length)
    return np.stack([state.mean(axis=0) for _, state in states]).astype(np.float64)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure and print the tables; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scope", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--train-file", required=True, metavar="FILE", help="labelled rows of all classes")
    parser.add_argument("--test-file", required=True, metavar="FILE", help="labelled rows to measure on")
    parser.add_argument("--held-out", type=int, default=27, metavar="N", help="classes kept out of training (27)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of classes, and of training (default 0)")
    parser.add_argument("--epochs", type=int, help="as in training")
    parser.add_argument("--base-model", default="minilm", help="as in training")
    parser.add_argument("--output-dir", type=Path, metavar="FOLDER", help="keep the checkpoint here, or take it")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the tables to a .md or .json file too")
    arguments = parser.parse_args(argv)
    options = {"seed": arguments.seed, "epochs": arguments.epochs, "base_model": arguments.base_model}
    try:
        rows = divide(_read(arguments.train_file), _read(arguments.test_file), arguments.held_out, arguments.seed)
        base = resolve_base_model(arguments.base_model).folder
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = train(rows, arguments.output_dir or Path(folder) / "scope", options)
            tables = compare(checkpoint, rows, base)
    except LCFinetuneError as error:
        print(f"benchmarks.scope: error: {error}", file=sys.stderr)
        return 2
    write(tables, machine("cpu"), arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
