"""A conversation → the human messages in it, and what a classifier says of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import Runnable

from lc_finetune.errors import ConfigError, InputError, did_you_mean, shown
from lc_finetune.labels import LabelSet
from lc_finetune.runnables.dispatch import aoutcomes_of, outcomes_of
from lc_finetune.runnables.inputs import text_of
from lc_finetune.schemas import Classification
from lc_finetune.schemes import TagSet


def human(messages: Iterable[Any]) -> list[HumanMessage]:
    """All human messages, in order."""
    return [message for message in messages if isinstance(message, HumanMessage)]


def unanswered(messages: Sequence[Any]) -> list[HumanMessage]:
    """The human messages since the last answer."""
    last = max((i for i, message in enumerate(messages) if isinstance(message, AIMessage)), default=-1)
    return human(messages[last + 1 :])


def classified(classifier: Runnable[Any, Any], messages: Sequence[HumanMessage]) -> list[Classification | Exception]:
    """Classify the text of each message in one call; a message that cannot be read has its exception instead."""
    texts = [_read(message) for message in messages]
    known = [text for text in texts if isinstance(text, str)]
    return _filled(texts, outcomes_of(classifier, known))


async def aclassified(
    classifier: Runnable[Any, Any], messages: Sequence[HumanMessage]
) -> list[Classification | Exception]:
    """As `classified`, without blocking the event loop."""
    texts = [_read(message) for message in messages]
    known = [text for text in texts if isinstance(text, str)]
    return _filled(texts, await aoutcomes_of(classifier, known))


OnError = Literal["block", "pass"]


def checked(on_error: Any) -> OnError:
    """Refuse what is neither `"block"` nor `"pass"`.

    Raises:
        ConfigError: Then.
    """
    if on_error == "block":
        return "block"
    if on_error == "pass":
        return "pass"
    raise ConfigError(f"Expected on_error 'block' or 'pass', found {on_error!r}.")


def check_types(tagger: Runnable[Any, Any], named: Collection[str]) -> None:
    """Refuse an entity type that the tagger cannot find; one that does not tell its tags is believed.

    Raises:
        ConfigError: If `named` holds a type that is not among the tagger's.
    """
    tags = getattr(tagger, "labels", None)
    types = None if tags is None else TagSet.from_labels(LabelSet(tuple(tags))).types
    _check(named, types, expected="entity types of the tagger", them="Its types")


def check_labels(classifier: Runnable[Any, Any], named: Collection[str], *, what: str) -> None:
    """Refuse a label that the classifier cannot answer; one that does not tell its labels is believed.

    Raises:
        ConfigError: If `named` holds a label that is not among the classifier's.
    """
    _check(
        named, getattr(classifier, "labels", None), expected=f"{what} for labels of the classifier", them="Its labels"
    )


def _check(named: Collection[str], known: Collection[str] | None, *, expected: str, them: str) -> None:
    unknown = [name for name in named if known is not None and name not in known]
    if known is not None and unknown:
        raise ConfigError(
            f"Expected {expected}, found {unknown[0]!r}{did_you_mean(unknown[0], known)}. {them} are {shown(known)}."
        )


def _read(message: HumanMessage) -> str | Exception:
    try:
        return text_of(message)
    except InputError as error:
        return error


def _filled(texts: Sequence[str | Exception], outcomes: Sequence[Any]) -> list[Classification | Exception]:
    given = iter(outcomes)
    return [_checked(next(given)) if isinstance(text, str) else text for text in texts]


def _checked(outcome: Any) -> Classification | Exception:
    if isinstance(outcome, Classification | Exception):
        return outcome
    return InputError(f"Expected a Classification from the classifier, found {type(outcome).__name__}.")
