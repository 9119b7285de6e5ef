"""Files → examples. Every fault is a `DataError` that names file and line, and never quotes a text."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from lc_finetune.checkpoint import JOINT, ORDINAL, QUESTIONS, RELATIONS, Task
from lc_finetune.data.annotations import Wanted, read_export
from lc_finetune.data.columns import LABEL_COLUMNS, TEXT_COLUMNS, find_column, find_couple
from lc_finetune.data.conll import CONLL, read_conll
from lc_finetune.data.delimiters import evident, held, listed, parts_of, separating
from lc_finetune.data.examples import (
    IntentExample,
    Loaded,
    MultiLabelExample,
    PairExample,
    RegressionExample,
    TaggedExample,
    TextExample,
)
from lc_finetune.data.intents import INTENT_COLUMNS, read_as_joint
from lc_finetune.data.label_map import with_label_map
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
    note_markers,
    semeval_records,
    span_columns,
)
from lc_finetune.data.rows import (
    Row,
    check_content,
    check_file,
    hub_rows,
    is_hub_id,
    is_missing,
    kind_of,
    read_text,
    rows_of,
    text_in,
)
from lc_finetune.errors import DataError, shown
from lc_finetune.labels import Span, number_in
from lc_finetune.markers import tight

PATTERN = "*?["
"""Marks by which the name of a file stands for several."""


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
        label_map: New names of labels, or of types of entities: old name → new name.
        whole_map: Whether each old name must occur in the file.
    """

    text_column: str | None = None
    label_column: str | None = None
    label_names: tuple[str, ...] = ()
    drop_unlabelled: bool = False
    task: Task | Literal["auto"] = "auto"
    label_delimiter: str | None = None
    text_pair_column: str | None = None
    label_map: Mapping[str, str] = field(default_factory=dict)
    whole_map: bool = False


_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")


def read_examples(source: str | Path, options: ReadOptions | None = None) -> Loaded:
    """Read a labelled file, or a data set of the Hugging Face Hub.

    CSV, TSV, JSON, JSONL and Parquet hold one text, or a pair of texts, a row with its label; or a text with its
    labels: a list, or a cell with a delimiter; or, as JSON, JSONL and Parquet, a text with `entities`; `.conll`,
    `.iob`, `.bio` and `.txt` hold one word and tag a line. Two mentions with a relation are marked in the text, or
    given as two columns of spans; a `.txt` of SemEval-2010 task 8 is recognised. Questions about contexts are read as
    SQuAD has them, or one a row. A label beside `entities`, as rows, as the SNIPS benchmark nests them, or in a comment
    above each sentence of CoNLL columns, is read with them. Exports of Label Studio, doccano and Prodigy are told by
    their content. Texts are not changed in any way, but for such marks, which are taken out.

    Args:
        source: A file, a pattern of several (`"snips/train_*.json"`), which are read as one in the order of their
            names, or a Hub id with an optional split: `"organisation/name"`, `"organisation/name:train"`.
        options: Columns, label names, and what to do with rows that have no label.

    Raises:
        DataError: If anything in the source cannot be used; names file and line.
    """
    options = options or ReadOptions()
    try:
        loaded = _read(source, options)
    except OSError as error:
        raise DataError(
            f"{source}: expected a file that can be read, found one that cannot ({error.strerror}). "
            "Check its path and its permissions."
        ) from error
    if not options.label_map:
        return loaded
    return with_label_map(str(source), loaded, options.label_map, every=options.whole_map)


def files_of(source: str | Path) -> list[Path]:
    """List the files that a pattern stands for, by name; a file stands for itself."""
    path = Path(source)
    several = any(mark in path.name for mark in PATTERN) and not path.exists() and path.parent.is_dir()
    return (sorted(path.parent.glob(path.name)) if several else []) or [path]


def check_source(source: str | Path) -> None:
    """Refuse a source that is not there, without reading it; a data set of the Hub is taken to be.

    Raises:
        DataError: If it is no file.
    """
    for path in files_of(source):
        if path.exists() or not is_hub_id(str(source)):
            check_file(path)


