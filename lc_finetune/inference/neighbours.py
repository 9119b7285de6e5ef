"""Training rows that a checkpoint keeps in `private/`, and which of them the model takes for most like a text.

Like are texts whose features, the mean over the pieces of the encoder's last state, point the same way. The rows stand
in JSONL and their directions in safetensors, side by side, as what they were made with: other weights have others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lc_finetune.checkpoint import Checkpoint, write_text_atomically
from lc_finetune.data import MultiLabelExample, TextExample
from lc_finetune.errors import CheckpointError
from lc_finetune.remote import PRIVATE
from lc_finetune.schemas import Neighbour

Float32 = NDArray[np.float32]

ROWS, DIRECTIONS = "neighbours.jsonl", "neighbours.safetensors"


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    label: str | None = None
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Rows, and where they lie among a model's features.

    Attributes:
        rows: A text each, with its label or its labels.
        directions: Of length 1, shape `(rows, hidden)`.
    """

    rows: Sequence[_Row]
    directions: Float32

    @classmethod
    def of(cls, examples: Sequence[TextExample | MultiLabelExample], features: Float32) -> Neighbourhood:
        """Take rows, and a model's features of them, shape `(rows, hidden)`."""
        rows = [
            _Row(text=one.text, label=one.label)
            if isinstance(one, TextExample)
            else _Row(text=one.text, labels=one.labels)
            for one in examples
        ]
        return cls(rows, _directions(features))

    def nearest(self, features: NDArray[np.floating], most: int) -> tuple[Neighbour, ...]:
        """Find the rows most like a text, from its features, shape `(hidden,)`; the most similar first."""
        similarities = np.clip(self.directions @ _directions(features), -1, 1)
        order = np.argsort(-similarities, kind="stable")[:most].tolist()
        return tuple(Neighbour(similarity=float(similarities[i]), **self.rows[i].model_dump()) for i in order)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the rows into `private/` of the checkpoint they were made with, readable by its owner alone."""
        private = checkpoint.path / PRIVATE
        private.mkdir(mode=0o700, exist_ok=True)
        lines = [json.dumps(row.model_dump(exclude_none=True)) + "\n" for row in self.rows]
        write_text_atomically(private / ROWS, "".join(lines), mode=0o600)
        made_with = {"weights": checkpoint.weights_digest}
        save_file({"directions": np.ascontiguousarray(self.directions)}, private / DIRECTIONS, metadata=made_with)
        (private / DIRECTIONS).chmod(0o600)


def read_neighbourhood(checkpoint: Checkpoint) -> Neighbourhood | None:
    """Read the rows that a checkpoint keeps; None if it keeps none, or they were not copied along.

    Raises:
        CheckpointError: If they are unreadable, or were made with other weights; no row is named.
    """
    private = checkpoint.path / PRIVATE
    if not (private / ROWS).exists() and not (private / DIRECTIONS).exists():
        return None
    try:
        return _read(private, hidden=int(checkpoint.config["hidden_size"]), weights=checkpoint.weights_digest)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        what = str(error) if type(error) is ValueError else type(error).__name__  # pydantic's words hold the row
        raise CheckpointError(
            f"{private}: expected in {ROWS} and {DIRECTIONS} the rows kept with this model, found others ({what}). "
            "Copy the checkpoint again, or delete both files to go on without these rows."
        ) from None


def _read(private: Path, *, hidden: int, weights: str) -> Neighbourhood:
    with safe_open(private / DIRECTIONS, framework="numpy") as file:
        directions = file.get_tensor("directions")
        made_with = file.metadata()["weights"]
    rows = []
    for number, line in enumerate((private / ROWS).read_text(encoding="utf-8").split("\n"), 1):
        if line:
            try:
                rows.append(_Row.model_validate_json(line))
            except ValidationError:
                raise ValueError(f"{ROWS}:{number} is no row") from None
    if directions.shape != (len(rows), hidden) or directions.dtype != np.float32 or not np.isfinite(directions).all():
        raise ValueError(f"directions are not of shape {(len(rows), hidden)}, in finite float32")
    if made_with != weights:
        raise ValueError("made with other weights")
    return Neighbourhood(rows, directions)


def _directions(features: NDArray[np.floating]) -> Float32:
    wide = np.asarray(features, dtype=np.float32)
    length = np.sqrt(np.maximum((wide * wide).sum(axis=-1, keepdims=True), np.finfo(np.float32).tiny))
    return np.asarray(wide / length)
