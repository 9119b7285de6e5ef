"""The mood of a conversation, as the agent goes along."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, NotRequired

from langchain.agents.middleware import (
    AgentMiddleware,
    AgentState,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
)
from langchain.agents.middleware.types import OmitFromInput
from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import Runnable
from langgraph.errors import GraphBubbleUp
from langgraph.types import Command

from lc_finetune.agents.reading import aclassified, check_labels, classified, human, unanswered
from lc_finetune.errors import ConfigError, reason
from lc_finetune.schemas import Classification

logger = logging.getLogger(__name__)

VALENCE: Mapping[str, float] = {"negative": -1.0, "neutral": 0.0, "positive": 1.0}


class SentimentState(AgentState[Any]):
    """What `SentimentMiddleware` adds to the agent's state."""

    sentiment_trail: NotRequired[Annotated[list[dict[str, Any]], OmitFromInput]]
    sentiment_trend: NotRequired[Annotated[dict[str, Any], OmitFromInput]]


class SentimentMiddleware(AgentMiddleware[SentimentState, Any, Any]):
    """Tag each human message once, follow the trend, and act when the mood has turned.

    The state gets `sentiment_trail`, one dict per human message (`message_id`, `label`, `score`, `accepted`, `valence`,
    `level`, `error`), and `sentiment_trend` (`level`, `change`, `turned`). `valence` is the mean of the labels'
    valences, weighted with their probabilities; `level` is its exponentially weighted mean over the conversation,
    starting at 0 (Roberts 1959, "Control Chart Tests Based on Geometric Moving Averages"). The mood has turned while
    `level` is below `turned_at`: with the defaults after two clearly negative messages in a row, never after one.

    A message without text has None for label, score and valence, its `error`, and the level of the message before it.

    Messages are tagged before the chat model is called, and the trail is kept with its answer: when the model raises,
    they are tagged again with the next call. Put it first in the list of middleware: those after it see the new trail.

    Example:
        ```python
        agent = create_agent(model, tools, middleware=[SentimentMiddleware(classifier, prompt="Apologise first.")])
        ```
    """

    state_schema = SentimentState

    def __init__(
        self,
        classifier: Runnable[Any, Classification],
        *,
        valence: Mapping[str, float] = VALENCE,
        smoothing: float = 0.5,
        turned_at: float = -0.5,
        prompt: str | None = None,
        model: str | BaseChatModel | None = None,
        handover: str | None = None,
    ) -> None:
        """Say what to do once the mood has turned; with none of the three the middleware only watches.

        Args:
            classifier: Text → sentiment.
            valence: Label → -1 (worst) … 1 (best).
            smoothing: Weight of the newest message in `level`, above 0, at most 1.
            turned_at: Below this `level` the mood has turned.
            prompt: A line added to the system prompt.
            model: The chat model that answers instead; when it raises, the agent's own does.
            handover: Message that ends the turn instead of an answer; the chat model is not called.

        Raises:
            ConfigError: If a valence or the smoothing is out of range, or the classifier lacks a label.
        """
        super().__init__()
        if not 0 < smoothing <= 1:
            raise ConfigError(f"Expected a smoothing above 0 and at most 1, found {smoothing}.")
        if not valence or any(not -1 <= value <= 1 for value in valence.values()):
            raise ConfigError("Expected for each label a valence between -1 and 1, found none or one outside.")
        check_labels(classifier, valence if valence is not VALENCE else (), what="valences")
        if not set(valence) & set(getattr(classifier, "labels", valence)):
            raise ConfigError(
                f"Expected a valence for labels of the classifier, found one for {', '.join(valence)} only. "
                "Give yours with valence=."
            )
        self.classifier = classifier
        self.valence = dict(valence)
        self.smoothing = smoothing
        self.turned_at = turned_at
        self.prompt = prompt
        self.model = init_chat_model(model) if isinstance(model, str) else model
        self.handover = handover

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Tag what is new; then add the line, switch the model, or hand over."""
        new = self._untagged(request.state)
        update = self._update(request.state, new, classified(self.classifier, new))
        own, switched = self._requests(request, update)
        if own is None:
            return _noted(ModelResponse([AIMessage(self.handover)]), update)
        if switched is not None:
            try:
                return _noted(handler(switched), update)
            except GraphBubbleUp:
                raise
            except Exception as error:
                _warn(error)
        return _noted(handler(own), update)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """As `wrap_model_call`, without blocking the event loop."""
        new = self._untagged(request.state)
        update = self._update(request.state, new, await aclassified(self.classifier, new))
        own, switched = self._requests(request, update)
        if own is None:
            return _noted(ModelResponse([AIMessage(self.handover)]), update)
        if switched is not None:
            try:
                return _noted(await handler(switched), update)
            except GraphBubbleUp:
                raise
            except Exception as error:
                _warn(error)
        return _noted(await handler(own), update)

    def _untagged(self, state: Mapping[str, Any]) -> list[HumanMessage]:
        tagged = {entry["message_id"] for entry in state.get("sentiment_trail", [])}
        return [message for message in human(state["messages"]) if message.id not in tagged]

    def _update(
        self, state: Mapping[str, Any], new: Sequence[HumanMessage], outcomes: Sequence[Classification | Exception]
    ) -> dict[str, Any]:
        """Give the state's new trail and trend; nothing if there is no new message."""
        if not new:
            return {}
        trail = list(state.get("sentiment_trail", []))
        for message, outcome in zip(new, outcomes, strict=True):
            trail.append({"message_id": message.id, **self._entry(outcome, _level(trail))})
        level = _level(trail)
        trend = {"level": level, "change": level - _level(trail[:-1]), "turned": level < self.turned_at}
        return {"sentiment_trail": trail, "sentiment_trend": trend}

    def _entry(self, outcome: Classification | Exception, before: float) -> dict[str, Any]:
        if isinstance(outcome, Exception):
            unknown = dict.fromkeys(("label", "score", "accepted", "valence"))
            return {**unknown, "level": before, "error": reason(outcome)}
        valence = self._valence(outcome)
        return {
            "label": outcome.label,
            "score": outcome.score,
            "accepted": outcome.accepted,
            "valence": valence,
            "level": self.smoothing * valence + (1 - self.smoothing) * before,
            "error": None,
        }

    def _valence(self, result: Classification) -> float:
        if not result.scores:  # from an LLM
            return self.valence.get(result.label, 0.0)
        return sum(score * self.valence.get(label, 0.0) for label, score in result.scores.items())

    def _requests(
        self, request: ModelRequest[Any], update: Mapping[str, Any]
    ) -> tuple[ModelRequest[Any] | None, ModelRequest[Any] | None]:
        """The request for the agent's own model, None for a hand-over; and one for the other model, if that answers."""
        state: Any = {**request.state, **update}
        request = request.override(state=state)
        if not state.get("sentiment_trend", {}).get("turned"):
            return request, None
        if self.handover is not None and unanswered(state["messages"]):
            return None, None
        if self.prompt is not None:
            request = request.override(system_message=with_line(request.system_message, self.prompt))
        return request, request.override(model=self.model) if self.model is not None else None


def _noted(response: ModelResponse[Any], update: dict[str, Any]) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
    """Have the state updated along with the answer."""
    # Not in a hook of its own: a node more in the agent's graph takes longer than a small classifier.
    return ExtendedModelResponse(response, Command(update=update)) if update else response


def with_line(message: SystemMessage | None, line: str) -> SystemMessage:
    """Add a line to a system message; without one, the line is all of it."""
    if message is None:
        return SystemMessage(line)
    if isinstance(message.content, str):
        return message.model_copy(update={"content": f"{message.content}\n\n{line}"})
    return message.model_copy(update={"content": [*message.content, {"type": "text", "text": line}]})


def _level(trail: Sequence[Mapping[str, Any]]) -> float:
    return float(trail[-1]["level"]) if trail else 0.0


def _warn(error: Exception) -> None:
    logger.warning("The model for a turned mood raised %s; the agent's own model answers.", type(error).__name__)
