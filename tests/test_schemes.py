"""Tagging schemes."""

from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_finetune.errors import DataError
from lc_finetune.inference.decode import best_path
from lc_finetune.labels import LabelSet, Span
from lc_finetune.schemes import (
    SCHEMES,
    Scheme,
    SchemeConflict,
    TagSet,
    check_tags,
    detect_scheme,
    parse_tag,
    spans_to_tags,
    tags_to_spans,
)

TYPES = ["PER", "creative-work"]


@st.composite
def spans_in(draw: st.DrawFn) -> tuple[list[Span], int]:
    """Disjoint spans, adjacent ones included."""
    spans, position = [], 0
    for _ in range(draw(st.integers(0, 6))):
        start = position + draw(st.integers(0, 2))
        position = start + draw(st.integers(1, 4))
        spans.append(Span(start, position, draw(st.sampled_from(TYPES))))
    return spans, position + draw(st.integers(0, 2))


def accepts(tags: TagSet, ids: Sequence[int]) -> bool:
    """Say whether constrained decoding could give these columns."""
    edges = not ids or bool(tags.starts[ids[0]] and tags.ends[ids[-1]])
    return edges and all(tags.transitions[left, right] for left, right in pairwise(ids))


@pytest.mark.parametrize(
    ("tag", "parts"),
    [
        ("O", ("O", "")),
        ("B-PER", ("B", "PER")),
        ("I-creative-work", ("I", "creative-work")),
        ("creative-work", ("I", "creative-work")),
        ("LABEL_0", ("I", "LABEL_0")),
        ("U-B-52", ("U", "B-52")),
        ("B", ("B", "")),
    ],
)
def test_a_tag_is_split_at_its_first_hyphen(tag: str, parts: tuple[str, str]) -> None:
    """Types may contain hyphens; a bare type counts as inside."""
    assert parts == parse_tag(tag)


@pytest.mark.parametrize("scheme", SCHEMES)
@given(case=spans_in())
def test_spans_survive_every_scheme(scheme: Scheme, case: tuple[list[Span], int]) -> None:
    """Written as tags and read back, the same spans; and the tags break no rule of the scheme."""
    spans, length = case
    tags = spans_to_tags(spans, length, scheme)

    assert spans == tags_to_spans(tags, scheme)
    assert check_tags(tags, scheme) == []


@pytest.mark.parametrize("scheme", SCHEMES)
@given(data=st.data())
def test_transitions_accept_exactly_what_the_scheme_writes(scheme: Scheme, data: st.DataObject) -> None:
    """A sequence is legal if, and only if, writing its spans gives it again; `check_tags` agrees."""
    tags = TagSet.of_types(TYPES, scheme)
    ids = data.draw(st.lists(st.integers(0, len(tags.labels) - 1), max_size=4))
    names = [tags.labels[i] for i in ids]
    written = spans_to_tags(tags.spans(ids), len(ids), scheme)

    assert (names == written) == accepts(tags, ids) == (not check_tags(names, scheme))
    assert accepts(tags, tags.labels.ids(written))


@pytest.mark.parametrize("scheme", SCHEMES)
@given(case=spans_in())
def test_decoding_can_give_every_set_of_spans(scheme: Scheme, case: tuple[list[Span], int]) -> None:
    """The constraints never forbid what the scheme can write, and columns become the same spans again."""
    tags = TagSet.of_types(TYPES, scheme)
    ids = tags.labels.ids(spans_to_tags(*case, scheme))

    assert accepts(tags, ids)
    assert case[0] == tags.spans(ids)


@pytest.mark.parametrize("scheme", SCHEMES)
@given(tags=st.lists(st.sampled_from(["O", *(f"{prefix}-{label}" for prefix in "BIESLU" for label in "XY")])))
def test_nothing_tagged_is_lost(scheme: Scheme, tags: list[str]) -> None:
    """Whatever breaks the scheme still belongs to an entity of its own type."""
    spans = tags_to_spans(tags, scheme)
    types = {i: span.label for span in spans for i in range(span.start, span.end)}

    assert {i: tag[2:] for i, tag in enumerate(tags) if tag != "O"} == types


