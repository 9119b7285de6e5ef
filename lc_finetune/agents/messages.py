"""Messages → the same messages with other texts: what masking and restoring write into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

Kind = Literal["text", "json", "hidden"]
"""What a string in a message is: text; JSON that holds text; or something that only the provider and its model read."""

Write = Callable[[str, Kind], str]
M = TypeVar("M", bound=BaseMessage)

JSON_KEYS = frozenset({"args", "arguments", "partial_json"})
ARGUMENT_KEYS = JSON_KEYS | {"input"}
THOUGHTS = frozenset({"reasoning", "thinking", "redacted_thinking"})
OPAQUE_KEYS = frozenset(
    {
        "base64",
        "cache_control",
        "call_id",
        "container_id",
        "data",
        "detail",
        "encrypted_content",
        "file_data",
        "file_id",
    }
    | {"format", "id", "image_url", "index", "media_type", "mime_type", "name", "role", "server_name", "signature"}
    | {"status", "thought_signature", "tool_call_id", "tool_use_id", "type", "url"}
)
"""Keys of a content block that hold no text: bytes, addresses, and the names of things."""


def rewritten(message: M, write: Write) -> M:
    """Copy a message with each of its texts rewritten.

    These are: the content, text blocks and other blocks of text; tool calls' arguments, names of arguments too; the
    name of a person, which is dropped if it would change. Hidden are what the model has thought and what
    `additional_kwargs` holds. Thoughts with a signature, images, sound and files are left as they are.
    """
    update: dict[str, Any] = {
        "content": _block(message.content, write, "text"),
        "additional_kwargs": _block(message.additional_kwargs, write, "hidden"),
    }
    if isinstance(message, AIMessage):
        update["tool_calls"] = [{**call, "args": arguments(call["args"], write)} for call in message.tool_calls]
        update["invalid_tool_calls"] = [
            {**call, "args": arguments(call["args"], write)} for call in message.invalid_tool_calls
        ]
    if isinstance(message, HumanMessage) and message.name is not None and write(message.name, "text") != message.name:
        update["name"] = None
    return message.model_copy(update=update)


def block(content: Mapping[str, Any], write: Write) -> dict[str, Any]:
    """Copy a content block with its texts rewritten."""
    copied: dict[str, Any] = _block(content, write, "text")
    return copied


def arguments(value: Any, write: Write) -> Any:
    """Copy the arguments of a tool call with each string in them rewritten; a bare string is JSON."""
    return write(value, "json") if isinstance(value, str) else _argument(value, write)


def kind_of(key: str) -> Kind:
    """What kind a block's string is."""
    return "json" if key in JSON_KEYS else "text"


def _argument(value: Any, write: Write) -> Any:
    if isinstance(value, str):
        return write(value, "text")
    if isinstance(value, Mapping):
        return {_argument(key, write): _argument(one, write) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_argument(one, write) for one in value]
    return value


def _block(value: Any, write: Write, kind: Kind) -> Any:
    if isinstance(value, str):
        return write(value, kind)
    if isinstance(value, list | tuple):
        return [_block(one, write, kind) for one in value]
    if not isinstance(value, Mapping):
        return value
    if value.get("type") in THOUGHTS:
        if signed(value):
            return dict(value)
        kind = "hidden"
    return {key: _field(key, one, value, write, kind) for key, one in value.items()}


def _field(key: Any, value: Any, holder: Mapping[Any, Any], write: Write, kind: Kind) -> Any:
    if key in OPAQUE_KEYS and not (key == "data" and holder.get("type") == "text"):
        return value
    if key in ARGUMENT_KEYS and kind != "hidden":
        return arguments(value, write)
    return _block(value, write, kind)


def signed(thought: Mapping[str, Any]) -> bool:
    """Whether a thought may not be changed: its provider would refuse it."""
    extras = thought.get("extras")
    held = {**thought, **extras} if isinstance(extras, Mapping) else thought
    return any(held.get(key) for key in ("signature", "encrypted_content", "thought_signature"))
