"""A checkpoint that goes on learning from new rows: its labels keep their columns, and what it knew is measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lc_finetune.checkpoint import Checkpoint, ContinuedRecord
from lc_finetune.data import Example
from lc_finetune.errors import ConfigError, shown
from lc_finetune.evaluation import Evaluation, evaluate
from lc_finetune.inference import Predictor
from lc_finetune.remote import is_url, safe
from lc_finetune.train import recipe
from lc_finetune.train.base_model import BaseModel, lineage_of
from lc_finetune.train.metrics import Figures
from lc_finetune.train.replay import Replay, read_replay
from lc_finetune.train.tasks import TASKS, TrainingTask

if TYPE_CHECKING:
    from lc_finetune.train.config import TrainConfig


@dataclass(frozen=True)
class Continued:
    """What a run goes on from.

    Attributes:
        name: Of the earlier checkpoint.
        checkpoint: The earlier checkpoint.
        replay: The rows that it keeps, and that the new ones do not hold.
        distillation: Weight of staying near its answers; 0 for none.
        test: Rows to measure what is forgotten.
    """

    name: str
    checkpoint: Checkpoint
    replay: Replay
    distillation: float
    test: tuple[Example, ...] = ()

    @property
    def base(self) -> BaseModel:
        """The earlier checkpoint as a base model."""
        return BaseModel(self.checkpoint.path, self.name, lineage=lineage_of(self.checkpoint.path, self.name))

    def record(self, task: TrainingTask) -> ContinuedRecord:
        """Say what was done, for the manifest."""
        known = TASKS[self.checkpoint.task].answers_of(self.checkpoint.labels)
        return ContinuedRecord(
            new_labels=tuple(name for name in task.answers if name not in known),
            replayed=len(self.replay.train),
            distillation=self.distillation,
        )


def go_on(config: TrainConfig) -> tuple[TrainConfig, Continued | None]:
    """Read the checkpoint that a run goes on from, and take over what it decides.

    Raises:
        CheckpointError: If there is no such checkpoint.
        ConfigError: If it is for another task, or one that cannot go on.
    """
    if config.continue_from is None:
        return config, None
    checkpoint = Checkpoint.load(config.continue_from)
    if not TASKS[checkpoint.task].continues:
        able = ", ".join(name for name, task in TASKS.items() if task.continues)
        raise ConfigError(
            f"continue_from: expected a checkpoint for one of {able}, found one for {checkpoint.task}. Train it anew "
            "on old and new rows together."
        )
    if config.task not in ("auto", checkpoint.task):
        raise ConfigError(
            f"task: expected {checkpoint.task}, as the checkpoint to continue from, found {config.task}. Leave it out."
        )
    _check_labels_stay(config, checkpoint)
    replay = read_replay(checkpoint.path)
    manifest = checkpoint.manifest
    decided: dict[str, Any] = {"task": checkpoint.task}
    if config.max_length is None and manifest is not None:
        decided["max_length"] = manifest.max_length
    if config.keep_replay is None:
        decided["keep_replay"] = len(replay.train)
    weighed = config.class_weights is not None or "class_weights" in config.search_space
    if replay.train and TASKS[checkpoint.task].one_class and not weighed:
        decided["balanced_sampling"] = True  # there are few kept rows of an old class, and many of a new one
    weight = recipe.DISTILLATION if config.distillation is None else config.distillation
    return config.model_copy(update=decided), Continued(_name(config.continue_from), checkpoint, replay, weight)


def _name(source: str) -> str:
    """Name a checkpoint without saying where on this machine it lies, or what opens the store of a URL."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder.absolute().name
    return safe(source) if is_url(source) else source


def _check_labels_stay(config: TrainConfig, checkpoint: Checkpoint) -> None:
    known = TASKS[checkpoint.task].answers_of(checkpoint.labels)
    lost = [name for name in known if config.label_names and name not in config.label_order]
    if lost:
        raise ConfigError(
            f"label_names: expected all labels of {config.continue_from}, found {len(lost)} missing "
            f"({shown(lost, most=5)}). A label is never lost by going on: name them too, or train anew with "
            "--base-model."
        )
    if TASKS[checkpoint.task].has_order and config.label_names and config.label_order != list(known):
        raise ConfigError(
            f"label_names: expected the labels of {config.continue_from} in its order ({shown(known)}), found another. "
            "Leave them out, or train anew with --base-model."
        )
    if config.out_of_scope_label in known:
        raise ConfigError(
            f"out_of_scope_label: expected a label that {config.continue_from} does not have, found one that it has. "
            "A label is never lost by going on: name another, or train anew with --base-model."
        )


def label_notes(continued: Continued, task: TrainingTask) -> list[str]:
    """Say which labels are kept and which are new, and which of the new ones look like an old one renamed."""
    known = TASKS[task.name].answers_of(continued.checkpoint.labels)
    new = continued.record(task).new_labels
    notes = [
        f"goes on from {continued.name}: {len(known)} labels kept, {len(new)} new"
        f"{f' ({shown(new, most=5)})' if new else ''}; {len(continued.replay.train):,} rows replayed."
    ]
    by_letters = {_letters(name): name for name in known}
    renamed = [
        f"{shown([name])} like {shown([by_letters[_letters(name)]])}" for name in new if _letters(name) in by_letters
    ]
    if renamed:
        notes.append(
            f"{len(renamed)} new label(s) look like an old one renamed ({'; '.join(renamed[:5])}): both are labels "
            "now. Write them as before if they are the same."
        )
    return notes


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold() or name


def with_earlier_figures(
    continued: Continued,
    task: type[TrainingTask],
    predictor: Predictor,
    rows: dict[str, Sequence[Example]],
    measured: dict[str, Figures],
    measure: Callable[[Evaluation], Figures],
) -> dict[str, Figures]:
    """Put the earlier checkpoint's figures beside the new ones, on the same rows; add those of the earlier rows.

    Args:
        continued: What the run went on from.
        task: Its task.
        predictor: The new checkpoint.
        rows: Of each split that was measured.
        measured: Figures of each split.
        measure: Makes figures of answers.

    Returns:
        The figures of each split. `before` are the earlier checkpoint's; `forgotten`, of the earlier rows, is what was
        lost of the figure that the task compares by.
    """
    earlier = Predictor.load(continued.checkpoint)
    key, _ = task.headline
    figures = dict(measured)
    old = {"earlier_test": continued.test} if continued.test else {"earlier_validation": continued.replay.held_out}
    for split, examples in {**rows, **old}.items():
        if not examples:
            continue
        after = figures.get(split) or measure(evaluate(predictor, examples, source=split))
        before = measure(evaluate(earlier, examples, source=split))
        scalars = {name: value for name, value in before.items() if isinstance(value, int | float) and name != "rows"}
        figures[split] = {**after, "before": scalars}
        if split in old:
            figures[split]["forgotten"] = before[key] - after[key]
    return figures
