"""Tagging schemes: IOB1, IOB2, BIOES and BILUO, detected, checked, and turned into spans and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lc_finetune.errors import DataError
from lc_finetune.labels import LabelSet, Span

Scheme = Literal["IOB1", "IOB2", "BIOES", "BILUO"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

OUTSIDE = "O"
# Positions inside an entity are named as in BIOES: Begin, Inside, End, Single.
_TO_BIOES = {"L": "E", "U": "S"}
_TO_BILUO = {"E": "L", "S": "U"}
_PREFIXES: dict[Scheme, str] = {"IOB1": "BI", "IOB2": "BI", "BIOES": "BIES", "BILUO": "BILU"}


def parse_tag(tag: str) -> tuple[str, str]:
    """Split a tag at its first hyphen; a bare type counts as inside, a bare `B` or `I` as a tag without a type.

    Example:
        >>> parse_tag("B-creative-work"), parse_tag("O"), parse_tag("PER")
        (('B', 'creative-work'), ('O', ''), ('I', 'PER'))
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, hyphen, label = tag.partition("-")
    if prefix in ({"B", "I", "E", "S", "L", "U"} if hyphen else {"B", "I"}):
        return prefix, label
    return "I", tag


def _may_follow(before: tuple[str, str] | None, tag: tuple[str, str] | None, scheme: Scheme) -> bool:
    """Say whether a tag may follow another; None is the edge of the sequence."""
    left, left_label = before or (OUTSIDE, "")
    right, right_label = tag or (OUTSIDE, "")
    left, right = _TO_BIOES.get(left, left), _TO_BIOES.get(right, right)
    same = left_label == right_label
    if scheme == "IOB1":
        return right != "B" or (left in "BI" and same)
    if scheme == "IOB2":
        return right != "I" or (left in "BI" and same)
    goes_on = left in "BI"
    return (right in "IE" and same) if goes_on else right in "OBS"


def check_tags(tags: Sequence[str], scheme: Scheme) -> list[tuple[int, str]]:
    """List what breaks the scheme: positions and reasons, empty when nothing does."""
    wrong: list[tuple[int, str]] = []
    parsed = [parse_tag(tag) for tag in tags]
    for position, (prefix, label) in enumerate(parsed):
        if prefix != OUTSIDE and not label:
            wrong.append((position, f"{tags[position]!r} names no entity type"))
        elif prefix != OUTSIDE and prefix not in _PREFIXES[scheme]:
            wrong.append((position, f"{prefix}- is no prefix of {scheme}"))
        elif not _may_follow(parsed[position - 1] if position else None, parsed[position], scheme):
            after = tags[position - 1] if position else "the start"
            wrong.append((position, f"{tags[position]} may not follow {after} in {scheme}"))
    if tags and not wrong and not _may_follow(parsed[-1], None, scheme):
        wrong.append((len(tags) - 1, f"{tags[-1]} may not end a sequence in {scheme}"))
    return wrong


def detect_scheme(sequences: Iterable[Sequence[str]]) -> Scheme:
    """Find the scheme that explains every sequence; IOB2 when several do.

    Raises:
        DataError: If no scheme explains all of them; names the first sequence (counted from 0) that fails the scheme
            which explains most.
    """
    candidates: list[Scheme] = ["IOB2", "BIOES", "BILUO", "IOB1"]
    known = list(sequences)
    failures: dict[Scheme, int] = {}
    for scheme in candidates:
        first = next((i for i, tags in enumerate(known) if check_tags(tags, scheme)), None)
        if first is None:
            return scheme
        failures[scheme] = first
    closest = max(candidates, key=lambda scheme: failures[scheme])
    at = failures[closest]
    position, reason = check_tags(known[at], closest)[0]
    raise SchemeConflict(at, position, reason)


class SchemeConflict(DataError):
    """No scheme explains all sequences.

    Attributes:
        sequence: Index of the sequence at fault, from 0.
        position: Index of the tag in it, from 0.
    """

    def __init__(self, sequence: int, position: int, reason: str) -> None:
        self.sequence, self.position, self.reason = sequence, position, reason
        super().__init__(
            f"Expected one tagging scheme ({', '.join(SCHEMES)}), found a mixture: in sequence {sequence}, tag "
            f"{position}: {reason}. Convert the file to one scheme."
        )


