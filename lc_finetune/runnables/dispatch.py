"""What Runnables that hand their inputs on to others share: one call of each for a whole batch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Union

from langchain_core.runnables import Runnable, RunnableConfig, RunnableSerializable
from langchain_core.runnables.utils import ConfigurableFieldSpec, get_unique_config_specs
from pydantic import BaseModel, RootModel, create_model

from lc_finetune import runs
from lc_finetune.errors import raised
from lc_finetune.runnables.inputs import awhole, whole


class WholeBatches(Runnable[Any, Any]):
    """A Runnable whose `batch` and `abatch` keep the batch whole; each item is one run, and fails alone."""

    @abstractmethod
    def _many(
        self, values: list[Any], run_manager: Sequence[Any], config: Sequence[RunnableConfig], **kwargs: Any
    ) -> list[Any]:
        """Answer all values in order: for each its answer, or the exception that stands for it."""

    @abstractmethod
    async def _amany(
        self, values: list[Any], run_manager: Sequence[Any], config: Sequence[RunnableConfig], **kwargs: Any
    ) -> list[Any]:
        """As `_many`, without blocking the event loop."""

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Hand all inputs on, in one batch to each Runnable that has any; the answers come back in order."""
        return runs.batch(self, self._many, inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """As `batch`, without blocking the event loop."""
        return await runs.abatch(self, self._amany, inputs, config, return_exceptions=return_exceptions, **kwargs)


class Dispatcher(WholeBatches, RunnableSerializable[Any, Any]):
    """A Runnable that decides, input by input, who answers. One input is a batch of one, unless overridden."""

    @property
    @abstractmethod
    def _branches(self) -> list[Runnable[Any, Any]]:
        """All that may be asked."""

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What can be configured in any of the branches."""
        return get_unique_config_specs(spec for branch in self._branches for spec in branch.config_specs)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Answer one input."""
        return self._call_with_config(self._one, input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As `invoke`, without blocking the event loop."""
        return await self._acall_with_config(self._aone, input, config, **kwargs)

    def transform(self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Answer each item as it arrives; chunks of one message or mapping are put together first."""
        yield from self._transform_stream_with_config(input, self._each, config, **kwargs)

    async def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """As `transform`, over an asynchronous iterator."""
        async for chunk in self._atransform_stream_with_config(input, self._aeach, config, **kwargs):
            yield chunk

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Stream what answers one input."""
        yield from self.transform(iter([input]), config, **kwargs)

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        """As `stream`, without blocking the event loop."""

        async def one() -> AsyncIterator[Any]:
            yield input

        async for chunk in self.atransform(one(), config, **kwargs):
            yield chunk

    def _one(self, value: Any, run_manager: Any, config: RunnableConfig, **kwargs: Any) -> Any:
        return raised(self._many([value], [run_manager], [config], **kwargs)[0])

    async def _aone(self, value: Any, run_manager: Any, config: RunnableConfig, **kwargs: Any) -> Any:
        return raised((await self._amany([value], [run_manager], [config], **kwargs))[0])

    def _each(self, values: Iterator[Any], run_manager: Any, config: RunnableConfig, **kwargs: Any) -> Iterator[Any]:
        for value in whole(values):
            yield self._one(value, run_manager, config, **kwargs)

    async def _aeach(
        self, values: AsyncIterator[Any], run_manager: Any, config: RunnableConfig, **kwargs: Any
    ) -> AsyncIterator[Any]:
        async for value in awhole(values):
            yield await self._aone(value, run_manager, config, **kwargs)

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """`dumps` writes the Runnables that are serializable themselves."""
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Where `loads` finds the class."""
        return ["lc_finetune", "runnables"]


def child(config: RunnableConfig, run_manager: Any, tag: str | None = None) -> RunnableConfig:
    """Make the configuration of a run within a run, of one that LangChain has completed and will copy again."""
    return {**config, "callbacks": run_manager.get_child(tag)}


def children(
    configs: Sequence[RunnableConfig], run_managers: Sequence[Any], tag: str | None = None
) -> list[RunnableConfig]:
    """Make the configurations of a batch within a batch."""
    return [child(config, manager, tag) for config, manager in zip(configs, run_managers, strict=True)]


def outcomes_of(
    runnable: Runnable[Any, Any],
    values: Sequence[Any],
    config: RunnableConfig | list[RunnableConfig] | None = None,
) -> list[Any]:
    """Ask in one call; each value has its answer or exception, also where the call fails as a whole."""
    try:
        return runnable.batch(list(values), config, return_exceptions=True) if values else []
    except Exception as error:  # a checkpoint that cannot be loaded, for instance
        return [error] * len(values)


async def aoutcomes_of(
    runnable: Runnable[Any, Any],
    values: Sequence[Any],
    config: RunnableConfig | list[RunnableConfig] | None = None,
) -> list[Any]:
    """As `outcomes_of`, without blocking the event loop."""
    try:
        return await runnable.abatch(list(values), config, return_exceptions=True) if values else []
    except Exception as error:
        return [error] * len(values)


def one_of(types: Sequence[Any]) -> Any:
    """Make the union of types; of one, that type."""
    return Union[tuple(types)]  # noqa: UP007  (of a tuple)


def schema_of(shape: Any, name: str) -> type[BaseModel]:
    """Give a model itself, and anything else as the root of one."""
    if isinstance(shape, type) and issubclass(shape, BaseModel):
        return shape
    return create_model(name, __base__=RootModel[shape])
