"""A checkpoint and labelled texts → its answers, through the path that serves, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

from lc_finetune.checkpoint import JOINT, Task
from lc_finetune.confidence import Calibration
from lc_finetune.data import Example, IntentExample, inputs_of
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
    def parts(self) -> tuple[Evaluation, ...]:
        """What each of two heads answered, as that of a classifier and that of a tagger; itself where there is one."""
        if self.task != JOINT:
            return (self,)
        rows = cast("Sequence[IntentExample]", self.examples)
        labels = replace(
            self, task="text-classification", examples=[example.classified for example in rows],
            results=[result.classification for result in self.results],
        )  # fmt: skip
        entities = replace(
            self, task="token-classification", examples=[example.tagged for example in rows],
            results=[result.tagging for result in self.results],
            calibration=_of_entities(self.calibration) if self.calibration else None,
        )  # fmt: skip
        return labels, entities

    @cached_property
    def answers(self) -> list[Answer]:
        """What was found in place of what was wanted."""
        return [answer for part in self.parts for answer in judge(part.examples, part.results)]

    @cached_property
    def wrong(self) -> set[int]:
        """The texts with a mistake, by index."""
        return mistaken_rows(self.answers)

    @cached_property
    def suspects(self) -> list[Answer]:
        """Mistakes that are more likely the label's."""
        return [one for part in self.parts for one in likely_label_errors(part.answers, part.examples, part.results)]


def _of_entities(calibration: Calibration) -> Calibration | None:
    """Take what is recorded of a second head for a calibration of its own."""
    if calibration.entities is None:
        return None
    return calibration.model_copy(update={**dict(calibration.entities), "entities": None, "sets": None})


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
