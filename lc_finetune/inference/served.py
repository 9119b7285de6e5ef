"""Which checkpoints the engine answers for."""

from __future__ import annotations

from lc_finetune.checkpoint import Checkpoint, Task
from lc_finetune.errors import CheckpointError

_EXPECTED: dict[Task, str] = {"text-classification": "a text classifier", "token-classification": "a tagger"}
_RUNNABLE: dict[Task, str] = {"text-classification": "TextClassifier", "token-classification": "EntityTagger"}


def check_served(checkpoint: Checkpoint, task: Task) -> None:
    """Refuse a checkpoint for another task, and a classifier whose scores a softmax would falsify.

    Raises:
        CheckpointError: If it is refused; names the class that serves the task.
    """
    if checkpoint.task != task:
        raise CheckpointError(
            f"{checkpoint.path}: expected {_EXPECTED[task]}, found a checkpoint for {checkpoint.task}. "
            f"Load it with {_RUNNABLE[checkpoint.task]}."
        )
    if task == "token-classification":
        return
    problem = checkpoint.config.get("problem_type")
    if problem not in (None, "single_label_classification") or len(checkpoint.labels) < 2:
        raise CheckpointError(
            f"{checkpoint.path}: expected one label per text, found a model for {problem or 'regression'}, "
            "whose scores a softmax would falsify. TextClassifier serves single-label models only."
        )
