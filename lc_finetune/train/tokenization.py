"""Examples → features: windows of pieces with a label, or with a tag for each piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lc_finetune.checkpoint import NumberScale, TagUnit
from lc_finetune.data import (
    Example,
    MultiLabelExample,
    PairExample,
    QuestionExample,
    RegressionExample,
    RelationExample,
    TaggedExample,
    TextExample,
    inputs_of,
)
from lc_finetune.errors import InputError
from lc_finetune.inference.encode import Encoder, Encoding, Frame
from lc_finetune.inference.marked import encode_marked
from lc_finetune.inference.plan import windows
from lc_finetune.inference.units import tag_units, trim
from lc_finetune.labels import LabelSet, Span
from lc_finetune.schemes import TagSet, spans_to_tags

IGNORED = -100
"""The label that the loss leaves out."""

Feature = dict[str, Any]


@dataclass(frozen=True)
class Windowing:
    """How long texts are read."""

    max_length: int
    stride: int


def encoded(examples: Sequence[Example], encoder: Encoder, windowing: Windowing) -> list[Encoding | InputError]:
    """Encode what a model is given of each example, see `inputs_of`; in place of one that cannot be read, say why."""
    if any(isinstance(example, RelationExample) for example in examples):
        return encode_marked(encoder, cast("list[str]", inputs_of(examples)), max_length=windowing.max_length)
    asked = [(example.question, example.context) for example in examples if isinstance(example, QuestionExample)]
    if asked:
        return encoder.encode_questions(asked, max_length=windowing.max_length)
    pairs = [(example.text, example.text_pair) for example in examples if isinstance(example, PairExample)]
    if pairs:
        return encoder.encode_pairs(pairs, max_length=windowing.max_length, stride=windowing.stride)
    return encoder.encode([example.text for example in examples])


def windows_of(encoding: Encoding, encoder: Encoder, windowing: Windowing) -> list[tuple[Frame, int, int]]:
    """Give the windows of a text, or of a pair, as they are served: frame, begin and end."""
    return [
        (frame, start, end)
        for frame in encoding.frames or (encoder.frame,)
        for start, end in windows(len(encoding.ids), windowing.max_length - len(frame), windowing.stride)
    ]


def _readable(encodings: list[Encoding | InputError]) -> list[Encoding]:
    for one in encodings:
        if not isinstance(one, Encoding):
            raise one
    return encodings  # type: ignore[return-value]


def _rows(encoding: Encoding, encoder: Encoder, windowing: Windowing) -> list[Feature]:
    """Make a row of each window; the labels are still missing."""
    rows: list[Feature] = []
    for frame, start, end in windows_of(encoding, encoder, windowing):
        ids = frame.around(encoding.ids[start:end])
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids)})
        if encoding.frames and encoder.token_types:
            rows[-1]["token_type_ids"] = frame.types_around(end - start)
    return rows


def classification_features(
    examples: Sequence[TextExample], encoder: Encoder, labels: LabelSet, windowing: Windowing
) -> list[Feature]:
    """Make the features of a classifier of texts, or of pairs: every window of a long one carries its label.

    A label that is not in the set, as a test file may have, is left out.
    """
    features: list[Feature] = []
    for example, encoding in zip(examples, _readable(encoded(examples, encoder, windowing)), strict=True):
        if example.label in labels.id_of:
            label = labels.id_of[example.label]
            features += [{**row, "labels": label} for row in _rows(encoding, encoder, windowing)]
    return features


def indicators(examples: Sequence[Example], labels: LabelSet) -> NDArray[np.bool_]:
    """Say which labels each example has; shape `(examples, labels)`. Others than these are left out."""
    rows = [[name in cast(MultiLabelExample, e).labels for name in labels.names] for e in examples]
    return np.array(rows, dtype=bool).reshape(len(examples), len(labels))


def multi_label_features(
    examples: Sequence[Example], encoder: Encoder, labels: LabelSet, windowing: Windowing
) -> list[Feature]:
    """Make the features of a multi-label classifier: a row of 0 and 1, shape `(labels,)`, for each window of a text."""
    features: list[Feature] = []
    rows = indicators(examples, labels).astype(np.float32)
    for wanted, encoding in zip(rows, _readable(encoded(examples, encoder, windowing)), strict=True):
        features += [{**row, "labels": wanted} for row in _rows(encoding, encoder, windowing)]
    return features


def regression_features(
    examples: Sequence[RegressionExample], encoder: Encoder, scale: NumberScale, windowing: Windowing
) -> list[Feature]:
    """Make the features of a regressor: every window of a long text carries the text's number, as a logit."""
    features: list[Feature] = []
    for example, encoding in zip(examples, _readable(encoded(examples, encoder, windowing)), strict=True):
        wanted = np.float32((example.value - scale.centre) / scale.unit)
        features += [{**row, "labels": wanted} for row in _rows(encoding, encoder, windowing)]
    return features


