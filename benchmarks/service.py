"""What does the customer service add to its two models?

    python -m benchmarks.service CLASSIFIER TAGGER [--texts FILE] [--messages 10000] [--rounds 3]

Reads conversations, merges patterns and decides, with and without the routing that follows, beside `classifier.batch`
followed by `tagger.batch` on the same texts, in turns. Every message is routed to a person who says one word, so that
no answer is in the figures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from langchain_core.runnables import RunnableSequence

from benchmarks.measure import Table, in_turns, machine, medians, write
from benchmarks.texts import read_texts
from chains.customer_service import Each, build_chain
from lc_finetune import EntityTagger, TextClassifier
from lc_finetune.data import sample_file
from lc_finetune.errors import LCFinetuneError


def added_time(classifier: TextClassifier, tagger: EntityTagger, texts: Sequence[str], rounds: int) -> Table:
    """Time one batch of all texts, through the chain and through the models alone."""
    chain: Any = build_chain(classifier, tagger, templates={}, faq_labels=(), person=Each(function=lambda _: "Hello."))
    to_routing: Any = RunnableSequence(*chain.bound.steps[:-1])  # the router is the last step

    def models() -> None:
        classifier.batch(list(texts))
        tagger.batch(list(texts))

    ways = {
        "classifier.batch, tagger.batch": models,
        "chain.batch, up to the routing": lambda: to_routing.batch(list(texts)),
        "chain.batch": lambda: chain.batch(list(texts)),
    }
    seconds = medians(in_turns(ways, rounds))
    alone = seconds["classifier.batch, tagger.batch"]
    return Table(
        f"{len(texts):,} messages",
        ("messages a second", "of the models' rate"),
        {name: (len(texts) / taken, alone / taken) for name, taken in seconds.items()},
        [f"Median of {rounds} rounds."],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What the customer service adds to its two models.")
    parser.add_argument("classifier", help="checkpoint of a text classifier")
    parser.add_argument("tagger", help="checkpoint of a tagger")
    parser.add_argument("--texts", default=str(sample_file("support", "test")), help="labelled texts, repeated")
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="write the figures as .md or .json, too")
    given = parser.parse_args(arguments)
    try:
        classifier = TextClassifier.from_checkpoint(given.classifier, device=given.device)
        tagger = EntityTagger.from_checkpoint(given.tagger, device=given.device)
        texts = list(islice(cycle(read_texts(given.texts, given.messages)), given.messages))
    except LCFinetuneError as error:
        print(f"benchmarks.service: error: {error}", file=sys.stderr)
        return 2
    write([added_time(classifier, tagger, texts, given.rounds)], machine(given.device), given.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
