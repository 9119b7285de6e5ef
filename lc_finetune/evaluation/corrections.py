"""Texts with mistakes → a file in the format that training reads, to be corrected and trained on."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from lc_finetune.checkpoint import QUESTIONS, Task
from lc_finetune.data import (
    Example,
    IntentExample,
    MultiLabelExample,
    PairExample,
    QuestionExample,
    RegressionExample,
    RelationExample,
    TaggedExample,
)
from lc_finetune.evaluation.answering import Evaluation
from lc_finetune.records import json_lines
from lc_finetune.schemas import (
    Classification,
    IntentAndEntities,
    MultiLabelClassification,
    QuestionAnswer,
    Regression,
    RelationClassification,
    Result,
    Tagging,
)

SUFFIXES: dict[Task, str] = {
    "text-classification": ".csv",
    "text-pair-classification": ".csv",
    "multi-label-classification": ".csv",
    "ordinal-classification": ".csv",
    "regression": ".csv",
    "relation-classification": ".jsonl",
    "token-classification": ".jsonl",
    "question-answering": ".jsonl",
    "intent-and-entities": ".jsonl",
}
"""The format in which training reads a task's rows with all that they hold."""
ENDS = ("head", "tail")


def errors_file(evaluation: Evaluation) -> str:
    """Write the texts with a mistake, with the labels that they have, what was found, and whether the label is doubted.

    A table of `text`, `label` or `labels`, `predicted`, `score`, `likely_label_error` for classifiers, of pairs with
    `text_pair`; of `text`, `label`, `predicted`, `low`, `high` for regressors, whose mistakes are numbers outside of
    their interval; a JSON object a line for taggers, of `text`, `entities`, `predicted`, `likely_label_error`, and of
    relations, of `text`, `head`, `tail`, `label`, `predicted`, `score`, `likely_label_error`; of labels with entities,
    of `text`, `label`, `entities`, `predicted` (both), `likely_label_error`; of
    questions, of `question`, `context`, `answers`, `predicted`, `score`. Training reads texts and labels, or answers.
    """
    doubted = {answer.row for answer in evaluation.suspects}
    doubts = evaluation.task not in ("regression", QUESTIONS)

    def written(row: int) -> dict[str, Any]:
        own = row_of(evaluation.examples[row]) | found_of(evaluation.results[row])
        return own | {"likely_label_error": row in doubted} if doubts else own

    rows = [written(row) for row in sorted(evaluation.wrong)]
    return _table(list(written(0)), rows) if SUFFIXES[evaluation.task] == ".csv" else json_lines(rows)


def row_of(example: Example) -> dict[str, Any]:
    """Write an example as the row of JSONL that training reads."""
    if isinstance(example, QuestionExample):
        starts = [start for start, _ in example.answers]
        answers = {"text": list(example.answer_texts), "answer_start": starts}
        return {"question": example.question, "context": example.context, "answers": answers}
    if isinstance(example, MultiLabelExample):
        return {"text": example.text, "labels": list(example.labels)}
    if isinstance(example, RegressionExample):
        return {"text": example.text, "label": example.value}
    if isinstance(example, TaggedExample):
        return {"text": example.text, "entities": _spans(example)}
    if isinstance(example, IntentExample):
        return {"text": example.text, "label": example.label, "entities": _spans(example)}
    if isinstance(example, RelationExample):
        mentions = {name: dict(zip(("start", "end"), getattr(example, name), strict=True)) for name in ENDS}
        return {"text": example.text, **mentions, "label": example.label}
    pair = {"text_pair": example.text_pair} if isinstance(example, PairExample) else {}
    return {"text": example.text, **pair, "label": example.label}


def found_of(result: Result) -> dict[str, Any]:
    """Write what a model answered, as it stands beside an example in its row: `predicted`, and how sure it is."""
    if isinstance(result, IntentAndEntities):
        return {"predicted": {"label": result.label, "score": result.score, "entities": _found(result)}}
    if isinstance(result, Tagging):
        return {"predicted": _found(result)}
    if isinstance(result, MultiLabelClassification):
        return {"predicted": list(result.labels)}
    if isinstance(result, Regression):
        return {"predicted": result.value, "low": result.low, "high": result.high}
    if isinstance(result, QuestionAnswer):
        return {"predicted": result.answer, "score": result.score}
    assert isinstance(result, Classification | RelationClassification)  # all the others have one label
    return {"predicted": result.label, "score": result.score}


def _spans(example: IntentExample | TaggedExample) -> list[dict[str, Any]]:
    return [{"start": s.start, "end": s.end, "label": s.label} for s in example.spans]


def _found(result: IntentAndEntities | Tagging) -> list[dict[str, Any]]:
    return [{"start": e.start, "end": e.end, "label": e.label, "score": e.score} for e in result.entities]


def _table(header: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Write CSV; labels of one text as a list of Python, which a cell of training may hold."""
    table = io.StringIO(newline="")
    cells = ([str(row[name]) if isinstance(row[name], list) else row[name] for name in header] for row in rows)
    csv.writer(table, lineterminator="\n").writerows([header, *cells])
    return table.getvalue()
