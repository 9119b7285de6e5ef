"""The bundled samples keep the promises of their README."""

import re
from pathlib import Path

import pytest

from lc_finetune.data import (
    Example,
    IntentExample,
    PairExample,
    QuestionExample,
    ReadOptions,
    RelationExample,
    TaggedExample,
    read_examples,
)
from lc_finetune.data.bundled import SUFFIX, sample_file
from lc_finetune.data.duplicates import groups
from lc_finetune.data.split import classes

PARTS = ("train", "validation", "test")
FOLDER = sample_file("support").parents[1]


def examples(name: str, part: str) -> tuple[Example, ...]:
    return read_examples(sample_file(name, part)).examples


def everything() -> list[str]:
    """All bundled texts, those out of scope too; of pairs, each first text once, of questions, each context."""
    single = [
        e.text for name in SUFFIX if name not in ("pairs", "questions") for part in PARTS for e in examples(name, part)
    ]
    outside = [e.text for e in read_examples(FOLDER / "support" / "out_of_scope.csv").examples]
    contexts = dict.fromkeys(e.text for part in PARTS for e in examples("questions", part))
    return [*single, *outside, *contexts, *dict.fromkeys(e.text for e in pairs()), *(e.text_pair for e in pairs())]


def pairs(*parts: str) -> list[PairExample]:
    """The bundled pairs."""
    return [e for part in parts or PARTS for e in examples("pairs", part) if isinstance(e, PairExample)]


@pytest.mark.parametrize(
    ("name", "rows", "labels"),
    [
        ("support", 600, 10),
        ("sentiment", 300, 3),
        ("entities", 300, 5),
        ("multilabel", 120, 6),
        ("pairs", 200, 2),
        ("relations", 150, 6),
        ("urgency", 120, 11),
        ("stars", 120, 5),
        ("questions", 120, 2),
        ("intents", 96, 10),
    ],
)
def test_a_sample_is_large_enough(name: str, rows: int, labels: int) -> None:
    """Rows and labels, every label in every part."""
    by_part = {part: {label for e in examples(name, part) for label in classes(e)} for part in PARTS}

    assert sum(len(examples(name, part)) for part in PARTS) >= rows
    assert len(by_part["train"]) >= labels
    assert by_part["train"] == by_part["validation"] == by_part["test"]


def test_the_slice_out_of_scope_is_apart() -> None:
    """A label of its own, that no intent has."""
    outside = {label for e in read_examples(FOLDER / "support" / "out_of_scope.csv").examples for label in classes(e)}

    assert outside == {"out_of_scope"}
    assert not outside & {label for part in PARTS for e in examples("support", part) for label in classes(e)}


def test_no_text_occurs_twice_nor_nearly() -> None:
    """Within a sample or across all of them."""
    assert len(set(groups(everything()))) == len(everything())


def test_a_person_is_in_one_part_and_has_items_of_both_kinds() -> None:
    """So that a ranking can be measured on people that were never seen."""
    people = [{e.text for e in pairs(part)} for part in PARTS]

    assert not people[0] & people[1] | people[0] & people[2] | people[1] & people[2]
    for person in set().union(*people):
        assert {e.label for e in pairs() if e.text == person} == {"interested", "not_interested"}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", ["entities", "intents"])
def test_entities_begin_and_end_with_their_words(name: str, part: str) -> None:
    """Reading has nothing to report; no span cuts a word, none begins or ends with punctuation that is not its own."""
    options = ReadOptions(task="token-classification" if name == "entities" else "intent-and-entities")
    loaded = read_examples(sample_file(name, part), options)

    assert loaded.notes == ()
    for example in loaded.examples:
        assert isinstance(example, TaggedExample | IntentExample)
        for span in example.spans:
            around = example.text[max(0, span.start - 1) : span.end + 1]
            inside = example.text[span.start : span.end]
            assert inside == inside.strip()
            assert not re.match(r"\w{2}", around) or span.start == 0
            assert not re.search(r"\w{2}\Z", around) or span.end == len(example.text)
            assert not re.search(r"[,;:!?]\Z", inside)


@pytest.mark.parametrize("part", PARTS)
def test_mentions_are_whole_words(part: str) -> None:
    """Of relations: no mention cuts a word; heads do not always come first."""
    loaded = read_examples(sample_file("relations", part))
    relations = [example for example in loaded.examples if isinstance(example, RelationExample)]

    assert (loaded.task, loaded.notes, len(relations)) == ("relation-classification", (), len(loaded.examples))
    for example in relations:
        for start, end in (example.head, example.tail):
            assert not re.match(r"\w{2}", example.text[max(0, start - 1) : end]) or start == 0
            assert not re.search(r"\w{2}\Z", example.text[start : end + 1]) or end == len(example.text)
    assert {example.head < example.tail for example in relations} == {True, False}


@pytest.mark.parametrize("part", PARTS)
def test_answers_are_whole_words(part: str) -> None:
    """Every context has questions with an answer, and one without; no context is in two parts."""
    asked = [example for example in examples("questions", part) if isinstance(example, QuestionExample)]
    others = {e.text for other in PARTS if other != part for e in examples("questions", other)}

    assert len(asked) == len(examples("questions", part))
    assert not {example.context for example in asked} & others
    for context in {example.context for example in asked}:
        assert sum(not e.answers for e in asked if e.context == context) == 1
    for example in asked:
        for start, end in example.answers:
            assert not re.match(r"\w{2}", example.context[max(0, start - 1) : end]) or start == 0
            assert not re.search(r"\w{2}\Z", example.context[start : end + 1]) or end == len(example.context)


def test_the_readme_gives_the_sizes_of_the_files() -> None:
    """Its table, and its count of the texts out of scope."""
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    table = {
        match[1]: tuple(map(int, match.groups()[1:]))
        for match in re.finditer(r"^\| `(\w+)/` .*\| (\d+) \| (\d+) \| (\d+) \|$", readme, re.MULTILINE)
    }
    outside = len(read_examples(FOLDER / "support" / "out_of_scope.csv").examples)

    assert table == {name: tuple(len(examples(name, part)) for part in PARTS) for name in SUFFIX}
    assert f"holds {outside} more texts" in readme


@pytest.mark.parametrize("path", sorted(path for path in FOLDER.glob("*/*")), ids=lambda path: path.name)
def test_files_are_plain_text(path: Path) -> None:
    """UTF-8 without a mark, LF line ends."""
    raw = path.read_bytes()

    assert b"\r" not in raw
    assert not raw.startswith(b"\xef\xbb\xbf")
    assert raw.decode("utf-8").endswith("\n")
