"""Entities that the chat model never sees."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from hashlib import blake2b
from threading import Event, Lock
from typing import Annotated, Any, NotRequired

from langchain.agents.middleware import (
    AgentMiddleware,
    AgentState,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
)
from langchain.agents.middleware.types import PrivateStateAttr
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable
from langgraph.types import Command

from lc_finetune.agents.masking import Markers, check_pools
from lc_finetune.agents.messages import Kind, rewritten
from lc_finetune.agents.reading import OnError, check_types, checked
from lc_finetune.agents.restoring import RestoringChatModel, restored_message
from lc_finetune.agents.sentiment import with_line
from lc_finetune.errors import InputError, reason
from lc_finetune.labels import Span
from lc_finetune.runnables.dispatch import aoutcomes_of, outcomes_of
from lc_finetune.schemas import Tagging

logger = logging.getLogger(__name__)

INSTRUCTIONS = (
    "Names and numbers that are not for you to know are replaced by markers, a type and a number in square brackets. "
    "Use a marker, letter for letter, wherever you would use what it stands for, also in tool calls."
)
BLOCKED = "I cannot answer at the moment. Please try again later."
REMEMBERED_TEXTS = 4096


class RedactionState(AgentState[Any]):
    """What `EntityRedactionMiddleware` adds to the agent's state: marker → label and text."""

    redacted_entities: NotRequired[Annotated[dict[str, dict[str, str]], PrivateStateAttr]]


class EntityRedactionMiddleware(AgentMiddleware[RedactionState, Any, Any]):
    """Mask entities on the way to the chat model and restore them on the way back.

    The model sees `[PERSON_1]`, or a pseudonym, in all messages, the system prompt, the arguments of earlier tool calls
    and the results of tools. Users, tools, the state and its checkpoints see the entities themselves, also while an
    answer streams. Within a conversation an entity keeps its marker, and is masked wherever it occurs once it has been
    found.

    Put it last in the list of middleware, next to the model: what comes after it sees markers, and may add texts that
    are not masked. Images, sound, files, and the descriptions of tools go to the model as they are. What the model has
    thought and `additional_kwargs` stay as the model wrote them. A model that writes a marker otherwise than it was
    given, in part, or letter by letter, is not understood.

    Example:
        ```python
        agent = create_agent(model, tools, middleware=[EntityRedactionMiddleware(tagger, on_error="block")])
        ```
    """

    state_schema = RedactionState

    def __init__(
        self,
        tagger: Runnable[Any, Tagging],
        *,
        on_error: OnError,
        labels: Collection[str] | None = None,
        pseudonyms: Mapping[str, Sequence[str]] | None = None,
        instructions: str | None = INSTRUCTIONS,
        blocked: str = BLOCKED,
    ) -> None:
        """Say what is masked, how, and what happens when that cannot be found out.

        Args:
            tagger: Text → entities.
            on_error: When the tagger fails on a text, `"block"` ends the turn with the message `blocked`, and the chat
                model is not called; `"pass"` masks what else is known and sends the text on, with a warning in the log.
            labels: Entity types to mask; all by default.
            pseudonyms: Entity type → what stands for its entities, in this order, before markers in brackets do. They
                come back as they are, so take full names that occur in no word.
            instructions: A line added to the system prompt where there are markers in brackets, or None.
            blocked: What the user reads when a turn is blocked.

        Raises:
            ConfigError: If a type is none of the tagger's, a pseudonym cannot be used, or `on_error` is neither.
        """
        super().__init__()
        check_types(tagger, [*(labels or ()), *(pseudonyms or {})])
        check_pools(pseudonyms or {})
        self.tagger = tagger
        self.on_error = checked(on_error)
        self.labels = None if labels is None else frozenset(labels)
        self.pseudonyms = {label: tuple(pool) for label, pool in (pseudonyms or {}).items()}
        self.instructions = instructions
        self.blocked = blocked
        self._found = _Found()

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> AIMessage | ExtendedModelResponse[Any]:
        """Mask, call, restore."""
        spans, new = self._found.recalled(_texts(request))
        if self._blocks(spans, new, outcomes_of(self.tagger, new)):
            return AIMessage(self.blocked)
        call = self._call(request, spans)
        return call.answered(handler(call.request))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> AIMessage | ExtendedModelResponse[Any]:
        """As `wrap_model_call`, without blocking the event loop."""
        spans, new = self._found.recalled(_texts(request))
        if self._blocks(spans, new, await aoutcomes_of(self.tagger, new)):
            return AIMessage(self.blocked)
        call = self._call(request, spans)
        return call.answered(await handler(call.request))

    def _blocks(self, spans: dict[str, tuple[Span, ...]], new: Sequence[str], outcomes: Sequence[Any]) -> bool:
        """Add what was found in the new texts; tell whether a failure ends the turn."""
        failures: list[Exception] = []
        for text, outcome in zip(new, outcomes, strict=True):
            if isinstance(outcome, Tagging):
                spans[text] = tuple(Span(e.start, e.end, e.label) for e in outcome.entities if self._masks(e.label))
                self._found.note(text, spans[text])
            else:
                wrong = InputError(f"Expected a Tagging from the tagger, found {type(outcome).__name__}.")
                failures.append(outcome if isinstance(outcome, Exception) else wrong)
        if failures:
            logger.warning(
                "%d of %d texts could not be tagged (%s): %s.",
                len(failures),
                len(new),
                reason(failures[0]),
                self.on_error,
            )
        return bool(failures) and self.on_error == "block"

    def _masks(self, label: str) -> bool:
        return self.labels is None or label in self.labels

    def _call(self, request: ModelRequest[Any], spans: Mapping[str, tuple[Span, ...]]) -> _Call:
        known: Any = request.state.get("redacted_entities", {})
        markers = Markers(known, pools=self.pseudonyms)
        markers.learn(spans)

        def write(text: str, kind: Kind) -> str:
            return markers.mask(text, spans.get(text, ()), by_model=kind == "hidden")

        system = None if request.system_message is None else rewritten(request.system_message, write)
        messages = [rewritten(message, write) for message in request.messages]
        if self.instructions is not None and markers.bracketed:
            system = with_line(system, self.instructions)
        return _Call(request, markers, system, messages)


