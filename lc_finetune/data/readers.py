"""Files → examples. Every fault is a `DataError` that names file and line, and never quotes a text."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from lc_finetune.checkpoint import ORDINAL, QUESTIONS, RELATIONS, Task
from lc_finetune.data.delimiters import evident, held, listed, parts_of, separating
from lc_finetune.data.examples import (
    Example,
    MultiLabelExample,
    PairExample,
    RegressionExample,
    TaggedExample,
    TextExample,
)
from lc_finetune.data.questions import (
    ANSWER_COLUMNS,
    CONTEXT_COLUMNS,
    QUESTION_COLUMNS,
    from_rows,
    from_squad,
    hold_questions,
)
from lc_finetune.data.relations import (
    RELATION_COLUMNS,
    SEMEVAL,
    from_markers,
    from_spans,
    hold_markers,
    semeval_records,
    span_columns,
)
from lc_finetune.errors import DataError, did_you_mean, shown
from lc_finetune.labels import Span, number_in
from lc_finetune.schemes import OUTSIDE, SchemeConflict, detect_scheme, parse_tag, tags_to_spans

TEXT_COLUMNS = (
    "text", "sentence", "query", "utterance", "content", "tweet", "review", "message", "question", "body", "title",
)  # fmt: skip
COUPLES = (
    ("text", "text_pair"), ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"),
    ("text1", "text2"), ("text_a", "text_b"), ("sentence_a", "sentence_b"),
)  # fmt: skip
"""Columns that are a pair of texts and nothing else."""
MAYBE_COUPLES = (
    ("question", "answer"), ("query", "answer"), ("query", "passage"), ("query", "document"), ("question", "sentence"),
    ("question", "context"), ("claim", "evidence"), ("profile", "item"), ("history", "item"),
)  # fmt: skip
"""Columns that are a pair only where pairs are asked for: in a table of texts, the second may be a mere remark."""
LABEL_COLUMNS = ("label", "category", "intent", "class", "target", "sentiment", "topic", "tag", "labels")
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".conll", ".iob", ".bio", ".txt")
CONLL = (".conll", ".iob", ".bio", ".txt")
LF = b"\n"
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class ReadOptions:
    """How to read a file.

    Attributes:
        text_column: Column of the text; recognised by name if None.
        label_column: Column of the label; recognised by name if None. Numbers for all columns, from 0, tell that a
            table has no header.
        label_names: Names for integer labels: label `i` is called `label_names[i]`.
        drop_unlabelled: Whether rows without a label are dropped, and counted, rather than refused; of multi-label
            data, rather than taken for texts to which no label applies.
        task: Whether a text has one label or several; by the data if `"auto"`.
        label_delimiter: What stands between the labels of a cell; recognised if None.
        text_pair_column: Column of the second text of a pair; if None, recognised where it is unmistakable (`COUPLES`)
            or where the task says that there is one.
    """

    text_column: str | None = None
    label_column: str | None = None
    label_names: tuple[str, ...] = ()
    drop_unlabelled: bool = False
    task: Task | Literal["auto"] = "auto"
    label_delimiter: str | None = None
    text_pair_column: str | None = None


@dataclass(frozen=True)
class Loaded:
    """The examples of one source, what was noticed while reading, and what stood between the labels of a cell."""

    examples: tuple[Example, ...]
    task: Task
    notes: tuple[str, ...] = ()
    label_delimiter: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row, and where it stands."""

    where: str
    fields: Mapping[str, Any]


_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")


