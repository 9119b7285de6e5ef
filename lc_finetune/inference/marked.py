"""Texts with two marked mentions → pieces that a window holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lc_finetune.errors import InputError
from lc_finetune.inference.encode import Encoder, Encoding
from lc_finetune.markers import MARKERS


def add_markers(tokenizer: Any) -> None:
    """Let a fast tokenizer of transformers read each marker as one piece, with the space before it if there is one."""
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(marker, lstrip=True, normalized=False) for marker in MARKERS], special_tokens=True)


class TooFarApart(InputError):
    """No window holds both mentions."""


def encode_marked(encoder: Encoder, texts: Sequence[str], *, max_length: int) -> list[Encoding | InputError]:
    """Encode each text, as `lc_finetune.markers.mark` writes it; one that cannot be read gets an `InputError`.

    Of a text longer than a window, the pieces around the two mentions are read, as many before as behind them: a window
    without both would say nothing of their relation.

    Args:
        encoder: Its tokenizer knows the markers.
        texts: The texts.
        max_length: Pieces in one window, special tokens and markers included.
    """
    markers = [encoder.id_of(marker) for marker in MARKERS]
    room = max_length - len(encoder.frame)
    return [one if isinstance(one, InputError) else _around(one, markers, room) for one in encoder.encode(texts)]


def _around(encoding: Encoding, markers: list[int | None], room: int) -> Encoding | InputError:
    found = [position for position, piece in enumerate(encoding.ids) if piece in markers]
    if [encoding.ids[position] for position in found] not in (markers, markers[2:] + markers[:2]):
        return InputError(
            f"Expected a text with a head and a tail, each between its two markers, found {len(found)} markers, or "
            "others. Give the offsets of both or, in a file, write <e1>…</e1> and <e2>…</e2> around them."
        )
    first, end = found[0], found[-1] + 1
    if end - first > room:
        return TooFarApart(
            f"Expected head and tail within a window of {room} pieces, found them {end - first} pieces apart. "
            "Ask about mentions that are nearer to each other, or train with a greater max_length."
        )
    if len(encoding.ids) <= room:
        return encoding
    start = min(max(0, (first + end - room) // 2), len(encoding.ids) - room)
    return Encoding(encoding.ids[start : start + room])
