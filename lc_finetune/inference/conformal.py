"""Labelled texts a model has not learnt from → sets of labels that hold the right one as often as asked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lc_finetune.confidence import FloatArray, PredictionSets, SetLevel
from lc_finetune.inference.acceptance import ROUNDING

COVERAGES = (*(percent / 100 for percent in range(50, 100)), 0.995, 0.999)
"""Coverages that sets are made for; what is asked between two of them gets the higher."""


def prediction_sets(scores: FloatArray, gold: NDArray[np.intp]) -> PredictionSets:
    """Find the sets by split conformal prediction: Papadopoulos et al. 2002, "Inductive Confidence Machines".

    A label conforms to a text as much as its score, and the most probable one fully: the least ambiguous sets of
    Sadinle et al. 2019, "Least Ambiguous Set-Valued Classifiers with Bounded Error Levels", but never an empty one. Of
    `n` right labels, the score is taken that `⌈(n + 1)·coverage⌉` reach: a further text's right label then reaches it
    with at least that probability, whatever the distribution and the model, if the text is drawn like the others and
    the scores owe nothing to any of them. A coverage that so few rows cannot show gets no level.

    Args:
        scores: The model's own, before any map, shape `(texts, labels)`.
        gold: Column of the right label, shape `(texts,)`.
    """
    rows = len(gold)
    best = scores.argmax(axis=1)
    conforms = np.where(best == gold, 1.0, scores[np.arange(rows), gold])
    reached = np.sort(conforms)[::-1]
    least: dict[float, float] = {}  # score → the highest coverage that it has
    for coverage in COVERAGES:
        rank = int(np.ceil((rows + 1) * coverage - 1e-9))
        if rank <= rows:
            least[float(reached[rank - 1])] = coverage
    levels = []
    for score, coverage in least.items():
        below = score if score == 1.0 else max(0.0, score - ROUNDING)
        held = scores >= below
        held[np.arange(rows), best] = True
        levels.append(SetLevel(coverage=coverage, score=below, size=float(held.sum(axis=1).mean())))
    return PredictionSets(levels=tuple(levels))