def tags_to_spans(tags: Sequence[str], scheme: Scheme) -> list[Span]:
    """Collect the entities of a tag sequence, as ranges of positions.

    A tag that breaks the scheme starts an entity of its own, so that nothing tagged is lost.
    """
    spans: list[Span] = []
    before, before_label = OUTSIDE, ""
    for position, tag in enumerate(tags):
        prefix, label = parse_tag(tag)
        if prefix != OUTSIDE and prefix not in _PREFIXES[scheme]:
            prefix = "B"
        prefix = _TO_BIOES.get(prefix, prefix)
        if before in "BI" and prefix in "IE" and label == before_label:
            spans[-1] = spans[-1]._replace(end=position + 1)
        elif prefix != OUTSIDE:
            spans.append(Span(position, position + 1, label))
        before, before_label = prefix, label
    return spans


def spans_to_tags(spans: Iterable[Span], length: int, scheme: Scheme = "IOB2") -> list[str]:
    """Write spans over positions as tags.

    Raises:
        ValueError: If spans overlap or leave the sequence.
    """
    tags = [OUTSIDE] * length
    ordered = sorted(spans)
    previous: Span | None = None
    for span in ordered:
        if not 0 <= span.start < span.end <= length or (previous is not None and span.start < previous.end):
            raise ValueError(f"Expected disjoint spans within {length} positions, found {span}.")
        adjacent = previous is not None and previous.end == span.start and previous.label == span.label
        for position in range(span.start, span.end):
            tags[position] = f"{_prefix(span, position, scheme, adjacent)}-{span.label}"
        previous = span
    return tags


def _prefix(span: Span, position: int, scheme: Scheme, adjacent: bool) -> str:
    first, last = position == span.start, position == span.end - 1
    if scheme == "IOB1":
        return "B" if first and adjacent else "I"
    if scheme == "IOB2":
        return "B" if first else "I"
    prefix = "S" if first and last else "B" if first else "E" if last else "I"
    return prefix if scheme == "BIOES" else _TO_BILUO.get(prefix, prefix)


@dataclass(frozen=True)
class TagSet:
    """The tags of a model's output columns and the rules of their scheme."""

    labels: LabelSet
    scheme: Scheme

    @classmethod
    def of_types(cls, types: Iterable[str], scheme: Scheme = "IOB2") -> TagSet:
        """Make the columns for entity types: `O`, then each prefix of each sorted type."""
        tags = [f"{prefix}-{label}" for label in sorted(set(types)) for prefix in _PREFIXES[scheme]]
        return cls(LabelSet((OUTSIDE, *tags)), scheme)

    @classmethod
    def from_labels(cls, labels: LabelSet) -> TagSet:
        """Infer the scheme from the prefixes of a checkpoint's columns, in whatever order they come."""
        prefixes = {parse_tag(tag)[0] for tag in labels.names}
        if prefixes & {"E", "S"}:
            return cls(labels, "BIOES")
        if prefixes & {"L", "U"}:
            return cls(labels, "BILUO")
        return cls(labels, "IOB2" if "B" in prefixes else "IOB1")

    def extended(self, types: Iterable[str]) -> TagSet:
        """Add columns for entity types that are not among these, after the others, which keep theirs."""
        new = sorted(set(types) - set(self.types))
        tags = [f"{prefix}-{label}" for label in new for prefix in _PREFIXES[self.scheme]]
        return TagSet(LabelSet((*self.labels.names, *tags)), self.scheme)

    @cached_property
    def _parsed(self) -> list[tuple[str, str]]:
        return [parse_tag(tag) for tag in self.labels.names]

    @property
    def types(self) -> tuple[str, ...]:
        """The entity types, sorted."""
        return tuple(sorted({label for prefix, label in self._parsed if prefix != OUTSIDE}))

    def _legal(self, before: tuple[str, str] | None, tag: tuple[str, str] | None) -> bool:
        if _may_follow(before, tag, self.scheme):
            return True
        # A type whose B- column the model lacks may start with I-; else it could never be found.
        if tag is None or tag[0] != "I" or ("B", tag[1]) in self._parsed:
            return False
        return _may_follow(before, ("B", tag[1]), self.scheme)

    @cached_property
    def transitions(self) -> NDArray[np.bool_]:
        """Which tag may follow which: `transitions[i, j]` is True when `j` may follow `i`; shape `(tags, tags)`."""
        return np.array([[self._legal(before, tag) for tag in self._parsed] for before in self._parsed])

    @cached_property
    def starts(self) -> NDArray[np.bool_]:
        """Which tag may open a sequence; shape `(tags,)`."""
        return np.array([self._legal(None, tag) for tag in self._parsed])

    @cached_property
    def ends(self) -> NDArray[np.bool_]:
        """Which tag may close a sequence; shape `(tags,)`."""
        return np.array([self._legal(tag, None) for tag in self._parsed])

    def spans(self, ids: Sequence[int]) -> list[Span]:
        """Collect the entities of a sequence of columns."""
        return tags_to_spans([self.labels[i] for i in ids], self.scheme)
