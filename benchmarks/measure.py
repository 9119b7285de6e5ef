"""Timing in turns, and the tables that come of it."""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = (
    "lc-finetune",
    "langchain-core",
    "transformers",
    "tokenizers",
    "torch",
    "onnxruntime",
    "openvino",
    "sentence-transformers",
    "infinity-emb",
    "decisionformer",
)


@dataclass(slots=True)
class Forwards:
    """A count of the model's runs."""

    count: int = 0

    def hook(self, *_: Any) -> None:
        """Count one; fits as a forward hook of a torch module."""
        self.count += 1

    def take(self) -> int:
        """Return the count and start again at zero."""
        taken, self.count = self.count, 0
        return taken


@dataclass(frozen=True)
class Table:
    """A result: what was measured, and the figures.

    Attributes:
        title: Name of the mode.
        columns: One name for each figure of a row.
        rows: Name of what was measured → its figures; None where there is none.
        notes: What a reader must know, one sentence each.
    """

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float | int | None, ...]]
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """Write the table as Markdown."""
        lines = [f"### {self.title}", "", f"| what | {' | '.join(self.columns)} |"]
        lines.append("| --- |" + " ---: |" * len(self.columns))
        lines += [f"| {name} | {' | '.join(map(_figure, figures))} |" for name, figures in self.rows.items()]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)]).rstrip() + "\n"


def _figure(value: float | int | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def in_turns(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Time each way once a round, A B C … A B C …, so that whatever slows the machine slows them all.

    Returns:
        Seconds, one entry a round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            gc.collect()
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Take the median round of each way."""
    return {name: statistics.median(rounds) for name, rounds in seconds.items()}


def percentile(values: Sequence[float], share: float) -> float:
    """Take the value below which `share` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def cores() -> int:
    """Count the cores that this process may use: the threads that every runtime gets."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(device: str) -> list[str]:
    """Describe what the figures were measured on."""
    name = _cpu()
    if device.startswith("cuda"):
        import torch

        name = f"{torch.cuda.get_device_name(device)}, {name}"
    found = [f"Python {platform.python_version()}"]
    for library in LIBRARIES:
        try:
            found.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            continue
    return [
        f"Machine: {name}, {cores()} cores, {platform.system()} {platform.machine()}.",
        f"Threads: {cores()} within an operator for every runtime, 1 between operators.",
        f"Versions: {', '.join(found)}.",
    ]


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write(tables: Iterable[Table], header: Sequence[str], output: Path | None) -> None:
    """Print each table as Markdown as soon as it is measured; on request, write them to a `.md` or `.json` file too.

    The file is written anew after each table, so that a run that is cut short leaves those it had.
    """
    text = "\n".join(f"- {line}" for line in header) + "\n"
    shown = 0
    content = []
    for table in tables:
        text += "\n" + table.markdown()
        print(text[shown:], end="", flush=True)
        shown = len(text)
        content.append(
            {
                "title": table.title,
                "rows": {name: dict(zip(table.columns, row, strict=True)) for name, row in table.rows.items()},
                "notes": table.notes,
            }
        )
        if output is not None and output.suffix == ".json":
            whole = json.dumps({"machine": list(header), "tables": content}, indent=2, ensure_ascii=False)
            output.write_text(whole + "\n", encoding="utf-8")
        elif output is not None:
            output.write_text(text, encoding="utf-8")
