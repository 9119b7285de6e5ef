"""Label sets."""

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_finetune.errors import CheckpointError, ConfigError
from lc_finetune.labels import LabelSet, Span

names = st.lists(st.text(min_size=1), min_size=1, max_size=20, unique=True).map(tuple)


@given(names=names)
def test_both_maps_derive_from_the_one_list(names: tuple[str, ...]) -> None:
    """A label's id is its position, and the two maps are each other's inverse."""
    labels = LabelSet(names)

    assert list(names) == [labels[i] for i in range(len(labels))]
    assert {name: i for i, name in enumerate(names)} == labels.label2id == dict(labels.id_of)
    assert {i: name for name, i in labels.label2id.items()} == labels.id2label


@given(names=names, data=st.data())
def test_the_map_of_a_configuration_is_read_in_any_order(names: tuple[str, ...], data: st.DataObject) -> None:
    """Keys are strings on disk, where "10" sorts before "2"."""
    on_disk = data.draw(st.permutations([(str(i), name) for i, name in enumerate(names)]))

    assert LabelSet(names) == LabelSet.from_id2label(dict(on_disk))


def test_numbers_as_keys_are_read_too() -> None:
    """A configuration in memory has numbers where the file has strings."""
    assert LabelSet(("no", "yes")) == LabelSet.from_id2label({1: "yes", 0: "no"})


@pytest.mark.parametrize("id2label", [{"1": "a", "2": "b"}, {"0": "a", "2": "b"}, {"-1": "a", "0": "b"}])
def test_ids_with_gaps_are_refused(id2label: dict[str, str]) -> None:
    """A model's columns are numbered from 0 without a gap; the message says which numbers were found."""
    with pytest.raises(CheckpointError, match=r"0 to 1, found \["):
        LabelSet.from_id2label(id2label)


@given(names=names, data=st.data())
def test_columns_do_not_depend_on_the_order_or_number_of_rows(names: tuple[str, ...], data: st.DataObject) -> None:
    """The labels of a file are its distinct ones, sorted."""
    rows = data.draw(st.permutations(names + names))

    assert tuple(sorted(names)) == LabelSet.sorted(rows).names


def test_a_label_set_without_labels_is_refused() -> None:
    """A model without columns answers nothing."""
    with pytest.raises(ConfigError, match="at least one label"):
        LabelSet(())


def test_a_label_given_twice_is_refused_by_name() -> None:
    """Two columns of one name could not be told apart."""
    with pytest.raises(ConfigError, match=r"found \['a'\] more than once"):
        LabelSet(("a", "b", "a"))


def test_labels_are_looked_up_in_the_order_asked() -> None:
    """Repeats included."""
    assert LabelSet(("a", "b")).ids(["b", "a", "b"]) == [1, 0, 1]


def test_looking_up_an_unknown_label_fails() -> None:
    """No unknown label gets a column."""
    with pytest.raises(KeyError, match="c"):
        LabelSet(("a", "b")).ids(["a", "c"])


def test_label_sets_are_values() -> None:
    """Equal names make equal, hashable, unchangeable sets; another order is another set."""
    labels = LabelSet(("a", "b"))

    assert {labels} == {LabelSet(("a", "b"))}
    assert labels != LabelSet(("b", "a"))
    with pytest.raises(FrozenInstanceError):
        labels.names = ("c",)  # type: ignore[misc]


def test_spans_sort_by_position() -> None:
    """By start, then by end."""
    assert [Span(0, 1, "b"), Span(0, 2, "a"), Span(3, 4, "a")] == sorted(
        [Span(3, 4, "a"), Span(0, 2, "a"), Span(0, 1, "b")]
    )
