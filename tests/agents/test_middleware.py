"""Sentiment, topics and tools in real agents, with real checkpointers."""

import asyncio
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRetryMiddleware, PIIMiddleware, wrap_model_call
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.prebuilt import InjectedState

from lc_finetune import Checkpoint, Classification, ConfigError, EntityTagger, TextClassifier
from lc_finetune.agents import SentimentMiddleware, ToolSelectorMiddleware, TopicGuardMiddleware, pii_detector
from lc_finetune.testing import FakeClassifier, FakeTagger
from tests.agents.chat_models import AllOrNothing, PlannedModel, failing, saying

MOOD = FakeClassifier(
    labels=("neutral", "negative", "positive"), label_of={"Bad.": "negative", "Awful.": "negative", "Good.": "positive"}
)
TOPIC = FakeClassifier(labels=("order", "refund", "medical"), label_of={"Money!": "refund", "My knee.": "medical"})
IMAGE = {"type": "image", "base64": "aGk=", "mime_type": "image/png"}
STRICT = JsonPlusSerializer(allowed_msgpack_modules=None)


@pytest.fixture(params=["memory", "sqlite"])
def saver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Each checkpointer, reading back plain types only."""
    if request.param == "memory":
        yield InMemorySaver(serde=STRICT)
        return
    connection = sqlite3.connect(tmp_path / "checkpoints.sqlite", check_same_thread=False)
    yield SqliteSaver(connection, serde=STRICT)
    connection.close()


def say(agent: Any, *texts: Any, thread: str = "1") -> dict[str, Any]:
    """Say these one after the other; the state after the last."""
    state: dict[str, Any] = {}
    for text in texts:
        state = agent.invoke({"messages": [HumanMessage(text)]}, {"configurable": {"thread_id": thread}})
    return state


def broken(text: str) -> Classification:
    raise RuntimeError(f"cannot classify {text}")


BROKEN: Any = RunnableLambda(broken)


# Sentiment.


def test_each_human_message_is_tagged_once(saver: Any) -> None:
    """The trail is in the state as plain dicts, and comes back from the checkpoint as it was."""
    tagged: list[str] = []
    counted: Any = RunnableLambda(lambda text: tagged.append(text) or MOOD.invoke(text))
    agent = create_agent(saying("Fine."), middleware=[SentimentMiddleware(counted)], checkpointer=saver)
    state = say(agent, "Good.", "Bad.", "Hello.")
    kept = agent.get_state({"configurable": {"thread_id": "1"}}).values

    assert tagged == ["Good.", "Bad.", "Hello."]
    assert [entry["label"] for entry in state["sentiment_trail"]] == ["positive", "negative", "neutral"]
    assert [m.id for m in state["messages"] if m.type == "human"] == [e["message_id"] for e in kept["sentiment_trail"]]
    assert state["sentiment_trail"] == kept["sentiment_trail"] == json.loads(json.dumps(state["sentiment_trail"]))
    assert {"message_id", "label", "score", "accepted", "valence", "level", "error"} == set(kept["sentiment_trail"][0])


def test_the_trend_is_an_exponentially_weighted_mean() -> None:
    """It starts at 0 and turns below the limit."""
    agent = create_agent(saying("Fine."), middleware=[SentimentMiddleware(MOOD)], checkpointer=InMemorySaver())
    trends = [say(agent, text)["sentiment_trend"] for text in ("Bad.", "Bad.", "Good.")]

    assert trends == [
        {"level": -0.5, "change": -0.5, "turned": False},
        {"level": -0.75, "change": -0.25, "turned": True},
        {"level": 0.125, "change": 0.875, "turned": False},
    ]


def test_scores_weigh_the_valences() -> None:
    """A doubtful message moves the level less; an answer without scores counts its label."""
    doubtful = MOOD.model_copy(update={"score": 0.6})
    unscored: Any = RunnableLambda(lambda text: Classification(text=text, label="negative", source="llm"))
    for classifier, level in ((doubtful, 0.5 * (-0.6 + 0.2)), (unscored, -0.5)):
        state = say(create_agent(saying("Fine."), middleware=[SentimentMiddleware(classifier)]), "Bad.")

        assert level == pytest.approx(state["sentiment_trend"]["level"])


def turned(**options: Any) -> SentimentMiddleware:
    """Turns at the second bad message."""
    return SentimentMiddleware(MOOD, **options)


@pytest.mark.parametrize("system", [None, "Be kind.", SystemMessage([{"type": "text", "text": "Be kind."}])])
def test_a_line_is_added_to_the_system_prompt_while_the_mood_is_bad(system: Any) -> None:
    """And only then."""
    model = saying("Fine.")
    agent = create_agent(
        model, system_prompt=system, middleware=[turned(prompt="Apologise.")], checkpointer=InMemorySaver()
    )
    say(agent, "Bad.", "Awful.", "Good.")
    prompts = ["".join(m.text for m in messages if m.type == "system") for messages in model.seen]

    assert [prompt.endswith("Apologise.") for prompt in prompts] == [False, True, False]
    assert all(prompt.startswith("" if system is None else "Be kind.") for prompt in prompts)


async def test_the_model_is_switched_when_the_mood_turns() -> None:
    """Asynchronously too."""
    agent = create_agent(saying("small"), middleware=[turned(model=saying("large"))], checkpointer=InMemorySaver())
    answers = [say(agent, text)["messages"][-1].content for text in ("Bad.", "Awful.")]
    again = await agent.ainvoke({"messages": [HumanMessage("Bad.")]}, {"configurable": {"thread_id": "1"}})

    assert [*answers, again["messages"][-1].content] == ["small", "large", "large"]


async def test_when_the_other_model_raises_the_agents_own_answers(caplog: pytest.LogCaptureFixture) -> None:
    """With a warning."""
    agent = create_agent(saying("small"), middleware=[turned(model=failing())])
    asked = {"messages": [HumanMessage("Bad."), HumanMessage("Awful.")]}

    assert agent.invoke(asked)["messages"][-1].content == "small"
    assert (await agent.ainvoke(asked))["messages"][-1].content == "small"
    assert "raised TimeoutError" in caplog.text


def test_a_turned_mood_is_handed_over(saver: Any) -> None:
    """Without a call of the model; the conversation can go on when it is better."""
    model = saying("Fine.")
    agent = create_agent(model, middleware=[turned(handover="A person takes over.")], checkpointer=saver)
    answers = [say(agent, text)["messages"][-1].content for text in ("Bad.", "Awful.", "Good.")]

    assert answers == ["Fine.", "A person takes over.", "Fine."]
    assert len(model.seen) == 2


def test_a_handover_streams() -> None:
    """As a message like any other."""
    agent = create_agent(saying("Fine."), middleware=[turned(handover="A person takes over.")])
    asked = {"messages": [HumanMessage("Bad."), HumanMessage("Awful.")]}

    assert [chunk.content for chunk, _ in agent.stream(asked, stream_mode="messages")] == ["A person takes over."]


def test_a_message_without_text_leaves_the_level(caplog: pytest.LogCaptureFixture) -> None:
    """Its entry says why."""
    agent = create_agent(saying("Fine."), middleware=[SentimentMiddleware(MOOD)], checkpointer=InMemorySaver())
    _, entry = say(agent, "Bad.", [IMAGE])["sentiment_trail"]

    assert (entry["label"], entry["valence"], entry["level"]) == (None, None, -0.5)
    assert entry["error"] == "InputError: Expected a message with text, found one whose content has no text block."


def test_a_classifier_that_raises_does_not_stop_the_agent() -> None:
    """The entry names the error, never the text."""
    state = say(create_agent(saying("Fine."), middleware=[SentimentMiddleware(BROKEN)]), "Bad.")

    assert state["messages"][-1].content == "Fine."
    assert state["sentiment_trail"][0]["error"] == "RuntimeError"


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_call_that_fails_as_a_whole_does_not_stop_the_agent(asynchronous: bool) -> None:
    """As when the weights have gone: no message has an answer then."""
    guard = TopicGuardMiddleware(AllOrNothing(broken), message="Not that.", on_error="block")
    watching = create_agent(saying("Fine."), middleware=[SentimentMiddleware(AllOrNothing(broken))])
    guarded = create_agent(saying("Fine."), middleware=[guard])
    asked = {"messages": [HumanMessage("Bad.")]}
    states = [await agent.ainvoke(asked) if asynchronous else agent.invoke(asked) for agent in (watching, guarded)]

    assert states[0]["sentiment_trail"][0]["error"] == "RuntimeError"
    assert [state["messages"][-1].content for state in states] == ["Fine.", "Not that."]


def test_a_chat_model_that_raises_leaves_a_conversation_that_goes_on(saver: Any) -> None:
    """The next call tags what it missed; a retry of LangChain's own turns the error into an answer."""
    agent = create_agent(failing(times=1), middleware=[SentimentMiddleware(MOOD)], checkpointer=saver)
    with pytest.raises(TimeoutError):
        say(agent, "Bad.")
    state = say(agent, "Good.")
    retried = ModelRetryMiddleware(max_retries=0, on_failure="continue")
    told = say(create_agent(failing(), middleware=[SentimentMiddleware(MOOD), retried]), "Bad.")

    assert [entry["label"] for entry in state["sentiment_trail"]] == ["negative", "positive"]
    assert "TimeoutError" in told["messages"][-1].content
    assert [entry["label"] for entry in told["sentiment_trail"]] == ["negative"]


