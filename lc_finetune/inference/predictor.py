"""Texts, or pairs of texts → results: a checkpoint loaded once per process, whoever asks for it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, cast
from weakref import WeakSet, WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from lc_finetune.checkpoint import (
    ORDINAL,
    PAIRS,
    QUESTIONS,
    RELATIONS,
    TAGGED,
    AnswerRule,
    Checkpoint,
    NumberScale,
    loaded_signature,
)
from lc_finetune.confidence import Calibration
from lc_finetune.errors import CheckpointError, ConfigError, EngineError, InputError
from lc_finetune.inference import worker
from lc_finetune.inference.backends import (
    Backend,
    BackendName,
    Batch,
    Dtype,
    Outputs,
    RuntimeName,
    export_identity,
    load_backend,
    resolve_backend,
    resolve_device,
)
from lc_finetune.inference.decode import (
    DEFAULT_THRESHOLD,
    PLAIN_RULE,
    PLAIN_SCALE,
    Confidence,
    decode_answer,
    decode_entities,
    decode_intent,
    decode_label,
    decode_labels,
    decode_number,
    decode_rank,
    prediction_set,
)
from lc_finetune.inference.encode import Encoder, Encoding, Frame
from lc_finetune.inference.exported import is_forced
from lc_finetune.inference.marked import encode_marked
from lc_finetune.inference.scope import read_detector
from lc_finetune.markers import MARKERS
from lc_finetune.schemas import (
    Classification,
    Input,
    IntentAndEntities,
    MultiLabelClassification,
    QuestionAnswer,
    Regression,
    Tagging,
)
from lc_finetune.schemes import TagSet

CHUNK = 1024
"""Texts that one call puts into the queue at a time: enough to sort well, few enough to stay small in memory."""
TOKEN_BUDGET = {"cpu": 512, "mps": 4096, "cuda": 32768}
"""Tokens in one forward, padding counted, by kind of device."""
PLAIN_MAX_LENGTH = 512
"""Window of a plain Hugging Face folder whose configuration names no shorter one."""


class Predictor:
    """A checkpoint on a device. Instances are shared: use `Predictor.load`."""

    _shared: ClassVar[WeakValueDictionary[tuple[str, ...], Predictor]] = WeakValueDictionary()
    _living: ClassVar[WeakSet[Predictor]] = WeakSet()
    _loading: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str,
        dtype: Dtype,
        backend: RuntimeName,
        export: str = "",
        token_budget: int | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.export = export  # see `export_identity`
        self.device = device
        self._dtype = dtype
        self._backend_name = backend
        self._backend: Backend | None = None
        self._backend_lock = threading.Lock()
        self._tags = TagSet.from_labels(checkpoint.tags or checkpoint.labels) if checkpoint.task in TAGGED else None
        self._thresholds = thresholds_of(checkpoint) if checkpoint.task == "multi-label-classification" else None
        self.keeps_first = checkpoint.task == QUESTIONS
        self.per_piece = checkpoint.task == "token-classification" or self.keeps_first
        self._takes_pairs = checkpoint.task in PAIRS
        self._takes_marked = checkpoint.task == RELATIONS
        self._encoder = Encoder(checkpoint.path, offsets=self.per_piece or self._tags is not None)
        if self._takes_marked:
            _check_markers(checkpoint, self._encoder)
        self.token_types = self._takes_pairs and self._encoder.token_types
        self.scope = read_detector(checkpoint)
        self.token_budget = token_budget or TOKEN_BUDGET[device.partition(":")[0]]
        self.max_length, self.stride = window_of(checkpoint)
        # While an accelerator computes, the caller's thread can encode; on a CPU it would take cores from the forward.
        self._encodes_ahead = device != "cpu"
        self._living.add(self)

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        *,
        device: str = "auto",
        dtype: Dtype = "auto",
        backend: BackendName = "auto",
    ) -> Predictor:
        """Load a checkpoint, or return the predictor that already holds this content on this device.

        Folders of equal content share one: `predictor.checkpoint` is then the first that was loaded.

        Args:
            checkpoint: A validated folder.
            device: `"auto"` (CUDA, then MPS, then CPU), `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`.
            dtype: `"auto"` is fp32 on CPU and MPS, bf16 on CUDA; `"int8"` takes an int8 export.
            backend: `"auto"` is the fastest that the folder holds for the device; see `resolve_backend`.

        Raises:
            CheckpointError: If weights, export or tokenizer cannot be loaded.
            ConfigError: If the device, dtype or backend is not to be had.
        """
        device = resolve_device(device)
        chosen = resolve_backend(checkpoint, backend, device, dtype)
        exported = export_identity(checkpoint, chosen, dtype)
        key = (checkpoint.digest, checkpoint.task, device, dtype, chosen, exported)
        with cls._loading:
            predictor = cls._shared.get(key)
            if predictor is None:
                predictor = cls(checkpoint, device=device, dtype=dtype, backend=chosen, export=exported)
                predictor.backend  # noqa: B018  (loads the weights now, so that their faults show here)
                cls._shared[key] = predictor
            return predictor

    @property
    def backend(self) -> Backend:
        """The model; loaded anew in a forked process."""
        if self._backend is None:
            with self._backend_lock:
                if self._backend is None:
                    self._backend = load_backend(
                        self.checkpoint, name=self._backend_name, device=self.device, dtype=self._dtype
                    )
        return self._backend

    @property
    def calibration(self) -> Calibration | None:
        """The calibration of this model on this backend, if it has one."""
        return calibration_of(self.checkpoint, self.backend, self.export)

    @cached_property
    def confidence(self) -> Confidence:
        """What scores and `accepted` follow from."""
        record = self.calibration
        significance = self.scope.significance if self.scope else 0.0
        if record is None:
            return Confidence(significance=significance)
        return Confidence(record.map, record.acceptance, significance)

    @cached_property
    def entity_confidence(self) -> Confidence:
        """The same, of the entities that a second head finds."""
        record = self.calibration.entities if self.calibration else None
        unknown = Confidence(significance=self.confidence.significance)
        return replace(unknown, map=record.map, thresholds=record.acceptance) if record else unknown

    @cached_property
    def scale(self) -> NumberScale:
        """What a regressor's logit means; without an interval where another precision's rounding may exceed it."""
        manifest = self.checkpoint.manifest
        scale = (manifest.scale if manifest else None) or PLAIN_SCALE
        forced = self.export and is_forced(self.checkpoint, self.backend.name, self.backend.precision)  # type: ignore[arg-type]
        return scale.model_copy(update={"interval": None}) if forced or self.backend.precision == "int8" else scale

    @property
    def answer_rule(self) -> AnswerRule:
        """How a question answerer chooses a span."""
        manifest = self.checkpoint.manifest
        return (manifest.answering if manifest else None) or PLAIN_RULE

    def with_set(self, coverage: float) -> worker.Completion:
        """Make what gives results of a classifier a `prediction_set` of a coverage; for `predict`.

        Raises:
            ConfigError: If the checkpoint was not calibrated for it.
        """
        record = self.calibration
        if record is None or record.sets is None:
            raise ConfigError(
                f"coverage: expected a checkpoint that was calibrated for prediction sets, found one that was not. "
                f"Calibrate it: lc-finetune calibrate {self.checkpoint.path} FILE"
            )
        level = record.sets.level(coverage)

        def complete(result: Classification, logits: NDArray[np.floating]) -> Classification:
            held = prediction_set(logits, self.checkpoint.labels, level)
            return result.model_copy(update={"prediction_set": held})

        return complete

    def predict(self, texts: Sequence[Input], complete: worker.Completion | None = None) -> list[Any]:
        """Answer each text, in order: a result, or the exception that this text alone caused.

        Args:
            texts: Any number.
            complete: Adds to each result what this call asks for beyond others.
        """
        results: list[Any] = []
        running: deque[Future[list[Any]]] = deque()
        try:
            for chunk in _chunks(texts):
                running.append(self._submit(chunk, complete))
                if len(running) > 1:
                    results += running[0].result()
                    running.popleft()
            for future in running:
                results += future.result()
        finally:
            _leave(running)
        return results

    async def apredict(self, texts: Sequence[Input], complete: worker.Completion | None = None) -> list[Any]:
        """As `predict`, without ever blocking the event loop."""
        results: list[Any] = []
        for chunk in _chunks(texts):
            owner = worker.worker_of(self.device)
            turn = owner.gate.enter(len(chunk))
            if turn is not None:
                await self._turn(owner, turn, len(chunk))
            job = worker.Job(self, chunk, complete=complete)
            owner.submit(job)
            answered: list[Any] = await asyncio.wrap_future(job.future)
            results += answered
        return results

    def predict_stream(self, chunks: Iterable[Sequence[Input]]) -> Iterator[list[Any]]:
        """Answer chunk after chunk, each as `predict` does, in constant memory.

        While one chunk is in the engine, the next is drawn from `chunks` and the last is with the caller. Never two at
        once: the batches of a forward, and with them the last digits of a score, follow from the chunks alone.
        """
        running: deque[Future[list[Any]]] = deque()
        try:
            for texts in chunks:
                answered = [future.result() for future in running]
                running = deque([self._submit(texts)])
                yield from answered
            for future in running:
                yield future.result()
        finally:
            _leave(running)

    @staticmethod
    async def _turn(owner: worker.Worker, turn: Future[None], texts: int) -> None:
        try:
            await asyncio.wrap_future(turn)
        except asyncio.CancelledError:
            if not turn.cancelled():  # the room had just been given: hand it on
                owner.gate.leave(texts)
            raise

    def _submit(self, texts: Sequence[Input], complete: worker.Completion | None = None) -> Future[list[Any]]:
        owner = worker.worker_of(self.device)
        encodings = self.encode(texts) if self._encodes_ahead else None
        if (turn := owner.gate.enter(len(texts))) is not None:
            try:
                turn.result()
            except BaseException:  # Ctrl-C
                if not turn.cancel():  # the room had just been given: hand it on
                    owner.gate.leave(len(texts))
                raise
        job = worker.Job(self, texts, encodings, complete)
        owner.submit(job)
        return job.future

    # What the worker asks of a model.

    @property
    def frame(self) -> Frame:
        """Special tokens before and after each window of a text alone."""
        return self._encoder.frame

    @property
    def pad_id(self) -> int:
        """The padding id."""
        return self._encoder.pad_id

    def encode(self, texts: Sequence[Input]) -> Sequence[Encoding | InputError]:
        """Encode without truncation."""
        if self._takes_pairs:
            pairs = cast("Sequence[tuple[str, str]]", texts)
            if self.keeps_first:
                return self._encoder.encode_questions(pairs, max_length=self.max_length)
            return self._encoder.encode_pairs(pairs, max_length=self.max_length, stride=self.stride)
        if self._takes_marked:
            return encode_marked(self._encoder, cast("Sequence[str]", texts), max_length=self.max_length)
        return self._encoder.encode(cast("Sequence[str]", texts))

    def forward(self, batch: Batch) -> Outputs:
        """Run the model once."""
        return self.backend.forward(batch)

    def decode(
        self,
        text: Input,
        encoding: Encoding,
        logits: NDArray[np.floating],
        features: NDArray[np.floating],
        tag_logits: NDArray[np.floating] | None = None,
    ) -> Classification | IntentAndEntities | MultiLabelClassification | QuestionAnswer | Regression | Tagging:
        """Turn the merged logits of one text into its result."""
        if not np.isfinite(logits).all() or not (tag_logits is None or np.isfinite(tag_logits).all()):
            raise EngineError(
                "Expected finite logits, found NaN or infinity. Load with dtype='float32', or train with a lower "
                "learning rate."
            )
        if self.keeps_first:
            question = cast("tuple[str, str]", text)
            return decode_answer(question, encoding, logits, self.answer_rule, self.confidence)
        if self.checkpoint.task == "regression":
            return decode_number(cast(str, text), logits, self.scale)
        if self._thresholds is not None:
            return decode_labels(cast(str, text), logits, self.checkpoint.labels, self._thresholds, self.confidence)
        in_scope = float(self.scope.p_values(features)) if self.scope else None
        if self._tags is None:
            if self.checkpoint.task == ORDINAL:
                return decode_rank(cast(str, text), logits, self.checkpoint.labels, self.confidence, in_scope)
            return decode_label(text, logits, self.checkpoint.labels, self.confidence, in_scope)
        manifest = self.checkpoint.manifest
        tag_unit = (manifest.tag_unit if manifest else None) or "first"
        if tag_logits is None:
            return decode_entities(
                cast(str, text), encoding, logits, self._tags, tag_unit=tag_unit, confidence=self.confidence
            )
        return decode_intent(
            decode_label(text, logits, self.checkpoint.labels, self.confidence, in_scope),
            decode_entities(
                cast(str, text), encoding, tag_logits, self._tags, tag_unit=tag_unit,
                confidence=self.entity_confidence, in_scope=in_scope,
            ),
        )  # fmt: skip

    def _renew(self) -> None:
        # Kept, not freed: a native runtime that is torn down in a fork waits for threads that stayed in the parent.
        _left_behind.append(self._backend)
        self._backend = None
        self._backend_lock = threading.Lock()
        self._encoder._lock = threading.Lock()


_left_behind: list[Backend | None] = []

_validated: dict[tuple[str, str | None], tuple[object, Checkpoint]] = {}


def validated(source: str, revision: str | None) -> Checkpoint:
    """Validate a folder, once for as long as none of its files changes."""
    known = _validated.get((source, revision))
    if known is not None and loaded_signature(known[1].path) == known[0]:
        return known[1]
    checkpoint = Checkpoint.load(source, revision=revision)
    _validated[source, revision] = (loaded_signature(checkpoint.path), checkpoint)
    return checkpoint


def calibration_of(checkpoint: Checkpoint, backend: Backend, export: str) -> Calibration | None:
    """Find the calibration of a model as it is served; None if it has none.

    A record counts only for the very weights it was measured with. Where there is none, torch's in float32 holds for
    floating-point precisions, whose logits differ from its by rounding; never for int8, nor for a forced export.

    Args:
        checkpoint: The folder.
        backend: What serves.
        export: Digest of the export's manifest; empty for torch.
    """
    if checkpoint.manifest is None:
        return None
    weights = checkpoint.weights_digest
    records: dict[tuple[str, str, str], Calibration] = {
        (one.backend, one.precision, one.model): one for one in checkpoint.manifest.calibration
    }
    own = records.get((backend.name, backend.precision, export or weights))
    if own is not None or backend.precision == "int8":
        return own
    if export and is_forced(checkpoint, backend.name, backend.precision):  # type: ignore[arg-type]
        return None
    return records.get(("torch", "float32", weights))


def _check_markers(checkpoint: Checkpoint, encoder: Encoder) -> None:
    missing = [marker for marker in MARKERS if encoder.id_of(marker) is None]
    if missing:
        raise CheckpointError(
            f"{checkpoint.path}: expected a tokenizer that knows {' '.join(MARKERS)}, found one without "
            f"{' '.join(missing)}. Copy the checkpoint again, or train it anew."
        )


def thresholds_of(checkpoint: Checkpoint) -> NDArray[np.float64]:
    """Say from which score on each label of a multi-label classifier is given; shape `(labels,)`."""
    recorded = checkpoint.manifest.thresholds if checkpoint.manifest else None
    per_label = recorded.per_label if recorded else {}
    return np.array([per_label.get(label, DEFAULT_THRESHOLD) for label in checkpoint.labels.names])


def window_of(checkpoint: Checkpoint) -> tuple[int, int]:
    """Say how long a window may be, in pieces with its special tokens, and how many pieces neighbours share."""
    manifest = checkpoint.manifest
    if manifest is not None:
        return manifest.max_length, manifest.stride
    length = min(checkpoint.positions or PLAIN_MAX_LENGTH, PLAIN_MAX_LENGTH)
    return length, length // 4


def _leave(running: Iterable[Future[list[Any]]]) -> None:
    """Take out of the queue what a caller who was interrupted no longer waits for."""
    for future in running:
        future.cancel()


def _chunks(texts: Sequence[Input]) -> Iterator[Sequence[Input]]:
    for start in range(0, len(texts), CHUNK):
        yield texts[start : start + CHUNK]


def _renew_all() -> None:
    Predictor._loading = threading.Lock()
    for predictor in list(Predictor._living):
        predictor._renew()


worker.after_fork.append(_renew_all)
