"""A run whose output is a URL: trained in a private local folder, uploaded when it is whole."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from lc_finetune.checkpoint import FETCHED, MANIFEST, MANIFESTS, Checkpoint, write_text_atomically
from lc_finetune.errors import ConfigError
from lc_finetune.remote import cache_folder, cached_copy, refuse_existing_url, short_digest, upload
from lc_finetune.train.config import TrainConfig

REPLACED = (*FETCHED, "README.md", "report.html", "metrics.jsonl", "search.jsonl", "adapter/*")
"""What of an earlier checkpoint is deleted at the URL; files that are not ours stay."""
RECORD = "options.json"


def local_folder(url: str) -> Path:
    """Name the folder in which the run for a URL is trained; its states for resuming lie beside it, as ever.

    Raises:
        ConfigError: If the cache cannot be written.
    """
    name = re.sub(r"[^\w.-]", "_", url.rstrip("/").rpartition("/")[2])[-100:] or "checkpoint"
    return cache_folder("uploads", short_digest(url.rstrip("/"))) / name


def fine_tune_to_url(config: TrainConfig, train: Callable[[Path], object], say: Callable[[str], None]) -> Checkpoint:
    """Train locally, upload, and keep the local folder as the copy that loading from the URL finds.

    A checkpoint whose upload failed is uploaded with `resume`, without training again.

    Args:
        config: The run; `output_dir` is the URL.
        train: Trains into a local folder.
        say: Receives notices.

    Raises:
        ConfigError: If the URL cannot be used, or the upload fails: then the local checkpoint's path is said.
        MissingDependencyError: If the package of the store is not installed.
    """
    url = config.output_dir
    refuse_existing_url(url, overwrite=config.overwrite, resume=config.resume)
    local = local_folder(url)
    if local.is_dir() and config.resume:
        _refuse_other_options(local, config)
        say(f"Already trained, in {local}.")
    else:
        if local.is_dir() and not config.overwrite:
            raise ConfigError(
                f"Expected no checkpoint that waits for its upload to {url}, found one in {local}. "
                "Upload it with --resume, or start anew with --overwrite."
            )
        shutil.rmtree(local, ignore_errors=True)
        write_text_atomically(local.with_name(RECORD), json.dumps(config.fingerprint_fields(), indent=2))
        train(local)
    say(f"Uploading to {url}")
    try:
        upload(local, url, last=MANIFEST, replaced=REPLACED, private=config.upload_private)
    except ConfigError as error:
        raise ConfigError(
            f"{error} The checkpoint is whole in {local}: the same command with --resume uploads it, without "
            "training again."
        ) from error
    _keep(local, url)
    return Checkpoint.load(url)


def _refuse_other_options(local: Path, config: TrainConfig) -> None:
    try:
        before = json.loads(local.with_name(RECORD).read_text(encoding="utf-8"))
        changed = [name for name, value in config.fingerprint_fields().items() if before.get(name) != value]
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{local.with_name(RECORD)}: expected the record of a run, found none. Start anew with --overwrite."
        ) from error
    if changed:
        raise ConfigError(
            f"Expected the run that {local} belongs to, found another: {', '.join(changed)} changed. "
            "Give the same options, or start anew with --overwrite."
        )


def _keep(local: Path, url: str) -> None:
    """Make the local folder the cached copy; `private/`, if there is one and it was not uploaded, stays in it."""
    manifests = {name: (local / name).read_bytes() for name in MANIFESTS if (local / name).is_file()}
    copy = cached_copy(url, manifests)
    if not copy.is_dir():
        os.rename(local, copy)
    shutil.rmtree(local.parent, ignore_errors=True)
