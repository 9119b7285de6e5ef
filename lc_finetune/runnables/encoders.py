"""The classifiers, the regressor and the tagger."""

from __future__ import annotations

from typing import ClassVar

from lc_finetune.checkpoint import Task
from lc_finetune.runnables.base import EncoderRunnable
from lc_finetune.schemas import Classification, MultiLabelClassification, Regression, Tagging


class TextClassifier(EncoderRunnable[Classification]):
    """Classify a text: one label, with the probability of each.

    Example:
        ```python
        classifier = TextClassifier.from_checkpoint("runs/support")
        classifier.invoke("Where is my parcel?").label
        ```
    """

    _task: ClassVar[Task] = "text-classification"

    @property
    def InputType(self) -> type[str]:
        """A text; other shapes are read too."""
        return str

    @property
    def OutputType(self) -> type[Classification]:
        """The result."""
        return Classification


class MultiLabelClassifier(EncoderRunnable[MultiLabelClassification]):
    """Classify a text: any number of labels, each with a probability of its own.

    A label is given when its score reaches the threshold that training chose for it on validation rows; of a plain
    Hugging Face folder, 0.5. `labels` is in the order of the label set, not of the scores.

    Example:
        ```python
        classifier = MultiLabelClassifier.from_checkpoint("runs/topics")
        classifier.invoke("The parcel is late and I was charged twice.").labels
        ```
    """

    _task: ClassVar[Task] = "multi-label-classification"

    @property
    def InputType(self) -> type[str]:
        """A text; other shapes are read too."""
        return str

    @property
    def OutputType(self) -> type[MultiLabelClassification]:
        """The result."""
        return MultiLabelClassification


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
    def InputType(self) -> type[str]:
        """A text; other shapes are read too."""
        return str

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
    def InputType(self) -> type[str]:
        """A text; other shapes are read too."""
        return str

    @property
    def OutputType(self) -> type[Tagging]:
        """The result."""
        return Tagging
