"""Find the token budget: how many tokens, padding counted, one forward should hold on a device.

    python -m benchmarks.tune CHECKPOINT --texts FILE [--device cpu]

The backend alone is timed, on the lengths of real texts, sorted as the engine sorts them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Table, cores, in_turns, machine, medians, write
from benchmarks.texts import read_texts
from lc_finetune.checkpoint import Checkpoint
from lc_finetune.errors import ConfigError, LCFinetuneError
from lc_finetune.inference import plan
from lc_finetune.inference.backends import Batch
from lc_finetune.inference.encode import Encoding
from lc_finetune.inference.predictor import CHUNK, Predictor

BUDGETS = (128, 256, 384, 512, 768, 1024, 2048, 4096, 8192)
CLOSE = 0.99
"""A budget this close to the best is as good, and the smallest such is chosen: it lets a single text wait less."""


def window_lengths(predictor: Predictor, texts: Sequence[str]) -> list[int]:
    """Measure the windows of all texts in pieces, special tokens included."""
    special = len(predictor.frame)
    return [
        end - start + special
        for encoding in predictor.encode(texts)
        if isinstance(encoding, Encoding)
        for start, end in plan.windows(len(encoding.ids), predictor.max_length - special, predictor.stride)
    ]


def cut(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut wave by wave, each as large as one call's share of the queue; returns the lengths in each batch."""
    waves = [lengths[start : start + CHUNK] for start in range(0, len(lengths), CHUNK)]
    return [[wave[i] for i in batch] for wave in waves for batch in plan.batches(wave, budget)]


def run(predictor: Predictor, batches: Sequence[Sequence[int]]) -> None:
    """Run one forward for each batch of windows with the given lengths."""
    for batch in batches:
        shape = (len(batch), max(batch))
        mask = (np.arange(shape[1]) < np.asarray(batch)[:, None]).astype(np.int64)
        predictor.backend.forward(Batch(np.ones(shape, dtype=np.int64), mask))


def best_budget(rate: dict[int, float]) -> int:
    """Choose the smallest budget whose rate is close to the best."""
    return min(budget for budget, value in rate.items() if value >= CLOSE * max(rate.values()))


def over_texts(predictor: Predictor, lengths: Sequence[int], budgets: Sequence[int], rounds: int) -> Table:
    """Compare budgets on the lengths of real texts."""
    batches = {budget: cut(lengths, budget) for budget in budgets}
    seconds = _timed({str(budget): partial(run, predictor, batches[budget]) for budget in budgets}, rounds)
    rate = {budget: len(lengths) / seconds[str(budget)] for budget in budgets}
    rows: dict[str, tuple[float | int | None, ...]] = {}
    for budget in budgets:
        padded = sum(len(batch) * max(batch) for batch in batches[budget])
        rows[str(budget)] = (
            rate[budget],
            sum(lengths) / seconds[str(budget)],
            100 * (1 - sum(lengths) / padded),
            len(batches[budget]),
        )
    notes = [
        f"{len(lengths):,} windows, {sum(lengths) / len(lengths):.1f} pieces on average.",
        f'TOKEN_BUDGET["{predictor.device.partition(":")[0]}"] = {best_budget(rate)}',
    ]
    return Table("token budget on these texts", ("windows/s", "tokens/s", "padding %", "forwards"), rows, notes)


def over_shapes(
    predictor: Predictor, lengths: Sequence[int], budgets: Sequence[int], rounds: int, *, forwards: int = 4
) -> Table:
    """Compare budgets where all windows are of one length, by tokens per second."""
    ways = {
        f"{length} {budget}": partial(run, predictor, [[length] * (budget // length)] * forwards)
        for length in lengths
        for budget in budgets
        if length <= budget
    }
    seconds = _timed(ways, rounds)

    def rate(length: int, budget: int) -> float | None:
        return forwards * (budget // length) * length / seconds[f"{length} {budget}"] if length <= budget else None

    rows = {f"length {length}": tuple(rate(length, budget) for budget in budgets) for length in lengths}
    return Table("tokens/s by length and budget", tuple(map(str, budgets)), rows)


def _timed(ways: dict[str, Any], rounds: int) -> dict[str, float]:
    for way in ways.values():
        way()
    return medians(in_turns(ways, rounds))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables and the value for `TOKEN_BUDGET`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", help="folder of a classifier or tagger")
    parser.add_argument("--texts", required=True, metavar="FILE", help="labelled file, for the lengths of its texts")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps (default cpu)")
    parser.add_argument("--backend", default="auto", help="as of from_checkpoint (default auto)")
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS), metavar="TOKENS")
    parser.add_argument("--lengths", nargs="+", type=int, default=[8, 16, 32, 64, 128], metavar="PIECES")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the median counts (default 5)")
    parser.add_argument("--texts-limit", type=int, default=1024, metavar="N", help="texts at most (default 1024)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the tables to a .md or .json file too")
    arguments = parser.parse_args(argv)
    try:
        predictor = Predictor.load(
            Checkpoint.load(arguments.checkpoint), device=arguments.device, backend=arguments.backend
        )
        lengths = window_lengths(predictor, read_texts(arguments.texts, arguments.texts_limit))
        if not lengths:
            raise ConfigError(f"Expected texts in {arguments.texts}, found none.")
    except LCFinetuneError as error:
        print(f"benchmarks.tune: error: {error}", file=sys.stderr)
        return 2
    import torch

    torch.set_num_threads(cores())
    shapes = [length for length in arguments.lengths if length <= predictor.max_length]
    tables = [
        over_texts(predictor, lengths, arguments.budgets, arguments.rounds),
        over_shapes(predictor, shapes, arguments.budgets, arguments.rounds),
    ]
    header = [*machine(arguments.device), f"Backend: {predictor.backend.name}, {predictor.backend.precision}."]
    write(tables, header, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
