"""Fan-out that keeps batches: each branch is called once per batch, the answers are put together by row."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from langchain_core.runnables import (
    Runnable,
    RunnableAssign,
    RunnableConfig,
    RunnableParallel,
    RunnableSerializable,
)
from langchain_core.runnables.base import RunnableLike, coerce_to_runnable
from langchain_core.runnables.config import get_executor_for_config
from langchain_core.runnables.utils import gather_with_concurrency
from langchain_core.utils.pydantic import TypeBaseModel, get_fields
from pydantic import BaseModel, ConfigDict, RootModel, create_model

from lc_finetune.composition import ResultRunnable, each_read, fields_of
from lc_finetune.errors import ConfigError
from lc_finetune.runnables.dispatch import WholeBatches, children


class _Assign:
    """`FanOut.assign` begins with the input, `fan_out.assign` goes on with what the fan-out answers."""

    def __get__(
        self, fan_out: FanOut | None, owner: type[FanOut]
    ) -> Callable[..., RunnableSerializable[Any, dict[str, Any]]]:
        return _assign if fan_out is None else partial(_assigned, fan_out)


class FanOut(WholeBatches, ResultRunnable[dict[str, Any]], RunnableParallel[Any]):
    """Give one input to several branches; answers a dict of theirs.

    As LangChain's `RunnableParallel`, but `batch` and `abatch` call each branch once, over the whole batch, so that a
    model runs full batches. Branches run side by side, at most `max_concurrency` of them. A branch that fails on one
    item fails that item alone. Keyword arguments go to every branch. Dicts among the branches are fan-outs too.

    `FanOut.assign(…)` is the equivalent of `RunnablePassthrough.assign(…)`: it keeps the fields of its input, a mapping
    or a result, and adds the branches' answers.

    Example:
        ```python
        both = FanOut(classification=classifier, tagging=tagger)
        labelled = FanOut.assign(label=classifier.pick("label"))
        ```
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, ignored_types=(_Assign,))

    def __init__(
        self, steps__: Mapping[str, RunnableLike[Any, Any]] | None = None, /, **branches: RunnableLike[Any, Any]
    ) -> None:
        """Take Runnables, functions or dicts as branches.

        Raises:
            ConfigError: If there is none.
        """
        # `steps__` by name is how `loads` gives them back.
        named = {**(steps__ or {}), **branches}
        stored: Any = named.pop("steps__", {})
        branches = {**stored, **named}
        if not branches:
            raise ConfigError("Expected at least one branch, found none.")
        super().__init__({key: as_branch(branch) for key, branch in branches.items()})

    assign: ClassVar[_Assign] = _Assign()  # a method of instances, as LangChain's, and of the class

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Where `loads` finds the class."""
        return ["lc_finetune", "runnables"]

    def get_name(self, suffix: str | None = None, *, name: str | None = None) -> str:
        """Name the branches, as LangChain does."""
        return super().get_name(suffix, name=name or self.name or f"FanOut<{','.join(self.steps__)}>")

    def get_input_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """What suits every branch: the fields of them all where they take mappings, or the type they agree on."""
        shapes = [shape_of(step.get_input_schema(config)) for step in self.steps__.values()]
        stated = [shape for shape in shapes if shape is not Any]
        if stated and all(isinstance(shape, type) and issubclass(shape, BaseModel) for shape in stated):
            fields: dict[str, Any] = {
                name: (field.annotation, field) for shape in stated for name, field in shape.model_fields.items()
            }
            return create_model(self.get_name("Input"), **fields)
        agreed: Any = stated[0] if stated and all(shape == stated[0] for shape in stated) else Any
        return create_model(self.get_name("Input"), __base__=RootModel[agreed])

    def get_output_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """A model with the output schema of each branch under its name."""
        fields: dict[str, Any] = {
            key: (shape_of(step.get_output_schema(config)), ...) for key, step in self.steps__.items()
        }
        return create_model(self.get_name("Output"), **fields)

    # One call: LangChain's own, which drops keyword arguments.

    def _binding(self, kwargs: Mapping[str, Any]) -> FanOut:
        if not kwargs:
            return self
        return self.model_copy(update={"steps__": {key: step.bind(**kwargs) for key, step in self.steps__.items()}})

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:
        """Give one input to every branch."""
        return super(FanOut, self._binding(kwargs)).invoke(input, config)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:
        """As `invoke`, without blocking the event loop."""
        return await super(FanOut, self._binding(kwargs)).ainvoke(input, config)

    def transform(
        self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[dict[str, Any]]:
        """Stream what each branch streams, under its name."""
        yield from super(FanOut, self._binding(kwargs)).transform(input, config)

    async def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[dict[str, Any]]:
        """As `transform`, over an asynchronous iterator."""
        async for chunk in super(FanOut, self._binding(kwargs)).atransform(input, config):
            yield chunk

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[dict[str, Any]]:
        """Stream what each branch streams, under its name."""
        yield from self.transform(iter([input]), config, **kwargs)

    async def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[dict[str, Any]]:
        """As `stream`, without blocking the event loop."""
        async for chunk in super(FanOut, self._binding(kwargs)).astream(input, config):
            yield chunk

    # Many calls: each branch is called once.

    def _many(
        self, values: list[Any], run_manager: Sequence[Any], config: Sequence[RunnableConfig], **kwargs: Any
    ) -> list[Any]:
        steps = dict(self.steps__)
        columns = side_by_side(
            [
                partial(
                    step.batch,
                    values,
                    children(config, run_manager, f"map:key:{key}"),
                    return_exceptions=True,
                    **kwargs,
                )
                for key, step in steps.items()
            ],
            config[0],
        )
        return _rows(steps, columns)

    async def _amany(
        self, values: list[Any], run_manager: Sequence[Any], config: Sequence[RunnableConfig], **kwargs: Any
    ) -> list[Any]:
        steps = dict(self.steps__)
        columns = await gather_with_concurrency(
            config[0].get("max_concurrency"),
            *(
                step.abatch(values, children(config, run_manager, f"map:key:{key}"), return_exceptions=True, **kwargs)
                for key, step in steps.items()
            ),
        )
        return _rows(steps, columns)


class FanOutAssign(WholeBatches, ResultRunnable[dict[str, Any]], RunnableAssign):
    """Keep the fields of the input and add the branches' answers; made by `FanOut.assign`."""

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Where `loads` finds the class."""
        return ["lc_finetune", "runnables"]

    def get_name(self, suffix: str | None = None, *, name: str | None = None) -> str:
        """Name the branches, as LangChain does."""
        return super().get_name(suffix, name=name or self.name or f"FanOutAssign<{','.join(self.mapper.steps__)}>")

    def _many(
        self, values: list[Any], run_manager: Sequence[Any], config: Sequence[RunnableConfig], **kwargs: Any
    ) -> list[Any]:
        rows = each_read(values)
        read, configs = _readable(rows, config)
        return _extended(rows, self.mapper.batch(read, configs, return_exceptions=True, **kwargs))

    async def _amany(
        self, values: list[Any], run_manager: Sequence[Any], config: Sequence[RunnableConfig], **kwargs: Any
    ) -> list[Any]:
        rows = each_read(values)
        read, configs = _readable(rows, config)
        return _extended(rows, await self.mapper.abatch(read, configs, return_exceptions=True, **kwargs))

    def _invoke(self, value: Any, run_manager: Any, config: RunnableConfig, **kwargs: Any) -> dict[str, Any]:
        return super()._invoke(fields_of(value), run_manager, config, **kwargs)

    async def _ainvoke(self, value: Any, run_manager: Any, config: RunnableConfig, **kwargs: Any) -> dict[str, Any]:
        return await super()._ainvoke(fields_of(value), run_manager, config, **kwargs)

    def _transform(
        self, values: Iterator[Any], run_manager: Any, config: RunnableConfig, **kwargs: Any
    ) -> Iterator[dict[str, Any]]:
        return super()._transform(map(fields_of, values), run_manager, config, **kwargs)

    def _atransform(
        self, values: AsyncIterator[Any], run_manager: Any, config: RunnableConfig, **kwargs: Any
    ) -> AsyncIterator[dict[str, Any]]:
        return super()._atransform((fields_of(value) async for value in values), run_manager, config, **kwargs)


def as_branch(thing: RunnableLike[Any, Any]) -> Runnable[Any, Any]:
    """Coerce as LangChain does, but a dict to a `FanOut`."""
    return FanOut(thing) if isinstance(thing, Mapping) else coerce_to_runnable(thing)


def shape_of(schema: TypeBaseModel) -> Any:
    """Give the type that a Runnable's schema stands for: a model, or the type that a root model holds."""
    root = get_fields(schema).get("root")
    return schema if root is None else root.annotation


