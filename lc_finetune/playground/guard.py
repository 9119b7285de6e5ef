"""What every request to the page passes: it is this machine's own, and its answer loads nothing from elsewhere."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost")
"""Names by which a browser of this machine asks for the page."""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
"""What the browser may load: nothing from elsewhere, whatever the page asks for."""


class Guard:
    """ASGI middleware around the page: pages of elsewhere that are open in the same browser cannot use it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = POLICY
            await send(message)

        if _is_ours(Headers(scope=scope)):
            await self._app(scope, receive, with_policy)
        else:
            refusal = (
                "Expected a request of this page, on this machine, found another. Open the address as it was said."
            )
            await PlainTextResponse(refusal, 403)(scope, receive, send)


def _is_ours(headers: Headers) -> bool:
    """Say whether a request names this machine, and comes from the page itself if from any."""
    try:
        host, origin = urlsplit(f"//{headers.get('host', '')}"), urlsplit(headers.get("origin", ""))
        return host.hostname in HOSTS and origin.netloc in ("", host.netloc) and origin.path != "null"
    except ValueError:
        return False
