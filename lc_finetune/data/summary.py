"""What a user should know of the data before training starts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lc_finetune.data.examples import (
    Example,
    MultiLabelExample,
    PairExample,
    QuestionExample,
    RegressionExample,
    RelationExample,
    TaggedExample,
    answer_of,
    input_of,
    inputs_of,
)
from lc_finetune.data.split import Splits, classes
from lc_finetune.errors import shown

UNKNOWN_WARNING = 0.05
"""Share of unknown pieces past which the base model does not fit the language."""


@dataclass(frozen=True)
class Summary:
    """Figures of a data set; lengths in pieces, special tokens left out.

    Attributes:
        per_row: Of multi-label data, number of labels → training rows that have as many.
        learns: What of the model is trained, if not all of it.
        marked: Whether texts have two marked mentions.
        values: Of numbers, what they come to in the training rows.
    """

    sizes: dict[str, int]
    labels: dict[str, int]
    lengths: dict[str, int]
    duplicates: int
    unknown: float
    longer: int
    max_length: int
    notes: tuple[str, ...]
    out_of_scope: dict[str, int] = field(default_factory=dict)
    estimated_seconds: float | None = None
    per_row: dict[int, int] = field(default_factory=dict)
    learns: str | None = None
    marked: bool = False
    values: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = sorted(self.labels.items(), key=lambda item: (-item[1], item[0]))
        listed = counts if len(counts) <= 8 else [*counts[:4], ("…", len(counts) - 7), *counts[-3:]]
        rows = sum(self.sizes.values())
        lines = [
            "Data",
            "  rows        " + ", ".join(f"{part} {size:,}" for part, size in self.sizes.items() if size),
            "  numbers     " + ", ".join(f"{name} {value:.4g}" for name, value in self.values.items())
            if self.values
            else f"  labels      {len(counts)}: " + ", ".join(f"{shown([name])} {count:,}" for name, count in listed),
            *self._out_of_scope(),
            *([f"  per row     {self._labels_a_row()}"] if self.per_row else []),
            "  pieces      " + ", ".join(f"{name} {value}" for name, value in self.lengths.items()),
            f"  duplicates  {self.duplicates:,} rows, near ones included",
            f"  unknown     {self.unknown:.1%} of pieces",
            f"  windows     {self.longer:,} rows ({self.longer / rows:.1%}) longer than {self.max_length} pieces are "
            f"read {'around their two mentions' if self.marked else 'in windows, none is cut'}",
        ]
        if self.learns is not None:
            lines.append(f"  learns      {self.learns}")
        if self.estimated_seconds is not None:
            minutes, seconds = divmod(round(self.estimated_seconds), 60)
            lines.append(f"  time        about {minutes} min {seconds} s")
        if self.unknown > UNKNOWN_WARNING:
            lines.append("  WARNING     many pieces are unknown to the base model: is it made for this language?")
        return "\n".join([*lines, *(f"  note        {note}" for note in self.notes)])

    def _out_of_scope(self) -> list[str]:
        parts = ", ".join(f"{part} {size:,}" for part, size in self.out_of_scope.items() if size)
        return [f"  no class    {parts} rows out of scope, not among the rows above"] if parts else []

    def _labels_a_row(self) -> str:
        mean = sum(number * rows for number, rows in self.per_row.items()) / sum(self.per_row.values())
        rows = ", ".join(f"{number} in {rows:,}" for number, rows in sorted(self.per_row.items()))
        return f"{mean:.2f} labels: {rows} rows"


def summarize(splits: Splits, tokenizer: Any, *, max_length: int, notes: Iterable[str] = ()) -> Summary:
    """Count rows, labels, lengths, duplicates and unknown pieces.

    Args:
        splits: The parts.
        tokenizer: The base model's fast tokenizer.
        max_length: Pieces in one window, special tokens included.
        notes: What the readers noticed.
    """
    examples = [*splits.train, *splits.validation, *splits.calibration, *splits.test]
    pairs = isinstance(examples[0], PairExample | QuestionExample)
    encoded = tokenizer(inputs_of(examples), add_special_tokens=False, truncation=False, verbose=False)
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    unknown = sum(ids.count(tokenizer.unk_token_id) for ids in encoded["input_ids"])
    room = max_length - tokenizer.num_special_tokens_to_add(pair=pairs)
    return Summary(
        sizes=splits.sizes,
        labels=dict(Counter(name for example in splits.train for name in _occurrences(example))),
        lengths={f"p{q}": int(np.percentile(lengths, q)) for q in (50, 95)} | {"longest": int(lengths.max())},
        duplicates=splits.duplicates,
        unknown=unknown / max(1, int(lengths.sum())) if tokenizer.unk_token_id is not None else 0.0,
        longer=int((lengths > room).sum()),
        max_length=max_length,
        notes=(*notes, *splits.notes),
        out_of_scope={"train and validation": len(splits.out_of_scope), "test": len(splits.out_of_scope_test)},
        values=_values([e.value for e in splits.train if isinstance(e, RegressionExample)]),
        per_row=dict(Counter(len(e.labels) for e in splits.train if isinstance(e, MultiLabelExample))),
        marked=isinstance(examples[0], RelationExample),
    )


def _values(numbers: list[float]) -> dict[str, float]:
    if not numbers:
        return {}
    return {
        "from": min(numbers),
        "to": max(numbers),
        "mean": float(np.mean(numbers)),
        "deviation": float(np.std(numbers)),
    }


def fingerprint(examples: Iterable[Example]) -> str:
    """Hash texts and labels, whatever the order of the rows."""
    rows = sorted(json.dumps([input_of(e), answer_of(e)]) for e in examples)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _occurrences(example: Example) -> tuple[str, ...]:
    return tuple(span.label for span in example.spans) if isinstance(example, TaggedExample) else classes(example)