def test_tools_and_other_middleware_see_the_trend() -> None:
    """In the same turn."""
    seen: list[float] = []

    @tool
    def mood(state: Annotated[dict[str, Any], InjectedState]) -> str:
        """Tell the mood."""
        seen.append(state["sentiment_trend"]["level"])
        return "Noted."

    @wrap_model_call  # type: ignore[arg-type]
    def watch(request: Any, handler: Any) -> Any:
        seen.append(request.state["sentiment_trend"]["level"])
        return handler(request)

    def plan(messages: list[BaseMessage]) -> AIMessage:
        if isinstance(messages[-1], ToolMessage):
            return AIMessage("Done.")
        return AIMessage("", tool_calls=[{"name": "mood", "args": {}, "id": "1"}])

    middleware: Any = [SentimentMiddleware(MOOD), watch]
    say(create_agent(PlannedModel(plan=plan), [mood], middleware=middleware), "Bad.")

    assert seen == [-0.5, -0.5, -0.5]


def test_an_empty_conversation_has_no_mood() -> None:
    """Nothing is added to the state."""
    middleware = [turned(handover="Bye."), TopicGuardMiddleware(TOPIC, message="No."), selector()]
    state = create_agent(saying("Hello."), middleware=middleware).invoke({"messages": []})

    assert [message.content for message in state["messages"]] == ["Hello."]
    assert "sentiment_trail" not in state


