"""Is a text of the kind that the model was trained for? Told from the encoder's features, by a distance and a p-value.

The distance is the cosine distance to the nearest class mean, in features that a forward gives anyway, so that no text
out of scope is needed and none is read twice. It is the Mahalanobis distance of Podolskiy et al. 2021 ("Revisiting
Mahalanobis Distance for Transformer-Based Out-of-Domain Detection", arXiv 2101.03778) with directions in place of a
covariance: of what `benchmarks.scope` compares, nothing that is kept in as few numbers tells more. Texts known to be
out of scope, where there are some, take away from the nearness of what lies near to them.

The p-value is the share of held-out texts that lie as far away or farther: a conformal one, so that at most 5 % of the
texts that are like those have one below 0.05, whatever the distribution (Bates et al. 2023, "Testing for Outliers with
Conformal p-values").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lc_finetune.checkpoint import SCOPE, Checkpoint
from lc_finetune.errors import CheckpointError

Float32 = NDArray[np.float32]

SIGNIFICANCE = 0.05
"""A text with a smaller p-value is out of scope: the share of texts in scope that this may cost."""
FEWEST = 20
"""Held-out texts below which no p-value is smaller than `SIGNIFICANCE`."""
OUTSIDE_WEIGHT = 0.5
"""What nearness to a known text out of scope takes away, in times of that nearness.

A compromise found on few texts: more tells texts of the kinds given better, and other kinds worse.
"""


@dataclass(frozen=True, eq=False)
class ScopeDetector:
    """Where a model's classes lie among its features, and how far from them held-out texts do.

    Attributes:
        center: Mean of the class means, shape `(hidden,)`.
        classes: Direction of each class from there, of length 1, shape `(classes, hidden)`.
        outside: Directions of texts known to be out of scope, shape `(texts, hidden)`; there may be none.
        reference: Distances of texts held out of training, ascending, shape `(texts,)`.
        significance: A text with a smaller p-value is out of scope.
    """

    center: Float32
    classes: Float32
    outside: Float32
    reference: Float32
    significance: float = SIGNIFICANCE

    def distances(self, features: NDArray[np.floating]) -> Float32:
        """Say how far each row lies from what the model knows: `(…, hidden)` → `(…,)`."""
        away = np.asarray(features, dtype=np.float32) - self.center
        nearness = (away @ self.classes.T).max(axis=-1)
        if len(self.outside):
            nearness = nearness - OUTSIDE_WEIGHT * (away @ self.outside.T).max(axis=-1)
        return np.asarray(1 - nearness / _lengths(away))

    def p_values(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Give the p-value of each row under "it is like the held-out texts": `(…, hidden)` → `(…,)`.

        Straight lines join the steps from above: still valid, and rounding never moves a p-value by a whole step.
        """
        smallest = 1 / (1 + len(self.reference))
        return np.asarray(np.interp(self.distances(features), self.reference, self._steps, left=1.0, right=smallest))

    @cached_property
    def _steps(self) -> NDArray[np.float64]:
        texts = len(self.reference)
        return np.arange(texts + 1, 1, -1) / (texts + 1)

    def save(self, folder: Path) -> None:
        """Write the statistics into a checkpoint's folder; its manifest has to be written after them."""
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in TENSORS}
        save_file(tensors, folder / SCOPE, metadata={"significance": repr(self.significance)})
        (folder / SCOPE).chmod(0o644)  # safetensors writes it readable by its owner alone


TENSORS = ("center", "classes", "outside", "reference")


def fit_detector(
    features: Float32,
    classes: NDArray[np.intp],
    held_out: Float32,
    *,
    outside: Float32 | None = None,
    significance: float = SIGNIFICANCE,
) -> ScopeDetector:
    """Take the statistics of a model's features.

    Args:
        features: Of training texts, shape `(texts, hidden)`.
        classes: The class of each, shape `(texts,)`; every class from 0 to the largest occurs.
        held_out: Features of texts that are in scope and were not trained on, shape `(texts, hidden)`.
        outside: Features of texts known to be out of scope, shape `(texts, hidden)`.
        significance: The share of texts in scope that may be taken for others.
    """
    means = np.stack([features[classes == one].mean(axis=0) for one in range(classes.max() + 1)])
    center = means.mean(axis=0)
    beyond = features[:0] if outside is None else outside
    directions = (_directions(means, center), _directions(beyond, center))
    unreferenced = ScopeDetector(center, *directions, features[:0, 0], significance)
    return ScopeDetector(center, *directions, np.sort(unreferenced.distances(held_out)), significance)


def read_detector(checkpoint: Checkpoint) -> ScopeDetector | None:
    """Read the statistics of a folder whose manifest names them; None if it has none.

    Raises:
        CheckpointError: If they are not those of a model with its classes and features.
    """
    if checkpoint.manifest is None or SCOPE not in checkpoint.manifest.files:
        return None
    path = checkpoint.path / SCOPE
    try:
        return _read(path, classes=len(checkpoint.labels), hidden=int(checkpoint.config["hidden_size"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected the scope statistics of this model, found others ({type(error).__name__}: {error}). "
            "Copy the checkpoint again, or train it anew."
        ) from error


def _read(path: Path, *, classes: int, hidden: int) -> ScopeDetector:
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in TENSORS}
        significance = float(file.metadata()["significance"])
    shapes = {"center": (hidden,), "classes": (classes, hidden)}
    shapes["outside"] = (len(tensors["outside"]), hidden)
    shapes["reference"] = (max(1, len(tensors["reference"])),)
    for name, tensor in tensors.items():
        if tensor.shape != shapes[name] or tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise ValueError(f"{name} is not of shape {shapes[name]}, in finite float32")
    if (np.diff(tensors["reference"]) < 0).any() or not 0 < significance < 1:
        raise ValueError("reference is not ascending, or the significance no share")
    return ScopeDetector(**tensors, significance=significance)


def _directions(features: Float32, center: Float32) -> Float32:
    away = features - center
    return np.asarray(away / _lengths(away)[..., None])


def _lengths(vectors: Float32) -> Float32:
    return np.asarray(np.sqrt(np.maximum((vectors * vectors).sum(axis=-1), np.finfo(np.float32).tiny)))
