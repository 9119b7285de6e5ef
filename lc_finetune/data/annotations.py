"""Exports of annotation tools → rows with labels, or with entities: Label Studio, doccano and Prodigy.

Each is told by its content. What an annotator skipped, rejected or left undecided is no row, and is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lc_finetune.checkpoint import JOINT, Task
from lc_finetune.data.columns import TEXT_COLUMNS, find_column
from lc_finetune.data.rows import Row, kind_of, text_in
from lc_finetune.errors import DataError, shown

AsTask = Task | Literal["auto"]
ANSWERS = ("accept", "reject", "ignore")
"""What Prodigy's annotators answer."""
ENTITIES = "entities"
LABEL = "label"
_OF_DOCCANO = ("Comments", "annotation_approver")
_HOLD_SPANS = (ENTITIES, LABEL, "labels")


@dataclass(frozen=True)
class Imported:
    """What an export comes to.

    Attributes:
        rows: With `entities`, or with a label column.
        label_column: That column; None for entities, or if it is to be recognised.
        task: Whether a row has one label or several, where the export tells; else what was asked for.
        notes: What was read, and what was left out.
    """

    rows: Sequence[Row]
    label_column: str | None
    notes: tuple[str, ...]
    task: AsTask


@dataclass(frozen=True)
class Wanted:
    """What is asked for: the columns that were named, and the task."""

    text_column: str | None
    label_column: str | None
    task: AsTask

    def spans(self, *, there: bool) -> bool:
        """Say whether entities are read, of an export that has them, and may have labels too."""
        return there and self.label_column is None and self.task in ("auto", "token-classification")


def read_export(source: str, rows: Sequence[Row], wanted: Wanted) -> Imported | None:
    """Read rows as the tool means them that wrote them; None if they are no export.

    Raises:
        DataError: If a row is not as that tool writes it, or no row is left; names file and row.
    """
    for tool, told, read in (
        ("Label Studio (JSON)", _is_label_studio, _label_studio),
        ("Label Studio (JSON-MIN)", _is_json_min, _json_min),
        ("Prodigy", _is_prodigy, _prodigy),
        ("doccano", _is_doccano, _doccano),
    ):
        if told([row.fields for row in rows]):
            found = read(source, rows, wanted)
            if not found.rows:
                said = " ".join(note.removeprefix(f"{source}: ") for note in found.notes)
                raise DataError(
                    f"{source}: expected annotated rows of {tool}, found none to learn from. {said}".strip()
                )
            said = f"{source}: read as an export of {tool}."
            return replace(found, notes=(said, *found.notes))
    return None


def texts_of_tasks(rows: Sequence[Row]) -> Sequence[Row]:
    """Take the data out of Label Studio's tasks; other rows stay as they are."""
    if not _is_label_studio([row.fields for row in rows]):
        return rows
    return [Row(row.where, _mapping(row, row.fields.get("data"), "data")) for row in rows]


# Label Studio.


def _is_label_studio(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any(isinstance(row.get("data"), Mapping) and isinstance(_annotations(row), list) for row in rows)


def _annotations(row: Mapping[str, Any]) -> Any:
    return row.get("annotations", row.get("completions"))  # as they were called before 1.0


@dataclass(frozen=True)
class _Annotated:
    """A task of Label Studio, with the results of the annotation that is read."""

    row: Row
    data: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]

    def values(self, kind: str, control: str | None = None) -> list[Mapping[str, Any]]:
        """List the values of one kind, of one control if it is named."""
        return [
            _mapping(self.row, one.get("value"), "value")
            for one in self.results
            if one["type"] == kind and control in (None, str(one.get("from_name")))
        ]

    def choices(self, control: str) -> list[Any]:
        """List what was chosen in a control."""
        chosen = (value.get("choices") for value in self.values("choices", control))
        return [name for several in chosen for name in _list(self.row, several, "choices")]

    def spanned(self, column: str) -> Row:
        """Give the text of a column with its entities."""
        text = text_in(Row(self.row.where, self.data), column)
        entities = [entity for value in self.values("labels") for entity in _entities(self.row, text, value)]
        return Row(self.row.where, {column: text, ENTITIES: entities})


