"""A configuration → the arguments of `transformers.Trainer`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lc_finetune.errors import ConfigError
from lc_finetune.train import recipe
from lc_finetune.train.base_model import BaseModel
from lc_finetune.train.config import TrainConfig


def training_arguments(config: TrainConfig, base: BaseModel, work: Path, *, epochs: int, **of_task: Any) -> Any:
    """Make the arguments: what all tasks share, what this one wants, and what the user's own `trainer` says.

    Raises:
        ConfigError: If the Trainer refuses one.
    """
    import torch
    from transformers import AutoConfig, TrainingArguments

    on_cuda = torch.cuda.is_available()
    on_cpu = not on_cuda and not torch.backends.mps.is_available()
    hidden = int(AutoConfig.from_pretrained(base.folder, trust_remote_code=False).hidden_size)
    values: dict[str, Any] = {
        "output_dir": os.fspath(work),
        "num_train_epochs": epochs,
        "learning_rate": config.learning_rate or recipe.learning_rate(hidden),
        "per_device_train_batch_size": config.batch_size,
        "weight_decay": recipe.WEIGHT_DECAY,
        "warmup_steps": recipe.WARMUP,
        "lr_scheduler_type": "linear",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "restore_callback_states_from_checkpoint": True,  # or the patience of early stopping would start anew
        "seed": config.seed,
        "data_seed": config.seed,
        "use_cpu": on_cpu,
        "bf16": (on_cuda and torch.cuda.is_bf16_supported()) or (on_cpu and _multiplies_bf16()),
        "optim": "adamw_torch_fused",
        "report_to": "none",
        "dataloader_pin_memory": on_cuda,
    }
    try:
        return TrainingArguments(**{**values, **of_task, **config.trainer})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"trainer: {str(error).splitlines()[0]}") from error


def _multiplies_bf16() -> bool:
    """Say whether the CPU has bf16 products; autocast halves the time of a step there."""
    import torch

    return bool(torch.cpu.get_capabilities().get("avx512_bf16") or torch.cpu.get_capabilities().get("amx_bf16"))
