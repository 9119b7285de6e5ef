"""Scores and outcomes → maps: each kind fitted by penalised likelihood, so that few rows prove no certainty."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lc_finetune.confidence import SMALLEST, Beta, FloatArray, Isotonic

BoolArray = NDArray[np.bool_]

PRIOR = 2.0
"""Standard deviation of the normal priors on a map's parameters around those that change nothing: they matter only
where there are few rows, and keep a model that was always right there from being certain."""
NEUTRAL = Beta(a=1.0, b=1.0, c=0.0)
"""The map that changes nothing."""


def fit_temperature(logits: FloatArray, gold: NDArray[np.intp]) -> float:
    """Find the temperature of least log loss: Guo et al. 2017, "On Calibration of Modern Neural Networks".

    Args:
        logits: Shape `(texts, labels)`.
        gold: Column of the right label, shape `(texts,)`.
    """
    from scipy.optimize import minimize_scalar

    of_gold = logits[np.arange(len(gold)), gold]

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        largest = logits.max(axis=1)
        normalizer = np.log(np.exp(scale * (logits - largest[:, None])).sum(axis=1))
        return float((normalizer - scale * (of_gold - largest)).sum() + log_temperature**2 / (2 * PRIOR**2))

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x))


def fit_beta(scores: FloatArray, right: BoolArray, *, around: Beta = NEUTRAL, spread: float = PRIOR) -> Beta:
    """Find the beta map of most posterior probability: Kull et al. 2017, "Beta calibration".

    Args:
        scores: Of each answer, shape `(answers,)`.
        right: Whether it was right, shape `(answers,)`.
        around: Center of the normal prior on the parameters.
        spread: Its standard deviation.
    """
    from scipy.optimize import minimize

    p = np.clip(scores, SMALLEST, 1.0 - SMALLEST)
    features = np.stack([np.log(p), -np.log1p(-p), np.ones_like(p)], axis=1)
    center = np.array([around.a, around.b, around.c])
    sign = np.where(right, 1.0, -1.0)

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        margin = sign * (features @ parameters)
        away = parameters - center
        slope = -sign / (1.0 + np.exp(np.clip(margin, -500, 500)))
        value = np.logaddexp(0.0, -margin).sum() + (away**2).sum() / (2 * spread**2)
        return float(value), features.T @ slope + away / spread**2

    fitted = minimize(loss, center, jac=True, method="L-BFGS-B", bounds=[(0.0, None), (0.0, None), (None, None)])
    a, b, c = map(float, fitted.x)
    return Beta(a=a, b=b, c=c)


def fit_isotonic(scores: FloatArray, right: BoolArray) -> Isotonic:
    """Join the middles of the pooled blocks; none is surer than as many rows can show (Laplace's rule).

    Args:
        scores: Of each answer, shape `(answers,)`.
        right: Whether it was right, shape `(answers,)`.
    """
    from sklearn.isotonic import isotonic_regression

    order = np.argsort(scores, kind="stable")
    # Not `IsotonicRegression`, which divides by the distance of neighbours: scores may differ in the last digit alone.
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    shares = np.bincount(which, weights=right) / counts
    levels = isotonic_regression(shares, sample_weight=counts)[which][order]
    edges = np.flatnonzero(np.diff(levels)) + 1
    margin = 1.0 / (len(scores) + 2)
    return Isotonic(
        knots=tuple(
            (float(np.clip(block.mean(), 0.0, 1.0)), float(np.clip(level.mean(), margin, 1.0 - margin)))
            for block, level in zip(np.split(scores[order], edges), np.split(levels, edges), strict=True)
        )
    )
