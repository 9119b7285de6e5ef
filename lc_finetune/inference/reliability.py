"""How true scores are: calibration error, proper scores, and the reliability diagram."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lc_finetune.confidence import Bin, FloatArray, Interval, Reliability

BoolArray = NDArray[np.bool_]

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
    confidence: FloatArray, correct: BoolArray, *, squared_errors: FloatArray, log_losses: FloatArray
) -> Reliability:
    """Measure scores against what was right.

    Args:
        confidence: Score of each answer, shape `(answers,)`.
        correct: Whether it was right, shape `(answers,)`.
        squared_errors: Of each answer's probabilities, summed over its labels, shape `(answers,)`.
        log_losses: Negative log of the probability of what was right, shape `(answers,)`.

    Raises:
        ValueError: If the arrays differ in length or are empty.
    """
    bin_of = _bin_of(confidence, correct, BINS)
    return Reliability(
        count=len(confidence),
        accuracy=float(correct.mean()),
        confidence=_probability(confidence.mean()),
        ece=_error(confidence - correct, bin_of),
        ece_interval=_bootstrapped(confidence - correct, bin_of),
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


def _bootstrapped(gaps: FloatArray, bin_of: NDArray[np.intp]) -> Interval:
    """Resample answers with replacement (Efron 1979): the middle 95 % of the errors they show, in the same bins."""
    random = np.random.default_rng(SEED)
    chosen = (random.integers(len(gaps), size=len(gaps)) for _ in range(DRAWS))
    low, high = np.quantile([_error(gaps[rows], bin_of[rows]) for rows in chosen], (0.025, 0.975))
    return float(low), float(high)


def _perfect(confidence: FloatArray, bin_of: NDArray[np.intp]) -> Interval:
    random = np.random.default_rng(SEED)
    errors = [_error(confidence - (random.random(len(confidence)) < confidence), bin_of) for _ in range(DRAWS)]
    return float(np.mean(errors)), float(np.quantile(errors, 0.95))


def _probability(value: float) -> float:
    """Take off what rounding adds beyond 0 and 1."""
    return float(min(1.0, max(0.0, value)))