def _read_several(files: Sequence[Path], options: ReadOptions) -> Loaded:
    """Read files of one kind, each as the first one is read."""
    loaded: list[Loaded] = []
    for file in files:
        loaded.append(_read(file, options))
        if loaded[-1].task != loaded[0].task:
            raise DataError(
                f"{file}: expected data for {loaded[0].task}, as in {files[0]}, found data for {loaded[-1].task}. "
                "Narrow the pattern to files of one kind."
            )
        options = replace(options, task=loaded[0].task, label_delimiter=loaded[0].label_delimiter)
    examples, notes = ([one for part in loaded for one in getattr(part, name)] for name in ("examples", "notes"))
    return Loaded(tuple(examples), loaded[0].task, tuple(notes), loaded[0].label_delimiter)


def _read(source: str | Path, options: ReadOptions) -> Loaded:
    if len(files := files_of(source)) > 1:
        return _read_several(files, options)
    path = files[0]
    if not path.exists() and is_hub_id(str(source)):
        return _from_rows(str(source), list(hub_rows(str(source))), options)
    if path.suffix.lower() in CONLL:
        check_content(path)
        lines = read_text(path).replace("\r\n", "\n").split("\n")
        if SEMEVAL.match(next((line for line in lines if line.strip()), "")):
            return _read_semeval(path, lines, options)
        return read_conll(path, options.task)
    pair = [options.text_pair_column] if options.text_pair_column is not None else []
    return _from_rows(str(path), rows_of(path, (options.text_column, options.label_column, *pair)), options)


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
    wanted = Wanted(options.text_column, options.label_column, options.task)
    found = read_export(source, rows, wanted) if options.task != QUESTIONS else None
    if found is None:
        return _examples_of(source, rows, options)
    loaded = _examples_of(source, found.rows, replace(options, label_column=found.label_column, task=found.task))
    return replace(loaded, notes=(*found.notes, *loaded.notes))


def _examples_of(source: str, rows: Sequence[Row], options: ReadOptions) -> Loaded:
    if not rows:
        raise DataError(f"{source}: expected labelled rows, found a header alone or nothing. Add rows.")
    columns = list(dict.fromkeys(name for row in rows for name in row.fields))
    if options.task == QUESTIONS or (options.task == "auto" and hold_questions([row.fields for row in rows])):
        return _asked(source, rows, columns, options)
    if couple := find_couple(source, columns, options.text_column, options.text_pair_column, options.task):
        label = find_column(source, columns, options.label_column, LABEL_COLUMNS, "label")
        return _labelled(source, rows, couple, label, options)
    text = find_column(source, columns, options.text_column, TEXT_COLUMNS, "text")
    if options.task == JOINT or (options.task == "auto" and options.label_column is None and _hold_intents(columns)):
        return _intents(source, rows, columns, text, options)
    if "entities" in columns and options.label_column is None and options.task != "text-classification":
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
    loaded = _labelled(source, rows, (text,), label, options)
    said = note_markers(source, [row.fields.get(text) for row in rows]) if options.task == "auto" else []
    return replace(loaded, notes=(*loaded.notes, *said))


def _are_several(rows: Sequence[Row], label: str, options: ReadOptions) -> bool:
    """Say whether a text has several labels, by what stands in the label column or by the delimiter given."""
    raw = [row.fields.get(label) for row in rows]
    return _hold_lists(raw) or evident(_cells(raw)) is not None or options.label_delimiter is not None


def _cells(values: Iterable[Any]) -> list[str]:
    return [value for value in values if isinstance(value, str) and not is_missing(value)]


