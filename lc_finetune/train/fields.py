"""Which fields of a configuration go together, and which belong to a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lc_finetune.checkpoint import EXPLAINED, SEQ2SEQ
from lc_finetune.errors import ConfigError, shown

if TYPE_CHECKING:
    from lc_finetune.train.config import TrainConfig
    from lc_finetune.train.tasks import TrainingTask


OF_EPOCHS = (
    "epochs", "batch_size", "patience", "focal_gamma", "label_smoothing", "balanced_sampling", "layer_decay",
    "gradient_accumulation", "gradient_checkpointing",
)  # fmt: skip
"""Fields of a fine-tuning in epochs, which few rows do not get."""
WITHOUT_LABELS = ("token-classification", "question-answering")
"""Tasks whose rows have no label of their own."""
OF_GENERATION = ("target_column", "max_target_length", "num_beams")
"""Fields of texts that are written, which no other task has."""
OF_WARM_UP = ("use_cpu", "bf16", "dataloader_pin_memory")
"""Fields of TrainingArguments that the warm-up takes."""


def check_together(config: TrainConfig) -> None:
    """Refuse fields that contradict each other, or would do nothing beside the others.

    Raises:
        ValueError: In the words of a field's own error.
    """
    for name in OF_GENERATION:
        if getattr(config, name) is not None and config.task != SEQ2SEQ:
            raise ValueError(f"{name}: expected task {SEQ2SEQ} beside it, found {config.task}. Leave one of them out")
    _check_adapter(config)
    _check_continued(config)
    if config.class_weights == "balanced" and config.balanced_sampling:
        raise ValueError("class_weights and balanced_sampling: expected one of them, found both, which balance twice")
    if config.focal_gamma and config.label_smoothing:
        raise ValueError(
            "focal_gamma and label_smoothing: expected one of them, found both; the one trusts the labels, the other "
            "does not"
        )
    _check_few_shot(config)


def _check_few_shot(config: TrainConfig) -> None:
    if not config.few_shot:
        return
    if config.adapter:
        raise ValueError("few_shot and adapter: expected one of them, found both; the warm-up tunes the whole encoder")
    for name in OF_EPOCHS:
        if getattr(config, name) != type(config).model_fields[name].default:
            raise ValueError(
                f"few_shot and {name}: expected one of them, found both; after the warm-up the head is fitted at once, "
                "without epochs"
            )
    if others := sorted(set(config.trainer) - set(OF_WARM_UP)):
        raise ValueError(
            f"few_shot and trainer: expected none but {', '.join(OF_WARM_UP)} beside few_shot, found {shown(others)}. "
            "Leave it out"
        )


def _check_continued(config: TrainConfig) -> None:
    if config.continue_from is None:
        for name in ("earlier_test_file", "distillation"):
            if getattr(config, name) is not None:
                raise ValueError(
                    f"{name}: expected it beside continue_from, found none. Name a checkpoint, or leave it out"
                )
        return
    if config.base_model != type(config).model_fields["base_model"].default or config.revision is not None:
        raise ValueError(
            "continue_from and base_model: expected one of them, found both; a checkpoint that is trained further is "
            "its own base model"
        )
    if config.few_shot:
        raise ValueError(
            "continue_from and few_shot: expected one of them, found both; the warm-up would undo what was learnt"
        )
    if config.train_file is None:
        raise ValueError("continue_from: expected a training file with the new rows, found none. Add --train-file")


ADAPTER_FIELDS: dict[str, tuple[str, ...]] = {
    "adapter_rank": ("lora", "adalora"),
    "adapter_alpha": ("lora", "adalora"),
    "adapter_dropout": ("lora", "adalora"),
    "adapter_targets": ("lora", "adalora", "ia3"),
    "adapter_tokens": ("prefix",),
}
"""Kinds of adapters that have each field."""


def _check_adapter(config: TrainConfig) -> None:
    kind = config.adapter
    for name, kinds in ADAPTER_FIELDS.items():
        if getattr(config, name) == type(config).model_fields[name].default or kind in kinds:
            continue
        if kind is None:
            raise ValueError(
                f"{name}: expected it beside adapter, found none. Add --adapter {kinds[0]}, or leave it out"
            )
        raise ValueError(f"{name}: expected adapter {' or '.join(kinds)}, found {kind}, which has none")
    if kind is not None and config.layer_decay is not None:
        raise ValueError("layer_decay: expected a model that is tuned whole, found an adapter. Leave one of them out")
    if kind == "prefix" and config.gradient_checkpointing:
        raise ValueError(
            "adapter and gradient_checkpointing: expected one of them, found both; a prefix is kept where "
            "checkpointing would throw it away"
        )


def check_task(config: TrainConfig, task: type[TrainingTask]) -> None:
    """Refuse options that would do nothing, or harm, in a task.

    Raises:
        ConfigError: With the fields at fault and what to do.
    """
    for name in ("class_weights", "focal_gamma"):
        if getattr(config, name) is not None and task.loss is None:
            raise ConfigError(f"{name}: expected a task with classes, found data for {task.name}. Leave it out.")
    for name in ("label_names", "drop_unlabelled"):
        if getattr(config, name) and task.name in WITHOUT_LABELS:
            raise ConfigError(f"{name}: expected rows with a label each, found data for {task.name}. Leave it out.")
    if config.balanced_sampling and not task.one_class:
        raise ConfigError(
            f"balanced_sampling: expected one label a text, found data for {task.name}, where a row belongs to no "
            f"class alone. {'Use --class-weights balanced' if task.loss else 'Leave it out'}."
        )
    if config.keep_replay and not task.continues:
        raise ConfigError(
            f"keep_replay: expected a task that can be trained further, found data for {task.name}. Leave it out."
        )
    if config.keep_neighbours and task.name not in EXPLAINED:
        raise ConfigError(
            f"keep_neighbours: expected a task whose answers can be explained ({' or '.join(EXPLAINED)}), found data "
            f"for {task.name}. Leave it out."
        )
    if config.few_shot and task.name != "text-classification":
        raise ConfigError(f"few_shot: expected data for text-classification, found data for {task.name}. Leave it out.")
    if config.label_smoothing and task.loss not in ("softmax", "cumulative"):
        raise ConfigError(
            f"label_smoothing: expected a task with one right answer, found data for {task.name}. Leave it out."
        )