def test_adjacent_entities_stay_apart() -> None:
    """A second B- tag starts a new entity even without an O between."""
    assert [Span(0, 1, "PER"), Span(1, 2, "PER")] == tags_to_spans(["B-PER", "B-PER"], "IOB2")


def test_iob1_writes_a_begin_tag_only_between_entities_of_one_type() -> None:
    """Elsewhere an entity starts with I-."""
    spans = [Span(0, 2, "A"), Span(2, 3, "A"), Span(3, 4, "B"), Span(5, 6, "B")]

    assert spans_to_tags(spans, 6, "IOB1") == ["I-A", "I-A", "B-A", "I-B", "O", "I-B"]


@pytest.mark.parametrize("spans", [[Span(0, 2, "A"), Span(1, 3, "A")], [Span(2, 4, "A")], [Span(1, 1, "A")]])
def test_spans_that_overlap_or_leave_the_sequence_are_refused(spans: list[Span]) -> None:
    """No tags could say them."""
    with pytest.raises(ValueError, match="disjoint spans within 3 positions"):
        spans_to_tags(spans, 3)


@pytest.mark.parametrize(
    ("sequences", "scheme"),
    [
        ([], "IOB2"),
        ([["O", "O"]], "IOB2"),
        ([["B-A", "O"]], "IOB2"),
        ([["B-A", "I-A", "O"]], "IOB2"),
        ([["I-A", "I-A", "B-A"]], "IOB1"),
        ([["O"], ["PER", "O", "LOC"]], "IOB1"),
        ([["B-A", "E-A", "S-A"]], "BIOES"),
        ([["O"], ["S-A"]], "BIOES"),
        ([["B-A", "L-A", "U-A"]], "BILUO"),
    ],
)
def test_the_scheme_is_detected(sequences: list[list[str]], scheme: Scheme) -> None:
    """By the prefixes and the order in which they occur; IOB2 where several schemes explain all."""
    assert scheme == detect_scheme(sequences)


@pytest.mark.parametrize("scheme", ["IOB2", "BIOES", "BILUO"])
@given(cases=st.lists(spans_in(), min_size=1))
def test_what_a_scheme_wrote_is_read_alike_by_the_scheme_detected(
    scheme: Scheme, cases: list[tuple[list[Span], int]]
) -> None:
    """Where several schemes fit, all of them mean the same spans."""
    sequences = [spans_to_tags(*case, scheme) for case in cases]
    detected = detect_scheme(iter(sequences))

    assert [case[0] for case in cases] == [tags_to_spans(tags, detected) for tags in sequences]


@pytest.mark.parametrize(
    ("sequences", "sequence", "position", "reason"),
    [
        ([["S-A", "O"], ["U-A"]], 1, 0, "U- is no prefix of BIOES"),
        ([["B-A", "I-A"], ["O", "I-A"]], 1, 1, "I-A may not follow O in IOB2"),
        ([["B-A", "E-A"], ["B-A", "O"]], 1, 1, "O may not follow B-A in BIOES"),
        ([["S-A"], ["S-A", "B-A"]], 1, 1, "B-A may not end a sequence in BIOES"),
        ([["B-A", "B-"]], 0, 1, "'B-' names no entity type"),
        ([["O", "B", "I"]], 0, 1, "'B' names no entity type"),
        ([["O", ""]], 0, 1, "'' names no entity type"),
    ],
)
def test_a_mixture_is_refused(sequences: list[list[str]], sequence: int, position: int, reason: str) -> None:
    """The error knows the sequence and the tag at fault, counted from 0, and says what is wrong there."""
    with pytest.raises(DataError) as caught:
        detect_scheme(sequences)

    assert isinstance(caught.value, SchemeConflict)
    assert (sequence, position, reason) == (caught.value.sequence, caught.value.position, caught.value.reason)
    assert f"in sequence {sequence}, tag {position}: {reason}" in str(caught.value)


def test_every_fault_of_a_sequence_is_listed() -> None:
    """With its position and the reason."""
    assert check_tags(["I-A", "B-B", "I-A", "S-A"], "IOB2") == [
        (0, "I-A may not follow the start in IOB2"),
        (2, "I-A may not follow B-B in IOB2"),
        (3, "S- is no prefix of IOB2"),
    ]


