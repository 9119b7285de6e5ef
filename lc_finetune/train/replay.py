"""Rows that a checkpoint keeps of its training data, in `private/`, so that a later training does not forget them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from lc_finetune.checkpoint import write_text_atomically
from lc_finetune.data import Example, MultiLabelExample, Splits, TaggedExample, TextExample
from lc_finetune.data.duplicates import fold
from lc_finetune.data.split import classes as classes_of
from lc_finetune.errors import CheckpointError
from lc_finetune.labels import Span
from lc_finetune.remote import PRIVATE

REPLAY = "replay.jsonl"
HELD_OUT_SHARE = 0.25
"""Rows that are kept of those that no step was taken on, in times of the kept training rows, at most."""


@dataclass(frozen=True)
class Replay:
    """The rows kept: of those trained on, and of those held out, for the choice of the epoch and for calibration."""

    train: tuple[Example, ...] = ()
    held_out: tuple[Example, ...] = ()


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    part: Literal["train", "held_out"]
    text: str
    label: str | None = None
    labels: tuple[str, ...] | None = None
    spans: tuple[Span, ...] | None = None

    def example(self) -> Example:
        if self.label is not None:
            return TextExample(self.text, self.label)
        if self.labels is not None:
            return MultiLabelExample(self.text, self.labels)
        if self.spans is not None:
            return TaggedExample(self.text, self.spans)
        raise ValueError("a row without an answer")


def choose_replay(splits: Splits, rows: int) -> Replay:
    """Choose rows to keep, as many of each class as there are.

    Args:
        splits: What was trained on.
        rows: Of the training rows, at most; of those held out, a quarter as many.
    """
    held_out = (*splits.validation, *splits.calibration)
    return Replay(balanced(splits.train, rows), balanced(held_out, int(rows * HELD_OUT_SHARE)))


def balanced(examples: Sequence[Example], most: int) -> tuple[Example, ...]:
    """Choose rows as `in_turn` does; of several classes of a row, its rarest counts."""
    frequency = Counter(name for example in examples for name in classes_of(example))
    rarest = [min(classes_of(one), key=lambda name: (frequency[name], name), default="") for one in examples]
    return tuple(examples[row] for row in in_turn(rarest, most))


def in_turn(classes: Sequence[Hashable], most: int) -> list[int]:
    """Choose rows at random, one of each class, then another of each, until there are enough; in their own order.

    Example:
        >>> in_turn([0, 0, 0, 0, 1], 2)[-1]
        4
    """
    seen: Counter[Hashable] = Counter()
    turns: list[tuple[int, int]] = []
    for row in np.random.default_rng(0).permutation(len(classes)).tolist():
        turns.append((seen[classes[row]], row))
        seen[classes[row]] += 1
    return sorted(row for _, row in sorted(turns)[:most])


def write_replay(folder: Path, replay: Replay) -> None:
    """Write the rows into `private/` of a checkpoint, readable by its owner alone."""
    private = folder / PRIVATE
    private.mkdir(mode=0o700, exist_ok=True)
    lines = [
        json.dumps({"part": part, **asdict(example)}) + "\n"
        for part in ("train", "held_out")
        for example in getattr(replay, part)
    ]
    write_text_atomically(private / REPLAY, "".join(lines), mode=0o600)


def read_replay(folder: Path) -> Replay:
    """Read the rows that a checkpoint keeps; none if it keeps none.

    Raises:
        CheckpointError: If the file cannot be read; the line is named.
    """
    path = folder / PRIVATE / REPLAY
    if not path.is_file():
        return Replay()
    parts: dict[str, list[Example]] = {"train": [], "held_out": []}
    number = 0
    try:
        for line in path.read_text(encoding="utf-8").split("\n"):
            number += 1
            if line:
                row = _Row.model_validate_json(line)
                parts[row.part].append(row.example())
    except (OSError, ValueError, ValidationError) as error:
        raise CheckpointError(
            f"{path}:{number}: expected a row kept for replay, found something else ({type(error).__name__}). "
            "Copy the checkpoint again, or delete the file to go on without these rows."
        ) from None  # pydantic's words hold the row
    return Replay(tuple(parts["train"]), tuple(parts["held_out"]))


def not_among(replay: Replay, splits: Splits) -> Replay:
    """Leave out the kept rows whose text is among new rows, with whatever answer: the new one counts."""
    new = {fold(row.text) for part in ("train", "validation", "calibration", "test") for row in getattr(splits, part)}
    train, held_out = (
        tuple(row for row in rows if fold(row.text) not in new) for rows in (replay.train, replay.held_out)
    )
    return Replay(train, held_out)


def with_replay(splits: Splits, replay: Replay) -> Splits:
    """Add kept rows to the new ones; validation and calibration, if there is one, share those held out."""
    every = 2 if splits.calibration else 1
    return replace(
        splits,
        train=(*splits.train, *replay.train),
        validation=(*splits.validation, *replay.held_out[::every]),
        calibration=(*splits.calibration, *(replay.held_out[1::2] if splits.calibration else ())),
    )
