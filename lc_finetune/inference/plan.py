"""Lengths → windows and batches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def windows(length: int, capacity: int, stride: int) -> list[tuple[int, int]]:
    """Cover `length` pieces with ranges of at most `capacity`, neighbours sharing at least `stride`.

    An empty text has one empty window. The last window ends with the text and is as full as the others, so that no
    piece is judged with less context than its neighbours.

    Example:
        >>> windows(10, 6, 2)
        [(0, 6), (4, 10)]
    """
    if length <= capacity:
        return [(0, length)]
    step = capacity - min(stride, capacity - 1)
    starts = [*range(0, length - capacity, step), length - capacity]
    return [(start, start + capacity) for start in starts]


def rooms(first: int, second: int, room: int) -> tuple[int, int]:
    """Share out the room of a window: how many pieces of each text of a pair it holds.

    A pair that fits has all it needs. The shorter text of a longer pair is held whole if half of the room is enough for
    it, and the longer one has the rest; otherwise each has half.

    Example:
        >>> rooms(3, 20, 10)
        (3, 7)
        >>> rooms(12, 20, 10)
        (5, 5)
    """
    if first + second <= room:
        return first, second
    half = room // 2
    if min(first, second) > half:
        return half, room - half
    return (first, room - first) if first <= second else (room - second, second)


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut positions, sorted by length, into batches of at most `budget` tokens, padding counted.

    Longest first, so that a batch too large for memory is met at once. A sequence longer than the budget is a batch of
    its own.

    Example:
        >>> batches([3, 9, 4, 10], 20)
        [[3, 1], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    cut: list[list[int]] = []
    room = 0
    for position in order:
        if room == 0:
            cut.append([])
            room = max(1, budget // max(1, lengths[position]))
        cut[-1].append(position)
        room -= 1
    return cut


def cores(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Give each piece of a windowed text to the window that sees most around it: disjoint ranges that cover the text.

    Example:
        >>> cores([(0, 6), (4, 10)])
        [(0, 5), (5, 10)]
    """
    middles = [(left[1] + right[0]) // 2 for left, right in pairwise(ranges)]
    edges = [ranges[0][0], *middles, ranges[-1][1]]
    return list(pairwise(edges))


def shares(ranges: Sequence[tuple[int, int]]) -> list[float]:
    """Weigh the windows of a text by the pieces that are each one's own; the weights add up to 1.

    Example:
        >>> shares([(0, 6), (4, 10)])
        [0.5, 0.5]
    """
    owned = [end - start for start, end in cores(ranges)]
    return [1.0] if len(owned) == 1 else [pieces / sum(owned) for pieces in owned]
