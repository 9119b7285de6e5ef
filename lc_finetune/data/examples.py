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
class MultiLabelExample:
    """A text with any number of labels, sorted, each once."""

    text: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RegressionExample:
    """A text with a number."""

    text: str
    value: float


@dataclass(frozen=True, slots=True)
class TaggedExample:
    """A text with entity spans: character offsets, sorted, disjoint."""

    text: str
    spans: tuple[Span, ...]


Example = TextExample | MultiLabelExample | RegressionExample | TaggedExample


def gold_of(examples: Sequence[Example]) -> Any:
    """List the right answers: a label of each, its labels, its number, or its spans."""
    return [answer_of(example) for example in examples]


def answer_of(example: Example) -> Any:
    """Give the right answer: a label, labels, a number, or spans."""
    if isinstance(example, TextExample):
        return example.label
    if isinstance(example, RegressionExample):
        return example.value
    return example.labels if isinstance(example, MultiLabelExample) else example.spans
