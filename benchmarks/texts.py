"""The texts that are measured on: read, shuffled with a seed, and joined to longer ones."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

from lc_finetune.data import read_examples

SEED = 13


def read_texts(source: str | Path, limit: int) -> list[str]:
    """Read the texts of a labelled file in a seeded random order, at most `limit` of them.

    Raises:
        DataError: As `read_examples`.
    """
    texts = [example.text for example in read_examples(source).examples]
    random.Random(SEED).shuffle(texts)
    return texts[:limit]


def long_tailed(
    texts: Sequence[str], pieces: Sequence[int], *, count: int, least: int = 20, most: int = 5000
) -> list[str]:
    """Join texts to `count` longer ones whose lengths in pieces are log-uniform from `least` to `most`.

    Args:
        texts: What to join, with single spaces.
        pieces: Length of each of them.
        count: Number of texts to build.
        least: Shortest length aimed at; a text ends with the one that reaches its aim.
        most: Longest length aimed at.
    """
    chance = random.Random(SEED)
    built: list[str] = []
    for _ in range(count):
        aim = math.exp(chance.uniform(math.log(least), math.log(most)))
        parts: list[str] = []
        length = 0
        while length < aim:
            position = chance.randrange(len(texts))
            parts.append(texts[position])
            length += max(1, pieces[position])
        built.append(" ".join(parts))
    return built
