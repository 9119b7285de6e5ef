"""Many agents at once share the forwards of one classifier: counted on a backend that answers at once.

The first forward is held back until all agents wait behind it, so that the count depends on the engine and not on how
busy the machine is.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage

from lc_finetune import Checkpoint, TextClassifier
from lc_finetune.agents import SentimentMiddleware, ToolSelectorMiddleware, TopicGuardMiddleware
from lc_finetune.inference import worker
from lc_finetune.inference.backends import Batch, Outputs
from tests.agents.chat_models import saying

AGENTS = 32


class HeldBackend:
    """Counts rows; its first forward lasts until all agents wait."""

    name, precision = "held", "float32"

    def __init__(self, labels: int) -> None:
        self.rows: list[int] = []
        self._labels = labels

    def forward(self, batch: Batch) -> Outputs:
        self.rows.append(len(batch.input_ids))
        deadline = time.monotonic() + 30
        while len(self.rows) == 1 and len(worker.worker_of("cpu")._queue) < AGENTS and time.monotonic() < deadline:
            time.sleep(0.001)
        logits = np.tile(np.arange(self._labels, dtype=np.float32), (len(batch.input_ids), 1))
        return Outputs(logits, logits)


def in_coroutines(agent: Any) -> list[Any]:
    async def gather() -> list[Any]:
        return await asyncio.gather(*(agent.ainvoke(asked(i)) for i in range(AGENTS)))

    return asyncio.run(gather())


def in_threads(agent: Any) -> list[Any]:
    with ThreadPoolExecutor(AGENTS) as pool:
        return list(pool.map(lambda i: agent.invoke(asked(i)), range(AGENTS)))


def asked(number: int) -> Any:
    return {"messages": [HumanMessage(f"text {number}")]}


def sentiment(classifier: TextClassifier) -> Any:
    return SentimentMiddleware(classifier, valence={"card": -1})


def topics(classifier: TextClassifier) -> Any:
    return TopicGuardMiddleware(classifier, message="No.")


def tools(classifier: TextClassifier) -> Any:
    return ToolSelectorMiddleware(classifier, tools={"card": []})


@pytest.mark.parametrize("middleware", [sentiment, topics, tools])
@pytest.mark.parametrize("run", [in_coroutines, in_threads])
def test_agents_at_once_share_forwards(
    tiny_classifier: Checkpoint, monkeypatch: pytest.MonkeyPatch, run: Callable[[Any], list[Any]], middleware: Any
) -> None:
    """32 of them need at most two for their 32 messages."""
    classifier = TextClassifier.from_checkpoint(tiny_classifier, device="cpu", backend="torch")
    predictor = classifier._loaded()
    backend = HeldBackend(len(classifier.labels))
    monkeypatch.setattr(predictor, "_backend", backend)
    monkeypatch.setattr(predictor, "token_budget", 1_000_000)
    monkeypatch.setattr(worker, "COMPANY_SECONDS", 1.0)
    monkeypatch.setattr(worker, "COMPANY_FORWARDS", 1e6)
    agent = create_agent(saying("Fine."), middleware=[middleware(classifier)])
    first = predictor._submit(["the first call starts at once"])
    while not backend.rows:
        time.sleep(0.001)

    assert [state["messages"][-1].content for state in run(agent)] == ["Fine."] * AGENTS
    first.result(30)
    assert sum(backend.rows[1:]) == AGENTS
    assert len(backend.rows[1:]) <= 2
