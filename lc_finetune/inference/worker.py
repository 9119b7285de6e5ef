"""One worker thread per device: concurrent calls merge into full forwards.

Callers put jobs (a few texts each) into the worker's queue and wait for their future. Whenever the worker is free it
takes all that waits, encodes it at once, and runs it as a *wave*: windows sorted by length, cut into batches by the
token budget. Between two forwards of a wave newly arrived jobs form a wave of their own, and waves take turns, so a
single text never waits for the end of a large job. A lone call starts at once; only when a forward has just served
several callers does the worker give them a moment to come back before it starts half empty (`COMPANY_SECONDS`,
`COMPANY_FORWARDS`), and no longer than until all are back.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lc_finetune.errors import EngineError, InputError, LCFinetuneError
from lc_finetune.inference import plan
from lc_finetune.inference.backends import Batch, OutOfMemory, Outputs
from lc_finetune.inference.encode import Encoding, Frame
from lc_finetune.schemas import Input

logger = logging.getLogger(__name__)

COMPANY_SECONDS = 0.025
"""The longest the worker waits for callers it has just served, counted from the end of their forward."""
COMPANY_FORWARDS = 0.5
"""The same, as a multiple of the time that their forward took: waiting must not cost more than it can save."""
PENDING_TEXTS = 8192
"""Texts that may wait in one worker's queue; further callers wait outside until there is room."""

forked = False
"""Whether this process was forked from one that had imported the engine."""


class Model(Protocol):
    """What the worker needs of a loaded model."""

    token_budget: int
    max_length: int
    stride: int
    per_piece: bool
    keeps_first: bool
    token_types: bool

    @property
    def frame(self) -> Frame:
        """Special tokens before and after each window of a text alone."""

    @property
    def pad_id(self) -> int:
        """The padding id."""

    def encode(self, texts: Sequence[Input]) -> Sequence[Encoding | InputError]:
        """Encode without truncation."""

    def forward(self, batch: Batch) -> Outputs:
        """Run the model once."""

    @property
    def decode(self) -> Callable[..., Any]:
        """Turn a text, its encoding, merged logits, features and, of a second head, merged tag logits into a result."""


Completion = Callable[[Any, NDArray[np.floating]], Any]
"""Adds to a result what one call asks for beyond others, from the text's merged logits."""


@dataclass(slots=True, eq=False)
class Job:
    """The texts of one call, and the future its caller waits for; `encodings` where the caller has made them."""

    model: Model
    texts: Sequence[Input]
    encodings: Sequence[Encoding | InputError] | None = None
    complete: Completion | None = None
    future: Future[list[Any]] = field(default_factory=Future)
    results: list[Any] = field(default_factory=list)
    open: int = 0

    def __post_init__(self) -> None:
        self.results = [None] * len(self.texts)
        self.open = len(self.texts)
        if not self.texts:
            self.finish()

    def settle(self, position: int, result: Any) -> None:
        """Record one text's result, or its exception."""
        self.results[position] = result
        self.open -= 1

    def finish(self, error: BaseException | None = None) -> None:
        """Resolve the future, unless the caller has gone."""
        try:
            if error is None:
                self.future.set_result(self.results)
            else:
                self.future.set_exception(error)
        except InvalidStateError:
            return


@dataclass(slots=True, eq=False)
class _Text:
    """A text under way: its windows' outputs gather here until all are there."""

    job: Job
    position: int
    encoding: Encoding
    frames: Sequence[Frame]
    ranges: list[tuple[int, int]]
    logits: list[NDArray[np.floating] | None]
    features: list[NDArray[np.floating] | None]
    tag_logits: dict[int, NDArray[np.floating]]  # by window, where there is a second head


@dataclass(slots=True, eq=False)
class _Window:
    text: _Text
    index: int  # frame by frame, in each range by range
    frame: Frame
    start: int
    end: int
    length: int


