"""Results → the columns that are added to each row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lc_finetune.bulk.cells import Number
from lc_finetune.checkpoint import QUESTIONS, Task
from lc_finetune.errors import ConfigError, InputError
from lc_finetune.labels import LabelSet
from lc_finetune.schemas import (
    Classification,
    IntentAndEntities,
    MultiLabelClassification,
    OrdinalClassification,
    QuestionAnswer,
    Regression,
    Tagging,
)

COLUMNS: dict[Task, tuple[str, ...]] = {
    "text-classification": ("label", "score", "accepted", "in_scope", "error"),
    "text-pair-classification": ("label", "score", "accepted", "in_scope", "error"),
    "multi-label-classification": ("labels", "accepted", "in_scope", "error"),
    "ordinal-classification": ("label", "score", "expected_rank", "accepted", "in_scope", "error"),
    "regression": ("value", "low", "high", "error"),
    "token-classification": ("entities", "error"),
    "relation-classification": ("label", "score", "accepted", "error"),
    "question-answering": ("answer", "start", "end", "score", "accepted", "error"),
    "intent-and-entities": ("label", "score", "accepted", "in_scope", "entities", "error"),
}
"""What is added, in this order and always, whether a checkpoint is calibrated or not."""


def columns_of(task: Task, *, scores: bool) -> tuple[str, ...]:
    """Name what a checkpoint adds.

    A classifier adds `label`, `score`, `accepted`, `in_scope` and, if asked for, `scores`; one that tags
    as well adds `entities` too; a multi-label classifier
    adds `labels` in place of `label` and `score`; one of ordered labels adds `expected_rank` behind `score`; a
    classifier of relations has no `in_scope`; a regressor adds `value`, `low` and `high`; a tagger adds `entities`; a
    question answerer `answer`, `start`, `end`, `score` and `accepted`. All end with `error`: None, or why this row has
    no answer.

    Raises:
        ConfigError: If scores are asked of a regressor, a tagger or a question answerer.
    """
    if scores and task == "token-classification":
        raise ConfigError("Expected --scores with a classifier, found a tagger. Its entities have their scores.")
    if scores and task == "regression":
        raise ConfigError("Expected --scores with a classifier, found a regressor. Its numbers have intervals.")
    if scores and task == QUESTIONS:
        raise ConfigError("Expected --scores with a classifier, found a question answerer. Its answers have a score.")
    plain = COLUMNS[task]
    return (*plain[:-1], "scores", plain[-1]) if scores else plain


class Answers:
    """The columns added by one run: always the same, in the same order."""

    def __init__(self, columns: Sequence[str], labels: LabelSet, *, prefix: str) -> None:
        """Fix the columns, of those that `columns_of` knows."""
        self._plain = tuple(columns)
        self.labels = labels
        self._prefix = prefix
        self.names = tuple(prefix + name for name in self._plain)

    def check_free(self, where: str, columns: Iterable[str]) -> None:
        """Refuse an input that has a column of the same name.

        Raises:
            ConfigError: It names the column, and the way out.
        """
        taken = set(columns)
        other = "x_" if self._prefix else "predicted_"
        for name in self.names:
            if name in taken:
                raise ConfigError(
                    f"{where}: expected no column {name!r}, which holds the results, found one. "
                    f"Choose other names with --prefix, for example --prefix {other}."
                )

    def row(self, outcome: Any) -> dict[str, Any]:
        """Turn a result, or the exception that stands for it, into column → value."""
        found: dict[str, Any] = {}
        if isinstance(outcome, Exception):
            found["error"] = " ".join(str(outcome).split()) or type(outcome).__name__  # on one line, as TSV needs it
        elif isinstance(outcome, Tagging):
            found["entities"] = [entity.model_dump() for entity in outcome.entities]
        elif isinstance(outcome, QuestionAnswer):
            found = outcome.model_dump(include=set(COLUMNS[QUESTIONS]))
        elif isinstance(outcome, Regression):
            found = {"value": outcome.value, "low": outcome.low, "high": outcome.high}
        elif isinstance(outcome, Classification | MultiLabelClassification):
            if isinstance(outcome, Classification):
                found = {"label": outcome.label, "score": outcome.score}
            else:
                found = {"labels": list(outcome.labels)}
            if isinstance(outcome, OrdinalClassification):
                found["expected_rank"] = outcome.expected_rank
            found |= {"accepted": outcome.accepted, "in_scope": outcome.in_scope}
            if isinstance(outcome, IntentAndEntities):
                found["entities"] = [entity.model_dump() for entity in outcome.entities]
            if "scores" in self._plain:
                found["scores"] = dict(outcome.scores)
        return {name: found.get(plain) for name, plain in zip(self.names, self._plain, strict=True)}

    def arrow_fields(self) -> list[Any]:
        """Give the columns' Arrow types."""
        import pyarrow as pa

        text, probability, number = pa.string(), pa.float64(), pa.float64()
        offset = pa.int64()
        entity = pa.struct(
            {"label": text, "text": text, "start": offset, "end": offset, "score": probability, "accepted": pa.bool_()}
        )
        types = {
            "label": text,
            "score": probability,
            "expected_rank": number,
            "labels": pa.list_(text),
            "value": number,
            "low": number,
            "high": number,
            "answer": text,
            "start": offset,
            "end": offset,
            "accepted": pa.bool_(),
            "in_scope": probability,
            "scores": pa.struct([(label, probability) for label in self.labels.names]),
            "entities": pa.list_(entity),
            "error": text,
        }
        return [pa.field(name, types[plain]) for name, plain in zip(self.names, self._plain, strict=True)]


def is_text(value: Any) -> bool:
    """Say whether a row has a text, or both texts of a pair."""
    return isinstance(value, str) or (isinstance(value, tuple) and all(isinstance(one, str) for one in value))


def not_a_text(value: Any, columns: Sequence[str]) -> InputError:
    """Say that a row lacks a text, by the type of what it has."""
    values = value if isinstance(value, tuple) else (value,)
    column, value = next(cell for cell in zip(columns, values, strict=True) if not isinstance(cell[1], str))
    kinds = {type(None): "none", Number: "a number", bool: "true or false", list: "an array", dict: "an object"}
    return InputError(f"Expected a text in {column!r}, found {kinds.get(type(value), type(value).__name__)}.")
