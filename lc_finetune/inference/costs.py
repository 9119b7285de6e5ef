"""What each mistake costs → from which score on each label is worth answering."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lc_finetune.checkpoint import ORDINAL, RELATIONS, Task
from lc_finetune.confidence import FloatArray
from lc_finetune.errors import ConfigError, did_you_mean, shown

SUFFIX = ".csv"
PRICED: tuple[Task, ...] = ("text-classification", "text-pair-classification", ORDINAL, RELATIONS)
"""Tasks whose mistakes a matrix has the costs of: one label is right, and one is answered."""


@dataclass(frozen=True)
class CostMatrix:
    """What it costs to answer one label where another is right, in referrals.

    Attributes:
        labels: Names of rows and columns.
        costs: Of answering the column where the row is right, shape `(labels, labels)`; 0 on the diagonal.
    """

    labels: tuple[str, ...]
    costs: FloatArray

    @classmethod
    def read(cls, path: str | Path) -> CostMatrix:
        """Read a CSV file: a header with the answered labels, and a row for each right label, named in its first cell.

        Raises:
            ConfigError: If it is no such file: it says where.
        """
        path = Path(path).expanduser()
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = [row for row in csv.reader(file, strict=True) if any(cell.strip() for cell in row)]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(
                f"accept: expected the costs in {path}, could not read them ({type(error).__name__}). Give a CSV file "
                "with a column for each answered label and a row for each right one."
            ) from None
        labels = tuple(cell.strip() for cell in rows[0][1:]) if rows else ()
        named = [row[0].strip() for row in rows[1:]]
        if len(set(labels)) != len(labels) or sorted(named) != sorted(labels) or not labels:
            other = sorted(set(named) ^ set(labels))
            raise ConfigError(
                f"accept: expected each label once as a column and once as a row of {path}, found "
                + (f"{shown(other, most=3)} on one side only." if other else f"{len(labels)} and {len(named)} names.")
            )
        costs = np.array([_costs_of(path, row, len(labels)) for row in rows[1:]])
        ordered = costs[[named.index(label) for label in labels]]
        if ordered.diagonal().any():
            raise ConfigError(f"accept: expected 0 for right answers, on the diagonal of {path}, found other costs.")
        return cls(labels, ordered)

    def check_labels(self, known: Sequence[str]) -> None:
        """Refuse a matrix of other labels than a model's.

        Raises:
            ConfigError: With a guess.
        """
        for label in self.labels:
            if label not in known:
                raise ConfigError(
                    f"accept: expected costs of the model's labels, found {shown([label])!r}"
                    f"{did_you_mean(label, known)}."
                )
        if missing := [label for label in known if label not in self.labels]:
            raise ConfigError(f"accept: expected costs of all labels, found none of {shown(missing)}. Add them.")

    def when_wrong(
        self, probabilities: FloatArray, answered: NDArray[np.intp], gold: NDArray[np.intp], names: Sequence[str]
    ) -> dict[str, float]:
        """Say what a wrong answer of each label costs on average, by how labels were mistaken for each other.

        The mistakes of an answer are those that were seen, and one more, shared out as the model thinks that it is: so
        that a label with few mistakes, or none, has a cost too.

        Args:
            probabilities: Of the labels of each text, shape `(texts, labels)`.
            answered: The label that was answered, shape `(texts,)`.
            gold: The right one, shape `(texts,)`.
            names: The labels in the order of the columns.

        Returns:
            The cost by answered label, in referrals.
        """
        order = [self.labels.index(name) for name in names]
        costs = self.costs[np.ix_(order, order)]
        everywhere = probabilities.sum(axis=0)
        average: dict[str, float] = {}
        for column, name in enumerate(names):
            mine = answered == column
            believed = probabilities[mine].sum(axis=0) if mine.any() else everywhere.copy()
            believed[column] = 0.0
            seen = np.bincount(gold[mine & (gold != column)], minlength=len(names))
            mistaken = seen + believed / max(believed.sum(), np.finfo(np.float64).tiny)
            average[name] = float(mistaken @ costs[:, column] / max(mistaken.sum(), np.finfo(np.float64).tiny))
        return average


def _costs_of(path: Path, row: Sequence[str], number: int) -> list[float]:
    name, *cells = row
    if len(cells) != number:
        raise ConfigError(
            f"accept: expected {number} costs in the row {shown([name])!r} of {path}, found {len(cells)}."
        )
    return [_cost(path, name, cell) for cell in cells]


def _cost(path: Path, label: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ConfigError(
            f"accept: expected costs of 0 or more in the row {shown([label])!r} of {path}, found something else."
        )
    return value
