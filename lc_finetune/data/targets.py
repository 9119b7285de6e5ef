"""Files → texts with the text that each is to become: a summary, a translation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lc_finetune.data.columns import TEXT_COLUMNS, find_column
from lc_finetune.data.conll import CONLL
from lc_finetune.data.readers import files_of
from lc_finetune.data.rows import Row, check_file, hub_rows, is_hub_id, is_missing, rows_of, text_in
from lc_finetune.errors import DataError, shown

SOURCE_COLUMNS = (*TEXT_COLUMNS, "document", "article", "dialogue", "source", "input")
TARGET_COLUMNS = ("target", "summary", "translation", "highlights", "headline", "output")


@dataclass(frozen=True, slots=True)
class TargetExample:
    """A text and what it is to become.

    Attributes:
        text: What the model reads, unchanged.
        target: What it is to write, unchanged.
        where: File and line, for messages.
    """

    text: str
    target: str
    where: str


@dataclass(frozen=True)
class Targets:
    """The rows of one source, in order, and what was noticed while reading."""

    examples: tuple[TargetExample, ...]
    notes: tuple[str, ...] = ()


def read_targets(source: str | Path, *, text_column: str | None = None, target_column: str | None = None) -> Targets:
    """Read rows of a text and a target from a CSV, TSV, JSON, JSONL or Parquet file, or a data set of the Hub.

    Texts are not changed; other columns are left out, and named.

    Args:
        source: A file, a pattern of several (`"news/*.jsonl"`), or a Hub id with an optional split.
        text_column: Column of the text; recognised by name if None.
        target_column: Column of the target, likewise.

    Raises:
        DataError: If anything in the source cannot be used, a blank text or target included; names file and line.
    """
    try:
        files = files_of(source)
        read = [_read(one, text_column, target_column) for one in (files if len(files) > 1 else [source])]
    except OSError as error:
        raise DataError(
            f"{source}: expected a file that can be read, found one that cannot ({error.strerror}). "
            "Check its path and its permissions."
        ) from error
    return Targets(
        tuple(example for part in read for example in part.examples),
        tuple(note for part in read for note in part.notes),
    )


def _read(source: str | Path, text_column: str | None, target_column: str | None) -> Targets:
    path = Path(source)
    if not path.exists() and is_hub_id(str(source)):
        return _targets_of(str(source), list(hub_rows(str(source))), text_column, target_column)
    check_file(path)
    if path.suffix.lower() in CONLL:
        raise DataError(
            f"{path}: expected columns of texts and targets, found {path.suffix}, which has none. Write CSV, TSV, "
            "JSON, JSONL or Parquet."
        )
    return _targets_of(str(path), rows_of(path, (None,)), text_column, target_column)  # a table has a header


def _targets_of(source: str, rows: Sequence[Row], text_column: str | None, target_column: str | None) -> Targets:
    if not rows:
        raise DataError(f"{source}: expected rows, found a header alone or nothing. Add rows.")
    columns = list(dict.fromkeys(name for row in rows for name in row.fields))
    target = find_column(source, columns, target_column, TARGET_COLUMNS, "target")
    text = find_column(source, [name for name in columns if name != target], text_column, SOURCE_COLUMNS, "text")
    for column in (text, target):
        blank = [row.where for row in rows if is_missing(row.fields.get(column))]
        if blank:
            raise DataError(
                f"{blank[0]}: expected something in {column!r} of every row, found nothing in {len(blank)} of "
                f"{len(rows)} rows, this the first. Fill it, or leave the row out."
            )
    others = [name for name in columns if name not in (text, target)]
    notes = (f"{source}: {shown([text])} is read, {shown([target])} is to be written; {shown(others)} left out.",)
    return Targets(
        tuple(TargetExample(text_in(row, text), text_in(row, target), row.where) for row in rows),
        notes if others else (),
    )
