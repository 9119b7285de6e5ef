"""Files become examples, or a clear error."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_finetune.data import ReadOptions, TaggedExample, TextExample, fingerprint, read_examples, split_examples
from lc_finetune.data.duplicates import groups
from lc_finetune.errors import DataError
from lc_finetune.labels import Span


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


ROWS = [TextExample("a, b", "x"), TextExample('two\nlines "quoted" ', "y")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'query,Intent\n"a, b",x\n"two\nlines ""quoted"" ",y\n'),
        ("a.csv", '\ufeffquery,Intent\r\n"a, b",x\r\n"two\nlines ""quoted"" ",y\r\n'),
        ("a.json", json.dumps([{"sentence": "a, b", "label": "x"}, {"sentence": ROWS[1].text, "label": "y"}])),
        ("a.json", json.dumps({"data": [{"text": "a, b", "tag": "x"}, {"text": ROWS[1].text, "tag": "y"}]})),
        ("a.jsonl", '{"text": "a, b", "label": "x"}\n\n{"text": "two\\nlines \\"quoted\\" ", "label": "y"}'),
    ],
)
def test_a_table_is_read_with_its_texts_unchanged(tmp_path: Path, name: str, content: str) -> None:
    """Columns are recognised; commas, line breaks, quotes and spaces stay."""
    assert tuple(ROWS) == read_examples(write(tmp_path, name, content)).examples


def test_tsv_and_parquet_are_tables_too(tmp_path: Path) -> None:
    """In TSV a quote is a character like any other."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": [0, 1]}), tmp_path / "a.parquet")

    assert [TextExample('say "hi', "x")] == list(
        read_examples(write(tmp_path, "a.tsv", 'text\tlabel\nsay "hi\tx')).examples
    )
    named = read_examples(tmp_path / "a.parquet", ReadOptions(label_names=("no", "yes")))
    assert [example.label for example in named.examples] == ["no", "yes"]


@pytest.mark.parametrize(
    "content",
    [
        "EU S-ORG\nvon O\n\n-DOCSTART- O\n\nAnn\tB-PER\nLi\tE-PER\n",
        "EU x B-ORG\r\nvon y O\r\n\r\nAnn z B-PER\r\nLi z I-PER",
    ],
)
def test_conll_columns_become_texts_with_spans(tmp_path: Path, content: str) -> None:
    """Tab or space, CRLF or LF, any scheme; words joined by one space."""
    loaded = read_examples(write(tmp_path, "a.conll", content))

    assert (
        TaggedExample("EU von", (Span(0, 2, "ORG"),)),
        TaggedExample("Ann Li", (Span(0, 6, "PER"),)),
    ) == loaded.examples


