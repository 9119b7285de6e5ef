"""Results as they are seen: HTML in notebooks, rich in terminals, and nothing of the text in a log."""

from __future__ import annotations

import io
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from lc_finetune.rendering import AGAINST, CHOSEN, FOR, OTHER, PALETTE, colours_of, ink_on, parts_of, to_html, visible
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

HOSTILE = "<script>alert(1)</script> \"q\" & 'a' \u202egnp.exe\u2066 \x1b[2J \x00 \ud800 &lt;"
SECRET = "4711-secret"
TEXTLESS = (
    Result, Classification, PairClassification, MultiLabelClassification, Regression, Explanation, Attribution,
    Neighbour, Generation,
)  # fmt: skip
UNLABELLED = (Result, Regression, QuestionAnswer, Attribution, Generation)


class _Page(HTMLParser):
    """What a browser makes of a fragment: its words, and each element with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words = ""
        self.marked: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag == "mark":
            self.marked.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data
        if self.open and self.open[-1] == "mark":
            self.marked[-1] += data


def _entity(text: str, part: str, label: str = "LOC", **others: Any) -> Entity:
    start = text.index(part)
    return Entity(label=label, text=part, start=start, end=start + len(part), **others)


def _every(text: str, label: str) -> list[Any]:
    """One of each type, about a text, with a label."""
    length = len(text)
    mention = Mention(text=text, start=0, end=length, label=label)
    relation = Relation(head=mention, tail=mention, label=label, score=0.5, scores=Scores.of({label: 0.5}))
    scores = Scores.of({label: 0.75, "other": 0.25})
    return [
        Result(text=text),
        Classification(text=text, label=label, score=0.75, scores=scores, accepted=False, in_scope=0.5),
        PairClassification(text=text, text_pair=text, label=label, scores=scores),
        MultiLabelClassification(text=text, labels=(label,), scores=scores),
        Regression(text=text, value=4.0, low=3.0, high=5.0, coverage=0.9),
        Tagging(text=text, entities=(Entity(label=label, text=text, start=0, end=length, score=0.5),)),
        QuestionAnswer(text=text, question=text, answer=text, start=0, end=length),
        Generation(text=text, input=text, complete=False),
        RelationClassification(text=text, **dict(relation)),
        Relations(text=text, relations=(relation,), too_far_apart=1),
        Entity(label=label, text=text, start=0, end=length),
        mention,
        relation,
        scores,
        Explanation(
            text=text, label=label, logit=1, baseline_logit=0, convergence_delta=0,
            attributions=(Attribution(text=text, start=0, end=length, weight=1),),
            neighbours=(Neighbour(text=text, labels=(label,), similarity=0.5),),
        ),
        Attribution(text=text, start=0, end=length, weight=-1),
        Neighbour(text=text, label=label, similarity=0.5),
    ]  # fmt: skip


def _printed(shown: Any, *, width: int = 200, encoding: str = "utf-8", colours: bool = False) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    Console(file=file, width=width, force_terminal=colours, color_system="truecolor" if colours else None).print(shown)
    file.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("shown", _every(HOSTILE, f"<b onclick=x>{HOSTILE}"), ids=lambda one: type(one).__name__)
def test_no_text_or_label_acts_on_the_page(shown: Any) -> None:
    """The elements are ours, with nothing but our inline styles; controls and halves of characters are named."""
    html = to_html(shown)
    page = _Page(html)

    assert {tag for tag, _ in page.elements} <= {"div", "span", "strong", "bdi", "mark", "sup"}
    assert {name for _, attributes in page.elements for name in attributes} <= {"style", "dir", "aria-hidden"}
    assert "<b onclick=x>" in page.words or type(shown) in UNLABELLED
    assert not set(html) & {"\u202e", "\u2066", "\x1b", "\x00", "\ud800"}
    html.encode()


@pytest.mark.parametrize("shown", _every(HOSTILE, f"[red]{HOSTILE}"), ids=lambda one: type(one).__name__)
def test_no_text_or_label_acts_on_the_terminal(shown: Any) -> None:
    """No escape sequence, no turned direction, no markup of rich's."""
    printed = _printed(shown)

    assert not set(printed) & {"\u202e", "\u2066", "\x1b", "\x00", "\r"}
    assert "[red]" in printed or type(shown) in UNLABELLED


@pytest.mark.parametrize("shown", _every(SECRET, "label"), ids=lambda one: type(one).__name__)
def test_logs_show_results_without_their_text(shown: Any) -> None:
    """What is seen on purpose has the text; `str` of a result is its `repr`, which leaves the text out."""
    assert "█" not in str(shown)
    if isinstance(shown, Result):
        assert str(shown) == repr(shown)
    if type(shown) in TEXTLESS:
        assert SECRET not in str(shown)
    if not isinstance(shown, Scores):
        assert SECRET in _Page(shown._repr_html_()).words
        assert SECRET in _printed(shown)


