"""Files → texts without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lc_finetune.data.annotations import texts_of_tasks
from lc_finetune.data.columns import TEXT_COLUMNS, find_column
from lc_finetune.data.conll import CONLL, is_tag, read_conll
from lc_finetune.data.readers import files_of
from lc_finetune.data.rows import Row, check_file, hub_rows, is_hub_id, read_text, rows_of, text_in
from lc_finetune.errors import DataError, shown

LINES = ".txt"


@dataclass(frozen=True)
class Texts:
    """The texts of one source, in order, and what was noticed while reading."""

    texts: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_texts(source: str | Path, *, text_column: str | None = None) -> Texts:
    """Read texts from a file, or from a data set of the Hugging Face Hub.

    A `.txt` file holds one text a line. Of CSV, TSV, JSON, JSONL and Parquet the column of the text is read and nothing
    else; of CoNLL the words, joined. Texts are not changed; blank ones are left out, and counted.

    Args:
        source: A file, a pattern of several (`"texts/*.txt"`), or a Hub id with an optional split.
        text_column: Column of the text; recognised by name if None; a number, from 0, in a table without a header.

    Raises:
        DataError: If anything in the source cannot be used; names file and line.
    """
    try:
        files = files_of(source)
        read = [_read(one, text_column) for one in (files if len(files) > 1 else [source])]
    except OSError as error:
        raise DataError(
            f"{source}: expected a file that can be read, found one that cannot ({error.strerror}). "
            "Check its path and its permissions."
        ) from error
    found, notes = ([one for part in parts for one in part] for parts in zip(*read, strict=True))
    texts = tuple(text for text in found if text.strip())
    if not texts:
        raise DataError(f"{source}: expected texts, found none that is not blank. Is this the right file, or column?")
    if len(texts) < len(found):
        notes = [*notes, f"{source}: {len(found) - len(texts):,} of {len(found):,} texts are blank and were left out."]
    return Texts(texts, tuple(notes))


def _read(source: str | Path, text_column: str | None) -> tuple[list[str], list[str]]:
    path = Path(source)
    if not path.exists() and is_hub_id(str(source)):
        return _texts_of(str(source), list(hub_rows(str(source))), text_column)
    check_file(path)
    suffix = path.suffix.lower()
    if suffix in CONLL and text_column is not None:
        raise DataError(f"{path}: expected no text column for {suffix}, found one. Leave --text-column out.")
    if suffix == LINES:
        return _lines(path), []
    if suffix in CONLL:
        loaded = read_conll(path)
        return [example.text for example in loaded.examples], [f"{path}: words are read, tags left out."]
    return _texts_of(str(path), rows_of(path, (text_column,)), text_column)


def _lines(path: Path) -> list[str]:
    lines = read_text(path).replace("\r\n", "\n").split("\n")
    texts = lines[:-1] if not lines[-1] else lines  # what follows the last line break is no line
    words = [line.split() for line in texts if line.strip()]
    if all(len(columns) > 1 and is_tag(columns[-1]) for columns in words):
        raise DataError(
            f"{path}: expected one text a line, found a word and a tag on each. Name the file .conll, of which "
            "the words are read."
        )
    return texts


def _texts_of(source: str, rows: Sequence[Row], text_column: str | None) -> tuple[list[str], list[str]]:
    if not rows:
        raise DataError(f"{source}: expected rows, found a header alone or nothing. Add rows.")
    rows = texts_of_tasks(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row.fields))
    column = find_column(source, columns, text_column, TEXT_COLUMNS, "text")
    others = [name for name in columns if name != column]
    notes = [f"{source}: of its columns {shown([column])} is read; {shown(others)} left out."] if others else []
    return [text_in(row, column) for row in rows], notes
