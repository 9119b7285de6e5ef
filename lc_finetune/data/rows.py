"""Files, and data sets of the Hub → rows. Every fault is a `DataError` that names file and line."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from lc_finetune.data.columns import LABEL_COLUMNS, TEXT_COLUMNS
from lc_finetune.data.intents import hold_snips, snips_rows
from lc_finetune.errors import DataError, did_you_mean, shown

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".conll", ".iob", ".bio", ".txt")
LF = b"\n"
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Row:
    """A row, and where it stands."""

    where: str
    fields: Mapping[str, Any]


def rows_of(path: Path, columns: Sequence[str | None]) -> list[Row]:
    """Read the rows of a CSV, TSV, JSON, JSONL or Parquet file.

    Args:
        path: The file.
        columns: The columns that were given, of the text and, of labelled rows, of the label. Numbers for all, from 0,
            tell that a table has no header.

    Raises:
        DataError: If it is no such file, or cannot be read; names the line.
    """
    check_content(path)
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return list(_table_rows(path, "," if suffix == ".csv" else "\t", columns))
    if suffix == ".parquet":
        return list(_parquet_rows(path))
    if suffix in (".jsonl", ".ndjson"):
        return list(_jsonl_rows(path))
    if suffix == ".json":
        return list(_json_rows(path))
    raise DataError(f"{path}: expected one of {', '.join(SUFFIXES)}, found {suffix or 'no suffix'}. Rename it.")


def check_content(path: Path) -> None:
    """Refuse a path that is no file, and an empty file."""
    check_file(path)
    if path.stat().st_size == 0:
        raise DataError(f"{path}: expected rows, found an empty file. Was it written to the end?")


def check_file(path: Path) -> None:
    """Refuse a path that is no file."""
    if path.is_dir():
        raise DataError(f"{path}: expected a file, found a folder. Name the file in it.")
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise DataError(f"{path}: expected a file, found a pipe or a device. Write its content to a file first.")
    if not path.exists():
        siblings = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: expected a file, found none there{did_you_mean(path.name, siblings)}.")


# Tables.


def read_text(path: Path) -> str:
    """Read a whole file as UTF-8."""
    raw = path.read_bytes()
    text = decoded(path, raw.removeprefix(codecs.BOM_UTF8))
    if not text or text.isspace():
        raise DataError(f"{path}: expected rows, found an empty file. Was it written to the end?")
    return text


def decoded(path: Path, raw: bytes, *, line: int = 1) -> str:
    """Decode bytes of a file, of which the first belongs to the given line; refuse NUL and what is not UTF-8."""
    if line == 1 and raw.startswith(UTF_16):
        raise DataError(f"{path}:1: expected UTF-8, found UTF-16. Convert the file: iconv -f UTF-16 -t UTF-8.")
    if (at := raw.find(b"\0")) >= 0:
        raise DataError(
            f"{path}:{line + raw.count(LF, 0, at)}: expected text, found a NUL byte. Is it a text file in UTF-8? "
            "Remove the byte, or convert the file."
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}:{line + raw.count(LF, 0, error.start)}: expected UTF-8, found the byte 0x{raw[error.start]:02x}. "
            "Convert the file, for example: iconv -f WINDOWS-1252 -t UTF-8."
        ) from None


def _table_rows(path: Path, delimiter: str, columns: Sequence[str | None]) -> Iterator[Row]:
    records = csv_records(path, io.StringIO(read_text(path), newline=""), delimiter)
    at, header = next((record for record in records if not _is_blank(record[1])), (1, []))
    if _are_numbered(path, at, header, columns):
        _refuse_header(path, at, header, [int(column or 0) for column in columns])
        records = chain([(at, header)], records)
        header = [str(column) for column in range(len(header))]
    check_header(path, header, line=at, delimiter=delimiter)
    for line, fields in records:
        if fields and (len(header) == 1 or not _is_blank(fields)):
            check_width(path, line, header, fields)
            yield Row(f"{path}:{line}", dict(zip(header, fields, strict=True)))


def _are_numbered(path: Path, line: int, header: Sequence[str], columns: Sequence[str | None]) -> bool:
    """Say whether columns are given by numbers that are no names: such a table has no header.

    A label of the first row may be such a number, so that a header of numbers is one in which nothing else stands.
    """
    given = [column or "" for column in columns]
    if not all(column.isdecimal() for column in given):
        return False
    if not set(given) <= set(header):
        return True
    if not all(field.isdecimal() for field in header if field):
        raise DataError(
            f"{path}:{line}: expected to see whether this is a header, found {' and '.join(given)} in it, as the "
            "columns are called. Add a line above that names the columns."
        )
    return False


def _refuse_header(path: Path, line: int, fields: Sequence[str], columns: Sequence[int]) -> None:
    options = ("--text-column", "--label-column", "--text-pair-column")[: len(columns)]
    if max(columns) >= len(fields):
        raise DataError(
            f"{path}:{line}: expected the columns {' and '.join(map(str, columns))}, counted from 0, found "
            f"{len(fields)} columns. Correct {' and '.join(options)}."
        )
    names = [fields[column] for column in columns]
    if all(name.strip().casefold() in known for name, known in zip(names, (TEXT_COLUMNS, LABEL_COLUMNS), strict=False)):
        named = " ".join(f"{option} {name}" for option, name in zip(options, names, strict=True))
        raise DataError(
            f"{path}:{line}: expected no header, since columns are given by number, found one. Name them: {named}."
        )


def csv_records(
    path: Path, lines: Iterable[str], delimiter: str, *, first_line: int = 1
) -> Iterator[tuple[int, list[str]]]:
    """Read records with the line each starts on; a blank line has no fields. Reads no line ahead of its record.

    With a comma, quotes work as in RFC 4180; with a tab, they are characters like any other.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    line = first_line
    try:
        for fields in reader:
            yield line, fields
            line = first_line + reader.line_num
    except csv.Error as error:
        raise DataError(f"{path}:{line}: expected a well-formed row, found: {error}. Check the quotes.") from None


