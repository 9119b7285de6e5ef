"""One label a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from lc_finetune.checkpoint import Task
from lc_finetune.data import Example, Splits, TextExample
from lc_finetune.inference.encode import Encoder
from lc_finetune.labels import LabelSet
from lc_finetune.train.baseline import classification_baseline
from lc_finetune.train.losses import LossKind
from lc_finetune.train.metrics import Figures, classification_figures
from lc_finetune.train.tasks.base import Judged, TrainingTask
from lc_finetune.train.tokenization import Feature, Windowing, classification_features


class TextClassification(TrainingTask):
    """A softmax over the labels."""

    name: ClassVar[Task] = "text-classification"
    metric = "accuracy"
    headline = ("accuracy", "accuracy")
    loss: ClassVar[LossKind | None] = "softmax"
    one_class = True
    scopes = True
    continues = True

    @classmethod
    def of(cls, train: Sequence[Example], base: Path) -> Self:
        """Take the labels of the training rows, sorted."""
        return cls(LabelSet.sorted(cast(TextExample, example).label for example in train))

    def model_class(self) -> Any:
        """Give the sequence classifier of transformers."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def model_options(self) -> Mapping[str, Any]:
        """Say that one label is right."""
        return {"problem_type": "single_label_classification"}

    def features(
        self, examples: Sequence[Example], encoder: Encoder, windowing: Windowing
    ) -> tuple[list[Feature], int]:
        """Give every window the label of its text, or of its pair."""
        texts = cast("Sequence[TextExample]", examples)
        return classification_features(texts, encoder, self.labels, windowing), 0

    def validate(self, predictions: Any, gold: Any) -> float:
        """Measure accuracy; logits of shape `(rows, labels)`, label numbers of shape `(rows,)`."""
        return float((predictions.argmax(-1) == gold).mean())

    @staticmethod
    def figures(results: Sequence[Any], examples: Sequence[Example]) -> tuple[Figures, list[Judged]]:
        """Measure labels, and judge each."""
        wanted = [cast(TextExample, example).label for example in examples]
        judged = [(result, result.label == label) for result, label in zip(results, wanted, strict=True)]
        return classification_figures(wanted, [result.label for result in results]), judged

    def baseline(self, base: Path, splits: Splits, examples: Sequence[Example], max_length: int) -> Figures:
        """Classify mean-pooled features."""
        return classification_baseline(base, splits.train, examples, max_length)

    @staticmethod
    def first_line(figures: Mapping[str, Any]) -> str:
        """Give the accuracy."""
        return f"accuracy   {figures['accuracy']:.4f}"
