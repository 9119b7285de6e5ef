"""A tagger for LangChain's own `PIIMiddleware`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from langchain.agents.middleware import PIIMatch
from langchain_core.runnables import Runnable

from lc_finetune.agents.reading import check_types
from lc_finetune.schemas import Tagging


def pii_detector(
    tagger: Runnable[Any, Tagging], *, labels: Collection[str] | None = None
) -> Callable[[str], list[PIIMatch]]:
    """Make the detector of a `PIIMiddleware` out of a tagger.

    `PIIMiddleware` changes the state for good and restores nothing; see `EntityRedactionMiddleware` for that. It calls
    its detector synchronously, and on streams with `apply_to_output=True` again for each piece that arrives. A tagger
    that raises ends the run: what could not be tagged goes no further.

    Args:
        tagger: Text → entities.
        labels: Entity types to report; all by default.

    Raises:
        ConfigError: If a type is none of the tagger's.

    Example:
        ```python
        PIIMiddleware("person", detector=pii_detector(tagger, labels=["PERSON"]), strategy="redact")
        ```
    """
    check_types(tagger, labels or ())

    def detect(text: str) -> list[PIIMatch]:
        return [
            PIIMatch(type=entity.label, value=entity.text, start=entity.start, end=entity.end)
            for entity in tagger.invoke(text).entities
            if labels is None or entity.label in labels
        ]

    return detect
