"""Unfinished work: a partial file that only grows, and a journal that says how much of it counts."""

from __future__ import annotations

import contextlib
import glob
import os
import time
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lc_finetune.bulk.sink import Sink
from lc_finetune.bulk.source import Position
from lc_finetune.checkpoint import write_text_atomically
from lc_finetune.errors import ConfigError

COMMIT_SECONDS = 1.0
"""The most work, in time, that a kill can undo, apart from the chunks under way."""


class Journal(BaseModel):
    """What of the partial file is certain to be on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: dict[str, Any] = Field(description="All that the output depends on, apart from the rows.")
    position: Position = Field(default_factory=Position)
    size: int = Field(default=0, ge=0, description="Bytes of the partial file that count.")
    errors: int = Field(default=0, ge=0, description="Rows without an answer among those done.")
    complete: bool = Field(default=False, description="Whether all rows are done.")


class Work:
    """The unfinished work of one output, held by one process at a time.

    It lies beside the output: `NAME.part` and `NAME.part.json`; while a Parquet file is put together, `NAME.part.done`.
    Leaving the block, by whatever exception, records what has been done.
    """

    def __init__(self, output: Path, *, overwrite: bool) -> None:
        """Take hold of the work.

        Raises:
            ConfigError: If the output exists and is not to be replaced, if the partial file is not ours, or if another
                process holds it.
        """
        self._output = output
        self._overwrite = overwrite
        self._partial = output.with_name(f"{output.name}.part")
        self._record = output.with_name(f"{output.name}.part.json")
        self._done = output.with_name(f"{output.name}.part.done")
        if output.is_dir():
            raise ConfigError(f"{output}: expected an output file, found a folder. Name another one.")
        output.parent.mkdir(parents=True, exist_ok=True)
        self._file = _open_alone(self._partial)
        self._committed = time.monotonic()
        self.journal: Journal | None = None
        try:
            self.journal = self._read()
            self._refuse_output()
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self.journal is not None:
            with contextlib.suppress(OSError):
                self._commit()
        self._close()

    def start(self, identity: Mapping[str, Any], seek: Callable[[Position], bool]) -> None:
        """Go on where unfinished work of the same identity stopped, or begin.

        Args:
            identity: All that the output depends on, apart from the rows.
            seek: Takes the input to a position; False if the rows before it have changed.

        Raises:
            ConfigError: If the unfinished work is another's, and is not to be replaced.
        """
        if self.journal is not None and self.journal.identity != identity:
            self._give_up(_changes(self.journal.identity, identity))
        elif self.journal is not None and self._short() and not self._sealed():
            self._give_up("a partial file shorter than recorded")
        elif self.journal is not None and not seek(self.journal.position):
            self._give_up("other rows in the input")
        if self.journal is None:
            self._done.unlink(missing_ok=True)
            self.journal = Journal(identity=dict(identity))
            seek(self.journal.position)
            self._write()
        if not self.journal.complete:
            self._file.truncate(self.journal.size)
            self._file.seek(self.journal.size)

    def append(self, content: bytes, position: Position, errors: int) -> None:
        """Add a chunk; it is recorded at the latest when the block is left."""
        assert self.journal is not None
        view = memoryview(content)
        while view:
            view = view[self._file.write(view) :]
        size = self.journal.size + len(content)
        self.journal = self.journal.model_copy(update={"position": position, "size": size, "errors": errors})
        if time.monotonic() - self._committed >= COMMIT_SECONDS:
            self._commit()

    def finish(self, sink: Sink, *, like: Path) -> None:
        """Make the output of the complete partial file; a kill on the way is made good by the next call.

        Args:
            sink: What the partial file was written by.
            like: The file whose permissions the output gets.
        """
        assert self.journal is not None
        if not self.journal.complete:
            self.journal = self.journal.model_copy(update={"complete": True})
            self._commit()
        if not self._short():
            sink.seal(self._partial, self._done)
        if self._done.exists():
            self._done.chmod(like.stat().st_mode & 0o777)
            os.replace(self._done, self._output)
        self.journal = None
        self._record.unlink()
        for stray in self._record.parent.glob(f".{glob.escape(self._record.name)}.*"):  # of journals a kill cut short
            stray.unlink()

    # Steps.

    def _read(self) -> Journal | None:
        try:
            return Journal.model_validate_json(self._record.read_bytes())
        except FileNotFoundError:
            if (self._size() or self._done.exists()) and not self._overwrite:
                raise ConfigError(
                    f"{self._partial}: expected no such file, or one with a journal, found one without. "
                    "Remove it, or replace it with --overwrite."
                ) from None
        except ValidationError:
            self._give_up("a journal that cannot be read")
        return None

    def _refuse_output(self) -> None:
        finished = self.journal is not None and self._sealed() and not self._done.exists()
        if self._output.exists() and not self._overwrite and not finished:
            raise ConfigError(
                f"{self._output}: expected no such file yet, found one. Name another one, or pass --overwrite."
            )

    def _short(self) -> bool:
        """Whether the partial file holds less than the journal says: it was cut, or it is the output already."""
        assert self.journal is not None
        return os.fstat(self._file.fileno()).st_size < self.journal.size

    def _sealed(self) -> bool:
        """Whether the partial file has become the output, under its own name or the one before."""
        assert self.journal is not None
        return self.journal.complete and self._short() and (self._done.exists() or self._output.exists())

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _give_up(self, found: str) -> None:
        self.journal = None
        if not self._overwrite:
            raise ConfigError(
                f"{self._partial}: expected the unfinished work of this very command, found {found}. "
                "Start over with --overwrite, or repeat the command that was stopped."
            )

    def _commit(self) -> None:
        os.fsync(self._file.fileno())
        self._write()
        self._committed = time.monotonic()

    def _write(self) -> None:
        assert self.journal is not None
        write_text_atomically(self._record, self.journal.model_dump_json(indent=2) + "\n")

    def _close(self) -> None:
        """Let go; a partial file with nothing in it and no journal goes too."""
        mine = os.fstat(self._file.fileno())
        if not self._record.exists() and not mine.st_size and _is(self._partial, mine):
            self._partial.unlink()
        self._file.close()


def _open_alone(path: Path) -> FileIO:
    """Open or create a private file that no other process holds."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    file = FileIO(os.open(path, flags, 0o600), "r+")
    if not _lock(file) or not _is(path, os.fstat(file.fileno())):
        file.close()
        raise ConfigError(f"{path}: expected work that nobody is at, found another process writing it. Let it end.")
    return file


def _lock(file: FileIO) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows, where a file open for writing cannot be renamed from under its writer
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(path: Path, stat: os.stat_result) -> bool:
    """Whether the file of that status is still the one of that name, and not renamed or removed."""
    try:
        return os.path.samestat(path.stat(), stat)
    except FileNotFoundError:
        return False


def _changes(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    names = sorted(name for name in recorded.keys() | wanted.keys() if recorded.get(name) != wanted.get(name))
    return f"another {', '.join(name.replace('_', ' ') for name in names)}"
