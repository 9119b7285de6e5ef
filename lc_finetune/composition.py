"""What a result needs to be composed with `|`: LangChain's pick and assign ask for a dict, a result is a model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from langchain_core.runnables import (
    Runnable,
    RunnableAssign,
    RunnableConfig,
    RunnablePick,
    RunnableSerializable,
)
from langchain_core.utils.pydantic import TypeBaseModel
from pydantic import ConfigDict, Field

from lc_finetune import runs
from lc_finetune.errors import InputError
from lc_finetune.schemas import Result

R = TypeVar("R")


def fields_of(value: Any) -> dict[str, Any]:
    """Turn a result into a dict of its fields, entities and scores as they are; copy a mapping.

    Raises:
        InputError: If it is neither.
    """
    if isinstance(value, Result):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return dict(value)
    raise InputError(f"Expected a mapping or a result, found {type(value).__name__}.")


class Fields(RunnableSerializable[Any, dict[str, Any]]):
    """A result → a dict of its fields, with the schema of the result."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    of: Runnable[Any, Any] = Field(description="Whose results they are.")

    def get_output_schema(self, config: RunnableConfig | None = None) -> TypeBaseModel:
        """The result's own: what is picked or assigned next keeps its type."""
        return self.of.get_output_schema(config)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:
        """Give the fields of one result."""
        return self._call_with_config(fields_of, input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:
        """As `invoke`; nothing here waits."""

        async def read(value: Any) -> dict[str, Any]:
            return fields_of(value)

        return await self._acall_with_config(read, input, config, **kwargs)

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """Give the fields of each result, without a thread for each."""
        return runs.batch(self, each_read, inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """As `batch`."""

        async def read(values: Sequence[Any]) -> list[Any]:
            return each_read(values)

        return await runs.abatch(self, read, inputs, config, return_exceptions=return_exceptions, **kwargs)

    def transform(
        self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[dict[str, Any]]:
        """Give the fields of each result as it arrives."""

        def read(values: Iterator[Any]) -> Iterator[dict[str, Any]]:
            return map(fields_of, values)

        yield from self._transform_stream_with_config(input, read, config, **kwargs)

    async def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[dict[str, Any]]:
        """As `transform`, over an asynchronous iterator."""

        async def read(values: AsyncIterator[Any]) -> AsyncIterator[dict[str, Any]]:
            async for value in values:
                yield fields_of(value)

        async for fields in self._atransform_stream_with_config(input, read, config, **kwargs):
            yield fields

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """`dumps` writes it within a sequence."""
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Where `loads` finds the class."""
        return ["lc_finetune", "composition"]


def each_read(values: Sequence[Any]) -> list[dict[str, Any] | Exception]:
    """Give the fields of each value, or in its place the exception that it caused."""
    read: list[dict[str, Any] | Exception] = []
    for value in values:
        try:
            read.append(fields_of(value))
        except Exception as error:
            read.append(error)
    return read


class ResultRunnable(Runnable[Any, R]):
    """A Runnable whose results can be picked from and assigned to.

    `runnable.pick("label")`, `runnable | RunnablePick("label")` and `runnable.assign(…)` work. Where a sequence has
    already begun, Python never asks the Runnable: write `prompt | runnable.pick("label")`, not
    `prompt | runnable | RunnablePick("label")`.
    """

    def __or__(self, other: Any) -> RunnableSerializable[Any, Any]:
        """Compose; `RunnablePick` and `RunnableAssign` are handed the result's fields as a dict."""
        if isinstance(other, RunnablePick | RunnableAssign):
            return super().__or__(Fields(of=self)) | other
        return super().__or__(other)

    def pipe(self, *others: Any, name: str | None = None) -> RunnableSerializable[Any, Any]:
        """Compose with several, as `|` does."""
        if others and isinstance(others[0], RunnablePick | RunnableAssign):
            return super().pipe(Fields(of=self), *others, name=name)
        return super().pipe(*others, name=name)
