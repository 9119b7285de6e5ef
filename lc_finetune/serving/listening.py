"""An application on an address: taken before anything is loaded, given up in good order."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lc_finetune.errors import ConfigError
from lc_finetune.serving.config import API_KEY

if TYPE_CHECKING:
    from starlette.types import ASGIApp

BACKLOG = 2048
"""Connections that wait to be taken."""


def listener(host: str, port: int, *, beyond: bool) -> socket.socket:
    """Take an address; connections are refused until the server listens.

    Args:
        host: Name or address.
        port: 0 for a free one.
        beyond: Whether it may be one that other machines reach.

    Raises:
        ConfigError: If the address cannot be had, or must not.
    """
    with _address_faults(host, port):
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        if not beyond and not ipaddress.ip_address(address[0]).is_loopback:
            raise ConfigError(
                f"Expected an address of this machine alone, found {host}, which others reach, and no key. "
                f"Set {API_KEY}, or let anybody ask with --without-key."
            )
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    return bound


@contextmanager
def _address_faults(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # a name that is none is a ValueError
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise ConfigError(f"Expected an address to listen on, found {host!r}, port {port}: {why}.") from error


def run(app: ASGIApp, bound: socket.socket, say: Callable[[str], None], *, grace: int) -> None:
    """Answer requests until SIGTERM or Ctrl-C.

    Args:
        app: What answers them.
        bound: From `listener`.
        say: Called with the URL, when requests are about to be taken.
        grace: How long requests under way may take after the signal to stop, in seconds.

    Raises:
        ConfigError: If another server has begun to listen there meanwhile.
    """
    import uvicorn

    host, port = bound.getsockname()[:2]
    with _address_faults(host, port):  # another server may have been loading, too
        bound.listen(BACKLOG)
    say(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    # No access log: a path may hold what somebody mistook for a parameter.
    settings = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, ws="none",
        timeout_graceful_shutdown=grace, backlog=BACKLOG,
    )  # fmt: skip
    uvicorn.Server(settings).run(sockets=[bound])
