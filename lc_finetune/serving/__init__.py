"""Checkpoints over HTTP. Needs the extra `serve`; the configuration alone does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lc_finetune.serving.config import Limits, ServeConfig

if TYPE_CHECKING:
    from lc_finetune.serving.app import create_app
    from lc_finetune.serving.server import serve

__all__ = ["Limits", "ServeConfig", "create_app", "serve"]


def __getattr__(name: str) -> Any:
    # Lazy: the command line shows its options without the extra.
    if name == "create_app":
        from lc_finetune.serving.app import create_app

        return create_app
    if name == "serve":
        from lc_finetune.serving.server import serve

        return serve
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
