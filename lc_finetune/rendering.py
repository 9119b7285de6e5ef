"""Results → what is seen of them: HTML in a notebook, rich text in a terminal.

A result is taken apart into a headline, passages with marks, and bars, and each of these is written either way. The
user's text and labels are shown as they are, except for characters that would act on the page or the terminal instead
of being seen: these are named. The colours are those of Okabe and Ito 2008, "Color Universal Design", told apart by all
kinds of colour vision. Nothing is said by colour alone, and text keeps the colour of its surroundings, light or dark.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from itertools import pairwise
from typing import TYPE_CHECKING

from markupsafe import Markup

from lc_finetune.schemas import (
    Attribution,
    Classification,
    Entity,
    Explanation,
    Generation,
    Mention,
    MultiLabelClassification,
    Neighbour,
    PairClassification,
    QuestionAnswer,
    Regression,
    Relation,
    RelationClassification,
    Relations,
    Result,
    Scores,
    Tagging,
)

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.text import Text

PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Colours of labels."""
CHOSEN, OTHER = "#0072B2", "#808080"
"""Colours of bars: of what was answered, and of the rest."""
FOR, AGAINST = "#0072B2", "#D55E00"
"""Colours of what speaks for something, and of what speaks against it."""
STRONG = 1 / 3
"""Share of the strongest weight from which on a terminal fills what is behind a text, and a sign follows it."""
MOST_BARS = 8
"""Labels that are drawn of a model with more, unless more were given."""
BAR_CELLS = 24
"""Width of a full bar in a terminal, in cells."""


@dataclass(frozen=True)
class Headline:
    """The answer, and what is said of it."""

    answer: str
    facts: Sequence[str] = ()


@dataclass(frozen=True)
class Mark:
    """Characters of a passage that have a label."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Passage:
    """A text of the user's, with its marks in any order."""

    text: str
    marks: Sequence[Mark] = ()
    caption: str = ""


@dataclass(frozen=True)
class Bar:
    """A row: what it is of, a value drawn as a bar, and what is said of it."""

    cells: Sequence[str]
    value: float | None
    chosen: bool = False
    remark: str = ""
    full: float = 1.0

    @property
    def share(self) -> float:
        """How much of the bar is filled, whatever the value is; all of it at `full`, below 0 as above."""
        return min(1.0, max(0.0, abs(self.value or 0.0) / self.full))

    @property
    def colour(self) -> str:
        """What it is drawn in."""
        if (self.value or 0.0) < 0:
            return AGAINST
        return CHOSEN if self.chosen else OTHER


@dataclass(frozen=True)
class Bars:
    """Rows of as many cells each, and a word on what is not among them."""

    rows: Sequence[Bar]
    note: str = ""


@dataclass(frozen=True)
class Weighed:
    """A text of the user's, and how much ranges of it speak for something (up to 1) or against it (down to -1)."""

    text: str
    shares: Sequence[tuple[int, int, float]]


Part = Headline | Passage | Weighed | Bars


# Results → parts.


@singledispatch
def parts_of(shown: object) -> Iterable[Part]:
    """Take a result apart.

    Raises:
        TypeError: If it is none.
    """
    raise TypeError(f"Expected a result of lc_finetune, found {type(shown).__name__}.")


@parts_of.register
def _(shown: Result) -> Iterable[Part]:
    return [Passage(shown.text)]


@parts_of.register
def _(shown: Scores) -> Iterable[Part]:
    return [_bars_of(shown, ())]


@parts_of.register
def _(shown: Classification) -> Iterable[Part]:
    return [_headline(shown), Passage(shown.text), *_bars(shown.scores, [shown.label])]


@parts_of.register
def _(shown: PairClassification) -> Iterable[Part]:
    passages = Passage(shown.text, caption="text"), Passage(shown.text_pair, caption="text_pair")
    return [_headline(shown), *passages, *_bars(shown.scores, [shown.label])]


