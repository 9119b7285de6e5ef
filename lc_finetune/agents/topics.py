"""What an agent does not talk about."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from langchain.agents.middleware import AgentMiddleware, AgentState, hook_config
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable

from lc_finetune.agents.reading import (
    OnError,
    aclassified,
    check_labels,
    checked,
    classified,
    unanswered,
)
from lc_finetune.errors import ConfigError, reason
from lc_finetune.schemas import Classification

logger = logging.getLogger(__name__)


class TopicGuardMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """End the turn with a given message when a human message is out of scope or on a forbidden topic.

    All human messages since the last answer are looked at, in one call of the classifier, before anything else happens.
    The closing message says why in `response_metadata["topic_guard"]`: a dict with `reason` (`"forbidden"`,
    `"not_allowed"`, `"out_of_scope"`, `"not_accepted"` or `"error"`) and `label`.

    `in_scope` and `accepted` are None on a checkpoint without calibration: what is not known ends no turn.

    Example:
        ```python
        guard = TopicGuardMiddleware(classifier, message="I can only help with orders.", forbidden=["medical"])
        ```
    """

    def __init__(
        self,
        classifier: Runnable[Any, Classification],
        *,
        message: str,
        forbidden: Collection[str] = (),
        allowed: Collection[str] | None = None,
        least_score: float = 0.0,
        scope_level: float = 0.05,
        only_accepted: bool = False,
        on_error: OnError = "block",
    ) -> None:
        """Say what ends the turn.

        Args:
            classifier: Text → topic.
            message: What the user reads instead of an answer.
            forbidden: Labels that end the turn.
            allowed: If given, all other labels end it too.
            least_score: A label ends the turn only with at least this score.
            scope_level: A text whose `in_scope` is below this p-value is out of scope; 0 turns the check off.
            only_accepted: Whether a result that is not accepted (`accepted` is False) ends the turn.
            on_error: What happens to a message that cannot be classified, as one of images only: `"block"` ends the
                turn, `"pass"` lets it through and logs a warning.

        Raises:
            ConfigError: If a label is forbidden and allowed, or is none of the classifier's, or `on_error` is neither.
        """
        super().__init__()
        both = sorted(set(forbidden) & set(allowed or ()))
        if both:
            raise ConfigError(f"Expected a label forbidden or allowed, found {both[0]!r} to be both.")
        check_labels(classifier, [*forbidden, *(allowed or ())], what="topics")
        self.classifier = classifier
        self.message = message
        self.forbidden = frozenset(forbidden)
        self.allowed = None if allowed is None else frozenset(allowed)
        self.least_score = least_score
        self.scope_level = scope_level
        self.only_accepted = only_accepted
        self.on_error = checked(on_error)

    @hook_config(can_jump_to=["end"])
    def before_agent(self, state: AgentState[Any], runtime: Any) -> dict[str, Any] | None:
        """Look at what is new."""
        return self._verdict(classified(self.classifier, unanswered(state["messages"])))

    @hook_config(can_jump_to=["end"])
    async def abefore_agent(self, state: AgentState[Any], runtime: Any) -> dict[str, Any] | None:
        """As `before_agent`, without blocking the event loop."""
        return self._verdict(await aclassified(self.classifier, unanswered(state["messages"])))

    def _verdict(self, outcomes: Sequence[Classification | Exception]) -> dict[str, Any] | None:
        for outcome in outcomes:
            why = self._why(outcome)
            if why is not None:
                closing = AIMessage(self.message, response_metadata={"topic_guard": why})
                return {"messages": [closing], "jump_to": "end"}
        return None

    def _why(self, outcome: Classification | Exception) -> Mapping[str, str | None] | None:
        if isinstance(outcome, Exception):
            logger.warning("A message could not be classified (%s): %s.", reason(outcome), self.on_error)
            return {"reason": "error", "label": None} if self.on_error == "block" else None
        label = outcome.label
        sure = outcome.score is None or outcome.score >= self.least_score
        if outcome.in_scope is not None and outcome.in_scope < self.scope_level:
            return {"reason": "out_of_scope", "label": label}
        if sure and label in self.forbidden:
            return {"reason": "forbidden", "label": label}
        if sure and self.allowed is not None and label not in self.allowed:
            return {"reason": "not_allowed", "label": label}
        if self.only_accepted and outcome.accepted is False:
            return {"reason": "not_accepted", "label": label}
        return None
