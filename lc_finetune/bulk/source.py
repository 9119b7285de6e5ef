"""Input files → chunks of rows, in constant memory, from any position a run was stopped at."""

from __future__ import annotations

import codecs
import hashlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from lc_finetune.bulk.cells import JSON, json_text
from lc_finetune.checkpoint import PAIRS, QUESTIONS, Task, sha256
from lc_finetune.data.columns import TEXT_COLUMNS, find_column, find_couple
from lc_finetune.data.questions import CONTEXT_COLUMNS, QUESTION_COLUMNS
from lc_finetune.data.rows import check_file, check_header, check_width, csv_records, decoded, json_object
from lc_finetune.errors import ConfigError, DataError

KINDS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
"""Formats that can be streamed, by suffix."""
DELIMITERS = {"csv": ",", "tsv": "\t"}
CHUNK_BYTES = 8 * 2**20
"""A chunk ends with the row that reaches this size, or with its last row, whichever comes first."""
RECORD_BYTES = 64 * 2**20
"""The longest row that is read; a quote left open would otherwise swallow the rest of a file."""


class Position(BaseModel):
    """Where a run stands: behind a whole chunk.

    Attributes:
        rows: Rows done.
        offset: Bytes of the input done; of Parquet, rows.
        line: Lines of the input done; of Parquet, 0.
        digest: SHA-256 of the bytes done; of Parquet, empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = 0
    offset: int = 0
    line: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows that are scored and written together.

    Attributes:
        texts: The value of the text column of each row, whatever its type, None where there is none; of pairs, a tuple
            of the values of both columns.
        where: File and line of each row; of Parquet, its number.
        raw: Each row as it stands in the file, without its line end; none for Parquet.
        fields: Each row as column → value; none for Parquet.
        table: The rows as an Arrow table; for Parquet only.
        end: Where the next chunk starts.
    """

    texts: Sequence[Any]
    where: Sequence[str]
    raw: Sequence[str]
    fields: Sequence[Mapping[str, Any]]
    table: Any
    end: Position

    def __len__(self) -> int:
        return len(self.texts)


class Source(ABC):
    """A file of rows.

    Attributes:
        path: The file.
        columns: Names in the order of the file; of JSONL, those of the first row.
        text_columns: Which of them holds the text, or the two that hold a pair; none if there is no row.
        size: Of the whole, in the unit of `Position.offset`.
        identity: SHA-256 of the whole where positions carry none.
    """

    path: Path
    columns: Sequence[str]
    text_columns: tuple[str, ...]
    size: int
    identity: str | None = None

    @abstractmethod
    def seek(self, position: Position) -> bool:
        """Go to where a run stood; False if the rows before that are no longer the same."""

    @abstractmethod
    def chunks(self, *, rows: int) -> Iterator[Chunk]:
        """Read on in chunks of at most `rows` rows. Where they end depends on the file and on `rows` alone.

        Raises:
            DataError: If the file is broken; names file and line.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


def kind_of(path: Path, role: str) -> str:
    """Name the format of a path by its suffix.

    Raises:
        ConfigError: If it is none that can be streamed.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        raise ConfigError(f"{path}: expected {role} that can be streamed, found a JSON array. Use JSONL (.jsonl).")
    if suffix not in KINDS:
        raise ConfigError(
            f"{path}: expected {role} named {', '.join(KINDS)}, found {suffix or 'no suffix'}. Rename it."
        )
    return KINDS[suffix]


@dataclass(frozen=True, slots=True)
class TextColumns:
    """Which columns of a file are answered: one, or the two of a pair; recognised by name where None.

    Attributes:
        text: The column of the text, or of the first of a pair.
        pair: The column of the second text of a pair.
        task: Of the model: whether a text, a pair, or a question and its context are wanted.
    """

    text: str | None = None
    pair: str | None = None
    task: Task = "text-classification"

    def among(self, source: str, columns: Sequence[str]) -> tuple[str, ...]:
        """Find them.

        Raises:
            DataError: If one is missing.
        """
        if self.task == QUESTIONS:
            return (
                find_column(source, columns, self.text, QUESTION_COLUMNS, "text"),
                find_column(source, columns, self.pair, CONTEXT_COLUMNS, "text-pair"),
            )
        couple = find_couple(source, columns, self.text, self.pair, self.task) if self.task in PAIRS else None
        return couple or (find_column(source, columns, self.text, TEXT_COLUMNS, "text"),)


def open_source(path: Path, wanted: TextColumns) -> Source:
    """Open a file and find its text columns.

    Raises:
        ConfigError: If its format cannot be streamed.
        DataError: If there is no such file, or no such column in it.
    """
    kind = kind_of(path, "an input")
    check_file(path)
    if kind == "parquet":
        return ParquetSource(path, wanted)
    if kind == "jsonl":
        return JsonlSource(path, wanted)
    return TableSource(path, wanted, DELIMITERS[kind])


