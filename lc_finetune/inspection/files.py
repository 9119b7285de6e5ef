"""A file of texts, of any size, → some of them, drawn with a seed, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from lc_finetune.bulk.answers import is_text
from lc_finetune.bulk.source import KINDS, Position, TextColumns, open_source
from lc_finetune.checkpoint import PAIRS, RELATIONS, Task
from lc_finetune.data import ReadOptions, inputs_of, read_examples, read_texts
from lc_finetune.errors import ConfigError, DataError
from lc_finetune.inspection.measures import CHUNK_ROWS
from lc_finetune.markers import as_marked
from lc_finetune.schemas import Input

MOST_ROWS = 10_000
"""Rows of a file that are answered unless more are asked for: enough, see `Drift.least_told`."""
SEED = 0


@dataclass(frozen=True)
class Drawn:
    """Texts of a file.

    Attributes:
        chunks: They, some at a time; to be iterated once.
        rows: Rows of the file that have a text.
        blank: Rows that have none.
    """

    chunks: Iterator[Sequence[Input]]
    rows: int
    blank: int


def draw(
    path: Path,
    task: Task,
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    most: int = MOST_ROWS,
) -> Drawn:
    """Draw texts at random from a file, with labels or without; the same ones each time.

    CSV, TSV, JSONL and Parquet are read twice, once to count, and never held. The other formats of training are read
    whole.

    Args:
        path: The file.
        task: Of the model: whether pairs, questions or marked texts are wanted.
        text_column: Column of the text; recognised by name if None.
        text_pair_column: Column of the second text of a pair, likewise.
        most: Texts that are drawn, at most.

    Raises:
        ConfigError: If an option does not fit the task.
        DataError: If the file cannot be used; names file and line.
    """
    if text_pair_column is not None and task not in PAIRS:
        raise ConfigError(f"Expected a checkpoint of text pairs for --text-pair-column, found one for {task}.")
    if path.suffix.lower() not in KINDS:
        whole = _whole(path, task, text_column, text_pair_column)
        chosen = _chosen(len(whole), most)
        parts = (chosen[i : i + CHUNK_ROWS] for i in range(0, len(chosen), CHUNK_ROWS))
        return Drawn(([whole[row] for row in part] for part in parts), len(whole), 0)
    wanted = TextColumns(text_column, text_pair_column, task)
    rows = blank = 0
    for texts, others in _batches(path, wanted):
        rows, blank = rows + len(texts), blank + others
    return Drawn(_picked(_batches(path, wanted), task, _chosen(rows, most)), rows, blank)


def _chosen(rows: int, most: int) -> list[int]:
    if rows <= most:
        return list(range(rows))
    return sorted(np.random.default_rng(SEED).choice(rows, size=most, replace=False).tolist())


def _batches(path: Path, wanted: TextColumns) -> Iterator[tuple[list[Input], int]]:
    """Read a file from its start: some texts at a time, and how many rows between them have none."""
    try:
        with closing(open_source(path, wanted)) as source:
            source.seek(Position())
            for chunk in source.chunks(rows=CHUNK_ROWS):
                texts = [text for text in chunk.texts if is_text(text)]
                yield texts, len(chunk) - len(texts)
    except OSError as error:
        raise DataError(
            f"{path}: expected a file that can be read, found one that cannot ({error.strerror}). "
            "Check its path and its permissions."
        ) from error


def _picked(batches: Iterator[tuple[list[Input], int]], task: Task, chosen: Sequence[int]) -> Iterator[list[Input]]:
    """Keep the chosen ones of the texts of a file."""
    first = 0
    for texts, _ in batches:
        start, end = np.searchsorted(chosen, [first, first + len(texts)])
        picked = [texts[row - first] for row in chosen[start:end]]
        first += len(texts)
        if picked:
            yield [as_marked(cast(str, text)) for text in picked] if task == RELATIONS else picked


def _whole(path: Path, task: Task, text_column: str | None, text_pair_column: str | None) -> Sequence[Input]:
    if task in (*PAIRS, RELATIONS):
        options = ReadOptions(text_column=text_column, text_pair_column=text_pair_column, task=task)
        return inputs_of(read_examples(path, options).examples)
    return read_texts(path, text_column=text_column).texts
