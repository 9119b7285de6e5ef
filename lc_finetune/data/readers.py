"""Files → examples. Every fault is a `DataError` that names file and line, and never quotes a text."""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lc_finetune.checkpoint import Task
from lc_finetune.data.examples import Example, TaggedExample, TextExample
from lc_finetune.errors import DataError, did_you_mean
from lc_finetune.labels import Span
from lc_finetune.schemes import SchemeConflict, detect_scheme, tags_to_spans

TEXT_COLUMNS = (
    "text", "sentence", "query", "utterance", "content", "tweet", "review", "message", "question", "body", "title",
)  # fmt: skip
LABEL_COLUMNS = ("label", "category", "intent", "class", "target", "sentiment", "topic", "tag", "labels")
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".conll", ".iob", ".bio", ".txt")
CONLL = (".conll", ".iob", ".bio", ".txt")
LF = b"\n"
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class ReadOptions:
    """How to read a file.

    Attributes:
        text_column: Column of the text; recognised by name if None.
        label_column: Column of the label; recognised by name if None.
        label_names: Names for integer labels: label `i` is called `label_names[i]`.
        drop_unlabelled: Whether rows without a label are dropped, and counted, rather than refused.
    """

    text_column: str | None = None
    label_column: str | None = None
    label_names: tuple[str, ...] = ()
    drop_unlabelled: bool = False


@dataclass(frozen=True)
class Loaded:
    """The examples of one source, and what was noticed while reading."""

    examples: tuple[Example, ...]
    task: Task
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Row:
    where: str
    fields: Mapping[str, Any]


def read_examples(source: str | Path, options: ReadOptions | None = None) -> Loaded:
    """Read a labelled file, or a data set of the Hugging Face Hub.

    CSV, TSV, JSON, JSONL and Parquet hold one text and label a row, or, as JSON, JSONL and Parquet, a text with
    `entities`; `.conll`, `.iob`, `.bio` and `.txt` hold one word and tag a line. Texts are not changed in any way.

    Args:
        source: A file, or a Hub id with an optional split: `"organisation/name"`, `"organisation/name:train"`.
        options: Columns, label names, and what to do with rows that have no label.

    Raises:
        DataError: If anything in the source cannot be used; names file and line.
    """
    options = options or ReadOptions()
    path = Path(source)
    if not path.exists() and _is_hub_id(str(source)):
        return _from_rows(str(source), list(_hub_rows(str(source))), options)
    check_file(path)
    if path.stat().st_size == 0:
        raise DataError(f"{path}: expected labelled rows, found an empty file.")
    suffix = path.suffix.lower()
    if suffix in CONLL:
        return _read_conll(path)
    if suffix in (".csv", ".tsv"):
        rows = _table_rows(path, "," if suffix == ".csv" else "\t")
    elif suffix == ".parquet":
        rows = _parquet_rows(path)
    elif suffix in (".jsonl", ".ndjson"):
        rows = _jsonl_rows(path)
    elif suffix == ".json":
        rows = _json_rows(path)
    else:
        raise DataError(f"{path}: expected one of {', '.join(SUFFIXES)}, found {suffix or 'no suffix'}. Rename it.")
    return _from_rows(str(path), list(rows), options)


def check_file(path: Path) -> None:
    """Refuse a path that is no file."""
    if path.is_dir():
        raise DataError(f"{path}: expected a file, found a folder.")
    if not path.is_file():
        siblings = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: expected a file, found none there{did_you_mean(path.name, siblings)}.")


# Tables.


def _read_text(path: Path) -> str:
    return decoded(path, path.read_bytes().removeprefix(codecs.BOM_UTF8))


def decoded(path: Path, raw: bytes, *, line: int = 1) -> str:
    """Decode bytes of a file, of which the first belongs to the given line; refuse NUL and what is not UTF-8."""
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


def _table_rows(path: Path, delimiter: str) -> Iterator[_Row]:
    records = csv_records(path, io.StringIO(_read_text(path), newline=""), delimiter)
    _, header = next(records, (1, []))
    check_header(path, header)
    for line, fields in records:
        if fields:
            check_width(path, line, header, fields)
            yield _Row(f"{path}:{line}", dict(zip(header, fields, strict=True)))


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


def check_header(path: Path, header: Sequence[str]) -> None:
    """Refuse a header that names a column twice."""
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise DataError(f"{path}:1: expected every column once, found {twice[0]!r} more than once. Rename one.")


def check_width(path: Path, line: int, header: Sequence[str], fields: Sequence[str]) -> None:
    """Refuse a ragged row."""
    if len(fields) != len(header):
        raise DataError(
            f"{path}:{line}: expected {len(header)} fields as in the header, found {len(fields)}. "
            "Quote fields that hold the delimiter or a line break."
        )


def _parquet_rows(path: Path) -> Iterator[_Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError):
        raise DataError(f"{path}: expected a Parquet file, found one that cannot be read as such.") from None
    for number, fields in enumerate(table.to_pylist(), start=1):
        yield _Row(f"{path}:row {number}", fields)


