"""Files of text pairs: recognised where that is unmistakable, read whole, split without leaks."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from lc_finetune.data import (
    MultiLabelExample,
    PairExample,
    ReadOptions,
    TextExample,
    fingerprint,
    gold_of,
    inputs_of,
    read_examples,
    split_examples,
    summarize,
)
from lc_finetune.data.columns import COUPLES, MAYBE_COUPLES
from lc_finetune.errors import DataError
from lc_finetune.testing import tiny_tokenizer

ROWS = [
    {"text": "Reads crime novels.", "text_pair": "A detective in Oslo", "label": "yes"},
    {"text": "Reads crime novels.", "text_pair": "Air-fryer dinners", "label": "no"},
]
PAIRS = [PairExample(row["text"], row["label"], row["text_pair"]) for row in ROWS]


def write(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"rows.{suffix}"
    if suffix == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif suffix in ("csv", "tsv"):
        lines = [list(rows[0]), *(map(str, row.values()) for row in rows)]
        path.write_text("".join({"csv": ",", "tsv": "\t"}[suffix].join(line) + "\n" for line in lines), "utf-8")
    else:
        lines = "\n".join(map(json.dumps, rows)) if suffix == "jsonl" else json.dumps(rows)
        path.write_text(lines, "utf-8")
    return path


def renamed(*names: str) -> list[dict[str, Any]]:
    """The rows with other column names."""
    return [dict(zip(names, row.values(), strict=True)) for row in ROWS]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_format_holds_pairs(tmp_path: Path, suffix: str) -> None:
    """Both texts and the label; a note says how the file was read and what to do if that is wrong."""
    loaded = read_examples(write(tmp_path, suffix, ROWS))

    assert loaded.task == "text-pair-classification"
    assert list(loaded.examples) == PAIRS
    assert inputs_of(loaded.examples) == [(row["text"], row["text_pair"]) for row in ROWS]
    assert gold_of(loaded.examples) == ["yes", "no"]
    assert "read as pairs of 'text' and 'text_pair'. For single texts: --task text-classification" in loaded.notes[0]


@pytest.mark.parametrize("couple", COUPLES)
def test_columns_that_are_only_ever_a_couple_are_recognised(tmp_path: Path, couple: tuple[str, str]) -> None:
    """In whatever case."""
    first, second = couple
    loaded = read_examples(write(tmp_path, "csv", renamed(first.title(), second, "label")))

    assert list(loaded.examples) == PAIRS


@pytest.mark.parametrize("couple", [couple for couple in MAYBE_COUPLES if couple[0] in ("question", "query")])
def test_a_file_of_single_texts_keeps_its_meaning(tmp_path: Path, couple: tuple[str, str]) -> None:
    """An answer beside a question may be a mere remark: pairs only if they are asked for."""
    path = write(tmp_path, "csv", renamed(*couple, "label"))

    assert read_examples(path).task == "text-classification"
    for options in (ReadOptions(task="text-pair-classification"), ReadOptions(text_pair_column=couple[1])):
        assert list(read_examples(path, options).examples) == PAIRS


def test_what_is_asked_for_wins(tmp_path: Path) -> None:
    """`task` and column names go before recognition."""
    path = write(tmp_path, "csv", ROWS)
    single = read_examples(path, ReadOptions(task="text-classification"))
    swapped = read_examples(path, ReadOptions(text_column="text_pair", text_pair_column="text"))
    topics = read_examples(write(tmp_path, "jsonl", [{**row, "label": [row["label"]]} for row in ROWS]),
                           ReadOptions(task="multi-label-classification"))  # fmt: skip
    only_first = read_examples(path, ReadOptions(text_column="text"))

    assert single.examples[0] == only_first.examples[0] == TextExample(ROWS[0]["text"], "yes")
    assert swapped.examples[0] == PairExample(ROWS[0]["text_pair"], "yes", ROWS[0]["text"])
    assert isinstance(topics.examples[0], MultiLabelExample)


def test_a_table_without_a_header_has_its_columns_counted(tmp_path: Path) -> None:
    """From 0."""
    path = tmp_path / "rows.csv"
    path.write_text("yes,a,b\nno,c,d\n", encoding="utf-8")
    loaded = read_examples(path, ReadOptions(text_column="1", label_column="0", text_pair_column="2"))

    assert loaded.examples == (PairExample("a", "yes", "b"), PairExample("c", "no", "d"))
    with pytest.raises(DataError, match="expected the columns 1 and 0 and 7, counted from 0, found 3"):
        read_examples(path, ReadOptions(text_column="1", label_column="0", text_pair_column="7"))


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"text": "a", "label": "x"}], {"task": "text-pair-classification"}, "expected a text-pair column"),
        (ROWS, {"text_pair_column": "txt_pair"}, r"--text-pair-column \(did you mean 'text_pair'"),
        (ROWS, {"text_column": "text", "text_pair_column": "text"}, "expected the column 'text', found text_pair"),
        (
            [ROWS[0], {"text": "a", "text_pair": None, "label": "x"}],
            {},
            r"rows\.jsonl:2: expected a text in 'text_pair'",
        ),
        ([{**ROWS[0], "label": ["x", "y"]}], {}, "expected one label, found a list"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, rows: list[dict[str, Any]], options: dict[str, Any], message: str
) -> None:
    """With the row, or with the option that helps; never with a text."""
    with pytest.raises(DataError, match=message) as refusal:
        read_examples(write(tmp_path, "jsonl", rows), ReadOptions(**options))
    assert "detective" not in str(refusal.value)


def test_near_duplicates_have_both_texts_near() -> None:
    """One history with many items is no duplicate; what is one stays on one side of a split."""
    history = "Bought a bread machine, two kilos of rye flour and a proofing basket since January."
    items = [f"item {name} for the kitchen, number {i}" for i, name in enumerate("abcdefghijklmnopqrst" * 3)]
    rows = [PairExample(history, "yes" if i % 2 else "no", item) for i, item in enumerate(items)]
    twins = [PairExample(history.upper(), row.label, f"{row.text_pair} ") for row in rows]
    splits = split_examples([*rows, *twins], seed=0)
    sides = [{e.text_pair.strip() for e in part} for part in (splits.train, splits.validation)]

    assert splits.duplicates >= len(rows)
    assert splits.validation
    assert not sides[0] & sides[1]
    assert split_examples(rows, validation=twins[:3], seed=0).notes == (
        "validation: 3 of 3 texts also occur in the training rows.",
    )


def test_the_summary_measures_pairs() -> None:
    """Pieces of both texts, and the special tokens of a pair."""
    tokenizer = tiny_tokenizer("bytelevel", max_length=64)
    splits = split_examples([*PAIRS] * 4, validation=PAIRS, seed=0)
    summary = summarize(splits, tokenizer, max_length=64)

    longest = max(len(tokenizer(row["text"], row["text_pair"]).input_ids) for row in ROWS)
    assert summary.lengths["longest"] == longest - 4
    assert summary.longer == 0
    assert summarize(splits, tokenizer, max_length=longest - 1).longer > 0


def test_the_fingerprint_sees_both_texts() -> None:
    """And which is which."""
    one, other = PairExample("a", "x", "b"), PairExample("b", "x", "a")

    assert len({fingerprint([one]), fingerprint([other]), fingerprint([TextExample("a", "x")])}) == 3
    assert fingerprint([one, other]) == fingerprint([other, one])
