"""Logits → results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lc_finetune.answers import ANSWERED, UNANSWERED
from lc_finetune.checkpoint import AnswerRule, NumberScale, TagUnit
from lc_finetune.confidence import ScoreMap, SetLevel, Thresholds
from lc_finetune.inference.encode import Encoding
from lc_finetune.inference.units import tag_units, trim
from lc_finetune.labels import LabelSet, Span
from lc_finetune.schemas import (
    Classification,
    Entity,
    Input,
    IntentAndEntities,
    MultiLabelClassification,
    OrdinalClassification,
    PairClassification,
    QuestionAnswer,
    Regression,
    Result,
    Scores,
    Tagging,
)
from lc_finetune.schemes import TagSet


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Normalise the last axis in log space, in float64."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


ResultT = TypeVar("ResultT", bound=Result)
UNCALIBRATED = ScoreMap()


@dataclass(frozen=True, slots=True)
class Confidence:
    """What turns a model's scores into what its results say.

    Attributes:
        map: From scores to probabilities.
        thresholds: Which answers are accepted; None if nothing is known of that.
        significance: A text whose p-value `in_scope` is smaller is out of scope.
    """

    map: ScoreMap = UNCALIBRATED
    thresholds: Thresholds | None = None
    significance: float = 0.0

    def accepts(self, text: Input, label: str, score: float, in_scope: float | None = None) -> bool | None:
        """Say whether an answer is accepted: False if blank or out of scope, None where there is no threshold."""
        if _is_blank(text) or (in_scope is not None and in_scope < self.significance):
            return False
        return None if self.thresholds is None else score >= self.thresholds.of(label)

    def accepts_all(self, text: str, labels: Sequence[str], scores: Scores) -> bool | None:
        """Say whether an answer of several labels is accepted: if there is one, and each reaches its threshold."""
        if _is_blank(text):
            return False
        if self.thresholds is None:
            return None
        return bool(labels) and all(scores[label] >= self.thresholds.of(label) for label in labels)

    def judged(self, result: ResultT) -> ResultT:
        """Copy a result, with `accepted` as these thresholds have it."""
        if isinstance(result, IntentAndEntities):
            scope = result.in_scope
            entities = self._judged_entities(result.text, result.entities, scope)
            accepted = None if result.score is None else self.accepts(result.text, result.label, result.score, scope)
            return result.model_copy(update={"accepted": accepted, "entities": entities})
        if isinstance(result, Classification) and result.score is not None:
            text = (result.text, result.text_pair) if isinstance(result, PairClassification) else result.text
            accepted = self.accepts(text, result.label, result.score, result.in_scope)
            return result.model_copy(update={"accepted": accepted})
        if isinstance(result, MultiLabelClassification) and result.scores:
            return result.model_copy(update={"accepted": self.accepts_all(result.text, result.labels, result.scores)})
        if isinstance(result, QuestionAnswer) and result.score is not None:
            asked, label = (result.question, result.context), UNANSWERED if result.answer is None else ANSWERED
            return result.model_copy(update={"accepted": self.accepts(asked, label, result.score)})
        if isinstance(result, Tagging):
            return result.model_copy(update={"entities": self._judged_entities(result.text, result.entities)})
        return result

    def _judged_entities(
        self, text: str, entities: Sequence[Entity], in_scope: float | None = None
    ) -> tuple[Entity, ...]:
        return tuple(
            entity.model_copy(update={"accepted": self.accepts(text, entity.label, entity.score, in_scope)})
            for entity in entities
            if entity.score is not None
        )


def _is_blank(text: Input) -> bool:
    if isinstance(text, tuple):
        return any(map(_is_blank, text))
    return not text or text.isspace()


def decode_label(
    text: Input,
    logits: NDArray[np.floating],
    labels: LabelSet,
    confidence: Confidence = Confidence(),
    in_scope: float | None = None,
) -> Classification:
    """Turn the merged logits of one text or pair, shape `(labels,)`, and its p-value, into its result."""
    answer = _best_label(text, confidence.map.of_labels(logits), logits, labels, confidence, in_scope)
    if isinstance(text, str):
        return Classification(text=text, **answer)
    return PairClassification(text=text[0], text_pair=text[1], **answer)


def decode_rank(
    text: str,
    logits: NDArray[np.floating],
    labels: LabelSet,
    confidence: Confidence = Confidence(),
    in_scope: float | None = None,
) -> OrdinalClassification:
    """Turn the merged logits of one text, shape `(labels,)`, lowest label first, and its p-value, into its result."""
    probabilities = confidence.map.of_labels(logits)
    answer = _best_label(text, probabilities, logits, labels, confidence, in_scope)
    return OrdinalClassification(text=text, expected_rank=float(probabilities @ np.arange(len(labels))), **answer)


def _best_label(
    text: Input,
    probabilities: NDArray[np.floating],
    logits: NDArray[np.floating],
    labels: LabelSet,
    confidence: Confidence,
    in_scope: float | None,
) -> dict[str, Any]:
    """Give the fields that results of one label share."""
    best = int(logits.argmax())
    label, score = labels[best], min(1.0, float(probabilities[best]))
    scores = Scores(labels.id_of, probabilities.tolist())
    accepted = confidence.accepts(text, label, score, in_scope)
    return {"label": label, "score": score, "scores": scores, "accepted": accepted, "in_scope": in_scope}


def prediction_set(logits: NDArray[np.floating], labels: LabelSet, level: SetLevel | None) -> tuple[str, ...]:
    """Give the labels of a text, from its merged logits, shape `(labels,)`, that a level takes, the likeliest first.

    The most probable label is always among them; without a level all are.
    """
    own = UNCALIBRATED.of_labels(logits)
    least = level.score if level else 0.0
    ranked = np.argsort(-logits, kind="stable").tolist()
    return tuple(labels[i] for rank, i in enumerate(ranked) if rank == 0 or own[i] >= least)


PLAIN_SCALE = NumberScale(centre=0.0, unit=1.0)
"""Of a regressor that brings no scale of its own: its logit is the number."""


def decode_number(text: str, logits: NDArray[np.floating], scale: NumberScale = PLAIN_SCALE) -> Regression:
    """Turn the merged logit of one text, shape `(1,)`, into its result."""
    value = scale.centre + scale.unit * float(logits[0])
    interval = scale.interval
    if interval is None:
        return Regression(text=text, value=value)
    low, high = value - interval.half_width, value + interval.half_width
    return Regression(text=text, value=value, low=low, high=high, coverage=interval.coverage)


DEFAULT_THRESHOLD = 0.5
"""From which score on a label is given by a multi-label model that brings no thresholds of its own."""


def sigmoid(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Turn logits of independent labels, of any shape, into probabilities, in float64."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits.astype(np.float64), -500.0, 500.0))))


def decode_labels(
    text: str,
    logits: NDArray[np.floating],
    labels: LabelSet,
    thresholds: NDArray[np.float64],
    confidence: Confidence = Confidence(),
) -> MultiLabelClassification:
    """Turn the merged logits of one text, shape `(labels,)`, into its result.

    Each label whose own score, before any map, reaches its threshold, shape `(labels,)`, is given: no map changes the
    answer. They are in the order of the label set: equal answers are equal results, whatever the last digits of their
    scores.
    """
    own = sigmoid(logits)
    given = tuple(labels[i] for i in np.flatnonzero(own >= thresholds).tolist())
    scores = Scores(labels.id_of, confidence.map.of_each(own).tolist())
    return MultiLabelClassification(
        text=text, labels=given, scores=scores, accepted=confidence.accepts_all(text, given, scores)
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
    text: str,
    encoding: Encoding,
    logits: NDArray[np.floating],
    tags: TagSet,
    *,
    tag_unit: TagUnit,
    confidence: Confidence = Confidence(),
    in_scope: float | None = None,
) -> Tagging:
    """Turn the logits of one text, shape `(pieces, tags)`, and its p-value, into its entities with character offsets.

    An entity's score is the product of its tags' probabilities, mapped to the probability that the whole span is right.
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
        product = np.exp(sum(scores[unit, path[unit]] for unit in range(span.start, span.end)))
        score = float(confidence.map.of_spans(np.minimum(1.0, product)))
        entities.append(
            Entity(
                label=span.label,
                text=text[start:end],
                start=start,
                end=end,
                score=score,
                accepted=confidence.accepts(text, span.label, score, in_scope),
            )
        )
    return Tagging(text=text, entities=tuple(entities))