def side_by_side(calls: Sequence[Callable[[], Any]], config: RunnableConfig) -> list[Any]:
    """Make calls in threads, at most `max_concurrency` at a time; a lone one in this thread."""
    if len(calls) == 1:
        return [calls[0]()]
    with get_executor_for_config(config) as executor:
        futures = [executor.submit(call) for call in calls]
        return [future.result() for future in futures]


def _assign(**branches: RunnableLike[Any, Any]) -> RunnableSerializable[Any, dict[str, Any]]:
    return FanOutAssign(mapper=FanOut(branches))


def _assigned(fan_out: FanOut, **branches: RunnableLike[Any, Any]) -> RunnableSerializable[Any, dict[str, Any]]:
    return fan_out | _assign(**branches)


def _rows(keys: Mapping[str, Any], columns: Sequence[Sequence[Any]]) -> list[dict[str, Any] | Exception]:
    return [
        next((cell for cell in cells if isinstance(cell, Exception)), dict(zip(keys, cells, strict=True)))
        for cells in zip(*columns, strict=True)
    ]


def _readable(
    rows: Sequence[dict[str, Any] | Exception], configs: Sequence[RunnableConfig]
) -> tuple[list[Any], list[RunnableConfig]]:
    positions = [i for i, row in enumerate(rows) if not isinstance(row, Exception)]
    return [rows[i] for i in positions], [configs[i] for i in positions]


def _extended(rows: Sequence[dict[str, Any] | Exception], added: Sequence[Any]) -> list[dict[str, Any] | Exception]:
    answers = iter(added)
    extended: list[dict[str, Any] | Exception] = []
    for row in rows:
        answer = row if isinstance(row, Exception) else next(answers)
        extended.append(answer if isinstance(row, Exception) or isinstance(answer, Exception) else {**row, **answer})
    return extended
