"""Runs that nobody watches are answered alike; whoever watches sees them all."""

import asyncio
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from langchain_core.callbacks import (
    AsyncCallbackHandler,
    BaseCallbackHandler,
    BaseCallbackManager,
    CallbackManager,
)
from langchain_core.globals import set_debug
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnableSerializable
from langchain_core.tracers.context import register_configure_hook
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langsmith.run_helpers import tracing_context
from pydantic import Field

from lc_finetune import Checkpoint, FanOut, InputError, LabelRouter, TextClassifier
from lc_finetune.runs import unwatched

TEXTS = ["Where is my card?", "No cash came out."]
HANDLER: ContextVar[BaseCallbackHandler | None] = ContextVar("handler", default=None)
register_configure_hook(HANDLER, inheritable=True)


class Watching(BaseCallbackHandler):
    """Notes who began, below whom, and with which tags and metadata."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []

    def on_chain_start(
        self, serialized: Any, inputs: Any, *, parent_run_id: uuid.UUID | None = None, **kwargs: Any
    ) -> None:
        self.begun.append(kwargs | {"parent": parent_run_id})


class WatchingAsync(AsyncCallbackHandler):
    """Counts runs."""

    begun = 0

    async def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
        self.begun += 1


@pytest.fixture
def classifier(tiny_classifier: Checkpoint) -> TextClassifier:
    return TextClassifier.from_checkpoint(tiny_classifier)


@contextmanager
def in_the_context(handler: BaseCallbackHandler) -> Iterator[None]:
    token = HANDLER.set(handler)
    yield
    HANDLER.reset(token)


@pytest.mark.parametrize(
    "config",
    [
        None,
        {},
        {"callbacks": []},
        {"callbacks": CallbackManager(handlers=[]), "tags": ["mine"]},
        [{}, {"run_name": "mine"}],
    ],
)
def test_runs_without_a_handler_are_unwatched(config: Any) -> None:
    """Tags, metadata and names do not make a watcher."""
    assert unwatched(config)


@pytest.mark.filterwarnings("ignore:API key")
def test_whoever_watches_is_found() -> None:
    """A handler may come with the configuration, the context, the surrounding run, debugging or LangSmith."""
    handler = Watching()
    assert not unwatched({"callbacks": [handler]})
    assert not unwatched({"callbacks": CallbackManager(handlers=[], inheritable_handlers=[handler])})
    assert not unwatched([{}, {"callbacks": [handler]}])
    assert not unwatched({"run_id": uuid.uuid4()}), "who names a run wants to find it"
    with in_the_context(handler):
        assert not unwatched(None)
    seen = RunnableLambda(lambda _: unwatched(None))
    assert seen.invoke(1), "within a run that nobody watches"
    assert not seen.invoke(1, {"callbacks": [handler]})
    set_debug(True)
    try:
        assert not unwatched(None)
    finally:
        set_debug(False)
    with tracing_context(enabled=True):
        assert not unwatched(None)


async def test_a_watched_run_is_seen_by_each_of_the_ways(classifier: TextClassifier) -> None:
    """One run for each input, synchronous or not, with the model in its metadata."""
    handler, other = Watching(), WatchingAsync()
    classifier.invoke(TEXTS[0], {"callbacks": [handler]})
    classifier.batch(TEXTS, {"callbacks": [handler]})
    await classifier.ainvoke(TEXTS[0], {"callbacks": [handler, other]})
    await classifier.abatch(TEXTS, [{"callbacks": [handler, other]}, {}])
    with in_the_context(handler):
        classifier.invoke(TEXTS[0])
    assert len(handler.begun) == 1 + 2 + 1 + 1 + 1
    assert other.begun == 2
    assert {one["metadata"]["ls_model_type"] for one in handler.begun} == {"text-classification"}


async def test_a_handler_of_a_branch_sees_tags_metadata_and_siblings(classifier: TextClassifier) -> None:
    """Nobody watches the fan-out itself; runs of one input still have one parent, and those of another another."""
    handler = Watching()
    watched = classifier.with_config(callbacks=[handler])
    fan_out = FanOut(one=watched, two=watched)
    config: RunnableConfig = {"tags": ["mine"], "metadata": {"tenant": 7}, "run_name": "all"}
    expected = classifier.batch(TEXTS)
    for answered in (asyncio.to_thread(fan_out.batch, TEXTS, config), fan_out.abatch(TEXTS, config)):
        labels = [{name: result.label for name, result in row.items()} for row in await answered]
        assert labels == [dict.fromkeys(("one", "two"), result.label) for result in expected]
        siblings = [str(one["parent"]) for one in handler.begun]
        assert sorted(map(siblings.count, set(siblings))) == [2, 2]
        assert {frozenset(one["tags"]) for one in handler.begun} == {
            frozenset({"mine", "map:key:one"}),
            frozenset({"mine", "map:key:two"}),
        }
        assert all(one["metadata"]["tenant"] == 7 and one["name"] != "all" for one in handler.begun)
        handler.begun.clear()


def test_what_a_manager_hands_down_reaches_the_branch(classifier: TextClassifier) -> None:
    """Of a manager without handlers too."""
    handler = Watching()
    manager = CallbackManager(handlers=[], inheritable_tags=["above"], inheritable_metadata={"tenant": 7})
    FanOut(one=classifier.with_config(callbacks=[handler])).batch(TEXTS, {"callbacks": manager})
    assert all("above" in one["tags"] and one["metadata"]["tenant"] == 7 for one in handler.begun)
    assert len(handler.begun) == 2


@pytest.mark.parametrize(
    "over",
    [
        lambda one: FanOut(one=one),
        lambda one: LabelRouter(routes={}, default=one),
        lambda one: one,
    ],
)
@pytest.mark.parametrize("watched", [False, True])
async def test_failures_are_those_of_langchain(
    classifier: TextClassifier, over: Callable[[Any], Runnable[Any, Any]], watched: bool
) -> None:
    """Watched or not: an input fails alone, or the first failure is raised; lists of configurations must fit."""
    config: RunnableConfig = {"callbacks": [RunCollectorCallbackHandler()]} if watched else {}
    runnable = over(classifier)
    fine: list[Any] = classifier.batch(TEXTS) if isinstance(runnable, LabelRouter) else list(TEXTS)
    for answers in (
        runnable.batch([*fine, 7], config, return_exceptions=True),
        await runnable.abatch([*fine, 7], config, return_exceptions=True),
    ):
        assert [isinstance(answer, Exception) for answer in answers] == [False, False, True]
    with pytest.raises(InputError, match="Expected a"):
        runnable.batch([*fine, 7], config)
    with pytest.raises(InputError, match="Expected a"):
        await runnable.abatch([*fine, 7], config)
    with pytest.raises(ValueError, match="same length as inputs"):
        runnable.batch(fine, [config])
    with pytest.raises(ValueError, match="same length as inputs"):
        await runnable.abatch(fine, [config])
    assert runnable.batch([], config) == await runnable.abatch([], config) == []


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("over", [lambda one: one, lambda one: FanOut(one=one)])
async def test_what_langchain_takes_is_taken(
    classifier: TextClassifier, over: Callable[[Any], Runnable[Any, Any]], watched: bool
) -> None:
    """Watched or not: configurations as any sequence, None among them; as many as inputs, which have a length."""
    runnable: Any = over(classifier)
    one: RunnableConfig = {"callbacks": [Watching()]} if watched else {"tags": ["mine"]}
    expected = runnable.batch(TEXTS)
    for configs in ((one, {}), [one, None]):
        assert runnable.batch(TEXTS, configs) == await runnable.abatch(TEXTS, configs) == expected
    for return_exceptions in (False, True):
        with pytest.raises(ValueError, match="same length as inputs"):
            runnable.batch(TEXTS, [one], return_exceptions=return_exceptions)
        with pytest.raises(ValueError, match="same length as inputs"):
            await runnable.abatch(TEXTS, [one], return_exceptions=return_exceptions)
    with pytest.raises(TypeError, match=r"no len\(\)"):
        runnable.batch((text for text in TEXTS), one)
    with pytest.raises(TypeError, match=r"no len\(\)"):
        await runnable.abatch((text for text in TEXTS), one)


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
async def test_what_ends_the_program_or_the_task_is_no_answer(watched: bool, end: type[BaseException]) -> None:
    """It is raised, though exceptions are asked for."""

    def ending(value: Any) -> Any:
        raise end

    config: RunnableConfig = {"callbacks": [Watching()]} if watched else {}
    fan_out = FanOut(one=RunnableLambda(ending))
    with pytest.raises(end):
        fan_out.batch(TEXTS, config, return_exceptions=True)


@pytest.mark.parametrize("watched", [False, True])
async def test_a_cancelled_batch_is_cancelled(watched: bool) -> None:
    """A timeout of the caller's is a timeout, not a list of answers."""

    async def waiting(value: Any) -> Any:
        await asyncio.sleep(60)

    config: RunnableConfig = {"callbacks": [Watching()]} if watched else {}
    fan_out = FanOut(one=RunnableLambda(waiting))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await fan_out.abatch(TEXTS, config, return_exceptions=True)