def _headline(shown: Classification) -> Headline:
    among = [f"among {', '.join(shown.prediction_set)}"] if shown.prediction_set is not None else []
    facts = [*_score(shown.score), *_accepted(shown.accepted), *_in_scope(shown.in_scope), *among, *_source(shown)]
    return Headline(shown.label, facts)


@parts_of.register
def _(shown: MultiLabelClassification) -> Iterable[Part]:
    facts = [*_accepted(shown.accepted), *_in_scope(shown.in_scope), *_source(shown)]
    answer = ", ".join(shown.labels) or "no label"
    return [Headline(answer, facts), Passage(shown.text), *_bars(shown.scores, shown.labels)]


@parts_of.register
def _(shown: Regression) -> Iterable[Part]:
    facts = []
    if shown.low is not None and shown.high is not None:
        share = f", as at least {shown.coverage:.0%} of numbers do" if shown.coverage is not None else ""
        facts.append(f"lies between {shown.low:.4g} and {shown.high:.4g}{share}")
    return [Headline(f"{shown.value:.4g}", [*facts, *_source(shown)]), Passage(shown.text)]


@parts_of.register
def _(shown: Tagging) -> Iterable[Part]:
    found = len(shown.entities)
    counted = "no entities" if not found else f"{found} {'entity' if found == 1 else 'entities'}"
    marks = [Mark(one.start, one.end, one.label) for one in shown.entities]
    return [Headline(counted, _source(shown)), Passage(shown.text, marks), *_entity_bars(shown.entities)]


@parts_of.register
def _(shown: Entity) -> Iterable[Part]:
    return _entity_bars([shown])


def _entity_bars(entities: Sequence[Entity]) -> list[Part]:
    rows = [
        Bar([one.label, one.text, _place(one)], one.score, chosen=True, remark=" ".join(_accepted(one.accepted)))
        for one in entities
    ]
    return [Bars(rows)] if rows else []


@parts_of.register
def _(shown: Generation) -> Iterable[Part]:
    ended = "ended by the model" if shown.complete else "cut off by the limit on its length"
    passages = Passage(shown.text, caption="text"), Passage(shown.input, caption="input")
    return [Headline("generated text", [ended, *_source(shown)]), *passages]


@parts_of.register
def _(shown: QuestionAnswer) -> Iterable[Part]:
    marks = []
    place = []
    if shown.answer is not None and shown.start is not None and shown.end is not None:
        marks = [Mark(shown.start, shown.end, "answer")]
        place = [f"characters {shown.start} to {shown.end}"]
    facts = [*_score(shown.score), *_accepted(shown.accepted), *place, *_source(shown)]
    return [
        Headline("no answer" if shown.answer is None else shown.answer, facts),
        Passage(shown.question, caption="question"),
        Passage(shown.context, marks, caption="context"),
    ]


@parts_of.register
def _(shown: Mention) -> Iterable[Part]:
    return [Bars([Bar([*_label_of(shown), shown.text, _place(shown)], None)])]


@parts_of.register
def _(shown: Relation) -> Iterable[Part]:
    mentions = [
        Bar([name, one.text, *(_label_of(one) or [""]), _place(one)], None)
        for name, one in (("head", shown.head), ("tail", shown.tail))
    ]
    return [_relation_headline(shown), Bars(mentions), *_bars(shown.scores, [shown.label])]


@parts_of.register
def _(shown: RelationClassification) -> Iterable[Part]:
    marks = [Mark(one.start, one.end, name) for name, one in (("head", shown.head), ("tail", shown.tail))]
    headline = _relation_headline(shown, _source(shown))
    return [headline, Passage(shown.text, marks), *_bars(shown.scores, [shown.label])]


def _relation_headline(shown: Relation, facts: Sequence[str] = ()) -> Headline:
    return Headline(shown.label, [*_score(shown.score), *_accepted(shown.accepted), *facts])


