"""What sets one task apart from the others in training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from lc_finetune.checkpoint import Checkpoint, Task
from lc_finetune.data import Example, Splits
from lc_finetune.inference.encode import Encoder
from lc_finetune.labels import LabelSet
from lc_finetune.train.base_model import BaseModel
from lc_finetune.train.losses import LossKind
from lc_finetune.train.metrics import Figures, confidence_figures
from lc_finetune.train.tokenization import Feature, Windowing

if TYPE_CHECKING:
    from lc_finetune.train.config import TrainConfig

Judged = tuple[Any, bool]
"""An answer that has a score, and whether it is right."""


class TrainingTask(ABC):
    """A task, with what it learnt from the training rows before the first step.

    `lc_finetune.train` runs every task the same way; a new one is a subclass, registered in
    `lc_finetune.train.tasks`.

    Attributes:
        name: As in the manifest.
        metric: Of the validation rows; the epoch at which it is greatest is kept.
        headline: The figure by which a report compares, and its name.
        judges: What a row of a report's table is about.
        loss: What makes probabilities of the logits, where a loss can weigh classes; None where there are none.
        one_class: Whether each row of the Trainer belongs to one class, so that classes can be drawn alike.
        frozen_head: What the baseline puts on the frozen encoder.
        calibrates: Whether scores are calibrated once the model is written.
        scopes: Whether the checkpoint gets the statistics that tell texts out of scope.
        continues: Whether a checkpoint can be trained further, on new labels too.
        has_order: Whether the labels have an order, which is that of the columns.
        offsets: Whether features need characters and words of the pieces.
    """

    name: ClassVar[Task]
    metric: ClassVar[str]
    headline: ClassVar[tuple[str, str]]
    judges: ClassVar[str] = "Labels"
    loss: ClassVar[LossKind | None] = None
    one_class: ClassVar[bool] = False
    frozen_head: ClassVar[str] = "logistic regression"
    calibrates: ClassVar[bool] = True
    scopes: ClassVar[bool] = False
    continues: ClassVar[bool] = False
    has_order: ClassVar[bool] = False
    offsets: ClassVar[bool] = False

    def __init__(self, labels: LabelSet) -> None:
        self.labels = labels  # columns of the head

    @classmethod
    def extend(cls, base: BaseModel) -> BaseModel:
        """Give the base model's tokenizer pieces that the task needs, before anything is read with it."""
        return base

    @classmethod
    @abstractmethod
    def of(cls, train: Sequence[Example], base: Path) -> Self:
        """Find the labels, and whatever else follows from the training rows and the base model's tokenizer."""

    @classmethod
    def answers_of(cls, labels: LabelSet) -> Sequence[str]:
        """Name what a checkpoint with these columns can answer."""
        return labels.names

    def after(self, checkpoint: Checkpoint) -> Self:
        """Keep the columns of an earlier checkpoint, and put those of new labels after them."""
        return type(self)(checkpoint.labels.extended(self.labels.names))

    def ordered(self, names: Sequence[str]) -> Self:
        """Put the columns into the order that the configuration's `label_names` state, where there is one to state.

        Raises:
            ConfigError: If the task needs an order, and neither they nor the labels tell it.
        """
        return self

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        """Refuse options that would do nothing, or harm, in this task.

        Raises:
            ConfigError: If there is one.
        """

    @property
    def answers(self) -> Sequence[str]:
        """What a threshold can be set for."""
        return self.labels.names

    @property
    def types(self) -> Sequence[str]:
        """Name the entity types of a second head."""
        return ()

    @property
    def weighed(self) -> Sequence[str]:
        """Name the class that each column of the head belongs to, when classes are weighed."""
        return self.labels.names

    @property
    def recorded(self) -> Mapping[str, Any]:
        """Fields of the manifest that serving needs."""
        return {}

    @abstractmethod
    def model_class(self) -> Any:
        """Give the class of transformers that makes the head."""

    def model_options(self) -> Mapping[str, Any]:
        """Give what the model's configuration says of the head, besides the labels."""
        return {}

    def start(self, model: Any, train: Sequence[Example]) -> None:
        """Set the weights of a new head where random ones are a bad beginning."""

    @abstractmethod
    def features(
        self, examples: Sequence[Example], encoder: Encoder, windowing: Windowing
    ) -> tuple[list[Feature], int]:
        """Make the Trainer's rows, and count the answers that do not fit the pieces."""

    @abstractmethod
    def validate(self, predictions: Any, gold: Any) -> float:
        """Measure logits against the features' labels; greater is better."""

    def choose(
        self, trainer: Any, base: Callable[[], Any], validation: Sequence[Feature], say: Callable[[str], None]
    ) -> list[dict[str, Any]]:
        """Let the validation rows decide what is left once training is over; returns what was tried, for the log.

        Args:
            trainer: Its model has the weights of the best epoch, and may be changed.
            base: Makes the model as it was before training.
            validation: The rows.
            say: Receives a line about what was chosen.
        """
        return []

    def choose_served(self, checkpoint: Checkpoint, splits: Splits) -> Mapping[str, Any]:
        """Let rows that no step was taken on decide, through the path that serves, fields of the manifest."""
        return {}

    @staticmethod
    @abstractmethod
    def figures(results: Sequence[Any], examples: Sequence[Example]) -> tuple[Figures, list[Judged]]:
        """Measure results, and judge each answer whose score is a probability of being right."""

    @staticmethod
    def confidence(results: Sequence[Any], examples: Sequence[Example], judged: Sequence[Judged]) -> Figures:
        """Say how true calibrated scores are, and what is accepted; nothing where there is nothing to judge.

        Args:
            results: Of a calibrated checkpoint.
            examples: As many.
            judged: What `figures` judged.
        """
        if not judged:
            return {}
        answers, right = zip(*judged, strict=True)
        return confidence_figures([one.score for one in answers], right, [one.accepted for one in answers])

    def baseline(self, base: Path, splits: Splits, examples: Sequence[Example], max_length: int) -> Figures:
        """Measure the frozen encoder with `frozen_head` on the same rows; nothing where no such head makes sense."""
        return {}

    @staticmethod
    @abstractmethod
    def first_line(figures: Mapping[str, Any]) -> str:
        """Say in a line what the figures come to."""