def choose_tag_unit(examples: Sequence[TaggedExample], encoder: Encoder) -> TagUnit:
    """Choose the longest unit with which every entity begins and ends; of pieces and words that is a word."""
    encodings = _readable(encoder.encode([example.text for example in examples]))
    longest: tuple[TagUnit, ...] = ("word", "first")
    for unit in longest:
        if not any(align(*pair, unit)[1] for pair in zip(examples, encodings, strict=True)):
            return unit
    return "piece"


def align(example: TaggedExample, encoding: Encoding, tag_unit: TagUnit) -> tuple[list[Span], int]:
    """Move spans from characters to units (see `tag_units`).

    A span whose end cuts a unit is widened to whole units, unless that would make it overlap another.

    Returns:
        The spans, and how many were cut: widened or left out.
    """
    units = tag_units(example.text, encoding, tag_unit)
    edges = [
        trim(example.text, encoding.offsets[start][0], max(encoding.offsets[p][1] for p in range(start, end)))
        for start, end in units
    ]
    aligned: list[Span] = []
    cut = 0
    position = 0
    for span in example.spans:
        while position < len(edges) and edges[position][1] <= span.start:
            position += 1
        end = position
        while end < len(edges) and edges[end][0] < span.end:
            end += 1
        if end == position or (aligned and position < aligned[-1].end):
            cut += 1
            continue
        wanted = trim(example.text, span.start, span.end)
        cut += (edges[position][0], edges[end - 1][1]) != wanted
        aligned.append(Span(position, end, span.label))
    return aligned, cut


def tagging_features(
    examples: Sequence[TaggedExample], encoder: Encoder, tags: TagSet, windowing: Windowing, *, tag_unit: TagUnit
) -> tuple[list[Feature], int]:
    """Make the features of a tagger: the tag at the first piece of each unit, `IGNORED` elsewhere.

    Returns:
        The features, and how many entities had an end inside a unit.
    """
    features: list[Feature] = []
    cut = 0
    for example, encoding in zip(examples, _readable(encoded(examples, encoder, windowing)), strict=True):
        units = tag_units(example.text, encoding, tag_unit)
        spans, cuts = align(example, encoding, tag_unit)
        cut += cuts
        known = [span for span in spans if span.label in tags.types]
        by_piece = [IGNORED] * len(encoding.ids)
        for (start, _), tag in zip(units, spans_to_tags(known, len(units), tags.scheme), strict=True):
            by_piece[start] = tags.labels.id_of[tag]
        places = windows_of(encoding, encoder, windowing)
        for row, (frame, start, end) in zip(_rows(encoding, encoder, windowing), places, strict=True):
            labels = [*[IGNORED] * len(frame.before), *by_piece[start:end], *[IGNORED] * len(frame.after)]
            features.append({**row, "labels": labels})
    return features, cut


def answer_pieces(example: QuestionExample, encoding: Encoding) -> tuple[int, int] | None:
    """Find the first and the last piece of the first answer; None if no piece shows a character of it."""
    start, end = example.answers[0]
    pieces = [
        piece
        for piece, (first, last) in enumerate(encoding.offsets)
        if first < end and start < last and example.context[first:last].strip()
    ]
    return (pieces[0], pieces[-1]) if pieces else None


def longest_answer(examples: Sequence[QuestionExample], encoder: Encoder) -> int:
    """Count the pieces of the longest first answer; 0 if there is none."""
    answered = [example for example in examples if example.answers]
    encodings = _readable(encoder.encode([example.context for example in answered]))
    found = [answer_pieces(*pair) for pair in zip(answered, encodings, strict=True)]
    return max((one[1] - one[0] + 1 for one in found if one), default=0)


def question_features(
    examples: Sequence[QuestionExample], encoder: Encoder, windowing: Windowing
) -> tuple[list[Feature], int]:
    """Make the features of a question answerer: where, in each window, the first answer starts and ends.

    A window without the whole of it, or of a question without an answer, starts and ends at its first piece (Devlin et
    al. 2019, "BERT", section 4.3).

    Returns:
        The features, and how many answers had an end inside a piece; those of which no piece shows a character are
        left out, with their questions.
    """
    features: list[Feature] = []
    cut = 0
    for example, encoding in zip(examples, _readable(encoded(examples, encoder, windowing)), strict=True):
        span = answer_pieces(example, encoding) if example.answers else None
        if example.answers:
            shown = span and trim(example.context, encoding.offsets[span[0]][0], encoding.offsets[span[1]][1])
            cut += shown != example.answers[0]
            if span is None:
                continue
        places = windows_of(encoding, encoder, windowing)
        for row, (frame, start, end) in zip(_rows(encoding, encoder, windowing), places, strict=True):
            first, last = 0, 0
            if span and start <= span[0] and span[1] < end:
                first, last = (len(frame.before) + piece - start for piece in span)
            features.append({**row, "start_positions": first, "end_positions": last})
    return features, cut
