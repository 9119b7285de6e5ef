"""Text for a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self, cast

from langchain_core.runnables.config import run_in_executor
from pydantic import Field, PrivateAttr

from lc_finetune.checkpoint import SEQ2SEQ
from lc_finetune.inference.generation import Generated, Generator
from lc_finetune.runnables.base import ModelRunnable, filled
from lc_finetune.schemas import Generation


class TextGenerator(ModelRunnable[Generation]):
    """Write a text for a text, such as its summary or its translation.

    The answer is the model's likeliest by greedy or beam search, as its `generation_config.json` says, and never
    sampled. Its `text` is what was written, so that `generator | classifier` classifies that. A text that is longer
    than the model reads is an `InputError`: nothing is cut unasked. For a blank text nothing is written.

    Example:
        ```python
        generator = TextGenerator.from_checkpoint("runs/summaries")
        generator.invoke("My parcel was due on Monday. It is Friday now, and nobody answers my mails.").text
        ```
    """

    num_beams: int | None = Field(
        default=None, ge=1, description="Beams of the search, 1 for greedy; None is the checkpoint's own."
    )
    max_new_tokens: int | None = Field(
        default=None, ge=1, description="Pieces that may be written; None is the checkpoint's own."
    )

    _task: ClassVar[str] = SEQ2SEQ
    _predictor: Generator | None = PrivateAttr(default=None)

    @property
    def OutputType(self) -> type[Generation]:
        """The result."""
        return Generation

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Any,
        *,
        revision: str | None = None,
        device: str = "auto",
        input_key: str = "text",
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
    ) -> Self:
        """Validate and load at once.

        Args:
            checkpoint: A folder that `--task seq2seq` has written, or any safetensors encoder-decoder; a URL
                (`s3://…`), a Hub id, or what `train_generator` returned.
            revision: Branch, tag or commit of a Hub id.
            device: `"auto"` takes CUDA, then MPS, then CPU; fp32, and bf16 on CUDA.
            input_key: Where a mapping keeps its text.
            num_beams: Beams of the search, in place of the checkpoint's own.
            max_new_tokens: Pieces that may be written, likewise.

        Raises:
            CheckpointError: If the folder is incomplete, altered, unsafe, or for another task.
            ConfigError: If the device is not to be had, or the model cannot write so many pieces.
            MissingDependencyError: If the tokenizer, such as Marian's, needs sentencepiece: the extra `generation`.
        """
        loaded = cls(
            checkpoint=str(getattr(checkpoint, "path", checkpoint)), revision=revision, device=device,
            input_key=input_key, num_beams=num_beams, max_new_tokens=max_new_tokens,
        )  # fmt: skip
        loaded._loaded()
        return loaded

    def _loaded(self) -> Generator:
        if self._predictor is None:
            found = Generator.load(self.checkpoint, revision=self.revision, device=self.device)
            found.check(max_new_tokens=self.max_new_tokens)
            self._predictor = found
        return self._predictor

    def _many(self, values: Sequence[Any]) -> list[Any]:
        slots, inputs = self._read(values)
        if not inputs:
            return slots
        texts = cast("list[str]", inputs)
        written = self._loaded().answer(texts, num_beams=self.num_beams, max_new_tokens=self.max_new_tokens)
        return filled(slots, [_result(text, one) for text, one in zip(texts, written, strict=True)])

    async def _amany(self, values: Sequence[Any]) -> list[Any]:
        return await run_in_executor(None, self._many, values)


def _result(text: str, written: Generated | Exception) -> Generation | Exception:
    if isinstance(written, Exception):
        return written
    return Generation(text=written.text, input=text, complete=written.complete)