def _label_studio(source: str, rows: Sequence[Row], wanted: Wanted) -> Imported:
    tasks, notes = _annotated(source, rows)
    kinds = Counter(one["type"] for task in tasks for one in task.results)
    if others := kinds.total() - kinds["choices"] - kinds["labels"]:
        notes.append(f"{source}: {others:,} results that are neither choices nor labels of spans left out.")
    if not tasks:
        return Imported((), None, tuple(notes), wanted.task)
    if not wanted.spans(there=bool(kinds["labels"])):
        control = _control(source, tasks, wanted)
        plain = [Row(task.row.where, task.data) for task in tasks]
        return _with_labels(plain, [task.choices(control) for task in tasks], wanted, notes)
    if kinds["choices"]:
        notes.append(f"{source}: {kinds['choices']:,} choices left out: --label-column reads them.")
    names = list(dict.fromkeys(name for task in tasks for name in task.data))
    column = find_column(source, names, wanted.text_column, TEXT_COLUMNS, "text")
    return Imported([task.spanned(column) for task in tasks], None, tuple(notes), wanted.task)


def _annotated(source: str, rows: Sequence[Row]) -> tuple[list[_Annotated], list[str]]:
    """Take of each task the annotation that counts; say how many have none, or several that differ."""
    tasks: list[_Annotated] = []
    differ = 0
    for row in rows:
        data = _mapping(row, row.fields.get("data"), "data")
        given = [_mapping(row, one, "annotations") for one in _list(row, _annotations(row.fields), "annotations")]
        done = [one for one in given if not one.get("was_cancelled")]
        if done:
            chosen = next((one for one in done if one.get("ground_truth")), done[0])
            results = [_results(row, one) for one in (chosen, *done)]
            differ += any(_answers(one) != _answers(results[0]) for one in results)
            tasks.append(_Annotated(row, data, results[0]))
    notes = []
    if skipped := len(rows) - len(tasks):
        notes.append(f"{source}: {skipped:,} of {len(rows):,} tasks were skipped or not annotated, and are left out.")
    if differ:
        notes.append(
            f"{source}: {differ:,} tasks have annotations that differ; the ground truth is read, else the first."
        )
    return tasks, notes


def _control(source: str, tasks: Sequence[_Annotated], wanted: Wanted) -> str:
    """Choose the set of choices that are the labels."""
    names = sorted({str(one.get("from_name")) for task in tasks for one in task.results if one["type"] == "choices"})
    if wanted.label_column in names or (wanted.label_column is None and len(names) == 1):
        return wanted.label_column or names[0]
    if len(names) > 1:
        raise DataError(f"{source}: expected one set of choices, found {shown(names)}. Name one with --label-column.")
    expected = "choices, or labels of spans," if wanted.label_column is None else "the choices of --label-column"
    raise DataError(
        f"{source}: expected {expected} in the annotations, found {shown(names) or 'none'}. Only tasks about texts are "
        "read."
    )


