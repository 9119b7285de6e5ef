"""What a user may hand to a Runnable → the text to classify, or the two texts of a pair."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage, BaseMessageChunk, HumanMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables.utils import AddableDict

from lc_finetune.errors import InputError
from lc_finetune.schemas import PairClassification, QuestionAnswer, Result

EXPECTED = (
    "Expected a str, a mapping with the key {key!r}, a message, a list of messages, a state with 'messages', "
    "a Document or a PromptValue, found {found}."
)
KEYS_SHOWN = 10


def text_of(value: Any, key: str = "text") -> str:
    """Read the text of one input, unchanged.

    Of messages, the last human one counts; they may be written as LangChain's chat models take them.

    Args:
        value: A `str`; a mapping with `key`, or with `messages`; a message; a list of messages; a `Document`; a
            `PromptValue`; or a result, whose text is taken.
        key: Where a mapping keeps its text.

    Raises:
        InputError: If there is no text to be found; names the type found, never the content.
    """
    if isinstance(value, Mapping):
        return _held(value, key)
    if isinstance(value, str):
        return value
    if isinstance(value, Result):
        return value.text
    if isinstance(value, Document):
        return value.page_content
    if isinstance(value, BaseMessage):
        return _message_text(value)
    if isinstance(value, PromptValue):
        return _human(value.to_messages())
    # Among strings there is no telling a conversation from texts that were meant for `batch`.
    if isinstance(value, list | tuple) and value and not any(isinstance(one, str) for one in value):
        return _human(value)
    raise InputError(EXPECTED.format(key=key, found=type(value).__name__))


def pair_of(value: Any, key: str = "text", pair_key: str = "text_pair", *, option: str = "pair_key") -> tuple[str, str]:
    """Read the two texts of one input, unchanged.

    Args:
        value: A mapping with both keys, each with what `text_of` reads; a tuple of two `str`; or the result of a pair,
            whose texts are taken.
        key: Where a mapping keeps its first text.
        pair_key: Where it keeps its second.
        option: What names that key, for messages.

    Raises:
        InputError: If there are no two texts to be found; names the type found, never the content.
    """
    if isinstance(value, Mapping) and key in value and pair_key in value:
        return _text_under(key, value[key]), _text_under(pair_key, value[pair_key])
    if isinstance(value, PairClassification):
        return value.text, value.text_pair
    if isinstance(value, QuestionAnswer):
        return value.question, value.context
    # Two texts in a list may be a batch of two; a tuple is what everybody writes for a pair.
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(one, str) for one in value):
        first, second = value
        return first, second
    found = _keys(value) + f". Name the keys with input_key= and {option}=" if isinstance(value, Mapping) else ""
    raise InputError(
        f"Expected a mapping with the keys {key!r} and {pair_key!r}, or a tuple of two texts, found "
        f"{found or type(value).__name__}."
    )


def _held(mapping: Mapping[Any, Any], key: str) -> str:
    if key not in mapping and isinstance(mapping.get("messages"), list | tuple):
        return _human(mapping["messages"])
    held = mapping.get(key, mapping.get("messages"))
    if held is None:
        raise InputError(EXPECTED.format(key=key, found=_keys(mapping)) + " Name the key with input_key=.")
    return _text_under(key, held)


def _text_under(key: str, held: Any) -> str:
    if isinstance(held, Mapping):
        raise InputError(f"Expected a text under {key!r}, found another mapping. Take the inner one.")
    return text_of(held, key)


def whole(values: Iterator[Any]) -> Iterator[Any]:
    """Put the chunks of one message or one mapping together, which come last; all else is whole as it is."""
    chunks: Any = None
    for value in values:
        if isinstance(value, BaseMessageChunk | AddableDict):
            chunks = value if chunks is None else chunks + value
        else:
            yield value
    if chunks is not None:
        yield chunks


async def awhole(values: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """As `whole`, over an asynchronous iterator."""
    chunks: Any = None
    async for value in values:
        if isinstance(value, BaseMessageChunk | AddableDict):
            chunks = value if chunks is None else chunks + value
        else:
            yield value
    if chunks is not None:
        yield chunks


def _human(messages: Sequence[Any]) -> str:
    for message in reversed(messages):
        read = _message(message)
        if isinstance(read, HumanMessage):
            return _message_text(read)
    raise InputError(f"Expected a human message, found none among {len(messages)} messages.")


def _message(value: Any) -> BaseMessage:
    if isinstance(value, BaseMessage):
        return value
    try:
        return convert_to_messages([value])[0]
    except Exception:
        found = f"a {type(value).__name__} that is none"
    raise InputError(f"Expected a message, or a pair or mapping of role and content, found {found}.")


def _keys(mapping: Mapping[Any, Any]) -> str:
    names = sorted(map(str, mapping))
    shown = ", ".join(names[:KEYS_SHOWN]) + (", …" if len(names) > KEYS_SHOWN else "")
    return f"a mapping with {shown or 'no keys'}"


def _message_text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    texts = [block if isinstance(block, str) else block.get("text") for block in message.content]
    found = [text for text in texts if isinstance(text, str)]
    if not found:
        raise InputError("Expected a message with text, found one whose content has no text block.")
    return "\n".join(found)
