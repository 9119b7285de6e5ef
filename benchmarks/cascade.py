"""What a large model behind a small one costs, and what it is worth.

    python -m benchmarks.cascade CHECKPOINT --texts FILE [--right 0.97]

The checkpoint answers every text of a labelled file. Then `Cascade` asks a simulated large model, which is right so
often and no more, about a growing share of them, the lowest scores first. The table is the curve: share asked again,
and accuracy.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.measure import Table, write
from lc_finetune import Cascade, Classification, TextClassifier
from lc_finetune.data import TextExample, read_examples
from lc_finetune.errors import ConfigError, LCFinetuneError

SHARES = (0.0, 0.01, 0.02, 0.05, 0.075, 0.10, 0.15, 0.20, 0.30, 0.50, 1.0)


def simulated(
    examples: Sequence[TextExample], labels: Sequence[str], *, right: float, seed: int
) -> Callable[[str], str]:
    """Make a large model that gives the right label with a probability, and any other of them otherwise.

    Its answer depends on the text and the seed alone, so that it errs on the same texts at every share.

    Args:
        examples: The texts it may be asked about, with their labels.
        labels: What it may answer; at least two.
        right: Its accuracy, from 0 to 1.
        seed: Chooses where it errs.
    """
    gold = {example.text: example.label for example in examples}

    def answer(text: str) -> str:
        chance = random.Random(f"{seed} {text}")
        if chance.random() < right:
            return gold[text]
        return chance.choice([label for label in labels if label != gold[text]])

    return answer


def curve(
    examples: Sequence[TextExample],
    results: Mapping[str, Classification],
    large: Callable[[str], str],
    *,
    labels: Sequence[str],
    shares: Sequence[float],
) -> dict[str, tuple[float | int | None, ...]]:
    """Run the cascade once for each share; returns one row of figures for each.

    Args:
        examples: What is asked.
        results: The small model's result of each text.
        large: Answers a text with a label.
        labels: What it may answer.
        shares: Most that may be asked again, each from 0 to 1.
    """
    rows: dict[str, tuple[float | int | None, ...]] = {}
    small_right = _right(examples, [results[example.text] for example in examples])
    for share in shares:
        # Uncalibrated, with every score too low: the budget alone decides, and takes the lowest scores first.
        cascade = Cascade(small=results.__getitem__, large=large, labels=labels, threshold=1.0, max_share=share)
        answers = cascade.batch([example.text for example in examples])
        asked = sum(answer.source == "llm" for answer in answers)
        right = _right(examples, answers)
        rows[f"{share:.1%}"] = (
            asked,
            1000 * asked / len(examples),
            100 * right / len(examples),
            100 * (right - small_right) / len(examples),
        )
    return rows


def _right(examples: Sequence[TextExample], answers: Sequence[Classification]) -> int:
    return sum(example.label == answer.label for example, answer in zip(examples, answers, strict=True))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the table; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cascade", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("checkpoint", help="folder of a classifier")
    parser.add_argument("--texts", required=True, metavar="FILE", help="labelled file that training did not see")
    parser.add_argument("--right", type=float, default=0.97, help="accuracy of the large model (default 0.97)")
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES), metavar="SHARE", help="from 0 to 1")
    parser.add_argument("--seed", type=int, default=0, help="where the large model errs (default 0)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps (default cpu)")
    parser.add_argument("--backend", default="auto", help="as of from_checkpoint (default auto)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table to a .md or .json file too")
    arguments = parser.parse_args(argv)
    try:
        classifier = TextClassifier.from_checkpoint(
            arguments.checkpoint, device=arguments.device, backend=arguments.backend
        )
        examples = [one for one in read_examples(arguments.texts).examples if isinstance(one, TextExample)]
        unknown = {one.label for one in examples} - set(classifier.labels)
        if unknown or not examples:
            found = f"{len(unknown)} labels that it lacks" if unknown else "no labelled texts"
            raise ConfigError(f"Expected texts with the labels of the checkpoint, found {found}. Give its test file.")
        texts = [example.text for example in examples]
        results = {
            text: result.model_copy(update={"accepted": None})
            for text, result in zip(texts, classifier.batch(texts), strict=True)
        }
        large = simulated(examples, classifier.labels, right=arguments.right, seed=arguments.seed)
        rows = curve(examples, results, large, labels=classifier.labels, shares=arguments.shares)
    except LCFinetuneError as error:
        print(f"benchmarks.cascade: error: {error}", file=sys.stderr)
        return 2
    columns = ("asked again", "calls per 1,000 texts", "accuracy %", "points gained")
    notes = [
        f"A simulated large model, right {arguments.right:.0%} of the time, seed {arguments.seed}.",
        "The lowest scores are asked again first.",
    ]
    header = [f"{len(examples):,} texts.", f"Checkpoint on {arguments.device}."]
    write([Table("accuracy by share asked again", columns, rows, notes)], header, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
