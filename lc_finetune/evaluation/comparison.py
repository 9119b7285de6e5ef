"""Two checkpoints on the same texts: by how much they differ, and whether chance alone may be behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lc_finetune.answers import answer_f1, exact_match
from lc_finetune.confidence import Interval
from lc_finetune.data import gold_of
from lc_finetune.evaluation.answering import Evaluation
from lc_finetune.evaluation.judging import Answer
from lc_finetune.labels import LabelSet, quadratic_weighted_kappa
from lc_finetune.schemas import (
    Classification,
    IntentAndEntities,
    OrdinalClassification,
    QuestionAnswer,
    Regression,
    Tagging,
)

DRAWS = 2000
"""Resamples behind an interval."""
SEED = 0
"""Of the draws, so that the same answers have the same interval."""


@dataclass(frozen=True)
class Difference:
    """A metric of two checkpoints.

    Attributes:
        name: Of the metric.
        this: Of the checkpoint.
        other: Of the one that it is compared with.
        interval: 95 % bootstrap interval of `this - other`.
    """

    name: str
    this: float
    other: float
    interval: Interval

    @property
    def gain(self) -> float:
        """By how much this one is better."""
        return self.this - self.other


@dataclass(frozen=True)
class McNemar:
    """Texts that only one of two checkpoints has all right, and how likely a split as uneven is by chance."""

    this_alone: int
    other_alone: int
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds."""

    other: str
    rows: int
    differences: tuple[Difference, ...]
    test: McNemar | None


def compare(this: Evaluation, other: Evaluation, *, name: str) -> Comparison:
    """Compare two checkpoints' answers to the same texts.

    The intervals are percentiles of a paired bootstrap: texts are drawn with replacement, the same ones for both
    (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13; for language tasks Berg-Kirkpatrick et
    al. 2012, "An Empirical Investigation of Statistical Significance in NLP"). The test is McNemar's, exact: McNemar
    1947, "Note on the sampling error of the difference between correlated proportions"; Dietterich 1998, "Approximate
    Statistical Tests for Comparing Supervised Classification Learning Algorithms". It takes texts for independent and
    each for right or wrong, so that it fits neither a tagger nor a regressor.

    Args:
        this: The checkpoint's.
        other: Those of the one that it is compared with.
        name: What the other one is called.
    """
    rows = len(this.examples)
    numbers = isinstance(this.results[0], Regression)
    questions = isinstance(this.results[0], QuestionAnswer)
    frames = isinstance(this.results[0], IntentAndEntities)
    measure: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    if numbers:
        names: tuple[str, ...] = ("MAE", "RMSE")
        counts, measure = [_errors(one) for one in (this, other)], _mean_errors
    elif questions:
        names, counts, measure = ("exact match", "F1"), [_answers(one) for one in (this, other)], _means
    elif frames:
        names, measure = ("all right", "accuracy", "entity F1"), _shares
        counts = [_frames(one) for one in (this, other)]
    elif isinstance(this.results[0], OrdinalClassification):
        names, measure = ("accuracy", "MAE", "QWK"), _rank_metrics
        counts = [_ranks(one) for one in (this, other)]
    else:
        # F1 over all answers is the accuracy where each text has one.
        names = ("accuracy" if isinstance(this.results[0], Classification) else "micro F1", "macro F1")
        both = this.answers, other.answers
        labels = sorted({label for answers in both for one in answers for label in (one.wanted, one.found) if label})
        counts, measure = [_counts(answers, labels, rows) for answers in both], _metrics
    whole = [measure(one.T @ np.ones(rows)) for one in counts]
    random = np.random.default_rng(SEED)
    drawn = np.empty((DRAWS, len(names)))
    for draw in range(DRAWS):
        weights = np.bincount(random.integers(rows, size=rows), minlength=rows).astype(np.float64)
        first, second = (measure(one.T @ weights) for one in counts)
        drawn[draw] = first - second
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return Comparison(
        name,
        rows,
        tuple(
            Difference(called, float(whole[0][i]), float(whole[1][i]), (float(low[i]), float(high[i])))
            for i, called in enumerate(names)
        ),
        None if numbers or isinstance(this.results[0], Tagging) else mcnemar(this.wrong, other.wrong),
    )


def mcnemar(this: set[int], other: set[int]) -> McNemar:
    """Test whether two checkpoints are as often wrong, by the texts that one of them alone has right.

    Args:
        this: Texts that the checkpoint has wrong.
        other: Texts that the other one has wrong.

    Example:
        >>> mcnemar({1}, {2, 3, 4, 5, 6, 7})
        McNemar(this_alone=6, other_alone=1, p_value=0.125)
    """
    from scipy.stats import binomtest

    this_alone, other_alone = len(other - this), len(this - other)
    differ = this_alone + other_alone
    p_value = float(binomtest(this_alone, differ, 0.5).pvalue) if differ else 1.0
    return McNemar(this_alone, other_alone, p_value)


