"""One label for two marked mentions of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from lc_finetune.checkpoint import RELATIONS
from lc_finetune.data import Example, RelationExample, Splits, TextExample
from lc_finetune.errors import ConfigError
from lc_finetune.inference.encode import Encoder, Encoding
from lc_finetune.inference.marked import add_markers
from lc_finetune.labels import LabelSet
from lc_finetune.markers import MARKERS
from lc_finetune.train.base_model import BaseModel, with_pieces
from lc_finetune.train.baseline import relation_baseline
from lc_finetune.train.metrics import Figures, relation_figures, relation_macro_f1
from lc_finetune.train.optimizer import grow_embeddings
from lc_finetune.train.tasks.base import Judged
from lc_finetune.train.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    from lc_finetune.train.config import TrainConfig


class RelationClassification(TextClassification):
    """A softmax over the relations, of a text whose head and tail stand between markers.

    Wu and He 2019, "Enriching Pre-trained Language Model with Entity Information for Relation Classification", and
    Baldini Soares et al. 2019, "Matching the Blanks", mark entities likewise. The head is the ordinary one of a
    classifier, so that whatever serves classifiers serves relations.
    """

    name = RELATIONS
    metric = "relation_macro_f1"
    headline = ("relation_macro_f1", "macro F1 of relations")
    scopes = False
    continues = False

    def __init__(self, labels: LabelSet, words: Mapping[int, Sequence[int]]) -> None:
        super().__init__(labels)
        self._words = words  # of each marker's piece, the pieces it would be without being one

    @classmethod
    def extend(cls, base: BaseModel) -> BaseModel:
        """Add the markers to the tokenizer, unless it knows them."""
        return with_pieces(base, MARKERS, add_markers)

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        """Refuse what would leave the markers untrained."""
        if config.adapter:
            raise ConfigError(
                f"adapter: expected a model that is tuned whole, found {config.adapter} for {cls.name}, whose markers "
                "are new pieces that an adapter does not learn. Leave it out."
            )

    @classmethod
    def of(cls, train: Sequence[Example], base: Path) -> Self:
        """Take the labels of the training rows, sorted, and the pieces that the markers are made of."""
        encoder = Encoder(base, offsets=False)
        parted = encoder.encode([marker.replace("[", "[ ").replace("]", " ]") for marker in MARKERS])
        words = {
            cast(int, encoder.id_of(marker)): cast(Encoding, one).ids
            for marker, one in zip(MARKERS, parted, strict=True)
        }
        return cls(LabelSet.sorted(cast(TextExample, example).label for example in train), words)

    def start(self, model: Any, train: Sequence[Example]) -> None:
        """Give new markers a row in the embeddings: the mean of what they are made of."""
        grow_embeddings(model, self._words)

    def validate(self, predictions: Any, gold: Any) -> float:
        """Measure relations; logits of shape `(rows, labels)`, label numbers of shape `(rows,)`."""
        found = [self.labels[column] for column in predictions.argmax(-1).tolist()]
        return relation_macro_f1([self.labels[column] for column in np.asarray(gold).tolist()], found)

    @staticmethod
    def figures(results: Sequence[Any], examples: Sequence[Example]) -> tuple[Figures, list[Judged]]:
        """Measure relations, and judge each."""
        wanted = [cast(TextExample, example).label for example in examples]
        judged = [(result, result.label == label) for result, label in zip(results, wanted, strict=True)]
        return relation_figures(wanted, [result.label for result in results]), judged

    def baseline(self, base: Path, splits: Splits, examples: Sequence[Example], max_length: int) -> Figures:
        """Classify the mean-pooled states of the text and of both mentions."""
        train, tested = (cast("Sequence[RelationExample]", rows) for rows in (splits.train, examples))
        return relation_baseline(base, train, tested, max_length)

    @staticmethod
    def first_line(figures: Mapping[str, Any]) -> str:
        """Give the figure by which relations are compared, and the accuracy."""
        return f"relations  macro F1 {figures['relation_macro_f1']:.4f}  accuracy {figures['accuracy']:.4f}"
