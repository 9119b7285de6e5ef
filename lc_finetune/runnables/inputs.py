"""What a user may hand to a Runnable → the text to classify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.prompt_values import PromptValue

from lc_finetune.errors import InputError
from lc_finetune.schemas import Result

EXPECTED = (
    "Expected a str, a mapping with the key {key!r}, a message, a list of messages, a state with 'messages', "
    "a Document or a PromptValue, found {found}."
)


def text_of(value: Any, key: str = "text") -> str:
    """Read the text of one input, unchanged.

    Of messages, the last human one counts.

    Args:
        value: A `str`; a mapping with `key`, or with `messages`; a message; a list of messages; a `Document`; a
            `PromptValue`; or a result, whose text is taken.
        key: Where a mapping keeps its text.

    Raises:
        InputError: If there is no text to be found; names the type found, never the content.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Result):
        return value.text
    if isinstance(value, Document):
        return value.page_content
    if isinstance(value, BaseMessage):
        return _message_text(value)
    if isinstance(value, PromptValue):
        return _last_human(value.to_messages())
    if isinstance(value, Mapping):
        if key in value:
            return text_of(value[key], key)
        if isinstance(value.get("messages"), Sequence):
            return _last_human(value["messages"])
        keys = ", ".join(sorted(str(name) for name in value)) or "no keys"
        raise InputError(EXPECTED.format(key=key, found=f"a mapping with {keys}") + " Name the key with input_key=.")
    if isinstance(value, list | tuple) and value and all(isinstance(one, BaseMessage) for one in value):
        return _last_human(value)
    raise InputError(EXPECTED.format(key=key, found=type(value).__name__))


def _last_human(messages: Sequence[Any]) -> str:
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            return _message_text(message)
        if isinstance(message, Mapping) and message.get("role") in ("user", "human"):
            return text_of(message.get("content"))
    raise InputError(f"Expected a human message, found none among {len(messages)} messages.")


def _message_text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    texts = [block if isinstance(block, str) else block.get("text") for block in message.content]
    found = [text for text in texts if isinstance(text, str)]
    if not found:
        raise InputError("Expected a message with text, found one whose content has no text block.")
    return "\n".join(found)
