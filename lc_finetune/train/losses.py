"""A loss in which classes, or rows that are right already, do not all count alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lc_finetune.errors import ConfigError, did_you_mean, shown
from lc_finetune.train.tokenization import IGNORED, Feature

ClassWeights = Literal["balanced"] | dict[str, float]
LossKind = Literal["softmax", "sigmoid", "cumulative"]
"""What is compared with the labels: their probabilities, one of them being right; those of independent labels; or, of
labels in an order, those of each label or a lower one."""


class Loss:
    """Cross-entropy with class weights, focus on what is still wrong, and label smoothing.

    Of labels in an order, the loss is the sum over all places where the order can be cut in two of the cross-entropy of
    the side that the label is on, so that a probability costs the more the farther from the label it lies. The two
    sides' probabilities come from one softmax: they never contradict each other. With two labels it is the
    cross-entropy. After Frank and Hall 2001, "A Simple Approach to Ordinal Classification"; the ranked probability
    score (Epstein 1969) with logarithms in place of squares.

    What `Trainer` takes as `compute_loss_func`: the sum over the rows (pieces, for a tagger) divided by their number in
    all micro-batches of a step.
    """

    def __init__(
        self,
        *,
        weights: NDArray[np.floating] | None = None,
        gamma: float = 0.0,
        smoothing: float = 0.0,
        kind: LossKind = "softmax",
    ) -> None:
        """Choose what counts.

        Args:
            weights: Of the classes, shape `(labels,)`; of independent labels, the weight of a text that has the label
                beside one that has not.
            gamma: Focus: a row counts `(1 − p) ** gamma`, `p` being the probability of its label (Lin et al. 2017,
                "Focal Loss for Dense Object Detection").
            smoothing: Share of a row that is spread over all labels (Szegedy et al. 2016, "Rethinking the Inception
                Architecture for Computer Vision").
            kind: What is compared with the labels.
        """
        self._weights = weights
        self._gamma = gamma
        self._smoothing = smoothing
        self._kind = kind

    def __call__(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        """Measure logits `(…, labels)` against label ids `(…)`, or 0 and 1 in the shape of the logits."""
        import torch

        logits = (outputs["logits"] if isinstance(outputs, dict) else outputs[0]).float()
        weights = None if self._weights is None else torch.as_tensor(self._weights).to(logits)
        measure = self._of_labels if self._kind == "sigmoid" else self._of_rows
        each = measure(logits, labels, weights)
        number = each.numel() if num_items_in_batch is None else num_items_in_batch
        return each.sum() / (number.to(each.device) if torch.is_tensor(number) else max(number, 1))

    def _of_rows(self, logits: Any, labels: Any, weights: Any) -> Any:
        import torch

        logits, labels = logits.flatten(0, -2), labels.flatten()
        known = labels != IGNORED
        log_p, labels = torch.log_softmax(logits[known], dim=-1), labels[known]
        right = log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        if self._kind == "cumulative":
            each = self._of_cuts(log_p, labels)
        else:
            each = -(1.0 - self._smoothing) * right - self._smoothing * log_p.mean(dim=-1)
        if self._gamma:
            each = each * (1.0 - right.exp()) ** self._gamma
        return each if weights is None else each * weights[labels]

    def _of_cuts(self, log_p: Any, labels: Any) -> Any:
        """Sum over the cuts; log-probabilities `(rows, labels)` and label ids `(rows,)` → `(rows,)`."""
        from torch.nn.functional import one_hot

        wanted = (1.0 - self._smoothing) * one_hot(labels, log_p.shape[-1]) + self._smoothing / log_p.shape[-1]
        below = log_p.logcumsumexp(dim=-1)[:, :-1]
        above = log_p.flip(-1).logcumsumexp(dim=-1).flip(-1)[:, 1:]
        wanted_below = wanted.cumsum(dim=-1)[:, :-1]
        return -(wanted_below * below + (1.0 - wanted_below) * above).sum(dim=-1)

    def _of_labels(self, logits: Any, labels: Any, weights: Any) -> Any:
        from torch.nn.functional import binary_cross_entropy_with_logits

        labels = labels.to(logits)
        each = binary_cross_entropy_with_logits(logits, labels, pos_weight=weights, reduction="none")
        if self._gamma:
            p = logits.sigmoid()
            each = each * (1.0 - (labels * p + (1.0 - labels) * (1.0 - p))) ** self._gamma
        return each


def class_weights(asked: ClassWeights, features: Sequence[Feature], names: Sequence[str]) -> NDArray[np.float64]:
    """Give each label its weight, shape `(labels,)`.

    `"balanced"` gives every class the same part in the loss: rows / (classes × rows of the class), as in King and Zeng
    2001, "Logistic Regression in Rare Events Data"; of independent labels, texts without the label / texts with it. A
    mapping names labels, or a tagger's entity types and `O`; what it does not name weighs 1.

    Args:
        asked: What the configuration says.
        features: The training rows, to count.
        names: The class of each column of the head: labels, or entity types and `O`.

    Raises:
        ConfigError: If the mapping names a label that the training rows do not have.
    """
    if isinstance(asked, Mapping):
        return _given(asked, names)
    wanted = [np.asarray(feature["labels"]) for feature in features]
    if wanted[0].dtype.kind == "f":  # rows of 0 and 1
        positive = np.sum(wanted, axis=0)
        return np.asarray(np.maximum(len(wanted) - positive, 1.0) / np.maximum(positive, 1.0), dtype=np.float64)
    ids = np.concatenate([np.atleast_1d(row) for row in wanted])
    counts = np.bincount(ids[ids != IGNORED], minlength=len(names))
    present = counts > 0
    return np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 1.0)


def _given(asked: Mapping[str, float], names: Sequence[str]) -> NDArray[np.float64]:
    unknown = [name for name in asked if name not in names]
    if unknown:
        raise ConfigError(
            f"class_weights: expected labels of the training rows, found {shown(unknown)!r}"
            f"{did_you_mean(unknown[0], names)}. Correct the name, or leave it out."
        )
    return np.array([asked.get(name, 1.0) for name in names])