def _jsonl_rows(path: Path) -> Iterator[_Row]:
    for number, line in enumerate(io.StringIO(_read_text(path), newline="\n"), start=1):
        if line.strip():
            yield _Row(f"{path}:{number}", json_object(f"{path}:{number}", line))


def json_object(where: str, line: str, decoder: json.JSONDecoder = _DECODER) -> Mapping[str, Any]:
    """Read one line of JSONL."""
    try:
        return _object(decoder.decode(line), where)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: expected a JSON object, found no JSON (column {error.colno}: {error.msg})."
        ) from None
    except RecursionError:
        raise DataError(f"{where}: expected a JSON object, found one nested too deeply to be read.") from None


def _json_rows(path: Path) -> Iterator[_Row]:
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: expected JSON, found none ({error.msg}).") from None
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    if not isinstance(content, list):
        raise DataError(f"{path}: expected an array of objects, found {type(content).__name__}.")
    for number, fields in enumerate(content, start=1):
        yield _Row(f"{path}:item {number}", _object(fields, f"{path}:item {number}"))


def _object(fields: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(fields, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(fields).__name__}.")
    return fields


# Rows → examples.


def _from_rows(source: str, rows: Sequence[_Row], options: ReadOptions) -> Loaded:
    if not rows:
        raise DataError(f"{source}: expected labelled rows, found a header alone or nothing.")
    columns = list(dict.fromkeys(name for row in rows for name in row.fields))
    if "entities" in columns and options.label_column is None:
        text = find_column(source, columns, options.text_column, TEXT_COLUMNS, "text")
        return _spans(rows, text)
    text = find_column(source, columns, options.text_column, TEXT_COLUMNS, "text")
    label = find_column(source, columns, options.label_column, LABEL_COLUMNS, "label")
    return _labelled(source, rows, text, label, options)


def find_column(source: str, columns: Sequence[str], given: str | None, known: Sequence[str], kind: str) -> str:
    """Choose the column that is named, or else the first of the known names, whatever its case."""
    found = ", ".join(columns)
    if given is not None:
        if given in columns:
            return given
        raise DataError(
            f"{source}: expected the column {given!r}, found {found}. Name yours with --{kind}-column"
            f"{did_you_mean(given, columns)}."
        )
    folded = {name.strip().casefold(): name for name in reversed(columns)}
    for name in known:
        if name in folded:
            return folded[name]
    raise DataError(
        f"{source}: expected a {kind} column ({', '.join(known[:4])}, …), found {found}. "
        f"Name yours with --{kind}-column."
    )


def _labelled(source: str, rows: Sequence[_Row], text: str, label: str, options: ReadOptions) -> Loaded:
    kept: list[TextExample] = []
    unlabelled: list[str] = []
    raw = [row.fields.get(label) for row in rows]
    names = _integer_names(raw, options.label_names)
    for row, value in zip(rows, raw, strict=True):
        if value is None or (isinstance(value, str) and not value.strip()):
            unlabelled.append(row.where)
            continue
        kept.append(TextExample(_text(row, text), _label(row, value, names)))
    if unlabelled and not options.drop_unlabelled:
        raise DataError(
            f"{unlabelled[0]}: expected a label in every row, found {len(unlabelled)} of {len(rows)} rows without one, "
            "this the first. Label them, or drop them with --drop-unlabelled."
        )
    if not kept:
        raise DataError(f"{source}: expected labelled rows, found none with a label.")
    notes = [f"{source}: {len(unlabelled)} of {len(rows)} rows had no label and were dropped."] if unlabelled else []
    notes += _alike(source, {example.label for example in kept})
    return Loaded(tuple(kept), "text-classification", tuple(notes))


def _text(row: _Row, column: str) -> str:
    text = row.fields.get(column)
    if not isinstance(text, str):
        raise DataError(f"{row.where}: expected a text in {column!r}, found {type(text).__name__}.")
    return text


def _is_integer(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, str) and value.strip().isascii() and value.strip().isdigit()
    )


def _integer_names(values: Sequence[Any], names: Sequence[str]) -> Sequence[str]:
    present = [value for value in values if value is not None and value != ""]
    return names if names and all(_is_integer(value) for value in present) else ()


def _label(row: _Row, value: Any, names: Sequence[str]) -> str:
    if isinstance(value, list | dict):
        raise DataError(
            f"{row.where}: expected one label, found {type(value).__name__}: is this multi-label data? "
            "A text classifier gives each text one label."
        )
    if isinstance(value, float) and not value.is_integer():
        raise DataError(f"{row.where}: expected a class, found a fraction. Classes are names or whole numbers.")
    if not names:
        return str(int(value)) if isinstance(value, float) else str(value)
    number = int(value)
    if number >= len(names):
        raise DataError(f"{row.where}: expected a label from 0 to {len(names) - 1}, found {number}. Add its name.")
    return names[number]


def _alike(source: str, labels: Iterable[str]) -> list[str]:
    folded: dict[str, list[str]] = {}
    for label in sorted(labels):
        folded.setdefault(label.strip().casefold(), []).append(label)
    twins = [" / ".join(repr(name) for name in group) for group in folded.values() if len(group) > 1]
    return [f"{source}: labels that differ only in case or spaces are kept apart: {', '.join(twins)}."] if twins else []


