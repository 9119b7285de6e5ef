"""What the paths do: requests → responses, whatever carries them."""

from __future__ import annotations

import asyncio
import logging

from starlette.concurrency import run_in_threadpool

from lc_finetune.checkpoint import Task
from lc_finetune.errors import ConfigError, InputError, LCFinetuneError
from lc_finetune.serving.config import API_KEY, Limits
from lc_finetune.serving.faults import Refused, log_fault
from lc_finetune.serving.metrics import Metrics
from lc_finetune.serving.models import Models
from lc_finetune.serving.wire import (
    TAKES,
    Failure,
    Given,
    Health,
    ModelCard,
    ModelCards,
    PredictRequest,
    PredictResponse,
    SystemOneRequest,
    SystemOneResponse,
    Usage,
    given,
    texts_of,
)
from lc_finetune.systemone import Reading

logger = logging.getLogger(__name__)

SYSTEM_ONE, PREDICT = "/v1/systemone", "/predict"


class Service:
    """The models that new requests get, and what is asked of them."""

    def __init__(self, models: Models, *, limits: Limits, metrics: Metrics, reloads: bool) -> None:
        self._models = models
        self._limits = limits
        self._metrics = metrics
        self._reloads = reloads
        self._one_at_a_time = asyncio.Lock()

    async def systemone(self, request: SystemOneRequest) -> SystemOneResponse:
        """Answer typed questions about a state, in the System One format."""
        self._check_number(len(request.questions), self._limits.max_questions, "questions")
        try:
            answerer = self._models.answerer_of(request.model)
        except ConfigError as error:
            raise Refused(422, str(error), at=("body", "model"), kind="unknown_model") from error
        reading = answerer.read([{"state": request.state, "questions": request.questions}])
        for texts in reading.texts.values():
            for text in texts:
                self._check_length(text, "body", "state")
        (answers,), tokens = await asyncio.gather(answerer.aanswer(reading), run_in_threadpool(_tokens, reading))
        if isinstance(answers, Exception):
            self._count(SYSTEM_ONE, failed=len(request.questions))
            failure = _failure(SYSTEM_ONE, answers)
            status = 422 if isinstance(answers, InputError) else 500
            raise Refused(status, failure.error, at=("body",), kind=failure.type) from answers
        self._count(SYSTEM_ONE, answered=len(request.questions))
        names = [name for name, one in answerer.classifiers.items() if one._predictor in reading.texts]
        named = request.model in names and len(reading.texts) == 1  # it may have a twin of another name
        return SystemOneResponse(
            model=str(request.model) if named else ", ".join(names), answers=answers, usage=Usage(input_tokens=tokens)
        )

    async def predict(self, request: PredictRequest) -> PredictResponse:
        """Answer inputs with one model; an input that cannot be answered fails alone."""
        self._check_number(len(request.inputs), self._limits.max_inputs, "inputs")
        try:
            name, served = self._models.named(request.model)
        except ConfigError as error:
            raise Refused(422, str(error), at=("body", "model"), kind="unknown_model") from error
        for i, one in enumerate(request.inputs):
            self._check_input(one, served.task, i)
        outcomes = await served.runnable.abatch([given(one) for one in request.inputs], return_exceptions=True)
        results = [_failure(PREDICT, one) if isinstance(one, Exception) else one for one in outcomes]
        failed = sum(isinstance(one, Failure) for one in results)
        self._count(PREDICT, answered=len(results) - failed, failed=failed)
        return PredictResponse(model=name, results=results)

    async def reload(self) -> ModelCards:
        """Serve what the places of the checkpoints hold now; the models that are loaded serve until then."""
        if not self._reloads:
            raise Refused(403, f"Expected a server with a key for this, found one without. Set {API_KEY}.", kind="key")
        outcome = "refused"
        try:
            async with self._one_at_a_time:
                self._models = await run_in_threadpool(self._models.renewed)
            outcome = "done"
        except LCFinetuneError as error:
            logger.warning("The models stay as they are: %s", error)
            raise Refused(409, str(error), kind=type(error).__name__) from error
        finally:
            self._metrics.reloads.labels(outcome).inc()
        return await self.models()

    async def models(self) -> ModelCards:
        """List what is served."""
        return ModelCards(
            models=[
                ModelCard(name=name, task=one.task, labels=list(one.runnable.labels), digest=one.checkpoint.digest)
                for name, one in self._models.served.items()
            ]
        )

    async def health(self) -> Health:
        """Say that requests are answered."""
        return Health()

    def _count(self, path: str, *, answered: int = 0, failed: int = 0) -> None:
        self._metrics.items.labels(path, "answered").inc(answered)
        self._metrics.items.labels(path, "failed").inc(failed)

    def _check_number(self, found: int, most: int, what: str) -> None:
        if found > most:
            message = f"Expected at most {most:,} {what}, found {found:,}. Send them in parts."
            raise Refused(422, message, at=("body", what), kind="too_long")

    def _check_input(self, value: Given, task: Task, position: int) -> None:
        taken = TAKES.get(task, (str,))
        if not isinstance(value, taken):
            kinds = " or ".join(kind.__name__ for kind in taken)
            message = f"Expected {kinds}, which a model for {task} is given, found {type(value).__name__}."
            raise Refused(422, message, at=("body", "inputs", position), kind="wrong_input")
        for text in texts_of(value):
            self._check_length(text, "body", "inputs", position)

    def _check_length(self, text: str, *at: str | int) -> None:
        most = self._limits.max_text_characters
        if len(text) > most:
            message = f"Expected a text of at most {most:,} characters, found {len(text):,}. Nothing is cut off."
            raise Refused(422, message, at=at, kind="too_long")


def _tokens(reading: Reading) -> int:
    return sum(
        len(encoding.ids) + len(predictor.frame)
        for predictor, texts in reading.texts.items()
        for encoding in predictor.encode(list(texts))
        if not isinstance(encoding, InputError)
    )


def _failure(path: str, error: Exception) -> Failure:
    """Say why an input has no result; what is no fault of the input is logged."""
    if not isinstance(error, InputError):
        log_fault(path, error)
    ours = isinstance(error, LCFinetuneError)
    return Failure(
        error=str(error) if ours else "The server failed on this input; see its log.", type=type(error).__name__
    )