def _results(row: Row, annotation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    results = [_mapping(row, one, "result") for one in _list(row, annotation.get("result"), "result")]
    return [{**one, "type": str(one.get("type"))} for one in results]


def _answers(results: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted(repr((one.get("from_name"), one["type"], one.get("value"))) for one in results)


def _entities(row: Row, text: str, value: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Read a span with one label or several; its offsets are checked against the words that it quotes."""
    start, end = value.get("start"), value.get("end")
    quoted = value.get("text")
    if type(start) is int and type(end) is int and isinstance(quoted, str) and text[start:end] != quoted:
        start, end = _in_characters(text, start), _in_characters(text, end)
        if text[start:end] != quoted:
            raise DataError(
                f"{row.where}: expected a span whose offsets match the words that it quotes, found others. Was the "
                "text changed after it was annotated, or is it HTML?"
            )
    for label in _list(row, value.get("labels"), "labels"):
        yield {"start": start, "end": end, "label": label}


def _in_characters(text: str, units: int) -> int:
    """Turn an offset of a browser, which counts a character beyond the first 65,536 twice, into one of characters."""
    return len(text.encode("utf-16-le")[: 2 * units].decode("utf-16-le", errors="ignore"))


def _is_json_min(rows: Sequence[Mapping[str, Any]]) -> bool:
    return bool(rows) and all("annotation_id" in row and "lead_time" in row for row in rows)


def _json_min(source: str, rows: Sequence[Row], wanted: Wanted) -> Imported:
    of_spans = {name for row in rows for name, value in row.fields.items() if _are_spans(value)}
    columns = list(dict.fromkeys(name for row in rows for name in row.fields))
    if wanted.spans(there=bool(of_spans)):
        column = find_column(source, columns, wanted.text_column, TEXT_COLUMNS, "text")
        spanned = []
        for row in rows:
            text = text_in(row, column)
            values = [value for name in sorted(of_spans) for value in _list(row, row.fields.get(name) or [], name)]
            entities = [one for value in values for one in _entities(row, text, _mapping(row, value, "labels"))]
            spanned.append(Row(row.where, {column: text, ENTITIES: entities}))
        return Imported(spanned, None, (), wanted.task)
    plain = [
        Row(row.where, {name: value["choices"] if _are_choices(value) else value for name, value in row.fields.items()
                        if name not in of_spans})
        for row in rows
    ]  # fmt: skip
    return Imported(plain, wanted.label_column, (), wanted.task)


def _are_spans(value: Any) -> bool:
    keys = {"start", "end", "labels"}
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) and keys <= set(v) for v in value)


def _are_choices(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("choices"), list)


# Prodigy.


def _is_prodigy(rows: Sequence[Mapping[str, Any]]) -> bool:
    answered = [row for row in rows if row.get("answer") in ANSWERS]
    return any({"_task_hash", "_input_hash", "spans", "accept", "options"} & set(row) for row in answered)


def _prodigy(source: str, rows: Sequence[Row], wanted: Wanted) -> Imported:
    accepted, notes = _accepted(source, rows)
    columns = {name for row in rows for name in row.fields}
    labels = bool({LABEL, "accept"} & columns)
    if wanted.task == "token-classification" or (not labels and wanted.spans(there="spans" in columns)):
        whole = [row for row in accepted if not row.fields.get("_is_binary")]
        if len(whole) < len(accepted):
            notes.append(
                f"{source}: {len(accepted) - len(whole):,} accepted rows left out: each says yes to one span, and "
                "nothing of the others in its text."
            )
        return Imported([_spanned(row, "spans") for row in whole], None, tuple(notes), wanted.task)
    if wanted.label_column not in (None, LABEL, "accept") or not labels:
        return Imported(accepted, wanted.label_column, tuple(notes), wanted.task)
    if "accept" in columns:
        chosen = [_list(row, row.fields.get("accept"), "accept") for row in accepted]
        return _with_labels(accepted, chosen, wanted, notes)
    text = find_column(source, sorted(columns), wanted.text_column, TEXT_COLUMNS, "text")
    together, found = _put_together(accepted, text)
    again = len(accepted) - len(together)
    notes += [f"{source}: {again:,} accepted rows were put together with another of the same text."] * bool(again)
    return _with_labels(together, found, wanted, notes)


def _accepted(source: str, rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Take the rows that an annotator said yes to; say how many others there are."""
    answers: Counter[str] = Counter()
    accepted = []
    for row in rows:
        answer = row.fields.get("answer")
        if answer not in ANSWERS:
            raise DataError(f"{row.where}: expected an 'answer' of {', '.join(ANSWERS)}, found {kind_of(answer)}.")
        answers[answer] += 1
        if answer == "accept":
            accepted.append(row)
    if not (left := answers["reject"] + answers["ignore"]):
        return accepted, []
    return accepted, [
        f"{source}: {left:,} of {len(rows):,} rows left out: {answers['reject']:,} rejected, {answers['ignore']:,} "
        "ignored."
    ]


def _put_together(rows: Sequence[Row], text: str) -> tuple[list[Row], list[list[Any]]]:
    """Gather the labels of each text, of questions of yes or no about one label each; gives rows and their labels."""
    by_text: dict[str, tuple[Row, list[Any]]] = {}
    for row in rows:
        asked = by_text.setdefault(text_in(row, text), (row, []))[1]
        if row.fields.get(LABEL) not in (*asked, None):
            asked.append(row.fields[LABEL])
    return [row for row, _ in by_text.values()], [found for _, found in by_text.values()]


def _spanned(row: Row, column: str) -> Row:
    """Give a row its entities, from spans of whatever form."""
    entities = [_entity(row, one) for one in _list(row, row.fields.get(column), column)]
    others = {
        name: value
        for name, value in row.fields.items()
        if name != column and not (name in _HOLD_SPANS and isinstance(value, list | None))
    }
    return Row(row.where, others | {ENTITIES: entities})


def _entity(row: Row, span: Any) -> dict[str, Any]:
    if isinstance(span, list) and len(span) == 3:
        return dict(zip(("start", "end", "label"), span, strict=True))
    found = _mapping(row, span, "spans")
    return {
        "start": found.get("start", found.get("start_offset")),
        "end": found.get("end", found.get("end_offset")),
        "label": found.get("label"),
    }


# doccano.


def _is_doccano(rows: Sequence[Mapping[str, Any]]) -> bool:
    marked = all("id" in row and LABEL in row and any(name in row for name in _OF_DOCCANO) for row in rows)
    return _span_column(rows) is not None or (bool(rows) and marked)


def _span_column(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Find the column of spans as `[start, end, label]`, or with `start_offset`; other entities are our own."""
    for name in _HOLD_SPANS:
        values = [row[name] for row in rows if name in row]
        lists = bool(values) and all(isinstance(value, list) for value in values)
        spans = [span for value in values for span in value] if lists else []
        if any((isinstance(span, list) and len(span) == 3) or (isinstance(span, Mapping) and "start_offset" in span)
               for span in spans):  # fmt: skip
            return name
    return None


def _doccano(source: str, rows: Sequence[Row], wanted: Wanted) -> Imported:
    column = _span_column([row.fields for row in rows])
    relations = sum(len(found) for row in rows if isinstance(found := row.fields.get("relations"), list))
    notes = [f"{source}: {relations:,} relations between entities left out."] * bool(relations)
    joint = wanted.task == JOINT
    if column is not None and (joint or wanted.spans(there=True)):
        if not joint and any("cats" in row.fields for row in rows):
            notes.append(f"{source}: labels of whole texts left out: --label-column cats reads them.")
        spanned = [_spanned(_alone(row, wanted.label_column), column) for row in rows]
        return Imported(spanned, wanted.label_column, tuple(notes), wanted.task)
    name = wanted.label_column or LABEL
    if column == name:
        raise DataError(
            f"{source}: expected labels of whole texts in {name!r}, found spans. Leave --label-column "
            "out, and --task too."
        )
    found = [_list(row, row.fields.get(name) or [], name) for row in rows if isinstance(row.fields.get(name), list)]
    if len(found) < len(rows):
        return Imported(rows, wanted.label_column, tuple(notes), wanted.task)
    return _with_labels(rows, found, wanted, notes)


def _alone(row: Row, column: str | None) -> Row:
    """Take the only label out of a list of one, as an export has it; any other cell stays as it is."""
    value = row.fields.get(column) if column is not None else None
    if column is None or not isinstance(value, list) or len(value) > 1:
        return row
    return Row(row.where, {**row.fields, column: next(iter(value), None)})


# What they share.


def _with_labels(
    rows: Sequence[Row], labels: Sequence[Sequence[Any]], wanted: Wanted, notes: Sequence[str]
) -> Imported:
    """Give each row its labels: one alone where no row has several, unless several are asked for."""
    several = wanted.task == "multi-label-classification" or max(map(len, labels), default=0) > 1
    labelled = []
    for row, found in zip(rows, labels, strict=True):
        others = {name: value for name, value in row.fields.items() if name != ENTITIES}
        labelled.append(Row(row.where, others | {LABEL: list(found) if several else next(iter(found), None)}))
    told: AsTask = "multi-label-classification" if several else "text-classification"
    return Imported(labelled, LABEL, tuple(notes), told if wanted.task == "auto" else wanted.task)


def _mapping(row: Row, value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f"{row.where}: expected an object in {name!r}, found {kind_of(value)}. Export the file again.")
    return value


def _list(row: Row, value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{row.where}: expected a list in {name!r}, found {kind_of(value)}. Export the file again.")
    return value
