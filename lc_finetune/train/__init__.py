"""Labelled data → a checkpoint folder; unlabelled text → a base model; texts with targets → a generator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lc_finetune.train.config import TrainConfig
    from lc_finetune.train.generation import train_generator
    from lc_finetune.train.pretraining import pre_train
    from lc_finetune.train.trainer import fine_tune

__all__ = ["TrainConfig", "fine_tune", "pre_train", "train_generator"]


def __getattr__(name: str) -> Any:
    # Lazy: the configuration alone should not load torch.
    if name == "TrainConfig":
        from lc_finetune.train.config import TrainConfig

        return TrainConfig
    if name == "fine_tune":
        from lc_finetune.train.trainer import fine_tune

        return fine_tune
    if name == "pre_train":
        from lc_finetune.train.pretraining import pre_train

        return pre_train
    if name == "train_generator":
        from lc_finetune.train.generation import train_generator

        return train_generator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
