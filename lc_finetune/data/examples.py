"""Labelled texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lc_finetune.labels import Span


@dataclass(frozen=True, slots=True)
class TextExample:
    """A text with one label."""

    text: str
    label: str


@dataclass(frozen=True, slots=True)
class TaggedExample:
    """A text with entity spans: character offsets, sorted, disjoint."""

    text: str
    spans: tuple[Span, ...]


Example = TextExample | TaggedExample


def gold_of(examples: Sequence[Example]) -> Any:
    """List the right answers: labels, or spans."""
    return [example.label if isinstance(example, TextExample) else example.spans for example in examples]
