"""Logits → results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lc_finetune.checkpoint import TagUnit
from lc_finetune.inference.encode import Encoding
from lc_finetune.inference.units import tag_units, trim
from lc_finetune.labels import LabelSet
from lc_finetune.schemas import Classification, Entity, Scores, Tagging
from lc_finetune.schemes import TagSet


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Normalise the last axis in log space, in float64."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def decode_label(text: str, logits: NDArray[np.floating], labels: LabelSet) -> Classification:
    """Turn the merged logits of one text, shape `(labels,)`, into its result."""
    exponentials = logits.astype(np.float64)
    exponentials -= exponentials.max()
    np.exp(exponentials, out=exponentials)
    probabilities = (exponentials / exponentials.sum()).tolist()
    best = int(logits.argmax())
    return Classification(
        text=text,
        label=labels[best],
        score=min(1.0, probabilities[best]),
        scores=Scores(labels.id_of, probabilities),
        accepted=False if not text or text.isspace() else None,
    )


def best_path(scores: NDArray[np.float64], tags: TagSet) -> list[int]:
    """Find the most probable legal tag sequence.

    The Viterbi algorithm (Viterbi 1967) with the scheme's transitions as hard constraints. When the best tag of each
    unit already forms a legal sequence, that is the answer.

    Args:
        scores: Log-probabilities, shape `(units, tags)`.
        tags: The tags and which may follow which.

    Returns:
        One tag id for each unit.
    """
    if not len(scores):
        return []
    greedy = scores.argmax(axis=1)
    legal = tags.starts[greedy[0]] and tags.ends[greedy[-1]] and tags.transitions[greedy[:-1], greedy[1:]].all()
    if legal:
        return [int(tag) for tag in greedy]
    forbidden = np.where(tags.transitions, 0.0, -np.inf)
    score = scores[0] + np.where(tags.starts, 0.0, -np.inf)
    back = np.zeros(scores.shape, dtype=np.int32)
    for unit in range(1, len(scores)):
        reached = score[:, None] + forbidden
        back[unit] = reached.argmax(axis=0)
        score = reached.max(axis=0) + scores[unit]
    path = [int((score + np.where(tags.ends, 0.0, -np.inf)).argmax())]
    for unit in range(len(scores) - 1, 0, -1):
        path.append(int(back[unit, path[-1]]))
    return path[::-1]


def decode_entities(
    text: str, encoding: Encoding, logits: NDArray[np.floating], tags: TagSet, *, tag_unit: TagUnit
) -> Tagging:
    """Turn the logits of one text, shape `(pieces, tags)`, into its entities with character offsets.

    An entity's score is the product of its tags' probabilities.
    """
    units = tag_units(text, encoding, tag_unit)
    scores = log_softmax(logits[[start for start, _ in units]]) if units else np.zeros((0, len(tags.labels)))
    path = best_path(scores, tags)
    entities: list[Entity] = []
    for span in tags.spans(path):
        start, end = trim(text, *_characters(encoding, units[span.start : span.end]))
        if entities and start < entities[-1].end:  # two pieces of one character (byte-level tokenizers)
            start = entities[-1].end
        if start >= end:
            continue
        certainty = sum(scores[unit, path[unit]] for unit in range(span.start, span.end))
        entities.append(
            Entity(
                label=span.label, text=text[start:end], start=start, end=end, score=float(min(1.0, np.exp(certainty)))
            )
        )
    return Tagging(text=text, entities=tuple(entities))


def _characters(encoding: Encoding, units: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return encoding.offsets[units[0][0]][0], max(encoding.offsets[piece][1] for _, end in units for piece in (end - 1,))
