"""The classifiers, the regressor and the tagger."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import Field

from lc_finetune.checkpoint import JOINT, ORDINAL, Task
from lc_finetune.inference.backends import BackendName, Dtype
from lc_finetune.inference.predictor import Predictor
from lc_finetune.inference.worker import Completion
from lc_finetune.labels import LabelSet
from lc_finetune.runnables.base import EncoderRunnable, source_of
from lc_finetune.runnables.inputs import pair_of
from lc_finetune.schemas import (
    Classification,
    Input,
    IntentAndEntities,
    MultiLabelClassification,
    OrdinalClassification,
    PairClassification,
    Regression,
    Tagging,
)
from lc_finetune.schemes import TagSet

C = TypeVar("C", bound=Classification)


class OneLabelClassifier(EncoderRunnable[C], Generic[C]):
    """One label of several, with the probability of each."""

    coverage: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="How probable it is, at least, that `prediction_set` holds the right label; None for no set.",
    )

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Any,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: Dtype = "auto",
        backend: BackendName = "auto",
        input_key: str = "text",
        accept_score: float | None = None,
        coverage: float | None = None,
    ) -> Self:
        """Validate and load at once; as `EncoderRunnable.from_checkpoint`, with `coverage` for prediction sets.

        Raises:
            ConfigError: If a coverage is asked of a checkpoint that was not calibrated for sets.
        """
        return cls(
            checkpoint=source_of(checkpoint), revision=revision, device=device, dtype=dtype, backend=backend,
            input_key=input_key, accept_score=accept_score, coverage=coverage,
        ).warm_up()  # fmt: skip

    def _complete(self, predictor: Predictor) -> Completion | None:
        return None if self.coverage is None else predictor.with_set(self.coverage)


class TextClassifier(OneLabelClassifier[Classification]):
    """Classify a text: one label, with the probability of each.

    Example:
        ```python
        classifier = TextClassifier.from_checkpoint("runs/support")
        classifier.invoke("Where is my parcel?").label
        ```
    """

    _task: ClassVar[Task] = "text-classification"

    @property
    def OutputType(self) -> type[Classification]:
        """The result."""
        return Classification


class PairClassifier(OneLabelClassifier[PairClassification]):
    """Classify a pair of texts: one label, with the probability of each.

    What the labels mean is what the training data says of two texts: whether the one follows from the other, whether
    an item is of interest to somebody with a history. Which of the texts is first makes a difference.

    Example:
        ```python
        interest = PairClassifier.from_checkpoint("runs/interest")
        interest.invoke({"text": "Reads crime novels.", "text_pair": "A detective in Oslo."}).scores["interested"]
        ```
    """

    pair_key: str = Field(default="text_pair", description="Where a mapping keeps its second text.")

    _task: ClassVar[Task] = "text-pair-classification"
    _example: ClassVar[Input] = ("warm", "up")

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Any,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: Dtype = "auto",
        backend: BackendName = "auto",
        input_key: str = "text",
        accept_score: float | None = None,
        coverage: float | None = None,
        pair_key: str = "text_pair",
    ) -> Self:
        """Validate and load at once; as `TextClassifier.from_checkpoint`, with `pair_key` for the second text."""
        return cls(
            checkpoint=source_of(checkpoint), revision=revision, device=device, dtype=dtype, backend=backend,
            input_key=input_key, accept_score=accept_score, coverage=coverage, pair_key=pair_key,
        ).warm_up()  # fmt: skip

    @property
    def InputType(self) -> Any:
        """A mapping with two texts, or a tuple of them."""
        return dict[str, str] | tuple[str, str]

    @property
    def OutputType(self) -> type[PairClassification]:
        """The result."""
        return PairClassification

    def _read_one(self, value: Any) -> Input:
        return pair_of(value, self.input_key, self.pair_key)

    @property
    def _keys(self) -> tuple[str, ...]:
        return self.input_key, self.pair_key


class IntentAndEntityTagger(TextClassifier):
    """Classify a text and find its entities, in one forward: joint intent classification and slot filling.

    The result is a `Classification` with `entities`, so that whatever takes the one takes it too, a `LabelRouter` for
    instance. `accept_score` holds for the label and for each entity.

    Example:
        ```python
        assistant = IntentAndEntityTagger.from_checkpoint("runs/assistant")
        frame = assistant.invoke("Book a table for two in Oslo.")
        frame.label, [(entity.label, entity.text) for entity in frame.entities]
        ```
    """

    _task: ClassVar[Task] = JOINT

    @property
    def OutputType(self) -> type[IntentAndEntities]:
        """The result."""
        return IntentAndEntities

    @property
    def entity_types(self) -> tuple[str, ...]:
        """The types of entity that this model can find."""
        return TagSet.from_labels(self._loaded().checkpoint.tags or LabelSet(())).types


class MultiLabelClassifier(EncoderRunnable[MultiLabelClassification]):
    """Classify a text: any number of labels, each with a probability of its own.

    A label is given when the model's own score reaches the threshold that training chose for it on validation rows; of
    a plain Hugging Face folder, 0.5. `scores` are calibrated where the checkpoint is, which changes no label that is
    given. `labels` is in the order of the label set, not of the scores.

    Example:
        ```python
        classifier = MultiLabelClassifier.from_checkpoint("runs/topics")
        classifier.invoke("The parcel is late and I was charged twice.").labels
        ```
    """

    _task: ClassVar[Task] = "multi-label-classification"

    @property
    def OutputType(self) -> type[MultiLabelClassification]:
        """The result."""
        return MultiLabelClassification


class OrdinalClassifier(OneLabelClassifier[OrdinalClassification]):
    """Classify a text by labels that have an order, such as low, medium, high: one label, with the probability of each.

    The order is that of training. A plain Hugging Face classifier is taken to number its labels from the lowest up.

    Example:
        ```python
        stars = OrdinalClassifier.from_checkpoint("runs/stars")
        answer = stars.invoke("Arrived late, but it works.")
        answer.label, answer.expected_rank, answer.at_least("4")
        ```
    """

    _task: ClassVar[Task] = ORDINAL

    @property
    def OutputType(self) -> type[OrdinalClassification]:
        """The result."""
        return OrdinalClassification


class TextRegressor(EncoderRunnable[Regression]):
    """Give a text a number, with an interval that holds the right one as often as it says.

    The interval comes from rows that training held out; a plain Hugging Face folder has none.

    Example:
        ```python
        urgency = TextRegressor.from_checkpoint("runs/urgency")
        urgency.invoke("My card was stolen an hour ago!").value
        ```
    """

    _task: ClassVar[Task] = "regression"

    @property
    def OutputType(self) -> type[Regression]:
        """The result."""
        return Regression


class EntityTagger(EncoderRunnable[Tagging]):
    """Find the entities of a text, with their character offsets.

    Example:
        ```python
        tagger = EntityTagger.from_checkpoint("runs/entities")
        [(entity.label, entity.text) for entity in tagger.invoke("Ship it to Oslo.").entities]
        ```
    """

    _task: ClassVar[Task] = "token-classification"

    @property
    def OutputType(self) -> type[Tagging]:
        """The result."""
        return Tagging
