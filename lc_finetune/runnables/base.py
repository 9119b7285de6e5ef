"""What all models share: the LangChain contract over a checkpoint; and what classifiers and tagger share beyond it."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Generic, Self, TypeVar, get_args

from langchain_core.runnables import Runnable, RunnableConfig, RunnableSerializable, ensure_config
from langchain_core.runnables.config import run_in_executor
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, create_model, field_validator

from lc_finetune import runs
from lc_finetune.checkpoint import EXPLAINED, RUNNABLES, Checkpoint, Task
from lc_finetune.composition import ResultRunnable
from lc_finetune.confidence import Thresholds
from lc_finetune.errors import ConfigError, InputError, did_you_mean, raised
from lc_finetune.inference.backends import BackendName, Dtype
from lc_finetune.inference.predictor import Predictor, validated
from lc_finetune.inference.served import as_asked, check_served
from lc_finetune.inference.worker import Completion
from lc_finetune.runnables.fanout import FanOut
from lc_finetune.runnables.inputs import awhole, text_of, whole
from lc_finetune.schemas import Explanation, Generation, Input, MultiLabelClassification, Result

R = TypeVar("R", bound=Result)


class ModelRunnable(ResultRunnable[R], RunnableSerializable[Any, R], Generic[R]):
    """A checkpoint as a Runnable.

    The constructor does no I/O: weights are loaded at the first call, or by `from_checkpoint`. They are shared by all
    Runnables of the process over the same checkpoint on the same device.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    checkpoint: str = Field(description="Checkpoint folder, URL, or Hub id.")
    revision: str | None = Field(default=None, description="Branch, tag or commit of a Hub id.")
    device: str = Field(default="auto", description="'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'.")
    input_key: str = Field(default="text", description="Where a mapping keeps its text.")

    _task: ClassVar[str]
    _predictor: Any = PrivateAttr(default=None)

    @property
    def InputType(self) -> Any:
        """A text; other shapes are read too."""
        return str

    def _read_one(self, value: Any) -> Input:
        """Read one input; by default, as `text_of` does."""
        return text_of(value, self.input_key)

    @property
    def _keys(self) -> tuple[str, ...]:
        """Where a mapping keeps what is answered."""
        return (self.input_key,)

    # Loading.

    def close(self) -> None:
        """Let go of the weights; they leave memory when no other Runnable uses them. The next call loads again."""
        self._predictor = None

    # One call.

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> R:
        """Answer one input."""
        if runs.unwatched(config):
            return self._one(input, **kwargs)
        return self._call_with_config(self._one, input, self._described(config), **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> R:
        """Answer one input without blocking the event loop."""
        if runs.unwatched(config):
            return await self._aone(input, **kwargs)
        return await self._acall_with_config(self._aone, input, self._described(config), **kwargs)

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[R]:
        """Answer many inputs in as few forwards as the token budget allows, in their order."""
        described = self._each_described(config)
        return runs.batch(self, self._many, inputs, described, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[R]:
        """As `batch`, without blocking the event loop."""
        described = self._each_described(config)
        return await runs.abatch(self, self._amany, inputs, described, return_exceptions=return_exceptions, **kwargs)

    def transform(self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[R]:
        """Answer each text of an iterator as it arrives; chunks of one message are put together first."""
        yield from self._transform_stream_with_config(input, self._each, self._described(config), **kwargs)

    async def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[R]:
        """As `transform`, over an asynchronous iterator."""
        described = self._described(config)
        async for result in self._atransform_stream_with_config(input, self._aeach, described, **kwargs):
            yield result

    def _described(self, config: RunnableConfig | None) -> RunnableConfig:
        """Say in the run's metadata which model answers, as LangChain's own models do."""
        if config is None or config.get("metadata") is None:  # then those of the surrounding run count
            config = ensure_config(config)
        own = {"ls_provider": "lc_finetune", "ls_model_name": self.checkpoint, "ls_model_type": self._task}
        return {**config, "metadata": {**config["metadata"], **own}}

    def _each_described(self, config: runs.Configs) -> runs.Configs:
        if runs.unwatched(config):
            return config
        return [self._described(one) for one in config] if isinstance(config, Sequence) else self._described(config)

    def _one(self, value: Any) -> R:
        result: R = raised(self._many([value])[0])
        return result

    async def _aone(self, value: Any) -> R:
        result: R = raised((await self._amany([value]))[0])
        return result

    @abstractmethod
    def _many(self, values: Sequence[Any]) -> list[Any]:
        """Answer each value, or give in its place the exception that it caused."""

    @abstractmethod
    async def _amany(self, values: Sequence[Any]) -> list[Any]:
        """As `_many`."""

    def _read(self, values: Sequence[Any]) -> tuple[list[Exception | None], list[Input]]:
        slots: list[Exception | None] = []
        texts: list[Input] = []
        for value in values:
            try:
                texts.append(self._read_one(value))
                slots.append(None)
            except Exception as error:
                slots.append(error)
        return slots, texts

    def _each(self, values: Iterator[Any]) -> Iterator[R]:
        for value in whole(values):
            yield self._one(value)

    async def _aeach(self, values: AsyncIterator[Any]) -> AsyncIterator[R]:
        async for value in awhole(values):
            yield await self._aone(value)

    def assign(self, **kwargs: Any) -> RunnableSerializable[Any, Any]:
        """Continue with a dict of the result's fields and more, computed from it; see `FanOut.assign`."""
        return self | FanOut.assign(**kwargs)

    # Copies share the weights; equal are those that are configured alike, loaded or not.

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy; one that is changed loads what it needs, one that is not shares the weights, also if deep."""
        copied = super().model_copy(update=update)
        if update:
            copied.close()
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.model_copy()

    def __getstate__(self) -> dict[Any, Any]:
        return {**super().__getstate__(), "__pydantic_private__": {"_predictor": None}}

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    # Tools and serialization.

    def as_tool(
        self,
        args_schema: type[BaseModel] | None = None,
        *,
        name: str | None = None,
        description: str | None = None,
        arg_types: Mapping[str, type] | None = None,
    ) -> BaseTool:
        """Make a tool that takes a text, or a pair of texts, and answers JSON.

        What cannot be read is answered with `{"error": …}`, in a message whose status is `"error"`: a language model
        may ask again, and its agent goes on.
        """
        if arg_types is not None:
            raise ConfigError("Expected no arg_types: the tool takes the text, or both of a pair. Use args_schema.")
        named = name or self.get_name()
        text: Any = (str, Field(description="The text, unchanged."))
        schema = args_schema or create_model(f"{type(self).__name__}Input", **dict.fromkeys(self._keys, text))

        def run(config: RunnableConfig, **arguments: Any) -> str:
            try:
                return answer(self.invoke(arguments, config))
            except InputError as error:
                raise ToolException(str(error)) from error

        async def arun(config: RunnableConfig, **arguments: Any) -> str:
            try:
                return answer(await self.ainvoke(arguments, config))
            except InputError as error:
                raise ToolException(str(error)) from error

        return StructuredTool.from_function(
            func=run,
            coroutine=arun,
            name=named,
            description=description or _first_line(self),
            args_schema=schema,
            infer_schema=False,
            handle_tool_error=lambda error: json.dumps({"error": str(error)}, ensure_ascii=False),
        )

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """`dumps` writes the fields; no weight is written."""
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Where `loads` finds the class."""
        return ["lc_finetune", "runnables"]


class EncoderRunnable(ModelRunnable[R], Generic[R]):
    """A fine-tuned encoder as a Runnable.

    The constructor does no I/O: weights are loaded at the first call, or by `from_checkpoint` and `warm_up`. They are
    shared by all Runnables of the process over the same checkpoint, device, dtype and backend.
    """

    dtype: Dtype = "auto"
    backend: BackendName = "auto"
    accept_score: float | None = Field(
        default=None, ge=0, le=1, description="Score from which on an answer is accepted; None is the checkpoint's own."
    )

    _task: ClassVar[Task]
    _example: ClassVar[Input] = "warm up"
    _predictor: Predictor | None = PrivateAttr(default=None)

    @field_validator("dtype", "backend", mode="before")
    @classmethod
    def _known(cls, value: Any, info: ValidationInfo) -> Any:
        known = get_args({"dtype": Dtype, "backend": BackendName}[str(info.field_name)])
        if value not in known:
            raise ConfigError(f"Expected {info.field_name} {', '.join(map(repr, known))}, found {value!r}.")
        return value

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
    ) -> Self:
        """Validate and load at once.

        Args:
            checkpoint: A folder, a URL (`s3://…`), a Hub id, or the `Checkpoint` that training returned.
            revision: Branch, tag or commit of a Hub id.
            device: `"auto"` takes CUDA, then MPS, then CPU.
            dtype: `"auto"` is fp32 on CPU and MPS, bf16 on CUDA; int8 is never chosen unasked.
            backend: `"auto"` is the fastest that the folder holds: exports are made by `lc-finetune export`.
            input_key: Where a mapping keeps its text.
            accept_score: Score from which on an answer is accepted, in place of the checkpoint's own thresholds.

        Raises:
            CheckpointError: If the folder is incomplete, altered, unsafe, for another task, or holds no such export.
            ConfigError: If the device, dtype or backend is not to be had.
            MissingDependencyError: If the backend's package is not installed.
        """
        return cls(
            checkpoint=source_of(checkpoint), revision=revision, device=device, dtype=dtype, backend=backend,
            input_key=input_key, accept_score=accept_score,
        ).warm_up()  # fmt: skip

    # Loading.

    def warm_up(self) -> Self:
        """Load now and run once for one text and once for two, so that the first real call is as fast as the others."""
        for texts in ([self._example], [self._example] * 2):
            predictor = self._loaded()
            for outcome in predictor.predict(texts, self._complete(predictor)):
                if isinstance(outcome, Exception):
                    raise outcome
        return self

    def _loaded(self) -> Predictor:
        if self._predictor is None:
            checkpoint = as_asked(validated(self.checkpoint, self.revision), self._task)
            check_served(checkpoint, self._task)
            self._predictor = Predictor.load(checkpoint, device=self.device, dtype=self.dtype, backend=self.backend)
        return self._predictor

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels this model can answer."""
        return self._loaded().checkpoint.labels.names

    # Explaining.

    def explain(self, input: Any, *, target: str | None = None, neighbours: int = 5) -> Explanation:
        """Say which parts of a text speak for a label, and which training rows are most like it.

        Needs the torch weights, in float32, whatever serves the checkpoint: they are loaded at the first call, and stay
        as long as the model does. Takes some hundred times as long as an answer. See `docs/explaining.md`.

        Args:
            input: As `invoke` takes it.
            target: The label that is explained; None for the most probable one.
            neighbours: Training rows that are given, at most, of those that `--keep-neighbours` kept in the checkpoint.

        Raises:
            CheckpointError: If the weights, or the rows that were kept, cannot be read.
            ConfigError: If this is no classifier of single texts, or has no such label.
            InputError: If the input cannot be read.
            MissingDependencyError: If captum is not installed: the extra `explain`.
        """
        if self._task not in EXPLAINED:
            able = " or ".join(RUNNABLES[task] for task in EXPLAINED)
            raise ConfigError(f"Expected a {able} to explain answers of, found a {type(self).__name__}.")
        if neighbours < 0:
            raise ConfigError(f"neighbours: expected 0 or more, found {neighbours}.")
        if target is not None and target not in self.labels:
            raise ConfigError(
                f"target: expected a label of the checkpoint, found {target!r}{did_you_mean(target, self.labels)}."
            )
        from lc_finetune.inference.explain import explainer_of
        from lc_finetune.inference.neighbours import read_neighbourhood

        explainer = explainer_of(self._loaded())
        neighbourhood = read_neighbourhood(validated(self.checkpoint, self.revision))  # of this folder, not of an equal
        answered: Any = self._one(input)
        likeliest = max(answered.scores, key=answered.scores.__getitem__)
        label = target or (likeliest if isinstance(answered, MultiLabelClassification) else answered.label)
        return explainer.explain(
            answered.text, label, score=answered.scores[label], neighbourhood=neighbourhood, neighbours=neighbours
        )

    def _many(self, values: Sequence[Any]) -> list[Any]:
        slots, texts = self._read(values)
        if not texts:
            return slots
        predictor = self._loaded()
        return filled(slots, self._judged(predictor.predict(texts, self._complete(predictor))))

    async def _amany(self, values: Sequence[Any]) -> list[Any]:
        slots, texts = self._read(values)
        predictor = self._predictor
        if predictor is None:
            predictor = await run_in_executor(None, self._loaded)
        if not texts:
            return slots
        return filled(slots, self._judged(await predictor.apredict(texts, self._complete(predictor))))

    def _complete(self, predictor: Predictor) -> Completion | None:
        """Make what adds to each result what these fields ask for beyond others."""
        return None

    def _judged(self, outcomes: list[Any]) -> list[Any]:
        """Let `accept_score` decide what is accepted."""
        if self.accept_score is None:
            return outcomes
        confidence = replace(self._loaded().confidence, thresholds=Thresholds(score=self.accept_score))
        return [one if isinstance(one, Exception) else confidence.judged(one) for one in outcomes]


def source_of(checkpoint: Any) -> str:
    """Name a folder or Hub id, or the folder of a `Checkpoint`."""
    return str(checkpoint.path if isinstance(checkpoint, Checkpoint) else checkpoint)


def answer(result: Result) -> str:
    """Write a result as the JSON that a tool answers: everything but the texts that the caller has."""
    given = {"input"} if isinstance(result, Generation) else {"text", "text_pair", "question"}
    return json.dumps(result.model_dump(mode="json", exclude=given), ensure_ascii=False)


def filled(slots: Sequence[Exception | None], outcomes: Sequence[Any]) -> list[Any]:
    """Put outcomes where no slot is taken by the exception of an input that could not be read."""
    answered = iter(outcomes)
    return [next(answered) if slot is None else slot for slot in slots]


def _first_line(runnable: Runnable[Any, Any]) -> str:
    return (type(runnable).__doc__ or "").strip().partition("\n")[0]
