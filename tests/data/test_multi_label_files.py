"""Files with several labels a text: what is recognised, what must be said, what is never cut."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_finetune.data import (
    MultiLabelExample,
    ReadOptions,
    TextExample,
    fingerprint,
    read_examples,
    read_label_names,
    sample_file,
    split_examples,
)
from lc_finetune.data.split import classes
from lc_finetune.errors import DataError

MULTI = ReadOptions(task="multi-label-classification")
WANTED = (MultiLabelExample("a", ("x", "y")), MultiLabelExample("b", ("x",)), MultiLabelExample("c", ()))


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def rows(*labels: Any) -> str:
    return "\n".join(json.dumps({"text": "abc"[i % 3], "labels": one}) for i, one in enumerate(labels))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", rows(["y", "x"], ["x"], [])),
        ("a.jsonl", rows(["y", "x", "x"], "x", None)),
        ("a.json", json.dumps({"data": json.loads(f"[{rows(['x', 'y'], ['x'], []).replace(chr(10), ',')}]")})),
        ("a.csv", "text,labels\na,\"['y', 'x']\"\nb,['x']\nc,[]\n"),
        ("a.csv", 'text,labels\na,"[""y"", ""x""]"\nb,"[""x""]"\nc,\n'),
    ],
)
def test_lists_are_evident(tmp_path: Path, name: str, content: str) -> None:
    """Of JSON, or as pandas writes them into CSV; a label is there once, and none at all is an answer too."""
    loaded = read_examples(write(tmp_path, name, content))

    assert (loaded.examples, loaded.task) == (WANTED, "multi-label-classification")
    assert any("1 of 3 rows have no label" in note for note in loaded.notes)


def test_parquet_lists_and_numbers_take_names(tmp_path: Path) -> None:
    """Numbers are named as those of single labels are."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"text": ["a", "b", "c"], "labels": [[1, 0], [0], []]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")

    assert read_examples(tmp_path / "a.parquet", ReadOptions(label_names=("x", "y"))).examples == WANTED


