"""Which checkpoints the engine answers for."""

from __future__ import annotations

from dataclasses import replace

from lc_finetune.checkpoint import JOINT, MULTI_LABEL, ORDINAL, RUNNABLES, Checkpoint, Task
from lc_finetune.errors import CheckpointError

_EXPECTED: dict[Task, str] = {
    "text-classification": "a text classifier",
    "text-pair-classification": "a classifier of text pairs",
    "multi-label-classification": "a multi-label classifier",
    "ordinal-classification": "a classifier of ordered labels",
    "regression": "a regressor",
    "token-classification": "a tagger",
    "relation-classification": "a classifier of relations",
    "question-answering": "a question answerer",
    "intent-and-entities": "a model of intents and entities",
}

_UNSAID: tuple[Task, ...] = ("text-pair-classification", ORDINAL)
"""Tasks whose plain folders look like those of text classifiers."""
_ONE_LABEL: tuple[Task, ...] = ("text-classification", *_UNSAID, JOINT)
"""Tasks of one label a text, or a pair."""
_MAY_BE_MEANT = ("text-classification", "multi-label-classification")
"""What a plain folder is taken for, and what it may be if its configuration is silent."""


def as_asked(checkpoint: Checkpoint, task: Task) -> Checkpoint:
    """Take a plain folder's classifier for one of pairs, or of ordered labels, if it is asked for as such.

    Its configuration says neither.
    """
    plain = checkpoint.manifest is None and checkpoint.task == "text-classification"
    return replace(checkpoint, task=task) if plain and task in _UNSAID else checkpoint


def check_served(checkpoint: Checkpoint, task: Task) -> None:
    """Refuse a checkpoint for another task, and a classifier whose scores a softmax would falsify.

    Raises:
        CheckpointError: If it is refused; names the class that serves the task.
    """
    if checkpoint.task != task:
        plain = checkpoint.manifest is None and (checkpoint.task, task) == _MAY_BE_MEANT
        hint = f" If its labels are independent, set problem_type in its config.json to {MULTI_LABEL}." if plain else ""
        raise CheckpointError(
            f"{checkpoint.path}: expected {_EXPECTED[task]}, found a checkpoint for {checkpoint.task}. "
            f"Load it with {RUNNABLES[checkpoint.task]}.{hint}"
        )
    if task not in _ONE_LABEL:
        return
    problem = checkpoint.config.get("problem_type")
    if problem not in (None, "single_label_classification") or len(checkpoint.labels) < 2:
        raise CheckpointError(
            f"{checkpoint.path}: expected one label per text, found a model for {problem or 'regression'}, "
            f"whose scores a softmax would falsify. {RUNNABLES[task]} serves single-label models only."
        )
