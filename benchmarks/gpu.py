"""Inference on an accelerator with a random model of BERT-base's shape, in bf16, beside what it is meant to reach.

    python -m benchmarks.gpu

Speed does not depend on what the weights are. Lengths are drawn as those of Banking77 are: 15 pieces on average, most
of them between 8 and 25.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.runnables import RunnableConfig

from benchmarks.contestants import PIPELINE, ROWS, Runs
from benchmarks.measure import Table, in_turns, machine, medians, percentile, write
from benchmarks.texts import SEED
from benchmarks.tune import cut, run, window_lengths
from lc_finetune import TextClassifier
from lc_finetune.checkpoint import Checkpoint, Manifest, staged_folder, write_manifest
from lc_finetune.errors import ConfigError
from lc_finetune.inference.backends import Batch
from lc_finetune.inference.predictor import Predictor
from lc_finetune.testing import tiny_tokenizer

LABELS = 77
WORDS = ("card", "cash", "my", "the", "and", "to", "was", "for", "me", "on")
"""Words that the tokenizer keeps in one piece."""
PIECES = 128
"""Length at which the share of the matrix peak is measured."""
LOOP = f"SDPA loop, sorted, batches of {ROWS}"
ALONE, BATCH = "ours, forward alone", "ours, batch"
FULL = f"forward at {PIECES} pieces"


@dataclass(frozen=True)
class Shape:
    """The size of an encoder."""

    layers: int
    hidden: int
    heads: int
    intermediate: int

    def flops(self, rows: int, pieces: int) -> float:
        """Count the operations of the encoder's matrix products, two for each multiplication with its addition."""
        weights = self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.intermediate)
        attention = self.layers * 2 * pieces * self.hidden
        return 2.0 * rows * pieces * (weights + attention)


BERT_BASE = Shape(layers=12, hidden=768, heads=12, intermediate=3072)
TINY = Shape(layers=2, hidden=32, heads=2, intermediate=64)


def random_checkpoint(folder: Path, shape: Shape) -> Checkpoint:
    """Write a classifier of the given shape with random weights."""
    import torch
    from transformers import AutoModelForSequenceClassification, BertConfig

    tokenizer = tiny_tokenizer("wordpiece", max_length=512)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.intermediate,
        pad_token_id=tokenizer.pad_token_id,
        id2label={i: f"label_{i}" for i in range(LABELS)},
        label2id={f"label_{i}": i for i in range(LABELS)},
    )
    load: Any = AutoModelForSequenceClassification
    with staged_folder(folder) as staging:
        torch.manual_seed(SEED)
        load.from_config(config).save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        write_manifest(staging, Manifest(task="text-classification", max_length=512, stride=128))
    return Checkpoint.load(folder)


def texts_like_banking(count: int) -> list[str]:
    """Draw texts with log-normal lengths: 15 pieces on average, two of them special, 80 at most."""
    chance = random.Random(SEED)
    lengths = [min(78, max(3, round(chance.lognormvariate(2.48, 0.42)))) for _ in range(count)]
    return [" ".join(chance.choices(WORDS, k=length)) for length in lengths]


def matrix_peak(device: str, size: int, rounds: int) -> float:
    """Measure the device's rate in bf16 matrix products of `size` × `size`, in operations per second."""
    import torch

    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = _seconds(lambda: left @ right, device, rounds, repeats=10)
    return 2.0 * size**3 / seconds


def _seconds(call: Callable[[], Any], device: str, rounds: int, *, repeats: int) -> float:
    """Time one of `repeats` calls, the fastest of the rounds, with the device's queue drained."""
    import torch

    def drained() -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        return time.perf_counter()

    call()
    best = float("inf")
    for _ in range(rounds):
        started = drained()
        for _ in range(repeats):
            call()
        best = min(best, (drained() - started) / repeats)
    return best


