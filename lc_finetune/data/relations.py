"""Rows with two marked mentions → examples: inline markers, columns of spans, and the files of SemEval-2010 task 8."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from lc_finetune.data.examples import RelationExample, TextExample
from lc_finetune.errors import DataError, InputError
from lc_finetune.markers import Range, are_inline, has_inline, mark, tight, unmark

RELATION_COLUMNS = ("relation", "label", "category", "class", "target")
COUPLES = (("head", "tail"), ("h", "t"), ("subject", "object"), ("subj", "obj"), ("e1", "e2"))
"""Columns of two spans, as common data sets have them: `h` and `t` in FewRel and OpenNRE."""
SEMEVAL = re.compile(r"\d+\t(?=.*<e1>)(?=.*<e2>)")
_HEADER = re.compile(r"\d+\t(.*)")


def span_columns(columns: Sequence[str], values: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Find two columns that hold spans in most rows; None if there are none."""
    for couple in COUPLES:
        spans = sum(all(isinstance(row.get(name), dict | list) for name in couple) for row in values)
        if set(couple) <= set(columns) and 2 * spans > len(values):
            return couple
    return None


def hold_markers(texts: Sequence[Any]) -> bool:
    """Say whether most texts have all four inline markers."""
    return 2 * sum(isinstance(text, str) and are_inline(text) for text in texts) > len(texts)


def note_markers(source: str, texts: Sequence[Any]) -> list[str]:
    """Say that some texts have inline markers, in a file that is not read as one of relations."""
    some = sum(isinstance(text, str) and has_inline(text) for text in texts)
    if not some:
        return []
    return [
        f"{source}: {some:,} of {len(texts):,} texts have markers such as <e1>, and were read as they are: most lack "
        "one of the four. If they are of relations: --task relation-classification."
    ]


def from_markers(where: str, example: TextExample) -> RelationExample:
    """Take the markers out of a text.

    Raises:
        DataError: If a marker is missing or there twice, the two cross, or one encloses nothing.
    """
    try:
        text, head, tail = unmark(example.text)
    except ValueError as error:
        raise DataError(
            f"{where}: expected two entities marked as <e1>…</e1> and <e2>…</e2>, found {error}. "
            "Mark a head and a tail, apart from each other."
        ) from None
    return _checked(where, RelationExample(text, example.label, head, tail))


def from_spans(where: str, example: TextExample, spans: Sequence[Any], names: Sequence[str]) -> RelationExample:
    """Take head and tail from two cells: `{"start": 0, "end": 3}`, `{"pos": [0, 3]}` or `[0, 3]`.

    Raises:
        DataError: If one is no span of the text, or they overlap.
    """
    head, tail = (_range(where, span, name) for span, name in zip(spans, names, strict=True))
    given = _checked(where, RelationExample(example.text, example.label, head, tail))
    return replace(given, head=tight(given.text, *head), tail=tight(given.text, *tail))


def _range(where: str, span: Any, name: str) -> Range:
    found = span
    if isinstance(span, Mapping):
        found = span.get("pos", [span.get("start"), span.get("end")])
    if not isinstance(found, list | tuple) or len(found) != 2 or not all(type(offset) is int for offset in found):
        raise DataError(
            f"{where}: expected {name!r} with whole numbers as 'start' and 'end', found others or none. "
            "Count characters; the end is exclusive."
        )
    return found[0], found[1]


def _checked(where: str, example: RelationExample) -> RelationExample:
    try:
        mark(example.text, example.head, example.tail)
    except InputError as error:
        raise DataError(f"{where}: {str(error)[0].lower()}{str(error)[1:]}") from None
    return example


# SemEval-2010 task 8.


class SemEvalRecord(NamedTuple):
    """A text with inline markers and its relation; the line that its number stands on."""

    line: int
    text: str
    label: str


def semeval_records(path: str, lines: Sequence[str]) -> Iterator[SemEvalRecord]:
    """Read records of a number with a quoted text, the relation on the next line, a comment, and a blank line.

    Hendrickx et al. 2010, "SemEval-2010 Task 8: Multi-Way Classification of Semantic Relations Between Pairs of
    Nominals". The quotation marks around the text belong to the format.

    Raises:
        DataError: If a record does not begin with a number and a tab, or has no relation.
    """
    record: list[tuple[int, str]] = []
    for number, line in enumerate([*lines, ""], start=1):
        if line.strip():
            record.append((number, line))
        elif record:
            yield _record(path, record)
            record = []


def _record(path: str, record: Sequence[tuple[int, str]]) -> SemEvalRecord:
    number, first = record[0]
    header = _HEADER.fullmatch(first)
    if header is None:
        raise DataError(
            f"{path}:{number}: expected a number, a tab and a quoted text, as SemEval-2010 task 8 has them, found "
            "another line. Part records by blank lines."
        )
    label = record[1][1].strip() if len(record) > 1 else ""
    if not label or label.startswith("Comment"):
        raise DataError(f"{path}:{number}: expected a relation on the next line, found none. Label the text.")
    text = header[1].strip()
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return SemEvalRecord(number, text[1:-1] if quoted else text, label)