@parts_of.register
def _(shown: Relations) -> Iterable[Part]:
    mentions = dict.fromkeys(mention for one in shown.relations for mention in (one.head, one.tail))
    marks = [Mark(one.start, one.end, one.label or "mention") for one in mentions]
    rows = [
        Bar([one.head.text, one.label, one.tail.text], one.score, chosen=True, remark=" ".join(_accepted(one.accepted)))
        for one in shown.relations
    ]
    found = len(rows)
    counted = "no relations" if not found else f"{found} {'relation' if found == 1 else 'relations'}"
    left_out = [f"{shown.too_far_apart} couples too far apart"] if shown.too_far_apart else []
    headline = Headline(counted, [*left_out, *_source(shown)])
    return [headline, Passage(shown.text, marks), *([Bars(rows)] if rows else [])]


@parts_of.register
def _(shown: Explanation) -> Iterable[Part]:
    largest = max((abs(one.weight) for one in shown.attributions), default=0.0) or 1.0
    shares = [(one.start, one.end, one.weight / largest) for one in shown.attributions]
    ranked = sorted(shown.attributions, key=lambda one: -abs(one.weight))
    rows = [_weight_bar(one, largest) for one in ranked[:MOST_BARS]]
    note = f"{len(ranked) - len(rows)} more, none stronger" if len(ranked) > len(rows) else ""
    facts = [
        *_score(shown.score),
        f"logit {shown.logit:.4f}, without the text {shown.baseline_logit:.4f}",
        f"error {abs(shown.convergence_delta):.4f}",
    ]
    return [
        Headline(shown.label, facts),
        Weighed(shown.text, shares),
        *([Bars(rows, note)] if rows else []),
        *_neighbour_bars(shown.neighbours or ()),
    ]


@parts_of.register
def _(shown: Attribution) -> Iterable[Part]:
    return [Bars([_weight_bar(shown, abs(shown.weight) or 1.0)])]


def _weight_bar(one: Attribution, largest: float) -> Bar:
    remark = "for" if one.weight > 0 else "against" if one.weight < 0 else ""
    return Bar([one.text, _place(one)], one.weight, chosen=one.weight > 0, remark=remark, full=largest)


@parts_of.register
def _(shown: Neighbour) -> Iterable[Part]:
    return _neighbour_bars([shown])


def _neighbour_bars(neighbours: Sequence[Neighbour]) -> list[Part]:
    rows = [
        Bar(
            [one.label if one.label is not None else ", ".join(one.labels or ()), one.text], one.similarity, chosen=True
        )
        for one in neighbours
    ]
    return [Headline("Most like it among the training rows"), Bars(rows)] if rows else []


def _bars(scores: Mapping[str, float], given: Sequence[str]) -> list[Part]:
    return [_bars_of(scores, given)] if scores else []


def _bars_of(scores: Mapping[str, float], given: Sequence[str]) -> Bars:
    """Draw the labels that were given and the likeliest others, the likeliest first."""
    ranked = sorted(scores, key=lambda label: -scores[label])
    most = max(MOST_BARS, len(given))
    others = [label for label in ranked if label not in given][: max(0, most - len(given))]
    drawn = {*given, *others}
    rows = [Bar([label], scores[label], chosen=label in given) for label in ranked if label in drawn]
    left_out = [label for label in ranked if label not in drawn]
    note = f"{len(left_out)} more, each at most {scores[left_out[0]]:.4f}" if left_out else ""
    return Bars(rows, note)


def _score(score: float | None) -> list[str]:
    return [] if score is None else [f"score {score:.4f}"]


def _accepted(accepted: bool | None) -> list[str]:
    return [] if accepted is None else ["accepted" if accepted else "not accepted"]


def _in_scope(p_value: float | None) -> list[str]:
    return [] if p_value is None else [f"in scope: p = {p_value:.3f}"]


def _source(shown: Result) -> list[str]:
    return ["by an LLM"] if shown.source == "llm" else []


def _place(shown: Attribution | Entity | Mention) -> str:
    return f"{shown.start} to {shown.end}"


def _label_of(shown: Mention) -> list[str]:
    return [] if shown.label is None else [shown.label]


