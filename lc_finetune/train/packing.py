"""Texts → blocks: many texts after one another, so that no place in a batch is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lc_finetune.errors import DataError, InputError
from lc_finetune.inference.encode import Encoder, Encoding
from lc_finetune.inference.units import is_word_alone

NO_WORD = -1
"""The word of a special token."""
AT_ONCE = 1_000
"""Texts encoded at a time: offsets take much memory, and are not kept."""


@dataclass(frozen=True, slots=True)
class Block:
    """Pieces of one text or more, with the base model's special tokens around them and between texts.

    Attributes:
        ids: Vocabulary ids, shape `(pieces,)`.
        words: The word that each piece belongs to, numbered from 0, or `NO_WORD`; shape `(pieces,)`.
    """

    ids: NDArray[np.int32]
    words: NDArray[np.int32]


def word_starts(text: str, encoding: Encoding) -> list[int]:
    """Say at which pieces a word begins.

    Words are the tokenizer's own: what its `##`, `Ġ` or `▁` joins. Some tokenizers take a run of Chinese or Japanese
    for one word, or a whole text, so words also end at white space and on both sides of each character of these
    languages.

    Example:
        The pieces `straw`, `##berry`, `jam` begin words at 0 and 2.
    """
    return [
        piece
        for piece, word in enumerate(encoding.words)
        if piece == 0
        or word != encoding.words[piece - 1]
        or _parted(text, encoding.offsets[piece - 1], encoding.offsets[piece])
    ]


def _parted(text: str, before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Say whether a word ends between two pieces, all the same to the tokenizer."""
    if after[0] < before[1] or text[slice(*before)].isspace():
        return False  # pieces of one character, or a space and what it stands before
    joint = text[max(0, before[1] - 1) : after[0] + 1]
    return bool(joint) and (is_word_alone(joint[0]) or is_word_alone(joint[-1]) or any(map(str.isspace, joint[1:])))


def pack(texts: Sequence[str], encoder: Encoder, *, max_length: int, source: str = "texts") -> list[Block]:
    """Fill blocks with texts, as RoBERTa was trained (Liu et al. 2019, "full sentences"); nothing is left out.

    What ends a text for the tokenizer stands between texts too. A block ends before the word that has no room in it;
    only a word longer than a block is cut.

    Args:
        texts: The texts, in the order in which they are packed.
        encoder: The base model's tokenizer, with offsets.
        max_length: Pieces of a block, special tokens included.
        source: Where the texts come from, for errors.

    Returns:
        The blocks; the last of them may be short.

    Raises:
        DataError: If the tokenizer cannot read a text.
    """
    room = max_length - len(encoder.frame)
    blocks: list[Block] = []
    ids: list[int] = []
    words: list[int] = []
    last = NO_WORD

    def close() -> None:
        while words and words[-1] == NO_WORD:  # the block's own suffix ends the text
            ids.pop()
            words.pop()
        if ids:
            blocks.append(_framed(ids, words, encoder))
        ids.clear()
        words.clear()

    for pieces in _pieces_of_words(texts, encoder, source):
        for word in pieces:
            for start in range(0, len(word), room):
                part = word[start : start + room]
                if len(ids) + len(part) > room:
                    close()
                    last = NO_WORD
                last += 1
                words += [last] * len(part)
                ids += part
        ids += encoder.frame.after
        words += [NO_WORD] * len(encoder.frame.after)
    close()
    return blocks


def _framed(ids: Sequence[int], words: Sequence[int], encoder: Encoder) -> Block:
    before, after = [NO_WORD] * len(encoder.frame.before), [NO_WORD] * len(encoder.frame.after)
    return Block(
        ids=np.array(encoder.frame.around(ids), dtype=np.int32),
        words=np.array([*before, *words, *after], dtype=np.int32),
    )


def _pieces_of_words(texts: Sequence[str], encoder: Encoder, source: str) -> Iterator[list[Sequence[int]]]:
    """Give the pieces of each word of each text that has any."""
    for first in range(0, len(texts), AT_ONCE):
        some = texts[first : first + AT_ONCE]
        for number, (text, encoding) in enumerate(zip(some, encoder.encode(some), strict=True), start=first + 1):
            if isinstance(encoding, InputError):
                raise DataError(f"{source}: text number {number}: {encoding}") from encoding
            edges = [*word_starts(text, encoding), len(encoding.ids)]
            if len(edges) > 1:
                yield [encoding.ids[start:end] for start, end in pairwise(edges)]