def read_examples(source: str | Path, options: ReadOptions | None = None) -> Loaded:
    """Read a labelled file, or a data set of the Hugging Face Hub.

    CSV, TSV, JSON, JSONL and Parquet hold one text, or a pair of texts, a row with its label; or a text with its
    labels: a list, or a cell with a delimiter; or, as JSON, JSONL and Parquet, a text with `entities`; `.conll`,
    `.iob`, `.bio` and `.txt` hold one word and tag a line. Two mentions with a relation are marked in the text, or
    given as two columns of spans; a `.txt` of SemEval-2010 task 8 is recognised. Questions about contexts are read as
    SQuAD has them, or one a row. Texts are not changed in any way, but
    for such marks, which are taken out.

    Args:
        source: A file, or a Hub id with an optional split: `"organisation/name"`, `"organisation/name:train"`.
        options: Columns, label names, and what to do with rows that have no label.

    Raises:
        DataError: If anything in the source cannot be used; names file and line.
    """
    try:
        return _read(source, options or ReadOptions())
    except OSError as error:
        raise DataError(
            f"{source}: expected a file that can be read, found one that cannot ({error.strerror}). "
            "Check its path and its permissions."
        ) from error


def _read(source: str | Path, options: ReadOptions) -> Loaded:
    path = Path(source)
    if not path.exists() and is_hub_id(str(source)):
        return _from_rows(str(source), list(hub_rows(str(source))), options)
    if path.suffix.lower() in CONLL:
        check_content(path)
        lines = read_text(path).replace("\r\n", "\n").split("\n")
        if SEMEVAL.match(next((line for line in lines if line.strip()), "")):
            return _read_semeval(path, lines, options)
        return read_conll(path)
    pair = [options.text_pair_column] if options.text_pair_column is not None else []
    return _from_rows(str(path), rows_of(path, (options.text_column, options.label_column, *pair)), options)


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
    if not isinstance(content, list):
        raise DataError(
            f"{path}: expected an array of objects, found {_kind(content)}. Write one object for each text."
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
        raise DataError(f"{where}: expected a JSON object, found {_kind(fields)}. Write one object for each text.")
    return fields


def _kind(value: Any) -> str:
    """Name the type of a value that stands where another was expected."""
    names = {type(None): "nothing", str: "a text", dict: "an object", list: "a list", bool: "true or false"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def read_label_names(given: str) -> tuple[str, ...]:
    """Read names of integer labels: `a,b,c`, or a file with one a line.

    Raises:
        DataError: If it looks like a file, and cannot be read as one.
    """
    path = Path(given).expanduser()
    if "," in given or not (path.is_file() or path.suffix == ".txt" or len(path.parts) > 1):
        return tuple(name.strip() for name in given.split(","))
    check_file(path)
    return tuple(line.strip() for line in read_text(path).splitlines() if line.strip())


# Rows → examples.


def _from_rows(source: str, rows: Sequence[Row], options: ReadOptions) -> Loaded:
    if not rows:
        raise DataError(f"{source}: expected labelled rows, found a header alone or nothing. Add rows.")
    columns = list(dict.fromkeys(name for row in rows for name in row.fields))
    if options.task == QUESTIONS or (options.task == "auto" and hold_questions([row.fields for row in rows])):
        return _asked(source, rows, columns, options)
    if couple := find_couple(source, columns, options.text_column, options.text_pair_column, options.task):
        label = find_column(source, columns, options.label_column, LABEL_COLUMNS, "label")
        return _labelled(source, rows, couple, label, options)
    text = find_column(source, columns, options.text_column, TEXT_COLUMNS, "text")
    if "entities" in columns and options.label_column is None:
        return _spans(source, rows, text)
    couple = span_columns(columns, [row.fields for row in rows])
    marked = couple is not None or hold_markers([row.fields.get(text) for row in rows])
    if options.task == RELATIONS or (options.task == "auto" and marked):
        label = find_column(source, columns, options.label_column, RELATION_COLUMNS, "label")
        return _related(source, rows, text, couple, label, options)
    label = find_column(source, columns, options.label_column, LABEL_COLUMNS, "label")
    if options.task == "regression":
        return _numbered(source, rows, text, label, options)
    if options.task == ORDINAL:
        return _ranked(source, rows, text, label, options)
    if options.task == "multi-label-classification" or (
        options.task != "text-classification" and _are_several(rows, label, options)
    ):
        return _multi_labelled(source, rows, text, label, options)
    return _labelled(source, rows, (text,), label, options)


def find_couple(
    source: str, columns: Sequence[str], text: str | None, pair: str | None, task: Task | Literal["auto"]
) -> tuple[str, str] | None:
    """Choose the columns of a pair of texts; None if there are no pairs.

    Args:
        source: For messages.
        columns: All there are.
        text: The first column, if it is given.
        pair: The second column, if it is given.
        task: Pairs are looked for if it is `"auto"`, and must be there if it is that of pairs.

    Raises:
        DataError: If a column is missing, or both are one.
    """
    asked = task == "text-pair-classification"
    if pair is None and not asked and (task != "auto" or text is not None or "entities" in columns):
        return None
    folded = {name.strip().casefold(): name for name in reversed(columns)}
    known = [tuple(folded.get(name.casefold()) for name in couple) for couple in (*COUPLES, *MAYBE_COUPLES)]
    certain = len(known) if asked or pair is not None else len(COUPLES)
    for first, second in known[:certain]:
        if first and second and text in (None, first) and pair in (None, second):
            return first, second
    if pair is None and not asked:
        return None
    second = find_column(source, columns, pair, [names[1] for names in (*COUPLES, *MAYBE_COUPLES)], "text-pair")
    first = find_column(source, [name for name in columns if name != second], text, TEXT_COLUMNS, "text")
    return first, second


def find_column(source: str, columns: Sequence[str], given: str | None, known: Sequence[str], kind: str) -> str:
    """Choose the column that is named, or else the first of the known names, whatever its case."""
    found = shown(columns)
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
        f"Name yours with --{kind}-column; the first line of a table names the columns."
    )


def _are_several(rows: Sequence[Row], label: str, options: ReadOptions) -> bool:
    """Say whether a text has several labels, by what stands in the label column or by the delimiter given."""
    raw = [row.fields.get(label) for row in rows]
    return _hold_lists(raw) or evident(_cells(raw)) is not None or options.label_delimiter is not None


def _cells(values: Iterable[Any]) -> list[str]:
    return [value for value in values if isinstance(value, str) and not _is_missing(value)]


def _labelled(source: str, rows: Sequence[Row], columns: tuple[str, ...], label: str, options: ReadOptions) -> Loaded:
    """Read rows with one label each: of one text, or of the pair in two columns."""
    raw = [row.fields.get(label) for row in rows]
    kept: list[TextExample] = []
    unlabelled: list[str] = []
    numbers = _are_numbers(raw)
    for row, value in zip(rows, raw, strict=True):
        if _is_missing(value):
            unlabelled.append(row.where)
            continue
        name = _label(row, value, numbers, options.label_names)
        text, *pair = (text_in(row, column) for column in columns)
        kept.append(PairExample(text, name, *pair) if pair else TextExample(text, name))
    if unlabelled and not options.drop_unlabelled:
        raise DataError(
            f"{unlabelled[0]}: expected a label in every row, found {len(unlabelled)} of {len(rows)} rows without one, "
            "this the first. Label them, or drop them with --drop-unlabelled."
        )
    if not kept:
        raise DataError(f"{source}: expected labelled rows, found none with a label. Is {label!r} the label column?")
    notes = [f"{source}: {len(unlabelled)} of {len(rows)} rows had no label and were dropped."] if unlabelled else []
    notes += _alike(source, {example.label for example in kept})
    if len(columns) == 2:
        if options.task == "auto" and options.text_pair_column is None:
            both = " and ".join(map(repr, columns))
            notes.append(f"{source}: read as pairs of {both}. For single texts: --task text-classification.")
        return Loaded(tuple(kept), "text-pair-classification", tuple(notes))
    cells = _cells(raw)
    if _hold_lists(raw) or evident(cells) is not None or separating(cells):
        notes.append(
            f"{source}: label cells look like several labels each, and were kept whole. If they are: "
            "--task multi-label-classification."
        )
    return Loaded(tuple(kept), "text-classification", tuple(notes))


def _related(
    source: str, rows: Sequence[Row], text: str, couple: tuple[str, str] | None, label: str, options: ReadOptions
) -> Loaded:
    """Read rows with a relation between two mentions: of two columns of spans, or else marked in the text."""
    loaded = _labelled(source, rows, (text,), label, options)
    kept = (row for row in rows if not _is_missing(row.fields.get(label)))
    examples = [
        from_spans(row.where, example, [row.fields.get(name) for name in couple], couple)
        if couple
        else from_markers(row.where, example)
        for row, example in zip(kept, cast("Sequence[TextExample]", loaded.examples), strict=True)
    ]
    return Loaded(tuple(examples), RELATIONS, loaded.notes)


def _ranked(source: str, rows: Sequence[Row], text: str, label: str, options: ReadOptions) -> Loaded:
    """Read rows with a label that has a place in an order; a number is one label, however it is written."""
    if not options.label_names:
        rows = [Row(row.where, {**row.fields, label: _as_written_plainly(row.fields.get(label))}) for row in rows]
    return replace(_labelled(source, rows, (text,), label, options), task=ORDINAL)


def _as_written_plainly(value: Any) -> Any:
    """Write a number without zeros that say nothing: 4, "4.0" and "04" are "4". All else stays."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    number = number_in(str(value))
    return value if number is None else format(number.normalize() + 0, "f")


def _asked(source: str, rows: Sequence[Row], columns: Sequence[str], options: ReadOptions) -> Loaded:
    """Read questions about contexts: as SQuAD nests them, or one a row."""
    if "paragraphs" in columns:
        examples = from_squad(source, [row.fields for row in rows])
    else:
        question = find_column(source, columns, options.text_column, QUESTION_COLUMNS, "text")
        context = find_column(source, columns, options.text_pair_column, CONTEXT_COLUMNS, "text-pair")
        answers = find_column(source, columns, options.label_column, ANSWER_COLUMNS, "label")
        cells = [(row.where, text_in(row, question), text_in(row, context), row.fields) for row in rows]
        examples = from_rows(cells, answers)
    if not examples:
        raise DataError(f"{source}: expected questions, found none. Is this the right file?")
    unanswered = sum(not example.answers for example in examples)
    contexts = len({example.context for example in examples})
    said = f"{source}: {len(examples):,} questions about {contexts:,} contexts, {unanswered:,} without an answer."
    return Loaded(tuple(examples), QUESTIONS, (said,))


def _read_semeval(path: Path, lines: Sequence[str], options: ReadOptions) -> Loaded:
    rows = [Row(f"{path}:{line}", {"text": text, "relation": label}) for line, text, label in
            semeval_records(str(path), lines)]  # fmt: skip
    return _related(str(path), rows, "text", None, "relation", options)


def _numbered(source: str, rows: Sequence[Row], text: str, label: str, options: ReadOptions) -> Loaded:
    if options.label_names:
        raise DataError(f"{source}: expected numbers as they are, found --label-names as well. Leave them out.")
    kept = [row for row in rows if not (options.drop_unlabelled and _is_missing(row.fields.get(label)))]
    if not kept:
        raise DataError(f"{source}: expected labelled rows, found none with a number. Is {label!r} the label column?")
    dropped = len(rows) - len(kept)
    notes = [f"{source}: {dropped} of {len(rows)} rows had no number and were dropped."] if dropped else []
    examples = tuple(RegressionExample(text_in(row, text), _number(row, label)) for row in kept)
    return Loaded(examples, "regression", tuple(notes))


def _number(row: Row, column: str) -> float:
    value = row.fields.get(column)
    try:
        number = math.nan if isinstance(value, bool | list | dict) or value is None else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        found = "none" if _is_missing(value) else "something else"
        raise DataError(
            f"{row.where}: expected a number in {column!r}, found {found}. Numbers are written as in 3, -0.5 or 1e3; "
            "rows without one are dropped with --drop-unlabelled."
        )
    return number


def _hold_lists(values: Sequence[Any]) -> bool:
    """Say whether the labels are lists, or all of them are written as pandas writes lists."""
    present = [value for value in values if not _is_missing(value)]
    written = bool(present) and all(isinstance(value, str) and listed(value) is not None for value in present)
    return written or any(isinstance(value, list) for value in present)


def _multi_labelled(source: str, rows: Sequence[Row], text: str, label: str, options: ReadOptions) -> Loaded:
    raw = [row.fields.get(label) for row in rows]
    cells = _cells(raw)
    lists = _hold_lists(raw)
    delimiter = options.label_delimiter or (None if lists else _delimiter(source, cells, label))
    _check_names_whole(source, cells, delimiter, options.label_names)
    several = [_values(value, delimiter, lists) for value in raw]
    numbers = _are_numbers(value for values in several for value in values)
    examples: list[MultiLabelExample] = []
    dropped = 0
    for row, given, values in zip(rows, raw, several, strict=True):
        if options.drop_unlabelled and _is_missing(given):
            dropped += 1
            continue
        names = {_label(row, value, numbers, options.label_names) for value in values}
        examples.append(MultiLabelExample(text_in(row, text), tuple(sorted(names))))
    counts = Counter(min(len(example.labels), 2) for example in examples)
    if not lists and delimiter is None and counts[1] == len(examples):
        raise DataError(
            f"{source}: expected rows with several labels, or with none, found exactly one in each. For one label a "
            "text leave --task out; if a cell holds several, say what stands between them with --label-delimiter."
        )
    notes = [f"{source}: {dropped} of {len(rows)} rows had no label and were dropped."] if dropped else []
    if delimiter is not None:
        notes.append(f"{source}: labels of a cell are separated by {delimiter!r}; {counts[2]:,} rows have several.")
    if counts[0]:
        notes.append(f"{source}: {counts[0]:,} of {len(rows):,} rows have no label: none applies to their texts.")
    notes += _alike(source, {name for example in examples for name in example.labels})
    return Loaded(tuple(examples), "multi-label-classification", tuple(notes), delimiter)


def _delimiter(source: str, cells: Sequence[str], label: str) -> str | None:
    """Tell what stands between the labels of a cell; None if nothing does."""
    found = evident(cells) or next(iter(separating(cells)), None)
    if found is None and (maybe := held(cells)):
        raise DataError(
            f"{source}: expected to see what stands between the labels in {label!r}, found {maybe[0]!r} in some "
            f"cells, which may belong to the labels. Say it: --label-delimiter '{maybe[0]}', or one that no cell holds "
            "if every cell is one label."
        )
    return found


def _check_names_whole(source: str, cells: Sequence[str], delimiter: str | None, names: Sequence[str]) -> None:
    """Refuse to cut a label whose name is known."""
    cut = [name for name in names if delimiter is not None and delimiter in name and any(name in one for one in cells)]
    if cut:
        raise DataError(
            f"{source}: expected labels without the delimiter {delimiter!r}, found it in {shown(cut)}. Give another "
            "with --label-delimiter, or write the labels as lists: JSONL."
        )


def _values(value: Any, delimiter: str | None, lists: bool) -> list[Any]:
    """Take the labels out of a cell, of whatever type they are."""
    if _is_missing(value):
        return []
    if isinstance(value, list):
        return [one for one in value if not _is_missing(one)]
    if isinstance(value, str) and lists and (inner := listed(value)) is not None:
        return list(inner)
    return list(parts_of(value, delimiter)) if isinstance(value, str) and delimiter is not None else [value]


def text_in(row: Row, column: str) -> str:
    """Take the text out of a row."""
    text = row.fields.get(column)
    if not isinstance(text, str):
        raise DataError(
            f"{row.where}: expected a text in {column!r}, found {_kind(text)}. Fill it, or leave the row out."
        )
    return text


def _is_missing(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))  # what pandas writes for none
    )


def _are_numbers(values: Iterable[Any]) -> bool:
    """Say whether every label is a whole number, and one of them is written as pandas does, `1.0`, or is a number."""
    present = [value for value in values if not _is_missing(value)]
    whole = all(_WHOLE.fullmatch(str(value).strip()) or isinstance(value, bool) for value in present)
    return whole and any(not isinstance(value, str) or "." in value for value in present)


def _label(row: Row, value: Any, numbers: bool, names: Sequence[str]) -> str:
    if isinstance(value, list | dict):
        raise DataError(
            f"{row.where}: expected one label, found {_kind(value)}: is this multi-label data? Then give "
            "--task multi-label-classification, and the labels as a flat list of names or numbers."
        )
    if isinstance(value, float) and not value.is_integer():
        raise DataError(f"{row.where}: expected a class, found a fraction. Classes are names or whole numbers.")
    label = str(value)
    if numbers and not isinstance(value, bool):
        label = str(int(float(value)))
    if not names or label in names:
        return _encodable(row, label)
    if not _WHOLE.fullmatch(label.strip()) and not isinstance(value, bool):
        raise DataError(
            f"{row.where}: expected a label from 0 to {len(names) - 1} or one of the names, found {shown([label])}. "
            "Correct --label-names, or leave it out."
        )
    number = int(float(value))
    if not 0 <= number < len(names):
        raise DataError(
            f"{row.where}: expected a label from 0 to {len(names) - 1}, found {number}. "
            "Give --label-names a name for every number from 0."
        )
    return names[number]


def _encodable(row: Row, label: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in label):
        raise DataError(f"{row.where}: expected a label of valid Unicode, found a lone surrogate. Correct it.")
    return label


def _alike(source: str, labels: Iterable[str]) -> list[str]:
    folded: dict[str, list[str]] = {}
    for label in sorted(labels):
        folded.setdefault(label.strip().casefold(), []).append(label)
    twins = [" / ".join(map(repr, group)) for group in folded.values() if len(group) > 1]
    return [f"{source}: labels that differ only in case or spaces are kept apart: {shown(twins)}."] if twins else []


def _spans(source: str, rows: Sequence[Row], column: str) -> Loaded:
    examples: list[TaggedExample] = []
    padded = dropped = 0
    for row in rows:
        text = text_in(row, column)
        entities = row.fields.get("entities")
        if not isinstance(entities, list):
            raise DataError(
                f"{row.where}: expected 'entities' as a list, found {_kind(entities)}. Write [] for a text without; "
                "for data with one label a text, name its column with --label-column."
            )
        given = [_span(row, entity, len(text)) for entity in entities]
        spans = [span for span in (_tight(text, span) for span in given) if span.start < span.end]
        kept = disjoint(spans)
        padded += sum(_tight(text, span) != span for span in given)
        dropped += len(spans) - len(kept)
        examples.append(TaggedExample(text, tuple(kept)))
    notes = [f"{source}: {padded} entities began or ended with white space, which was left out."] if padded else []
    if dropped:
        notes.append(f"{source}: {dropped} overlapping entities left out; of each overlap the longest was kept.")
    return Loaded(tuple(examples), "token-classification", tuple(notes))


def _tight(text: str, span: Span) -> Span:
    """Take white space off both ends: no tokenizer gives a piece for it, so no tagger could ever find it."""
    inside = text[span.start : span.end]
    start = span.end - len(inside.lstrip())
    return Span(start, max(start, span.start + len(inside.rstrip())), span.label)


def _span(row: Row, entity: Any, length: int) -> Span:
    if not isinstance(entity, Mapping) or not {"start", "end", "label"} <= set(entity):
        raise DataError(
            f"{row.where}: expected entities with 'start', 'end' and 'label', found one without. Add what is missing."
        )
    start, end, label = entity["start"], entity["end"], entity["label"]
    if type(start) is not int or type(end) is not int:
        raise DataError(f"{row.where}: expected whole numbers as 'start' and 'end', found others. Count characters.")
    if not isinstance(label, str) or not label.strip():
        raise DataError(f"{row.where}: expected a name as the 'label' of an entity, found {_kind(label)}. Name it.")
    if not 0 <= start < end <= length:
        raise DataError(
            f"{row.where}: expected an entity within the text (0 to {length}), found {start} to {end}. "
            "Offsets count characters, the end is exclusive."
        )
    return Span(start, end, _encodable(row, label))


def disjoint(spans: Iterable[Span]) -> list[Span]:
    """Keep, of overlapping spans, the longest, then the first; sorted by position."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start - span.end, span)):
        if all(span.end <= other.start or other.end <= span.start for other in kept):
            kept.append(span)
    return sorted(kept)


# CoNLL columns.


class _Token(NamedTuple):
    word: str
    tag: str
    line: int


def read_conll(path: Path) -> Loaded:
    """Read sentences of one word and tag a line; words are joined with single spaces."""
    sentences, comments = _conll_sentences(path)
    if not any(is_tag(token.tag) for tokens in sentences for token in tokens):
        raise DataError(
            f"{path}: expected a tag such as O or B-PER in the last column, found none. "
            "Write a word and its tag on each line."
        )
    try:
        scheme = detect_scheme([[token.tag for token in tokens] for tokens in sentences])
    except SchemeConflict as conflict:
        line = sentences[conflict.sequence][conflict.position].line
        raise DataError(
            f"{path}:{line}: expected one tagging scheme (IOB1, IOB2, BIOES, BILUO), found a mixture: "
            f"{conflict.reason}. Convert the file to one scheme."
        ) from None
    examples = tuple(
        _sentence([token.word for token in tokens], tags_to_spans([token.tag for token in tokens], scheme))
        for tokens in sentences
    )
    notes = [f"{path}: {len(examples)} sentences in {scheme}."]
    notes += [f"{path}: {comments} comment lines left out."] if comments else []
    return Loaded(examples, "token-classification", tuple(notes))


def _conll_sentences(path: Path) -> tuple[list[list[_Token]], int]:
    """Read the sentences, and count the comment lines."""
    sentences: list[list[_Token]] = []
    comments = width = 0
    inside = False
    for number, line in enumerate(read_text(path).replace("\r\n", "\n").split("\n"), start=1):
        columns = _conll_columns(line)
        if not line.strip() or columns[0] == "-DOCSTART-":
            inside = False
        elif line.startswith("# ") and (len(columns) != (width or len(columns)) or not (inside or is_tag(columns[-1]))):
            comments += 1
        else:
            width = width or len(columns)
            if len(columns) < 2 or len(columns) != width or not columns[0] or not columns[-1]:
                raise DataError(
                    f"{path}:{number}: expected {max(2, width)} columns, the word first and the tag last, found "
                    f"{sum(map(bool, columns))}. Separate them with a tab or a space."
                )
            if not inside:
                sentences.append([])
            sentences[-1].append(_Token(columns[0], columns[-1], number))
            inside = True
    return sentences, comments


def _conll_columns(line: str) -> list[str]:
    """Cut at tabs, or else at spaces and at nothing else: words may hold any other white space of Unicode."""
    if "\t" in line:
        return [column.strip(" ") for column in line.split("\t")]
    return [column for column in line.split(" ") if column]


def is_tag(tag: str) -> bool:
    """Say whether this can be an entity's tag."""
    return tag == OUTSIDE or (tag[1:2] == "-" and parse_tag(tag)[0] == tag[0])


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