# What both ways of writing share.

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls of a terminal, controls that turn the direction of what follows, and halves of characters."""


def visible(text: str) -> str:
    r"""Name each character that acts instead of being seen; a line's end stays, as does a tab.

    Example:
        >>> visible("a\x1b[2Jb")
        'a⟨U+001B⟩[2Jb'
    """
    return _UNSEEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text.replace("\r\n", "\n"))


def colours_of(labels: Iterable[str]) -> dict[str, str]:
    """Give each label a colour: the same in every result, unless two of one result would share it."""
    chosen: dict[str, str] = {}
    for label in sorted(set(labels)):
        first = zlib.crc32(label.encode("utf-8", "surrogatepass")) % len(PALETTE)
        turned = PALETTE[first:] + PALETTE[:first]
        chosen[label] = next((colour for colour in turned if colour not in chosen.values()), turned[0])
    return chosen


def ink_on(colour: str) -> str:
    """Choose black or white, whichever is told better from a colour (WCAG 2.2, relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _rgb(colour)]
    luminance = sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#000000" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "#FFFFFF"


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


@dataclass(frozen=True)
class _Segment:
    """Characters between two places where a mark begins or ends."""

    text: str
    begin: Sequence[str]
    within: Sequence[Mark]
    end: Sequence[tuple[str, Mark]]


def _segments(passage: Passage) -> Iterator[_Segment]:
    """Cut a text where marks begin and end; marks that overlap have numbers, by which their ends are told apart."""
    length = len(passage.text)
    marks = sorted((one for one in passage.marks if one.start < min(one.end, length)), key=lambda m: (m.start, -m.end))
    farthest = 0
    overlap = False
    for mark in marks:
        overlap |= mark.start < farthest
        farthest = max(farthest, mark.end)
    number = {i: f"{i + 1} " if overlap else "" for i in range(len(marks))}
    cuts = sorted({0, length, *(cut for one in marks for cut in (one.start, min(one.end, length)))})
    for start, end in pairwise(cuts):
        within = [(i, one) for i, one in enumerate(marks) if one.start <= start < one.end]
        yield _Segment(
            passage.text[start:end],
            [number[i] for i, one in within if one.start == start],
            [one for _, one in within],
            [(number[i], one) for i, one in reversed(within) if min(one.end, length) == end],
        )


def _weighed(part: Weighed) -> Iterator[tuple[str, float]]:
    """Cut a text where ranges begin and end, the ranges in order; what is in none has a share of 0."""
    done = 0
    for start, end, share in part.shares:
        start = max(start, done)
        if start < end:
            yield part.text[done:start], 0.0
            yield part.text[start:end], share
            done = end
    yield part.text[done:], 0.0


# HTML.

_FRAME = "font-family:inherit;line-height:1.6;margin:.25em 0"
_FAINT = "opacity:.75"
_CAPTION = f"{_FAINT};font-size:.85em;line-height:1.2;margin-top:.4em"
_PASSAGE = "white-space:pre-wrap;overflow-wrap:anywhere;max-height:24em;overflow-y:auto;line-height:1.9;margin:.1em 0"
_CHIP = (
    "font-size:.75em;font-weight:600;line-height:1.5;padding:.05em .4em;margin:0 .15em;border-radius:.3em;"
    "unicode-bidi:isolate;white-space:nowrap"
)
_CELL = "overflow-wrap:anywhere;unicode-bidi:isolate"
_TRACK = "width:12em;height:.7em;border-radius:.2em;background:rgba(128,128,128,.2)"


def to_html(shown: object) -> str:
    """Write a result as HTML: safe whatever its text and labels hold, styled inline, without scripts.

    Args:
        shown: A result, or a part of one (`Entity`, `Mention`, `Relation`, `Scores`).

    Raises:
        TypeError: If it is neither.
    """
    written = Markup("").join(_html(part) for part in parts_of(shown))
    return str(Markup('<div style="{}">{}</div>').format(_FRAME, written))


