"""What classifier and tagger share: the LangChain contract over one predictor."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, Self, TypeVar

from langchain_core.messages import BaseMessageChunk
from langchain_core.runnables import (
    Runnable,
    RunnableAssign,
    RunnableConfig,
    RunnableLambda,
    RunnablePassthrough,
    RunnablePick,
    RunnableSerializable,
)
from langchain_core.runnables.config import run_in_executor
from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, create_model

from lc_finetune.checkpoint import Checkpoint
from lc_finetune.errors import CheckpointError
from lc_finetune.inference.predictor import Predictor, validated
from lc_finetune.runnables.inputs import text_of
from lc_finetune.schemas import Result

R = TypeVar("R", bound=Result)


def as_mapping(result: Result) -> dict[str, Any]:
    """Turn a result into a dict of its fields, entities and scores as they are."""
    return {name: getattr(result, name) for name in type(result).model_fields}


class FieldsOf(RunnableLambda[Result, dict[str, Any]]):
    """A result → a dict of its fields, whose schema is the result's own."""

    def __init__(self, result_type: type[Result]) -> None:
        super().__init__(as_mapping)
        self._result_type = result_type

    def get_output_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """The result's model: what is picked or assigned next keeps its type."""
        return self._result_type


class EncoderRunnable(RunnableSerializable[Any, R], Generic[R]):
    """A fine-tuned encoder as a Runnable.

    The constructor does no I/O: weights are loaded at the first call, or by `from_checkpoint` and `warm_up`. They are
    shared by all Runnables of the process over the same checkpoint, device, dtype and backend.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    checkpoint: str = Field(description="Checkpoint folder, or Hub id.")
    revision: str | None = Field(default=None, description="Branch, tag or commit of a Hub id.")
    device: str = Field(default="auto", description="'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'.")
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    backend: Literal["auto", "torch", "onnx", "openvino"] = "auto"
    input_key: str = Field(default="text", description="Where a mapping keeps its text.")

    _predictor: Predictor | None = PrivateAttr(default=None)

    @property
    @abstractmethod
    def InputType(self) -> type[str]:
        """A text; other shapes are read by `text_of`."""

    @classmethod
    @abstractmethod
    def _check(cls, checkpoint: Checkpoint) -> None:
        """Refuse a checkpoint for another task."""

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Any,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto",
        backend: Literal["auto", "torch", "onnx", "openvino"] = "auto",
        input_key: str = "text",
    ) -> Self:
        """Validate and load at once.

        Args:
            checkpoint: A folder, a Hub id, or the `Checkpoint` that training returned.
            revision: Branch, tag or commit of a Hub id.
            device: `"auto"` takes CUDA, then MPS, then CPU.
            dtype: `"auto"` is fp32 on CPU and MPS, bf16 on CUDA; int8 is never chosen unasked.
            backend: `"auto"` is the fastest that the folder holds: exports are made by `lc-finetune export`.
            input_key: Where a mapping keeps its text.

        Raises:
            CheckpointError: If the folder is incomplete, altered, unsafe, for another task, or holds no such export.
            ConfigError: If the device, dtype or backend is not to be had.
            MissingDependencyError: If the backend's package is not installed.
        """
        source = str(checkpoint.path if isinstance(checkpoint, Checkpoint) else checkpoint)
        return cls(
            checkpoint=source, revision=revision, device=device, dtype=dtype, backend=backend, input_key=input_key
        ).warm_up()

    # Loading.

    def warm_up(self) -> Self:
        """Load now and run once, so that the first real call is as fast as the others."""
        for outcome in self._loaded().predict(["warm up"]):
            if isinstance(outcome, Exception):
                raise outcome
        return self

    def close(self) -> None:
        """Let go of the weights; they leave memory when no other Runnable uses them. The next call loads again."""
        self._predictor = None

    def _loaded(self) -> Predictor:
        if self._predictor is None:
            checkpoint = validated(self.checkpoint, self.revision)
            self._check(checkpoint)
            self._predictor = Predictor.load(checkpoint, device=self.device, dtype=self.dtype, backend=self.backend)
        return self._predictor

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels this model can answer."""
        return self._loaded().checkpoint.labels.names

    # One call.

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> R:
        """Answer one input."""
        return self._call_with_config(self._one, input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> R:
        """Answer one input without blocking the event loop."""
        return await self._acall_with_config(self._aone, input, config, **kwargs)

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[R]:
        """Answer many inputs in as few forwards as the token budget allows, in their order."""
        return self._batch_with_config(self._many, inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[R]:
        """As `batch`, without blocking the event loop."""
        return await self._abatch_with_config(
            self._amany, inputs, config, return_exceptions=return_exceptions, **kwargs
        )

    def transform(self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[R]:
        """Answer each text of an iterator as it arrives; chunks of one message are put together first."""
        yield from self._transform_stream_with_config(input, self._each, config, **kwargs)

    async def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[R]:
        """As `transform`, over an asynchronous iterator."""
        async for result in self._atransform_stream_with_config(input, self._aeach, config, **kwargs):
            yield result

    def _one(self, value: Any) -> R:
        result: R = _raised(self._many([value])[0])
        return result

    async def _aone(self, value: Any) -> R:
        result: R = _raised((await self._amany([value]))[0])
        return result

    def _many(self, values: Sequence[Any]) -> list[Any]:
        slots, texts = self._read(values)
        return _filled(slots, self._loaded().predict(texts) if texts else [])

    async def _amany(self, values: Sequence[Any]) -> list[Any]:
        slots, texts = self._read(values)
        predictor = self._predictor
        if predictor is None:
            predictor = await run_in_executor(None, self._loaded)
        return _filled(slots, await predictor.apredict(texts) if texts else [])

    def _read(self, values: Sequence[Any]) -> tuple[list[Exception | None], list[str]]:
        slots: list[Exception | None] = []
        texts: list[str] = []
        for value in values:
            try:
                texts.append(text_of(value, self.input_key))
                slots.append(None)
            except Exception as error:
                slots.append(error)
        return slots, texts

    def _each(self, values: Iterator[Any]) -> Iterator[R]:
        message: Any = None
        for value in values:
            if isinstance(value, BaseMessageChunk):
                message = value if message is None else message + value
            else:
                yield self._one(value)
        if message is not None:
            yield self._one(message)

    async def _aeach(self, values: AsyncIterator[Any]) -> AsyncIterator[R]:
        message: Any = None
        async for value in values:
            if isinstance(value, BaseMessageChunk):
                message = value if message is None else message + value
            else:
                yield await self._aone(value)
        if message is not None:
            yield await self._aone(message)

    # Composition: LangChain's pick and assign ask for a dict, a result is a model.

    def pick(self, keys: str | list[str]) -> RunnableSerializable[Any, Any]:
        """Continue with one field of the result, or with a dict of several."""
        return self | RunnablePick(keys)

    def assign(self, **kwargs: Any) -> RunnableSerializable[Any, Any]:
        """Continue with a dict of the result's fields and more, computed from it."""
        return self | RunnablePassthrough.assign(**kwargs)

    def __or__(self, other: Any) -> RunnableSerializable[Any, Any]:
        """Compose; `RunnablePick` and `RunnableAssign` are handed the result's fields as a dict."""
        if isinstance(other, RunnablePick | RunnableAssign):
            return super().__or__(FieldsOf(self.OutputType)) | other
        return super().__or__(other)

    # Tools and serialization.

    def as_tool(
        self,
        args_schema: type[BaseModel] | None = None,
        *,
        name: str | None = None,
        description: str | None = None,
        arg_types: Mapping[str, type] | None = None,
    ) -> BaseTool:
        """Make a tool that takes a text and answers JSON."""
        if arg_types is not None:
            raise CheckpointError("Expected no arg_types: the tool takes one argument, its text. Use args_schema.")
        named = name or self.get_name()
        text: Any = (str, Field(description="The text, unchanged."))
        schema = args_schema or create_model(f"{type(self).__name__}Input", **{self.input_key: text})

        def run(config: RunnableConfig, **arguments: Any) -> str:
            return answer(self.invoke(arguments, config))

        async def arun(config: RunnableConfig, **arguments: Any) -> str:
            return answer(await self.ainvoke(arguments, config))

        return StructuredTool.from_function(
            func=run,
            coroutine=arun,
            name=named,
            description=description or _first_line(self),
            args_schema=schema,
            infer_schema=False,
        )

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """`dumps` writes the fields; no weight is written."""
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Where `loads` finds the class."""
        return ["lc_finetune", "runnables"]


def answer(result: Result) -> str:
    """Write a result as the JSON that a tool answers: everything but the text, which the caller has."""
    return json.dumps(result.model_dump(mode="json", exclude={"text"}), ensure_ascii=False)


def _raised(outcome: Any) -> Any:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _filled(slots: Sequence[Exception | None], outcomes: Sequence[Any]) -> list[Any]:
    answered = iter(outcomes)
    return [next(answered) if slot is None else slot for slot in slots]


def _first_line(runnable: Runnable[Any, Any]) -> str:
    return (type(runnable).__doc__ or "").strip().partition("\n")[0]