def test_rich_is_not_needed() -> None:
    """A result is made, logged, and shown in a notebook without it."""
    code = (
        "import sys; sys.modules['rich'] = None\n"
        "from lc_finetune import Classification\n"
        "one = Classification(text='t', label='a')\n"
        "print(one, len(one._repr_html_()) > 100)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert (
        done.stdout == "Classification(source='model', label='a', score=None, accepted=None, in_scope=None, "
        "prediction_set=None) True\n"
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Angela Merkel flew to Paris.", ["Angela Merkel", "Paris"]),
        ("安格拉·默克尔周一飞往纽约大学。", ["安格拉·默克尔", "纽约大学"]),
        ("AnnBobCarl", ["Ann", "Bob", "Carl"]),
        ("🙂 in 🇫🇷 e\u0301t\u00e9", ["🇫🇷", "e\u0301t\u00e9"]),
        ("زارت أنغيلا ميركل نيويورك", ["أنغيلا ميركل", "نيويورك"]),
        ("a\nb", ["a\nb"]),
    ],
)
def test_entities_are_marked_where_they_are(text: str, parts: list[str]) -> None:
    """By code point, adjacent ones apart, each with its label, and the text around them unchanged."""
    tagging = Tagging(text=text, entities=tuple(_entity(text, part, f"L{i}") for i, part in enumerate(parts)))
    page = _Page(to_html(tagging))
    printed = _printed(tagging)

    assert parts == page.marked
    marked = text
    for i, part in enumerate(parts):
        marked = marked.replace(part, f"[{part}  L{i} ]")
        text = text.replace(part, f"{part}L{i}")
    assert text in page.words
    assert marked in printed


def test_overlapping_entities_are_told_apart_by_numbers() -> None:
    """Each begins with its number and ends with it, whether they nest or cross; the inner one ends first."""
    text = "to New York University on"
    parts = {"New York University": "ORG", "New York": "LOC", "York University on": "X"}
    tagging = Tagging(text=text, entities=tuple(_entity(text, part, label) for part, label in parts.items()))

    assert "to [1 [2 New [3 York  2 LOC ] University  1 ORG ] on  3 X ]" in _printed(tagging)
    page = _Page(to_html(tagging))
    assert "to 12New 3York2 LOC University1 ORG on3 X" in page.words
    assert page.marked == ["New ", "York", " University", " on"]


def test_marks_out_of_the_text_are_cut_to_it() -> None:
    """Whoever made the result: it is shown, and the table says what it holds."""
    entities = (
        Entity(label="A", text="cd", start=2, end=9),
        Entity(label="B", text="", start=1, end=1),
        Entity(label="C", text="?", start=50, end=60),
    )
    page = _Page(to_html(Tagging(text="abcd", entities=entities)))

    assert page.marked == ["cd"]
    assert "50 to 60" in page.words


def test_what_is_answered_is_written_not_only_coloured() -> None:
    """The label, its score, and whether it is accepted stand in words."""
    result = Classification(
        text="t", label="card", score=0.75, scores=Scores.of({"card": 0.75, "cash": 0.25}),
        accepted=False, in_scope=0.5, prediction_set=("card", "cash"),
    )  # fmt: skip
    said = "card · score 0.7500 · not accepted · in scope: p = 0.500 · among card, cash"

    assert said in _Page(to_html(result)).words
    assert said in _printed(result)


def test_bars_are_as_long_as_probabilities() -> None:
    """In both ways of writing; a terminal without block characters gets others."""
    scores = Scores.of({"a": 0.25, "b": 0.75})
    widths = [
        style
        for tag, attributes in _Page(to_html(scores)).elements
        if tag == "span" and "width:" in (style := attributes["style"] or "") and "%" in style
    ]

    assert [style.split(";")[1] for style in widths] == ["width:75.00%", "width:25.00%"]
    assert [line.split()[1] for line in _printed(scores).splitlines()] == ["█" * 18 + "░" * 6, "█" * 6 + "░" * 18]
    assert [line.split()[1] for line in _printed(scores, encoding="ascii").splitlines()] == [
        "#" * 18 + "-" * 6,
        "#" * 6 + "-" * 18,
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 2.0])
def test_a_score_that_is_no_probability_is_shown_as_it_is(value: float) -> None:
    """A bar ends where its track ends."""
    scores = Scores.of({"a": value})

    assert f"{value:.4f}" in _printed(scores)
    assert "width:0.00%" in to_html(scores) or "width:100.00%" in to_html(scores)


def test_of_many_labels_the_likeliest_are_drawn() -> None:
    """All that were given are among them, and what is left out is said."""
    values = {f"label {i:02}": i / 100 for i in range(77)}
    printed = _printed(MultiLabelClassification(text="t", labels=("label 00",), scores=Scores.of(values)))

    assert [line[:8] for line in printed.splitlines()[2:-1]] == [
        *(f"label {i:02}" for i in range(76, 69, -1)),
        "label 00",
    ]
    assert printed.splitlines()[-1] == "69 more, each at most 0.6900"


