"""Intents with their entities: as the SNIPS benchmark nests them, and in the comments of CoNLL columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lc_finetune.errors import DataError, shown

INTENT_COLUMNS = ("label", "intent")
"""Columns that, beside `entities`, are the label of a text and nothing else."""
_COMMENT = re.compile(r"#\s*(?:intent|label)\s*[:=]\s*(\S.*?)\s*", re.IGNORECASE)


def intent_in(comment: str) -> str | None:
    """Read the label in a comment above a sentence: `# intent: book_table`, or with `label` or `=`; None if none is."""
    found = _COMMENT.fullmatch(comment)
    return found[1] if found else None


def read_as_joint(source: str, asked: str) -> list[str]:
    """Say how a file was read of which nobody said how."""
    if asked != "auto":
        return []
    return [f"{source}: read as a label with entities. For entities alone: --task token-classification."]


def hold_snips(content: Any) -> bool:
    """Say whether JSON is laid out as in the SNIPS benchmark: intent → utterances, each with its chunks in `data`."""
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(one, list) for one in content.values())
        and any(isinstance(one, Mapping) and "data" in one for several in content.values() for one in several)
    )


def snips_rows(path: str, content: Mapping[str, list[Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Turn utterances into rows of `text`, `label` and `entities`; the chunks are joined as they stand.

    Coucke et al. 2018, "Snips Voice Platform". Yields where each row stands, and its fields.

    Raises:
        DataError: If an utterance is no list of chunks, each with a text and, at most, an entity.
    """
    for intent, utterances in content.items():
        for number, utterance in enumerate(utterances, start=1):
            where = f"{path}:{shown([intent])}, item {number}"
            chunks = utterance.get("data") if isinstance(utterance, Mapping) else None
            if not isinstance(chunks, list):
                raise DataError(f"{where}: expected an utterance with its chunks in 'data', found none. Write a list.")
            text, entities = "", []
            for chunk in chunks:
                words, label = (chunk.get("text"), chunk.get("entity")) if isinstance(chunk, Mapping) else (None, None)
                if not isinstance(words, str) or not isinstance(label, str | None):
                    raise DataError(
                        f"{where}: expected chunks with a 'text' and, where it is one, the name of an 'entity', found "
                        "another. Write both as texts."
                    )
                if label is not None and words:
                    entities.append({"start": len(text), "end": len(text) + len(words), "label": label})
                text += words
            yield where, {"text": text, "label": intent, "entities": entities}
