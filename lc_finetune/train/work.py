"""The state of unfinished training, in `OUTPUT.work/`: private, and removed after success.

One folder for each finished epoch, as the Trainer writes it, with a marker that is written last. A folder without its
marker was cut off in the middle and is never read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lc_finetune.checkpoint import write_text_atomically
from lc_finetune.data import Example
from lc_finetune.errors import ConfigError

logger = logging.getLogger(__name__)

RUN = "run.json"
MARKER = "complete.json"


@dataclass(frozen=True)
class WorkFolder:
    """Where the Trainer keeps what it needs to continue."""

    path: Path

    @classmethod
    def of(cls, output: Path) -> WorkFolder:
        """Name the work folder of an output folder."""
        absolute = output.expanduser().absolute()
        return cls(absolute.with_name(absolute.name + ".work"))

    def epochs(self) -> list[Path]:
        """List the finished epochs, oldest first."""
        finished = [folder for folder in self.path.glob("checkpoint-*") if _is_complete(folder)]
        return sorted(finished, key=lambda folder: step_of(folder.name))

    def refuse_unfinished(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse to throw away earlier training that could be continued.

        Raises:
            ConfigError: If there is some, and neither of the options says what to do with it.
        """
        if self.epochs() and not (resume or overwrite):
            raise ConfigError(
                f"Expected no unfinished training for this output folder, found {self.path}. "
                "Continue it with --resume, or start anew with --overwrite."
            )

    def open(self, run: Mapping[str, Any], *, resume: bool) -> Path | None:
        """Make the folder ready, and return the epoch to continue from, or None to start at the beginning.

        Args:
            run: What the result depends on: the configuration, and fingerprints of data and base model.
            resume: Whether to continue.

        Raises:
            ConfigError: If the training to be continued was started with something else.
        """
        epochs = self.epochs() if resume else []
        if not epochs:
            if resume:
                logger.info("Nothing to resume in %s: training starts at the beginning.", self.path)
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700)
            write_text_atomically(self.path / RUN, json.dumps(run, indent=2) + "\n")
            return None
        changed = _changes(_read(self.path / RUN), json.loads(json.dumps(run)))
        if changed:
            raise ConfigError(
                f"Expected --resume with the data and options that training was started with, found changes: "
                f"{'; '.join(changed)}. Undo them, or start anew with --overwrite and without --resume."
            )
        for folder in self.path.glob("checkpoint-*"):
            if folder not in epochs:
                shutil.rmtree(folder)
        return epochs[-1]

    def finish_epoch(self, step: int, *, keep: int) -> None:
        """Mark an epoch as complete, then drop those that are neither the newest nor the best.

        Args:
            step: The epoch's last step.
            keep: The last step of the best epoch.
        """
        folder = self.epoch(step)
        sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
        write_text_atomically(folder / MARKER, json.dumps(sizes, indent=2) + "\n")
        for other in self.epochs():
            if step_of(other.name) not in (step, keep):
                (other / MARKER).unlink()
                shutil.rmtree(other)

    def epoch(self, step: int) -> Path:
        """Name the folder of the epoch that ended with a step."""
        return self.path / f"checkpoint-{step}"

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.path, ignore_errors=True)


def step_of(name: str) -> int:
    """Read the step from the name that the Trainer gives to a folder."""
    number = name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def ordered_digest(examples: Sequence[Example]) -> str:
    """Hash texts and labels in order: the order of rows decides which of them share a batch."""
    content = hashlib.sha256()
    for example in examples:
        content.update(repr(example).encode("utf-8", "backslashreplace") + b"\n")
    return content.hexdigest()


def _is_complete(folder: Path) -> bool:
    sizes = _read(folder / MARKER)
    return bool(sizes) and all(
        (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items()
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name what differs; digests are not shown."""
    changed = []
    for name in sorted({*before, *now}):
        left, right = before.get(name), now.get(name)
        if left != right:
            digests = any(isinstance(value, str) and len(value) == 64 for value in (left, right))
            changed.append(f"{name} changed" if digests else f"{name} was {left!r}, is {right!r}")
    return changed
