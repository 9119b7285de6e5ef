"""Routing by label: classify once, group, one batch per branch, results back in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig, RunnableSerializable, patch_config
from langchain_core.runnables.base import RunnableLike, coerce_to_runnable
from pydantic import ConfigDict, Field, field_validator

from lc_finetune.errors import ConfigError, InputError
from lc_finetune.schemas import Classification


class LabelRouter(RunnableSerializable[Any, Any]):
    """Send each result, or each mapping that holds one, to the branch of its label.

    A branch receives what the router received. A result that is not accepted (`accepted` is False), and a label
    without a route, go to `default`.

    Example:
        ```python
        chain = classifier | LabelRouter(routes={"refund": refunds}, default=person)
        ```
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    routes: Mapping[str, Runnable[Any, Any]] = Field(description="Label → branch.")
    default: Runnable[Any, Any] | None = Field(default=None, description="Branch of all others.")
    key: str | None = Field(default=None, description="Where a mapping keeps the result; found by type if None.")

    def __init__(
        self,
        *,
        routes: Mapping[str, RunnableLike[Any, Any]],
        default: RunnableLike[Any, Any] | None = None,
        key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Take Runnables, functions or dicts as branches.

        Raises:
            ConfigError: If there is neither a route nor a default.
        """
        if not routes and default is None:
            raise ConfigError("Expected at least one route or a default, found neither.")
        super().__init__(  # type: ignore[call-arg]  # LangChain types its constructor by its own fields
            routes={label: coerce_to_runnable(branch) for label, branch in routes.items()},
            default=None if default is None else coerce_to_runnable(default),
            key=key,
            **kwargs,
        )

    @field_validator("routes")
    @classmethod
    def _copied(cls, routes: Mapping[str, Runnable[Any, Any]]) -> dict[str, Runnable[Any, Any]]:
        return dict(routes)

    @property
    def InputType(self) -> type[Classification]:
        """A result; a mapping that holds one is read too."""
        return Classification

    @property
    def OutputType(self) -> Any:
        """Whatever the branches give."""
        return Any

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """`dumps` writes routes that are serializable themselves."""
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Where `loads` finds the class."""
        return ["lc_finetune", "runnables"]

    def branch_of(self, value: Any) -> Runnable[Any, Any]:
        """Choose the branch of one input.

        Raises:
            InputError: If the input holds no result, or its label has no route and there is no default.
        """
        result = self._result(value)
        branch = self.default if result.accepted is False else self.routes.get(result.label, self.default)
        if branch is None:
            why = "a result that is not accepted" if result.accepted is False else f"the label {result.label!r}"
            raise InputError(f"Expected a route for {why}, found none. Add one, or give the router a default.")
        return branch

    def _result(self, value: Any) -> Classification:
        if isinstance(value, Classification):
            return value
        if isinstance(value, Mapping):
            held = [value.get(self.key)] if self.key is not None else list(value.values())
            results = [one for one in held if isinstance(one, Classification)]
            if len(results) == 1:
                return results[0]
            where = "" if self.key is None else f" under {self.key!r}"
            raise InputError(
                f"Expected a mapping with one Classification{where}, found {len(results)}. Name its key with key=."
            )
        raise InputError(f"Expected a Classification or a mapping that holds one, found {type(value).__name__}.")

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Run the branch of one input."""
        return self._call_with_config(self._one, input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Run the branch of one input."""
        return await self._acall_with_config(self._aone, input, config, **kwargs)

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Run each branch once, over all inputs that are its own; the results come back in order."""
        return self._batch_with_config(self._many, inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """As `batch`; branches run at the same time."""
        return await self._abatch_with_config(
            self._amany, inputs, config, return_exceptions=return_exceptions, **kwargs
        )

    def _one(self, value: Any, run_manager: Any, config: RunnableConfig, **kwargs: Any) -> Any:
        return self.branch_of(value).invoke(value, _child(config, run_manager), **kwargs)

    async def _aone(self, value: Any, run_manager: Any, config: RunnableConfig, **kwargs: Any) -> Any:
        return await self.branch_of(value).ainvoke(value, _child(config, run_manager), **kwargs)

    def _many(
        self, values: Sequence[Any], run_manager: Sequence[Any], config: Sequence[RunnableConfig], **kwargs: Any
    ) -> list[Any]:
        outcomes, groups = self._grouped(values)
        for branch, positions in groups:
            results = branch.batch(
                [values[i] for i in positions],
                [_child(config[i], run_manager[i]) for i in positions],
                return_exceptions=True,
                **kwargs,
            )
            outcomes.update(zip(positions, results, strict=True))
        return [outcomes[i] for i in range(len(values))]

    async def _amany(
        self, values: Sequence[Any], run_manager: Sequence[Any], config: Sequence[RunnableConfig], **kwargs: Any
    ) -> list[Any]:
        import asyncio

        outcomes, groups = self._grouped(values)
        answers = await asyncio.gather(
            *(
                branch.abatch(
                    [values[i] for i in positions],
                    [_child(config[i], run_manager[i]) for i in positions],
                    return_exceptions=True,
                    **kwargs,
                )
                for branch, positions in groups
            )
        )
        for (_, positions), results in zip(groups, answers, strict=True):
            outcomes.update(zip(positions, results, strict=True))
        return [outcomes[i] for i in range(len(values))]

    def _grouped(self, values: Sequence[Any]) -> tuple[dict[int, Any], list[tuple[Runnable[Any, Any], list[int]]]]:
        """Group positions by branch; an input without one has its exception as its outcome."""
        outcomes: dict[int, Any] = {}
        groups: dict[int, tuple[Runnable[Any, Any], list[int]]] = {}
        for position, value in enumerate(values):
            try:
                branch = self.branch_of(value)
            except InputError as error:
                outcomes[position] = error
            else:
                groups.setdefault(id(branch), (branch, []))[1].append(position)
        return outcomes, list(groups.values())


def _child(config: RunnableConfig, run_manager: Any) -> RunnableConfig:
    return patch_config(config, callbacks=run_manager.get_child())
