"""The page as an application of this machine alone, which asks nothing of any other."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lc_finetune.checkpoint import Checkpoint, Task
from lc_finetune.data import ReadOptions, read_examples
from lc_finetune.data.rows import rows_of
from lc_finetune.errors import ConfigError, LCFinetuneError
from lc_finetune.playground.config import PlaygroundConfig
from lc_finetune.playground.form import KEYS, Form
from lc_finetune.playground.page import Steps, create_page, mounted  # says what is missing of the extra
from lc_finetune.serving.listening import listener, run
from lc_finetune.serving.models import Runtime, Served

if TYPE_CHECKING:
    from fastapi import FastAPI

HOST = "127.0.0.1"
GRACE_SECONDS = 1
"""How long requests may take after the signal to stop; an open page holds one for as long as it is open."""


def playground(config: PlaygroundConfig, *, say: Callable[[str], None] = lambda _: None) -> None:
    """Show the page until SIGTERM or Ctrl-C.

    Args:
        config: The checkpoint, and where corrections go.
        say: Called with a line for whoever started it, when the page can be opened.

    Raises:
        CheckpointError: If the checkpoint cannot be served.
        ConfigError: If the port cannot be had, or the file of corrections holds something else.
    """
    with listener(HOST, config.port, beyond=False) as bound:
        app = create_app(config)

        def started(url: str) -> None:
            say(f"{config.checkpoint} on {url}; corrections go to {config.corrections}. Ctrl-C stops it.")

        log = logging.getLogger("uvicorn.error")
        log.addFilter(_is_fault)
        try:
            run(app, bound, started, grace=GRACE_SECONDS)
        finally:
            log.removeFilter(_is_fault)


def _is_fault(record: logging.LogRecord) -> bool:
    """Tell what is worth a line from the end of the request that an open page holds, which is cut off with the rest."""
    cut_off = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not (cut_off or str(record.msg).startswith("Cancel "))


def create_app(config: PlaygroundConfig) -> FastAPI:
    """Load the checkpoint and make the application, for any ASGI server of this machine.

    Raises:
        CheckpointError: If the checkpoint cannot be served.
        ConfigError: If the file of corrections cannot be one, or holds something else.
    """
    checkpoint = Checkpoint.load(config.checkpoint)
    check_corrections(config.corrections, checkpoint.task)
    served = Served.load(checkpoint, Runtime(config.device, config.dtype, config.backend))
    steps = Steps(served, Form.of(checkpoint), config.corrections, config.max_text_characters)
    return mounted(create_page(steps, name=_name(config.checkpoint)))


def _name(source: str) -> str:
    """Name a checkpoint by the last part of its place."""
    return source.rstrip("/").replace("\\", "/").rpartition("/")[2] or source


def check_corrections(path: Path, task: Task) -> None:
    """Refuse a file to which rows for a task cannot be added.

    Raises:
        ConfigError: If it is no JSONL file, or has rows that are not read as the new ones are.
    """
    if path.suffix.lower() != ".jsonl":
        raise ConfigError(f"{path}: expected a .jsonl file for the corrections, found {path.suffix or 'no suffix'}.")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: expected a file in a folder that exists, found none. Make the folder first.")
    if path.is_symlink() or path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        kind = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "one that cannot"
        raise ConfigError(f"{path}: expected a file that can be written, found {kind}. Name another file.")
    if not path.exists() or not path.stat().st_size:
        return
    try:
        found = read_examples(path, ReadOptions(task=task)).task
        lacking = [name for name in KEYS[task] if any(name not in row.fields for row in rows_of(path, ()))]
    except LCFinetuneError as error:
        raise ConfigError(
            f"{path}: expected rows for {task}, to which more can be added, found others. {error}"
        ) from error
    if found != task or lacking:
        raise ConfigError(
            f"{path}: expected rows for {task} with {', '.join(KEYS[task])}, to which more can be added, found "
            f"{f'rows without {lacking[0]}' if lacking else f'rows for {found}'}. Name another file with --corrections."
        )
