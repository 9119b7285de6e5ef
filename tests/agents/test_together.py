"""All middleware in one agent: many conversations at once, streamed, with tool calls, over real checkpointers."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from lc_finetune.agents import (
    EntityRedactionMiddleware,
    SentimentMiddleware,
    ToolSelectorMiddleware,
    TopicGuardMiddleware,
)
from lc_finetune.testing import FakeClassifier, FakeTagger
from tests.agents.chat_models import PlannedModel

STRICT = JsonPlusSerializer(allowed_msgpack_modules=None)
PEOPLE = ("Ann Lee", "Seán O'Neil", "张伟")
FORBIDDEN = "My knee hurts."
MOOD = FakeClassifier(labels=("neutral", "negative"), label_of={FORBIDDEN: "negative"})
TOPIC = FakeClassifier(labels=("order", "medical"), label_of={FORBIDDEN: "medical"})
TAGGER = FakeTagger(type_of=dict.fromkeys(PEOPLE, "PERSON"))
CONVERSATIONS = 12


@tool
def find_order(who: str) -> str:
    """Find an order."""
    return f"{who} has one."


@tool
def find_doctor(who: str) -> str:
    """Find a doctor."""
    return who


def find_and_tell(messages: list[BaseMessage]) -> AIMessage:
    """Call the tool with what the user said; tell what it answered."""
    if isinstance(messages[-1], ToolMessage):
        return AIMessage(f"So {messages[-1].content}")
    return AIMessage("", tool_calls=[{"name": "find_order", "args": {"who": messages[-1].content}, "id": "1"}])


def agent_of(saver: Any) -> tuple[Any, PlannedModel]:
    model = PlannedModel(plan=find_and_tell)
    middleware: Any = [
        SentimentMiddleware(MOOD),
        TopicGuardMiddleware(TOPIC, message="Not here.", forbidden=["medical"]),
        ToolSelectorMiddleware(TOPIC, tools={"order": [find_order], "medical": [find_doctor]}),
        EntityRedactionMiddleware(TAGGER, on_error="block"),
    ]
    return create_agent(model, [find_order, find_doctor], middleware=middleware, checkpointer=saver), model


def said_in(number: int) -> list[str]:
    """What is said in a conversation: about a person, what ends the turn, and about another person."""
    return [PEOPLE[number % 3], FORBIDDEN, f"{PEOPLE[(number + 1) % 3]}, number {number}"]


def told(chunks: Iterable[Any]) -> str:
    """The text of the agent's messages, as they streamed."""
    return "".join(chunk.content for chunk, _ in chunks if isinstance(chunk, AIMessage))


def thread(number: int) -> Any:
    return {"configurable": {"thread_id": str(number)}}


async def in_threads(agent: Any) -> list[list[str]]:
    def talk(number: int) -> list[str]:
        return [
            told(agent.stream({"messages": [HumanMessage(said)]}, thread(number), stream_mode="messages"))
            for said in said_in(number)
        ]

    with ThreadPoolExecutor(CONVERSATIONS) as pool:
        return list(pool.map(talk, range(CONVERSATIONS)))


async def in_coroutines(agent: Any) -> list[list[str]]:
    async def talk(number: int) -> list[str]:
        answers = []
        for said in said_in(number):
            stream = agent.astream({"messages": [HumanMessage(said)]}, thread(number), stream_mode="messages")
            answers.append(told([chunk async for chunk in stream]))
        return answers

    return await asyncio.gather(*map(talk, range(CONVERSATIONS)))


@asynccontextmanager
async def memory(folder: Path) -> AsyncIterator[Any]:
    yield InMemorySaver(serde=STRICT)


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[Any]:
    connection = sqlite3.connect(folder / "checkpoints.sqlite", check_same_thread=False)
    yield SqliteSaver(connection, serde=STRICT)
    connection.close()


@asynccontextmanager
async def async_sqlite(folder: Path) -> AsyncIterator[Any]:
    async with AsyncSqliteSaver.from_conn_string(str(folder / "checkpoints.sqlite")) as saver:
        saver.serde = STRICT
        yield saver


@pytest.mark.parametrize(
    ("run", "opened"),
    [(in_threads, memory), (in_coroutines, memory), (in_threads, sqlite), (in_coroutines, async_sqlite)],
)
async def test_all_at_once_keep_apart_and_to_their_work(
    run: Callable[[Any], Any], opened: Callable[[Path], Any], tmp_path: Path
) -> None:
    """Answers are whole and in clear, the model sees markers only, and the checkpoints hold plain data."""
    async with opened(tmp_path) as saver:
        agent, model = agent_of(saver)
        answers = await run(agent)
        states = [(await state_of(agent, saver, number)) for number in range(CONVERSATIONS)]

    for number, (answered, state) in enumerate(zip(answers, states, strict=True)):
        first, _, last = said_in(number)
        assert answered == [f"So {first} has one.", "Not here.", f"So {last} has one."]
        assert [entry["label"] for entry in state["sentiment_trail"]] == ["neutral", "negative", "neutral"]
        kept = {key: value for key, value in state.items() if key != "messages"}
        assert kept == json.loads(json.dumps(kept))
        assert {entity["text"] for entity in kept["redacted_entities"].values()} == {first, last.partition(",")[0]}
    assert [person for person in PEOPLE if any(person in str(message) for seen in model.seen for message in seen)] == []
    assert {tuple(names) for names in model.offered} == {("find_order",)}


async def state_of(agent: Any, saver: Any, number: int) -> dict[str, Any]:
    """What the checkpointer gives back."""
    if isinstance(saver, SqliteSaver):
        values: dict[str, Any] = agent.get_state(thread(number)).values
    else:
        values = (await agent.aget_state(thread(number))).values
    return values
