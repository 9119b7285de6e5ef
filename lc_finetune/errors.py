"""The exceptions raised on purpose.

```
LCFinetuneError
├── DataError                 a file or a row of it cannot be used (names file and line)
├── ConfigError               an option has a value that cannot be used
├── CheckpointError           a checkpoint folder is incomplete, altered, unsafe or for another task
├── InputError                one item given to a Runnable is not a text
├── AnswerError               an LLM's answer cannot be read (also LangChain's OutputParserException)
├── EngineError               the inference worker failed, or was closed while a caller waited
└── MissingDependencyError    an optional package is not installed (also ImportError)
```

Each message says what was expected, what was found, and what to do next. None holds the user's text.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lc_finetune.parsers import AnswerError as AnswerError


class LCFinetuneError(Exception):
    """Base of every exception that this package raises on purpose."""


class DataError(LCFinetuneError):
    """A data file, or a row of one, cannot be used."""


class ConfigError(LCFinetuneError):
    """An option has a value that cannot be used."""


class CheckpointError(LCFinetuneError):
    """A checkpoint folder is incomplete, altered, unsafe, or made for another task."""


class InputError(LCFinetuneError):
    """One item given to a Runnable cannot be read as a text."""


class EngineError(LCFinetuneError):
    """The inference worker failed, or was closed while a caller waited."""


class MissingDependencyError(LCFinetuneError, ImportError):
    """An optional package is not installed."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the known word closest to `word`, or an empty string."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def __getattr__(name: str) -> Any:
    # AnswerError is LangChain's exception too; importing LangChain here would make every import pay for it.
    if name == "AnswerError":
        from lc_finetune.parsers import AnswerError

        return AnswerError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
