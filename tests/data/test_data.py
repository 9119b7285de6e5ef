"""Files become examples, or a clear error."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_finetune.data import (
    ReadOptions,
    Summary,
    TaggedExample,
    TextExample,
    duplicates,
    fingerprint,
    read_examples,
    split_examples,
)
from lc_finetune.data.duplicates import _signatures as signatures
from lc_finetune.data.duplicates import groups
from lc_finetune.data.split import classes
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
        ("a.jsonl", '\ufeff{"text": "a, b", "label": "x"}\r\n{"text": "two\\nlines \\"quoted\\" ", "label": "y"}\r\n'),
        ("a.csv", '\n  \nquery,Intent\n\n"a, b",x\n   \n"two\nlines ""quoted"" ",y\n\n'),
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


@pytest.mark.parametrize("text", ["", "   ", "\u2028a\u2028b\x85", "a\x0cb", "x" * 1_000_000])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_any_text_is_valid(tmp_path: Path, text: str, suffix: str) -> None:
    """Empty, blank, a million characters, line ends of Unicode: unchanged."""
    import csv

    import pyarrow
    import pyarrow.parquet

    path, rows = tmp_path / f"a.{suffix}", [{"text": text, "label": "x"}]
    if suffix == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif suffix == "csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["text", "label"], [text, "x"]])
    else:
        path.write_text(json.dumps(rows if suffix == "json" else rows[0], ensure_ascii=False))

    assert read_examples(path).examples == (TextExample(text, "x"),)


def test_every_kind_of_parquet_column_is_read(tmp_path: Path) -> None:
    """Dictionaries, large strings, small integers; a text that is null is refused."""
    import pyarrow
    import pyarrow.parquet

    def read(texts: Any, labels: Any) -> list[TextExample]:
        pyarrow.parquet.write_table(pyarrow.table({"text": texts, "label": labels}), tmp_path / "a.parquet")
        return list(read_examples(tmp_path / "a.parquet").examples)  # type: ignore[arg-type]

    categories = pyarrow.array(["x", "y"]).dictionary_encode()
    small = pyarrow.array([0, 1], pyarrow.int8())

    assert read(pyarrow.array(["a", "b"], pyarrow.large_string()), categories) == [
        TextExample("a", "x"), TextExample("b", "y"),
    ]  # fmt: skip
    assert [example.label for example in read(["a", "b"], small)] == ["0", "1"]
    with pytest.raises(DataError, match="row 2: expected a text in 'text', found nothing"):
        read(["a", None], small)


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (["0", "1"], "no,yes", ["no", "yes"]),
        (["0.0", "1.0"], "no,yes", ["no", "yes"]),
        (["no", "yes"], "no,yes", ["no", "yes"]),
        ([0.0, 1.0], "no,yes", ["no", "yes"]),
        ([False, True], "no,yes", ["no", "yes"]),
        (["0.0", "1.0"], "", ["0", "1"]),
        ([0.0, 1], "", ["0", "1"]),
        (["-1", "1"], "", ["-1", "1"]),
        (["007", "7"], "", ["007", "7"]),
        (["1.0", "1.1"], "", ["1.0", "1.1"]),
        ([True, False], "", ["True", "False"]),
        (["Card", "card "], "", ["Card", "card "]),
    ],
)
def test_labels_are_classes(tmp_path: Path, labels: list[Any], names: str, expected: list[str]) -> None:
    """Whole numbers take names however they are written; `1.0`, as pandas writes it, is 1; nothing else is changed."""
    rows = "\n".join(json.dumps({"text": "a", "label": label}) for label in labels)
    options = ReadOptions(label_names=tuple(names.split(",")) if names else ())
    loaded = read_examples(write(tmp_path, "a.jsonl", rows), options)

    assert expected == [example.label for example in loaded.examples if isinstance(example, TextExample)]


def test_labels_that_differ_in_case_or_spaces_are_reported(tmp_path: Path) -> None:
    """They stay two classes."""
    (note,) = read_examples(write(tmp_path, "a.csv", "text,label\na,Card\nb,card \n")).notes

    assert "'Card' / 'card '" in note


def test_missing_labels_of_pandas_are_missing(tmp_path: Path) -> None:
    """NaN, null and blank are one and the same."""
    rows = '{"text": "a", "label": NaN}\n{"text": "b", "label": null}\n{"text": "c", "label": " "}\n'
    loaded = read_examples(
        write(tmp_path, "a.jsonl", rows + '{"text": "d", "label": 1.0}'), ReadOptions(drop_unlabelled=True)
    )

    assert loaded.examples == (TextExample("d", "1"),)
    assert "3 of 4 rows" in loaded.notes[0]


@pytest.mark.parametrize(
    "word", ["a\u00a0b", "\u00a0", "a\u2028b", "a\x85", "\x0ca", "a\u3000b", "\u200b", "#", "#tag"]
)
@pytest.mark.parametrize("separator", ["\t", " "])
def test_a_word_may_hold_any_white_space_but_its_separator(tmp_path: Path, word: str, separator: str) -> None:
    """Words come from the wild."""
    lines = [f"{word}{separator}O", f"Oslo{separator}B-LOC"]
    loaded = read_examples(write(tmp_path, "a.conll", "\n".join(lines)))

    assert loaded.examples == (TaggedExample(f"{word} Oslo", (Span(len(word) + 1, len(word) + 5, "LOC"),)),)


def test_the_word_comes_first_and_the_tag_last(tmp_path: Path) -> None:
    """The four columns of CoNLL-2003 in IOB1; comments are counted, trailing spaces and document lines left out."""
    content = (
        "# id 1 domain=news\n-DOCSTART- -X- -X- O\n\nEU NNP B-NP I-ORG \nrejects VBZ B-VP O\n\n# id 2\n"
        "Ann NNP B-NP I-PER\nLee NNP B-NP B-PER\n# NN B-NP O"
    )
    loaded = read_examples(write(tmp_path, "a.conll", content))

    assert loaded.examples == (
        TaggedExample("EU rejects", (Span(0, 2, "ORG"),)),
        TaggedExample("Ann Lee #", (Span(0, 3, "PER"), Span(4, 7, "PER"))),
    )
    assert "IOB1" in loaded.notes[0]
    assert "2 comment lines" in loaded.notes[1]


@pytest.mark.parametrize(
    ("tags", "scheme"), [("S-A O B-A E-A", "BIOES"), ("U-A O B-A L-A", "BILUO"), ("B-A O B-A I-A", "IOB2")]
)
def test_every_scheme_is_detected(tmp_path: Path, tags: str, scheme: str) -> None:
    """The same entities, whatever their spelling."""
    loaded = read_examples(write(tmp_path, "a.conll", "\n".join(f"w\t{tag}" for tag in tags.split())))

    assert loaded.examples == (TaggedExample("w w w w", (Span(0, 1, "A"), Span(4, 7, "A"))),)
    assert scheme in loaded.notes[0]


def test_white_space_at_the_ends_of_an_entity_is_left_out_and_said(tmp_path: Path) -> None:
    """No tagger could ever find it."""
    entities = [{"start": 2, "end": 8, "label": "A"}, {"start": 8, "end": 9, "label": "B"}]
    loaded = read_examples(write(tmp_path, "a.jsonl", json.dumps({"text": "in Oslo  ", "entities": entities})))

    assert loaded.examples == (TaggedExample("in Oslo  ", (Span(3, 7, "A"),)),)
    assert "2 entities began or ended with white space" in loaded.notes[0]


def test_a_link_is_a_file(tmp_path: Path) -> None:
    """Its target is read."""
    (tmp_path / "link.csv").symlink_to(write(tmp_path, "a.csv", "text,label\na,x\n"))

    assert read_examples(tmp_path / "link.csv").examples == (TextExample("a", "x"),)


@pytest.mark.parametrize(("source", "split"), [("org/name", "train"), ("org/name:test", "test")])
def test_a_data_set_of_the_hub_is_read(source: str, split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the names of its classes; -1 is how a data set says that a label is not given."""
    import datasets

    asked: list[Any] = []

    def load(name: str, *, split: str) -> Any:
        asked.append((name, split))
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
        )
        return datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load)
    loaded = read_examples(source, ReadOptions(drop_unlabelled=True))

    assert asked == [("org/name", split)]
    assert loaded.examples == (TextExample("a", "yes"), TextExample("b", "no"))