def test_columns_are_outside_then_each_type_in_order() -> None:
    """The columns of a new model depend on its types alone."""
    tags = TagSet.of_types(["PER", "LOC", "PER"], "BIOES")

    assert tags.labels.names == ("O", "B-LOC", "I-LOC", "E-LOC", "S-LOC", "B-PER", "I-PER", "E-PER", "S-PER")
    assert tags.types == ("LOC", "PER")


def test_the_tables_have_a_row_or_an_entry_for_each_tag() -> None:
    """Shapes and types are what decoding indexes with."""
    tags = TagSet.of_types(TYPES)

    assert [table.shape for table in (tags.transitions, tags.starts, tags.ends)] == [(5, 5), (5,), (5,)]
    assert {np.dtype(bool)} == {table.dtype for table in (tags.transitions, tags.starts, tags.ends)}


def test_an_inside_tag_never_starts_an_entity() -> None:
    """Nor follows another type."""
    tags = TagSet.of_types(["A", "B"])
    column = tags.labels.id_of

    assert not tags.starts[column["I-A"]]
    assert not tags.transitions[column["O"], column["I-A"]]
    assert not tags.transitions[column["B-B"], column["I-A"]]


@pytest.mark.parametrize("scheme", SCHEMES)
@given(length=st.integers(1, 4), seed=st.integers(0, 10_000))
def test_decoding_finds_the_best_of_all_legal_sequences(scheme: Scheme, length: int, seed: int) -> None:
    """Whatever the scores are: no other sequence that the scheme can write scores more."""
    tags = TagSet.of_types(["A"], scheme)
    scores = np.random.default_rng(seed).normal(size=(length, len(tags.labels)))
    legal = [ids for ids in product(range(len(tags.labels)), repeat=length) if accepts(tags, ids)]

    assert best_path(scores, tags) == list(max(legal, key=lambda ids: scores[range(length), ids].sum()))


@pytest.mark.parametrize(
    ("names", "scheme"),
    [
        (("I-PER", "O", "B-PER"), "IOB2"),
        (("O", "I-PER", "I-LOC"), "IOB1"),
        (("LOC", "O", "creative-work"), "IOB1"),
        (("S-A", "O", "B-A", "I-A", "E-A"), "BIOES"),
        (("O", "U-A", "B-A", "L-A", "I-A"), "BILUO"),
    ],
)
def test_the_scheme_of_a_foreign_checkpoint_shows_in_its_columns(names: tuple[str, ...], scheme: Scheme) -> None:
    """In whatever order they come."""
    assert scheme == TagSet.from_labels(LabelSet(names)).scheme


def test_bare_types_are_entities_of_their_own() -> None:
    """Equal neighbours belong together; any of them may start and end a sequence."""
    tags = TagSet.from_labels(LabelSet(("LOC", "O", "creative-work")))

    assert [Span(0, 2, "LOC"), Span(2, 3, "creative-work")] == tags.spans([0, 0, 2, 1])
    assert tags.transitions.all()
    assert tags.starts.all()
    assert tags.ends.all()


@pytest.mark.parametrize("scheme", ["IOB2", "BIOES"])
def test_a_foreign_checkpoint_without_a_begin_tag_can_still_find_the_type(scheme: Scheme) -> None:
    """What lacks B- may start with I- where B- could stand; the other types keep their rules."""
    whole = TagSet.of_types(["A", "B"], scheme)
    tags = TagSet(LabelSet(tuple(name for name in whole.labels.names[::-1] if name != "B-A")), scheme)
    column = tags.labels.id_of

    assert tags.starts[column["I-A"]]
    assert tags.transitions[column["O"], column["I-A"]]
    assert (
        whole.transitions[whole.labels.id_of["B-B"], whole.labels.id_of["B-A"]]
        == (tags.transitions[column["B-B"], column["I-A"]])
    )
    assert not tags.starts[column["I-B"]]
    assert not tags.transitions[column["O"], column["I-B"]]
    assert [Span(1, 3, "A")] == tags.spans([column["O"], column["I-A"], column["I-A"]])
