"""Tagging schemes."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_finetune.errors import DataError
from lc_finetune.labels import LabelSet, Span
from lc_finetune.schemes import (
    SCHEMES,
    Scheme,
    TagSet,
    check_tags,
    convert_tags,
    detect_scheme,
    spans_to_tags,
    tags_to_spans,
)


@st.composite
def spans_in(draw: st.DrawFn) -> tuple[list[Span], int]:
    """Disjoint spans, adjacent ones included."""
    spans, position = [], 0
    for _ in range(draw(st.integers(0, 6))):
        start = position + draw(st.integers(0, 2))
        position = start + draw(st.integers(1, 4))
        spans.append(Span(start, position, draw(st.sampled_from(["PER", "creative-work"]))))
    return spans, position + draw(st.integers(0, 2))


@pytest.mark.parametrize("scheme", SCHEMES)
@given(case=spans_in())
def test_spans_survive_every_scheme(scheme: Scheme, case: tuple[list[Span], int]) -> None:
    """Written as tags and read back, the same spans; and the tags break no rule of the scheme."""
    spans, length = case
    tags = spans_to_tags(spans, length, scheme)

    assert spans == tags_to_spans(tags, scheme)
    assert check_tags(tags, scheme) == []


@pytest.mark.parametrize("source", SCHEMES)
@pytest.mark.parametrize("target", SCHEMES)
@given(case=spans_in())
def test_conversion_keeps_the_entities(source: Scheme, target: Scheme, case: tuple[list[Span], int]) -> None:
    """From any scheme to any other and back."""
    spans, length = case
    tags = spans_to_tags(spans, length, source)

    assert tags == convert_tags(convert_tags(tags, source, target), target, source)


@pytest.mark.parametrize("scheme", ["IOB2", "BIOES", "BILUO"])
@given(case=spans_in())
def test_transitions_allow_every_legal_sequence(scheme: Scheme, case: tuple[list[Span], int]) -> None:
    """The constraints of decoding never forbid what the scheme can write."""
    tags = TagSet.of_types(["PER", "creative-work"], scheme)
    ids = tags.labels.ids(spans_to_tags(*case, scheme))

    assert not ids or (tags.starts[ids[0]] and tags.ends[ids[-1]])
    assert all(tags.transitions[left, right] for left, right in pairwise(ids))


def test_adjacent_entities_stay_apart() -> None:
    """A second B- tag starts a new entity even without an O between."""
    assert [Span(0, 1, "PER"), Span(1, 2, "PER")] == tags_to_spans(["B-PER", "B-PER"], "IOB2")


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["B-A", "I-A", "O"], "IOB2"),
        (["I-A", "I-A", "B-A"], "IOB1"),
        (["B-A", "E-A", "S-A"], "BIOES"),
        (["B-A", "L-A", "U-A"], "BILUO"),
    ],
)
def test_the_scheme_is_detected(tags: Sequence[str], scheme: Scheme) -> None:
    """By the prefixes and the order in which they occur."""
    assert scheme == detect_scheme([tags])


def test_a_mixture_is_refused() -> None:
    """No scheme has both S- and U-; the sequence at fault is named."""
    with pytest.raises(DataError, match="sequence 1"):
        detect_scheme([["S-A", "O"], ["U-A"]])


def test_an_inside_tag_never_starts_an_entity() -> None:
    """Nor follows another type."""
    tags = TagSet.of_types(["A", "B"])
    column = tags.labels.id_of

    assert not tags.starts[column["I-A"]]
    assert not tags.transitions[column["B-B"], column["I-A"]]


def test_a_foreign_checkpoint_without_a_begin_tag_can_still_find_the_type() -> None:
    """Columns come in any order, and some may be missing."""
    tags = TagSet.from_labels(LabelSet(("I-A", "O", "B-B", "I-B")))

    assert [Span(1, 3, "A")] == tags.spans([1, 0, 0])
    assert tags.starts[0]
