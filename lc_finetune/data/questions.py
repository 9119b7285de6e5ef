"""Rows with questions → examples: the nested JSON of SQuAD, and one question a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lc_finetune.data.examples import QuestionExample
from lc_finetune.errors import DataError, shown
from lc_finetune.markers import Range, tight

QUESTION_COLUMNS = ("question", "query")
CONTEXT_COLUMNS = ("context", "passage", "document")
ANSWER_COLUMNS = ("answers", "answer")


def hold_questions(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether rows are articles of SQuAD, or have answers with offsets."""
    nested = any(isinstance(row.get("paragraphs"), list) for row in rows)
    return nested or any(
        isinstance(row.get(name), Mapping) and "answer_start" in row[name] for row in rows for name in ANSWER_COLUMNS
    )


def from_rows(rows: Sequence[tuple[str, str, str, Mapping[str, Any]]], column: str) -> list[QuestionExample]:
    """Read one question a row, with answers as the library `datasets` has them.

    Args:
        rows: Where each stands, question, context, and all fields.
        column: Of the answers: `{"text": […], "answer_start": […]}`, with empty lists if there is none.

    Raises:
        DataError: If an answer is not at its offset; names file, line and question.
    """
    return [
        QuestionExample(question, context, _answers(_named(where, fields), context, fields.get(column)))
        for where, question, context, fields in rows
    ]


def from_squad(source: str, articles: Sequence[Mapping[str, Any]]) -> list[QuestionExample]:
    """Read articles of SQuAD 1.1 or 2, and of what is in their format, as XQuAD and MLQA are.

    Raises:
        DataError: If something is missing, or an answer is not at its offset; names the path in the file and the
            question.
    """
    examples: list[QuestionExample] = []
    for i, article in enumerate(articles):
        for where, paragraph in _items(f"{source}: data[{i}]", article, "paragraphs"):
            context = _text(where, paragraph, "context")
            for place, entry in _items(where, paragraph, "qas"):
                named = _named(place, entry)
                impossible = entry.get("is_impossible") is True
                answers = () if impossible else _answers(named, context, entry.get("answers"))
                if impossible and entry.get("answers"):
                    raise DataError(
                        f"{named}: expected no answers where is_impossible is true, found some. Take them out, or set "
                        "it to false."
                    )
                if not answers and entry.get("is_impossible") is False:
                    raise DataError(
                        f"{named}: expected an answer, found none and is_impossible false. Add one, or set it to true."
                    )
                examples.append(QuestionExample(_text(named, entry, "question"), context, answers))
    return examples


def _items(where: str, holder: Mapping[str, Any], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    items = holder.get(name)
    if not isinstance(items, list):
        raise DataError(f"{where}: expected a list {name!r}, found none. Write the file as SQuAD is written.")
    for i, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise DataError(f"{where}.{name}[{i}]: expected an object, found none. Write the file as SQuAD is written.")
        yield f"{where}.{name}[{i}]", item


def _text(where: str, fields: Mapping[str, Any], name: str) -> str:
    if not isinstance(fields.get(name), str):
        raise DataError(f"{where}: expected a text in {name!r}, found none. Fill it, or leave the row out.")
    return str(fields[name])


def _named(where: str, fields: Mapping[str, Any]) -> str:
    """Add the id of the question, where there is one."""
    identity = fields.get("id")
    return f"{where} (question {shown([str(identity)])})" if isinstance(identity, str | int) else where


def _answers(where: str, context: str, answers: Any) -> tuple[Range, ...]:
    """Read the offsets of all answers, each once, in their order."""
    if isinstance(answers, Mapping):
        texts, starts = answers.get("text"), answers.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise DataError(
                f"{where}: expected 'text' and 'answer_start' as lists of one length, found others. Write an answer as "
                '{"text": ["…"], "answer_start": [0]}, or both lists empty.'
            )
        pairs = list(zip(texts, starts, strict=True))
    elif isinstance(answers, list) and all(isinstance(one, Mapping) for one in answers):
        pairs = [(one.get("text"), one.get("answer_start")) for one in answers]
    else:
        raise DataError(
            f"{where}: expected answers with 'text' and 'answer_start', found none. A question without an answer has "
            "an empty list."
        )
    return tuple(dict.fromkeys(_range(where, context, *pair) for pair in pairs))


def _range(where: str, context: str, text: Any, start: Any) -> Range:
    if not isinstance(text, str) or not text.strip() or type(start) is not int:
        raise DataError(
            f"{where}: expected an answer's 'text' and, in 'answer_start', a whole number, found others. A question "
            "without an answer has no answers at all."
        )
    if start < 0 or context[start : start + len(text)] != text:
        at = [i for i in range(len(context)) if context.startswith(text, i)]
        nearest = min(at, key=lambda i: abs(i - start)) if at else None
        found = "which the context does not hold" if nearest is None else f"which stands at {nearest}"
        raise DataError(
            f"{where}: expected the answer at character {start}, found another text there than the answer, {found}. "
            "Offsets count characters, from 0."
        )
    return tight(context, start, start + len(text))
