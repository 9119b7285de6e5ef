"""Rows that are added to a file while it grows: by a cascade, or by a person who corrects answers."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping
from typing import Any

_appending = threading.Lock()


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Write rows as JSONL."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def append_rows(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to a private JSONL file, which is made if need be.

    Of several threads or processes, none cuts into another's row. A last line without an end, as an editor or a full
    disk leaves it, gets one.

    Raises:
        OSError: If the file cannot be written, or is a link.
    """
    # A lone surrogate becomes its escape, which is how JSON writes one.
    content = json_lines(rows).encode(errors="backslashreplace")
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with _appending:
        descriptor = os.open(path, flags, 0o600)
        try:
            if content and (size := os.fstat(descriptor).st_size):
                os.lseek(descriptor, size - 1, os.SEEK_SET)
                content = content if os.read(descriptor, 1) == b"\n" else b"\n" + content
            while content:
                content = content[os.write(descriptor, content) :]
        finally:
            os.close(descriptor)
