"""Chat models that do what a test says, and remember what they were sent."""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import Field

Plan = Callable[[list[BaseMessage]], AIMessage]


class PlannedModel(BaseChatModel):
    """Answers by a plan, whole or character by character."""

    plan: Plan
    seen: list[list[BaseMessage]] = Field(default_factory=list)
    offered: list[list[str]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "planned"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        self.offered.append([tool["name"] if isinstance(tool, dict) else tool.name for tool in tools])
        return self.bind(**{key: value for key, value in kwargs.items() if value is not None})

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.seen.append(messages)
        return ChatResult(generations=[ChatGeneration(message=self.plan(messages))])

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        self.seen.append(messages)
        for chunk in in_characters(self.plan(messages)):
            yield ChatGenerationChunk(message=chunk)

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream(messages):
            yield chunk


class WholeModel(PlannedModel):
    """Does not stream."""

    _stream = BaseChatModel._stream
    _astream = BaseChatModel._astream


class AllOrNothing(RunnableLambda[Any, Any]):
    """A classifier or tagger whose batch fails as a whole, whatever is said of exceptions."""

    def batch(self, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        return [self.invoke(one) for one in inputs]

    async def abatch(self, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        return [await self.ainvoke(one) for one in inputs]


def in_characters(message: AIMessage) -> Iterator[AIMessageChunk]:
    """Split an answer at every character, the arguments of its tool calls too."""
    yield from (AIMessageChunk(character) for character in message.content)
    for index, call in enumerate(message.tool_calls):
        start = tool_call_chunk(name=call["name"], args="", id=call["id"], index=index)
        yield AIMessageChunk("", tool_call_chunks=[start])
        for character in json.dumps(call["args"], ensure_ascii=False):
            piece = tool_call_chunk(name=None, args=character, id=None, index=index)
            yield AIMessageChunk("", tool_call_chunks=[piece])


def saying(text: str) -> PlannedModel:
    """Always say the same."""
    return PlannedModel(plan=lambda messages: AIMessage(text))


def failing(*, times: int = 1_000, then: str = "Here I am.") -> PlannedModel:
    """Raise so many times, then answer."""
    left = [times]

    def plan(messages: list[BaseMessage]) -> AIMessage:
        left[0] -= 1
        if left[0] >= 0:
            raise TimeoutError("the provider is away")
        return AIMessage(then)

    return PlannedModel(plan=plan)