def entity_spans(result: Tagging | IntentAndEntities) -> list[Span]:
    """List the entities of a result by offsets and label alone."""
    return [Span(entity.start, entity.end, entity.label) for entity in result.entities]


def decode_intent(label: Classification, tagging: Tagging) -> IntentAndEntities:
    """Put together what two heads say of one text."""
    return IntentAndEntities(
        text=label.text, label=label.label, score=label.score, scores=label.scores, accepted=label.accepted,
        in_scope=label.in_scope, entities=tagging.entities,
    )  # fmt: skip


def _characters(encoding: Encoding, units: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return encoding.offsets[units[0][0]][0], max(encoding.offsets[piece][1] for _, end in units for piece in (end - 1,))


PLAIN_RULE = AnswerRule(longest=30, null_margin=0.0, split="none", rows=0)
"""Of a question answerer that brings no rule of its own: what the scripts for SQuAD 2 begin with."""


@dataclass(frozen=True, slots=True)
class SpanChoice:
    """The best span of a context, set against there being no answer.

    Attributes:
        start: Offset of its first character.
        end: Offset after its last.
        log_probability: Of the span; minus infinity if the context has none.
        null_log_probability: Of there being no answer.
    """

    start: int
    end: int
    log_probability: float
    null_log_probability: float

    @property
    def null_margin(self) -> float:
        """By how much no answer is more probable than the span, in nats; infinite if there is no span."""
        return self.null_log_probability - self.log_probability


def best_span(context: str, encoding: Encoding, logits: NDArray[np.floating], *, longest: int) -> SpanChoice:
    """Find the most probable span of a context, its start and its end taken for independent.

    Args:
        context: The text.
        encoding: Its pieces, with offsets.
        logits: Of start and end, shape `(1 + pieces, 2)`; the first row is that of no answer.
        longest: Pieces of a span, at most.
    """
    starts, ends = log_softmax(logits.T)
    null = float(starts[0] + ends[0])
    shown = np.array([bool(context[start:end].strip()) for start, end in encoding.offsets], dtype=bool)
    starts, ends = (np.where(shown, one[1:], -np.inf) for one in (starts, ends))
    best, first, last = -np.inf, 0, 0
    for more in range(min(longest, len(shown))):
        spans = starts[: len(shown) - more] + ends[more:]
        at = int(spans.argmax())
        if spans[at] > best:
            best, first, last = float(spans[at]), at, at + more
    if not np.isfinite(best):
        return SpanChoice(0, 0, -np.inf, null)
    return SpanChoice(*trim(context, encoding.offsets[first][0], encoding.offsets[last][1]), best, null)


def decode_answer(
    text: tuple[str, str],
    encoding: Encoding,
    logits: NDArray[np.floating],
    rule: AnswerRule = PLAIN_RULE,
    confidence: Confidence = Confidence(),
) -> QuestionAnswer:
    """Turn the logits of one question and context, shape `(1 + pieces, 2)`, into its result.

    The score is the probability of start and end, or of no answer, mapped to the probability that this is right.
    """
    question, context = text
    found = best_span(context, encoding, logits, longest=rule.longest)
    none = not np.isfinite(found.log_probability)
    none |= rule.null_margin is not None and found.null_margin > rule.null_margin
    own = np.exp(found.null_log_probability if none else found.log_probability)
    score = float(confidence.map.of_spans(np.minimum(1.0, own)))
    accepted = confidence.accepts(text, UNANSWERED if none else ANSWERED, score)
    if none:
        return QuestionAnswer(text=context, question=question, answer=None, score=score, accepted=accepted)
    return QuestionAnswer(
        text=context, question=question, answer=context[found.start : found.end], start=found.start, end=found.end,
        score=score, accepted=accepted,
    )  # fmt: skip
