"""The log of a training run → curves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HISTORY = "metrics.jsonl"
TRIALS = "search.jsonl"
"""The trials of a search for settings, one a line."""
LOSSES = {"loss": "training", "eval_loss": "validation"}
"""Field of the log → name of its curve."""
NOT_METRICS = ("runtime", "per_second", "loss", "model_preparation_time")
"""How fields of the log end that measure no quality."""


@dataclass(frozen=True)
class Curve:
    """A figure over the epochs: points of (epoch, value), in order."""

    name: str
    points: tuple[tuple[float, float], ...]


def read_history(folder: Path, name: str = HISTORY) -> list[dict[str, Any]]:
    """Read what a checkpoint folder keeps of its training; nothing if it keeps none, and no line that is not JSON."""
    path = folder / name
    if not path.is_file():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def loss_curves(history: Iterable[Mapping[str, Any]]) -> list[Curve]:
    """Take the losses out of the Trainer's log."""
    return _curves(history, LOSSES)


def metric_curves(history: Iterable[Mapping[str, Any]]) -> list[Curve]:
    """Take the validation metrics out of the Trainer's log."""
    entries = list(history)
    fields = dict.fromkeys(field for entry in entries for field in entry if field.startswith("eval_"))
    metrics = [field for field in fields if not field.endswith(NOT_METRICS)]
    return _curves(
        entries,
        {field: f"validation {field.removeprefix('eval_').replace('_', ' ').replace('f1', 'F1')}" for field in metrics},
    )


def _curves(history: Iterable[Mapping[str, Any]], names: Mapping[str, str]) -> list[Curve]:
    entries = list(history)
    curves = []
    for field, name in names.items():
        points = [(entry["epoch"], entry[field]) for entry in entries if "epoch" in entry and field in entry]
        finite = [(float(x), float(y)) for x, y in points if _is_finite(x) and _is_finite(y)]
        if finite:
            curves.append(Curve(name, tuple(sorted(finite))))
    return curves


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
