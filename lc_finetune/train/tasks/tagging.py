"""Entities in a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from lc_finetune.checkpoint import Checkpoint, TagUnit
from lc_finetune.data import Example, Splits, TaggedExample
from lc_finetune.inference.decode import best_path, log_softmax
from lc_finetune.inference.encode import Encoder
from lc_finetune.labels import LabelSet, Span, entity_f1
from lc_finetune.schemes import OUTSIDE, TagSet, tags_to_spans
from lc_finetune.train import recipe
from lc_finetune.train.baseline import tagging_baseline
from lc_finetune.train.metrics import Figures, entity_figures
from lc_finetune.train.tasks.base import Judged, TrainingTask
from lc_finetune.train.tokenization import IGNORED, Feature, Windowing, choose_tag_unit, tagging_features


class Tagging(TrainingTask):
    """A tag for each unit of a text: a softmax over the tags of a scheme."""

    name = "token-classification"
    metric = "f1"
    headline = ("f1", "F1")
    judges = "Entities"
    loss = "softmax"
    offsets = True
    continues = True

    def __init__(self, tags: TagSet, tag_unit: TagUnit) -> None:
        super().__init__(tags.labels)
        self.tags = tags
        self.tag_unit = tag_unit

    @classmethod
    def of(cls, train: Sequence[Example], base: Path) -> Self:
        """Take the entity types of the training rows, and the longest unit that cuts none of their entities."""
        tagged = cast("Sequence[TaggedExample]", train)
        tags = TagSet.of_types(span.label for example in tagged for span in example.spans)
        return cls(tags, choose_tag_unit(tagged, Encoder(base, offsets=True)))

    @classmethod
    def answers_of(cls, labels: LabelSet) -> Sequence[str]:
        """Give the entity types."""
        return TagSet.from_labels(labels).types

    def after(self, checkpoint: Checkpoint) -> Self:
        """Keep the tags, their scheme and the unit of an earlier checkpoint; tags of new types come last."""
        tags = TagSet.from_labels(checkpoint.labels).extended(self.tags.types)
        unit = checkpoint.manifest.tag_unit if checkpoint.manifest else None
        return type(self)(tags, unit or self.tag_unit)

    @property
    def answers(self) -> Sequence[str]:
        """Give the entity types."""
        return self.tags.types

    @property
    def weighed(self) -> Sequence[str]:
        """Name the entity type of each tag; `O` goes by its own name."""
        return [tag if tag == OUTSIDE else tag.partition("-")[2] for tag in self.labels.names]

    @property
    def recorded(self) -> Mapping[str, Any]:
        """Give the tag unit."""
        return {"tag_unit": self.tag_unit}

    def model_class(self) -> Any:
        """Give the token classifier of transformers."""
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification

    def features(
        self, examples: Sequence[Example], encoder: Encoder, windowing: Windowing
    ) -> tuple[list[Feature], int]:
        """Give the first piece of each unit its tag, and count the entities whose ends cut a unit."""
        tagged = cast("Sequence[TaggedExample]", examples)
        return tagging_features(tagged, encoder, self.tags, windowing, tag_unit=self.tag_unit)

    def validate(self, predictions: Any, gold: Any) -> float:
        """Measure entities; logits `(rows, pieces, tags)`, tags `(rows, pieces)`, `IGNORED` where there is none."""
        wanted: list[list[Span]] = []
        found: list[list[Span]] = []
        for logits, tags in zip(predictions, gold, strict=True):
            units = tags != IGNORED
            wanted.append(tags_to_spans([self.labels[i] for i in tags[units]], self.tags.scheme))
            found.append(self.tags.spans(best_path(log_softmax(np.asarray(logits)[units]), self.tags)))
        return entity_f1(wanted, found)

    def choose(
        self, trainer: Any, base: Callable[[], Any], validation: Sequence[Feature], say: Callable[[str], None]
    ) -> list[dict[str, Any]]:
        """Choose between what is near the trained weights."""
        from lc_finetune.train.selection import choose_tagger

        outside = self.labels.id_of[OUTSIDE]
        shift = np.eye(len(self.labels))[outside]

        def measure(biases: Sequence[float]) -> list[float]:
            outcome = trainer.predict(validation)
            return [self.validate(outcome.predictions - bias * shift, outcome.label_ids) for bias in biases]

        adapted = bool(getattr(trainer.model, "peft_config", None))  # and stays the model that adapter/ holds
        tried = choose_tagger(
            trainer.model, trainer.model if adapted else base(), shares=(1.0,) if adapted else recipe.ENCODER_SHARES,
            biases=recipe.OUTSIDE_BIASES, outside=outside, measure=measure,
        )  # fmt: skip
        best = max(choice.metric for choice in tried)
        say(f"  nearby weights, {len(tried)} tried  validation f1 {best:.4f}")
        return [asdict(choice) for choice in tried]

    @staticmethod
    def figures(results: Sequence[Any], examples: Sequence[Example]) -> tuple[Figures, list[Judged]]:
        """Measure whole entities, and judge each that was found."""
        wanted = [cast(TaggedExample, example).spans for example in examples]
        found = [[Span(e.start, e.end, e.label) for e in result.entities] for result in results]
        judged = [
            (entity, span in spans)
            for result, here, spans in zip(results, found, wanted, strict=True)
            for entity, span in zip(result.entities, here, strict=True)
        ]
        return entity_figures(wanted, found), judged

    def baseline(self, base: Path, splits: Splits, examples: Sequence[Example], max_length: int) -> Figures:
        """Classify the state of each unit."""
        return tagging_baseline(base, splits.train, examples, self.tags, max_length, self.tag_unit)

    @staticmethod
    def first_line(figures: Mapping[str, Any]) -> str:
        """Give precision, recall and F1."""
        return (
            f"micro      precision {figures['precision']:.4f}  recall {figures['recall']:.4f}  F1 {figures['f1']:.4f}"
        )
