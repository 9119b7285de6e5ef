"""Chunks with their answers → bytes that are appended to a partial file, and that file → the output.

Whatever the format, unfinished work is one file that only grows, so that a run goes on after a kill by cutting the
file where the journal says. CSV and JSONL are such files by nature. For Parquet the partial file is a sequence of
Arrow streams, joined at the end.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from lc_finetune.bulk.answers import Answers
from lc_finetune.bulk.cells import Number, csv_cell, json_text
from lc_finetune.bulk.source import DELIMITERS, Chunk, JsonlSource, ParquetSource, Source, TableSource, kind_of
from lc_finetune.errors import ConfigError

GROUP_ROWS = 64 * 1024
GROUP_BYTES = 64 * 2**20
"""A row group of a Parquet output ends with the chunk that reaches either."""
FRAME_BYTES = 8
"""What the size of each part of a frame takes."""
EXACT = 2**53
"""Whole numbers up to here are exact as float64."""

Rows = Sequence[Mapping[str, Any]]


class Sink(ABC):
    """A format of output. `schema` is JSON-ready and fixed for the run: a resumed one must have the same."""

    schema: Any = None

    @abstractmethod
    def head(self) -> bytes:
        """Give the bytes that come before the first row."""

    @abstractmethod
    def body(self, chunk: Chunk, answers: Rows) -> bytes:
        """Give the bytes of a chunk, each row with its answer."""

    def seal(self, partial: Path, done: Path) -> None:
        """Turn the complete partial file into the output, under a third name; the partial file goes last."""
        os.replace(partial, done)


def open_sink(path: Path, source: Source, answers: Answers) -> Sink:
    """Choose how rows of a source are written to a path.

    Raises:
        ConfigError: If the format cannot be streamed, or cannot hold the rows.
        DataError: If a JSONL input, which is read through when other columns are to be found, is broken.
    """
    kind = kind_of(path, "an output")
    answers.check_free(str(source.path), source.columns)
    if kind == "jsonl":
        return JsonlSink(answers, objects=isinstance(source, JsonlSource))
    types = _types(source, answers) if isinstance(source, JsonlSource) else dict.fromkeys(source.columns, "string")
    if kind == "parquet":
        return ParquetSink(source, answers, types)
    if kind == "tsv":
        _check_tsv(path, source, answers)
    return TableSink(source, answers, tuple(types), DELIMITERS[kind])


def _check_tsv(path: Path, source: Source, answers: Answers) -> None:
    if not (isinstance(source, TableSource) and source.delimiter == "\t"):
        raise ConfigError(
            f"{path}: expected a TSV input for a TSV output, which cannot hold tabs and line breaks. Write .csv."
        )
    if any(mark in word for word in (*answers.names, *answers.labels.names) for mark in "\t\r\n"):
        raise ConfigError(f"{path}: expected names and labels without tabs and line breaks, found one. Write .csv.")


def _fields(chunk: Chunk) -> Rows:
    rows: Rows = chunk.fields if chunk.table is None else chunk.table.to_pylist()
    return rows


class JsonlSink(Sink):
    """JSONL. An object of a JSONL input keeps its text to the byte; the answer goes before its last brace."""

    def __init__(self, answers: Answers, *, objects: bool) -> None:
        self._answers = answers
        self._objects = objects

    def head(self) -> bytes:
        """Nothing."""
        return b""

    def body(self, chunk: Chunk, answers: Rows) -> bytes:
        """One object a line."""
        if self._objects:
            for where, fields in zip(chunk.where, chunk.fields, strict=True):
                self._answers.check_free(where, fields)
            objects = chunk.raw
        else:
            objects = [json_text(fields) for fields in _fields(chunk)]
        return "".join(map(_with_answer, objects, answers)).encode()


def _with_answer(raw: str, answer: Mapping[str, Any]) -> str:
    opened = raw[:-1].rstrip()
    return f"{opened}{'' if opened == '{' else ', '}{json_text(answer)[1:]}\n"


class TableSink(Sink):
    """CSV or TSV. A row of an input in the same format keeps its text to the byte; the answer goes behind it."""

    def __init__(self, source: Source, answers: Answers, columns: Sequence[str], delimiter: str) -> None:
        self.schema = list(columns)
        self._columns = columns
        self._delimiter = delimiter
        self._same = isinstance(source, TableSource) and source.delimiter == delimiter
        header = self._cells(columns)
        self._line_end = "\n"
        if isinstance(source, TableSource) and self._same:
            header, self._line_end = [source.header], source.line_end
        self._header = self._line([*header, *self._cells(answers.names)])

    def head(self) -> bytes:
        """The header."""
        return self._header.encode()

    def body(self, chunk: Chunk, answers: Rows) -> bytes:
        """One record a row."""
        given: Iterable[list[str]]
        if self._same:
            given = ([raw] for raw in chunk.raw)
        else:
            given = (self._cells(fields.get(name) for name in self._columns) for fields in _fields(chunk))
        return "".join(
            self._line([*cells, *self._cells(answer.values())]) for cells, answer in zip(given, answers, strict=True)
        ).encode()

    def _cells(self, values: Iterable[Any]) -> list[str]:
        return [csv_cell(value, self._delimiter) for value in values]

    def _line(self, cells: Sequence[str]) -> str:
        return self._delimiter.join(cells) + self._line_end


class ParquetSink(Sink):
    """Parquet. Columns of a Parquet input keep their types; CSV gives strings; JSONL gives what `_types` finds."""

    def __init__(self, source: Source, answers: Answers, types: Mapping[str, str]) -> None:
        import pyarrow as pa

        self._types = types
        given = source.schema if isinstance(source, ParquetSource) else pa.schema(types.items())
        self._added = answers.arrow_fields()
        self._arrow = pa.schema([*given, *self._added], metadata=given.metadata)
        self.schema = [[field.name, str(field.type)] for field in self._arrow]

    def head(self) -> bytes:
        """Nothing."""
        return b""

    def body(self, chunk: Chunk, answers: Rows) -> bytes:
        """One Arrow stream, schema included."""
        import pyarrow as pa

        columns = self._given(chunk) if chunk.table is None else chunk.table.columns
        added = [pa.array([answer[field.name] for answer in answers], field.type) for field in self._added]
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, self._arrow) as writer:
            writer.write_table(pa.Table.from_arrays([*columns, *added], schema=self._arrow))
        content: bytes = stream.getvalue().to_pybytes()
        return content

    def _given(self, chunk: Chunk) -> list[Any]:
        import pyarrow as pa

        return [
            pa.array([_typed(fields.get(name), kind) for fields in chunk.fields], self._arrow.field(name).type)
            for name, kind in self._types.items()
        ]

    def seal(self, partial: Path, done: Path) -> None:
        """Join the streams into row groups; constant in memory."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        descriptor = os.open(done, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        try:
            with pa.OSFile(os.fspath(partial)) as file, pq.ParquetWriter(done, self._arrow) as writer:
                for group in _groups(_streams(file, partial.stat().st_size)):
                    writer.write_table(pa.concat_tables(group))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        partial.unlink()