class Handing(RunnableSerializable[Any, Any]):
    """Keeps whole batches, notes in each run's metadata what it is about, and hands on the callbacks alone."""

    inner: Any
    seen: list[Any] = Field(default_factory=list)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return self.batch([input], config)[0]

    def batch(self, inputs: list[Any], config: Any = None, **kwargs: Any) -> list[Any]:
        for value, one in zip(inputs, config, strict=True):
            one["metadata"][value] = True
            self.seen.append(dict(one["metadata"]))
        return list(self.inner.batch(inputs, [{"callbacks": one["callbacks"]} for one in config]))


@pytest.mark.parametrize("watched", [False, True])
def test_each_run_has_a_configuration_of_its_own(classifier: TextClassifier, watched: bool) -> None:
    """What a branch writes into one input's stays there, and its callbacks bear the tags and the metadata."""
    handler = Watching()
    handing = Handing(inner=classifier if watched else classifier.with_config(callbacks=[handler]))
    config: RunnableConfig = {"tags": ["mine"], "metadata": {"tenant": 7}, "run_name": "all"}
    FanOut(one=handing).batch(TEXTS, {**config, "callbacks": [handler]} if watched else config)
    assert handing.seen == [{"tenant": 7, text: True} for text in TEXTS]
    inner = [one for one in handler.begun if one["name"] == "TextClassifier"]
    assert [(one["metadata"]["tenant"], "mine" in one["tags"]) for one in inner] == [(7, True)] * 2
    assert config == {"tags": ["mine"], "metadata": {"tenant": 7}, "run_name": "all"}


def test_instruments_of_the_environment_watch(classifier: TextClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenInference, OpenLLMetry and MLflow add their handler to each manager that is made."""
    handler, made = Watching(), BaseCallbackManager.__init__

    def instrumented(self: BaseCallbackManager, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        if handler not in self.inheritable_handlers:
            self.add_handler(handler, inherit=True)

    monkeypatch.setattr(BaseCallbackManager, "__init__", instrumented)
    classifier.invoke(TEXTS[0])
    classifier.batch(TEXTS)
    assert len(handler.begun) == 1 + 2


def test_the_limits_of_a_surrounding_run_hold(classifier: TextClassifier) -> None:
    """`max_concurrency` of a run that nobody watches reaches the branches within."""
    seen: list[Any] = []

    def note(value: Any, config: RunnableConfig) -> Any:
        seen.append((config.get("max_concurrency"), config.get("configurable")))
        return value

    around = RunnableLambda(lambda value: FanOut(one=RunnableLambda(note)).batch([value]))
    around.invoke(1, {"max_concurrency": 3, "configurable": {"tenant": "a"}})
    assert seen == [(3, {"tenant": "a"})]
