"""Pieces → tag units: what carries one tag each."""

from __future__ import annotations

import re
import unicodedata

from lc_finetune.checkpoint import TagUnit
from lc_finetune.inference.encode import Encoding

_WORD = re.compile(r"\S+")
_ADDRESS = re.compile(r"[@#]\w|[a-zA-Z][\w+.-]*://|www\.|[\w.+-]+@[\w-]+\.")
"""How @handles, #tags, URLs and mail addresses begin: what stands within them separates nothing."""
_GENITIVE = re.compile(r"['’][sS]$")
_WITHIN = frozenset("'’-‐‑.&_*@#%+")
"""Marks that stand within words: O'Neil, U.S.-made, AT&T."""
_PART_OF = frozenset("@#%+")
"""Those that words also begin or end with: @handle, C#, 5%, C++."""


def tag_units(text: str, encoding: Encoding, unit: TagUnit) -> list[tuple[int, int]]:
    """Say which pieces carry a tag: ranges of pieces, whose first piece does.

    Pieces that show no character of the text (offsets of width zero) belong to no unit of their own.

    Args:
        text: The text.
        encoding: Its pieces, with offsets and words.
        unit: `"piece"`: each piece. `"first"`: each of the tokenizer's words, which for most tokenizers end at every
            punctuation mark. `"word"`: what stands between spaces, as in data of one token a line, less the stops and
            quotation marks around it and an English `'s`, and parted at brackets, commas, slashes, dashes, symbols and
            characters of Chinese and Japanese. The pieces of all these are units of their own. Handles, tags, URLs and
            mail addresses are whole.

    Example:
        The pieces of "(U.S.-made)." as units: `(`, `U.S.-made`, `)`, `.`
    """
    cores = [core for run in _WORD.finditer(text) for core in _cores(text, *run.span())] if unit == "word" else []
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


def _cores(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Find the words of what stands between two spaces; marks alone are one, Chinese and Japanese alone have none."""
    first = next((i for i in range(start, end) if not _surrounds(text[i])), end)
    if first == end:
        return [] if any(map(is_word_alone, text[start:end])) else [(start, end)]
    if _ADDRESS.match(text, first, end):
        return [_stripped(text, first, end)]
    cores: list[tuple[int, int]] = []
    begin = start
    for i in range(start, end + 1):
        if i == end or (_parts(text[i]) and not _in_number(text, i, start, end)):
            begin, last = _stripped(text, begin, i)
            genitive = _GENITIVE.search(text[begin:last])
            if genitive and genitive.start():
                begin, last = _stripped(text, begin, begin + genitive.start())
            if begin < last:
                cores.append((begin, last))
            begin = i + 1
    return cores


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """Take off what surrounds a word."""
    while start < end and _surrounds(text[start]):
        start += 1
    while end > start and _surrounds(text[end - 1]):
        end -= 1
    return start, end


def _surrounds(character: str) -> bool:
    """Say whether a mark belongs to no word at its beginning or end."""
    return character not in _PART_OF and (character in _WITHIN or _parts(character))


def _parts(character: str) -> bool:
    """Say whether what stands before and after a character are words of their own."""
    if character in _WITHIN:
        return False
    if character.isalnum():
        return is_word_alone(character)
    return unicodedata.category(character) not in ("Mn", "Mc", "Sc") or "\ufe00" <= character <= "\ufe0f"


def is_word_alone(character: str) -> bool:
    """Say whether a character is of Chinese or Japanese, which part no words."""
    return "\u2e80" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or character >= "\U00020000"


def _in_number(text: str, i: int, start: int, end: int) -> bool:
    return text[i] in ",:/" and start < i < end - 1 and text[i - 1].isdecimal() and text[i + 1].isdecimal()


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Take whitespace off both ends of a range: tokenizers of the `Ġ` and `▁` kinds count the space before a word."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end
