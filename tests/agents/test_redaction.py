"""Entities on the way to the chat model and back: through real agents, with a tagger that knows the truth."""

import json
import logging
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from lc_finetune import Checkpoint, ConfigError, EntityTagger
from lc_finetune.agents import EntityRedactionMiddleware
from lc_finetune.agents.redaction import BLOCKED
from lc_finetune.testing import FakeTagger
from tests.agents.chat_models import PlannedModel, WholeModel, failing, saying

PEOPLE = ("Ann Lee", "Ann Lee-Smith", 'Jörg "Jo" Müller', "Seán O'Neil", "张伟", "Zoë 🎉 Blanc", "Back\\slash Bob")
CITIES = ("Oslo", "Île-de-France", "São Paulo", "北京")
ORDERS = ("#48213", "AB-1234", "AB-12345")
TYPE_OF = {
    **dict.fromkeys(PEOPLE, "PERSON"),
    **dict.fromkeys(CITIES, "CITY"),
    **dict.fromkeys(ORDERS, "ORDER_ID"),
}
TAGGER = FakeTagger(type_of=TYPE_OF)
TEMPLATES = (
    "{} wants {} sent to {}.",
    "Is {} the one who lost {}? {} says [PERSON_1] on the label [, [PER and [[CITY_2]].",
    "{},{}:{}",
    "我叫{}，住在{}。{}",
    "{0}{0} and {1}\n\n“{2}” <Kim Doe>",
    "Nothing new.",
)
PSEUDONYMS = {"PERSON": ["Kim Doe", "Sam Roe"]}


@tool
def look_up(query: str, about: dict[str, list[str]]) -> str:
    """Find out more."""
    person, city = PEOPLE[len(query) % len(PEOPLE)], CITIES[len(query) % len(CITIES)]
    return f"({query}) {json.dumps(about, ensure_ascii=False) == json.dumps({'texts': [query]}, ensure_ascii=False)} {person} of {city}."


def look_up_and_tell(messages: list[BaseMessage]) -> AIMessage:
    """Call the tool with what the user said; tell what it answered."""
    asked = next(message for message in reversed(messages) if isinstance(message, HumanMessage))
    if isinstance(messages[-1], ToolMessage):
        return AIMessage(f"To “{asked.content}”: {messages[-1].content} And [PERSON_99, [")
    call = {"name": "look_up", "args": {"query": asked.content, "about": {"texts": [asked.content]}}, "id": "1"}
    return AIMessage(f"I look for {asked.content}", tool_calls=[call])


def conversation(seed: int) -> list[str]:
    """What a user says in two turns."""
    random = Random(seed)
    return [
        random.choice(TEMPLATES).format(random.choice(PEOPLE), random.choice(ORDERS), random.choice(CITIES))
        for _ in range(2)
    ]


def texts(messages: list[Any]) -> list[str]:
    """All strings a model is sent in these messages."""
    return [text for message in messages for text in (*leaves(message.content), *leaves(getattr(message, "tool_calls", [])))]


def leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for one in pair for text in leaves(one))
    elif isinstance(value, list):
        yield from (text for one in value for text in leaves(one))


def told(messages: list[Any]) -> list[tuple[str, Any, Any]]:
    """What users read and tools receive."""
    return [(message.type, message.content, getattr(message, "tool_calls", None)) for message in messages]


@pytest.mark.parametrize("pseudonyms", [None, PSEUDONYMS], ids=["markers", "pseudonyms"])
def test_no_entity_reaches_the_model_and_every_answer_is_as_without(pseudonyms: Any) -> None:
    """Over 500 conversations each way, with tool calls, and answers split at every character."""
    model = PlannedModel(plan=look_up_and_tell)
    redaction = EntityRedactionMiddleware(TAGGER, on_error="block", pseudonyms=pseudonyms)
    agent = create_agent(model, [look_up], middleware=[redaction], checkpointer=InMemorySaver())
    plain = create_agent(WholeModel(plan=look_up_and_tell), [look_up])
    for seed in range(500):
        expected: list[Any] = []
        for said in conversation(seed):
            expected = plain.invoke({"messages": [*expected, HumanMessage(said)]})["messages"]
            model.seen.clear()
            thread: Any = {"configurable": {"thread_id": str(seed)}}
            streamed: dict[str | None, Any] = {}
            for chunk, _ in agent.stream({"messages": [HumanMessage(said)]}, thread, stream_mode="messages"):
                if isinstance(chunk, AIMessageChunk):
                    streamed[chunk.id] = streamed[chunk.id] + chunk if chunk.id in streamed else chunk
            state = agent.get_state(thread).values["messages"]
            sent = [text for messages in model.seen for text in texts(messages)]

            assert [] == [entity for entity in TYPE_OF if any(entity in text for text in sent)]
            assert told(expected) == told(state)
            assert [m.content for m in state[-3:] if m.type == "ai"] == [m.content for m in streamed.values()]
            assert [m.tool_calls for m in state[-3:] if m.type == "ai"] == [m.tool_calls for m in streamed.values()]