def _is_blank(fields: Sequence[str]) -> bool:
    """Say whether a line is empty but for spaces; a row of empty fields is not."""
    return len(fields) <= 1 and not "".join(fields).strip()


def check_header(path: Path, header: Sequence[str], *, line: int = 1, delimiter: str | None = None) -> None:
    """Refuse a header that names a column twice, or whose columns are separated by another delimiter."""
    where = f"{path}:{line}"
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise DataError(f"{where}: expected every column once, found {shown(twice)} more than once. Rename one.")
    others = [other for other in DELIMITERS if len(header) == 1 and other in header[0]]
    if delimiter is not None and others:
        likely = max(others, key=header[0].count)
        raise DataError(
            f"{where}: expected columns separated by a {DELIMITERS[delimiter]}, found a {DELIMITERS[likely]} between "
            f"them. {'Name the file .tsv' if likely == chr(9) else 'Save it with commas'}."
        )


def check_width(path: Path, line: int, header: Sequence[str], fields: Sequence[str]) -> None:
    """Refuse a ragged row."""
    if len(fields) != len(header):
        raise DataError(
            f"{path}:{line}: expected {len(header)} fields as in the header, found {len(fields)}. "
            "Quote fields that hold the delimiter or a line break."
        )


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError):
        raise DataError(
            f"{path}: expected a Parquet file, found one that cannot be read as such. Write it again."
        ) from None
    for number, fields in enumerate(table.to_pylist(), start=1):
        yield Row(f"{path}:row {number}", fields)


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(io.StringIO(read_text(path), newline="\n"), start=1):
        if line.strip():
            yield Row(f"{path}:{number}", json_object(path, number, line))


def json_object(path: Path, number: int, line: str, decoder: json.JSONDecoder | None = None) -> Mapping[str, Any]:
    """Read one line of JSONL, with a decoder of one's own if need be."""
    return _object(_json(line.rstrip("\r\n"), path, number, decoder), f"{path}:{number}")


def _json_rows(path: Path) -> Iterator[Row]:
    content = _json(read_text(path), path, 1)
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    if hold_snips(content):
        yield from (Row(where, fields) for where, fields in snips_rows(str(path), content))
        return
    if not isinstance(content, list):
        raise DataError(
            f"{path}: expected an array of objects, found {kind_of(content)}. Write one object for each text."
        )
    for number, fields in enumerate(content, start=1):
        yield Row(f"{path}:item {number}", _object(fields, f"{path}:item {number}"))


def _json(content: str, path: Path, line: int, decoder: json.JSONDecoder | None = None) -> Any:
    """Parse JSON that begins at a line of a file."""
    try:
        return (decoder or _DECODER).decode(content)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{line + error.lineno - 1}: expected JSON, found none (column {error.colno}: {error.msg}). "
            "Write it with a JSON library, one object a line in .jsonl."
        ) from None
    except (ValueError, RecursionError) as error:
        found = "nesting too deep to read" if isinstance(error, RecursionError) else str(error).partition(";")[0]
        raise DataError(f"{path}:{line}: expected plain JSON rows, found {found}. Write them flat.") from None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key more than once in one object")
    return fields


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs)


def _object(fields: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(fields, dict):
        raise DataError(f"{where}: expected a JSON object, found {kind_of(fields)}. Write one object for each text.")
    return fields


def kind_of(value: Any) -> str:
    """Name the type of a value that stands where another was expected."""
    names = {type(None): "nothing", str: "a text", dict: "an object", list: "a list", bool: "true or false"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def text_in(row: Row, column: str) -> str:
    """Take the text out of a row."""
    text = row.fields.get(column)
    if not isinstance(text, str):
        raise DataError(
            f"{row.where}: expected a text in {column!r}, found {kind_of(text)}. Fill it, or leave the row out."
        )
    return text


def is_missing(value: Any) -> bool:
    """Say whether a cell has no value."""
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))  # what pandas writes for none
    )


# The Hub.


def is_hub_id(source: str) -> bool:
    """Say whether this may name a data set of the Hub."""
    name = source.partition(":")[0]
    return Path(name).suffix not in SUFFIXES and name.count("/") == 1 and not name.startswith((".", "/", "~"))


def hub_rows(source: str) -> Iterator[Row]:
    """Get the rows of a data set of the Hub; classes by their names."""
    import datasets

    name, _, split = source.partition(":")
    try:
        data = datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # the library's network, name and split errors share no base class
        raise DataError(
            f"{source}: expected a file or a data set of the Hugging Face Hub, could not get it "
            f"({type(error).__name__}). Check the name, the split and your network, or give a file."
        ) from error
    inner = {column: getattr(feature, "feature", feature) for column, feature in data.features.items()}
    names = {column: feature.names for column, feature in inner.items() if isinstance(feature, datasets.ClassLabel)}
    for number, fields in enumerate(data, start=1):
        named = {column: _named(value, names[column]) if column in names else value for column, value in fields.items()}
        yield Row(f"{source}:row {number}", named)


def _named(value: Any, names: Sequence[str]) -> Any:
    """Name a class, or each of a list; -1 is how a data set says that a label is not given."""
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    return None if value is None or value < 0 else names[value]
