"""A checkpoint and labelled texts → its answers, through the path that serves, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lc_finetune.checkpoint import Task
from lc_finetune.confidence import Calibration
from lc_finetune.data import Example, inputs_of
from lc_finetune.evaluation.judging import Answer, judge, mistaken_rows
from lc_finetune.evaluation.noise import likely_label_errors
from lc_finetune.inference import Predictor
from lc_finetune.inference.calibrate import answer


@dataclass(frozen=True)
class Evaluation:
    """A checkpoint's answers to labelled texts.

    Attributes:
        task: Of the checkpoint.
        source: Where the texts come from: `test`, or the name of a file.
        examples: The texts, in order.
        results: As many.
        lengths: Pieces of each text or pair, special ones included.
        room: Pieces of one window, likewise.
        calibration: What the scores went through.
    """

    task: Task
    source: str
    examples: Sequence[Example]
    results: Sequence[Any]
    lengths: Sequence[int]
    room: int
    calibration: Calibration | None

    @cached_property
    def answers(self) -> list[Answer]:
        """What was found in place of what was wanted."""
        return judge(self.examples, self.results)

    @cached_property
    def wrong(self) -> set[int]:
        """The texts with a mistake, by index."""
        return mistaken_rows(self.answers)

    @cached_property
    def suspects(self) -> list[Answer]:
        """Mistakes that are more likely the label's."""
        return likely_label_errors(self.answers, self.examples, self.results)


def evaluate(predictor: Predictor, examples: Sequence[Example], *, source: str) -> Evaluation:
    """Answer labelled texts as the checkpoint is served.

    Args:
        predictor: A loaded checkpoint.
        examples: Labelled texts for its task.
        source: What they are called.

    Raises:
        LCFinetuneError: If a text cannot be read or answered.
    """
    inputs = inputs_of(examples)
    results = answer(predictor, inputs)
    encodings = [one for one in predictor.encode(inputs) if not isinstance(one, Exception)]
    frames = [one.frames[0] if one.frames else predictor.frame for one in encodings]
    lengths = [
        len(frame.before) + len(one.ids) + len(frame.after) for one, frame in zip(encodings, frames, strict=True)
    ]
    task, room = predictor.checkpoint.task, predictor.max_length
    return Evaluation(task, source, examples, results, lengths, room, predictor.calibration)
