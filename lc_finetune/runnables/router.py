"""Routing by label: classify once, group, one batch per branch, results back in order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableLike
from langchain_core.runnables.utils import gather_with_concurrency
from pydantic import ConfigDict, Field, field_validator

from lc_finetune.errors import ConfigError, InputError, did_you_mean
from lc_finetune.runnables.dispatch import Dispatcher, child, one_of, schema_of
from lc_finetune.runnables.fanout import as_branch, shape_of, side_by_side
from lc_finetune.runnables.inputs import awhole, whole
from lc_finetune.schemas import Classification

if TYPE_CHECKING:
    from langchain_core.runnables.graph import Graph

Group = tuple[Runnable[Any, Any], list[int]]
"""A branch, and the positions of the items that are its own."""


class LabelRouter(Dispatcher):
    """Send each result, or each mapping that holds one, to the branch of its label.

    A branch receives what the router received, and keyword arguments too. A result that is not accepted (`accepted` is
    False), and a label without a route, go to `default`. In a batch each branch is called once, over all items that are
    its own; branches run side by side, at most `max_concurrency` of them.

    Example:
        ```python
        chain = classifier | LabelRouter(routes={"refund": refunds}, default=person, labels=classifier.labels)
        ```
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    routes: Mapping[str, Runnable[Any, Any]] = Field(description="Label → branch.")
    default: Runnable[Any, Any] | None = Field(default=None, description="Branch of all others.")
    key: str | None = Field(default=None, description="Where a mapping keeps the result; found by type if None.")
    labels: Sequence[str] | None = Field(default=None, description="What the classifier may answer; checks the routes.")

    def __init__(
        self,
        *,
        routes: Mapping[str, RunnableLike[Any, Any]],
        default: RunnableLike[Any, Any] | None = None,
        key: str | None = None,
        labels: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Take Runnables, functions or dicts as branches.

        Raises:
            ConfigError: If there is neither a route nor a default; if `labels` lacks the label of a route, or, without
                a default, holds one that has no route.
        """
        if not routes and default is None:
            raise ConfigError("Expected at least one route or a default, found neither.")
        if labels is not None:
            _check(routes, labels, default)
        super().__init__(  # type: ignore[call-arg]  # LangChain types its constructor by its own fields
            routes={label: as_branch(branch) for label, branch in routes.items()},
            default=None if default is None else as_branch(default),
            key=key,
            labels=labels,
            **kwargs,
        )

    @field_validator("routes")
    @classmethod
    def _copied(cls, routes: Mapping[str, Runnable[Any, Any]]) -> dict[str, Runnable[Any, Any]]:
        return dict(routes)

    @property
    def InputType(self) -> Any:
        """A result, or a mapping that holds one."""
        return Classification | dict[str, Any]

    @property
    def OutputType(self) -> Any:
        """Whatever the branches give: one of their types."""
        return one_of([branch.OutputType for branch in self._branches])

    def get_output_schema(self, config: RunnableConfig | None = None) -> Any:
        """The branches' output schema where they agree, else any of theirs."""
        shape = one_of([shape_of(branch.get_output_schema(config)) for branch in self._branches])
        return schema_of(shape, self.get_name("Output"))

    def get_graph(self, config: RunnableConfig | None = None) -> Graph:
        """Draw the branches side by side, each edge with its label."""
        from langchain_core.runnables.graph import Graph

        graph = Graph()
        first = graph.add_node(self.get_input_schema(config))
        last = graph.add_node(self.get_output_schema(config))
        default = {"default": self.default} if self.default is not None else {}
        for label, branch in {**self.routes, **default}.items():
            drawn = branch.get_graph(config)
            drawn.trim_first_node()
            drawn.trim_last_node()
            start, end = graph.extend(drawn)
            if start is None or end is None:
                graph.add_edge(first, last, data=label, conditional=True)
            else:
                graph.add_edge(first, start, data=label, conditional=True)
                graph.add_edge(end, last)
        return graph

    @property
    def _branches(self) -> list[Runnable[Any, Any]]:
        return [*self.routes.values(), *([] if self.default is None else [self.default])]

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

    def _one(self, value: Any, run_manager: Any, config: RunnableConfig, **kwargs: Any) -> Any:
        return self.branch_of(value).invoke(value, child(config, run_manager), **kwargs)

    async def _aone(self, value: Any, run_manager: Any, config: RunnableConfig, **kwargs: Any) -> Any:
        return await self.branch_of(value).ainvoke(value, child(config, run_manager), **kwargs)

    def _each(self, values: Iterator[Any], run_manager: Any, config: RunnableConfig, **kwargs: Any) -> Iterator[Any]:
        for value in whole(values):
            yield from self.branch_of(value).stream(value, child(config, run_manager), **kwargs)

    async def _aeach(
        self, values: AsyncIterator[Any], run_manager: Any, config: RunnableConfig, **kwargs: Any
    ) -> AsyncIterator[Any]:
        async for value in awhole(values):
            async for chunk in self.branch_of(value).astream(value, child(config, run_manager), **kwargs):
                yield chunk

    def _many(
        self, values: Sequence[Any], run_manager: Sequence[Any], config: Sequence[RunnableConfig], **kwargs: Any
    ) -> list[Any]:
        outcomes, groups = self._grouped(values)
        calls = [
            partial(
                branch.batch,
                [values[i] for i in positions],
                [child(config[i], run_manager[i]) for i in positions],
                return_exceptions=True,
                **kwargs,
            )
            for branch, positions in groups
        ]
        return _scattered(outcomes, groups, side_by_side(calls, config[0]))

    async def _amany(
        self, values: Sequence[Any], run_manager: Sequence[Any], config: Sequence[RunnableConfig], **kwargs: Any
    ) -> list[Any]:
        outcomes, groups = self._grouped(values)
        calls = [
            branch.abatch(
                [values[i] for i in positions],
                [child(config[i], run_manager[i]) for i in positions],
                return_exceptions=True,
                **kwargs,
            )
            for branch, positions in groups
        ]
        return _scattered(outcomes, groups, await gather_with_concurrency(config[0].get("max_concurrency"), *calls))

    def _grouped(self, values: Sequence[Any]) -> tuple[dict[int, Any], list[Group]]:
        """Group positions by branch; an input without one has its exception as its outcome."""
        outcomes: dict[int, Any] = {}
        groups: dict[int, Group] = {}
        for position, value in enumerate(values):
            try:
                branch = self.branch_of(value)
            except Exception as error:
                outcomes[position] = error
            else:
                groups.setdefault(id(branch), (branch, []))[1].append(position)
        return outcomes, list(groups.values())


def _scattered(outcomes: dict[int, Any], groups: Sequence[Group], answers: Sequence[Sequence[Any]]) -> list[Any]:
    """Put the answers of the branches back in order, beside the outcomes that needed no branch."""
    for (_, positions), results in zip(groups, answers, strict=True):
        outcomes.update(zip(positions, results, strict=True))
    return [outcomes[i] for i in range(len(outcomes))]


def _check(routes: Mapping[str, Any], labels: Sequence[str], default: Any) -> None:
    for label in routes:
        if label not in labels:
            raise ConfigError(
                f"Expected routes for labels of the classifier, found {label!r}{did_you_mean(label, labels)}. "
                f"Its labels are {', '.join(labels)}."
            )
    missing = [label for label in labels if label not in routes]
    if missing and default is None:
        raise ConfigError(f"Expected a route for each label, found none for {', '.join(missing)}. Add a default.")
