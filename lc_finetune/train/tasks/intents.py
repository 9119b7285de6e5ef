"""One label a text and its entities, by two heads on one encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from lc_finetune.checkpoint import JOINT
from lc_finetune.data import Example, IntentExample, Splits
from lc_finetune.errors import ConfigError
from lc_finetune.inference.decode import entity_spans
from lc_finetune.inference.encode import Encoder
from lc_finetune.labels import LabelSet
from lc_finetune.train.baseline import intent_baseline
from lc_finetune.train.metrics import Figures, confidence_figures, intent_figures
from lc_finetune.train.tasks.base import Judged, TrainingTask
from lc_finetune.train.tasks.tagging import Tagging, judged_entities
from lc_finetune.train.tokenization import Feature, Windowing, intent_features

if TYPE_CHECKING:
    from lc_finetune.train.config import TrainConfig


class IntentAndEntities(TrainingTask):
    """A softmax over the labels and one over the tags of each unit, trained together.

    The loss is the sum of both: Chen, Zhuo and Wang 2019, "BERT for Joint Intent Classification and Slot Filling". The
    epoch is kept where the mean of accuracy and entity F1 is highest: exact match, by which models are compared, stays
    at 0 for the first epochs where texts have many entities.
    """

    name = JOINT
    metric = "accuracy_and_f1"
    headline = ("exact_match", "exact match")
    judges = "Labels and entities"
    one_class = True
    scopes = True
    offsets = True

    def __init__(self, labels: LabelSet, tagging: Tagging) -> None:
        super().__init__(labels)
        self.tagging = tagging

    @classmethod
    def of(cls, train: Sequence[Example], base: Path) -> Self:
        """Take the labels of the training rows, sorted, and what a tagger takes of their entities."""
        rows = cast("Sequence[IntentExample]", train)
        tagging = Tagging.of([example.tagged for example in rows], base)
        return cls(LabelSet.sorted(example.label for example in rows), tagging)

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        """Refuse adapters, whose place beside two heads peft does not know.

        Raises:
            ConfigError: If one is asked for.
        """
        if config.adapter is not None:
            raise ConfigError(
                f"adapter: expected a task with one head, found data for {JOINT}, which has two. Leave it out."
            )

    @property
    def answers(self) -> Sequence[str]:
        """Give the labels and the entity types."""
        return (*self.labels.names, *self.types)

    @property
    def types(self) -> Sequence[str]:
        """Give what the second head finds."""
        return self.tagging.answers

    @property
    def recorded(self) -> Mapping[str, Any]:
        """Give the tag unit."""
        return self.tagging.recorded

    def model_class(self) -> Any:
        """Give the sequence classifier of transformers with a second head."""
        from lc_finetune.inference.two_heads import TwoHeadedModel

        return TwoHeadedModel

    def model_options(self) -> Mapping[str, Any]:
        """Say that one label is right, and name the columns of the second head."""
        return {"problem_type": "single_label_classification", "tag_names": self.tagging.labels.names}

    def features(
        self, examples: Sequence[Example], encoder: Encoder, windowing: Windowing
    ) -> tuple[list[Feature], int]:
        """Give every window the label of its text, and the first piece of each unit its tag."""
        rows = cast("Sequence[IntentExample]", examples)
        tagging = self.tagging
        return intent_features(rows, encoder, self.labels, tagging.tags, windowing, tag_unit=tagging.tag_unit)

    def validate(self, predictions: Any, gold: Any) -> float:
        """Average the accuracy of labels and the F1 of entities; logits and gold of each as its own task has them."""
        (logits, tag_logits), (labels, tags) = predictions, gold
        accuracy = float((logits.argmax(-1) == labels).mean())
        return (accuracy + self.tagging.validate(tag_logits, tags)) / 2

    @staticmethod
    def figures(results: Sequence[Any], examples: Sequence[Example]) -> tuple[Figures, list[Judged]]:
        """Measure labels, entities, and texts without a fault; judge each label."""
        rows = cast("Sequence[IntentExample]", examples)
        wanted = [example.label for example in rows]
        judged = [(result, result.label == label) for result, label in zip(results, wanted, strict=True)]
        found = [result.label for result in results]
        spans = [entity_spans(result) for result in results]
        return intent_figures(wanted, found, [example.spans for example in rows], spans), judged

    @staticmethod
    def confidence(results: Sequence[Any], examples: Sequence[Example], judged: Sequence[Judged]) -> Figures:
        """Judge the labels, and the entities apart."""
        figures = TrainingTask.confidence(results, examples, judged)
        spans = [cast(IntentExample, example).spans for example in examples]
        if found := judged_entities(results, spans):
            entities, right = zip(*found, strict=True)
            scores, accepted = [one.score for one in entities], [one.accepted for one in entities]
            figures["entities"] = confidence_figures(scores, right, accepted)
        return figures

    def baseline(self, base: Path, splits: Splits, examples: Sequence[Example], max_length: int) -> Figures:
        """Classify mean-pooled features, and the state of each unit."""
        train, tested = (cast("Sequence[IntentExample]", rows) for rows in (splits.train, examples))
        return intent_baseline(base, train, tested, self.tagging.tags, max_length, self.tagging.tag_unit)

    @staticmethod
    def first_line(figures: Mapping[str, Any]) -> str:
        """Give the share of texts without a fault, the accuracy of the labels, and the F1 of the entities."""
        entities = figures["entities"]
        return (
            f"all right  {figures['exact_match']:.4f} of the texts: label and every entity\n"
            f"  labels     accuracy {figures['accuracy']:.4f}\n"
            f"  entities   precision {entities['precision']:.4f}  recall {entities['recall']:.4f}  "
            f"F1 {entities['f1']:.4f}"
        )
