"""The exceptions raised on purpose.

```
LCFinetuneError
├── DataError                 a file or a row of it cannot be used (names file and line)
├── ConfigError               an option has a value that cannot be used
├── CheckpointError           a checkpoint folder is incomplete, altered, unsafe or for another task
├── InputError                one item given to a Runnable is not a text
├── AnswerError               an LLM's answer cannot be read (also LangChain's OutputParserException)
├── EngineError               the inference worker failed, or was closed while a caller waited
├── ProcessError              another process of a training run failed, or is gone
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


class ProcessError(LCFinetuneError):
    """Another process of a training run on several devices failed, or is gone."""


class MissingDependencyError(LCFinetuneError, ImportError):
    """An optional package is not installed."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the known word closest to `word`, or an empty string."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {shown(close)!r}?)" if close else ""


def shown(names: Iterable[str], *, most: int = 8) -> str:
    """List names for a message or a summary; what may be a text in a name's place is counted, not quoted.

    A name has at most 40 characters and four words.

    Example:
        >>> shown(["text", "I was charged twice and nobody answers my mails"])
        "text, (one of 47 characters)"
    """
    known = list(names)
    fit = [name if _like_a_name(name) else f"(one of {len(name)} characters)" for name in known[:most]]
    return ", ".join(fit) + (f", … ({len(known)} in all)" if len(known) > most else "")


def _like_a_name(name: str) -> bool:
    return 0 < len(name) <= 40 and name.isprintable() and len(name.split()) <= 4


def reason(error: Exception) -> str:
    """Say what went wrong without any text of the user's: our own messages hold none, others may."""
    return f"{type(error).__name__}: {error}" if isinstance(error, LCFinetuneError) else type(error).__name__


def raised(outcome: Any) -> Any:
    """Raise an outcome that is an exception; return any other."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def __getattr__(name: str) -> Any:
    # AnswerError is LangChain's exception too; importing LangChain here would make every import pay for it.
    if name == "AnswerError":
        from lc_finetune.parsers import AnswerError

        return AnswerError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
