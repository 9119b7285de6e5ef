"""How near generated texts are to those that were wanted, by libraries that keep to the published definitions."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from lc_finetune.errors import MissingDependencyError

PACKAGES = {"sacrebleu": "sacrebleu", "rouge_score": "rouge-score"}
"""Module → package."""
LEAST_READ = 0.9
"""Share of the letters and digits of the targets that must be ASCII for ROUGE, which drops all others."""


def check_metrics_installed() -> None:
    """Refuse to train without the packages that measure it, before any work.

    Raises:
        MissingDependencyError: Naming the command that installs them.
    """
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise MissingDependencyError(
            f"task: expected the packages that measure generated text, found none of {', '.join(missing)}. "
            "Run `pip install 'lc-finetune[generation]'`."
        )


def text_metrics(written: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """Compare texts with their targets, one each.

    Returns:
        `chrf`: chrF of the whole, from 0 to 100 (Popović 2015, "chrF: character n-gram F-score for automatic MT
        evaluation"), as sacrebleu has it. `rouge_l`: mean F1 of ROUGE-L, from 0 to 1, without stemming (Lin 2004,
        "ROUGE: A Package for Automatic Evaluation of Summaries"), as rouge-score has it; not there where `rouge_reads`
        says that it would miss much of the text.
    """
    from sacrebleu.metrics import CHRF

    figures = {"chrf": float(CHRF().corpus_score(list(written), [list(targets)]).score)}
    if rouge_reads(targets):
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(["rougeL"])
        scores = [scorer.score(target, one)["rougeL"].fmeasure for one, target in zip(written, targets, strict=True)]
        figures["rouge_l"] = float(sum(scores) / len(scores))
    return figures


def rouge_reads(targets: Sequence[str]) -> bool:
    """Say whether ROUGE's tokenizer, which keeps a to z and 0 to 9 alone, sees most of the targets."""
    letters = [character for target in targets for character in target if character.isalnum()]
    return bool(letters) and sum(map(str.isascii, letters)) >= LEAST_READ * len(letters)