def _streams(file: Any, size: int) -> Iterator[Any]:
    import pyarrow as pa

    while file.tell() < size:
        yield pa.ipc.open_stream(file).read_all()


def _groups(tables: Iterable[Any]) -> Iterator[list[Any]]:
    group: list[Any] = []
    for table in tables:
        group.append(table)
        if sum(map(len, group)) >= GROUP_ROWS or sum(one.nbytes for one in group) >= GROUP_BYTES:
            yield group
            group = []
    if group:
        yield group


# Two files.


class SplitSink(Sink):
    """Rows with an answer in one file, rows with an `error` in another.

    The partial file is a sequence of frames, each with the bytes for both, so that one journal serves both files.
    """

    def __init__(self, answered: Sink, failed: Sink, apart: Path, *, like: Path) -> None:
        """Pair the sinks.

        Args:
            answered: Of the rows with an answer; the last added column of the answers, `error`, is not its.
            failed: Of the others, with `error` alone.
            apart: Where the others go; no such file is made if there are none.
            like: The file whose permissions it gets.
        """
        self.schema = [answered.schema, failed.schema]
        self._sinks = (answered, failed)
        self._apart = apart
        self._like = like

    def head(self) -> bytes:
        """Both heads."""
        return _frame([sink.head() for sink in self._sinks])

    def body(self, chunk: Chunk, answers: Rows) -> bytes:
        """The rows of a chunk, for each file its own."""
        error = list(answers[0])[-1]
        kept = [i for i, answer in enumerate(answers) if answer[error] is None]
        others = [i for i, answer in enumerate(answers) if answer[error] is not None]
        added = [{name: value for name, value in answers[i].items() if name != error} for i in kept]
        return _frame(
            [
                self._sinks[0].body(_rows_of(chunk, kept), added) if kept else b"",
                self._sinks[1].body(_rows_of(chunk, others), [{error: answers[i][error]} for i in others])
                if others
                else b"",
            ]
        )

    def seal(self, partial: Path, done: Path) -> None:
        """Write and seal both files, the partial file going last; done again, it gives the same."""
        parts = [partial.with_name(f"{partial.name}.{name}") for name in ("labelled", "unlabelled")]
        apart = parts[1].with_name(f"{parts[1].name}.done")
        empty = not _unframed(partial, parts)
        for sink, part, sealed in zip(self._sinks, parts, (done, apart), strict=True):
            sink.seal(part, sealed)
        if empty:
            apart.unlink()
            self._apart.unlink(missing_ok=True)  # of an earlier run, which this one replaces
        else:
            apart.chmod(self._like.stat().st_mode & 0o777)
            os.replace(apart, self._apart)
        partial.unlink()


