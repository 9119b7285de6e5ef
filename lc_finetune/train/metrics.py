"""Figures: of labels, and of whole entities, never of single tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lc_finetune.answers import answer_f1, exact_match
from lc_finetune.inference.reliability import expected_calibration_error, judged_pairs, perfect_error
from lc_finetune.inference.scope import ScopeDetector
from lc_finetune.labels import LabelSet, Span, micro_f1, quadratic_weighted_kappa, r_squared
from lc_finetune.markers import NO_RELATION, relation_of
from lc_finetune.schemas import MultiLabelClassification

Figures = dict[str, Any]


def classification_figures(gold: Sequence[str], predicted: Sequence[str]) -> Figures:
    """Accuracy, macro and weighted F1, and a row for each label, as in scikit-learn's report.

    Averages run over the labels that occur in `gold` or `predicted`.
    """
    from sklearn.metrics import classification_report

    # A mark before each label keeps one that is called "accuracy" apart from the report's own keys.
    report = classification_report(
        [f"={label}" for label in gold], [f"={label}" for label in predicted], output_dict=True, zero_division=0
    )
    return {
        "rows": len(gold),
        "accuracy": sum(g == p for g, p in zip(gold, predicted, strict=True)) / len(gold),
        "macro_f1": report["macro avg"]["f1-score"],
        "weighted_f1": report["weighted avg"]["f1-score"],
        "per_label": {
            name[1:]: _row(row["precision"], row["recall"], row["f1-score"], int(row["support"]))
            for name, row in report.items()
            if name.startswith("=")
        },
    }


def ordinal_figures(
    gold: Sequence[str], predicted: Sequence[str], expected_ranks: Sequence[float], labels: LabelSet
) -> Figures:
    """Accuracy and F1 as `classification_figures`, and how far answers are off, in ranks: places in the order.

    `within_one` is the share of labels that are right or next to the right one; `mae` the mean distance of the label,
    `qwk` its quadratic weighted kappa; `pearson` and `spearman` correlate the expected rank with the right one. A right
    label that has no place in the order is never met: it counts against accuracy and `within_one`, and is left out of
    the others.

    Args:
        gold: The right labels.
        predicted: The labels given.
        expected_ranks: Mean rank under each answer's scores.
        labels: The labels in their order.
    """
    from scipy.stats import rankdata

    figures = classification_figures(gold, predicted)
    of_each = figures["per_label"]
    in_order = [name for name in labels.names if name in of_each]
    figures["per_label"] = {name: of_each[name] for name in dict.fromkeys([*in_order, *of_each])}
    known = [i for i, label in enumerate(gold) if label in labels.id_of]
    wanted = np.array(labels.ids([gold[i] for i in known]), dtype=np.intp)
    found = np.array(labels.ids([predicted[i] for i in known]), dtype=np.intp)
    expected = np.array([expected_ranks[i] for i in known], dtype=np.float64)
    distance = np.abs(wanted - found)
    return {
        **figures,
        "within_one": float((distance <= 1).sum()) / len(gold),
        "mae": float(distance.mean()) if known else None,
        "qwk": quadratic_weighted_kappa(confusion_counts(wanted, found, len(labels))),
        "pearson": _correlation(wanted.astype(np.float64), expected),
        "spearman": _correlation(rankdata(wanted), rankdata(expected)),
    }


def confusion_counts(wanted: NDArray[np.intp], found: NDArray[np.intp], labels: int) -> NDArray[np.float64]:
    """Count by right and by given label, shape `(labels, labels)`, from label numbers of shape `(texts,)`."""
    counts = np.zeros((labels, labels))
    np.add.at(counts, (wanted, found), 1.0)
    return counts


def relation_figures(gold: Sequence[str], predicted: Sequence[str]) -> Figures:
    """Accuracy and F1 of labels, as `classification_figures`, and `relation_macro_f1`."""
    return {**classification_figures(gold, predicted), "relation_macro_f1": relation_macro_f1(gold, predicted)}


def relation_macro_f1(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Average F1 over the relations, their direction taken into account; pairs in no relation have no F1 of their own.

    The official score of SemEval-2010 task 8 (Hendrickx et al. 2010, scorer 1.2, "(9+1)-way evaluation taking
    directionality into account"): an answer is right if relation and direction are; one that names the right relation
    the wrong way round counts against precision and recall of that relation. Averaged over the relations that occur in
    `gold`, without `NO_RELATION`; 0 if there are none.
    """
    wanted, found = ([relation_of(label) for label in labels] for labels in (gold, predicted))
    right = Counter(relation_of(label) for label, answer in zip(gold, predicted, strict=True) if label == answer)
    named = Counter(wanted) + Counter(found)
    relations = sorted(set(wanted) - set(NO_RELATION))
    return sum(2 * right[one] / named[one] for one in relations) / len(relations) if relations else 0.0


