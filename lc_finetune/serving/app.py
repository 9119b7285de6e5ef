"""The HTTP application: paths → models."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from lc_finetune.errors import ConfigError, MissingDependencyError

try:
    import prometheus_client
    import uvicorn  # noqa: F401
    from fastapi import Depends, FastAPI, Response
    from fastapi.security import HTTPBearer
except ImportError as error:
    raise MissingDependencyError(
        f"Expected the packages of the server, found no {error.name}. Install them: pip install 'lc-finetune[serve]'."
    ) from error

from lc_finetune.inference.backends import BackendName, Dtype
from lc_finetune.serving.config import API_KEY, Limits
from lc_finetune.serving.faults import add_handlers
from lc_finetune.serving.guard import HEALTH, Guard
from lc_finetune.serving.metrics import Metrics
from lc_finetune.serving.models import Models, Runtime
from lc_finetune.serving.service import PREDICT, SYSTEM_ONE, Service
from lc_finetune.serving.wire import Problem
from lc_finetune.systemone import AnsweredBy

METRICS, MODELS, RELOAD, OPENAPI = "/metrics", "/v1/models", "/admin/reload", "/openapi.json"
PATHS = (SYSTEM_ONE, PREDICT, HEALTH, METRICS, MODELS, RELOAD, OPENAPI)


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
    bounds = limits or Limits()
    metrics = Metrics()
    models = Models.load(dict(checkpoints), questions or {}, Runtime(device, dtype, backend))
    service = Service(models, limits=bounds, metrics=metrics, reloads=api_key is not None)
    app = FastAPI(
        title="lc_finetune",
        version=version("lc-finetune"),
        description="Fine-tuned encoders over HTTP.",
        openapi_url=OPENAPI,
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
    )
    app.add_middleware(Guard, key=api_key, max_body_bytes=bounds.max_body_bytes, metrics=metrics, paths=PATHS)
    add_handlers(app)
    # The guard has checked the key; this describes it.
    secured = [Depends(HTTPBearer(auto_error=False))] if api_key is not None else []
    keyless = _problems(401) if api_key is not None else {}
    bad = keyless | _problems(400, 422, 500)
    app.post(SYSTEM_ONE, dependencies=secured, responses=bad)(service.systemone)
    app.post(PREDICT, dependencies=secured, responses=bad)(service.predict)
    app.get(MODELS, dependencies=secured, responses=keyless)(service.models)
    app.post(RELOAD, dependencies=secured, responses=keyless | _problems(403, 409, 500))(service.reload)
    app.get(HEALTH)(service.health)

    text: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}

    @app.get(METRICS, dependencies=secured, responses=keyless | text, response_class=Response)
    async def counts() -> Response:
        """Write the counts, for Prometheus."""
        return Response(metrics.text(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    return app


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem} for status in statuses}


def _check_key(key: str) -> None:
    if not key or not key.isascii() or not key.isprintable() or key != key.strip():
        raise ConfigError(
            f"{API_KEY}: expected a key of printable ASCII characters, without spaces around it, found "
            f"{'another' if key else 'an empty one'}."
        )