async def test_many_threads_at_once_keep_apart(tmp_path: Path) -> None:
    """Asynchronously over SQLite, and in threads."""
    agent = create_agent(saying("Fine."), middleware=[SentimentMiddleware(MOOD)], checkpointer=InMemorySaver())
    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(lambda i: say(agent, *["Bad."] * (i % 3 + 1), thread=str(i)), range(24)))
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints.sqlite")) as saver:
        saver.serde = STRICT
        agent = create_agent(saying("Fine."), middleware=[SentimentMiddleware(MOOD)], checkpointer=saver)

        async def talk(number: int) -> dict[str, Any]:
            config: Any = {"configurable": {"thread_id": str(number)}}
            for _ in range(number % 3 + 1):
                state = await agent.ainvoke({"messages": [HumanMessage("Bad.")]}, config)
            return state

        states += await asyncio.gather(*map(talk, range(24)))

    assert [i % 3 + 1 for i in range(24)] * 2 == [len(state["sentiment_trail"]) for state in states]


# Topics.


def guard(**options: Any) -> TopicGuardMiddleware:
    return TopicGuardMiddleware(options.pop("classifier", TOPIC), message="Not here.", **options)


async def closing(said: Any, **options: Any) -> dict[str, Any] | None:
    """Why the turn ended, or None if the model answered; asynchronously the same."""
    model = saying("Fine.")
    agent = create_agent(model, middleware=[guard(**options)])
    asked = {"messages": [HumanMessage(said)]}
    last = agent.invoke(asked)["messages"][-1]
    again = (await agent.ainvoke(asked))["messages"][-1]
    why: dict[str, Any] | None = last.response_metadata.get("topic_guard")

    assert (last.content, why) == (again.content, again.response_metadata.get("topic_guard"))
    assert last.content == ("Fine." if why is None else "Not here.")
    assert len(model.seen) == (2 if why is None else 0)
    return why


