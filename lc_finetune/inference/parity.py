"""Parity: whether an export gives the answers of the checkpoint it was made from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lc_finetune.answers import exact_match
from lc_finetune.checkpoint import PAIRS, QUESTIONS, RELATIONS, Checkpoint, Task
from lc_finetune.data.bundled import SUFFIX, sample_file
from lc_finetune.data.examples import inputs_of
from lc_finetune.data.readers import read_examples
from lc_finetune.errors import CheckpointError
from lc_finetune.inference import worker
from lc_finetune.inference.backends import Backend
from lc_finetune.inference.backends.torch import TorchBackend
from lc_finetune.inference.decode import entity_spans, log_softmax, sigmoid
from lc_finetune.inference.encode import Encoding
from lc_finetune.inference.exported import Parity, Precision
from lc_finetune.inference.predictor import Predictor
from lc_finetune.labels import micro_f1, r_squared
from lc_finetune.schemas import (
    Classification,
    Input,
    IntentAndEntities,
    MultiLabelClassification,
    QuestionAnswer,
    Regression,
)

Gold = Sequence[Any]
"""Right answers: a label for each text, its labels, its number, or its spans."""
METRICS: dict[Task, Literal["accuracy", "micro_f1", "r2", "entity_f1", "exact_match"]] = {
    "text-classification": "accuracy",
    "text-pair-classification": "accuracy",
    "multi-label-classification": "micro_f1",
    "ordinal-classification": "accuracy",
    "regression": "r2",
    "token-classification": "entity_f1",
    "relation-classification": "accuracy",
    "question-answering": "exact_match",
    "intent-and-entities": "exact_match",
}

PARITY_TEXTS = 1024
"""The most texts that are compared."""
ALONE_TEXTS = 256
"""The most texts that are answered alone as well."""
COMPANY = 32
"""Texts in one batch, whatever their lengths, when it is asked whether neighbours matter."""


@dataclass(frozen=True)
class LeastParity:
    """What an export must reach.

    Attributes:
        logit_error: The largest difference of a logit; None where labels and metric decide.
        label_agreement: The least share of equal labels, or tags.
        batch_label_agreement: The least share of equal labels, or tags, alone and in a batch.
        batch_score_difference: The largest difference of a probability alone and in a batch.
        metric_loss: The most that accuracy or entity F1 may lose (0.003 is 0.3 points), or one text's worth where there
            are too few to show that.
    """

    logit_error: float | None
    label_agreement: float
    batch_label_agreement: float
    batch_score_difference: float
    metric_loss: float


LEAST: dict[Precision, LeastParity] = {
    "float32": LeastParity(1e-4, 0.999, 1.0, 1e-4, 0.001),
    "float16": LeastParity(0.05, 0.995, 0.999, 0.01, 0.003),
    "int8": LeastParity(None, 0.97, 1.0, 0.01, 0.003),
}


class BelowParity(CheckpointError):
    """An export answers too differently from its checkpoint."""


def shortfall(parity: Parity, precision: Precision) -> str | None:
    """Name the first figure below the least parity of a precision: expected and found. None if there is none."""
    least = LEAST[precision]
    if least.logit_error is not None and not parity.max_logit_error <= least.logit_error:
        return f"logits within {least.logit_error:g}, found {parity.max_logit_error:.3g}"
    if parity.label_agreement < least.label_agreement:
        return f"label agreement of at least {least.label_agreement:.1%}, found {parity.label_agreement:.2%}"
    if parity.batch_label_agreement < least.batch_label_agreement:
        return (
            f"the same label alone and in a batch for at least {least.batch_label_agreement:.1%}, "
            f"found {parity.batch_label_agreement:.2%}"
        )
    if parity.batch_score_difference > least.batch_score_difference:
        return (
            f"scores within {least.batch_score_difference:g} alone and in a batch, "
            f"found a difference of {parity.batch_score_difference:.3g}"
        )
    if parity.metric_before is not None and parity.metric_after is not None:
        lost, allowed = parity.metric_before - parity.metric_after, max(least.metric_loss, 1 / parity.texts)
        if lost > allowed + 1e-9:
            return f"{parity.metric} to lose at most {100 * allowed:.1f} points, found {100 * lost:.1f}"
    return None


class _Recorder(Predictor):
    """A predictor over a backend at hand, whose answers keep the logits they came from."""

    def __init__(self, checkpoint: Checkpoint, backend: Backend, *, token_budget: int | None = None) -> None:
        super().__init__(checkpoint, device="cpu", dtype="float32", backend="torch", token_budget=token_budget)
        self._backend = backend

    def decode(  # type: ignore[override]
        self, text: Input, encoding: Encoding, logits: NDArray[np.floating], features: NDArray[np.floating], *tags: Any
    ) -> _Answer:
        heads = tuple(np.asarray(head, dtype=np.float64) for head in (logits, *tags))
        return heads, super().decode(text, encoding, logits, features, *tags)


def measure_parity(
    checkpoint: Checkpoint, backend: Backend, texts: Sequence[Input], *, gold: Gold | None, source: str
) -> Parity:
    """Compare a backend with torch in fp32, through windows, merging and decoding as they serve.

    Args:
        checkpoint: The checkpoint that the backend's model was made from.
        backend: The model to judge.
        texts: At least one; the first `PARITY_TEXTS` are taken, so they should come in no order.
        gold: The right answers to the texts, for the metric.
        source: Where the texts come from, for the record.

    Raises:
        LCFinetuneError: If a text cannot be read or answered.
    """
    texts = texts[:PARITY_TEXTS]
    torch_one = _Recorder(checkpoint, TorchBackend(checkpoint, device="cpu", dtype="float32"))
    exported = _Recorder(checkpoint, backend)
    before, after = _answers(torch_one, texts), _answers(exported, texts)
    some = texts[:ALONE_TEXTS]
    alone = [answer for text in some for answer in _answers(exported, [text])]
    together = _answers_in_company(checkpoint, backend, some)
    both = (_probabilities(checkpoint.task, one) for one in (alone, together))
    return Parity(
        texts=len(texts),
        source=source,
        max_logit_error=_difference(_heads(before), _heads(after)),
        label_agreement=_agreement(before, after),
        metric=None if gold is None else METRICS[checkpoint.task],
        metric_before=None if gold is None else _metric(before, gold),
        metric_after=None if gold is None else _metric(after, gold),
        batch_texts=len(some),
        batch_label_agreement=_agreement(alone, together),
        batch_score_difference=_difference(*both),
    )


def sample_texts(task: Task = "text-classification") -> list[Input]:
    """Read what the bundled samples hold for a task, which no model was judged by, in a fixed mixed order."""
    loaded = [read_examples(sample_file(name, "test")) for name in SUFFIX if name != "subjects"]  # of no encoder
    alike = [one.examples for one in loaded if _shape(one.task) == _shape(task)]
    texts = [text for examples in alike for text in inputs_of(examples)]
    return [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]


def _shape(task: Task) -> Task | None:
    """Tell what a task is given: None for a text alone."""
    return task if task in (*PAIRS, RELATIONS) else None


_Answer = tuple[tuple[NDArray[np.float64], ...], Any]
"""The merged logits of a text, of each head `(labels,)`, `(pieces, tags)` or `(1 + pieces, 2)`, and its result."""


def _answers(predictor: _Recorder, texts: Sequence[Input]) -> list[_Answer]:
    outcomes = worker.answer(predictor, texts)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return outcomes


def _answers_in_company(checkpoint: Checkpoint, backend: Backend, texts: Sequence[Input]) -> list[_Answer]:
    """Answer texts in forwards of `COMPANY` texts, the last one filled up with others."""
    predictor = _Recorder(checkpoint, backend, token_budget=sys.maxsize)
    answers: list[_Answer] = []
    for start in range(0, len(texts), COMPANY):
        group = [*texts[start : start + COMPANY]]
        filled = [*group, *islice(cycle(texts), COMPANY - len(group))]
        answers += _answers(predictor, filled)[: len(group)]
    return answers


def _heads(answers: Sequence[_Answer]) -> list[NDArray[np.float64]]:
    """Stack the logits of each head: a row for each text, or for each piece."""
    return [np.concatenate([*map(np.atleast_2d, rows)]) for rows in zip(*(heads for heads, _ in answers), strict=True)]


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.exp(log_softmax(logits)))


def _unchanged(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return logits


_PROBABILITIES: dict[Task, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "multi-label-classification": sigmoid,
    "regression": _unchanged,  # a trained one's are in standard deviations
}


def _probabilities(task: Task, answers: Sequence[_Answer]) -> list[NDArray[np.float64]]:
    """List what the scores of each head are made of: of each label, or of each answer to a question."""
    if task == QUESTIONS:
        return [np.array([result.score for _, result in answers])]
    return [_PROBABILITIES.get(task, _softmax)(rows) for rows in _heads(answers)]


def _agreement(left: Sequence[_Answer], right: Sequence[_Answer]) -> float:
    """Share of the same label, or tag, of the head that agrees less; of labels that either gives, what both give."""
    if isinstance(left[0][1], MultiLabelClassification):
        pairs = [(set(one.labels), set(other.labels)) for (_, one), (_, other) in zip(left, right, strict=True)]
        either = sum(len(one | other) for one, other in pairs)
        return sum(len(one & other) for one, other in pairs) / either if either else 1.0
    if isinstance(left[0][1], QuestionAnswer):
        return float(np.mean([a.answer == b.answer for (_, a), (_, b) in zip(left, right, strict=True)]))
    both = zip(_heads(left), _heads(right), strict=True)
    unequal = [(ours.argmax(axis=1) != theirs.argmax(axis=1)).sum() / max(1, len(ours)) for ours, theirs in both]
    return 1.0 - float(max(unequal))


def _difference(left: Sequence[NDArray[np.float64]], right: Sequence[NDArray[np.float64]]) -> float:
    """Give the largest difference, whichever head it is of."""
    return max(float(np.abs(ours - theirs).max(initial=0.0)) for ours, theirs in zip(left, right, strict=True))


def _metric(answers: Sequence[_Answer], gold: Gold) -> float:
    if isinstance(answers[0][1], IntentAndEntities):
        exact = [
            one.label == label and entity_spans(one) == sorted(spans)
            for (_, one), (label, spans) in zip(answers, gold, strict=False)
        ]
        return float(np.mean(exact))
    if isinstance(answers[0][1], Classification):
        right = [result.label == label for (_, result), label in zip(answers, gold, strict=False)]
        return float(np.mean(right))
    if isinstance(answers[0][1], QuestionAnswer):
        return float(np.mean([exact_match(one.answer, texts) for (_, one), texts in zip(answers, gold, strict=False)]))
    if isinstance(answers[0][1], MultiLabelClassification):
        return micro_f1(gold[: len(answers)], [result.labels for _, result in answers])
    if isinstance(answers[0][1], Regression):
        return r_squared(np.array(gold[: len(answers)], float), np.array([result.value for _, result in answers]))
    found = [entity_spans(result) for _, result in answers]
    return micro_f1(gold[: len(answers)], found)