def test_an_answer_is_marked_in_its_context() -> None:
    """And where there is none, that is said."""
    found = QuestionAnswer(text="It is in Oslo.", question="Where?", answer="Oslo", start=9, end=13)
    none = QuestionAnswer(text="It is in Oslo.", question="When?", answer=None, start=None, end=None, score=0.5)

    assert "context: It is in [Oslo  answer ]." in _printed(found)
    assert _Page(to_html(found)).marked == ["Oslo"]
    assert "no answer · score 0.5000" in _printed(none)


def test_what_speaks_against_a_label_is_told_by_signs_and_lines() -> None:
    """The strongest part is full, what is a third as strong has a sign, and the numbers are listed by strength."""
    text = "the 卡 is lost"
    weights = {"the": 0.1, "卡": -2.0, "lost": 1.0}
    parts = tuple(
        Attribution(text=part, start=text.index(part), end=text.index(part) + len(part), weight=weight)
        for part, weight in weights.items()
    )
    explanation = Explanation(
        text=text, label="card", score=0.25, logit=-0.5, baseline_logit=0.5, convergence_delta=-0.1, attributions=parts,
        neighbours=(Neighbour(text="my card", label="cash", similarity=0.5),),
    )  # fmt: skip
    printed = _printed(explanation)
    page = _Page(to_html(explanation))
    lines = [attributes["style"] or "" for tag, attributes in page.elements if tag == "span"]

    assert "card · score 0.2500 · logit -0.5000, without the text 0.5000 · error 0.1000" in printed
    assert "the 卡⁻ is lost⁺\n" in printed
    assert "the 卡− is lost+" in page.words
    assert ["dashed" in one for one in lines if "border-bottom" in one] == [False, True, False]
    assert [line.split()[-2:] for line in printed.splitlines()[2:5]] == [
        ["-2.0000", "against"], ["1.0000", "for"], ["0.1000", "for"],
    ]  # fmt: skip
    assert [line.split()[4].count("█") for line in printed.splitlines()[2:5]] == [24, 12, 1]
    assert printed.splitlines()[5] == "Most like it among the training rows"
    assert printed.splitlines()[6].split() == ["cash", "my", "card", "█" * 12 + "░" * 12, "0.5000"]


def test_colours_are_of_labels_not_of_places() -> None:
    """A label has the same one in every result, and two labels of a result have two."""
    alone, together = colours_of(["PER"]), colours_of([*"ABCDEFG"])

    assert colours_of(["PER", "PER"]) == alone
    assert sorted(together.values()) == sorted(PALETTE)
    assert set(colours_of(f"L{i}" for i in range(30)).values()) == set(PALETTE)


def test_labels_are_readable_on_their_colours() -> None:
    """A contrast of at least 4.5 : 1 (WCAG 2.2, level AA)."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for colour in PALETTE:
        light, dark = sorted((luminance(colour), luminance(ink_on(colour))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5
    for colour in (CHOSEN, OTHER, FOR, AGAINST):  # bars, beside white and beside the black of dark themes: 3 : 1
        assert (1.05) / (luminance(colour) + 0.05) >= 3
        assert (luminance(colour) + 0.05) / (luminance("#111111") + 0.05) >= 3


def test_colours_of_the_surroundings_stay() -> None:
    """No background but behind marks, and no colour of plain text, so that a dark page stays dark."""
    text = "Ann in Oslo"
    styles = [
        (tag, attributes["style"] or "")
        for tag, attributes in _Page(to_html(Tagging(text=text, entities=(_entity(text, "Oslo"),)))).elements
        if "style" in attributes
    ]

    assert [tag for tag, style in styles if "color:" in style.replace("background-color", "")] == ["mark", "span"]
    assert [style for tag, style in styles if tag == "mark" and style.startswith("color:inherit;background:rgba(")]


def test_a_terminal_of_colours_gets_them() -> None:
    """Those of the labels; escape sequences are rich's own."""
    text = "Ann in Oslo"

    assert "\x1b[" in _printed(Tagging(text=text, entities=(_entity(text, "Oslo"),)), colours=True)


def test_line_ends_stay_and_controls_are_named() -> None:
    """A carriage return before a line's end is part of it."""
    assert visible("a\r\nb\tc\rd\x07\u202e") == "a\nb\tc⟨U+000D⟩d⟨U+0007⟩⟨U+202E⟩"


def test_only_results_are_taken_apart() -> None:
    """Anything else is an error that names its type alone."""
    with pytest.raises(TypeError, match=r"^Expected a result of lc_finetune, found str\.$"):
        parts_of(SECRET)
