"""Labelled texts."""

from __future__ import annotations

from dataclasses import dataclass

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
