"""Files that an evaluation leaves: refused before anything is computed, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from lc_finetune.checkpoint import write_text_atomically
from lc_finetune.errors import ConfigError


def check_output(path: Path, *, suffix: str, what: str, source: Path, overwrite: bool) -> None:
    """Refuse an output that cannot be written, or would replace a file unasked.

    Args:
        path: The file.
        suffix: That it must have.
        what: What it holds, for the message.
        source: The file of labelled rows, which is never replaced.
        overwrite: Whether a file of that name is replaced.

    Raises:
        ConfigError: It names the way out.
    """
    if path.suffix.lower() != suffix:
        raise ConfigError(
            f"{path}: expected a {suffix} file for {what}, found {path.suffix or 'no suffix'}. "
            f"Name it {path.stem or 'out'}{suffix}."
        )
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: expected a folder to write to, found none at {path.parent}. Make it first.")
    if path.resolve() == source.resolve() or (path.exists() and source.exists() and path.samefile(source)):
        raise ConfigError(f"{path}: expected an output apart from the labelled rows, found their file. Name another.")
    if path.exists() and (path.is_dir() or not overwrite):
        raise ConfigError(
            f"{path}: expected no file of that name, found one, which may have been corrected by hand. Name another "
            "one, or pass --overwrite to replace it."
        )


def write_output(path: Path, content: str, *, like: Path) -> None:
    """Write a file whole or not at all, to be read by those who may read the file that its texts come from.

    Raises:
        ConfigError: If it cannot be written.
    """
    mode = like.stat().st_mode & 0o777 | 0o600 if like.is_file() else 0o644
    try:
        write_text_atomically(path, content, mode=mode)
    except OSError as error:
        raise ConfigError(
            f"{path}: expected to write there, could not ({error.strerror or type(error).__name__}). Check the "
            "permissions of its folder and the room on the disk."
        ) from error
