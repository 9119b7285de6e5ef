"""The server process: what it serves, and the key."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from lc_finetune.errors import ConfigError
from lc_finetune.serving.app import create_app  # says what is missing of the extra
from lc_finetune.serving.config import API_KEY, ServeConfig
from lc_finetune.serving.listening import listener, run
from lc_finetune.systemone import AnsweredBy

GRACE_SECONDS = 60
"""How long requests under way may take after the signal to stop."""


def serve(config: ServeConfig, *, say: Callable[[str], None] = lambda _: None) -> None:
    """Serve checkpoints until SIGTERM or Ctrl-C; requests under way are answered first.

    Args:
        config: What is served, and where.
        say: Called with a line for whoever started it, when requests are about to be taken.

    Raises:
        CheckpointError: If a checkpoint cannot be served.
        ConfigError: If the address cannot be had, or lies beyond this machine and there is no key.
    """
    key = os.environ.get(API_KEY)
    sources = named(config.checkpoints)
    questions = read_questions(config.questions) if config.questions is not None else {}
    with listener(config.host, config.port, beyond=key is not None or config.without_key) as bound:
        app = create_app(
            sources, questions=questions, api_key=key, limits=config,
            device=config.device, dtype=config.dtype, backend=config.backend,
        )  # fmt: skip

        def started(url: str) -> None:
            say(f"Serving {', '.join(sources)} on {url}. Ctrl-C stops it.")

        run(app, bound, started, grace=GRACE_SECONDS)


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
