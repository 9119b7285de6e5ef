"""Labelled data → a checkpoint folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lc_finetune.train.config import TrainConfig
    from lc_finetune.train.trainer import fine_tune

__all__ = ["TrainConfig", "fine_tune"]


def __getattr__(name: str) -> Any:
    # Lazy: the configuration alone should not load torch.
    if name == "TrainConfig":
        from lc_finetune.train.config import TrainConfig

        return TrainConfig
    if name == "fine_tune":
        from lc_finetune.train.trainer import fine_tune

        return fine_tune
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