def peak_share(predictor: Predictor, shape: Shape, device: str, size: int, rounds: int) -> Table:
    """Compare a full forward at 128 pieces with what the matrix unit can do."""
    rows = max(1, predictor.token_budget // PIECES)
    batch = Batch(np.ones((rows, PIECES), dtype=np.int64), np.ones((rows, PIECES), dtype=np.int64))
    rate = shape.flops(rows, PIECES) / _seconds(lambda: predictor.backend.forward(batch), device, rounds, repeats=3)
    peak = matrix_peak(device, size, rounds)
    return Table(
        f"share of the bf16 matrix peak at {PIECES} pieces",
        ("TFLOP/s", "share of the peak"),
        {
            f"matrix products of {size} × {size}": (peak / 1e12, 1.0),
            FULL: (rate / 1e12, rate / peak),
        },
        [f"{rows} rows. Operations of the encoder's matrix products alone are counted."],
    )


def bulk(checkpoint: Checkpoint, texts: Sequence[str], device: str, rounds: int) -> Table:
    """Compare the forward alone and `batch` with the pipeline and a sorted loop, all in bf16."""
    import torch
    from transformers import AutoModelForSequenceClassification, pipeline

    classifier = TextClassifier.from_checkpoint(checkpoint, device=device, dtype="bfloat16", backend="torch")
    predictor = classifier._loaded()
    lengths = window_lengths(predictor, texts)
    load: Any = AutoModelForSequenceClassification
    model = load.from_pretrained(checkpoint.path, dtype=torch.bfloat16, attn_implementation="sdpa").to(device).eval()
    make: Any = pipeline
    pipe = make("text-classification", model=str(checkpoint.path), device=device, dtype=torch.bfloat16)
    ordered = sorted(lengths, reverse=True)
    config: RunnableConfig = {"callbacks": [Runs()]}

    def loop(rows: int) -> None:
        with torch.inference_mode():
            for start in range(0, len(ordered), rows):
                batch = ordered[start : start + rows]
                mask = (np.arange(batch[0]) < np.asarray(batch)[:, None]).astype(np.int64)
                inputs = torch.ones(mask.shape, dtype=torch.int64).to(device), torch.from_numpy(mask).to(device)
                model(input_ids=inputs[0], attention_mask=inputs[1]).logits.float().cpu()

    ways: dict[str, Callable[[], Any]] = {
        PIPELINE: lambda: pipe(list(texts), batch_size=ROWS),
        LOOP: partial(loop, ROWS),
        "SDPA loop, sorted, batches of 256": partial(loop, 256),
        ALONE: partial(run, predictor, cut(lengths, predictor.token_budget)),
        BATCH: lambda: classifier.batch(list(texts), config),
    }
    for way in ways.values():
        way()
    seconds = medians(in_turns(ways, rounds))
    rows = {
        name: (len(texts) / seconds[name], seconds[PIPELINE] / seconds[name], seconds[LOOP] / seconds[name])
        for name in ways
    }
    notes = [
        f"{len(texts):,} texts, {sum(lengths) / len(lengths):.1f} pieces on average. The loops and the forward alone "
        "start from lengths, without a tokenizer; the pipeline and `batch` start from texts."
    ]
    return Table("bulk in bf16", ("texts/s", "× pipeline(batch_size=32)", "× SDPA loop of 32"), rows, notes)


def single(checkpoint: Checkpoint, texts: Sequence[str], device: str, rounds: int) -> Table:
    """Time one text after another: the pipeline, a forward of ours, and `invoke`."""
    import torch
    from transformers import pipeline

    classifier = TextClassifier.from_checkpoint(checkpoint, device=device, dtype="bfloat16", backend="torch")
    predictor = classifier._loaded()
    lengths = window_lengths(predictor, texts)
    make: Any = pipeline
    pipe = make("text-classification", model=str(checkpoint.path), device=device, dtype=torch.bfloat16)
    ways: dict[str, Callable[[int], Any]] = {
        "pipeline(text)": lambda i: pipe(texts[i]),
        ALONE: lambda i: run(predictor, [[lengths[i]]]),
        "ours, invoke": lambda i: classifier.invoke(texts[i]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for timed in (False, *[True] * rounds):  # the first round loads kernels and records graphs
        for name, way in ways.items():
            for i in range(len(texts)):
                started = time.perf_counter()
                way(i)
                if timed:
                    seconds[name].append(1000 * (time.perf_counter() - started))
    rows = {name: (percentile(taken, 0.5), percentile(taken, 0.95)) for name, taken in seconds.items()}
    return Table("one text in bf16", ("p50, ms", "p95, ms"), rows, [f"{len(texts):,} texts."])


def goals(bulk: Table, peak: Table) -> Table:
    """Put the figures beside what they are meant to be."""
    (_, alone_pipeline, alone_loop), (_, batch_pipeline, _) = bulk.rows[ALONE], bulk.rows[BATCH]
    rows = {
        f"{ALONE} ÷ {PIPELINE}": (alone_pipeline, 20.0),
        f"{ALONE} ÷ {LOOP}": (alone_loop, 1.5),
        f"{BATCH} ÷ {PIPELINE}": (batch_pipeline, 5.0),
        f"{FULL}, share of the bf16 matrix peak": (peak.rows[FULL][1], 0.45),
    }
    return Table("goals", ("measured", "at least"), rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the tables; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try the script (default cuda)")
    parser.add_argument("--tiny", action="store_true", help="a tiny model instead of BERT-base, to try the script")
    parser.add_argument("--texts", type=int, default=4096, metavar="N", help="number of texts (default 4096)")
    parser.add_argument("--single-texts", type=int, default=64, metavar="N", help="texts one by one (default 64)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the median counts (default 5)")
    parser.add_argument("--matrix", type=int, default=8192, metavar="N", help="size for the matrix peak (default 8192)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the tables to a .md or .json file too")
    arguments = parser.parse_args(argv)
    shape = TINY if arguments.tiny else BERT_BASE
    try:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = random_checkpoint(Path(folder) / "random", shape)
            texts = texts_like_banking(arguments.texts)
            many = bulk(checkpoint, texts, arguments.device, arguments.rounds)
            one = single(checkpoint, texts[: arguments.single_texts], arguments.device, arguments.rounds)
            predictor = Predictor.load(checkpoint, device=arguments.device, dtype="bfloat16", backend="torch")
            peak = peak_share(predictor, shape, arguments.device, arguments.matrix, arguments.rounds)
    except ConfigError as error:
        print(f"benchmarks.gpu: error: {error}", file=sys.stderr)
        return 2
    write([many, one, peak, goals(many, peak)], machine(arguments.device), arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