def _side_by_side(columns: Iterable[Sequence[Any]]) -> Sequence[Any]:
    """Give the values of one column, or of each row a tuple of the values of several."""
    first, *others = columns
    return list(zip(first, *others, strict=True)) if others else first


# Text formats.


class _Lines(Iterator[str]):
    """The lines of a UTF-8 file, with count of the bytes and lines read and their SHA-256."""

    def __init__(self, path: Path, *, carriage_returns: bool) -> None:
        self._path = path
        self._file = path.open("rb")
        self._carriage_returns = carriage_returns  # whether a lone \r ends a line
        self._cut: deque[bytes] = deque()
        self._taken: list[str] = []
        self._taken_bytes = 0
        self.line = 0
        self.offset = 0
        self._hash = hashlib.sha256()
        self.bom = ""

    def __next__(self) -> str:
        raw = self._cut.popleft() if self._cut else self._read()
        if not raw:
            raise StopIteration
        self._taken_bytes += len(raw)
        if self._taken_bytes > RECORD_BYTES:
            raise DataError(
                f"{self._path}:{self.line + 1 - len(self._taken)}: expected a row of at most {RECORD_BYTES >> 20} MiB, "
                "found a longer one. Is a quote left open?"
            )
        self._hash.update(raw)
        self.line += 1
        self.offset += len(raw)
        text = decoded(self._path, raw, line=self.line)
        if self.offset == len(raw) and raw.startswith(codecs.BOM_UTF8):
            self.bom, text = text[0], text[1:]
        self._taken.append(text)
        return text

    def _read(self) -> bytes:
        raw = self._file.readline(RECORD_BYTES + 1)
        if self._carriage_returns and raw.count(b"\r") > raw.endswith(b"\r\n"):
            self._cut.extend(raw.splitlines(keepends=True))  # of bytes: at \n, \r and \r\n only
            return self._cut.popleft()
        return raw

    def close(self) -> None:
        self._file.close()

    def take(self) -> str:
        """Return what was read since the last call."""
        taken = "".join(self._taken)
        self._taken = []
        self._taken_bytes = 0
        return taken

    def position(self, rows: int) -> Position:
        """Say where reading stands."""
        return Position(rows=rows, offset=self.offset, line=self.line, digest=self._hash.copy().hexdigest())

    def seek(self, position: Position) -> bool:
        """Go on from a position; False if what lies before it has changed."""
        self._file.seek(0)
        self._cut.clear()
        self.take()
        read, left = hashlib.sha256(), position.offset
        while left and (block := self._file.read(min(left, 2**20))):
            read.update(block)
            left -= len(block)
        self._hash, self.offset, self.line = read, position.offset, position.line
        return not left and position.digest in ("", read.hexdigest())


@dataclass(frozen=True, slots=True)
class _Record:
    where: str
    raw: str
    fields: Mapping[str, Any]


class _TextSource(Source):
    """What the text formats share: lines are put together to records, and records to chunks."""

    def __init__(self, path: Path, *, carriage_returns: bool) -> None:
        self.path = path
        self.size = path.stat().st_size
        self._lines = _Lines(path, carriage_returns=carriage_returns)
        self._start = Position()
        self._rows = 0

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    @abstractmethod
    def _records(self) -> Iterator[_Record]:
        """Read on from where the lines stand."""

    def seek(self, position: Position) -> bool:
        """Go to a position, behind the header at least."""
        self._rows = position.rows
        return self._lines.seek(position if position.rows else self._start)

    def chunks(self, *, rows: int) -> Iterator[Chunk]:
        """Read on, line by line."""
        records: list[_Record] = []
        size = 0
        for record in self._records():
            records.append(record)
            size += len(record.raw)
            if len(records) == rows or size >= CHUNK_BYTES:
                yield self._chunk(records)
                records, size = [], 0
        if records:
            yield self._chunk(records)

    def _chunk(self, records: Sequence[_Record]) -> Chunk:
        self._rows += len(records)
        return Chunk(
            texts=_side_by_side([record.fields.get(name) for record in records] for name in self.text_columns),
            where=[record.where for record in records],
            raw=[record.raw for record in records],
            fields=[record.fields for record in records],
            table=None,
            end=self._lines.position(self._rows),
        )


class TableSource(_TextSource):
    """CSV or TSV. `header` is the first record as it stands in the file, `line_end` what ends it there."""

    def __init__(self, path: Path, wanted: TextColumns, delimiter: str) -> None:
        super().__init__(path, carriage_returns=True)
        self.delimiter = delimiter
        _, self.columns = next(csv_records(path, self._lines, delimiter), (1, []))
        check_header(path, self.columns, delimiter=delimiter)
        self.text_columns = wanted.among(str(path), self.columns)
        record = self._lines.take()
        self.header = self._lines.bom + _chomp(record)
        self.line_end = record[len(_chomp(record)) :] or "\n"
        self._start = self._lines.position(0)

    def _records(self) -> Iterator[_Record]:
        first = self._lines.line + 1
        for line, fields in csv_records(self.path, self._lines, self.delimiter, first_line=first):
            raw = self._lines.take()
            if fields:
                check_width(self.path, line, self.columns, fields)
                yield _Record(f"{self.path}:{line}", _chomp(raw), dict(zip(self.columns, fields, strict=True)))


