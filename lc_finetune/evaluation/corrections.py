"""Texts with mistakes → a file in the format that training reads, to be corrected and trained on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from lc_finetune.checkpoint import Task
from lc_finetune.data import (
    IntentExample,
    MultiLabelExample,
    PairExample,
    QuestionExample,
    RegressionExample,
    RelationExample,
    TaggedExample,
    TextExample,
)
from lc_finetune.evaluation.answering import Evaluation
from lc_finetune.schemas import IntentAndEntities, Tagging

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
    examples: Sequence[Any] = evaluation.examples
    results, wrong = evaluation.results, sorted(evaluation.wrong)
    doubted = {answer.row for answer in evaluation.suspects}
    if isinstance(examples[0], PairExample):
        header = ["text", "text_pair", "label", "predicted", "score", "likely_label_error"]
        return _table(header, [
            [examples[row].text, examples[row].text_pair, examples[row].label, results[row].label, results[row].score,
             row in doubted] for row in wrong
        ])  # fmt: skip
    if isinstance(examples[0], RelationExample):
        return _lines(
            {
                "text": examples[row].text,
                **{name: dict(zip(("start", "end"), getattr(examples[row], name), strict=True)) for name in ENDS},
                "label": examples[row].label,
                "predicted": results[row].label,
                "score": results[row].score,
                "likely_label_error": row in doubted,
            }
            for row in wrong
        )
    if isinstance(examples[0], RegressionExample):
        header = ["text", "label", "predicted", "low", "high"]
        return _table(header, [
            [examples[row].text, examples[row].value, results[row].value, results[row].low, results[row].high]
            for row in wrong
        ])  # fmt: skip
    if isinstance(examples[0], IntentExample):
        return _lines(
            {
                "text": examples[row].text,
                "label": examples[row].label,
                "entities": _spans(examples[row]),
                "predicted": {
                    "label": results[row].label,
                    "score": results[row].score,
                    "entities": _found(results[row]),
                },
                "likely_label_error": row in doubted,
            }
            for row in wrong
        )
    if isinstance(examples[0], TextExample):
        header = ["text", "label", "predicted", "score", "likely_label_error"]
        return _table(header, [
            [examples[row].text, examples[row].label, results[row].label, results[row].score, row in doubted]
            for row in wrong
        ])  # fmt: skip
    if isinstance(examples[0], MultiLabelExample):
        header = ["text", "labels", "predicted", "likely_label_error"]
        return _table(header, [
            [examples[row].text, str(list(examples[row].labels)), str(list(results[row].labels)), row in doubted]
            for row in wrong
        ])  # fmt: skip
    if isinstance(examples[0], QuestionExample):
        return _lines(
            {
                "question": examples[row].question,
                "context": examples[row].context,
                "answers": {
                    "text": list(examples[row].answer_texts),
                    "answer_start": [start for start, _ in examples[row].answers],
                },
                "predicted": results[row].answer,
                "score": results[row].score,
            }
            for row in wrong
        )
    return _lines(
        {
            "text": examples[row].text,
            "entities": _spans(examples[row]),
            "predicted": _found(results[row]),
            "likely_label_error": row in doubted,
        }
        for row in wrong
    )


def _spans(example: IntentExample | TaggedExample) -> list[dict[str, Any]]:
    return [{"start": s.start, "end": s.end, "label": s.label} for s in example.spans]


def _found(result: IntentAndEntities | Tagging) -> list[dict[str, Any]]:
    return [{"start": e.start, "end": e.end, "label": e.label, "score": e.score} for e in result.entities]


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    table = io.StringIO(newline="")
    csv.writer(table, lineterminator="\n").writerows([header, *rows])
    return table.getvalue()
