"""One label a text, of labels that have an order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from lc_finetune.checkpoint import ORDINAL, Checkpoint
from lc_finetune.data import Example, Splits, gold_of
from lc_finetune.errors import ConfigError, shown
from lc_finetune.labels import LabelSet, number_in, quadratic_weighted_kappa
from lc_finetune.train.baseline import ordinal_baseline
from lc_finetune.train.metrics import Figures, confusion_counts, ordinal_figures
from lc_finetune.train.tasks.base import Judged
from lc_finetune.train.tasks.text_classification import TextClassification


class OrdinalClassification(TextClassification):
    """A softmax over the labels, trained so that a probability costs the more the farther it lies from the label.

    The model is one of text classification, its columns in the order of the labels: see `lc_finetune.train.losses`.
    """

    name = ORDINAL
    metric = "qwk"
    headline = ("qwk", "quadratic weighted kappa")
    loss = "cumulative"
    has_order = True

    def ordered(self, names: Sequence[str]) -> Self:
        """Take the order of the names or, without any, of labels that are numbers.

        Raises:
            ConfigError: If there are no names, and a label is a word; or if a name has two places.
        """
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(
                f"label_map: expected labels with one name to be neighbours in the order of label_names, found "
                f"{shown(twice)} in two places. Give them two names."
            )
        if names:
            return type(self)(LabelSet(tuple(names)))
        numbers = {label: number_in(label) for label in self.labels.names}
        words = [label for label, number in numbers.items() if number is None]
        if words:
            raise ConfigError(
                f"label_names: expected the order of the labels, found none, and labels that are words ({shown(words)})"
                f". Name all {len(numbers)} from the lowest to the highest, as in --label-names low,medium,high."
            )
        return type(self)(LabelSet(tuple(sorted(numbers, key=lambda label: cast(Any, numbers[label])))))

    def after(self, checkpoint: Checkpoint) -> Self:
        """Keep the columns and with them the order, in which a new label would have no place.

        Raises:
            ConfigError: If there is one.
        """
        new = sorted(set(self.labels.names) - set(checkpoint.labels.names))
        if new:
            raise ConfigError(
                f"continue_from: expected rows with labels of the checkpoint ({shown(checkpoint.labels.names)}), found "
                f"{len(new)} new ({shown(new)}), which have no place in its order. Name its labels with --label-names "
                "if these are their numbers, or train anew on old and new rows."
            )
        return type(self)(checkpoint.labels)

    def validate(self, predictions: Any, gold: Any) -> float:
        """Measure kappa; logits of shape `(rows, labels)`, label numbers of shape `(rows,)`."""
        return quadratic_weighted_kappa(confusion_counts(np.asarray(gold), predictions.argmax(-1), len(self.labels)))

    @staticmethod
    def figures(results: Sequence[Any], examples: Sequence[Example]) -> tuple[Figures, list[Judged]]:
        """Measure labels and how far they are off, and judge each."""
        _, judged = TextClassification.figures(results, examples)
        found, ranks = [result.label for result in results], [result.expected_rank for result in results]
        return ordinal_figures(gold_of(examples), found, ranks, LabelSet(tuple(results[0].scores))), judged

    def baseline(self, base: Path, splits: Splits, examples: Sequence[Example], max_length: int) -> Figures:
        """Classify mean-pooled features."""
        return ordinal_baseline(base, splits.train, examples, self.labels, max_length)

    @staticmethod
    def first_line(figures: Mapping[str, Any]) -> str:
        """Give kappa, how far labels are off, and the correlations."""
        off = "–" if figures["mae"] is None else f"{figures['mae']:.4f}"
        return (
            f"quadratic weighted kappa {figures['qwk']:.4f}  MAE {off} ranks\n"
            f"  accuracy   {figures['accuracy']:.4f}, within one rank {figures['within_one']:.4f}\n"
            f"  Pearson {figures['pearson']:.4f}  Spearman {figures['spearman']:.4f}"
        )