def _labelled(source: str, rows: Sequence[Row], columns: tuple[str, ...], label: str, options: ReadOptions) -> Loaded:
    """Read rows with one label each: of one text, or of the pair in two columns."""
    raw = [row.fields.get(label) for row in rows]
    kept: list[TextExample] = []
    unlabelled: list[str] = []
    numbers = _are_numbers(raw)
    for row, value in zip(rows, raw, strict=True):
        if is_missing(value):
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
    kept = (row for row in rows if not is_missing(row.fields.get(label)))
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
    kept = [row for row in rows if not (options.drop_unlabelled and is_missing(row.fields.get(label)))]
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
        found = "none" if is_missing(value) else "something else"
        raise DataError(
            f"{row.where}: expected a number in {column!r}, found {found}. Numbers are written as in 3, -0.5 or 1e3; "
            "rows without one are dropped with --drop-unlabelled."
        )
    return number


def _hold_lists(values: Sequence[Any]) -> bool:
    """Say whether the labels are lists, or all of them are written as pandas writes lists."""
    present = [value for value in values if not is_missing(value)]
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
        if options.drop_unlabelled and is_missing(given):
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
    if is_missing(value):
        return []
    if isinstance(value, list):
        return [one for one in value if not is_missing(one)]
    if isinstance(value, str) and lists and (inner := listed(value)) is not None:
        return list(inner)
    return list(parts_of(value, delimiter)) if isinstance(value, str) and delimiter is not None else [value]


def _are_numbers(values: Iterable[Any]) -> bool:
    """Say whether every label is a whole number, and one of them is written as pandas does, `1.0`, or is a number."""
    present = [value for value in values if not is_missing(value)]
    whole = all(_WHOLE.fullmatch(str(value).strip()) or isinstance(value, bool) for value in present)
    return whole and any(not isinstance(value, str) or "." in value for value in present)


def _label(row: Row, value: Any, numbers: bool, names: Sequence[str]) -> str:
    if isinstance(value, list | dict):
        raise DataError(
            f"{row.where}: expected one label, found {kind_of(value)}: is this multi-label data? Then give "
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
                f"{row.where}: expected 'entities' as a list, found {kind_of(entities)}. Write [] for a text without; "
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


def _hold_intents(columns: Sequence[str]) -> bool:
    return "entities" in columns and any(name.strip().casefold() in INTENT_COLUMNS for name in columns)


def _intents(source: str, rows: Sequence[Row], columns: Sequence[str], text: str, options: ReadOptions) -> Loaded:
    """Read rows with a label and entities."""
    if "entities" not in columns:
        raise DataError(
            f"{source}: expected a column 'entities' beside text and label, found {shown(columns)}. Write the spans as "
            "a list of start, end and label, [] for none."
        )
    known = (*INTENT_COLUMNS, *LABEL_COLUMNS)
    label = find_column(source, columns, options.label_column, known, "label")
    labelled = _labelled(source, rows, (text,), label, replace(options, task="text-classification"))
    kept = [row for row in rows if not is_missing(row.fields.get(label))]
    tagged = _spans(source, kept, text)
    examples = tuple(
        IntentExample(one.text, cast(TextExample, one).label, cast(TaggedExample, other).spans)
        for one, other in zip(labelled.examples, tagged.examples, strict=True)
    )
    return Loaded(examples, JOINT, (*labelled.notes, *tagged.notes, *read_as_joint(source, options.task)))


def _tight(text: str, span: Span) -> Span:
    """Take white space off both ends: no tokenizer gives a piece for it, so no tagger could ever find it."""
    return Span(*tight(text, span.start, span.end), span.label)


def _span(row: Row, entity: Any, length: int) -> Span:
    if not isinstance(entity, Mapping) or not {"start", "end", "label"} <= set(entity):
        raise DataError(
            f"{row.where}: expected entities with 'start', 'end' and 'label', found one without. Add what is missing."
        )
    start, end, label = entity["start"], entity["end"], entity["label"]
    if type(start) is not int or type(end) is not int:
        raise DataError(f"{row.where}: expected whole numbers as 'start' and 'end', found others. Count characters.")
    if not isinstance(label, str) or not label.strip():
        raise DataError(f"{row.where}: expected a name as the 'label' of an entity, found {kind_of(label)}. Name it.")
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
