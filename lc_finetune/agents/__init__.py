"""Classifier and tagger inside LangChain agents and LangGraph graphs: middleware and routing.

Needs the extra `agents`. Whatever a middleware keeps in the agent's state is plain dicts, lists, strings and numbers,
so that any checkpointer takes it; all hooks have an asynchronous twin that awaits the classifier.
"""

from lc_finetune.errors import MissingDependencyError

try:
    import langchain.agents.middleware  # noqa: F401
    import langgraph.graph  # noqa: F401
except ImportError as error:
    raise MissingDependencyError(
        "Expected the packages langchain and langgraph for agents, found them incomplete. "
        "Install them: pip install 'lc-finetune[agents]'."
    ) from error

from lc_finetune.agents.pii import pii_detector
from lc_finetune.agents.redaction import EntityRedactionMiddleware
from lc_finetune.agents.routes import command_by_label, route_by_label
from lc_finetune.agents.sentiment import SentimentMiddleware
from lc_finetune.agents.tools import ToolSelectorMiddleware
from lc_finetune.agents.topics import TopicGuardMiddleware

__all__ = [
    "EntityRedactionMiddleware",
    "SentimentMiddleware",
    "ToolSelectorMiddleware",
    "TopicGuardMiddleware",
    "command_by_label",
    "pii_detector",
    "route_by_label",
]
