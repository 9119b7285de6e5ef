"""Groups of texts that are the same, or nearly: MinHash over character 5-grams (Broder 1997), then the true Jaccard."""

from __future__ import annotations

import zlib
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SHINGLE = 5
PERMUTATIONS = 64
BANDS = 16
SIMILAR = 0.8
LIMIT = 100_000
"""Rows up to which near duplicates are looked for."""

CROWD = 16
"""Texts of one bucket, the latest, that a further text is compared with, so that a crowded bucket stays cheap."""
CHUNK = 4096
"""Shingles hashed at a time, so that a long text stays small in memory."""

# The largest prime of 32 bits: products with it wrap around often, or all permutations would agree on their minimum.
_PRIME = np.uint64(4_294_967_291)


def fold(text: str) -> str:
    """Fold case and runs of whitespace, for comparison only."""
    return " ".join(text.casefold().split())


def groups(texts: Sequence[str]) -> list[int]:
    """Give each text the number of its group: texts that are duplicates, or near ones, share one.

    Near means a Jaccard similarity of character 5-grams of at least 0.8; looked for up to 100,000 texts.
    """
    folded = [fold(text) for text in texts]
    first: dict[str, int] = {}
    same = [first.setdefault(text, i) for i, text in enumerate(folded)]
    if len(texts) > LIMIT:
        return same
    distinct = list(first.values())
    near = dict(zip(distinct, (distinct[i] for i in _near_groups([folded[i] for i in distinct])), strict=True))
    return [near[i] for i in same]


def _near_groups(texts: Sequence[str]) -> list[int]:
    """Join distinct texts: those whose signatures agree in a band are compared by their true similarity."""
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    shingles = lru_cache(maxsize=256)(lambda i: frozenset(_shingles(texts[i]).tolist()))
    for i, buckets in enumerate(_buckets(_signatures(texts))):
        for other in dict.fromkeys(other for bucket in buckets for other in bucket):
            if root(i) != root(other) and _alike(shingles(i), shingles(other)):
                parent[root(i)] = root(other)
        for bucket in buckets:
            bucket.append(i)
    return [root(i) for i in range(len(texts))]


def _shingles(text: str) -> NDArray[np.uint64]:
    grams = {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}
    return np.fromiter((zlib.crc32(gram.encode("utf-8", "surrogatepass")) for gram in grams), np.uint64, len(grams))


def _signatures(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Take the MinHash signature of each text; shape `(texts, PERMUTATIONS)`."""
    generator = np.random.default_rng(0)
    a = generator.integers(1, 1 << 31, PERMUTATIONS, dtype=np.uint64)
    b = generator.integers(0, 1 << 31, PERMUTATIONS, dtype=np.uint64)
    signatures = np.full((len(texts), PERMUTATIONS), _PRIME)
    for i, text in enumerate(texts):
        values = _shingles(text)
        for start in range(0, len(values), CHUNK):
            hashed = (values[start : start + CHUNK, None] * a + b) % _PRIME
            signatures[i] = np.minimum(signatures[i], hashed.min(axis=0))
    return signatures


def _buckets(signatures: NDArray[np.uint64]) -> Iterator[list[deque[int]]]:
    """Give each text the queues that it shares with the texts whose signatures agree with its own in a band."""
    bands = [np.unique(band, axis=0, return_inverse=True, return_counts=True)[1:]
             for band in np.split(signatures, BANDS, axis=1)]  # fmt: skip
    shared: dict[tuple[int, int], deque[int]] = defaultdict(lambda: deque(maxlen=CROWD))
    for i in range(len(signatures)):
        own = ((band, int(number[i])) for band, (number, sizes) in enumerate(bands) if sizes[number[i]] > 1)
        yield [shared[key] for key in own]


def _alike(left: frozenset[int], right: frozenset[int]) -> bool:
    shared = len(left & right)
    return shared >= SIMILAR * (len(left) + len(right) - shared)
