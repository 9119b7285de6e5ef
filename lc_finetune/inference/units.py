"""Pieces → tag units: what carries one tag each."""

from __future__ import annotations

import re
import unicodedata

from lc_finetune.checkpoint import TagUnit
from lc_finetune.inference.encode import Encoding

NAME_MARKS = "@#"
"""Punctuation that belongs to the word it begins or ends: @handles, #tags, C#."""
_WORD = re.compile(r"\S+")
_GENITIVE = re.compile(r"['’][sS]$")


def tag_units(text: str, encoding: Encoding, unit: TagUnit) -> list[tuple[int, int]]:
    """Say which pieces carry a tag: ranges of pieces, whose first piece does.

    Pieces that show no character of the text (offsets of width zero) belong to no unit of their own.

    Args:
        text: The text.
        encoding: Its pieces, with offsets and words.
        unit: `"piece"`: each piece. `"first"`: each of the tokenizer's words, which for most tokenizers end at every
            punctuation mark. `"word"`: what stands between spaces, as in data of one token a line, less the brackets,
            quotation marks and stops around it and an English `'s`, whose pieces are units of their own.

    Example:
        The pieces of "(U.S.-made)." as units: `(`, `U.S.-made`, `)`, `.`
    """
    cores = [_core(text, match.start(), match.end()) for match in _WORD.finditer(text)] if unit == "word" else []
    ranges: list[tuple[int, int]] = []
    last: int | None = None
    word = 0
    for piece, own in enumerate(encoding.words):
        start, end = encoding.offsets[piece]
        if start == end:
            continue
        belongs = own if unit == "first" else None
        if cores:
            while word + 1 < len(cores) and cores[word][1] < end and cores[word + 1][0] < end:
                word += 1
            belongs = word if cores[word][0] < end and start < cores[word][1] else None
        if belongs is not None and ranges and belongs == last:
            ranges[-1] = (ranges[-1][0], piece + 1)
        else:
            ranges.append((piece, piece + 1))
        last = belongs
    return ranges


def _core(text: str, start: int, end: int) -> tuple[int, int]:
    """Take off what stands around a word; a word of punctuation alone stays whole."""
    first, last = start, end
    while first < last and _surrounds(text[first]):
        first += 1
    while last > first and _surrounds(text[last - 1]):
        last -= 1
    if first == last:
        return start, end
    genitive = _GENITIVE.search(text[first:last])
    if genitive and genitive.start():
        last = first + genitive.start()
    return first, last


def _surrounds(character: str) -> bool:
    return character not in NAME_MARKS and unicodedata.category(character) in ("Pd", "Pe", "Pf", "Pi", "Po", "Ps")


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Take whitespace off both ends of a range: tokenizers of the `Ġ` and `▁` kinds count the space before a word."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end
