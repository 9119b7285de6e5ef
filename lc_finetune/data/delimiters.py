"""Cells that hold several labels: what stands between them, told from the cells themselves."""

from __future__ import annotations

import ast
from collections.abc import Sequence

CANDIDATES = ("|", ";", ",")
KNOWN_ALONE = 0.9
"""Least share of the labels that must also stand alone somewhere, where nothing else says that cells hold several."""


def parts_of(cell: str, delimiter: str) -> list[str]:
    """Cut a cell into its labels, without the space around them; what is empty is no label."""
    return [part for part in (part.strip() for part in cell.split(delimiter)) if part]


def listed(cell: str) -> list[str] | None:
    """Read a cell such as `['late', 'broken']` or `[0, 4]`, as pandas writes lists; None if it is none."""
    if not (cell.strip().startswith("[") and cell.strip().endswith("]")):
        return None
    try:
        found = ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    plain = isinstance(found, list) and all(type(one) in (str, int) for one in found)
    return [str(one) for one in found] if plain else None


def held(cells: Sequence[str]) -> list[str]:
    """Name the candidates that occur in the cells, the most frequent first."""
    counts = {candidate: sum(candidate in cell for cell in cells) for candidate in CANDIDATES}
    return sorted((one for one in CANDIDATES if counts[one]), key=lambda one: -counts[one])


def separating(cells: Sequence[str]) -> list[str]:
    """Name the candidates that explain the cells by fewer labels than there are different cells.

    Labels that happen to hold a comma do not combine, so that cutting them gives more parts than there were labels.
    """
    different = set(cells)
    return [one for one in held(cells) if len({part for cell in different for part in parts_of(cell, one)}) <
            len({tuple(parts_of(cell, one)) for cell in different})]  # fmt: skip


def evident(cells: Sequence[str]) -> str | None:
    """Find the delimiter of cells that nobody said hold several labels; None if they may as well be whole.

    It must separate (see `separating`), and nearly all parts must be labels of their own in other rows. A comma between
    two numbers may be a decimal one, so that numbers need a cell of three.
    """
    for delimiter in separating(cells):
        different = {tuple(parts_of(cell, delimiter)) for cell in set(cells)}
        labels = {part for parts in different for part in parts}
        alone = {parts[0] for parts in different if len(parts) == 1}
        decimal = delimiter == "," and all(_is_number(label) for label in labels)
        if len(alone) >= KNOWN_ALONE * len(labels) and max(map(len, different)) > (2 if decimal else 1):
            return delimiter
    return None


def _is_number(label: str) -> bool:
    return label.removeprefix("-").replace(".", "", 1).isdigit()