def _spans(rows: Sequence[_Row], column: str) -> Loaded:
    examples: list[TaggedExample] = []
    dropped = 0
    for row in rows:
        text = _text(row, column)
        entities = row.fields.get("entities")
        if not isinstance(entities, list):
            raise DataError(f"{row.where}: expected 'entities' as a list, found {type(entities).__name__}.")
        spans = [_span(row, entity, len(text)) for entity in entities]
        kept = disjoint(spans)
        dropped += len(spans) - len(kept)
        examples.append(TaggedExample(text, tuple(kept)))
    notes = [f"{dropped} overlapping entities left out; of each overlap the longest was kept."] if dropped else []
    return Loaded(tuple(examples), "token-classification", tuple(notes))


def _span(row: _Row, entity: Any, length: int) -> Span:
    if not isinstance(entity, Mapping) or not {"start", "end", "label"} <= set(entity):
        raise DataError(f"{row.where}: expected entities with 'start', 'end' and 'label', found one without.")
    start, end, label = entity["start"], entity["end"], entity["label"]
    if type(start) is not int or type(end) is not int or not isinstance(label, str) or not label:
        raise DataError(f"{row.where}: expected whole-number offsets and a label, found others.")
    if not 0 <= start < end <= length:
        raise DataError(
            f"{row.where}: expected an entity within the text (0 to {length}), found {start} to {end}. "
            "Offsets count characters, the end is exclusive."
        )
    return Span(start, end, label)


def disjoint(spans: Iterable[Span]) -> list[Span]:
    """Keep, of overlapping spans, the longest, then the first; sorted by position."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start - span.end, span)):
        if all(span.end <= other.start or other.end <= span.start for other in kept):
            kept.append(span)
    return sorted(kept)


# CoNLL columns.


def _read_conll(path: Path) -> Loaded:
    sentences: list[tuple[list[str], list[str], list[int]]] = []
    words: list[str] = []
    tags: list[str] = []
    lines: list[int] = []
    for number, line in enumerate([*_read_text(path).replace("\r\n", "\n").split("\n"), ""], start=1):
        columns = line.split("\t") if "\t" in line else line.split(" ")
        if not line.strip() or columns[0] == "-DOCSTART-":
            if words:
                sentences.append((words, tags, lines))
                words, tags, lines = [], [], []
            continue
        columns = [column.strip() for column in columns if column.strip()] if "\t" not in line else columns
        if len(columns) < 2 or not columns[0].strip() or not columns[-1].strip():
            raise DataError(
                f"{path}:{number}: expected a word and a tag, found {len(columns)} column(s) with one of them missing. "
                "Separate word and tag with a tab or a space."
            )
        words.append(columns[0])
        tags.append(columns[-1].strip())
        lines.append(number)
    if not sentences:
        raise DataError(f"{path}: expected words and tags, found none.")
    try:
        scheme = detect_scheme([tags for _, tags, _ in sentences])
    except SchemeConflict as conflict:
        line_number = sentences[conflict.sequence][2][conflict.position]
        raise DataError(
            f"{path}:{line_number}: expected one tagging scheme (IOB1, IOB2, BIOES, BILUO), found a mixture: "
            f"{conflict.reason}. Convert the file to one scheme."
        ) from None
    examples = tuple(_sentence(words, tags_to_spans(tags, scheme)) for words, tags, _ in sentences)
    return Loaded(examples, "token-classification", (f"{path}: {len(examples)} sentences in {scheme}.",))


def _sentence(words: Sequence[str], spans: Sequence[Span]) -> TaggedExample:
    """Join the words with single spaces and move the spans to characters."""
    starts: list[int] = []
    position = 0
    for word in words:
        starts.append(position)
        position += len(word) + 1
    return TaggedExample(
        " ".join(words),
        tuple(Span(starts[s.start], starts[s.end - 1] + len(words[s.end - 1]), s.label) for s in spans),
    )


# The Hub.


def _is_hub_id(source: str) -> bool:
    name = source.partition(":")[0]
    return Path(name).suffix not in SUFFIXES and name.count("/") == 1 and not name.startswith((".", "/", "~"))


def _hub_rows(source: str) -> Iterator[_Row]:
    import datasets

    name, _, split = source.partition(":")
    try:
        data = datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # the library's network, name and split errors share no base class
        raise DataError(
            f"{source}: expected a file or a data set of the Hugging Face Hub, could not get it "
            f"({type(error).__name__}). Check the name, the split and your network, or give a file."
        ) from error
    names = {
        column: feature.names for column, feature in data.features.items() if isinstance(feature, datasets.ClassLabel)
    }
    for number, fields in enumerate(data, start=1):
        named = {
            column: names[column][value] if column in names and value is not None and value >= 0 else value
            for column, value in fields.items()
        }
        yield _Row(f"{source}:row {number}", {c: None if c in names and v == -1 else v for c, v in named.items()})
