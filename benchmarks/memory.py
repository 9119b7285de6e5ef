"""Does bulk prediction need more memory for more rows?

    python -m benchmarks.memory [--rows 10000 100000 1000000] [--output-format jsonl]

Scores JSONL files of several sizes with a tiny model, each in a process of its own, and prints the peak of its resident
memory as a Markdown table. It fails if the largest file needs more than a tenth more than the smallest.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lc_finetune.testing import SENTENCES, tiny_checkpoint

PREDICT = "import sys; from lc_finetune.cli import main; sys.exit(main(['predict', *sys.argv[1:]]))"
ALLOWED_GROWTH = 1.10


def write_rows(path: Path, rows: int) -> None:
    """Write JSONL of 3 to 12 words a row, the same for the same number of rows."""
    words, chance = " ".join(SENTENCES).split(), random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            text = " ".join(chance.choices(words, k=chance.randint(3, 12)))
            file.write(json.dumps({"id": number, "text": text}) + "\n")


def peak_of(command: list[str]) -> tuple[float, float]:
    """Run a command; returns the peak of its resident memory in MiB and its time in seconds."""
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss: bytes there, KiB elsewhere
    return usage.ru_maxrss / unit, time.perf_counter() - started


def main() -> None:
    """Measure, print, and fail on growth."""
    parser = argparse.ArgumentParser(description="Peak memory of bulk prediction by rows.")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--output-format", choices=["jsonl", "csv", "parquet"], default="jsonl")
    arguments = parser.parse_args()
    print("| rows | input | peak memory | time | rows/s |\n| ---: | ---: | ---: | ---: | ---: |", flush=True)
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = tiny_checkpoint(Path(folder, "checkpoint"), onnx=True)
        for rows in sorted(arguments.rows):
            source, output = Path(folder, f"{rows}.jsonl"), Path(folder, f"out.{arguments.output_format}")
            write_rows(source, rows)
            size = source.stat().st_size / 2**20
            options = ["--input", str(source), "--output", str(output), "--device", "cpu", "--overwrite", "--quiet"]
            peak, seconds = peak_of([sys.executable, "-c", PREDICT, str(checkpoint.path), *options])
            peaks.append(peak)
            print(
                f"| {rows:,} | {size:,.1f} MiB | {peak:,.0f} MiB | {seconds:,.0f} s | {rows / seconds:,.0f} |",
                flush=True,
            )
            source.unlink()
    if peaks[-1] > ALLOWED_GROWTH * peaks[0]:
        raise SystemExit(f"Expected flat memory, found {peaks[0]:,.0f} MiB growing to {peaks[-1]:,.0f} MiB.")


if __name__ == "__main__":
    main()
