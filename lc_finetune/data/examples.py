"""Labelled texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lc_finetune.checkpoint import Task
from lc_finetune.labels import Span
from lc_finetune.markers import Range, mark
from lc_finetune.schemas import Input


@dataclass(frozen=True, slots=True)
class TextExample:
    """A text with one label."""

    text: str
    label: str


@dataclass(frozen=True, slots=True)
class PairExample(TextExample):
    """A pair of texts with one label."""

    text_pair: str


@dataclass(frozen=True, slots=True)
class RelationExample(TextExample):
    """A text, without any marker, two mentions in it by their character offsets, and the relation between them."""

    head: Range
    tail: Range


@dataclass(frozen=True, slots=True)
class IntentExample(TextExample):
    """A text with one label and entity spans: character offsets, sorted, disjoint."""

    spans: tuple[Span, ...]

    @property
    def classified(self) -> TextExample:
        """The text with its label alone."""
        return TextExample(self.text, self.label)

    @property
    def tagged(self) -> TaggedExample:
        """The text with its entities alone."""
        return TaggedExample(self.text, self.spans)


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


@dataclass(frozen=True, slots=True)
class QuestionExample:
    """A question, a context, and the parts of it that answer, each by its character offsets; none if nothing does."""

    question: str
    context: str
    answers: tuple[Range, ...]

    @property
    def text(self) -> str:
        """The context: what the offsets count in."""
        return self.context

    @property
    def answer_texts(self) -> tuple[str, ...]:
        """The characters of the answers."""
        return tuple(self.context[start:end] for start, end in self.answers)


Example = TextExample | MultiLabelExample | RegressionExample | TaggedExample | QuestionExample


@dataclass(frozen=True)
class Loaded:
    """The examples of one source, what was noticed while reading, and what stood between the labels of a cell."""

    examples: tuple[Example, ...]
    task: Task
    notes: tuple[str, ...] = ()
    label_delimiter: str | None = None


def inputs_of(examples: Sequence[Example]) -> list[Input]:
    """List what a model is given of each example."""
    return [input_of(example) for example in examples]


def input_of(example: Example) -> Input:
    """Give the text, with markers around its two mentions if it has such, or both texts, or question and context."""
    if isinstance(example, RelationExample):
        return mark(example.text, example.head, example.tail)
    if isinstance(example, QuestionExample):
        return example.question, example.context
    return (example.text, example.text_pair) if isinstance(example, PairExample) else example.text


def gold_of(examples: Sequence[Example]) -> Any:
    """List the right answers: a label of each, its labels, its number, its spans, both, or its answers."""
    return [answer_of(example) for example in examples]


def answer_of(example: Example) -> Any:
    """Give the right answer: a label, labels, a number, spans, label and spans, or all answers to a question."""
    if isinstance(example, IntentExample):
        return example.label, example.spans
    if isinstance(example, QuestionExample):
        return example.answer_texts
    if isinstance(example, TextExample):
        return example.label
    if isinstance(example, RegressionExample):
        return example.value
    return example.labels if isinstance(example, MultiLabelExample) else example.spans