async def test_a_forbidden_topic_ends_the_turn() -> None:
    """The message says why; the model is not called."""
    assert await closing("My knee.", forbidden=["medical"]) == {"reason": "forbidden", "label": "medical"}
    assert await closing("Money!", forbidden=["medical"]) is None
    assert await closing("Money!", allowed=["order"]) == {"reason": "not_allowed", "label": "refund"}
    assert await closing("Hi", allowed=["order"]) is None


async def test_a_label_needs_the_least_score() -> None:
    """If one is given."""
    doubtful = TOPIC.model_copy(update={"score": 0.5})

    assert await closing("My knee.", classifier=doubtful, forbidden=["medical"], least_score=0.6) is None
    assert await closing("My knee.", classifier=doubtful, forbidden=["medical"], least_score=0.5) is not None


async def test_what_is_out_of_scope_ends_the_turn() -> None:
    """By its p-value; not accepted is another thing, and ends the turn only if asked to."""
    outside = TOPIC.model_copy(update={"in_scope": 0.01, "accepted": False})
    unsure = TOPIC.model_copy(update={"in_scope": 0.5, "accepted": False})

    assert await closing("Hi", classifier=outside) == {"reason": "out_of_scope", "label": "order"}
    assert await closing("Hi", classifier=outside, scope_level=0.0) is None
    assert await closing("Hi", classifier=unsure) is None
    assert await closing("Hi", classifier=unsure, only_accepted=True) == {"reason": "not_accepted", "label": "order"}


async def test_without_calibration_nothing_is_out_of_scope() -> None:
    """`in_scope` and `accepted` are None: what is not known ends no turn."""
    assert await closing("Hi", only_accepted=True) is None


