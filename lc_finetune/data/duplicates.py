"""Groups of texts that are the same, or nearly: MinHash over character 5-grams (Broder 1997), then the true Jaccard."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

SHINGLE = 5
PERMUTATIONS = 64
BANDS = 16
SIMILAR = 0.8
LIMIT = 100_000
"""Rows up to which near duplicates are looked for."""

_PRIME = np.uint64((1 << 61) - 1)


def fold(text: str) -> str:
    """Fold case and runs of whitespace, for comparison only."""
    return " ".join(text.casefold().split())


def groups(texts: Sequence[str]) -> list[int]:
    """Give each text the number of its group: texts that are duplicates, or near ones, share one.

    Near means a Jaccard similarity of character 5-grams of at least 0.8; looked for up to 100,000 texts.
    """
    folded = [fold(text) for text in texts]
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[str, int] = {}
    for i, text in enumerate(folded):
        parent[i] = first.setdefault(text, i)
    distinct = list(first.values())
    if len(texts) <= LIMIT:
        for left, right in _near([folded[i] for i in distinct]):
            parent[root(distinct[left])] = root(distinct[right])
    return [root(i) for i in range(len(texts))]


def _shingles(text: str) -> set[int]:
    return {zlib.crc32(text[i : i + SHINGLE].encode("utf-8", "surrogatepass"))
            for i in range(max(1, len(text) - SHINGLE + 1))}  # fmt: skip


def _near(texts: Sequence[str]) -> list[tuple[int, int]]:
    generator = np.random.default_rng(0)
    a = generator.integers(1, 1 << 31, PERMUTATIONS, dtype=np.uint64)
    b = generator.integers(0, 1 << 31, PERMUTATIONS, dtype=np.uint64)
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    sets = [_shingles(text) for text in texts]
    rows = PERMUTATIONS // BANDS
    for i, shingles in enumerate(sets):
        values = np.fromiter(shingles, dtype=np.uint64, count=len(shingles))
        signature = ((values[:, None] * a + b) % _PRIME).min(axis=0)
        for band in range(BANDS):
            buckets[band, signature[band * rows : (band + 1) * rows].tobytes()].append(i)
    candidates = {(members[0], other) for members in buckets.values() if len(members) > 1 for other in members[1:]}
    return [
        (left, right)
        for left, right in sorted(candidates)
        if len(sets[left] & sets[right]) >= SIMILAR * len(sets[left] | sets[right])
    ]
