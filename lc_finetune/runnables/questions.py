"""A question and a context → the part of the context that answers."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import Field

from lc_finetune.answers import ANSWERS
from lc_finetune.checkpoint import QUESTIONS, Task
from lc_finetune.inference.backends import BackendName, Dtype
from lc_finetune.runnables.base import EncoderRunnable, source_of
from lc_finetune.runnables.inputs import pair_of
from lc_finetune.schemas import Input, QuestionAnswer


class QuestionAnswerer(EncoderRunnable[QuestionAnswer]):
    """Answer a question with the characters of a context, or say that the context has no answer.

    An input is `{"question": …, "context": …}` or a tuple of the two; a context may be a `Document`. Contexts of any
    length are read in windows, each with the whole question. A question of more than half a window is an `InputError`
    unless both fit into one.

    Example:
        ```python
        answerer = QuestionAnswerer.from_checkpoint("runs/questions")
        found = answerer.invoke({"question": "Where is it?", "context": "Your parcel is in Oslo."})
        found.answer, found.start, found.end, found.score
        ```
    """

    input_key: str = Field(default="question", description="Where a mapping keeps its question.")
    context_key: str = Field(default="context", description="Where a mapping keeps its context.")

    _task: ClassVar[Task] = QUESTIONS
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
        input_key: str = "question",
        accept_score: float | None = None,
        context_key: str = "context",
    ) -> Self:
        """Validate and load at once; as `TextClassifier.from_checkpoint`, with `context_key` for the context."""
        return cls(
            checkpoint=source_of(checkpoint), revision=revision, device=device, dtype=dtype, backend=backend,
            input_key=input_key, accept_score=accept_score, context_key=context_key,
        ).warm_up()  # fmt: skip

    @property
    def labels(self) -> tuple[str, ...]:
        """What it finds: an answer, or none."""
        return ANSWERS

    @property
    def InputType(self) -> Any:
        """A mapping with question and context, or a tuple of them."""
        return dict[str, str] | tuple[str, str]

    @property
    def OutputType(self) -> type[QuestionAnswer]:
        """The result."""
        return QuestionAnswer

    def _read_one(self, value: Any) -> Input:
        return pair_of(value, self.input_key, self.context_key, option="context_key")

    @property
    def _keys(self) -> tuple[str, ...]:
        return self.input_key, self.context_key
