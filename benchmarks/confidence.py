"""How true are the scores of a checkpoint, and what does it accept?

    python -m benchmarks.confidence CHECKPOINT... --texts FILE

Answers the labelled rows of a file as the checkpoint serves them, with and without its calibration, and prints figures
for each checkpoint, for the answers of all together, and the means of the checkpoints' figures. A classifier is judged
by its texts, a tagger by the entities that it finds, a multi-label classifier by pairs of a text and a label.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Table, machine, write
from lc_finetune.checkpoint import Checkpoint
from lc_finetune.confidence import Reliability, ScoreMap
from lc_finetune.data import ReadOptions, gold_of, read_examples, read_label_names
from lc_finetune.errors import LCFinetuneError
from lc_finetune.inference.acceptance import DEFAULT, Aim, BoolArray
from lc_finetune.inference.backends import BackendName, Dtype
from lc_finetune.inference.calibrate import Outcome, RawPredictor, answer, evidence_of, figures
from lc_finetune.inference.predictor import Predictor
from lc_finetune.schemas import Tagging


@dataclass(frozen=True)
class Judged:
    """The answers of one or more checkpoints.

    Attributes:
        before: With the model's own scores, shape `(answers,)`, or `(texts, labels)` where labels are independent.
        after: With the calibrated scores, likewise.
        right: What was right, likewise.
        sound: Whether what `accepted` speaks of is right: an answer, or all labels given to a text; shape `(answers,)`.
        accepted: Shape `(answers,)`.
        held: Whether each text's `prediction_set` holds the right label, shape `(texts,)`; empty if none was asked for.
        sizes: Labels in each, likewise.
    """

    before: Outcome
    after: Outcome
    right: BoolArray
    sound: BoolArray
    accepted: BoolArray
    held: BoolArray
    sizes: NDArray[np.intp]

    @classmethod
    def pooled(cls, several: Sequence[Judged]) -> Judged:
        """Put the answers of several checkpoints together."""

        def joined(outcomes: Sequence[Outcome]) -> Outcome:
            return Outcome(*(np.concatenate(columns) for columns in zip(*outcomes, strict=True)))

        return cls(
            joined([one.before for one in several]),
            joined([one.after for one in several]),
            np.concatenate([one.right for one in several]),
            np.concatenate([one.sound for one in several]),
            np.concatenate([one.accepted for one in several]),
            np.concatenate([one.held for one in several]),
            np.concatenate([one.sizes for one in several]),
        )

    @property
    def reliabilities(self) -> tuple[Reliability, Reliability]:
        """The figures of the model's own scores and of the calibrated ones."""
        return figures(self.before, self.right), figures(self.after, self.right)


def judge(predictor: Predictor, texts: Sequence[str], gold: Any, coverage: float | None = None) -> Judged:
    """Answer labelled texts with and without the calibration, and with sets of a coverage if one is given.

    Raises:
        LCFinetuneError: If a text cannot be answered, a label is not the model's, or there are no sets.
    """
    names, nothing = predictor.checkpoint.labels.names, ScoreMap()
    served = answer(predictor, texts)
    raw = evidence_of(answer(RawPredictor(predictor), texts), gold, names)
    calibrated = evidence_of(served, gold, names)
    flags = [e.accepted for one in served for e in (one.entities if isinstance(one, Tagging) else [one])]
    sound = calibrated.verdicts(nothing, Aim.parse(DEFAULT)).right
    accepted = np.array([flag is True for flag in flags])
    sets: list[tuple[str, ...]] = []
    if coverage is not None:
        sets = [one.prediction_set for one in predictor.predict(texts, predictor.with_set(coverage))]
    held = np.array([label in its for label, its in zip(gold, sets, strict=False)], dtype=bool)
    sizes = np.array([len(its) for its in sets], dtype=np.intp)
    return Judged(raw.under(nothing), calibrated.under(nothing), calibrated.right, sound, accepted, held, sizes)


def table(judged: dict[str, Judged]) -> Table:
    """Set the figures of each checkpoint, of all answers together, and their means in rows."""
    rows = {name: _row(one) for name, one in judged.items()}
    if len(judged) > 1:
        rows["pooled"] = _row(Judged.pooled(list(judged.values())))
        each = [rows[name] for name in judged]
        rows["mean"] = tuple(
            None if None in column else float(np.mean([value for value in column if value is not None]))
            for column in zip(*each, strict=True)
        )
    return Table("confidence", _COLUMNS, rows, _NOTES)


_COLUMNS = (
    "answers", "right %", "ECE % before", "ECE % after", "perfect, mean %", "perfect, 95th %", "Brier before",
    "Brier after", "log loss before", "log loss after", "accepted %", "right of them %",
    "right label in set %", "labels a set",
)  # fmt: skip
_NOTES = [
    "ECE: 15 equal-mass bins. perfect: the ECE that perfectly calibrated scores like these show at this size.",
    "With several labels a text, answers are pairs of a text and a label that have a score of at least 0.1; Brier "
    "score and log loss are means over all pairs. Accepted are a text's labels together, right if each of them is.",
]


def _row(one: Judged) -> tuple[float | None, ...]:
    before, after = one.reliabilities
    accepted = float(one.accepted.mean())
    precision = float(one.sound[one.accepted].mean()) if one.accepted.any() else None
    return (
        after.count, 100 * after.accuracy, 100 * before.ece, 100 * after.ece, 100 * after.ece_perfect[0],
        100 * after.ece_perfect[1], before.brier, after.brier, before.log_loss, after.log_loss, 100 * accepted,
        None if precision is None else 100 * precision, 100 * float(one.held.mean()) if len(one.held) else None,
        float(one.sizes.mean()) if len(one.sizes) else None,
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print the table; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.confidence", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="folders of one task")
    parser.add_argument("--texts", required=True, metavar="FILE", help="labelled rows that no checkpoint has seen")
    parser.add_argument("--text-column", metavar="NAME", help="recognised by its name if left out")
    parser.add_argument("--label-column", metavar="NAME", help="likewise")
    parser.add_argument("--label-names", metavar="A,B,…", help="names of integer labels, or a file of them")
    parser.add_argument("--label-delimiter", metavar="TEXT", help="what stands between the labels of a cell")
    parser.add_argument(
        "--coverage", type=float, metavar="SHARE", help="judge prediction sets of this coverage too (one label a text)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps (default cpu)")
    parser.add_argument("--backend", default="auto", help="as of from_checkpoint (default auto)")
    parser.add_argument("--dtype", default="auto", help="as of from_checkpoint (default auto)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table to a .md or .json file too")
    arguments = parser.parse_args(argv)
    backend: BackendName = arguments.backend
    dtype: Dtype = arguments.dtype
    try:
        checkpoints = {path: Checkpoint.load(path) for path in arguments.checkpoints}
        names = read_label_names(arguments.label_names) if arguments.label_names else ()
        options = ReadOptions(
            arguments.text_column, arguments.label_column, names, task=next(iter(checkpoints.values())).task,
            label_delimiter=arguments.label_delimiter,
        )  # fmt: skip
        examples = read_examples(arguments.texts, options).examples
        judged: dict[str, Judged] = {}
        for path, checkpoint in checkpoints.items():
            predictor = Predictor.load(checkpoint, device=arguments.device, backend=backend, dtype=dtype)
            judged[Path(path).name] = judge(
                predictor, [one.text for one in examples], gold_of(examples), arguments.coverage
            )
    except LCFinetuneError as error:
        print(f"benchmarks.confidence: error: {error}", file=sys.stderr)
        return 2
    write([table(judged)], machine(arguments.device), arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
