"""Mistakes that may be the label's and not the model's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lc_finetune.data import Example, gold_of
from lc_finetune.evaluation.judging import Answer
from lc_finetune.schemas import MultiLabelClassification, QuestionAnswer, Regression, Tagging


def likely_label_errors(answers: Sequence[Answer], examples: Sequence[Example], results: Sequence[Any]) -> list[Answer]:
    """Find mistakes that are more likely the label's, the likeliest first.

    Confident learning: Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset
    Labels". A model that is as sure of another label as it is on average of texts which have that label speaks against
    the given one. Each label of a multi-label text is a question of its own, as in Thyagarajan et al. 2022,
    "Identifying Incorrect Annotations in Multi-Label Classification Data". A tagger gives no score to what it did not
    find: there, a wrong entity counts if its score reaches the mean of the right ones of its type.

    What comes out means nothing on texts that the model was trained on.

    Args:
        answers: As judged.
        examples: The labelled texts.
        results: Of a checkpoint, as many.
    """
    mistakes = [answer for answer in answers if answer.kind != "right"]
    if not mistakes or isinstance(results[0], Regression | QuestionAnswer):
        return []
    if isinstance(results[0], Tagging):
        return _of_spans(answers)
    if isinstance(results[0], MultiLabelClassification):
        return _of_each_label(mistakes, gold_of(examples), results)
    return _of_labels(mistakes, gold_of(examples), results)


def confident_class(probabilities: NDArray[np.float64], given: NDArray[np.intp]) -> NDArray[np.intp]:
    """Find the class that each row is counted into by the confident joint; -1 if it is sure of none.

    Args:
        probabilities: Of held-out rows, shape `(rows, classes)`.
        given: The class that each row is labelled with, or -1 for one that the model lacks, shape `(rows,)`.

    Example:
        >>> confident_class(np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]]), np.array([0, 0, 1])).tolist()
        [0, -1, 1]
    """
    least = np.array([
        probabilities[given == column, column].mean() if (given == column).any() else np.inf
        for column in range(probabilities.shape[1])
    ])  # fmt: skip
    sure = np.where(probabilities >= least, probabilities, -1.0)
    return np.asarray(np.where(sure.max(axis=1) >= 0, sure.argmax(axis=1), -1))


def _of_labels(mistakes: Sequence[Answer], labels: Sequence[str], results: Sequence[Any]) -> list[Answer]:
    names = list(results[0].scores)
    column = {name: i for i, name in enumerate(names)}
    probabilities = np.array([list(result.scores.values()) for result in results])
    counted = confident_class(probabilities, np.array([column.get(label, -1) for label in labels]))
    found = [one for one in mistakes if one.found is not None and counted[one.row] == column[one.found]]
    return _by_margin(found)


def _of_each_label(mistakes: Sequence[Answer], labels: Sequence[Sequence[str]], results: Sequence[Any]) -> list[Answer]:
    by_label: dict[str, list[Answer]] = defaultdict(list)
    for answer in mistakes:
        by_label[answer.wanted or answer.found or ""].append(answer)
    found: list[Answer] = []
    for label, answers in by_label.items():
        if label not in results[0].scores:
            continue
        applies = np.array([label in wanted for wanted in labels])
        p = np.array([result.scores[label] for result in results])
        counted = confident_class(np.stack([1.0 - p, p], axis=1), applies.astype(np.intp))
        found += [one for one in answers if counted[one.row] == int(one.kind == "invented")]
    return _by_margin(found)


def _of_spans(answers: Sequence[Answer]) -> list[Answer]:
    right: dict[str | None, list[float]] = defaultdict(list)
    for answer in answers:
        if answer.kind == "right" and answer.score is not None:
            right[answer.found].append(answer.score)
    least = {label: float(np.mean(scores)) for label, scores in right.items()}
    return _by_margin([
        answer
        for answer in answers
        if answer.kind != "right" and answer.score is not None and answer.score >= least.get(answer.found, np.inf)
    ])  # fmt: skip


def _by_margin(answers: Sequence[Answer]) -> list[Answer]:
    return sorted(answers, key=lambda answer: (answer.wanted_score or 0.0) - answer.sureness)