def out_of_scope_figures(detector: ScopeDetector, inside: NDArray[np.float32], outside: NDArray[np.float32]) -> Figures:
    """Say how well texts out of scope are told from others.

    `auroc` is the chance that a text out of scope lies farther away than one in scope; `fpr95` the share of texts in
    scope that a threshold rejects which rejects 95 % of the others, and `missed95` the share of texts out of scope that
    one lets in which lets in 95 % of those in scope; `rejected_inside` and `rejected_outside` what the checkpoint's own
    significance rejects.

    Args:
        detector: The detector.
        inside: Features of texts in scope, shape `(texts, hidden)`.
        outside: Features of texts out of scope, shape `(texts, hidden)`.
    """
    rejected = {
        name: float((detector.p_values(features) < detector.significance).mean())
        for name, features in (("rejected_inside", inside), ("rejected_outside", outside))
    }
    return {**separation(detector.distances(inside), detector.distances(outside)), **rejected}


def separation(inside: NDArray[np.floating], outside: NDArray[np.floating]) -> Figures:
    """Say how well distances tell texts: rows, `auroc`, `fpr95` and `missed95` as in `out_of_scope_figures`."""
    from sklearn.metrics import roc_auc_score

    labels = np.repeat([0, 1], [len(inside), len(outside)])
    return {
        "rows": len(outside),
        "auroc": float(roc_auc_score(labels, np.concatenate([inside, outside]))),
        "fpr95": float((inside >= np.quantile(outside, 0.05)).mean()),
        "missed95": float((outside <= np.quantile(inside, 0.95)).mean()),
    }