def test_a_data_set_that_cannot_be_had_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the name and what to check."""
    import datasets

    def load(name: str, *, split: str) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"org/name: .*ConnectionError.*Check the name"):
        read_examples("org/name")


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
        ("a.jsonl", '{"text": "a", "label": {"x": 1}}\n', "multi-label"),
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


def test_beyond_the_limit_only_equal_texts_share_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Near ones are looked for up to a number of rows."""
    text = "the parcel that I ordered on Monday has still not arrived at my door"
    texts = [text, f"{text}!", text]

    assert duplicates.LIMIT == 100_000
    assert len(set(groups(texts))) == 1
    monkeypatch.setattr(duplicates, "LIMIT", 2)
    assert groups(texts) == [0, 1, 0]


def test_near_duplicates_share_a_group() -> None:
    """A changed character in a long text is the same text."""
    text = "the parcel that I ordered on Monday has still not arrived at my door"
    one, two, three = groups([text, text.replace("Monday", "Mondays").upper(), "something else entirely"])

    assert one == two != three


def test_a_near_duplicate_is_found_whoever_else_shares_its_bucket() -> None:
    """Each is compared with all of a bucket, not with its first member alone."""
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghij", k=6)) for _ in range(400)]
    base = " ".join(generator.choices(words, k=30))
    texts = [base]
    for step in range(200):  # each shares most with the one before, and less and less with the first
        parts = texts[-1].split()
        parts[step % 30] = generator.choice(words)
        texts.append(" ".join(parts))
    found = groups(texts)

    assert all(found[i] == found[i + 1] for i in range(200) if jaccard(texts[i], texts[i + 1]) >= 0.85)


