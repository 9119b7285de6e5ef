"""Right answers and results → what is right, what is wrong, and in which way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from lc_finetune.answers import ANSWERED, UNANSWERED, exact_match
from lc_finetune.data import Example, QuestionExample, gold_of
from lc_finetune.labels import Span
from lc_finetune.schemas import Classification, MultiLabelClassification, QuestionAnswer, Regression, Tagging

Kind = Literal["right", "wrong", "missed", "invented", "type", "boundary", "type and boundary"]
SPAN_ERRORS: tuple[Kind, ...] = ("type", "boundary", "type and boundary", "missed", "invented")
"""What can be wrong about an entity: its label, its bounds, both; or it was not found, or there is none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was wanted set against what was found in its place; one of the two may be missing.

    A classifier has one a text; a multi-label classifier one for each label that applies or is given; a tagger one for
    each entity that there is or was found. A regressor has one a text, right if the number lies in its interval,
    and no labels. A question answerer has one a question, whose labels say whether there is an answer.

    Attributes:
        row: Index of the text.
        kind: Whether it is right, or what is wrong.
        wanted: The right label, or None where nothing is.
        found: The label given, or None where none is.
        score: Probability of `found`; None without it.
        wanted_score: Probability of `wanted`; None for a label that the model lacks, and of a tagger, which has none.
        wanted_span: Of an entity: its characters.
        found_span: Of a found entity: its characters.
    """

    row: int
    kind: Kind
    wanted: str | None
    found: str | None
    score: float | None = None
    wanted_score: float | None = None
    wanted_span: tuple[int, int] | None = None
    found_span: tuple[int, int] | None = None

    @property
    def sureness(self) -> float:
        """Probability that the model gave to its own answer: of the label, or of there being none."""
        if self.score is not None:
            return self.score
        return 0.0 if self.wanted_score is None else 1.0 - self.wanted_score


def judge(examples: Sequence[Example], results: Sequence[Any]) -> list[Answer]:
    """Judge results, in the order of their texts.

    Args:
        examples: Labelled texts.
        results: As many results of a checkpoint for their task.
    """
    answers: list[Answer] = []
    for row, (wanted, result) in enumerate(zip(gold_of(examples), results, strict=True)):
        if isinstance(result, Regression):
            answers.append(_judge_number(row, wanted, result))
        elif isinstance(result, QuestionAnswer):
            answers.append(_judge_answer(row, cast(QuestionExample, examples[row]), result))
        elif isinstance(result, Tagging):
            answers += _judge_spans(row, wanted, result)
        elif isinstance(result, MultiLabelClassification):
            answers += _judge_labels(row, wanted, result)
        else:
            answers.append(_judge_label(row, wanted, result))
    return answers


def _judge_label(row: int, wanted: str, result: Classification) -> Answer:
    kind: Kind = "right" if result.label == wanted else "wrong"
    return Answer(row, kind, wanted, result.label, result.score, result.scores.get(wanted))


def _judge_number(row: int, wanted: float, result: Regression) -> Answer:
    """Judge a number by its interval; without one, none is wrong."""
    outside = result.low is not None and result.high is not None and not result.low <= wanted <= result.high
    return Answer(row, "wrong" if outside else "right", None, None)


def _judge_answer(row: int, example: QuestionExample, result: QuestionAnswer) -> Answer:
    """Judge an answer by exact match; one that is wrong but overlaps a right one has other bounds."""
    span = None if result.start is None or result.end is None else (result.start, result.end)
    overlapping = [one for one in example.answers if span and min(one[1], span[1]) > max(one[0], span[0])]
    kind: Kind = "wrong"
    if exact_match(result.answer, example.answer_texts):
        kind = "right"
    elif not example.answers:
        kind = "invented"
    elif span is None:
        kind = "missed"
    elif overlapping:
        kind = "boundary"
    wanted, found = (ANSWERED if one else UNANSWERED for one in (example.answers, span))
    first = next(iter([*overlapping, *example.answers]), None)
    return Answer(row, kind, wanted, found, result.score, None, first, span)


def _judge_labels(row: int, wanted: Sequence[str], result: MultiLabelClassification) -> Iterator[Answer]:
    scores = result.scores
    for label in result.labels:
        if label in wanted:
            yield Answer(row, "right", label, label, scores.get(label), scores.get(label))
        else:
            yield Answer(row, "invented", None, label, scores.get(label))
    for label in wanted:
        if label not in result.labels:
            yield Answer(row, "missed", label, None, None, scores.get(label))


def _judge_spans(row: int, wanted: Sequence[Span], result: Tagging) -> Iterator[Answer]:
    """Pair entities that overlap, each once: exact ones first, then by the characters they share."""
    found = [(Span(entity.start, entity.end, entity.label), entity.score) for entity in result.entities]
    pairs = sorted(
        (span != one, -_shared(span, one), span.label != one.label, i, j)
        for i, span in enumerate(wanted)
        for j, (one, _) in enumerate(found)
        if _shared(span, one) > 0
    )
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for *_, i, j in pairs:
        if i not in partner and j not in taken:
            partner[i] = j
            taken.add(j)
    for i, span in enumerate(wanted):
        if i in partner:
            one, score = found[partner[i]]
            kind = _difference(span, one)
            yield Answer(row, kind, span.label, one.label, score, None, span[:2], one[:2])
        else:
            yield Answer(row, "missed", span.label, None, wanted_span=span[:2])
    for j, (one, score) in enumerate(found):
        if j not in taken:
            yield Answer(row, "invented", None, one.label, score, found_span=one[:2])


def _shared(one: Span, other: Span) -> int:
    """Count the characters that two spans share; none or fewer if they lie apart."""
    return min(one.end, other.end) - max(one.start, other.start)


def _difference(wanted: Span, found: Span) -> Kind:
    if wanted == found:
        return "right"
    if wanted[:2] == found[:2]:
        return "type"
    return "boundary" if wanted.label == found.label else "type and boundary"


def mistaken_rows(answers: Sequence[Answer]) -> set[int]:
    """Name the texts with a mistake, by index."""
    return {answer.row for answer in answers if answer.kind != "right"}


def confusions(answers: Sequence[Answer]) -> Counter[tuple[str | None, str | None]]:
    """Count what was found by what was wanted; None stands for nothing."""
    return Counter((answer.wanted, answer.found) for answer in answers)


def error_types(answers: Sequence[Answer]) -> dict[str, Counter[Kind]]:
    """Count the kinds of a tagger's answers by label: of what was wanted, or of what was invented."""
    counts: dict[str, Counter[Kind]] = {}
    for answer in answers:
        counts.setdefault(answer.wanted or answer.found or "", Counter())[answer.kind] += 1
    return dict(sorted(counts.items()))


def joint_mistakes(answers: Sequence[Answer]) -> Counter[tuple[str | None, str | None]]:
    """Count a multi-label classifier's mistakes in one text: a label missed beside a label given wrongly.

    None stands for a mistake of one kind that has none of the other beside it.
    """
    missed: dict[int, list[str | None]] = {}
    invented: dict[int, list[str | None]] = {}
    for answer in answers:
        if answer.kind == "missed":
            missed.setdefault(answer.row, []).append(answer.wanted)
        elif answer.kind == "invented":
            invented.setdefault(answer.row, []).append(answer.found)
    return Counter(
        (one, other)
        for row in missed.keys() | invented.keys()
        for one in missed.get(row, [None])
        for other in invented.get(row, [None])
    )