def _html(part: Part) -> Markup:
    if isinstance(part, Headline):
        return _html_headline(part)
    if isinstance(part, Passage):
        return _html_passage(part)
    return _html_weighed(part) if isinstance(part, Weighed) else _html_bars(part)


def _html_headline(part: Headline) -> Markup:
    facts = Markup("").join(
        Markup('<span style="{}"> · <bdi>{}</bdi></span>').format(_FAINT, visible(fact)) for fact in part.facts
    )
    return Markup('<div style="{}"><strong><bdi>{}</bdi></strong>{}</div>').format(_CELL, visible(part.answer), facts)


def _html_passage(part: Passage) -> Markup:
    colours = colours_of(mark.label for mark in part.marks)
    pieces = Markup("").join(_html_segment(segment, colours) for segment in _segments(part))
    caption = Markup('<div style="{}">{}</div>').format(_CAPTION, part.caption) if part.caption else ""
    return Markup('{}<div dir="auto" style="{}">{}</div>').format(caption, _PASSAGE, pieces)


def _html_segment(segment: _Segment, colours: Mapping[str, str]) -> Markup:
    text = visible(segment.text)
    if not segment.within:
        return Markup("{}").format(text)
    innermost = min(segment.within, key=lambda mark: mark.end - mark.start)
    tint = ",".join(f"{255 * c:.0f}" for c in _rgb(colours[innermost.label]))
    lines = [f"inset 0 -{2 * (i + 1)}px 0 {colours[mark.label]}" for i, mark in enumerate(reversed(segment.within))]
    style = f"color:inherit;background:rgba({tint},.3);box-shadow:{','.join(lines)};padding:.1em .1em"
    number = Markup('<sup style="unicode-bidi:isolate;margin:0 .15em">{}</sup>')
    numbers = Markup("").join(number.format(one.strip()) for one in segment.begin if one)
    chips = Markup("").join(_html_chip(one + mark.label, colours[mark.label]) for one, mark in segment.end)
    return Markup('{}<mark style="{}">{}</mark>{}').format(numbers, style, text, chips)


def _html_chip(said: str, colour: str) -> Markup:
    style = f"{_CHIP};background:{colour};color:{ink_on(colour)}"
    return Markup('<span style="{}">{}</span>').format(style, visible(said))


def _html_weighed(part: Weighed) -> Markup:
    pieces = Markup("").join(_html_weight(text, share) for text, share in _weighed(part))
    return Markup('<div dir="auto" style="{}">{}</div>').format(_PASSAGE, pieces)


def _html_weight(text: str, share: float) -> Markup:
    if not share:
        return Markup("{}").format(visible(text))
    tint = ",".join(f"{255 * c:.0f}" for c in _rgb(FOR if share > 0 else AGAINST))
    line = "solid" if share > 0 else "dashed"
    strength = abs(share)
    style = f"background:rgba({tint},{0.5 * strength:.2f});border-bottom:2px {line} rgba({tint},{strength:.2f})"
    sign = Markup("<sup>{}</sup>").format("+" if share > 0 else "−") if strength >= STRONG else ""
    return Markup('<span style="{}">{}</span>{}').format(style, visible(text), sign)


def _html_bars(part: Bars) -> Markup:
    columns = len(part.rows[0].cells) if part.rows else 1
    grid = (
        f"display:grid;grid-template-columns:repeat({columns},fit-content(20em)) max-content max-content max-content;"
        "column-gap:.8em;align-items:center;font-size:.9em;margin:.3em 0"
    )
    rows = Markup("").join(_html_bar(row) for row in part.rows)
    note = Markup('<div style="{};font-size:.9em">{}</div>').format(_FAINT, part.note) if part.note else ""
    return Markup('<div style="{}">{}</div>{}').format(grid, rows, note)


