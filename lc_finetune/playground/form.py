"""What of an answer can be corrected: result → values of a form → example to train on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Self, cast

from lc_finetune.checkpoint import JOINT, ORDINAL, QUESTIONS, RELATIONS, TAGGED, Checkpoint, Task
from lc_finetune.data import (
    Example,
    IntentExample,
    MultiLabelExample,
    PairExample,
    QuestionExample,
    RegressionExample,
    RelationExample,
    TaggedExample,
    TextExample,
)
from lc_finetune.errors import InputError, did_you_mean
from lc_finetune.labels import Span
from lc_finetune.markers import Range, tight
from lc_finetune.schemas import (
    MultiLabelClassification,
    PairClassification,
    QuestionAnswer,
    Regression,
    RelationClassification,
    Result,
)
from lc_finetune.schemes import TagSet

FieldName = Literal["label", "labels", "number", "entities", "answers"]
FIELDS: dict[Task, tuple[FieldName, ...]] = {
    "text-classification": ("label",),
    "text-pair-classification": ("label",),
    ORDINAL: ("label",),
    RELATIONS: ("label",),
    "multi-label-classification": ("labels",),
    "regression": ("number",),
    "token-classification": ("entities",),
    JOINT: ("label", "entities"),
    QUESTIONS: ("answers",),
}
"""What is filled in for each task."""
TEXTS: dict[Task, tuple[str, ...]] = {
    "text-pair-classification": ("text", "text_pair"),
    QUESTIONS: ("question", "context"),
}
"""What is asked about, for tasks that are not given one text."""
KEYS: dict[Task, tuple[str, ...]] = {
    "text-classification": ("text", "label"),
    "text-pair-classification": ("text", "text_pair", "label"),
    ORDINAL: ("text", "label"),
    RELATIONS: ("text", "head", "tail", "label"),
    "multi-label-classification": ("text", "labels"),
    "regression": ("text", "label"),
    "token-classification": ("text", "entities"),
    JOINT: ("text", "label", "entities"),
    QUESTIONS: ("question", "context", "answers"),
}
"""What of a row is read again."""
COLUMNS: dict[FieldName, tuple[str, ...]] = {"entities": ("entity", "type", "start"), "answers": ("answer", "start")}
"""Of fields that are tables, whose cells are texts."""
BLANK_ROWS = 3
"""Rows of a table below what was found, for what was not."""


@dataclass(frozen=True, slots=True)
class Form:
    """The fields for the answers of one checkpoint.

    Attributes:
        task: Of the checkpoint.
        labels: That a text can have, in order.
        types: That an entity can have.
    """

    task: Task
    labels: tuple[str, ...]
    types: tuple[str, ...]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """Make the form for a checkpoint's answers."""
        tags = checkpoint.tags or checkpoint.labels
        types = TagSet.from_labels(tags).types if checkpoint.task in TAGGED else ()
        return cls(checkpoint.task, checkpoint.labels.names, types)

    @property
    def fields(self) -> tuple[FieldName, ...]:
        """What is filled in."""
        return FIELDS[self.task]

    @property
    def texts(self) -> tuple[str, ...]:
        """What is asked about."""
        return TEXTS.get(self.task, ("text",))

    def filled(self, result: Result) -> list[Any]:
        """Fill the fields in as the model answered."""
        return [_filled(field, result) for field in self.fields]

    def corrected(self, result: Result, values: Sequence[Any]) -> Example:
        """Read the fields.

        Args:
            result: What was corrected.
            values: Of the fields, in order.

        Raises:
            InputError: If a value cannot be used; names the row of a table, and holds none of the text.
        """
        given = dict(zip(self.fields, values, strict=True))
        if self.task == "multi-label-classification":
            return MultiLabelExample(result.text, self._labels(given["labels"]))
        if self.task == "regression":
            return RegressionExample(result.text, _number(given["number"]))
        if isinstance(result, QuestionAnswer):
            return QuestionExample(result.question, result.context, _answers(result.context, given["answers"]))
        if self.task == "token-classification":
            return TaggedExample(result.text, self._spans(result.text, given["entities"]))
        label = self._label(given["label"])
        if self.task == JOINT:
            return IntentExample(result.text, label, self._spans(result.text, given["entities"]))
        if isinstance(result, PairClassification):
            return PairExample(result.text, label, result.text_pair)
        if isinstance(result, RelationClassification):
            head, tail = ((one.start, one.end) for one in (result.head, result.tail))
            return RelationExample(result.text, label, head, tail)
        return TextExample(result.text, label)

    def _label(self, value: Any) -> str:
        if value not in self.labels:
            raise InputError(f"Expected a label of the checkpoint, found {'another' if value else 'none'}. Choose one.")
        return cast(str, value)

    def _labels(self, values: Any) -> tuple[str, ...]:
        return tuple(sorted({self._label(value) for value in values or ()}))

    def _spans(self, text: str, rows: Sequence[Sequence[Any]]) -> tuple[Span, ...]:
        found: list[tuple[Span, str]] = []
        for where, (words, label, start) in _rows(rows, 3):
            label = label if label in self.types else label.strip()
            if label not in self.types:
                hint = f"found {'another' if label else 'none'}{did_you_mean(label, self.types)}"
                raise InputError(f"{where}: expected a type ({', '.join(self.types)}), {hint}.")
            found.append((Span(*_place(text, words, start, where), label), where))
        found.sort()
        for (span, one), (after, other) in pairwise(found):
            if after.start < span.end:
                raise InputError(f"{one} and {other.lower()} overlap. Expected entities apart: take one of them out.")
        return tuple(span for span, _ in found)


