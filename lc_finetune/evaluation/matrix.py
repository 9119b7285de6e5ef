"""What is taken for what → a matrix that can be read, however many labels there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Pair = tuple[str | None, str | None]
MOST_LABELS = 120
"""Rows and columns that are drawn; those of the most mistakes, if there are more."""


@dataclass(frozen=True)
class Matrix:
    """Counts by what was wanted (rows) and what was found (columns).

    Attributes:
        labels: Of rows and columns, neighbours being confused most; None stands for nothing.
        counts: Those above zero.
        totals: Of each row, labels that are left out counted as well.
        left_out: Labels that are not drawn, since they occur in fewer mistakes.
    """

    labels: tuple[str | None, ...]
    counts: Mapping[Pair, int]
    totals: Mapping[str | None, int]
    left_out: int = 0


def matrix_of(counts: Mapping[Pair, int], order: Sequence[str] = ()) -> Matrix:
    """Order the labels as they are ordered or, where they are not, so that those taken for each other stand together.

    By the leaves of an average-linkage tree over the shares of mistakes between two labels, put in the order of least
    distance between neighbours: Bar-Joseph et al. 2001, "Fast optimal leaf ordering for hierarchical clustering".

    Args:
        counts: By what was wanted and what was found.
        order: The labels in theirs, if they have one; others come after them.
    """
    totals: Counter[str | None] = Counter()
    mistakes: Counter[str | None] = Counter()
    for (wanted, found), count in counts.items():
        totals[wanted] += count
        if wanted != found:
            mistakes[wanted] += count
            mistakes[found] += count
    labels = sorted({label for pair in counts for label in pair if label is not None})
    drawn = sorted(sorted(labels, key=lambda label: -mistakes[label])[:MOST_LABELS])
    place = {label: i for i, label in enumerate(order)}
    by_place = sorted(drawn, key=lambda label: place.get(label, len(place)))
    ordered: list[str | None] = [*(by_place if order else _by_confusion(drawn, counts, totals))]
    if any(None in pair for pair in counts):
        ordered.append(None)
    kept = set(ordered)
    return Matrix(
        tuple(ordered),
        {pair: count for pair, count in counts.items() if count and kept.issuperset(pair)},
        dict(totals),
        len(labels) - len(drawn),
    )


def _by_confusion(labels: list[str], counts: Mapping[Pair, int], totals: Mapping[str | None, int]) -> list[str]:
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(labels) < 3:
        return labels
    column = {label: i for i, label in enumerate(labels)}
    share = np.zeros((len(labels), len(labels)))
    for (wanted, found), count in counts.items():
        if wanted in column and found in column:
            share[column[wanted], column[found]] = count / totals[wanted]
    distance = 1.0 - np.clip((share + share.T) / 2, 0.0, 1.0)
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
    return [labels[leaf] for leaf in leaves_list(tree)]


def most_confused(counts: Mapping[Pair, int]) -> list[tuple[Pair, int]]:
    """List what is taken for something else, the most frequent first."""
    wrong = [(pair, count) for pair, count in counts.items() if pair[0] != pair[1] and count]
    return sorted(wrong, key=lambda one: (-one[1], one[0][0] or "", one[0][1] or ""))
