"""How true scores are: calibration error, proper scores, and the reliability diagram."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lc_finetune.confidence import Bin, FloatArray, Interval, Reliability

BoolArray = NDArray[np.bool_]

PAIR_FLOOR = 0.1
"""Pairs of a text and a label are judged from this score on: most pairs are near 0, and would hide all else."""
BINS = 15
"""Bins of the calibration error and of the diagram, each of as many answers."""
DRAWS = 1000
"""Resamples behind an interval, and simulations of perfect scores."""
SEED = 0
"""Of both, so that the same answers have the same figures."""


def expected_calibration_error(confidence: FloatArray, correct: BoolArray, *, bins: int = BINS) -> float:
    """Average gap between confidence and accuracy, in probability (0 is perfect).

    Equal-mass bins; Nixon et al. 2019, "Measuring Calibration in Deep Learning".

    Args:
        confidence: Score of each answer, shape `(answers,)`.
        correct: Whether it was right, shape `(answers,)`.
        bins: Their number; fewer if there are fewer answers.

    Raises:
        ValueError: If the two differ in length or are empty.

    Example:
        >>> expected_calibration_error(np.array([0.5, 0.5]), np.array([True, False]), bins=1)
        0.0
    """
    bin_of = _bin_of(confidence, correct, bins)
    return _error(confidence - correct, bin_of)


def reliability(
    confidence: FloatArray,
    correct: BoolArray,
    *,
    squared_errors: FloatArray,
    log_losses: FloatArray,
    drawn: NDArray[np.intp] | None = None,
) -> Reliability:
    """Measure scores against what was right.

    Args:
        confidence: Score of each answer, shape `(answers,)`.
        correct: Whether it was right, shape `(answers,)`.
        squared_errors: Of the probabilities of an answer, summed over its labels; their mean is taken, of any shape.
        log_losses: Negative log of the probability of what was right, likewise.
        drawn: Number of what each answer was drawn with, shape `(answers,)`; the bootstrap draws them together. Each by
            itself if omitted.

    Raises:
        ValueError: If the scores and outcomes differ in length or are empty.
    """
    bin_of = _bin_of(confidence, correct, BINS)
    return Reliability(
        count=len(confidence),
        accuracy=float(correct.mean()),
        confidence=_probability(confidence.mean()),
        ece=_error(confidence - correct, bin_of),
        ece_interval=_bootstrapped(confidence - correct, bin_of, np.arange(len(correct)) if drawn is None else drawn),
        ece_perfect=_perfect(confidence, bin_of),
        brier=float(squared_errors.mean()),
        log_loss=float(log_losses.mean()),
        bins=reliability_bins(confidence, correct),
    )


def reliability_bins(confidence: FloatArray, correct: BoolArray) -> tuple[Bin, ...]:
    """Cut answers into the bins of a reliability diagram, by ascending score.

    Args:
        confidence: Score of each answer, shape `(answers,)`.
        correct: Whether it was right, shape `(answers,)`.

    Raises:
        ValueError: If the two differ in length or are empty.
    """
    bin_of = _bin_of(confidence, correct, BINS)
    return tuple(
        Bin(count=len(rows), confidence=_probability(confidence[rows].mean()), accuracy=float(correct[rows].mean()))
        for rows in (np.flatnonzero(bin_of == one) for one in range(bin_of.max() + 1))
    )


def reliability_of_pairs(
    scores: FloatArray, applies: BoolArray, *, squared_errors: FloatArray, log_losses: FloatArray
) -> Reliability:
    """Measure the scores of independent labels: of all pairs of a text and a label that have at least `PAIR_FLOOR`.

    The proper scores are means over all pairs. The bootstrap draws texts.

    Args:
        scores: Of each label, shape `(texts, labels)`.
        applies: Whether it applies, of the same shape.
        squared_errors: Of the same shape.
        log_losses: Of the same shape.
    """
    judged, floor = judged_pairs(scores)
    found = reliability(
        scores[judged], applies[judged], squared_errors=squared_errors, log_losses=log_losses,
        drawn=np.unique(np.nonzero(judged)[0], return_inverse=True)[1],
    )  # fmt: skip
    return found.model_copy(update={"unit": "pair", "floor": floor})


def judged_pairs(scores: FloatArray) -> tuple[BoolArray, float]:
    """Say which pairs of a text and a label are judged, and from which score on: all where none has `PAIR_FLOOR`.

    Args:
        scores: Of each label, shape `(texts, labels)`; the answer has the same shape.
    """
    judged = scores >= PAIR_FLOOR
    return (judged, PAIR_FLOOR) if judged.any() else (~judged, 0.0)


def perfect_error(confidence: FloatArray) -> Interval:
    """Simulate the error that perfectly calibrated scores show: its mean and its 95th percentile.

    A finite sample shows a gap in each bin even where there is none, the more the fewer answers a bin holds.

    Args:
        confidence: Score of each answer, shape `(answers,)`.

    Raises:
        ValueError: If it is empty.
    """
    return _perfect(confidence, _bin_of(confidence, confidence > 0, BINS))


def _bin_of(confidence: FloatArray, correct: BoolArray, bins: int) -> NDArray[np.intp]:
    """Number the bin of each answer, by ascending score."""
    if len(confidence) != len(correct) or not len(confidence):
        raise ValueError(f"Expected as many scores as outcomes, found {len(confidence)} and {len(correct)}.")
    bin_of = np.empty(len(confidence), dtype=np.intp)
    for number, rows in enumerate(np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(confidence)))):
        bin_of[rows] = number
    return bin_of


def _error(gaps: FloatArray, bin_of: NDArray[np.intp]) -> float:
    return _probability(np.abs(np.bincount(bin_of, weights=gaps)).sum() / len(gaps))


def _bootstrapped(gaps: FloatArray, bin_of: NDArray[np.intp], drawn: NDArray[np.intp]) -> Interval:
    """Resample with replacement (Efron 1979): the middle 95 % of the errors that are shown, in the same bins."""
    random = np.random.default_rng(SEED)
    units, bins = int(drawn.max()) + 1, int(bin_of.max()) + 1
    cell = drawn * bins + bin_of
    sums = np.bincount(cell, weights=gaps, minlength=units * bins).reshape(units, bins)
    sizes = np.bincount(drawn, minlength=units)
    errors = []
    for _ in range(DRAWS):
        times = np.bincount(random.integers(units, size=units), minlength=units)
        errors.append(np.abs(times @ sums).sum() / (times @ sizes))
    low, high = np.quantile(errors, (0.025, 0.975))
    return _probability(low), _probability(high)


def _perfect(confidence: FloatArray, bin_of: NDArray[np.intp]) -> Interval:
    random = np.random.default_rng(SEED)
    errors = [_error(confidence - (random.random(len(confidence)) < confidence), bin_of) for _ in range(DRAWS)]
    return float(np.mean(errors)), float(np.quantile(errors, 0.95))


def _probability(value: float) -> float:
    """Take off what rounding adds beyond 0 and 1."""
    return float(min(1.0, max(0.0, value)))
