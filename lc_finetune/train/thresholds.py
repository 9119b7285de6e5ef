"""From which score on each label is given: chosen on labelled rows that no step was taken on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lc_finetune.inference.decode import DEFAULT_THRESHOLD, sigmoid

FloatArray = NDArray[np.float64]
TRUST = 10.0
"""Rows with a label at which its own threshold counts as much as the one that all labels share."""
METHOD = (
    "per label the threshold of highest F1, drawn in logits towards the one shared threshold of highest macro F1: "
    f"its own counts n / (n + {TRUST:g}) with n rows that have the label"
)


def choose_thresholds(gold: NDArray[np.bool_], logits: FloatArray) -> FloatArray:
    """Choose thresholds for high macro F1.

    F1 is highest at a threshold well below 0.5 for labels that are rare or hard (Lipton et al. 2014, "Optimal
    Thresholding of Classifiers to Maximize F1 Measure"). The best threshold of a label with few rows says more of those
    rows than of the label, so it is drawn towards the threshold that serves all labels best, the more the fewer rows
    there are; a label without a row takes that one.

    Args:
        gold: Whether a label applies, shape `(texts, labels)`.
        logits: Of the model, of the same shape.

    Returns:
        Thresholds on the sigmoid of the logits, shape `(labels,)`; 0.5 where no text has any label.
    """
    known = gold.any(axis=0)
    if not known.any():
        return np.full(gold.shape[1], DEFAULT_THRESHOLD)
    shared = _shared(gold[:, known], logits[:, known])
    own = np.array([_best_cut(*column) if column[0].any() else shared for column in zip(gold.T, logits.T, strict=True)])
    rows = gold.sum(axis=0)
    return sigmoid(shared + (own - shared) * rows / (rows + TRUST))


def _shared(gold: NDArray[np.bool_], logits: FloatArray) -> float:
    """Find the one threshold, in logits, of highest macro F1, on a grid of a hundredth in probability."""
    grid = np.arange(0.01, 1.0, 0.01)
    cuts = np.log(grid / (1.0 - grid))
    return float(max(cuts, key=lambda cut: _macro_f1(gold, logits >= cut)))


def _macro_f1(gold: NDArray[np.bool_], found: NDArray[np.bool_]) -> float:
    f1 = 2 * (found & gold).sum(axis=0) / np.maximum(1, found.sum(axis=0) + gold.sum(axis=0))
    return float(f1.mean())


def _best_cut(gold: NDArray[np.bool_], logits: FloatArray) -> float:
    """Find the threshold of highest F1 of one label: midway between two neighbouring logits, shape `(texts,)`."""
    order = np.argsort(-logits)
    ranked, right = logits[order], np.cumsum(gold[order])
    f1 = 2 * right / (np.arange(1, len(gold) + 1) + gold.sum())
    last_of_equals = np.append(ranked[:-1] > ranked[1:], True)
    best = int(np.where(last_of_equals, f1, -1.0).argmax())
    below = ranked[best + 1] if best + 1 < len(ranked) else ranked[best] - 1.0
    return float((ranked[best] + below) / 2)


def choose_null_margin(margins: FloatArray, if_answered: FloatArray, if_not: FloatArray) -> float:
    """Choose from which margin on there is no answer, for the highest F1; of equals, the one nearest to 0.

    As the script of SQuAD 2 finds its threshold (Rajpurkar et al. 2018, "Know What You Don't Know").

    Args:
        margins: By how much no answer is more probable than the best span, shape `(questions,)`.
        if_answered: F1 of that span, of the same shape.
        if_not: F1 of no answer, of the same shape.
    """
    ranked = np.unique(margins[np.isfinite(margins)])
    if not len(ranked):
        return 0.0
    cuts = np.concatenate([[ranked[0] - 1.0], (ranked[:-1] + ranked[1:]) / 2, [ranked[-1] + 1.0], [0.0]])
    reached = {float(cut): float(np.where(margins > cut, if_not, if_answered).mean()) for cut in cuts}
    return max(reached, key=lambda cut: (reached[cut], -abs(cut)))