def test_a_hub_data_set_with_lists_of_classes_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the names of its classes."""
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "labels": datasets.List(datasets.ClassLabel(names=["x", "y"]))}
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "labels": [[1, 0], [0], []]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, *, split: data)

    assert read_examples("org/name").examples == WANTED


@pytest.mark.parametrize("delimiter", [",", ";", "|"])
def test_a_delimiter_is_recognised_by_labels_that_stand_alone_elsewhere(tmp_path: Path, delimiter: str) -> None:
    """And said, with the number of rows that have several."""
    cells = ["x", "y", f"x{delimiter} y", "x", f"y{delimiter}x", "y"]
    content = "text,labels\n" + "".join(f'{i},"{cell}"\n' for i, cell in enumerate(cells))
    loaded = read_examples(write(tmp_path, "a.csv", content))

    assert [e.labels for e in loaded.examples if isinstance(e, MultiLabelExample)] == [
        ("x",), ("y",), ("x", "y"), ("x",), ("x", "y"), ("y",),
    ]  # fmt: skip
    assert loaded.label_delimiter == delimiter
    assert f"separated by {delimiter!r}; 2 rows have several" in loaded.notes[0]


@pytest.mark.parametrize(
    "cells",
    [
        ["Refund, partial", "Refund, full", "Exchange"],
        ["yes, please", "no", "yes, please"],
        ["1", "1,5", "2", "2,5", "5"],
        ["a;", "b"],
    ],
)
def test_labels_that_hold_a_delimiter_stay_whole(tmp_path: Path, cells: list[str]) -> None:
    """Nothing else shows that they are several; decimal commas are no lists."""
    content = "text,label\n" + "".join(f'{i},"{cell}"\n' for i, cell in enumerate(cells))

    assert [
        e.label for e in read_examples(write(tmp_path, "a.csv", content)).examples if isinstance(e, TextExample)
    ] == cells


def test_several_labels_under_a_task_of_one_are_said(tmp_path: Path) -> None:
    """Cells stay whole, and the way out is named; lists are refused."""
    single = ReadOptions(task="text-classification")
    path = write(tmp_path, "a.csv", "text,labels\na,x;y\nb,x\nc,y\n")
    loaded = read_examples(path, single)

    assert loaded.examples == (TextExample("a", "x;y"), TextExample("b", "x"), TextExample("c", "y"))
    assert "--task multi-label-classification" in loaded.notes[0]
    with pytest.raises(DataError, match="--task multi-label-classification"):
        read_examples(write(tmp_path, "a.jsonl", rows(["x", "y"])), single)


def test_one_label_under_a_task_of_several_is_refused(tmp_path: Path) -> None:
    """Unless lists, a delimiter or rows without a label show that it is meant."""
    path = write(tmp_path, "a.csv", "text,labels\na,x\nb,y\n")

    with pytest.raises(DataError, match="leave --task out"):
        read_examples(path, MULTI)
    for meant in (
        read_examples(path, ReadOptions(label_delimiter=";")),
        read_examples(write(tmp_path, "a.jsonl", rows(["x"], ["y"])), MULTI),
        read_examples(write(tmp_path, "b.csv", "text,labels\na,x\nb,\n"), MULTI),
    ):
        assert meant.task == "multi-label-classification"


def test_rows_without_a_label_are_answers_or_dropped(tmp_path: Path) -> None:
    """Of single labels they are refused; with `--drop-unlabelled` an empty list stays, which is a statement."""
    path = write(tmp_path, "a.jsonl", rows(["x", "y"], None, []))
    loaded = read_examples(path, ReadOptions(drop_unlabelled=True))

    assert [(e.text, classes(e)) for e in loaded.examples] == [("a", ("x", "y")), ("c", ())]
    assert "1 of 3 rows had no label and were dropped" in loaded.notes[0]


def test_a_name_that_holds_the_delimiter_is_never_cut(tmp_path: Path) -> None:
    """Names that are known say what a label is."""
    path = write(tmp_path, "a.csv", 'text,labels\na,"x, y,z"\nb,z\n')
    with pytest.raises(DataError, match=r"expected labels without the delimiter ',', found it in x, y"):
        read_examples(path, ReadOptions(label_names=("x, y", "z"), label_delimiter=","))


def test_a_table_without_a_header_has_numbered_columns(tmp_path: Path) -> None:
    """As GoEmotions is published: text, numbers of labels, an id; the names in a file."""
    content = 'He said "no"\t2\te1\nFine, and you?\t0,1\te2\nOh\t1\te3\nWell, well\t0,1,2\te4\nWow\t0\te5\n'
    names = write(tmp_path, "labels.txt", "joy\nlove\nneutral")
    loaded = read_examples(write(tmp_path, "a.tsv", content), ReadOptions("0", "1", read_label_names(str(names))))

    assert [(e.text, classes(e)) for e in loaded.examples] == [
        ('He said "no"', ("neutral",)), ("Fine, and you?", ("joy", "love")), ("Oh", ("love",)),
        ("Well, well", ("joy", "love", "neutral")), ("Wow", ("joy",)),
    ]  # fmt: skip


def test_a_header_of_numbers_is_a_header(tmp_path: Path) -> None:
    """As pandas writes it for columns without names."""
    for header, first in (("0,1", ""), (",0,1", "7,"), ("1,0", None)):
        lines = [header, *(f"{first}hello,{label}" if first is not None else f"{label},hello" for label in "xy")]
        loaded = read_examples(write(tmp_path, "a.csv", "\n".join(lines)), ReadOptions("0", "1"))

        assert loaded.examples == (TextExample("hello", "x"), TextExample("hello", "y"))


def test_a_label_in_the_first_row_may_be_the_number_of_a_column(tmp_path: Path) -> None:
    """Only a line that may be either is refused."""
    numbered = ReadOptions("0", "1")
    loaded = read_examples(write(tmp_path, "a.tsv", "hello\t1\te\nbye\t0\te\n"), numbered)

    assert loaded.examples == (TextExample("hello", "1"), TextExample("bye", "0"))
    with pytest.raises(DataError, match=r"a\.tsv:1: expected to see whether this is a header"):
        read_examples(write(tmp_path, "a.tsv", "hello\t1\t0\n"), numbered)


def test_names_of_labels_are_listed_or_in_a_file(tmp_path: Path) -> None:
    """A file that is not there is no name."""
    assert read_label_names("no, yes") == ("no", "yes")
    assert read_label_names(str(write(tmp_path, "labels.txt", "no\r\nmay be, yes\n\n"))) == ("no", "may be, yes")
    with pytest.raises(
        DataError, match=r"labels2\.txt: expected a file, found none there \(did you mean 'labels\.txt'"
    ):
        read_label_names(str(tmp_path / "labels2.txt"))


LABELS = st.lists(st.sampled_from("abcd"), max_size=4, unique=True).map(lambda names: tuple(sorted(names)))


@given(st.lists(LABELS, min_size=1, max_size=60), st.integers(0, 3))
def test_splitting_keeps_every_label_in_training(answers: list[tuple[str, ...]], seed: int) -> None:
    """And loses no row."""
    examples = [MultiLabelExample(f"{i * 7919} {i}", labels) for i, labels in enumerate([("a",), ("b",), *answers])]
    splits = split_examples(examples, seed=seed)

    assert {*examples} == {*splits.train, *splits.validation}
    assert {name for e in splits.train for name in classes(e)} == {name for e in examples for name in classes(e)}


def test_combinations_of_labels_are_dealt_in_their_shares() -> None:
    """Frequent ones exactly, rare ones by their rarest label, to validation and to calibration."""
    combinations = [("a",)] * 60 + [("a", "b")] * 30 + [()] * 9 + [("b", "c")]
    examples = [MultiLabelExample(f"{i * 7919 % 100_003} {i}", combinations[i % 100]) for i in range(6000)]
    splits = split_examples(examples, seed=0)
    for part in (splits.validation, splits.calibration):
        held_out = [classes(e) for e in part]
        assert {names: held_out.count(names) for names in set(combinations)} == {
            ("a",): 180, ("a", "b"): 90, (): 27, ("b", "c"): 3,
        }  # fmt: skip


def test_calibration_rows_are_taken_beside_a_given_validation_part_too() -> None:
    """Of a large set: the rows that choose epoch and thresholds are not those that calibrate."""
    examples = [MultiLabelExample(f"{i * 7919 % 100_003} {i}", ("a",) if i % 2 else ("b",)) for i in range(6000)]
    splits = split_examples(examples[:5500], validation=examples[5500:], seed=0)

    assert splits.sizes == {"train": 5225, "validation": 500, "calibration": 275, "test": 0}


def test_too_few_labels_are_not_trainable() -> None:
    """One, or none."""
    with pytest.raises(DataError, match="found one: x"):
        split_examples([MultiLabelExample("a", ("x",)), MultiLabelExample("b", ())], seed=0)
    with pytest.raises(DataError, match="found none"):
        split_examples([MultiLabelExample("a", ()), MultiLabelExample("b", ())], seed=0)


def test_the_fingerprint_sees_every_label() -> None:
    """And not the order of rows."""
    assert (
        fingerprint(WANTED) == fingerprint(WANTED[::-1]) != fingerprint([*WANTED[:2], MultiLabelExample("c", ("x",))])
    )


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_the_sample_has_texts_of_none_one_and_several_topics(part: str) -> None:
    """As real messages have."""
    loaded = read_examples(sample_file("multilabel", part))

    assert loaded.task == "multi-label-classification"
    assert {0, 1, 2, 3} == {len(classes(e)) for e in loaded.examples}
