"""Concurrent callers share forwards: counted on a backend that answers at once and always the same.

The first forward is held back until everybody who can call at the same time has called, and the worker is patient, so
that the counts depend on the engine and not on how busy the machine is.
"""

import asyncio
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from langchain_core.runnables import RunnableBranch, RunnableParallel, RunnablePassthrough

from lc_finetune import Checkpoint, FanOut, LabelRouter, TextClassifier
from lc_finetune.inference import worker
from lc_finetune.inference.backends import Batch, Outputs

TEXTS = [f"text {i}" for i in range(256)]
POOL = min(32, (os.cpu_count() or 1) + 4)
"""Threads of LangChain's own pool."""


class HeldBackend:
    """Each forward takes a fixed time, but the first, which lasts until `callers` wait behind it."""

    name, precision = "held", "float32"

    def __init__(self, labels: int) -> None:
        self.rows: list[int] = []
        self.callers = 0
        self._labels = labels

    def forward(self, batch: Batch) -> Outputs:
        self.rows.append(len(batch.input_ids))
        if len(self.rows) == 1:
            self._hold()
        time.sleep(0.002)
        logits = np.tile(np.arange(self._labels, dtype=np.float32), (len(batch.input_ids), 1))
        return Outputs(logits, logits)

    def _hold(self) -> None:
        deadline = time.monotonic() + 30
        while len(worker.worker_of("cpu")._queue) < self.callers and time.monotonic() < deadline:
            time.sleep(0.001)


@pytest.fixture
def classifier(tiny_classifier: Checkpoint) -> TextClassifier:
    return TextClassifier.from_checkpoint(tiny_classifier, device="cpu", backend="torch")


@pytest.fixture
def forwards(
    classifier: TextClassifier, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], Sequence[Any]], int], list[int]]:
    """Count the rows of each forward that a call needs when `callers` jobs of it can wait at the same time."""
    predictor = classifier._loaded()
    backend = HeldBackend(len(classifier.labels))
    monkeypatch.setattr(predictor, "_backend", backend)
    monkeypatch.setattr(predictor, "token_budget", 1_000_000)
    monkeypatch.setattr(worker, "COMPANY_SECONDS", 1.0)
    monkeypatch.setattr(worker, "COMPANY_FORWARDS", 1e6)

    def count(call: Callable[[], Sequence[Any]], callers: int) -> list[int]:
        backend.callers = callers
        first = predictor._submit(["the first call starts at once"])
        while not backend.rows:
            time.sleep(0.001)
        assert len(call()) == len(TEXTS)
        first.result(30)
        return backend.rows[1:]

    return count


def test_coroutines_share_one_forward(classifier: TextClassifier, forwards: Any) -> None:
    """256 concurrent `ainvoke`."""

    async def gather() -> list[Any]:
        return await asyncio.gather(*(classifier.ainvoke(text) for text in TEXTS))

    assert len(forwards(lambda: asyncio.run(gather()), len(TEXTS))) <= 2


@pytest.mark.slow
def test_ten_thousand_coroutines_wait_outside_a_bounded_queue(
    classifier: TextClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are answered, in order; the engine held `PENDING_TEXTS` texts at the most, and as many at some time."""
    callers = 10_000
    backend = HeldBackend(len(classifier.labels))
    backend.callers = worker.PENDING_TEXTS - 1  # behind the one whose forward is held
    predictor = classifier._loaded()
    monkeypatch.setattr(predictor, "_backend", backend)
    held: set[worker.Job] = set()
    most = 0
    submit = worker.Worker.submit

    def counted(owner: worker.Worker, job: worker.Job) -> None:
        nonlocal most
        job.future.add_done_callback(lambda _: held.discard(job))  # before the job's room is given to the next
        held.add(job)
        most = max(most, len(held))  # one text each
        submit(owner, job)

    monkeypatch.setattr(worker.Worker, "submit", counted)

    async def gather() -> list[Any]:
        return await asyncio.gather(*(predictor.apredict([f"text {i}"]) for i in range(callers)))

    answers = asyncio.run(gather())

    assert [f"text {i}" for i in range(callers)] == [result.text for (result,) in answers]
    assert most == worker.PENDING_TEXTS
    assert not held


def test_threads_share_forwards(classifier: TextClassifier, forwards: Any) -> None:
    """A pool as large as LangChain's: as many texts a forward as there are threads."""

    def pooled() -> list[Any]:
        with ThreadPoolExecutor(POOL) as pool:
            return list(pool.map(classifier.invoke, TEXTS))

    assert len(forwards(pooled, POOL)) <= math.ceil(256 / POOL) + 1


def test_a_branch_shares_forwards(classifier: TextClassifier, forwards: Any) -> None:
    """`RunnableBranch` over a batch: LangChain calls once per text, in its pool."""
    branch = RunnableBranch((lambda text: len(text) > 6, classifier), classifier)

    assert len(forwards(lambda: branch.batch(TEXTS), POOL)) <= math.ceil(256 / POOL) + 1


def test_assign_shares_forwards(classifier: TextClassifier, forwards: Any) -> None:
    """`RunnablePassthrough.assign` over a batch, likewise."""
    assign = RunnablePassthrough.assign(label=classifier)

    assert len(forwards(lambda: assign.batch([{"text": text} for text in TEXTS]), POOL)) <= math.ceil(256 / POOL) + 1


def test_parallel_branches_share_forwards(classifier: TextClassifier, forwards: Any) -> None:
    """`RunnableParallel` over a batch: two calls per text, so twice as many threads call at the same time."""
    parallel = RunnableParallel(a=classifier, b=classifier)

    assert len(forwards(lambda: parallel.batch(TEXTS), 2 * POOL)) <= math.ceil(256 / POOL) + 1


def test_a_router_needs_one_forward_a_stage(classifier: TextClassifier, forwards: Any) -> None:
    """One to classify, one for the branch."""
    chain = classifier | LabelRouter(routes={}, default=classifier)

    assert forwards(lambda: chain.batch(TEXTS), 1) == [256, 256]


def test_a_fan_out_needs_one_forward(classifier: TextClassifier, forwards: Any) -> None:
    """Both branches' batches are one."""
    both = FanOut(a=classifier, b=classifier)

    assert len(forwards(lambda: both.batch(TEXTS), 2)) <= 2