class _Call:
    """One call of the chat model."""

    def __init__(self, request: ModelRequest[Any], markers: Markers, system: Any, messages: list[Any]) -> None:
        self._markers = markers
        self._known = request.state.get("redacted_entities", {})
        self._ours = Event()
        model: Any = RestoringChatModel.around(request.model, markers, self._ours)
        self.request = request.override(model=model, system_message=system, messages=messages)

    def answered(self, response: ModelResponse[Any]) -> ExtendedModelResponse[Any]:
        """Restore what another model than ours has answered, and keep the markers in the state."""
        # A middleware that stands after this one, such as a fallback, may have put its own model in the place of ours.
        if not self._ours.is_set():
            response.result = [
                restored_message(message, self._markers) if isinstance(message, AIMessage) else message
                for message in response.result
            ]
        known = self._markers.as_dict()
        command: Command[Any] | None = Command(update={"redacted_entities": known}) if known != self._known else None
        return ExtendedModelResponse(model_response=response, command=command)


class _Found:
    """The entities of texts that were tagged before, so that a long conversation is not tagged anew at each step.

    Holds digests and offsets, no text.
    """

    def __init__(self) -> None:
        self._spans: OrderedDict[bytes, tuple[Span, ...]] = OrderedDict()
        self._lock = Lock()

    def recalled(self, texts: Sequence[str]) -> tuple[dict[str, tuple[Span, ...]], list[str]]:
        """Give the spans of each text, in order, none yet for those that are new; and those."""
        with self._lock:
            known = {text: self._spans.get(_digest(text)) for text in texts}
        return {text: spans or () for text, spans in known.items()}, [t for t, spans in known.items() if spans is None]

    def note(self, text: str, spans: Sequence[Span]) -> None:
        with self._lock:
            self._spans[_digest(text)] = tuple(spans)
            while len(self._spans) > REMEMBERED_TEXTS:
                self._spans.popitem(last=False)


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _texts(request: ModelRequest[Any]) -> list[str]:
    """Collect each distinct text of the request that is not blank."""
    texts: dict[str, None] = {}

    def collect(text: str, kind: Kind) -> str:
        if text.strip():
            texts[text] = None
        return text

    for message in [*([] if request.system_message is None else [request.system_message]), *request.messages]:
        rewritten(message, collect)
    return list(texts)