def _html_bar(row: Bar) -> Markup:
    weight = "600" if row.chosen else "400"
    first, *others = (visible(cell) for cell in row.cells)
    cells = Markup('<span style="{};font-weight:{}">{}</span>').format(_CELL, weight, first)
    cells += Markup("").join(Markup('<span style="{}">{}</span>').format(_CELL, cell) for cell in others)
    if row.value is None:
        return cells + Markup("<span></span><span></span><span>{}</span>").format(row.remark)
    filled = f"width:{100 * row.share:.2f}%;height:100%;border-radius:inherit;background:{row.colour}"
    track = Markup('<span style="{}" aria-hidden="true"><span style="display:block;{}"></span></span>')
    value = Markup('<span style="font-variant-numeric:tabular-nums">{}</span><span style="{}">{}</span>')
    return cells + track.format(_TRACK, filled) + value.format(f"{row.value:.4f}", _FAINT, row.remark)


# Terminals, through rich.


def to_terminal(shown: object, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
    """Write a result for rich, which asks it so: `rich.print(result)`.

    Args:
        shown: As in `to_html`.
        console: What it is printed on.
        options: What there is room for, and which characters.

    Raises:
        TypeError: If it is neither a result nor a part of one.
    """
    for part in parts_of(shown):
        if isinstance(part, Headline):
            yield _rich_headline(part)
        elif isinstance(part, Passage):
            yield _rich_passage(part)
        elif isinstance(part, Weighed):
            yield _rich_weighed(part, ascii_only=options.ascii_only)
        else:
            yield from _rich_bars(part, ascii_only=options.ascii_only)


def _rich_headline(part: Headline) -> Text:
    from rich.text import Text

    return Text.assemble((visible(part.answer), "bold"), *((f" · {visible(fact)}", "") for fact in part.facts))


def _rich_passage(part: Passage) -> Text:
    """Write the text, each mark in brackets with its label at the end."""
    from rich.text import Text

    colours = colours_of(mark.label for mark in part.marks)
    written = Text(f"{part.caption}: " if part.caption else "")
    for segment in _segments(part):
        for number in segment.begin:
            written.append(f"[{number}", "bold")
        written.append(visible(segment.text), "underline" if segment.within else "")
        for number, mark in segment.end:
            colour = colours[mark.label]
            written.append(" ")
            written.append(f" {number}{visible(mark.label)} ", f"bold {ink_on(colour)} on {colour}")
            written.append("]", "bold")
    return written


def _rich_weighed(part: Weighed, *, ascii_only: bool) -> Text:
    """Write the text, what is strong on a colour and with a sign, what is weaker underlined in that colour."""
    from rich.text import Text

    signs = ("+", "-") if ascii_only else ("⁺", "⁻")
    written = Text()
    for text, share in _weighed(part):
        colour, sign = (FOR, signs[0]) if share > 0 else (AGAINST, signs[1])
        if abs(share) >= STRONG:
            written.append(visible(text), f"bold {ink_on(colour)} on {colour}")
            written.append(sign, "bold")
        else:
            written.append(visible(text), f"underline {colour}" if abs(share) >= STRONG / 3 else "")
    return written


def _rich_bars(part: Bars, *, ascii_only: bool) -> Iterator[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for row in part.rows:
        first, *others = (Text(visible(cell), overflow="fold") for cell in row.cells)
        first.stylize("bold" if row.chosen else "")
        value = "" if row.value is None else f"{row.value:.4f}"
        table.add_row(
            first, *others, _rich_bar(row, ascii_only=ascii_only), Text(value, no_wrap=True), Text(row.remark)
        )
    yield table
    if part.note:
        yield Text(part.note)


def _rich_bar(row: Bar, *, ascii_only: bool) -> Text:
    from rich.text import Text

    full, empty = "#-" if ascii_only else "█░"
    if row.value is None:
        return Text()
    cells = round(BAR_CELLS * row.share)
    return Text.assemble(
        (full * cells, row.colour if row.chosen or row.colour == AGAINST else ""),
        (empty * (BAR_CELLS - cells), ""),
        no_wrap=True,
        overflow="crop",
    )
