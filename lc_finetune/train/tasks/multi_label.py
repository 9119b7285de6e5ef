"""Any number of labels a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from lc_finetune.checkpoint import MULTI_LABEL, Checkpoint, LabelThresholds
from lc_finetune.confidence import SMALLEST
from lc_finetune.data import Example, MultiLabelExample, Splits, gold_of
from lc_finetune.inference import Predictor
from lc_finetune.inference.calibrate import answer
from lc_finetune.inference.encode import Encoder
from lc_finetune.labels import LabelSet
from lc_finetune.train.baseline import multi_label_baseline
from lc_finetune.train.metrics import Figures, label_confidence_figures, macro_average_precision, multi_label_figures
from lc_finetune.train.tasks.base import Judged, TrainingTask
from lc_finetune.train.thresholds import METHOD, choose_thresholds
from lc_finetune.train.tokenization import Feature, Windowing, indicators, multi_label_features


class MultiLabelClassification(TrainingTask):
    """A sigmoid for each label, and a threshold."""

    name = "multi-label-classification"
    metric = "average_precision"
    headline = ("macro_f1", "macro F1")
    loss = "sigmoid"
    continues = True

    @classmethod
    def of(cls, train: Sequence[Example], base: Path) -> Self:
        """Take the labels of the training rows, sorted."""
        return cls(LabelSet.sorted(name for example in train for name in cast(MultiLabelExample, example).labels))

    def model_class(self) -> Any:
        """Give the sequence classifier of transformers."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def model_options(self) -> Mapping[str, Any]:
        """Say that labels are independent."""
        return {"problem_type": MULTI_LABEL}

    def start(self, model: Any, train: Sequence[Example]) -> None:
        """Begin with the share of texts that have each label."""
        from lc_finetune.train.optimizer import start_at_shares

        start_at_shares(model, indicators(train, self.labels).mean(axis=0))

    def features(
        self, examples: Sequence[Example], encoder: Encoder, windowing: Windowing
    ) -> tuple[list[Feature], int]:
        """Give every window its text's row of 0 and 1."""
        return multi_label_features(examples, encoder, self.labels, windowing), 0

    def validate(self, predictions: Any, gold: Any) -> float:
        """Measure how well texts are ranked; logits and 0 or 1, each of shape `(rows, labels)`."""
        return macro_average_precision(gold, predictions)

    def choose_served(self, checkpoint: Checkpoint, splits: Splits) -> Mapping[str, Any]:
        """Choose from which score on each label is given."""
        validation = splits.validation
        results = answer(Predictor.load(checkpoint), [example.text for example in validation])
        scores = np.array([list(result.scores.values()) for result in results])
        scores = np.clip(scores.reshape(len(validation), len(self.labels)), SMALLEST, 1.0 - SMALLEST)
        chosen = choose_thresholds(indicators(validation, self.labels), np.log(scores / (1.0 - scores)))
        thresholds = LabelThresholds(
            per_label=dict(zip(self.labels.names, chosen.tolist(), strict=True)),
            method=METHOD if validation else "none: there was no row to choose on",
            split="validation",
            rows=len(validation),
        )
        return {"thresholds": thresholds}

    @staticmethod
    def figures(results: Sequence[Any], examples: Sequence[Example]) -> tuple[Figures, list[Judged]]:
        """Measure sets of labels; none is judged alone."""
        return multi_label_figures(gold_of(examples), [result.labels for result in results]), []

    @staticmethod
    def confidence(results: Sequence[Any], examples: Sequence[Example], judged: Sequence[Judged]) -> Figures:
        """Judge pairs of a text and a label, and accepted sets of labels."""
        return label_confidence_figures(gold_of(examples), results)

    def baseline(self, base: Path, splits: Splits, examples: Sequence[Example], max_length: int) -> Figures:
        """Classify mean-pooled features for each label."""
        return multi_label_baseline(base, splits.train, splits.validation, examples, self.labels, max_length)

    @staticmethod
    def first_line(figures: Mapping[str, Any]) -> str:
        """Give the share of texts without a fault."""
        return f"all right  {figures['subset_accuracy']:.4f} of the texts, no label more or less"
