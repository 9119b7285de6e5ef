"""Errors as responses, in one shape and without a word of what was sent."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from lc_finetune.errors import LCFinetuneError, shown
from lc_finetune.serving.wire import Fault, Problem

MESSAGES = {
    "union_tag_invalid": "Expected a type of choice, noul or score, found another.",
    "union_tag_not_found": "Expected a type of choice, noul or score, found none.",
    "json_invalid": "Expected JSON, found a body that is none.",
}
"""Where Pydantic's own message would quote the request, or is no help."""
MOST_FAULTS, DEEPEST = 8, 8
"""Faults of one answer, and parts of their place: a bad request must not make a long answer."""


logger = logging.getLogger(__name__)


class Refused(Exception):
    """A request that is not answered."""

    def __init__(self, status: int, message: str, *, at: Sequence[str | int] = (), kind: str = "refused") -> None:
        super().__init__(message)
        self.status = status
        self.fault = Fault(loc=list(at), msg=message, type=kind)


def problem(status: int, faults: Sequence[Fault], headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Write the response."""
    return JSONResponse(Problem(detail=list(faults)).model_dump(), status, dict(headers or {}))


def log_fault(path: str, error: BaseException | None) -> None:
    """Log what failed and where, but no message that is not ours: a foreign one may quote a text."""
    parts = []
    while error is not None:
        said = f": {error}" if isinstance(error, LCFinetuneError) else ""
        parts.append(f"{type(error).__name__}{said}\n{''.join(traceback.format_tb(error.__traceback__))}")
        error = error.__cause__
    logger.error("%s failed. %s", path, "Caused by ".join(parts))


def add_handlers(app: FastAPI) -> None:
    """Answer what FastAPI and Starlette refuse as everything else is refused."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return problem(422, [_fault(one) for one in error.errors()[:MOST_FAULTS]])

    @app.exception_handler(HTTPException)
    async def refused_by_framework(_: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, [Fault(loc=[], msg=str(error.detail), type="http_error")], error.headers)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return problem(error.status, [error.fault])


def _fault(error: Mapping[str, Any]) -> Fault:
    """Keep where and what of a validation error; keys that may be texts are counted, not quoted."""
    return Fault(
        loc=[part if isinstance(part, int) else shown([part]) for part in error["loc"][:DEEPEST]],
        msg=MESSAGES.get(error["type"], error["msg"]),
        type=error["type"],
    )
