"""A chat model whose answers are restored as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from threading import Event
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableBinding
from langgraph.constants import TAG_NOSTREAM
from pydantic import Field

from lc_finetune.agents.masking import Markers, Restorer
from lc_finetune.agents.messages import THOUGHTS, Kind, arguments, block, kind_of, rewritten

Part = tuple[str, Any]
"""A part of a streamed answer: `("content", None)`, or a block or tool call (`"block"`, `"call"`) and its index."""

Key = tuple[Part, str]
"""What pieces of a stream belong together: a part and a field of it."""

CONTENT: Part = ("content", None)

UNSEEN: RunnableConfig = {"callbacks": [], "tags": [TAG_NOSTREAM]}
"""The model's own run is not reported: the restoring one is, with the same usage, and would be counted twice.

A binding around the model would report it all the same, which is why `bind_tools` keeps bindings outside; the tag keeps
LangGraph from streaming what a binding that came from elsewhere reports.
"""


class RestoringChatModel(BaseChatModel):
    """Passes messages on to a chat model and restores what it answers, whole or streamed, tool calls too.

    It never caches: an answer with one user's entities would be another's for the same masked question. The model
    itself may, since it sees markers only.
    """

    inner: Any = Field(description="The chat model, or what it became when tools were bound to it.")
    markers: Any = Field(description="The conversation's `Markers`.", exclude=True, repr=False)
    answered: Any = Field(description="An `Event`, set when an answer has come through here.", exclude=True, repr=False)
    json_answer: bool = Field(default=False, description="Whether the content is to be JSON.")
    cache: Any = Field(default=False, exclude=True)

    @classmethod
    def around(cls, inner: Runnable[Any, Any], markers: Markers, answered: Event) -> RestoringChatModel:
        """Wrap a model and take over what LangChain asks a model for."""
        return cls(
            inner=inner,
            markers=markers,
            answered=answered,
            profile=getattr(inner, "profile", None),
            disable_streaming=getattr(inner, "disable_streaming", False),
        )

    @property
    def _llm_type(self) -> str:
        return str(getattr(self.inner, "_llm_type", "restoring"))

    @property
    def model_name(self) -> str:
        """The model's own name, by which LangChain knows what it can do."""
        names = (getattr(self.inner, attribute, None) for attribute in ("model_name", "model", "model_id"))
        return next((name for name in names if isinstance(name, str)), "")

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return dict(getattr(self.inner, "_identifying_params", {}))

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        own = getattr(self.inner, "_get_ls_params", super()._get_ls_params)
        return own(stop=stop, **kwargs)

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any) -> Runnable[Any, AIMessage]:
        """Bind tools to the model itself."""
        chosen = {} if tool_choice is None else {"tool_choice": tool_choice}
        bound = self.inner.bind_tools(tools, **chosen, **kwargs)
        binding = bound if isinstance(bound, RunnableBinding) else None
        update = {"inner": binding.bound if binding else bound, "json_answer": "response_format" in kwargs}
        model = self.model_copy(update=update)
        return binding.model_copy(update={"bound": model}) if binding else model

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return self._whole(self.inner.invoke(messages, UNSEEN, **_options(stop, kwargs)), kwargs)

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return self._whole(await self.inner.ainvoke(messages, UNSEEN, **_options(stop, kwargs)), kwargs)

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        answer = StreamedAnswer(self.markers, json_answer=self._json(kwargs))
        for chunk in self.inner.stream(messages, UNSEEN, **_options(stop, kwargs)):
            yield from _generations(answer.feed(_as_chunk(chunk)))
        yield from _generations(answer.rest())
        self.answered.set()

    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        answer = StreamedAnswer(self.markers, json_answer=self._json(kwargs))
        async for chunk in self.inner.astream(messages, UNSEEN, **_options(stop, kwargs)):
            for restored in _generations(answer.feed(_as_chunk(chunk))):
                yield restored
        for restored in _generations(answer.rest()):
            yield restored
        self.answered.set()

    def _json(self, kwargs: dict[str, Any]) -> bool:
        return self.json_answer or "response_format" in kwargs

    def _whole(self, message: AIMessage, kwargs: dict[str, Any]) -> ChatResult:
        restored = restored_message(message, self.markers, json_answer=self._json(kwargs))
        self.answered.set()
        return ChatResult(generations=[ChatGeneration(message=restored)])


def _generations(chunks: Sequence[AIMessageChunk]) -> Iterator[ChatGenerationChunk]:
    return (ChatGenerationChunk(message=chunk) for chunk in chunks)


def restored_message(message: AIMessage, markers: Markers, *, json_answer: bool = False) -> AIMessage:
    """Put the entities back into a whole answer; what is hidden stays as the model wrote it."""

    def write(text: str, kind: Kind) -> str:
        return text if kind == "hidden" else markers.restore(text, in_json=kind == "json")

    def write_json(text: str, kind: Kind) -> str:
        return write(text, "json" if kind == "text" else kind)

    if not json_answer:
        return rewritten(message, write)
    calls = rewritten(message, write)
    return calls.model_copy(update={"content": rewritten(message, write_json).content})


