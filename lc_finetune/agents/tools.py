"""Which tools the chat model is offered."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, NotRequired

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.middleware.types import PrivateStateAttr
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool

from lc_finetune.agents.reading import aclassified, check_labels, classified, human
from lc_finetune.errors import ConfigError, reason
from lc_finetune.schemas import Classification

logger = logging.getLogger(__name__)


class ToolSelectorState(AgentState[Any]):
    """What `ToolSelectorMiddleware` adds to the agent's state."""

    fitting_labels: NotRequired[Annotated[list[str] | None, PrivateStateAttr]]


class ToolSelectorMiddleware(AgentMiddleware[ToolSelectorState, Any, Any]):
    """Offer the chat model only the tools whose labels fit the last human message.

    The message is classified once a turn. Its most probable label fits, and each other one with at least `least_score`.
    A tool that stands under no label is always offered, and so are the provider's own tools. All tools are offered when
    there is nothing to choose by: no human message or none with text, a fitting label that has no entry in `tools`, or
    a result that is not accepted.

    Example:
        ```python
        selector = ToolSelectorMiddleware(classifier, tools={"refund": [refund, find_order], "delivery": [find_order]})
        ```
    """

    state_schema = ToolSelectorState

    def __init__(
        self,
        classifier: Runnable[Any, Classification],
        *,
        tools: Mapping[str, Collection[BaseTool | str]],
        least_score: float = 0.1,
    ) -> None:
        """Say which tools belong to which label; `middleware.tools` of LangChain's own is left empty.

        Args:
            classifier: Text → label.
            tools: Label → its tools, or their names.
            least_score: Probability from which on a label fits beside the most probable one.

        Raises:
            ConfigError: If a label is none of the classifier's, or its tools are a bare string.
        """
        super().__init__()
        if any(isinstance(named, str) for named in tools.values()):
            raise ConfigError("Expected for each label a list of tools, found a string. Put it in brackets.")
        check_labels(classifier, tools, what="tools")
        self.classifier = classifier
        self.names_of = {
            label: frozenset(tool if isinstance(tool, str) else tool.name for tool in of_label)
            for label, of_label in tools.items()
        }
        self.least_score = least_score

    def before_agent(self, state: ToolSelectorState, runtime: Any) -> dict[str, Any] | None:
        """Classify the last human message."""
        return self._update(classified(self.classifier, human(state["messages"])[-1:]))

    async def abefore_agent(self, state: ToolSelectorState, runtime: Any) -> dict[str, Any] | None:
        """As `before_agent`, without blocking the event loop."""
        return self._update(await aclassified(self.classifier, human(state["messages"])[-1:]))

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Leave out the tools that do not fit."""
        return handler(self._narrowed(request))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """As `wrap_model_call`."""
        return await handler(self._narrowed(request))

    def _update(self, outcomes: Sequence[Classification | Exception]) -> dict[str, Any]:
        return {"fitting_labels": self._fitting(outcomes[0]) if outcomes else None}

    def _fitting(self, outcome: Classification | Exception) -> list[str] | None:
        if isinstance(outcome, Exception):
            logger.warning("A message could not be classified (%s): all tools are offered.", reason(outcome))
            return None
        if outcome.accepted is False:
            return None
        others = (label for label, score in outcome.scores.items() if score >= self.least_score)
        return list(dict.fromkeys([outcome.label, *others]))

    def _narrowed(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        fitting: list[str] | None = request.state.get("fitting_labels")  # type: ignore[assignment]
        # Asked here, since a turn may go on with another middleware than the one it began with.
        if fitting is None or not all(label in self.names_of for label in fitting):
            return request
        offered = frozenset[str]().union(*(self.names_of[label] for label in fitting))
        left_out = frozenset[str]().union(*self.names_of.values()) - offered
        return request.override(
            tools=[tool for tool in request.tools if isinstance(tool, dict) or tool.name not in left_out]
        )
