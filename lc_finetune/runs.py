"""Runs as LangChain makes them, without their bookkeeping where nobody watches.

LangChain makes a run of every input of every Runnable: it completes a configuration, looks for tracers, and notifies
handlers. Where there is no handler, neither in the configuration nor in the context or the environment, none of it has
an effect, and it takes longer than most Runnables themselves. Such runs are called *unwatched* here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

from langchain_core.callbacks import BaseCallbackManager, CallbackManager
from langchain_core.callbacks.manager import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list, var_child_runnable_config
from langchain_core.runnables.utils import accepts_config
from langchain_core.utils.uuid import uuid7

T = TypeVar("T")
Configs = RunnableConfig | Sequence[RunnableConfig] | None
"""What `Runnable.batch` takes: a configuration for all inputs, or one for each."""
M = TypeVar("M", CallbackManagerForChainRun, AsyncCallbackManagerForChainRun)


def batch(
    runnable: Runnable[Any, T],
    answer: Callable[..., list[T | Exception]],
    inputs: list[Any],
    config: Configs,
    *,
    return_exceptions: bool,
    **kwargs: Any,
) -> list[T]:
    """Answer many inputs, each a run of its own.

    Args:
        runnable: Whose runs they are.
        answer: Answers all inputs in order: for each its answer, or the exception that stands for it. What hands inputs
            on takes `run_manager` and `config`, one of each for each input.
        inputs: What is answered.
        config: Of the runs.
        return_exceptions: Whether to give exceptions in the place of answers. Else the first is raised.
        **kwargs: Given to `answer`.
    """
    if not inputs:
        return []
    outcomes: Sequence[T | Exception]
    if unwatched(config):
        within = _unwatched_runs(answer, config, len(inputs), CallbackManagerForChainRun)
        try:
            outcomes = answer(inputs, **within, **kwargs)
        except Exception as error:
            outcomes = [error] * len(inputs)
    else:  # what LangChain's own Runnables call
        given: Any = config  # LangChain reads any sequence, and types a list
        outcomes = runnable._batch_with_config(answer, inputs, given, return_exceptions=return_exceptions, **kwargs)
    return _given(outcomes, return_exceptions)


async def abatch(
    runnable: Runnable[Any, T],
    answer: Callable[..., Awaitable[list[T | Exception]]],
    inputs: list[Any],
    config: Configs,
    *,
    return_exceptions: bool,
    **kwargs: Any,
) -> list[T]:
    """As `batch`, without blocking the event loop."""
    if not inputs:
        return []
    outcomes: Sequence[T | Exception]
    if unwatched(config):
        within = _unwatched_runs(answer, config, len(inputs), AsyncCallbackManagerForChainRun)
        try:
            outcomes = await answer(inputs, **within, **kwargs)
        except Exception as error:
            outcomes = [error] * len(inputs)
    else:
        given: Any = config  # LangChain reads any sequence, and types a list
        outcomes = await runnable._abatch_with_config(
            answer, inputs, given, return_exceptions=return_exceptions, **kwargs
        )
    return _given(outcomes, return_exceptions)


def unwatched(config: Configs) -> bool:
    """Say whether no handler sees a run of this configuration, or of any of these."""
    if CallbackManager.configure().handlers:  # tracers and debugging of the environment, handlers of the context
        return False
    around = (var_child_runnable_config.get() or {}).get("callbacks")
    configs = config if isinstance(config, Sequence) else [config]
    return not any(_watched(one or {}, around) for one in configs)


def _watched(config: RunnableConfig, around: Any) -> bool:
    return bool(config.get("run_id") or _handlers(config.get("callbacks") or around))


def _handlers(callbacks: Any) -> Sequence[Any]:
    if isinstance(callbacks, BaseCallbackManager):
        return callbacks.handlers or callbacks.inheritable_handlers
    return callbacks or ()


def _given(outcomes: Sequence[T | BaseException], return_exceptions: bool) -> list[T]:
    """Raise the first failure, unless failures are asked for; and always what ends the task or the program.

    LangChain gives a cancellation or an interrupt in the place of each answer, and the caller would go on with it.
    """
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not (return_exceptions and isinstance(outcome, Exception)):
            raise outcome
    return cast(list[T], outcomes)


def _unwatched_runs(answer: Callable[..., Any], config: Configs, number: int, kind: type[M]) -> dict[str, Any]:
    """Make the runs of a batch that nobody watches.

    A handler may still watch what runs within, and finds there the tags, the metadata and the parents that it would.

    Raises:
        ValueError: If there are configurations for another number of inputs.
    """
    if not accepts_config(answer) and not (isinstance(config, Sequence) and len(config) != number):
        return {}
    configs = get_config_list(config, number)  # where the number is another, this is what says so
    for one in configs:
        one.pop("run_name", None)  # it is the name of these runs alone
        one.pop("run_id", None)
    return {"run_manager": [_manager(one, kind) for one in configs], "config": configs}


def _manager(config: RunnableConfig, kind: type[M]) -> M:
    """Make the manager of a run without handlers, which hands on what its configuration and those above say."""
    above = config.get("callbacks")
    handed = above.copy() if isinstance(above, BaseCallbackManager) else CallbackManager(handlers=[])
    handed.add_tags(config["tags"])
    handed.add_metadata(config["metadata"])
    return kind(
        run_id=uuid7(),
        handlers=[],
        inheritable_handlers=[],
        parent_run_id=handed.parent_run_id,
        tags=handed.tags,
        inheritable_tags=handed.inheritable_tags,
        metadata=handed.metadata,
        inheritable_metadata=handed.inheritable_metadata,
    )
