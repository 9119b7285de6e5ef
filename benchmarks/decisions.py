"""The decision model beside the classifier it asks, on the same texts in one run.

    python -m benchmarks.decisions CHECKPOINT --texts FILE

Both take turns round by round and medians are compared. Needs langchain-core 1.8: see `make test-decisions`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from langchain_core.decisions import Choice, Question, Score

from benchmarks.contestants import counted
from benchmarks.measure import Table, in_turns, machine, medians, write
from benchmarks.texts import read_texts
from lc_finetune import TextClassifier
from lc_finetune.decisions import AnsweredBy, FineTunedDecisionModel
from lc_finetune.errors import LCFinetuneError

CLASSIFIER = "classifier.batch"
ITEMS = 256
"""Decisions in one batch."""


def decisions(classifier: TextClassifier, texts: Sequence[str], rounds: int) -> Table:
    """Ask the same of a batch of texts: the classifier, one question, and three questions over the one model."""
    labels = classifier.labels
    mapped = {"group": AnsweredBy(classifier="label"), "level": AnsweredBy(classifier="label")}
    model = FineTunedDecisionModel(classifiers={"label": classifier}, questions=mapped)
    one: dict[str, Question] = {"label": Choice(instructions="Which?", criteria=dict.fromkeys(labels))}
    three: dict[str, Question] = {
        **one,
        "group": Choice(instructions="Which of a few?", criteria=dict.fromkeys(labels[:3])),
        "level": Score(instructions="How much?", criteria=list(labels[:3])),
    }
    ways: dict[str, Callable[[], Any]] = {
        CLASSIFIER: lambda: classifier.batch(list(texts)),
        "decisions.batch": lambda: model.batch([{"state": text, "questions": one} for text in texts]),
        "decisions.batch, 3 questions": lambda: model.batch([{"state": text, "questions": three} for text in texts]),
    }
    runs = counted(classifier)
    forwards = {}
    for name, run in ways.items():  # warms up, too
        runs.take()
        run()
        forwards[name] = runs.take()
    seconds = medians(in_turns(ways, rounds))
    rows = {name: (len(texts) / seconds[name], seconds[CLASSIFIER] / seconds[name], forwards[name]) for name in ways}
    notes = [f"{len(texts):,} texts in one batch, {len(labels)} labels, {rounds} rounds."]
    return Table("decisions", ("texts/s", f"× {CLASSIFIER}", "forwards"), rows, notes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the table; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        classifier = TextClassifier.from_checkpoint(options.checkpoint, device=options.device)
        texts = read_texts(options.texts, options.items)
    except LCFinetuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write([decisions(classifier, texts, options.rounds)], machine(options.device), options.output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decisions", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("checkpoint", help="folder of a text classifier")
    parser.add_argument("--texts", required=True, help="labelled file")
    parser.add_argument("--items", type=int, default=ITEMS, help=f"texts in one batch ({ITEMS})")
    parser.add_argument("--device", default="cpu", help="'cpu', 'cuda', …")
    parser.add_argument("--rounds", type=int, default=15, help="rounds in turns (15)")
    parser.add_argument("--output", type=Path, help="a .md or .json file to write as well")
    return parser


if __name__ == "__main__":
    sys.exit(main())
