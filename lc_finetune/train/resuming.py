"""The Trainer's state beside the output: what an interrupted run goes on from."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lc_finetune.checkpoint import (
    sha256,
    write_text_atomically,
)
from lc_finetune.data import (
    Splits,
    fingerprint,
)
from lc_finetune.errors import ConfigError, LCFinetuneError
from lc_finetune.train.base_model import BaseModel
from lc_finetune.train.config import TrainConfig

RUN_RECORD = "run.json"
TRAINER_STATE = "trainer_state.json"
STUDY = "search.sqlite3"
"""The trials of a search."""


def open_work(work: Path, config: TrainConfig, base: BaseModel, data: str, say: Callable[[str], None]) -> str | None:
    """Make the private folder of the Trainer's state, or find the last whole state to go on from.

    What the result depends on is recorded: the options, the rows in their order, the weights of the base model.

    Args:
        work: The folder.
        config: The run.
        base: Its base model.
        data: A digest of the rows in their order.
        say: Receives a notice.

    Raises:
        ConfigError: If the run to resume had other data or other options.
    """
    options = config.fingerprint_fields()
    record: dict[str, Any] = {
        "config": options,
        "data": data,
        "base_model": {path.name: sha256(path) for path in sorted(base.folder.glob("*.safetensors"))},
    }
    path = work / RUN_RECORD
    if config.resume and path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            changed = [name for name, value in options.items() if before["config"].get(name) != value]
            changed += ["the weights of the base model"] if before.get("base_model") != record["base_model"] else []
            changed += ["the data"] if before["data"] != record["data"] else []
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"{path}: expected the record of a run, found an altered file. Start anew without --resume, "
                "with --overwrite."
            ) from error
        if changed:
            raise ConfigError(
                f"Expected the run that {work} belongs to, found another: {', '.join(changed)} changed. "
                "Give the same options, or start anew without --resume."
            )
        whole = whole_states(work)
        if whole or (work / STUDY).is_file():
            return os.fspath(whole[-1]) if whole else None
    if config.resume:
        say("Nothing to resume from: starting at the beginning.")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, mode=0o700)
    write_text_atomically(path, json.dumps(record, indent=2))
    return None


def refuse_unfinished(work: Path, config: TrainConfig) -> None:
    """Refuse to throw away finished epochs of an interrupted run unasked, or what is no run at all."""
    if work.is_file() or (work.is_dir() and not all(_is_ours(path.name) for path in work.iterdir())):
        raise ConfigError(f"Expected {work} for the unfinished run, found something else there. Move it away.")
    kept = "finished epochs" if whole_states(work) else "a search" if (work / STUDY).is_file() else None
    if kept and not (config.resume or config.overwrite):
        raise ConfigError(
            f"Expected no unfinished run for {config.output_dir}, found {kept} in {work}. "
            "Continue it with --resume, or start anew with --overwrite."
        )


def _is_ours(name: str) -> bool:
    return name.startswith(
        (RUN_RECORD, f".{RUN_RECORD}.", STUDY, "checkpoint-", "runs", "tmp-checkpoint-", "warmed-base")
    )


def drop_states(work: Path) -> None:
    """Remove the Trainer's states, of whichever run; a search stays."""
    for state in work.glob("checkpoint-*"):
        shutil.rmtree(state, ignore_errors=True)


def whole_states(work: Path) -> list[Path]:
    """Find the states that a run saved to the end, the earliest first."""
    whole = [folder for folder in work.glob("checkpoint-[0-9]*") if _is_whole(folder)]
    return sorted(whole, key=lambda folder: int(folder.name.rpartition("-")[2]))


def ordered_fingerprint(splits: Splits) -> str:
    """Hash the rows in order, which decides who shares a batch; `fingerprint` does not look at the order."""
    content = hashlib.sha256()
    for part in (splits.train, splits.validation):
        content.update("".join(fingerprint([example]) for example in part).encode() + b"\n")
    return content.hexdigest()


def stopped_early(state: Path, patience: int) -> bool:
    """Say whether the run had already run out of patience: only what follows training was cut off."""
    callbacks = json.loads((state / TRAINER_STATE).read_text(encoding="utf-8"))["stateful_callbacks"]
    attributes = callbacks.get("EarlyStoppingCallback", {}).get("attributes", {})
    return int(attributes.get("early_stopping_patience_counter", 0)) >= patience


def _is_whole(folder: Path) -> bool:
    """Say whether the Trainer finished writing a state; its own record is the last file it writes."""
    try:
        json.loads((folder / TRAINER_STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def raise_unwritable(error: Exception, output: Path, work: Path) -> None:
    """Say what to do where an error means that nothing can be written, or that the disk is full.

    Raises:
        ConfigError: If it does.
    """
    if isinstance(error, LCFinetuneError):
        return
    if _is_full(error):
        raise ConfigError(
            f"Expected room on the disk of {output.parent}, found it full. Free some, then add --resume: "
            f"finished epochs are kept in {work}."
        ) from error
    if isinstance(error, OSError):
        raise ConfigError(
            f"Expected to write to {output.parent}, could not ({error.strerror or type(error).__name__}). "
            f"Mend it, then add --resume: finished epochs are kept in {work}."
        ) from error


def _is_full(error: Exception) -> bool:
    """Say whether a disk without room is behind an error: safetensors and torch do not raise OSError for it."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    marks = (
        "No space left",
        "disk is full",
        "File too large",
        "iostream error",
        "inline_container",
        "PytorchStreamWriter",
    )
    return any(mark in str(error) for mark in marks)
