"""A page to try a checkpoint on and to correct it. Needs the extra `playground`; the configuration alone does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lc_finetune.playground.config import PlaygroundConfig

if TYPE_CHECKING:
    from lc_finetune.playground.server import create_app, playground

__all__ = ["PlaygroundConfig", "create_app", "playground"]


def __getattr__(name: str) -> Any:
    # Lazy: the command line shows its options without the extra.
    if name == "create_app":
        from lc_finetune.playground.server import create_app

        return create_app
    if name == "playground":
        from lc_finetune.playground.server import playground

        return playground
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