def test_overlapping_spans_are_counted_and_the_longest_kept(tmp_path: Path) -> None:
    """Reported, not lost silently."""
    row = {
        "text": "New York City",
        "entities": [{"start": 0, "end": 8, "label": "A"}, {"start": 0, "end": 13, "label": "B"}],
    }
    loaded = read_examples(write(tmp_path, "a.jsonl", json.dumps(row)))

    assert ((Span(0, 13, "B"),),) == tuple(example.spans for example in loaded.examples)
    assert any("1 overlapping" in note for note in loaded.notes)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "", "empty"),
        ("a.csv", "text,label\n", "header alone"),
        ("a.csv", "text,label\na,x\nb\n", r"a\.csv:3: expected 2 fields"),
        ("a.csv", 'text,label\n"a,x\n', r"a\.csv:2"),
        ("a.csv", "text,text\na,x\n", "more than once"),
        ("a.csv", "words,label\na,x\n", "--text-column"),
        ("a.csv", b"text,label\nb,x\ncaf\xe9,x\n", r"a\.csv:3: expected UTF-8"),
        ("a.csv", b"text,label\na\0,x\n", r"a\.csv:2: .*NUL"),
        ("a.csv", "text,label\na,\nb,x\n", "--drop-unlabelled"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{oops}\n', r"a\.jsonl:2"),
        ("a.jsonl", '["a"]\n', r"a\.jsonl:1: expected a JSON object"),
        ("a.jsonl", '{"text": "a", "label": ["x", "y"]}\n', "multi-label"),
        ("a.jsonl", '{"text": 1, "label": "x"}\n', "expected a text"),
        ("a.jsonl", '{"text": "ab", "entities": [{"start": 1, "end": 9, "label": "A"}]}', r"l:1: .*within the text"),
        ("a.jsonl", '{"text": "ab", "entities": [{"start": 1, "end": 1, "label": "A"}]}', "within the text"),
        ("a.jsonl", '{"text": "ab", "entities": [{"start": 1}]}', "'start', 'end' and 'label'"),
        ("a.conll", "EU B-ORG\nsays\n", r"a\.conll:2"),
        ("a.conll", "EU\tB-ORG\nsays\t\n", r"a\.conll:2"),
        ("a.conll", "EU S-ORG\n\nAnn U-PER\n", r"a\.conll:[13]: .*mixture"),
        ("a.xml", "<a/>", "expected one of"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_its_place(tmp_path: Path, name: str, content: Any, expected: str) -> None:
    """One line: file, line, what was expected, what to do."""
    with pytest.raises(DataError, match=expected) as caught:
        read_examples(write(tmp_path, name, content))

    assert "\n" not in str(caught.value)


def test_a_missing_file_or_column_gets_a_guess(tmp_path: Path) -> None:
    """Of what there is."""
    path = write(tmp_path, "train.csv", "text,category\na,x\n")

    with pytest.raises(DataError, match=r"did you mean 'train\.csv'"):
        read_examples(tmp_path / "trian.csv")
    with pytest.raises(DataError, match="did you mean 'category'"):
        read_examples(path, ReadOptions(label_column="categoy"))


def test_rows_without_a_label_are_dropped_only_when_told(tmp_path: Path) -> None:
    """And counted."""
    loaded = read_examples(write(tmp_path, "a.csv", "text,label\na,\nb,x\n"), ReadOptions(drop_unlabelled=True))

    assert (TextExample("b", "x"),) == loaded.examples
    assert "1 of 2 rows" in loaded.notes[0]


@given(st.lists(st.tuples(st.text(max_size=12), st.sampled_from("abc")), min_size=6, max_size=80), st.integers(0, 5))
def test_splitting_loses_nothing_and_keeps_duplicates_together(rows: list[tuple[str, str]], seed: int) -> None:
    """Sizes add up, every class stays in training, the same text is on one side only."""
    examples = [TextExample(text, label) for text, label in rows] + [
        TextExample("first", "a"),
        TextExample("second", "b"),
    ]
    splits = split_examples(examples, seed=seed)

    assert Counter(examples) == Counter([*splits.train, *splits.validation])
    assert not {e.text.casefold() for e in splits.train} & {e.text.casefold() for e in splits.validation}
    assert splits == split_examples(examples, seed=seed)


def test_a_large_set_gives_calibration_rows_of_their_own() -> None:
    """90/5/5 from 5,000 rows up, stratified."""
    examples = [TextExample(f"{i * 7919 % 100_003} {i}", "ab"[i % 4 == 0]) for i in range(6000)]
    splits = split_examples(examples, seed=0)

    assert pytest.approx(300, abs=5) == len(splits.validation)
    assert pytest.approx(300, abs=5) == len(splits.calibration)
    assert pytest.approx(0.25, abs=0.02) == sum(e.label == "b" for e in splits.validation) / len(splits.validation)


def test_near_duplicates_share_a_group() -> None:
    """A changed character in a long text is the same text."""
    text = "the parcel that I ordered on Monday has still not arrived at my door"
    one, two, three = groups([text, text.replace("Monday", "Mondays").upper(), "something else entirely"])

    assert one == two != three


def test_one_class_is_not_trainable() -> None:
    """Nor are taggers without an entity."""
    with pytest.raises(DataError, match="two classes"):
        split_examples([TextExample("a", "x"), TextExample("b", "x")], seed=0)
    with pytest.raises(DataError, match="entities"):
        split_examples([TaggedExample("a", ())], seed=0)


def test_labels_that_training_never_saw_are_reported() -> None:
    """They count as errors."""
    train = [TextExample(str(i), "ab"[i % 2]) for i in range(20)]
    splits = split_examples(train, validation=train[:2], test=[TextExample("z", "c")], seed=0)

    assert any("never saw" in note for note in splits.notes)


def test_the_fingerprint_ignores_the_order_of_rows() -> None:
    """And nothing else."""
    assert fingerprint(ROWS) == fingerprint(ROWS[::-1]) != fingerprint(ROWS[:1])
