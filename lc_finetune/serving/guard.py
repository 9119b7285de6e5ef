"""What every request passes before its body is read as JSON: the key, the size, the counts."""

from __future__ import annotations

import time
from collections.abc import Collection
from hmac import compare_digest

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lc_finetune.serving.faults import log_fault, problem
from lc_finetune.serving.metrics import Metrics
from lc_finetune.serving.wire import Fault

HEALTH = "/health"
"""The path that needs no key."""
DISCARDED_BYTES = 1 << 26
"""Of a body that is too large, what is read and thrown away so that the client reads the answer."""


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(
        self, app: ASGIApp, *, key: str | None, max_body_bytes: int, metrics: Metrics, paths: Collection[str]
    ) -> None:
        self._app = app
        self._key = key.encode() if key is not None else None
        self._max_body_bytes = max_body_bytes
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = _path(scope) if _path(scope) in self._paths else "other"
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.perf_counter()
        with self._metrics.in_flight.track_inprogress():
            try:
                await self._admitted(scope, receive, noted)
            except Exception as error:
                log_fault(path, error)
                if status:  # too late for another answer
                    raise ConnectionAbortedError from None
                fault = Fault(loc=[], msg="The server failed on this request; see its log.", type="internal_error")
                await problem(500, [fault])(scope, receive, noted)
        if status:
            self._metrics.requests.labels(path, status).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._shows_key(scope):
            fault = Fault(loc=["header", "authorization"], msg="Expected the bearer key of this server.", type="key")
            await problem(401, [fault], {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        body = await self._body(receive)
        if isinstance(body, bytes):
            await self._app(scope, _replayed(body, receive), send)
        elif body is not None:
            await problem(422, [body])(scope, receive, send)

    def _shows_key(self, scope: Scope) -> bool:
        if self._key is None or _path(scope) == HEALTH:
            return True
        sent = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = sent.partition(b" ")
        return scheme.lower() == b"bearer" and compare_digest(key.strip(), self._key)

    async def _body(self, receive: Receive) -> bytes | Fault | None:
        """Read the body: all of it, or why it is refused, or None if the client has gone."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            part = message.get("body", b"")
            size += len(part)
            if size <= self._max_body_bytes:
                parts.append(part)
            else:
                parts.clear()
            if not message.get("more_body", False) or size > self._max_body_bytes + DISCARDED_BYTES:
                break
        if size <= self._max_body_bytes:
            return b"".join(parts)
        return Fault(
            loc=["body"],
            msg=f"Expected a body of at most {self._max_body_bytes:,} bytes, found more. Send less at a time.",
            type="too_large",
        )


def _path(scope: Scope) -> str:
    """Name the path within the application, wherever that is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Hand out a body that was read; what comes after it is the client's leaving."""
    handed = False

    async def again() -> Message:
        nonlocal handed
        if handed:
            return await receive()
        handed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
