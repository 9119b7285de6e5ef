"""The server process: an address, the key, an orderly end."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from lc_finetune.errors import ConfigError
from lc_finetune.serving.app import create_app  # says what is missing of the extra
from lc_finetune.serving.config import API_KEY, ServeConfig
from lc_finetune.systemone import AnsweredBy

GRACE_SECONDS = 60
"""How long requests under way may take after the signal to stop."""
BACKLOG = 2048
"""Connections that wait to be taken."""


def serve(config: ServeConfig, *, say: Callable[[str], None] = lambda _: None) -> None:
    """Serve checkpoints until SIGTERM or Ctrl-C; requests under way are answered first.

    Args:
        config: What is served, and where.
        say: Called with a line for whoever started it, when requests are about to be taken.

    Raises:
        CheckpointError: If a checkpoint cannot be served.
        ConfigError: If the address cannot be had, or lies beyond this machine and there is no key.
    """
    import uvicorn

    key = os.environ.get(API_KEY)
    sources = named(config.checkpoints)
    questions = read_questions(config.questions) if config.questions is not None else {}
    with listener(config.host, config.port, beyond=key is not None or config.without_key) as bound:
        app = create_app(
            sources, questions=questions, api_key=key, limits=config,
            device=config.device, dtype=config.dtype, backend=config.backend,
        )  # fmt: skip
        host, port = bound.getsockname()[:2]
        with _address_faults(config.host, config.port):  # another server may have been loading, too
            bound.listen(BACKLOG)
        say(f"Serving {', '.join(sources)} on http://{f'[{host}]' if ':' in host else host}:{port}. Ctrl-C stops it.")
        # No access log: a path may hold what somebody mistook for a parameter.
        settings = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, ws="none",
            timeout_graceful_shutdown=GRACE_SECONDS, backlog=BACKLOG,
        )  # fmt: skip
        uvicorn.Server(settings).run(sockets=[bound])


def named(checkpoints: Sequence[str]) -> dict[str, str]:
    """Name each checkpoint: NAME of NAME=CHECKPOINT, or else the last part of its place.

    Raises:
        ConfigError: If two have one name, or one has none.
    """
    sources: dict[str, str] = {}
    for one in checkpoints:
        name, equals, source = one.partition("=")
        if not equals or "/" in name or os.sep in name:
            name, source = one.rstrip("/" + os.sep).replace(os.sep, "/").rpartition("/")[2], one
        if name in ("", ".", "..") or not name.isprintable() or not source:
            raise ConfigError(f"Expected CHECKPOINT or NAME=CHECKPOINT, found {one!r}. Give it a name.")
        if name in sources:
            raise ConfigError(f"Expected names that differ, found {name!r} twice. Write NAME=CHECKPOINT.")
        sources[name] = source
    return sources


def read_questions(path: Path) -> dict[str, AnsweredBy]:
    """Read how questions are answered, from a JSON object.

    Raises:
        ConfigError: If the file cannot be read, or says it in another way.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected a file of JSON, found none ({type(error).__name__}).") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path}: expected an object, question id → how it is answered, found {type(content).__name__}."
        )
    try:
        return {name: AnsweredBy.model_validate(how) for name, how in content.items()}
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "a question"
        raise ConfigError(
            f"{path}: expected classifier, labels and reads of each question, found another {where} ({first['type']})."
        ) from error


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