def jaccard(left: str, right: str) -> float:
    one, two = ({text[i : i + 5] for i in range(len(text) - 4)} for text in (left, right))
    return len(one & two) / len(one | two)


ALIKE = st.sampled_from(["aaaaaaaaaa", "aaaaaaaaaaa", "b", "c", "d d d", "e"])


@given(st.lists(st.tuples(ALIKE, st.sampled_from("xyz")), min_size=1, max_size=30))
def test_every_class_stays_in_training(rows: list[tuple[str, str]]) -> None:
    """Even where its only row is a duplicate of another class's."""
    examples = [TextExample("first", "v"), TextExample("second", "w"), *(TextExample(*row) for row in rows)]
    splits = split_examples(examples, seed=0)

    assert {e.label for e in splits.train if isinstance(e, TextExample)} == {e.label for e in examples}


@given(st.lists(st.lists(st.sampled_from("ABC"), max_size=3, unique=True), min_size=1, max_size=30))
def test_every_entity_type_stays_in_training(rows: list[list[str]]) -> None:
    """Where an example shows several."""
    examples = [
        TaggedExample(f"{i} a b c", tuple(sorted(Span(ord(t) - 63, ord(t) - 62, t) for t in types)))
        for i, types in enumerate([["A"], *rows])
    ]
    splits = split_examples(examples, seed=0)

    assert {name for e in splits.train for name in classes(e)} == {name for e in examples for name in classes(e)}


@pytest.mark.parametrize(("rows", "held_out"), [(2, 0), (3, 1), (4, 1), (10, 1)])
def test_tiny_data_is_split_as_well_as_it_can_be(rows: int, held_out: int) -> None:
    """Validation has a row as soon as a class has two; where none has, that is said."""
    splits = split_examples([TextExample(f"{i}", "ab"[i % 2]) for i in range(rows)], seed=0)

    assert (len(splits.train), len(splits.validation)) == (rows - held_out, held_out)
    assert bool(held_out) != any("validation: no rows to spare" in note for note in splits.notes)


def test_a_crowd_of_equal_rows_does_not_keep_the_others_from_validation() -> None:
    """It stays on one side; rows around it are dealt."""
    examples = [TextExample("hello" if i % 2 else f"{i * 7919}", "ab"[i % 3 == 0]) for i in range(400)]
    for seed in range(5):
        splits = split_examples(examples, seed=seed)
        assert 30 <= len(splits.validation) <= 50


def test_texts_shared_with_training_are_reported() -> None:
    """In the part that has them, with their number."""
    train = [TextExample(f"text {i}", "ab"[i % 2]) for i in range(20)]
    splits = split_examples(train, validation=train[:2], test=[TextExample("TEXT  3", "a")], seed=0)

    assert any("validation: 2 of 2 texts also occur" in note for note in splits.notes)
    assert any("test: 1 of 1 texts also occur" in note for note in splits.notes)


def test_a_label_seen_once_is_reported() -> None:
    """And as many labels as rows are questioned."""
    once = split_examples([TextExample(f"{i}", "ab"[i == 0]) for i in range(9)], seed=0)
    many = split_examples([TextExample(f"{i}", f"label {i}") for i in range(50)], seed=0)

    assert any("1 label(s) with a single training row: b." in note for note in once.notes)
    assert any("is this the label column?" in note for note in many.notes)


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


def test_signatures_agree_as_often_as_texts_are_alike() -> None:
    """The property of MinHash that all else rests on."""
    generator = random.Random(1)
    words = ["".join(generator.choices("abcdefghij", k=6)) for _ in range(400)]
    errors = []
    for changed in range(1, 16):
        left = generator.choices(words, k=60)
        right = [generator.choice(words) if i < changed else word for i, word in enumerate(left)]
        one, two = signatures([" ".join(left), " ".join(right)])
        errors.append((one == two).mean() - jaccard(" ".join(left), " ".join(right)))

    assert abs(sum(errors) / len(errors)) < 0.05
    assert max(map(abs, errors)) < 0.25


@pytest.mark.parametrize(("seconds", "said"), [(50.0, "0 min 50 s"), (59.7, "1 min 0 s"), (95.0, "1 min 35 s")])
def test_the_summary_tells_minutes_and_seconds(seconds: float, said: str) -> None:
    """Half a minute is not rounded up to a whole one beside its seconds."""
    summary = Summary({"train": 2}, {"a": 1, "b": 1}, {"p50": 3}, 0, 0.0, 0, 8, (), estimated_seconds=seconds)

    assert f"  time        about {said}" in str(summary).splitlines()