def _rows_of(chunk: Chunk, positions: Sequence[int]) -> Chunk:
    def chosen(rows: Sequence[Any]) -> Sequence[Any]:
        return [rows[i] for i in positions] if rows else rows

    return replace(
        chunk,
        texts=chosen(chunk.texts),
        where=chosen(chunk.where),
        raw=chosen(chunk.raw),
        fields=chosen(chunk.fields),
        table=None if chunk.table is None else chunk.table.take(positions),
    )


def _frame(parts: Sequence[bytes]) -> bytes:
    return b"".join([*(len(part).to_bytes(FRAME_BYTES, "big") for part in parts), *parts])


def _unframed(framed: Path, parts: Sequence[Path]) -> bool:
    """Write what the frames hold for each file to that file; whether the last has anything but its head."""
    rows = False
    with ExitStack() as stack:
        source = stack.enter_context(framed.open("rb"))
        files = [stack.enter_context(_private(path)) for path in parts]
        first = True
        while header := source.read(FRAME_BYTES * len(parts)):
            sizes = [int.from_bytes(header[i : i + FRAME_BYTES], "big") for i in range(0, len(header), FRAME_BYTES)]
            for file, size in zip(files, sizes, strict=True):
                file.write(source.read(size))
            rows = rows or (not first and sizes[-1] > 0)
            first = False
        for file in files:
            file.flush()
            os.fsync(file.fileno())
    return rows


def _private(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return open(os.open(path, flags, 0o600), "wb")


# The columns of a JSONL file.


def _types(source: JsonlSource, answers: Answers) -> dict[str, str]:
    """Find every column and its Arrow type: what holds all of its values exactly, else strings, with JSON inside."""
    kinds: dict[str, set[str]] = {}
    for where, fields in source.every_field():
        answers.check_free(where, fields)
        for name, value in fields.items():
            kinds.setdefault(name, set()).add(_kind(value))
    return {name: _type(found - {"null"}) for name, found in kinds.items()}


def _kind(value: Any) -> str:
    if isinstance(value, Number):
        return _number_kind(value.digits)
    return {type(None): "null", bool: "bool", str: "string"}.get(type(value), "json")


def _number_kind(digits: str) -> str:
    if digits.removeprefix("-").isdigit():
        size = abs(int(digits)) if len(digits) < 20 else 2**64
        return "exact" if size <= EXACT else "int64" if size < 2**63 else "json"
    try:
        return "double" if Decimal(repr(float(digits))) == Decimal(digits) else "json"
    except ArithmeticError:  # an exponent that Decimal has no room for
        return "json"


def _type(kinds: set[str]) -> str:
    if kinds == {"bool"}:
        return "bool"
    if kinds and kinds <= {"exact", "int64"}:
        return "int64"
    return "double" if kinds and kinds <= {"exact", "double"} else "string"


def _typed(value: Any, kind: str) -> Any:
    if isinstance(value, Number) and kind in ("int64", "double"):
        return int(value.digits) if kind == "int64" else float(value.digits)
    return value if value is None or kind == "bool" or isinstance(value, str) else json_text(value)