def multi_label_figures(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Figures:
    """F1 over all answers (micro), over labels (macro, weighted) and over texts (samples), and a row for each label.

    Macro and weighted averages run over the labels that occur in `gold` or `predicted`. A text to which no label
    applies, and that got none, has an F1 of 1.
    """
    names = sorted({name for answer in (*gold, *predicted) for name in answer})
    wanted, found = (
        np.array([[name in answer for name in names] for answer in answers], dtype=bool).reshape(len(gold), len(names))
        for answers in (gold, predicted)
    )
    right, support, given = (wanted & found).sum(axis=0), wanted.sum(axis=0), found.sum(axis=0)
    f1 = 2 * right / (support + given)
    columns = (right / np.maximum(1, given), right / np.maximum(1, support), f1, support)
    sizes = wanted.sum(axis=1) + found.sum(axis=1)
    of_texts = np.where(sizes == 0, 1.0, 2 * (wanted & found).sum(axis=1) / np.maximum(1, sizes))
    return {
        "rows": len(gold),
        "micro_f1": micro_f1(gold, predicted),
        "macro_f1": float(f1.mean()) if names else 0.0,
        "weighted_f1": float((f1 * support).sum() / max(1, support.sum())),
        "samples_f1": float(of_texts.mean()),
        "subset_accuracy": float((wanted == found).all(axis=1).mean()),
        "per_label": {
            name: _row(float(precision), float(recall), float(score), int(rows))
            for name, precision, recall, score, rows in zip(names, *columns, strict=True)
        },
    }


def macro_average_precision(gold: NDArray[np.floating], scores: NDArray[np.floating]) -> float:
    """Mean over labels of the area under precision and recall: how well texts are ranked, whatever the thresholds.

    Args:
        gold: 1 where a label applies, shape `(texts, labels)`; labels that never do are left out.
        scores: Greater is surer, as logits are; of the same shape.
    """
    from sklearn.metrics import average_precision_score

    there = gold.any(axis=0)
    return float(average_precision_score(gold[:, there], scores[:, there], average="macro")) if there.any() else 0.0


def regression_figures(gold: Sequence[float], predicted: Sequence[float]) -> Figures:
    """Mean absolute and root mean square error, in the units of the numbers; R²; Pearson's and Spearman's correlation.

    A correlation with numbers that are all the same is 0.
    """
    from scipy.stats import rankdata

    wanted, found = np.array(gold, float), np.array(predicted, float)
    return {
        "rows": len(gold),
        "mae": float(np.abs(wanted - found).mean()),
        "rmse": float(np.sqrt(((wanted - found) ** 2).mean())),
        "r2": r_squared(wanted, found),
        "pearson": _correlation(wanted, found),
        "spearman": _correlation(rankdata(wanted), rankdata(found)),
    }


def _correlation(left: NDArray[np.floating], right: NDArray[np.floating]) -> float:
    if not len(left) or np.ptp(left) == 0 or np.ptp(right) == 0:
        return 0.0
    return float(np.corrcoef(left, right)[0, 1])


def entity_figures(gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> Figures:
    """Precision, recall and F1 of whole entities: label, start and end must all be right (nervaluate, strict)."""
    from nervaluate import Evaluator

    types = sorted({span.label for spans in (*gold, *predicted) for span in spans})
    if not types:
        return {"rows": len(gold), "precision": 0.0, "recall": 0.0, "f1": 0.0, "macro_f1": 0.0, "weighted_f1": 0.0,
                "per_label": {}}  # fmt: skip
    outcome = Evaluator(_dicts(gold), _dicts(predicted), tags=types, loader="dict").evaluate()
    overall = outcome["overall"]["strict"]
    per_label = {}
    for name in types:
        figures = outcome["entities"][name]["strict"]
        support = sum(span.label == name for spans in gold for span in spans)
        per_label[name] = _row(figures.precision, figures.recall, figures.f1, support)
    supported = [row for row in per_label.values() if row["support"]]
    total = sum(row["support"] for row in supported)
    return {
        "rows": len(gold),
        "precision": overall.precision,
        "recall": overall.recall,
        "f1": overall.f1,
        "macro_f1": sum(row["f1"] for row in per_label.values()) / len(per_label),
        "weighted_f1": sum(row["f1"] * row["support"] for row in supported) / max(1, total),
        "per_label": per_label,
    }


def intent_figures(
    gold: Sequence[str],
    predicted: Sequence[str],
    gold_spans: Sequence[Sequence[Span]],
    predicted_spans: Sequence[Sequence[Span]],
) -> Figures:
    """Figures of labels, of `entities` apart, and `exact_match`: the share of texts with nothing wrong.

    That share is called sentence-level semantic frame accuracy where labels are intents and entities their slots (Chen,
    Zhuo and Wang 2019, "BERT for Joint Intent Classification and Slot Filling").
    """
    exact = [
        label == found and sorted(spans) == sorted(found_spans)
        for label, found, spans, found_spans in zip(gold, predicted, gold_spans, predicted_spans, strict=True)
    ]
    entities = {name: value for name, value in entity_figures(gold_spans, predicted_spans).items() if name != "rows"}
    return {**classification_figures(gold, predicted), "exact_match": float(np.mean(exact)), "entities": entities}


def answer_figures(gold: Sequence[Sequence[str]], predicted: Sequence[str | None]) -> Figures:
    """Exact match and F1 as the script of SQuAD 2 has them, as shares of 1.

    Where there are questions with and without an answer, also of those with one, and the share of those without one
    that were left unanswered.

    Args:
        gold: The right answers to each question; none if it has none.
        predicted: What was answered; None for no answer.
    """
    exact = np.array([exact_match(found, wanted) for found, wanted in zip(predicted, gold, strict=True)], float)
    f1 = np.array([answer_f1(found, wanted) for found, wanted in zip(predicted, gold, strict=True)])
    answered = np.array([bool(wanted) for wanted in gold])
    figures = {"rows": len(gold), "exact_match": float(exact.mean()), "f1": float(f1.mean())}
    if answered.all() or not answered.any():
        return figures
    return {
        **figures,
        "answered_exact_match": float(exact[answered].mean()),
        "answered_f1": float(f1[answered].mean()),
        "unanswered_accuracy": float(exact[~answered].mean()),
    }


def window_f1(logits: Sequence[NDArray[np.floating]], edges: Sequence[NDArray[np.integer]]) -> float:
    """Average over windows the F1 of the pieces between start and end, found and wanted.

    Args:
        logits: Of start and of end, each of shape `(windows, pieces)`; padding is -100.
        edges: First and last piece, each of shape `(windows,)`.
    """
    wanted = np.stack(edges, axis=1)
    found = np.stack([one.argmax(axis=1) for one in logits], axis=1)
    shared = np.minimum(found[:, 1], wanted[:, 1]) - np.maximum(found[:, 0], wanted[:, 0]) + 1
    total = (found[:, 1] - found[:, 0] + 1).clip(0) + wanted[:, 1] - wanted[:, 0] + 1
    return float((2 * shared.clip(0) / total).mean())


def confidence_figures(scores: Sequence[float], right: Sequence[bool], accepted: Sequence[bool | None]) -> Figures:
    """How true calibrated scores are, and what is accepted: of texts, or of found entities.

    `ece_perfect` is the 95th percentile of what perfectly calibrated scores show at this size.
    """
    confidence, correct = np.array(scores), np.array(right)
    taken = correct[np.array([flag is True for flag in accepted])]
    return {
        "answers": len(correct),
        "ece": expected_calibration_error(confidence, correct),
        "ece_perfect": perfect_error(confidence)[1],
        "coverage": len(taken) / len(correct),
        "accepted_precision": float(taken.mean()) if len(taken) else None,
    }


def label_confidence_figures(gold: Sequence[Sequence[str]], results: Sequence[MultiLabelClassification]) -> Figures:
    """How true calibrated scores of several labels are, and what is accepted.

    `ece` is over pairs of a text and a label (see `judged_pairs`), the rest over texts: accepted answers are right if
    each label that they give is.
    """
    scores = np.array([list(result.scores.values()) for result in results])
    applies = np.array([[name in labels for name in results[0].scores] for labels in map(set, gold)])
    judged, _ = judged_pairs(scores)
    taken = [set(r.labels) <= set(labels) for r, labels in zip(results, gold, strict=True) if r.accepted]
    return {
        "answers": int(judged.sum()),
        "ece": expected_calibration_error(scores[judged], applies[judged]),
        "ece_perfect": perfect_error(scores[judged])[1],
        "coverage": len(taken) / len(results),
        "accepted_precision": float(np.mean(taken)) if taken else None,
    }


def _dicts(sentences: Sequence[Sequence[Span]]) -> list[list[dict[str, Any]]]:
    # nervaluate's ends are inclusive.
    return [[{"label": s.label, "start": s.start, "end": s.end - 1} for s in spans] for spans in sentences]


def _row(precision: float, recall: float, f1: float, support: int) -> dict[str, Any]:
    return {"precision": precision, "recall": recall, "f1": f1, "support": support}
