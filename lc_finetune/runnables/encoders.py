"""The classifier and the tagger."""

from __future__ import annotations

from typing import ClassVar

from lc_finetune.checkpoint import Task
from lc_finetune.runnables.base import EncoderRunnable
from lc_finetune.schemas import Classification, Tagging


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
