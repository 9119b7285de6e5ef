"""Requests to `lc-finetune serve` beside `classifier.batch`, on the same texts in one run.

    python -m benchmarks.serving CHECKPOINT --texts FILE [--connections 32]

The server is a process of its own on this machine; client and server share its cores. Ways take turns round by round
and medians are compared. Needs the extra `serve`, and httpx.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.measure import Table, in_turns, machine, medians, write
from benchmarks.texts import read_texts
from lc_finetune import TextClassifier
from lc_finetune.errors import LCFinetuneError
from lc_finetune.serving.config import API_KEY

CLASSIFIER = "classifier.batch"
SERVE = "import sys; from lc_finetune.cli import main; sys.exit(main(['serve', *sys.argv[1:]]))"


@contextmanager
def server(checkpoint: str, *, device: str, max_inputs: int) -> Iterator[str]:
    """Serve a checkpoint in a process of its own; gives the URL."""
    options = ["--port", "0", "--device", device, "--max-inputs", str(max_inputs), "--max-body-bytes", str(1 << 26)]
    environment = {name: value for name, value in os.environ.items() if name != API_KEY}
    command = [sys.executable, "-c", SERVE, f"model={checkpoint}", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            said = process.stdout.readline() if process.stdout else ""
            url = said.partition(" on ")[2].partition(". ")[0]
            while url and process.poll() is None and not _answers(url):
                time.sleep(0.05)
            yield url
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").is_success
    except httpx.TransportError:
        return False


def requests(classifier: TextClassifier, texts: Sequence[str], *, url: str, connections: int, rounds: int) -> Table:
    """Answer all texts: directly, in one request, and in a request for each over many connections."""
    question = {"label": {"type": "choice", "criteria": dict.fromkeys(classifier.labels)}}
    together: list[tuple[str, Any]] = [("/predict", {"inputs": list(texts)})]
    each = [("/predict", {"inputs": [text]}) for text in texts]
    asked = [("/v1/systemone", {"state": text, "questions": question}) for text in texts]

    def post(bodies: Sequence[tuple[str, Any]]) -> Callable[[], Any]:
        return lambda: asyncio.run(_post(url, bodies, connections))

    ways: dict[str, Callable[[], Any]] = {
        CLASSIFIER: lambda: classifier.batch(list(texts)),
        "/predict, all texts in a request": post(together),
        f"/predict, a request a text, {connections} connections": post(each),
        f"/v1/systemone, a request a text, {connections} connections": post(asked),
    }
    for run in ways.values():
        run()  # warms up
    seconds = medians(in_turns(ways, rounds))
    rows = {name: (len(texts) / taken, seconds[CLASSIFIER] / taken) for name, taken in seconds.items()}
    notes = [f"{len(texts):,} texts, {rounds} rounds."]
    return Table("serving", ("texts/s", f"× {CLASSIFIER}"), rows, notes)


async def _post(url: str, bodies: Sequence[tuple[str, Any]], connections: int) -> None:
    limits = httpx.Limits(max_connections=connections)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=600) as client:
        for response in await asyncio.gather(*(client.post(path, json=body) for path, body in bodies)):
            response.raise_for_status()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the table; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        classifier = TextClassifier.from_checkpoint(options.checkpoint, device=options.device)
        texts = read_texts(options.texts, options.items)
    except LCFinetuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with server(options.checkpoint, device=options.device, max_inputs=len(texts)) as url:
        if not url:
            return 2  # the server has said why
        table = requests(classifier, texts, url=url, connections=options.connections, rounds=options.rounds)
    write([table], machine(options.device), options.output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("checkpoint", help="folder of a text classifier")
    parser.add_argument("--texts", required=True, help="labelled file")
    parser.add_argument("--items", type=int, default=1000, help="texts (1000)")
    parser.add_argument("--connections", type=int, default=32, help="connections at the same time (32)")
    parser.add_argument("--device", default="cpu", help="'cpu', 'cuda', …")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in turns (5)")
    parser.add_argument("--output", type=Path, help="a .md or .json file to write as well")
    return parser


if __name__ == "__main__":
    sys.exit(main())