class StreamedAnswer:
    """Restores an answer that arrives in chunks.

    Each text block and each tool call's arguments have a `Restorer` of their own; what it still holds is given when
    another block begins, or with the last chunk.
    """

    def __init__(self, markers: Markers, *, json_answer: bool = False) -> None:
        self._markers = markers
        self._json_answer = json_answer
        self._restorers: dict[Key, Restorer] = {}
        self._id: str | None = None

    def feed(self, chunk: AIMessageChunk) -> list[AIMessageChunk]:
        """Take a chunk; give it restored, after what other blocks held, and with what remains if it is the last."""
        self._id = chunk.id
        touched: set[Part] = set()
        restored = _changed(
            chunk,
            content=self._content(chunk.content, touched),
            tool_call_chunks=[self._call(call, touched) for call in chunk.tool_call_chunks],
        )
        before = self._given([key for key in self._restorers if key[0] not in touched]) if touched else []
        if chunk.chunk_position != "last":
            return [*before, restored]
        after = self.rest()
        if not after:
            return [*before, restored]
        return [*before, _changed(restored, chunk_position=None), _changed(after[0], chunk_position="last")]

    def rest(self) -> list[AIMessageChunk]:
        """Give what is still held, after a stream without a last chunk."""
        return self._given(list(self._restorers))

    def _content(self, content: str | list[Any], touched: set[Part]) -> str | list[Any]:
        if isinstance(content, str):
            return self._text(content, touched)
        return [self._text(one, touched) if isinstance(one, str) else self._block(one, touched) for one in content]

    def _text(self, text: str, touched: set[Part]) -> str:
        if text:
            touched.add(CONTENT)
        return self._piece((CONTENT, "text"), text)

    def _block(self, value: dict[str, Any], touched: set[Part]) -> dict[str, Any]:
        part: Part = ("block", value.get("index"))
        touched.add(part)
        if value.get("type") in THOUGHTS:
            return value
        pieces = {
            field: self._piece((part, field), one)
            for field, one in value.items()
            if field in _TYPES and isinstance(one, str)
        }
        others = block({field: one for field, one in value.items() if field not in pieces}, self._write)
        return {field: {**others, **pieces}[field] for field in value}

    def _call(self, call: Any, touched: set[Part]) -> Any:
        part: Part = ("call", call.get("index"))
        touched.add(part)
        args = call.get("args")
        if not args:
            return call
        if part[1] is None:  # whole, and not to be put together with others
            return {**call, "args": arguments(args, self._write)}
        return {**call, "args": self._piece((part, "args"), args)}

    def _piece(self, key: Key, text: str) -> str:
        if key not in self._restorers:
            in_json = kind_of(key[1]) == "json" or (self._json_answer and key[1] == "text")
            self._restorers[key] = Restorer(self._markers, in_json=in_json)
        return self._restorers[key].feed(text)

    def _write(self, text: str, kind: Kind) -> str:
        return text if kind == "hidden" else self._markers.restore(text, in_json=kind == "json")

    def _given(self, keys: Sequence[Key]) -> list[AIMessageChunk]:
        """Give what these hold, as one chunk if it is anything."""
        held = {key: text for key in keys if (text := self._restorers[key].rest())}
        if not held:
            return []
        text = held.pop((CONTENT, "text"), "")
        calls = [
            tool_call_chunk(name=None, args=args, id=None, index=index)
            for ((kind, index), _), args in held.items()
            if kind == "call"
        ]
        blocks: list[Any] = [
            {"type": _TYPES[field], field: piece, "index": index}
            for ((kind, index), field), piece in held.items()
            if kind == "block"
        ]
        content: Any = [*([text] if text else []), *blocks] if blocks else text
        return [AIMessageChunk(content=content, tool_call_chunks=calls, id=self._id)]


_TYPES = {
    "text": "text",
    "refusal": "refusal",
    "args": "tool_call_chunk",
    "arguments": "function_call",
    "partial_json": "input_json_delta",
}
"""The type of block that each streamed field belongs to."""


def _changed(chunk: AIMessageChunk, **update: Any) -> AIMessageChunk:
    """Copy a chunk by its constructor, which reads the tool calls anew."""
    derived = ("tool_calls", "invalid_tool_calls", "type")
    fields = {name: getattr(chunk, name) for name in type(chunk).model_fields if name not in derived}
    return AIMessageChunk(**{**fields, **update})


def _as_chunk(message: AIMessage) -> AIMessageChunk:
    """Take a whole answer, which models that do not stream give, as a chunk."""
    if isinstance(message, AIMessageChunk):
        return message
    fields = {name: getattr(message, name) for name in type(message).model_fields if name != "type"}
    return AIMessageChunk(**fields, chunk_position="last")


def _options(stop: list[str] | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    # None would take the place of what is bound to the model.
    return kwargs if stop is None else {**kwargs, "stop": stop}