def comparison_table(comparison: Comparison) -> str:
    """Write a comparison for people, a figure a line."""
    lines = [f"Against {comparison.other}, on the same {comparison.rows:,} rows"]
    for one in comparison.differences:
        low, high = one.interval
        lines.append(
            f"  {one.name:<10} {one.this:.4f} against {one.other:.4f}: {one.gain:+.4f}, 95 % interval {low:+.4f} to "
            f"{high:+.4f}"
        )
    lines.append(f"  the interval is of a paired bootstrap over texts, {DRAWS:,} draws")
    if (test := comparison.test) is not None:
        lines.append(
            f"  right here alone {test.this_alone:,}, there alone {test.other_alone:,}: p = {test.p_value:.4f} "
            "(McNemar, exact)"
        )
    return "\n".join(lines)


def _counts(answers: Sequence[Answer], labels: Sequence[str], rows: int) -> Any:
    """Count by text and label: what is right, wanted and found side by side, shape `(rows, 3 * labels)`, sparse."""
    from scipy.sparse import csr_array

    column = {label: i for i, label in enumerate(labels)}
    at: list[tuple[int, int]] = []
    for answer in answers:
        if answer.kind == "right" and answer.wanted is not None:
            at.append((answer.row, column[answer.wanted]))
        if answer.wanted is not None:
            at.append((answer.row, len(labels) + column[answer.wanted]))
        if answer.found is not None:
            at.append((answer.row, 2 * len(labels) + column[answer.found]))
    where = np.array(at, dtype=np.intp).reshape(-1, 2).T
    return csr_array((np.ones(where.shape[1]), (where[0], where[1])), shape=(rows, 3 * len(labels)))


def _errors(evaluation: Evaluation) -> NDArray[np.float64]:
    """List 1, the error and its square for each number, shape `(rows, 3)`."""
    found = np.array([result.value for result in evaluation.results])
    error = np.abs(found - np.array(gold_of(evaluation.examples)))
    return np.stack([np.ones(len(error)), error, error**2], axis=1)


def _ranks(evaluation: Evaluation) -> Any:
    """Count by text: 1, and the cell of right and given label, shape `(rows, 1 + labels * labels)`, sparse.

    A right label without a place in the order is in no cell.
    """
    from scipy.sparse import csr_array

    results, labels = evaluation.results, LabelSet(tuple(evaluation.results[0].scores))
    cells = [
        (row, 1 + len(labels) * labels.id_of[wanted] + labels.id_of[result.label])
        for row, (wanted, result) in enumerate(zip(gold_of(evaluation.examples), results, strict=True))
        if wanted in labels.id_of
    ]
    where = np.array([*((row, 0) for row in range(len(results))), *cells], dtype=np.intp).T
    shape = (len(results), 1 + len(labels) ** 2)
    return csr_array((np.ones(where.shape[1]), (where[0], where[1])), shape=shape)


def _rank_metrics(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Accuracy, mean distance in ranks and quadratic weighted kappa; sums as `_ranks` has them, over texts."""
    labels = round((len(sums) - 1) ** 0.5)
    counts = sums[1:].reshape(labels, labels)
    distance = np.abs(np.subtract.outer(np.arange(labels), np.arange(labels)))
    known = max(counts.sum(), 1.0)
    return np.array([np.trace(counts) / sums[0], (distance * counts).sum() / known, quadratic_weighted_kappa(counts)])


def _answers(evaluation: Evaluation) -> NDArray[np.float64]:
    """List 1, exact match and F1 for each question, shape `(rows, 3)`."""
    pairs = [(one.answer, wanted) for one, wanted in zip(evaluation.results, gold_of(evaluation.examples), strict=True)]
    return np.array([[1.0, exact_match(*pair), answer_f1(*pair)] for pair in pairs])


def _frames(evaluation: Evaluation) -> NDArray[np.float64]:
    """Count 1, what is all right, the right labels, and entities right, wanted and found, shape `(rows, 6)`."""
    labels, entities = evaluation.parts
    counts = np.zeros((len(evaluation.examples), 6))
    counts[:, 0] = 1.0
    counts[:, 1] = [row not in evaluation.wrong for row in range(len(counts))]
    counts[:, 2] = [row not in labels.wrong for row in range(len(counts))]
    for answer in entities.answers:
        counts[answer.row, 3:] += (answer.kind == "right", answer.wanted is not None, answer.found is not None)
    return counts


def _shares(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of texts that are all right and of right labels, and F1 of entities; sums as `_frames` has them."""
    rows, exact, labels, right, wanted, found = sums
    return np.array([exact / rows, labels / rows, 2 * right / (wanted + found) if wanted + found else 0.0])


def _means(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean exact match and F1; sums as `_answers` has them, over questions."""
    return np.asarray(sums[1:] / sums[0])


def _mean_errors(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean absolute error and root mean squared error; sums as `_errors` has them, over texts."""
    return np.array([sums[1] / sums[0], np.sqrt(sums[2] / sums[0])])


def _metrics(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 over all answers, and its mean over the labels that occur; counts as `_counts` has them, summed over texts."""
    right, wanted, found = counts.reshape(3, -1)
    total = wanted + found
    f1 = 2 * right[total > 0] / total[total > 0]
    micro = 2 * right.sum() / total.sum() if total.sum() else 0.0
    return np.array([micro, f1.mean() if len(f1) else 0.0])
