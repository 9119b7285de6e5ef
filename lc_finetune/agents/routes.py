"""Routing by label in a LangGraph graph."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

from langchain_core.runnables import Runnable, RunnableLambda
from langgraph.types import Command

from lc_finetune.agents.reading import check_labels
from lc_finetune.errors import reason
from lc_finetune.schemas import Classification

logger = logging.getLogger(__name__)

Outcome = Classification | Exception


def route_by_label(
    classifier: Runnable[Any, Classification], routes: Mapping[str, str], *, default: str
) -> Runnable[Any, str]:
    """Make the path of a conditional edge: state → the node of its label.

    The classifier reads the state: its `messages` (the last human one), or the key that it was given as `input_key`.
    A label without a route, a result that is not accepted, and a state without text or whose classification fails
    (which is logged) go to `default`. The graph draws an edge to each node; no `path_map` is needed. For a `Command`
    from a node of your own, `Command(goto=await route.ainvoke(state))`.

    Args:
        classifier: State → label.
        routes: Label → node.
        default: Node of all others.

    Raises:
        ConfigError: If a route is for a label that is none of the classifier's.

    Example:
        ```python
        graph.add_conditional_edges(START, route_by_label(classifier, {"card": "cards"}, default="person"))
        ```
    """
    check_labels(classifier, routes, what="routes")

    def node(outcome: Outcome) -> str:
        return node_of(outcome, routes, default)

    chosen: RunnableLambda[Any, str] = _read(classifier, node, name="route_by_label")
    # LangGraph reads the edges to draw in the function's return type.
    chosen.func.__annotations__["return"] = Literal[tuple(dict.fromkeys([*routes.values(), default]))]
    return chosen


def command_by_label(
    classifier: Runnable[Any, Classification],
    routes: Mapping[str, str],
    *,
    default: str,
    key: str = "classification",
) -> Runnable[Any, Command[Any]]:
    """Make a node that classifies the state, notes the result in it, and goes to the node of its label.

    Routes as `route_by_label` does. The result is noted as a plain dict without its text, or None where there is none.
    Name the nodes with `add_node(…, destinations=…)` to see the edges in a drawing.

    Args:
        classifier: State → label.
        routes: Label → node.
        default: Node of all others.
        key: Where the state keeps the result.

    Raises:
        ConfigError: If a route is for a label that is none of the classifier's.
    """
    check_labels(classifier, routes, what="routes")

    def command(outcome: Outcome) -> Command[Any]:
        noted = None if isinstance(outcome, Exception) else outcome.model_dump(mode="json", exclude={"text"})
        return Command(goto=node_of(outcome, routes, default), update={key: noted})

    chosen: RunnableLambda[Any, Command[Any]] = _read(classifier, command, name="command_by_label")
    return chosen


def node_of(outcome: Outcome, routes: Mapping[str, str], default: str) -> str:
    """Choose the node of one outcome."""
    if isinstance(outcome, Exception):
        logger.warning("A state could not be classified (%s): it goes to the default node.", reason(outcome))
        return default
    return default if outcome.accepted is False else routes.get(outcome.label, default)


def _read(classifier: Runnable[Any, Classification], then: Callable[[Outcome], Any], *, name: str) -> Any:
    def read(state: Any) -> Any:
        try:
            outcome: Outcome = classifier.invoke(state)
        except Exception as error:
            outcome = error
        return then(outcome)

    async def aread(state: Any) -> Any:
        try:
            outcome: Outcome = await classifier.ainvoke(state)
        except Exception as error:
            outcome = error
        return then(outcome)

    return RunnableLambda(read, aread, name=name)