def _filled(field: FieldName, result: Any) -> Any:
    if field == "label":
        return result.label
    if isinstance(result, MultiLabelClassification):
        return list(result.labels)
    if isinstance(result, Regression):
        return result.value
    if isinstance(result, QuestionAnswer):
        found = [] if result.answer is None else [[result.answer, str(result.start)]]
    else:
        found = [[one.text, one.label, str(one.start)] for one in result.entities]
    return [*found, *([""] * len(COLUMNS[field]) for _ in range(BLANK_ROWS))]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError("Expected a number, found none. Fill it in.")
    return float(value)


def _answers(context: str, rows: Sequence[Sequence[Any]]) -> tuple[Range, ...]:
    return tuple(dict.fromkeys(_place(context, words, start, where) for where, (words, start) in _rows(rows, 2)))


def _rows(rows: Sequence[Sequence[Any]], columns: int) -> list[tuple[str, list[str]]]:
    """Name each row of a table that is not blank; a cell that was never filled is blank."""
    found = []
    for number, row in enumerate(rows, start=1):
        cells = ["" if cell is None else str(cell) for cell in row]
        if any(cell.strip() for cell in cells):
            if len(cells) != columns:
                raise InputError(f"Row {number}: expected {columns} columns, found {len(cells)}. Take the others out.")
            found.append((f"Row {number}", cells))
    return found


def _place(text: str, words: str, start: str, where: str) -> Range:
    """Find words in a text, less the white space around them.

    Args:
        text: The text.
        words: A part of it.
        start: Where that begins; needed where it occurs several times.
        where: For messages.

    Raises:
        InputError: If the words are not in the text, or several times and it is not said which are meant.
    """
    first, last = tight(words, 0, len(words))
    inner = words[first:last]
    places = [i for i in range(len(text)) if text.startswith(inner, i)] if inner else []
    if not places:
        raise InputError(
            f"{where}: expected words of the text, found {'others' if inner else 'none'}. Copy them as they stand."
        )
    wanted = start.strip()
    if len(places) == 1:
        chosen = places[0]  # whatever the start was before the words were changed
    elif wanted.isdecimal() and int(wanted) in places:
        chosen = int(wanted)
    else:
        raise InputError(
            f"{where}: expected a start that tells which of {len(places)} equal words is meant, found "
            f"{'another' if wanted else 'none'}. They start at {_listed(places)}."
        )
    return chosen, chosen + len(inner)


def _listed(places: Sequence[int]) -> str:
    shown = ", ".join(map(str, places[:8]))
    return f"{shown}, …" if len(places) > 8 else shown
