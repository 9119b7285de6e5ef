"""How a text shows which two of its mentions a relation is asked for.

A model reads `[E1] Ann [/E1] runs the [E2] shop [/E2].`: an ordinary text, with four pieces that its tokenizer knows as
whole. Baldini Soares et al. 2019, "Matching the Blanks", compare such markers with other ways to point at entities.
"""

from __future__ import annotations

import re

from lc_finetune.errors import InputError

MARKERS = ("[E1]", "[/E1]", "[E2]", "[/E2]")
"""Before and after the head, before and after the tail."""
INVERSE = ("(e1,e2)", "(e2,e1)")
"""How labels end that say which of the two comes first in their name, as in SemEval-2010 task 8."""
NO_RELATION = ("Other", "no_relation", "NA")
"""Labels of mentions that stand in none of the relations, in SemEval, TACRED and NYT10; averages leave them out."""

Range = tuple[int, int]
"""Character offsets; the end is exclusive."""

_INLINE = re.compile(r"[<\[](/?)[eE]([12])[>\]]")


def mark(text: str, head: Range, tail: Range) -> str:
    """Write the text as a model reads it, with markers around both mentions.

    A marker stands a space apart from its mention. Tokenizers of words at spaces so read the mention as they would
    without it; the space before a marker is the marker's own.

    Raises:
        InputError: If a range is empty, not within the text, or overlaps the other, or the text has markers already.

    Example:
        >>> mark("Ann runs it", (0, 3), (9, 11))
        '[E1] Ann [/E1] runs [E2] it [/E2]'
    """
    for name, (start, end) in (("head", head), ("tail", tail)):
        if not 0 <= start < end <= len(text) or text[start:end].isspace():
            raise InputError(
                f"Expected {name} to be a part of the text (0 to {len(text)}), found {start} to {end}"
                f"{', which is blank' if 0 <= start < end <= len(text) else ''}. "
                "Offsets count characters, the end is exclusive."
            )
    if head[0] < tail[1] and tail[0] < head[1]:
        raise InputError(
            f"Expected head and tail apart, found {head[0]} to {head[1]} and {tail[0]} to {tail[1]}, which overlap."
        )
    if has_markers(text):
        raise InputError(
            f"Expected a text without {' '.join(MARKERS)}, which mark the head and the tail for the model, found one "
            "of them in it. Take it out; head and tail are given by their offsets."
        )
    marked = text
    for (start, end), opening, closing in sorted(((head, *MARKERS[:2]), (tail, *MARKERS[2:])), reverse=True):
        marked = f"{marked[:start]}{opening} {marked[start:end]} {closing}{marked[end:]}"
    return marked


def has_markers(text: str) -> bool:
    """Say whether a text has one of the model's own markers."""
    return any(marker in text for marker in MARKERS)


def are_inline(text: str) -> bool:
    """Say whether a text has all four of `<e1>`, `</e1>`, `<e2>` and `</e2>`, or of the model's own, each once."""
    return sorted(_INLINE.findall(text)) == [("", "1"), ("", "2"), ("/", "1"), ("/", "2")]


def has_inline(text: str) -> bool:
    """Say whether a text has one of the inline markers, in either form."""
    return _INLINE.search(text) is not None


def unmark(text: str) -> tuple[str, Range, Range]:
    """Take inline markers, `<e1>…</e1>` and `<e2>…</e2>` or `[E1]…[/E1]`, out of a text, and nothing else.

    Returns:
        The text without them, and the offsets of head (1) and tail (2) in it, less the white space at their ends.

    Raises:
        ValueError: If a marker is missing or there twice, the two cross, or one encloses nothing; says what was found.

    Example:
        >>> unmark("<e1>Ann</e1> runs <e2>it</e2>")
        ('Ann runs it', (0, 3), (9, 11))
    """
    found = list(_INLINE.finditer(text))
    names = [marker[1] + marker[2] for marker in found]
    if not are_inline(text):
        lacking = [f"<{slash}e{number}>" for number in "12" for slash in ("", "/") if slash + number not in names]
        raise ValueError(f"none of {' '.join(lacking)}" if lacking else f"{len(names)} of them")
    if names not in (["1", "/1", "2", "/2"], ["2", "/2", "1", "/1"]):
        raise ValueError("one that crosses or encloses another, or ends before it begins")
    kept: list[str] = []
    at: dict[str, int] = {}
    end = length = 0
    for marker, name in zip(found, names, strict=True):
        kept.append(text[end : marker.start()])
        length += len(kept[-1])
        at[name] = length
        end = marker.end()
    plain = "".join([*kept, text[end:]])
    head, tail = (tight(plain, at[number], at[f"/{number}"]) for number in "12")
    if head[0] >= head[1] or tail[0] >= tail[1]:
        raise ValueError("a pair of them around nothing")
    return plain, head, tail


def tight(text: str, start: int, end: int) -> Range:
    """Take white space off both ends of a range."""
    inside = text[start:end]
    first = end - len(inside.lstrip())
    return first, max(first, start + len(inside.rstrip()))


def as_marked(text: str) -> str:
    """Write a text with inline markers as a model reads it; one without them stays as it is, and will be refused."""
    try:
        return mark(*unmark(text))
    except (ValueError, InputError):
        return text


def relation_of(label: str) -> str:
    """Take the direction off a label.

    Example:
        >>> relation_of("Cause-Effect(e2,e1)")
        'Cause-Effect'
    """
    return next((label.removesuffix(end) for end in INVERSE if label.endswith(end)), label)