class _Wave:
    """The windows of the jobs of one model that were taken together."""

    def __init__(self, model: Model, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self._answered: list[Job] = []
        self._model = model
        self._frames = (model.frame,)
        encoded = iter(model.encode([text for job in jobs if job.encodings is None for text in job.texts]))
        windows: list[_Window] = []
        for job in jobs:
            encodings = job.encodings or islice(encoded, len(job.texts))
            for position, encoding in zip(range(len(job.texts)), encodings, strict=True):
                if isinstance(encoding, InputError):
                    self._settle(job, position, encoding)
                else:
                    windows += self._windows(job, position, encoding)
        self._batches = deque(self._cut(windows, model.token_budget))

    def _windows(self, job: Job, position: int, encoding: Encoding) -> list[_Window]:
        frames = encoding.frames or self._frames
        framing = len(frames[0])
        ranges = plan.windows(len(encoding.ids), self._model.max_length - framing, self._model.stride)
        count = len(frames) * len(ranges)
        text = _Text(job, position, encoding, frames, ranges, [None] * count, [None] * count, {})
        return [
            _Window(text, i, frame, start, end, end - start + framing)
            for i, (frame, (start, end)) in enumerate(product(frames, ranges))
        ]

    def _cut(self, windows: Sequence[_Window], budget: int) -> list[list[_Window]]:
        lengths = [window.length for window in windows]
        cut = plan.batches(lengths, budget)
        if logger.isEnabledFor(logging.DEBUG) and windows:
            padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in cut)
            logger.debug(
                "%d windows in %d batches, %.1f %% padding", len(windows), len(cut), 100 * (1 - sum(lengths) / padded)
            )
        return [[windows[i] for i in batch] for batch in cut]

    @property
    def done(self) -> bool:
        return not self._batches

    def step(self) -> list[Job]:
        """Run the next batch and return the jobs that it completed; its failures end with the texts that cause them."""
        if self._batches:
            self._run_next()
        answered, self._answered = self._answered, []
        return answered

    def _settle(self, job: Job, position: int, result: Any) -> None:
        job.settle(position, result)
        if job.open == 0:
            self._answered.append(job)

    def _run_next(self) -> None:
        batch = [window for window in self._batches.popleft() if not window.text.job.future.done()]
        if not batch:
            return
        try:
            outputs = self._model.forward(self._pad(batch))
        except OutOfMemory:
            self._shrink(batch)
        except Exception as error:
            self._isolate(batch, error)
        else:
            for row, window in enumerate(batch):
                if outputs.tag_logits is not None:
                    window.text.tag_logits[window.index] = _own(window, outputs.tag_logits[row])
                self._keep(window, outputs.logits[row], outputs.features[row])

    def _shrink(self, batch: list[_Window]) -> None:
        if len(batch) == 1:
            self._fail(batch[0], EngineError("The device has no memory for a single window. Use a smaller max_length."))
            return
        padded = len(batch) * max(window.length for window in batch)
        self._model.token_budget = max(1, min(self._model.token_budget, padded) // 2)
        logger.warning("Out of memory: the token budget is now %d.", self._model.token_budget)
        waiting = [window for later in self._batches for window in later]
        self._batches = deque(self._cut(batch + waiting, self._model.token_budget))

    def _isolate(self, batch: list[_Window], error: Exception) -> None:
        """Retry a failed batch window by window, so that a poisoned text fails alone."""
        if len(batch) > 1:
            self._batches.extendleft([window] for window in reversed(batch))
            return
        failure = EngineError(f"The backend failed on this text ({type(error).__name__}). See the cause.")
        failure.__cause__ = error
        self._fail(batch[0], failure)

    def _fail(self, window: _Window, error: Exception) -> None:
        text = window.text
        self._batches = deque(
            kept for later in self._batches if (kept := [other for other in later if other.text is not text])
        )
        self._settle(text.job, text.position, error)

    def _pad(self, batch: Sequence[_Window]) -> Batch:
        shape = (len(batch), max(window.length for window in batch))
        ids = np.full(shape, self._model.pad_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        types = np.zeros(shape, dtype=np.int64) if self._model.token_types else None
        for row, window in enumerate(batch):
            ids[row, : window.length] = window.frame.around(window.text.encoding.ids[window.start : window.end])
            mask[row, : window.length] = 1
            if types is not None:
                types[row, : window.length] = window.frame.types_around(window.end - window.start)
        return Batch(ids, mask, types)

    def _keep(self, window: _Window, logits: NDArray[np.floating], features: NDArray[np.floating]) -> None:
        text = window.text
        if self._model.per_piece:
            own = _own(window, logits)
            logits = np.concatenate([logits[:1], own]) if self._model.keeps_first else own
        text.logits[window.index] = logits
        text.features[window.index] = features
        if all(one is not None for one in text.logits):
            self._settle(text.job, text.position, self._decode(text))

    def _decode(self, text: _Text) -> Any:
        whole = text.job.texts[text.position]
        try:
            logits, features = self._merged(text)
            tags = self._merged_tags(text) if text.tag_logits else ()
            result = self._model.decode(whole, text.encoding, logits, features, *tags)
            return result if text.job.complete is None else text.job.complete(result, logits)
        except LCFinetuneError as error:
            return error
        except Exception as error:
            failure = EngineError(f"The outputs for this text cannot be decoded ({type(error).__name__}).")
            failure.__cause__ = error
            return failure

    def _merged(self, text: _Text) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Merge the windows of a text; of several frames, each as much as it shows of the pair."""
        if self._model.keeps_first:
            return merge_with_first(text.ranges, text.logits, text.features)
        windows, per_piece = len(text.ranges), self._model.per_piece
        merged = [
            merge(text.ranges, text.logits[i : i + windows], text.features[i : i + windows], per_piece=per_piece)
            for i in range(0, len(text.logits), windows)
        ]
        if len(merged) == 1:
            return merged[0]
        shares = [frame.share for frame in text.frames]
        logits, features = (np.tensordot(shares, np.stack(rows), axes=1) for rows in zip(*merged, strict=True))
        return logits, features

    @staticmethod
    def _merged_tags(text: _Text) -> tuple[NDArray[np.floating]]:
        """Merge what a second head says of the pieces."""
        rows = [text.tag_logits[i] for i in range(len(text.ranges))]
        return (merge(text.ranges, rows, text.features, per_piece=True)[0],)


def _own(window: _Window, logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Take the logits of the text's pieces out of those of all pieces."""
    before = len(window.frame.before)
    return logits[before : before + window.end - window.start]


def merge(
    ranges: Sequence[tuple[int, int]], logits: Sequence[Any], features: Sequence[Any], *, per_piece: bool
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Merge the windows of one text, before any softmax.

    A classifier's logits are averaged, each window weighted by the pieces that are its own; a tagger's are taken, for
    each piece, from the window that sees most around it.

    Returns:
        Logits, `(labels,)` or `(pieces, tags)`, and features, `(hidden,)`.
    """
    if len(ranges) == 1:
        return logits[0], features[0]
    weights = np.array(plan.shares(ranges))
    feature = np.tensordot(weights, np.stack(features), axes=1)
    if not per_piece:
        return np.tensordot(weights, np.stack(logits), axes=1), feature
    parts = [
        rows[start - begin : end - begin]
        for rows, (begin, _), (start, end) in zip(logits, ranges, plan.cores(ranges), strict=True)
    ]
    return np.concatenate(parts), feature


def merge_with_first(
    ranges: Sequence[tuple[int, int]], logits: Sequence[Any], features: Sequence[Any]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Merge the windows of a text, where each also has the logits of its first piece, a special one.

    Of the first pieces, the one with the least sum counts: a question has no answer only if no window has one, as in
    the scripts for SQuAD 2 (Devlin et al. 2019, "BERT", section 4.3).

    Returns:
        Logits, `(1 + pieces, 2)`, those of the first piece ahead of the others, and features, `(hidden,)`.
    """
    merged, feature = merge(ranges, [rows[1:] for rows in logits], features, per_piece=True)
    first = min((rows[:1] for rows in logits), key=lambda row: float(row.sum()))
    return np.concatenate([first, merged]), feature


class _Gate:
    """Room for `size` texts; who finds none waits in order, as a thread or as a coroutine."""

    def __init__(self, size: int) -> None:
        self._size = self._room = size
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, Future[None]]] = deque()

    def enter(self, texts: int) -> Future[None] | None:
        """Take room at once and return None, or return a future that resolves once it has been taken."""
        wanted = min(texts, self._size)
        with self._lock:
            if not self._waiting and wanted <= self._room:
                self._room -= wanted
                return None
            turn: Future[None] = Future()
            self._waiting.append((wanted, turn))
            return turn

    def leave(self, texts: int) -> None:
        """Give room back and let in who waits."""
        with self._lock:
            self._room += min(texts, self._size)
            while self._waiting and (self._waiting[0][0] <= self._room or self._waiting[0][1].cancelled()):
                wanted, turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    self._room -= wanted
                    turn.set_result(None)


class Worker:
    """The thread that owns a device."""

    def __init__(self, device: str, *, pending: int = PENDING_TEXTS) -> None:
        self.device = device
        self.gate = _Gate(pending)
        self._queue: list[Job] = []
        self._wake = threading.Condition()
        self._awaited = 1  # jobs that it takes to wake the thread
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, job: Job) -> None:
        """Queue a job whose room in the gate has been taken; its future resolves or fails, whatever happens.

        Raises:
            EngineError: If the worker was closed.
        """
        job.future.add_done_callback(lambda _: self.gate.leave(len(job.texts)))
        with self._wake:
            if self._closed:
                job.finish(EngineError("The engine was closed. Load the checkpoint again."))
                return
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name=f"lc_finetune-{self.device}", daemon=True)
                self._thread.start()
            self._queue.append(job)
            if len(self._queue) >= self._awaited:
                self._wake.notify()

    def close(self) -> None:
        """Stop after what is running, texts being read or one forward; waiting callers get an `EngineError`.

        An interpreter that ended earlier would end the process with it: C++ does not survive the thread's end.
        """
        with self._wake:
            self._closed = True
            self._wake.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        waves: deque[_Wave] = deque()
        taken: list[Job] = []
        try:
            expected, until = 0, 0.0
            while True:
                taken = self._take() if waves else self._gather(expected, until)
                if self._closed:
                    raise EngineError("The engine was closed while a caller waited. Load the checkpoint again.")
                # No loop variable may outlive its loop: it would keep a model in memory until the next call.
                waves.extendleft(_Wave(model, jobs) for model, jobs in _by_model(taken).items())
                if waves:
                    started = time.perf_counter()
                    answered = waves[0].step()
                    ended = time.perf_counter()
                    until = ended + min(COMPANY_SECONDS, COMPANY_FORWARDS * (ended - started))
                    expected = len(self._queue) + len(answered) if len(answered) > 1 else 0
                    _finish(answered)
                    if not (wave := waves.popleft()).done:
                        waves.append(wave)
                    del answered, wave
                taken = []
        except BaseException as error:
            if not isinstance(error, EngineError):
                logger.exception("The inference worker of %s died; the next call starts a new one.", self.device)
            self._abandon([*taken, *(job for wave in waves for job in wave.jobs)], error)

    def _gather(self, expected: int, until: float) -> list[Job]:
        """Wait for a first job, and take all that waits.

        Args:
            expected: Jobs to wait for, for a moment: those that waited already, and one of each caller just served.
            until: When that moment ends, by `time.perf_counter`.
        """
        with self._wake:
            for wanted, moment in ((expected, until - time.perf_counter()), (1, None)):
                self._awaited = wanted
                self._wake.wait_for(lambda: len(self._queue) >= self._awaited or self._closed, timeout=moment)
        return self._take()

    def _take(self) -> list[Job]:
        with self._wake:
            taken = [job for job in self._queue if not job.future.done()]
            self._queue = []
            return taken

    def _abandon(self, jobs: list[Job], error: BaseException) -> None:
        with self._wake:
            jobs = jobs + self._queue
            self._queue = []
            self._thread = None  # it takes no more jobs, though it is alive until it has told its callers
        failure: BaseException = error
        if not isinstance(error, EngineError):
            failure = EngineError("The inference worker died while a caller waited. Call again; see the log.")
            failure.__cause__ = error
        for job in jobs:
            job.finish(failure)


def answer(model: Model, texts: Sequence[Input]) -> list[Any]:
    """Answer texts in the calling thread, as one wave of their own; what a text causes is returned in its place."""
    job = Job(model, texts)
    wave = _Wave(model, [job])
    while not wave.done:
        wave.step()
    return job.results


def _finish(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.finish()


def _by_model(jobs: Sequence[Job]) -> dict[Model, list[Job]]:
    grouped: dict[Model, list[Job]] = {}
    for job in jobs:
        grouped.setdefault(job.model, []).append(job)
    return grouped


_workers: dict[str, Worker] = {}
_workers_lock = threading.Lock()
after_fork: list[Callable[[], None]] = []
"""Called in a forked child, where threads and native thread pools of the parent are gone."""


def worker_of(device: str) -> Worker:
    """Return the worker that owns a device, a new one if the last was closed."""
    with _workers_lock:
        worker = _workers.get(device)
        if worker is None or worker._closed:
            worker = _workers[device] = Worker(device)
        return worker


def _close_all() -> None:
    for worker in list(_workers.values()):
        worker.close()


def _start_over() -> None:
    global _workers_lock, forked
    forked = True
    _workers_lock = threading.Lock()
    _workers.clear()
    for renew in after_fork:
        renew()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_over)
