"""The HTTP application: paths → models."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from lc_finetune.errors import ConfigError, InputError, LCFinetuneError, MissingDependencyError

try:
    import prometheus_client
    import uvicorn  # noqa: F401
    from fastapi import Depends, FastAPI, Response
    from fastapi.concurrency import run_in_threadpool
    from fastapi.security import HTTPBearer
except ImportError as error:
    raise MissingDependencyError(
        f"Expected the packages of the server, found no {error.name}. Install them: pip install 'lc-finetune[serve]'."
    ) from error

from lc_finetune.inference.backends import BackendName, Dtype
from lc_finetune.serving.config import API_KEY, Limits
from lc_finetune.serving.faults import Refused, add_handlers, log_fault
from lc_finetune.serving.guard import Guard
from lc_finetune.serving.metrics import Metrics
from lc_finetune.serving.models import Models, Runtime
from lc_finetune.serving.wire import (
    TAKES,
    Failure,
    Health,
    ModelCard,
    ModelCards,
    PredictRequest,
    PredictResponse,
    Problem,
    SystemOneRequest,
    SystemOneResponse,
    Usage,
    given,
    texts_of,
)
from lc_finetune.systemone import AnsweredBy, Reading

logger = logging.getLogger(__name__)

SYSTEM_ONE, PREDICT, HEALTH, METRICS, MODELS, RELOAD = PATHS = (
    "/v1/systemone",
    "/predict",
    "/health",
    "/metrics",
    "/v1/models",
    "/admin/reload",
)
OPENAPI = "/openapi.json"


def create_app(
    checkpoints: Mapping[str, Any],
    *,
    questions: Mapping[str, AnsweredBy] | None = None,
    api_key: str | None = None,
    limits: Limits | None = None,
    device: str = "auto",
    dtype: Dtype = "auto",
    backend: BackendName = "auto",
) -> FastAPI:
    """Load checkpoints and make an application that serves them, for any ASGI server.

    Requests at the same time share the models' forwards, so one process is enough for a machine.

    Args:
        checkpoints: Name → a folder, a URL, a Hub id, or the `Checkpoint` that training returned.
        questions: Id of a question → how `/v1/systemone` answers it, where its id alone does not say.
        api_key: What requests have to show as `Authorization: Bearer …`, all but `/health`; without one nobody has to,
            and `/admin/reload` is closed.
        limits: What a request may ask at the most.
        device: As for `TextClassifier.from_checkpoint`, for all of them.
        dtype: Likewise.
        backend: Likewise.

    Raises:
        CheckpointError: If a checkpoint cannot be served.
        ConfigError: If there is none, the key cannot be one, or `questions` names a classifier or a label that is not
            there.
    """
    if api_key is not None:
        _check_key(api_key)
    held = _Held(Models.load(dict(checkpoints), questions or {}, Runtime(device, dtype, backend)))
    bounds = limits or Limits()
    metrics = Metrics()
    app = FastAPI(
        title="lc_finetune",
        version=version("lc-finetune"),
        description="Fine-tuned encoders over HTTP.",
        openapi_url=OPENAPI,
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
    )
    app.add_middleware(
        Guard, key=api_key, max_body_bytes=bounds.max_body_bytes, metrics=metrics, paths=(*PATHS, OPENAPI)
    )
    add_handlers(app)
    # The guard has checked the key; this describes it.
    secured = [Depends(HTTPBearer(auto_error=False))] if api_key is not None else []
    refused: dict[int | str, dict[str, Any]] = {401: {"model": Problem}} if api_key is not None else {}
    bad: dict[int | str, dict[str, Any]] = refused | {status: {"model": Problem} for status in (400, 422, 500)}

    @app.post(SYSTEM_ONE, dependencies=secured, responses=bad)
    async def systemone(request: SystemOneRequest) -> SystemOneResponse:
        """Answer typed questions about a state, in the System One format."""
        if len(request.questions) > bounds.max_questions:
            raise Refused(
                422,
                f"Expected at most {bounds.max_questions:,} questions, found {len(request.questions):,}.",
                at=("body", "questions"),
                kind="too_long",
            )
        try:
            answerer = held.models.answerer_of(request.model)
        except ConfigError as error:
            raise Refused(422, str(error), at=("body", "model"), kind="unknown_model") from error
        reading = answerer.read([{"state": request.state, "questions": request.questions}])
        for texts in reading.texts.values():
            for text in texts:
                _check_length(text, bounds, "body", "state")
        (answers,), tokens = await asyncio.gather(answerer.aanswer(reading), run_in_threadpool(_tokens, reading))
        if isinstance(answers, Exception):
            metrics.items.labels(SYSTEM_ONE, "failed").inc(len(request.questions))
            failure = _failure(SYSTEM_ONE, answers)
            status = 422 if isinstance(answers, InputError) else 500
            raise Refused(status, failure.error, at=("body",), kind=failure.type) from answers
        metrics.items.labels(SYSTEM_ONE, "answered").inc(len(request.questions))
        names = [name for name, one in answerer.classifiers.items() if one._predictor in reading.texts]
        return SystemOneResponse(
            model=request.model or ", ".join(names), answers=answers, usage=Usage(input_tokens=tokens)
        )

    @app.post(PREDICT, dependencies=secured, responses=bad)
    async def predict(request: PredictRequest) -> PredictResponse:
        """Answer inputs with one model; an input that cannot be answered fails alone."""
        if len(request.inputs) > bounds.max_inputs:
            raise Refused(
                422,
                f"Expected at most {bounds.max_inputs:,} inputs, found {len(request.inputs):,}. Send them in parts.",
                at=("body", "inputs"),
                kind="too_long",
            )
        try:
            name, served = held.models.named(request.model)
        except ConfigError as error:
            raise Refused(422, str(error), at=("body", "model"), kind="unknown_model") from error
        for i, one in enumerate(request.inputs):
            if not isinstance(one, TAKES[served.task]):
                kinds = " or ".join(kind.__name__ for kind in TAKES[served.task])
                message = f"Expected {kinds}, which a model for {served.task} is given, found {type(one).__name__}."
                raise Refused(422, message, at=("body", "inputs", i), kind="wrong_input")
            for text in texts_of(one):
                _check_length(text, bounds, "body", "inputs", i)
        outcomes = await served.runnable.abatch([given(one) for one in request.inputs], return_exceptions=True)
        results = [_failure(PREDICT, one) if isinstance(one, Exception) else one for one in outcomes]
        failed = sum(isinstance(one, Failure) for one in results)
        metrics.items.labels(PREDICT, "failed").inc(failed)
        metrics.items.labels(PREDICT, "answered").inc(len(results) - failed)
        return PredictResponse(model=name, results=results)

    @app.get(MODELS, dependencies=secured, responses=refused)
    async def models() -> ModelCards:
        """List what is served."""
        return _cards(held.models)

    @app.post(RELOAD, dependencies=secured, responses=refused | {403: {"model": Problem}, 409: {"model": Problem}})
    async def reload() -> ModelCards:
        """Serve what the places of the checkpoints hold now; the models that are loaded serve until then."""
        if api_key is None:
            raise Refused(403, f"Expected a server with a key for this, found one without. Set {API_KEY}.", kind="key")
        try:
            await held.renew()
        except LCFinetuneError as error:
            metrics.reloads.labels("refused").inc()
            logger.warning("The models stay as they are: %s", error)
            raise Refused(409, str(error), kind=type(error).__name__) from error
        metrics.reloads.labels("done").inc()
        return _cards(held.models)

    @app.get(HEALTH)
    async def health() -> Health:
        """Say that requests are answered."""
        return Health()

    @app.get(METRICS, dependencies=secured, responses=refused | {200: {"content": {"text/plain": {}}}},
             response_class=Response)  # fmt: skip
    async def counts() -> Response:
        """Write the counts, for Prometheus."""
        return Response(metrics.text(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    return app


class _Held:
    """The models that new requests get."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self._one_at_a_time = asyncio.Lock()

    async def renew(self) -> None:
        """Exchange all at once, when all are loaded."""
        async with self._one_at_a_time:
            self.models = await run_in_threadpool(self.models.renewed)


def _check_key(key: str) -> None:
    if not key or not key.isascii() or not key.isprintable() or key != key.strip():
        raise ConfigError(
            f"{API_KEY}: expected a key of printable ASCII characters, without spaces around it, found "
            f"{'another' if key else 'an empty one'}."
        )


def _check_length(text: str, bounds: Limits, *at: str | int) -> None:
    if len(text) > bounds.max_text_characters:
        message = f"Expected a text of at most {bounds.max_text_characters:,} characters, found {len(text):,}."
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


def _cards(models: Models) -> ModelCards:
    return ModelCards(
        models=[
            ModelCard(name=name, task=one.task, labels=list(one.runnable.labels), digest=one.checkpoint.digest)
            for name, one in models.served.items()
        ]
    )
