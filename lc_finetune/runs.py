"""Runs as LangChain makes them, without their bookkeeping where nobody watches.

LangChain makes a run of every input of every Runnable: it completes a configuration, looks for tracers, and notifies
handlers. Where there is no handler, neither in the configuration nor in the context or the environment, none of it has
an effect, and it takes longer than most Runnables themselves. Such runs are called *unwatched* here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast
from uuid import uuid4

from langchain_core.callbacks import BaseCallbackManager, CallbackManager
from langchain_core.callbacks.manager import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from langchain_core.runnables.config import get_config_list, var_child_runnable_config
from langchain_core.runnables.utils import accepts_config

from lc_finetune.errors import raised

T = TypeVar("T")
Configs = RunnableConfig | list[RunnableConfig] | None
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
    if not _unwatched_batch(config, len(inputs)):
        return runnable._batch_with_config(  # what LangChain's own Runnables call
            answer, inputs, config, return_exceptions=return_exceptions, **kwargs
        )
    try:
        outcomes = answer(inputs, **_unwatched_runs(answer, config, len(inputs), CallbackManagerForChainRun), **kwargs)
    except Exception as error:
        outcomes = [error] * len(inputs)
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
    if not _unwatched_batch(config, len(inputs)):
        return await runnable._abatch_with_config(answer, inputs, config, return_exceptions=return_exceptions, **kwargs)
    runs = _unwatched_runs(answer, config, len(inputs), AsyncCallbackManagerForChainRun)
    try:
        outcomes = await answer(inputs, **runs, **kwargs)
    except Exception as error:
        outcomes = [error] * len(inputs)
    return _given(outcomes, return_exceptions)


def unwatched(config: Configs) -> bool:
    """Say whether no handler sees a run of this configuration, or of any of these."""
    if CallbackManager.configure().handlers:  # tracers and debugging of the environment, handlers of the context
        return False
    around = (var_child_runnable_config.get() or {}).get("callbacks")
    configs = config if isinstance(config, list | tuple) else [config or {}]
    return not any(one.get("run_id") or _handlers(one.get("callbacks") or around) for one in configs)


def _unwatched_batch(config: Configs, number: int) -> bool:
    """Say so of as many configurations as there are inputs; of others LangChain says what is wrong."""
    return unwatched(config) and (not isinstance(config, list | tuple) or len(config) == number)


def _handlers(callbacks: Any) -> Sequence[Any]:
    if isinstance(callbacks, BaseCallbackManager):
        return callbacks.handlers or callbacks.inheritable_handlers
    return callbacks or ()


def _given(outcomes: list[T | Exception], return_exceptions: bool) -> list[T]:
    return cast(list[T], outcomes) if return_exceptions else [raised(outcome) for outcome in outcomes]


def _unwatched_runs(answer: Callable[..., Any], config: Configs, number: int, kind: type[M]) -> dict[str, Any]:
    """Make the runs of a batch that nobody watches.

    A handler may still watch what runs within, and finds there the tags, the metadata and the parents that it would.
    """
    if not accepts_config(answer):
        return {}
    configs = get_config_list(config, number) if isinstance(config, list | tuple) else [ensure_config(config)] * number
    for one in configs:
        one.pop("run_name", None)  # it is the name of these runs alone
    return {"run_manager": [_manager(one.get("callbacks"), kind) for one in configs], "config": configs}


def _manager(above: Any, kind: type[M]) -> M:
    """Make the manager of a run without handlers, below another."""
    inherited = above if isinstance(above, BaseCallbackManager) else CallbackManager(handlers=[])
    return kind(
        run_id=uuid4(),
        handlers=[],
        inheritable_handlers=[],
        parent_run_id=inherited.parent_run_id,
        tags=inherited.tags,
        inheritable_tags=inherited.inheritable_tags,
        metadata=inherited.metadata,
        inheritable_metadata=inherited.inheritable_metadata,
    )