@pytest.mark.parametrize("said", [[IMAGE], "Hi"])
async def test_what_cannot_be_classified_is_blocked_or_passes(said: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Images alone, or a classifier that raises."""
    classifier = TOPIC if said == [IMAGE] else BROKEN

    assert await closing(said, classifier=classifier) == {"reason": "error", "label": None}
    assert await closing(said, classifier=classifier, on_error="pass") is None
    assert "could not be classified" in caplog.text
    assert "cannot classify Hi" not in caplog.text


def test_all_messages_since_the_last_answer_are_looked_at() -> None:
    """Not those before it, which were."""
    model = saying("Fine.")
    agent = create_agent(model, middleware=[guard(forbidden=["medical"])], checkpointer=InMemorySaver())
    two = {"messages": [HumanMessage("My knee."), HumanMessage("Hi")]}
    config: Any = {"configurable": {"thread_id": "1"}}

    assert agent.invoke(two, config)["messages"][-1].content == "Not here."
    assert say(agent, "Hi")["messages"][-1].content == "Fine."


# Tools.


@tool
def find_order(number: str) -> str:
    """Find an order."""
    return number


@tool
def pay_back(number: str) -> str:
    """Pay back."""
    return number


@tool
def say_hello() -> str:
    """Say hello."""
    return "Hello"


def selector(classifier: Any = TOPIC, **options: Any) -> ToolSelectorMiddleware:
    return ToolSelectorMiddleware(
        classifier, tools={"order": [find_order], "refund": ["pay_back", "find_order"]}, **options
    )


async def offered(said: Any, classifier: Any = TOPIC, **options: Any) -> list[str]:
    """The tools that the model was offered; asynchronously the same."""
    model = saying("Fine.")
    tools = [find_order, pay_back, say_hello]
    agent = create_agent(model, tools, middleware=[selector(classifier, **options)])
    agent.invoke({"messages": [HumanMessage(said)]})
    await agent.ainvoke({"messages": [HumanMessage(said)]})

    assert model.offered[0] == model.offered[1]
    return model.offered[0]


ALL = ["find_order", "pay_back", "say_hello"]


async def test_only_tools_that_fit_are_offered() -> None:
    """And those that stand under no label."""
    assert await offered("Hi") == ["find_order", "say_hello"]
    assert await offered("Money!") == ALL


async def test_a_label_that_is_probable_enough_fits_too() -> None:
    """Beside the most probable one."""
    doubtful = FakeClassifier(labels=("order", "refund"), score=0.85)

    assert await offered("Hi", doubtful) == ALL
    assert await offered("Hi", doubtful, least_score=0.2) == ["find_order", "say_hello"]


@pytest.mark.parametrize(
    ("said", "classifier"),
    [
        ("My knee.", TOPIC),
        ("Hi", TOPIC.model_copy(update={"accepted": False})),
        ([IMAGE], TOPIC),
        ("Hi", BROKEN),
    ],
    ids=["a label without tools", "not accepted", "images only", "an error"],
)
async def test_without_anything_to_choose_by_all_are_offered(said: Any, classifier: Any) -> None:
    """Better too many than the wrong ones."""
    assert await offered(said, classifier) == ALL


def test_a_turn_with_tool_calls_is_classified_once() -> None:
    """However often the model is called."""
    asked: list[str] = []

    def plan(messages: list[BaseMessage]) -> AIMessage:
        if isinstance(messages[-1], ToolMessage):
            return AIMessage("Done.")
        return AIMessage("", tool_calls=[{"name": "find_order", "args": {"number": "1"}, "id": "1"}])

    counted: Any = RunnableLambda(lambda text: asked.append(text) or TOPIC.invoke(text))
    model = PlannedModel(plan=plan)
    create_agent(model, [find_order, pay_back], middleware=[selector(counted)]).invoke(
        {"messages": [HumanMessage("Hi")]}
    )

    assert asked == ["Hi"]
    assert model.offered == [["find_order"], ["find_order"]]


def test_a_turn_that_goes_on_with_other_labels_is_offered_all() -> None:
    """As where the agent was deployed anew while a person looked at a tool call."""

    def plan(messages: list[BaseMessage]) -> AIMessage:
        if isinstance(messages[-1], ToolMessage):
            return AIMessage("Done.")
        return AIMessage("", tool_calls=[{"name": "find_order", "args": {"number": "1"}, "id": "1"}])

    model, saver = PlannedModel(plan=plan), InMemorySaver()
    config: Any = {"configurable": {"thread_id": "1"}}
    tools = [find_order, pay_back]
    before = create_agent(model, tools, middleware=[selector()], checkpointer=saver, interrupt_before=["tools"])
    say(before, "Hi")
    other = ToolSelectorMiddleware(TOPIC, tools={"refund": [pay_back]})
    state = create_agent(model, tools, middleware=[other], checkpointer=saver).invoke(None, config)

    assert state["messages"][-1].content == "Done."
    assert model.offered == [["find_order"], ["find_order", "pay_back"]]


# Classifier and tagger as tools, and as LangChain's own detector.


async def test_classifier_and_tagger_are_tools_that_answer_json(
    tiny_classifier: Checkpoint, tiny_tagger: Checkpoint
) -> None:
    """In an agent, synchronously and asynchronously."""
    classifier = TextClassifier.from_checkpoint(tiny_classifier, device="cpu", backend="torch")
    tagger = EntityTagger.from_checkpoint(tiny_tagger, device="cpu", backend="torch")
    tools = [classifier.as_tool(name="intent"), tagger.as_tool(name="entities")]

    def plan(messages: list[BaseMessage]) -> AIMessage:
        if isinstance(messages[-1], ToolMessage):
            return AIMessage("Done.")
        calls: Any = [{"name": one.name, "args": {"text": messages[-1].content}, "id": one.name} for one in tools]
        return AIMessage("", tool_calls=calls)

    agent = create_agent(PlannedModel(plan=plan), tools)
    asked = {"messages": [HumanMessage("Where is my card?")]}
    for state in (agent.invoke(asked), await agent.ainvoke(asked)):
        intent, entities = (json.loads(m.content) for m in state["messages"] if m.type == "tool")

        assert classifier.invoke("Where is my card?").label == intent["label"]
        assert len(tagger.invoke("Where is my card?").entities) == len(entities["entities"])


async def test_what_a_tool_cannot_read_does_not_stop_the_agent(tiny_classifier: Checkpoint) -> None:
    """The chat model is told, as JSON."""
    tool = TextClassifier.from_checkpoint(tiny_classifier, device="cpu", backend="torch").as_tool(name="intent")

    def plan(messages: list[BaseMessage]) -> AIMessage:
        if isinstance(messages[-1], ToolMessage):
            return AIMessage("Done.")
        return AIMessage("", tool_calls=[{"name": "intent", "args": {"text": "half \ud83d"}, "id": "1"}])

    agent = create_agent(PlannedModel(plan=plan), [tool])
    asked = {"messages": [HumanMessage("Hi")]}
    for state in (agent.invoke(asked), await agent.ainvoke(asked)):
        told = state["messages"][-2]

        assert (told.status, state["messages"][-1].content) == ("error", "Done.")
        assert "surrogate" in json.loads(told.content)["error"]


def test_a_detector_whose_tagger_raises_lets_nothing_pass() -> None:
    """The run ends; the model is not called."""
    model = saying("Fine.")
    agent = create_agent(model, middleware=[PIIMiddleware("person", detector=pii_detector(BROKEN), strategy="redact")])
    with pytest.raises(RuntimeError):
        agent.invoke({"messages": [HumanMessage("Ann Lee")]})

    assert model.seen == []


def test_a_tagger_detects_for_langchains_own_middleware() -> None:
    """Only the types that were asked for."""
    tagger = FakeTagger(type_of={"Ann Lee": "PERSON", "Oslo": "CITY"})
    model = saying("Fine.")
    pii = PIIMiddleware("person", detector=pii_detector(tagger, labels=["PERSON"]), strategy="redact")
    create_agent(model, middleware=[pii]).invoke({"messages": [HumanMessage("Ann Lee of Oslo")]})

    assert model.seen[0][-1].content == "[REDACTED_PERSON] of Oslo"


# What cannot be configured.


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SentimentMiddleware(MOOD, valence={"negativ": -1}), "found 'negativ' (did you mean 'negative'?)"),
        (lambda: SentimentMiddleware(MOOD, valence={"negative": -2}), "a valence between -1 and 1"),
        (lambda: SentimentMiddleware(MOOD, smoothing=0), "Expected a smoothing above 0 and at most 1, found 0."),
        (lambda: SentimentMiddleware(TOPIC), "Give yours with valence=."),
        (lambda: guard(forbidden=["medicin"]), "found 'medicin' (did you mean 'medical'?)"),
        (lambda: guard(forbidden=["medical"], allowed=["medical"]), "found 'medical' to be both"),
        (lambda: guard(on_error="stop"), "Expected on_error 'block' or 'pass', found 'stop'."),
        (lambda: ToolSelectorMiddleware(TOPIC, tools={"refunds": []}), "found 'refunds' (did you mean 'refund'?)"),
        (lambda: ToolSelectorMiddleware(TOPIC, tools={"refund": "pay_back"}), "Put it in brackets."),
    ],
)
def test_what_cannot_be_configured_is_said(make: Any, said: str) -> None:
    """When the middleware is made, not when somebody asks."""
    with pytest.raises(ConfigError, match=re.escape(said)):
        make()


@pytest.mark.parametrize("package", ["langchain", "langgraph"])
def test_a_missing_package_names_the_extra(package: str) -> None:
    """In the line that installs it."""
    code = f"import sys; sys.modules[{package!r}] = None\nimport lc_finetune.agents"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "MissingDependencyError: " in done.stderr
    assert "pip install 'lc-finetune[agents]'" in done.stderr
