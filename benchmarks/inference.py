"""Inference, ours beside everything else that is installed, on the same texts in one run.

    python -m benchmarks.inference CHECKPOINT --texts FILE [--tagger CHECKPOINT --tagger-texts FILE]

Contestants take turns round by round and medians are compared, so what counts are the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.runnables import (
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)

from benchmarks.contestants import PIPELINE, Contestant, Runs, contestants, counted, replaced, runtime_of
from benchmarks.measure import Forwards, Table, cores, in_turns, machine, medians, percentile, write
from benchmarks.texts import long_tailed, read_texts
from lc_finetune import FanOut, LabelRouter, TextClassifier
from lc_finetune.checkpoint import Checkpoint
from lc_finetune.errors import ConfigError, LCFinetuneError
from lc_finetune.inference.backends import Backend, Batch, Outputs

MODES = ("bulk", "single", "concurrent", "fan-out", "long", "ner", "overhead")
CALLERS = 256
"""Items of the concurrent and fan-out modes."""
LANGCHAIN_POOL = min(32, (os.cpu_count() or 1) + 4)
"""Threads of LangChain's own pool, which is Python's default."""
WARM_UP = 64
"""Texts that each contestant answers before it is timed."""


@dataclass(frozen=True)
class Way:
    """A way of calling our model, or a raw loop beside it.

    Attributes:
        run: Answers all texts.
        answers: Answers that it gives.
        forwards: Counts the model's runs.
    """

    run: Callable[[], Any]
    answers: int
    forwards: Forwards


def bulk(
    found: Sequence[Contestant], missing: dict[str, str], texts: Sequence[str], rounds: int, *, title: str = "bulk"
) -> Table:
    """Answer all texts in one call."""
    answers: dict[str, list[Any]] = {}
    forwards: dict[str, int] = {}
    for one in found:
        one.many(sorted(texts, key=len)[:: max(1, len(texts) // WARM_UP)])

    def answer(one: Contestant) -> None:
        one.forwards.take()
        answers[one.name] = one.many(texts)
        forwards[one.name] = one.forwards.take()

    seconds = medians(in_turns({one.name: partial(answer, one) for one in found}, rounds))
    reference = next(answers[one.name] for one in found if one.raw and one.runtime == "torch")
    columns = (
        "texts/s",
        "× pipeline(batch_size=32)",
        "× best raw loop, same runtime",
        "forwards",
        "labels as torch fp32",
    )
    rows = {
        one.name: (
            len(texts) / seconds[one.name],
            seconds[PIPELINE] / seconds[one.name] if PIPELINE in seconds else None,
            _against_raw(found, seconds, one),
            forwards[one.name] or None,
            _agreement(answers[one.name], reference),
        )
        for one in found
    }
    notes = [f"{len(texts):,} texts.", *(f"Not run: {name}: {why}." for name, why in missing.items())]
    return Table(title, columns, rows, notes)


def single(found: Sequence[Contestant], texts: Sequence[str], rounds: int) -> Table:
    """Answer one text after another, each in a call of its own."""
    alone = [one for one in found if one.one is not None]
    latencies: dict[str, list[float]] = {one.name: [] for one in alone}

    def answer(one: Contestant, times: list[float]) -> None:
        assert one.one is not None
        for text in texts:
            started = time.perf_counter()
            one.one(text)
            times.append(time.perf_counter() - started)

    for one in alone:
        answer(one, [])
    in_turns({one.name: partial(answer, one, latencies[one.name]) for one in alone}, rounds)
    p50 = {name: percentile(times, 0.5) for name, times in latencies.items()}
    rows = {}
    for one in alone:
        raw = [p50[other.name] for other in alone if other.raw and other.runtime == one.runtime]
        rows[one.name] = (
            p50[one.name] * 1e3,
            percentile(latencies[one.name], 0.95) * 1e3,
            p50[one.name] / p50["pipeline(texts)"],
            p50[one.name] / min(raw) if raw else None,
        )
    columns = ("p50 ms", "p95 ms", "p50 × pipeline(text)", "p50 × raw, same runtime")
    return Table("single", columns, rows, [f"{len(texts):,} texts, one call each; a callback handler on ours."])


def concurrent(
    checkpoint: Checkpoint, found: Sequence[Contestant], texts: Sequence[str], device: str, rounds: int
) -> Table:
    """Call once per text, all at the same time: coroutines, and threads."""
    classifier = TextClassifier.from_checkpoint(checkpoint, device=device)
    config: RunnableConfig = {"callbacks": [Runs()]}

    async def gather() -> list[Any]:
        return await asyncio.gather(*(classifier.ainvoke(text, config) for text in texts))

    def threads(workers: int) -> list[Any]:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(lambda text: classifier.invoke(text, config), texts))

    forwards = counted(classifier)
    ways = {
        "batch": Way(lambda: classifier.batch(list(texts), config), len(texts), forwards),
        "gather of ainvoke": Way(lambda: asyncio.run(gather()), len(texts), forwards),
        f"invoke, {LANGCHAIN_POOL} threads": Way(lambda: threads(LANGCHAIN_POOL), len(texts), forwards),
        f"invoke, {len(texts)} threads": Way(lambda: threads(len(texts)), len(texts), forwards),
    }
    ways |= {
        f"{one.name}, gather": Way(partial(one.at_once, texts), len(texts), one.forwards)
        for one in found
        if one.at_once is not None
    }
    return _compared("concurrent", ways, classifier, found, texts, rounds)


def fan_out(
    checkpoint: Checkpoint, found: Sequence[Contestant], texts: Sequence[str], device: str, rounds: int
) -> Table:
    """Send a batch through LangChain's ways of fanning out, and through ours."""
    classifier = TextClassifier.from_checkpoint(checkpoint, device=device)
    config: RunnableConfig = {"callbacks": [Runs()]}
    forwards = counted(classifier)
    mappings = [{"text": text} for text in texts]
    middle = sorted(map(len, texts))[len(texts) // 2]

    def way(chain: Runnable[Any, Any], inputs: Sequence[Any], answers: int) -> Way:
        return Way(lambda: chain.batch(list(inputs), config), answers * len(texts), forwards)

    branch = RunnableBranch((RunnableLambda(lambda text: len(text) > middle), classifier), classifier)
    ways = {
        "RunnableParallel": way(RunnableParallel(a=classifier, b=classifier), texts, 2),
        "RunnablePassthrough.assign": way(RunnablePassthrough.assign(label=classifier), mappings, 1),
        "RunnableBranch": way(branch, texts, 1),
        "LabelRouter": way(classifier | LabelRouter(routes={}, default=classifier), texts, 2),
        "FanOut": way(FanOut(a=classifier, b=classifier), texts, 2),
        "FanOut.assign": way(FanOut.assign(label=classifier), mappings, 1),
    }
    return _compared("fan-out", ways, classifier, found, texts, rounds)


def _compared(
    title: str,
    ways: dict[str, Way],
    classifier: TextClassifier,
    found: Sequence[Contestant],
    texts: Sequence[str],
    rounds: int,
) -> Table:
    """Compare ways of calling our model with the raw loops of its runtime, by answers per second."""
    runtime = runtime_of(classifier._loaded().backend)
    loops = {
        one.name: Way(partial(one.many, texts), len(texts), one.forwards)
        for one in found
        if one.raw and one.runtime == runtime
    }
    every = {**loops, **ways}
    taken: dict[str, int] = {}

    def run(name: str) -> None:
        every[name].forwards.take()
        every[name].run()
        taken[name] = every[name].forwards.take()

    for name in every:
        run(name)
    seconds = medians(in_turns({name: partial(run, name) for name in every}, rounds))
    rate = {name: way.answers / seconds[name] for name, way in every.items()}
    best = max(rate[name] for name in loops) if loops else None
    rows = {
        name: (way.answers, rate[name], rate[name] / best if best else None, taken[name] or None)
        for name, way in every.items()
    }
    notes = [
        f"{len(texts):,} texts; an answer is one text through the model once.",
        f"LangChain's pool has {LANGCHAIN_POOL} threads.",
    ]
    return Table(title, ("answers", "answers/s", "× best raw loop, same runtime", "forwards"), rows, notes)


def long(
    checkpoint: Checkpoint,
    found: Sequence[Contestant],
    texts: Sequence[str],
    rounds: int,
    *,
    count: int,
    most: int,
) -> Table:
    """Answer texts of long-tailed lengths, in bulk."""
    from transformers import AutoTokenizer

    load: Any = AutoTokenizer
    tokenizer = load.from_pretrained(checkpoint.path)
    pieces = [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
    built = long_tailed(texts, pieces, count=count, most=most)
    whole = [one for one in found if one.raw or one.name.startswith("ours")]
    cut = [one for one in found if one.name == PIPELINE]
    table = bulk([*cut, *whole], {}, built, rounds, title="long-tailed lengths")
    table.notes.append(
        f"20 to {most:,} pieces, log-uniform. The pipeline cuts every text at the model's length and so does less; "
        "the others read it whole, in windows."
    )
    return table


def ner(checkpoint: Checkpoint, texts: Sequence[str], device: str, rounds: int) -> Table:
    """Tag all texts in one call."""
    with contestants(checkpoint, device) as (found, missing):
        table = bulk(found, missing, texts, rounds, title="ner")
    notes = [
        *table.notes,
        "Raw loops stop at the tags of the pieces. The pipeline's `simple` aggregation joins pieces and not words, so "
        "its entities are not compared.",
    ]
    return Table(table.title, table.columns[:-1], {name: row[:-1] for name, row in table.rows.items()}, notes)


class FreeBackend:
    """A backend whose forwards cost nothing: what is left is the host's work."""

    name, precision = "free", "float32"

    def __init__(self, labels: int) -> None:
        self._logits = np.random.default_rng(0).normal(size=(4096, labels)).astype(np.float32)
        self._features = np.zeros((4096, 384), dtype=np.float32)

    def forward(self, batch: Batch) -> Outputs:
        """Answer what was drawn beforehand."""
        rows = len(batch.input_ids)
        return Outputs(self._logits[:rows], self._features[:rows])


def overhead(checkpoint: Checkpoint, texts: Sequence[str], device: str, rounds: int) -> Table:
    """Measure what an item costs on the host besides the model, in CPU time."""
    classifier = TextClassifier.from_checkpoint(checkpoint, device=device)
    predictor = classifier._loaded()
    config: RunnableConfig = {"callbacks": [Runs()]}
    free: Backend = FreeBackend(len(checkpoint.labels))
    ways: dict[str, Callable[[], Any]] = {
        "tokenizer": lambda: predictor.encode(texts),
        "engine (tokenizer, padding, results)": lambda: predictor.predict(texts),
        "batch, no callback handler": lambda: classifier.batch(list(texts)),
        "batch, one callback handler": lambda: classifier.batch(list(texts), config),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}

    def run(name: str) -> None:
        started = time.process_time()
        ways[name]()
        spent[name].append((time.process_time() - started) / len(texts) * 1e6)

    with replaced(predictor, free):
        for name in ways:
            ways[name]()
        in_turns({name: partial(run, name) for name in ways}, max(5, rounds))
    each = medians(spent)
    rows: dict[str, tuple[float | int | None, ...]] = {name: (microseconds,) for name, microseconds in each.items()}
    rows["LangChain plus results (the last less the tokenizer)"] = (
        each["batch, one callback handler"] - each["tokenizer"],
    )
    note = f"{len(texts):,} texts, {len(checkpoint.labels)} labels, a backend of no cost; CPU time of all threads."
    return Table("overhead", ("µs an item",), rows, [note])


def _against_raw(found: Sequence[Contestant], seconds: dict[str, float], one: Contestant) -> float | None:
    loops = [seconds[other.name] for other in found if other.raw and other.runtime == one.runtime]
    return min(loops) / seconds[one.name] if loops else None


def _agreement(answers: Sequence[Any], reference: Sequence[Any]) -> float | None:
    """Say which share of the labels is the reference's; None for what is no label."""
    if not isinstance(reference[0], str):
        return None
    equal = [bool(answer == expected) for answer, expected in zip(answers, reference, strict=True)]
    return sum(equal) / len(equal)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the modes that are asked for, print their tables; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.inference", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("checkpoint", help="folder of a classifier")
    parser.add_argument("--texts", required=True, metavar="FILE", help="labelled file; its texts are classified")
    parser.add_argument("--tagger", metavar="CHECKPOINT", help="folder of a tagger, for the mode ner")
    parser.add_argument("--tagger-texts", metavar="FILE", help="labelled file; its texts are tagged")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts (default 3)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--texts-limit", type=int, default=1024, metavar="N", help="texts at most (default 1024)")
    parser.add_argument("--single-texts", type=int, default=100, metavar="N", help="texts of the mode single")
    parser.add_argument("--long-texts", type=int, default=32, metavar="N", help="texts of the mode long")
    parser.add_argument("--long-pieces", type=int, default=5000, metavar="N", help="length of the longest")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the tables to a .md or .json file too")
    arguments = parser.parse_args(argv)
    try:
        write(_tables(arguments), machine(arguments.device), arguments.output)
    except LCFinetuneError as error:
        print(f"benchmarks.inference: error: {error}", file=sys.stderr)
        return 2
    return 0


def _tables(arguments: argparse.Namespace) -> Iterator[Table]:
    import torch

    torch.set_num_threads(cores())
    modes, rounds, device = arguments.modes, arguments.rounds, arguments.device
    classifying = [mode for mode in modes if mode != "ner"]
    if classifying:
        checkpoint = Checkpoint.load(arguments.checkpoint)
        texts = read_texts(arguments.texts, arguments.texts_limit)
        with contestants(checkpoint, device) as (found, missing):
            few = texts[:CALLERS]
            run: dict[str, Callable[[], Table]] = {
                "bulk": lambda: bulk(found, missing, texts, rounds),
                "single": lambda: single(found, texts[: arguments.single_texts], rounds),
                "concurrent": lambda: concurrent(checkpoint, found, few, device, rounds),
                "fan-out": lambda: fan_out(checkpoint, found, few, device, rounds),
                "long": lambda: long(
                    checkpoint, found, texts, rounds, count=arguments.long_texts, most=arguments.long_pieces
                ),
                "overhead": lambda: overhead(checkpoint, texts, device, rounds),
            }
            for mode in classifying:
                _say(mode)
                yield run[mode]()
    if "ner" in modes and arguments.tagger:
        if not arguments.tagger_texts:
            raise ConfigError("Expected texts for the tagger, found none. Name a labelled file with --tagger-texts.")
        _say("ner")
        tagger, lines = Checkpoint.load(arguments.tagger), read_texts(arguments.tagger_texts, arguments.texts_limit)
        yield ner(tagger, lines, device, rounds)


def _say(mode: str) -> None:
    print(f"measuring {mode} …", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
