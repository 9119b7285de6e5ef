"""Which columns of a table hold texts, pairs and labels: recognised by name, or as they are named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lc_finetune.checkpoint import Task
from lc_finetune.errors import DataError, did_you_mean, shown

TEXT_COLUMNS = (
    "text", "sentence", "query", "utterance", "content", "tweet", "review", "message", "question", "body", "title",
)  # fmt: skip
COUPLES = (
    ("text", "text_pair"), ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"),
    ("text1", "text2"), ("text_a", "text_b"), ("sentence_a", "sentence_b"),
)  # fmt: skip
"""Columns that are a pair of texts and nothing else."""
MAYBE_COUPLES = (
    ("question", "answer"), ("query", "answer"), ("query", "passage"), ("query", "document"), ("question", "sentence"),
    ("question", "context"), ("claim", "evidence"), ("profile", "item"), ("history", "item"),
)  # fmt: skip
"""Columns that are a pair only where pairs are asked for: in a table of texts, the second may be a mere remark."""
LABEL_COLUMNS = ("label", "category", "intent", "class", "target", "sentiment", "topic", "tag", "labels")


def find_couple(
    source: str, columns: Sequence[str], text: str | None, pair: str | None, task: Task | Literal["auto"]
) -> tuple[str, str] | None:
    """Choose the columns of a pair of texts; None if there are no pairs.

    Args:
        source: For messages.
        columns: All there are.
        text: The first column, if it is given.
        pair: The second column, if it is given.
        task: Pairs are looked for if it is `"auto"`, and must be there if it is that of pairs.

    Raises:
        DataError: If a column is missing, or both are one.
    """
    asked = task == "text-pair-classification"
    if pair is None and not asked and (task != "auto" or text is not None or "entities" in columns):
        return None
    folded = {name.strip().casefold(): name for name in reversed(columns)}
    known = [tuple(folded.get(name.casefold()) for name in couple) for couple in (*COUPLES, *MAYBE_COUPLES)]
    certain = len(known) if asked or pair is not None else len(COUPLES)
    for first, second in known[:certain]:
        if first and second and text in (None, first) and pair in (None, second):
            return first, second
    if pair is None and not asked:
        return None
    second = find_column(source, columns, pair, [names[1] for names in (*COUPLES, *MAYBE_COUPLES)], "text-pair")
    first = find_column(source, [name for name in columns if name != second], text, TEXT_COLUMNS, "text")
    return first, second


def find_column(source: str, columns: Sequence[str], given: str | None, known: Sequence[str], kind: str) -> str:
    """Choose the column that is named, or else the first of the known names, whatever its case."""
    found = shown(columns) or "none"
    if given is not None:
        if given in columns:
            return given
        raise DataError(
            f"{source}: expected the column {given!r}, found {found}. Name yours with --{kind}-column"
            f"{did_you_mean(given, columns)}."
        )
    folded = {name.strip().casefold(): name for name in reversed(columns)}
    for name in known:
        if name in folded:
            return folded[name]
    raise DataError(
        f"{source}: expected a {kind} column ({', '.join(known[:4])}, …), found {found}. "
        f"Name yours with --{kind}-column; the first line of a table names the columns."
    )