class JsonlSource(_TextSource):
    """JSONL. Later rows may have other fields than the first."""

    def __init__(self, path: Path, wanted: TextColumns) -> None:
        super().__init__(path, carriage_returns=False)
        first = next(self._records(), None)
        self.columns = tuple(first.fields) if first else ()
        self.text_columns = wanted.among(first.where, self.columns) if first else ()

    def _records(self) -> Iterator[_Record]:
        for line in self._lines:
            number = self._lines.line
            raw = self._lines.take().strip()
            if raw:
                yield _Record(f"{self.path}:{number}", raw, json_object(self.path, number, line, JSON))

    def every_field(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Read the whole file: each row's place and fields.

        Raises:
            DataError: If a row has characters that no other format can hold.
        """
        self._lines.seek(self._start)
        for record in self._records():
            if "\\u" in record.raw:
                _check_surrogates(record)
            yield record.where, record.fields


def _chomp(raw: str) -> str:
    return raw.removesuffix("\n").removesuffix("\r")


def _check_surrogates(record: _Record) -> None:
    try:
        json_text(record.fields).encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{record.where}: expected valid Unicode, found a lone surrogate, which JSONL alone can hold. "
            "Write JSONL, or clean the row."
        ) from None


# Parquet.


class ParquetSource(Source):
    """Parquet. `schema` is its Arrow schema."""

    def __init__(self, path: Path, wanted: TextColumns) -> None:
        import pyarrow
        import pyarrow.parquet

        self.path = path
        self._broken = (pyarrow.ArrowException, OSError)
        try:
            # Buffered: column chunks are read piece by piece, so a row group of any size is no matter.
            self._file = pyarrow.parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False)
        except self._broken:
            raise self._unreadable() from None
        self.schema = self._file.schema_arrow
        self.columns = self.schema.names
        check_header(path, self.columns)
        self.text_columns = wanted.among(str(path), self.columns)
        for column in self.text_columns:
            _check_strings(path, self.schema.field(column))
        self.size = self._file.metadata.num_rows
        self.identity = sha256(path)
        self._done = 0

    def seek(self, position: Position) -> bool:
        """Go to a row; that the file is the same is for `identity` to say."""
        self._done = position.rows
        return position.rows <= self.size

    def chunks(self, *, rows: int) -> Iterator[Chunk]:
        """Read on, in tables."""
        for table in self._tables(self._done, self._rows(rows)):
            first, self._done = self._done + 1, self._done + len(table)
            yield Chunk(
                texts=_side_by_side(table.column(name).to_pylist() for name in self.text_columns),
                where=[f"{self.path}:row {number}" for number in range(first, self._done + 1)],
                raw=(),
                fields=(),
                table=table,
                end=Position(rows=self._done, offset=self._done),
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _rows(self, most: int) -> int:
        groups = [self._file.metadata.row_group(i) for i in range(self._file.num_row_groups)]
        mean = sum(group.total_byte_size for group in groups) / max(1, self.size)
        return max(1, min(most, int(CHUNK_BYTES / max(1, mean))))

    def _tables(self, skip: int, rows: int) -> Iterator[Any]:
        """Read tables of exactly `rows` rows, and a last one, wherever row groups end."""
        import pyarrow

        groups = list(range(self._file.num_row_groups))
        while groups and skip >= (whole := self._file.metadata.row_group(groups[0]).num_rows):
            skip -= whole
            groups.pop(0)
        waiting = self.schema.empty_table()
        try:
            for batch in self._file.iter_batches(batch_size=rows, row_groups=groups) if groups else ():
                waiting = pyarrow.concat_tables([waiting, pyarrow.Table.from_batches([batch], self.schema)])
                skipped = min(skip, len(waiting))
                waiting, skip = waiting.slice(skipped), skip - skipped
                while len(waiting) >= rows:
                    yield waiting.slice(0, rows)
                    waiting = waiting.slice(rows)
        except self._broken:
            raise self._unreadable() from None
        if len(waiting):
            yield waiting

    def _unreadable(self) -> DataError:
        return DataError(f"{self.path}: expected a Parquet file, found one that cannot be read as such.")


def _check_strings(path: Path, field: Any) -> None:
    from pyarrow import types

    kind = field.type.value_type if types.is_dictionary(field.type) else field.type
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind)):
        raise DataError(
            f"{path}: expected texts in the column {field.name!r}, found {field.type}. Name yours with --text-column."
        )
