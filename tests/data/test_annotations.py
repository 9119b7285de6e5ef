"""Exports of annotation tools become examples; what annotators left undecided is counted."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lc_finetune.data import (
    IntentExample,
    Loaded,
    MultiLabelExample,
    ReadOptions,
    TaggedExample,
    TextExample,
    read_examples,
    read_texts,
)
from lc_finetune.errors import DataError
from lc_finetune.labels import Span


def jsonl(folder: Path, rows: Sequence[Any]) -> Path:
    path = folder / "export.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def array(folder: Path, rows: Sequence[Any]) -> Path:
    path = folder / "export.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def said(loaded: Loaded) -> str:
    return "\n".join(loaded.notes)


# Label Studio.


def choices(*names: str, control: str = "sentiment") -> dict[str, Any]:
    return {"from_name": control, "to_name": "text", "type": "choices", "value": {"choices": list(names)}}


def span(start: int, end: int, label: str, text: str | None) -> dict[str, Any]:
    value = {"start": start, "end": end, "labels": [label]} | ({"text": text} if text is not None else {})
    return {"id": "x", "from_name": "ner", "to_name": "text", "type": "labels", "value": value}


def task(text: str, *annotations: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
    done = [{"id": 1, "was_cancelled": False, "ground_truth": False, "result": list(one)} for one in annotations]
    return {"id": 7, "data": {"text": text}, "annotations": done, "predictions": []} | more


def test_choices_of_label_studio_are_labels(tmp_path: Path) -> None:
    """One choice in every task is one label; skipped tasks are left out and counted."""
    skipped = task("never mind", [])
    skipped["annotations"][0]["was_cancelled"] = True
    rows = [task("good", [choices("Positive")]), task("bad, sad", [choices("Negative")]), skipped, task("new")]
    loaded = read_examples(array(tmp_path, rows))

    assert loaded.examples == (TextExample("good", "Positive"), TextExample("bad, sad", "Negative"))
    assert "read as an export of Label Studio (JSON)" in said(loaded)
    assert "2 of 4 tasks were skipped or not annotated" in said(loaded)


def test_several_choices_are_several_labels(tmp_path: Path) -> None:
    """As they are where several are asked for, though each task has one."""
    rows = [task("a", [choices("late", "torn")]), task("b", [choices("late")])]
    expected = (MultiLabelExample("a", ("late", "torn")), MultiLabelExample("b", ("late",)))
    multi = ReadOptions(task="multi-label-classification")

    assert read_examples(array(tmp_path, rows)).examples == expected
    assert read_examples(array(tmp_path, rows[1:]), multi).examples == expected[1:]


def test_spans_of_label_studio_are_entities(tmp_path: Path) -> None:
    """Offsets of a browser count a character of the astral planes twice; the quoted words tell."""
    rows = [
        task("Ann left", [span(0, 3, "PER", "Ann")]),
        task("😀 Ann left", [span(3, 6, "PER", "Ann")]),
        task("no one", []),
    ]
    loaded = read_examples(array(tmp_path, rows))

    assert loaded.examples == (
        TaggedExample("Ann left", (Span(0, 3, "PER"),)),
        TaggedExample("😀 Ann left", (Span(2, 5, "PER"),)),
        TaggedExample("no one", ()),
    )


def test_of_annotations_that_differ_the_ground_truth_is_read(tmp_path: Path) -> None:
    """Else the first; how many differ is said."""
    rows = [task(t, [choices("a")], [choices("b")]) for t in ("one", "two")] + [task("three", [choices("a")])]
    rows[1]["annotations"][1]["ground_truth"] = True
    loaded = read_examples(array(tmp_path, rows))

    assert [example.label for example in loaded.examples if isinstance(example, TextExample)] == ["a", "b", "a"]
    assert "2 tasks have annotations that differ" in said(loaded)


def test_of_several_controls_one_is_named(tmp_path: Path) -> None:
    """By the name it has in the labelling interface; spans are left out then, and choices beside spans are said."""
    both = [choices("good"), choices("urgent", control="priority"), span(0, 3, "PER", "Ann")]
    path = array(tmp_path, [task("Ann left", both)])

    assert read_examples(path, ReadOptions(label_column="priority")).examples == (TextExample("Ann left", "urgent"),)
    assert "2 choices left out: --label-column reads them" in said(read_examples(path))
    with pytest.raises(
        DataError, match=r"expected one set of choices, found priority, sentiment\. Name one with --label"
    ):
        read_examples(path, ReadOptions(task="text-classification"))


def test_json_min_is_read_too(tmp_path: Path) -> None:
    """A choice is a string there, several are an object, and spans are lists."""
    meta = {"id": 1, "annotator": 1, "annotation_id": 2, "created_at": "", "updated_at": "", "lead_time": 1.5}
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    several = array(one, [{"text": "a", "topic": {"choices": ["x", "y"]}} | meta, {"text": "b", "topic": "x"} | meta])
    spans = array(
        two,
        [{"text": "Ann left", "ner": [{"start": 0, "end": 3, "text": "Ann", "labels": ["PER"]}]} | meta,
         {"text": "no one"} | meta],
    )  # fmt: skip

    assert read_examples(several, ReadOptions(task="multi-label-classification")).examples == (
        MultiLabelExample("a", ("x", "y")),
        MultiLabelExample("b", ("x",)),
    )
    assert read_examples(spans).examples == (
        TaggedExample("Ann left", (Span(0, 3, "PER"),)),
        TaggedExample("no one", ()),
    )


def test_tasks_without_annotations_are_texts(tmp_path: Path) -> None:
    """For pre-training and drift, an export is what was imported."""
    assert read_texts(array(tmp_path, [task("one"), task("two", [choices("a")])])).texts == ("one", "two")


# doccano.


@pytest.mark.parametrize(
    "row",
    [
        {"id": 1, "text": "Ann left", "label": [[0, 3, "PER"]], "Comments": []},
        {"id": 1, "text": "Ann left", "labels": [[0, 3, "PER"]]},
        {"text": "Ann left", "entities": [[0, 3, "PER"]], "cats": ["news"]},
        {"id": 1, "text": "Ann left", "entities": [{"id": 5, "label": "PER", "start_offset": 0, "end_offset": 3}],
         "relations": [{"id": 9, "from_id": 5, "to_id": 5, "type": "is"}], "Comments": []},
    ],
)  # fmt: skip
def test_spans_of_doccano_are_entities(tmp_path: Path, row: dict[str, Any]) -> None:
    """In each form that it has had; rows without any have no entities."""
    column = next(name for name in ("entities", "labels", "label") if name in row)
    loaded = read_examples(jsonl(tmp_path, [row, row | {"text": "no one", column: []}]))

    assert loaded.examples == (TaggedExample("Ann left", (Span(0, 3, "PER"),)), TaggedExample("no one", ()))
    assert "read as an export of doccano" in said(loaded)
    assert ("2 relations between entities left out" in said(loaded)) == ("relations" in row)


def test_labels_of_doccano(tmp_path: Path) -> None:
    """Lists of one in every row are one label; longer ones are several."""
    rows = [{"id": i, "text": f"t{i}", "label": ["ab"[i]], "Comments": []} for i in range(2)]

    assert read_examples(jsonl(tmp_path, rows)).examples == (TextExample("t0", "a"), TextExample("t1", "b"))
    rows[1]["label"] = ["a", "b"]
    assert read_examples(jsonl(tmp_path, rows)).task == "multi-label-classification"
    cats = {"text": "Ann left", "entities": [[0, 3, "PER"]], "cats": ["news"]}
    assert read_examples(jsonl(tmp_path, [cats]), ReadOptions(label_column="cats")).examples == (
        TextExample("Ann left", "news"),
    )


def test_a_label_beside_spans_of_doccano_is_read_with_them(tmp_path: Path) -> None:
    """A name beside spans is never left out unsaid; a list of one label, as intents and slots have it, is asked for."""
    named = [{"text": "Ann left", "label": "news", "entities": [[0, 3, "PER"]]}]
    listed = [{"text": "Ann left", "cats": ["news"], "entities": [[0, 3, "PER"]]}]
    wanted = (IntentExample("Ann left", "news", (Span(0, 3, "PER"),)),)

    assert read_examples(jsonl(tmp_path, named)).examples == wanted
    asked = ReadOptions(label_column="cats", task="intent-and-entities")
    assert read_examples(jsonl(tmp_path, listed), asked).examples == wanted


# Prodigy.


def answered(text: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"text": text, "answer": answer, "_input_hash": hash(text), "_task_hash": 1} | more


def test_what_was_rejected_or_ignored_is_counted(tmp_path: Path) -> None:
    """Of questions with one choice among options."""
    options = [{"id": "a", "text": "A"}, {"id": "b", "text": "B"}]
    rows = [
        answered("one", "accept", accept=["a"], options=options),
        answered("two", "accept", accept=["b"], options=options),
        answered("three", "reject", accept=["b"], options=options),
        answered("four", "ignore", accept=[], options=options),
    ]
    loaded = read_examples(jsonl(tmp_path, rows))

    assert loaded.examples == (TextExample("one", "a"), TextExample("two", "b"))
    assert "2 of 4 rows left out: 1 rejected, 1 ignored" in said(loaded)


def test_yes_to_several_labels_of_a_text_is_several_labels(tmp_path: Path) -> None:
    """A question about each label: the same text comes up again."""
    rows = [
        answered("one", "accept", label="late", spans=[]),
        answered("one", "accept", label="torn"),
        answered("two", "accept", label="late"),
        answered("two", "reject", label="torn"),
    ]
    loaded = read_examples(jsonl(tmp_path, rows))

    assert loaded.examples == (MultiLabelExample("one", ("late", "torn")), MultiLabelExample("two", ("late",)))
    assert "1 accepted rows were put together" in said(loaded)


def test_spans_of_prodigy_are_entities(tmp_path: Path) -> None:
    """Yes to one span says nothing of the others in its text: such rows are left out, and counted."""
    spans = [{"start": 0, "end": 3, "token_start": 0, "token_end": 0, "label": "PER"}]
    rows = [
        answered("Ann left", "accept", spans=spans, tokens=[]),
        answered("Bob left", "accept", spans=spans, _is_binary=True),
        answered("Cid left", "ignore", spans=[]),
    ]
    loaded = read_examples(jsonl(tmp_path, rows))

    assert loaded.examples == (TaggedExample("Ann left", (Span(0, 3, "PER"),)),)
    assert "1 accepted rows left out: each says yes to one span" in said(loaded)
    assert "1 of 3 rows left out: 0 rejected, 1 ignored" in said(loaded)


# Faults.


@pytest.mark.parametrize(
    ("rows", "where", "message"),
    [
        ([task("secret", [choices("a")]), {"id": 1, "data": 3, "annotations": []}], "item 2", "an object in 'data'"),
        ([task("secret", [{"type": "choices", "from_name": "s", "value": {}}])], "item 1", "a list in 'choices'"),
        ([task("secret", [span(0, 3, "A", "other")])], "item 1", "offsets match the words that it quotes"),
        ([task("secret", [span(0, 99, "A", None)])], "item 1", "an entity within the text"),
        ([task("secret", [{"type": "rating", "value": {"rating": 3}}])], "export.json", "choices, or labels of spans"),
        ([task("secret")], "export.json", "found none to learn from"),
        ([answered("secret", "reject", label="a")], "export.json", "1 rejected, 0 ignored"),
        ([answered("secret", "accept", accept=["a"]), answered("x", "maybe", accept=[])], "item 2", "an 'answer' of"),
        ([answered("secret", "accept", accept="a")], "item 1", "a list in 'accept'"),
        ([{"text": "secret", "label": [[0, 3, "A"], "odd"]}], "item 1", "an object in 'spans'"),
        ([{"text": "secret", "label": [["0", 3, "A"]]}], "item 1", "whole numbers as 'start'"),
    ],
)
def test_faults_name_the_item_and_quote_nothing(tmp_path: Path, rows: Sequence[Any], where: str, message: str) -> None:
    """Where a tool's format is known, a row of another is refused."""
    with pytest.raises(DataError) as refusal:
        read_examples(array(tmp_path, rows))

    assert where in str(refusal.value)
    assert message in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_our_own_rows_are_no_exports(tmp_path: Path) -> None:
    """Lists of labels, entities with their offsets, and an `answer` column are what they were."""
    labels = [{"text": "a", "labels": ["x", "y", "z"]}, {"text": "b", "labels": ["x"]}]
    entities = [{"text": "Ann left", "entities": [{"start": 0, "end": 3, "label": "PER"}]}]
    answers = [{"text": "a", "label": "x", "answer": "accept"}]

    for rows in (labels, entities, answers):
        assert "export" not in said(read_examples(jsonl(tmp_path, rows))).replace("export.jsonl", "")
