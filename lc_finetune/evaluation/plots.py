"""Figures → SVG, drawn in the page's own colours, with a title on every mark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

from lc_finetune.confidence import Bin
from lc_finetune.evaluation.history import Curve
from lc_finetune.evaluation.matrix import Matrix

NOTHING = "(nothing)"
"""What stands for no label."""
WIDTH, HEIGHT = 520, 320
MARGIN = {"left": 64, "right": 20, "top": 34, "bottom": 50}
CELL = 15
"""Side of a cell of a matrix, in pixels at natural size."""
LEAST_MATRIX, LARGEST_SCALE = 560, 2.2
"""Width up to which a small matrix is drawn larger, in pixels, and by which factor at most."""
LONGEST_LABEL = 34
"""Characters of a label beside a matrix; all of it is in its title."""
CHARACTER = 6.2
"""Width of a character there, in pixels."""
LENGTH_BINS = 40


def line_plot(name: str, title: str, curves: Sequence[Curve], *, y_label: str) -> Markup:
    """Draw curves over the epochs.

    Args:
        name: The `id` of the plot.
        title: What it shows.
        curves: At least one.
        y_label: What its values are.
    """
    values = [y for curve in curves for _, y in curve.points]
    epochs = [x for curve in curves for x, _ in curve.points]
    frame = _Frame.over(name, title, (min(0.0, *epochs), max(epochs)), _padded(min(values), max(values)))
    frame.axes("epoch", y_label)
    for number, curve in enumerate(curves):
        _series(frame, number, [(x, y, f"{curve.name}, epoch {x:g}: {y:.4f}") for x, y in curve.points])
    frame.legend([(f"f{number}", curve.name) for number, curve in enumerate(curves)])
    return frame.markup()


def reliability_plot(name: str, title: str, series: Mapping[str, Sequence[Bin]]) -> Markup:
    """Draw reliability diagrams over each other: mean score of each bin against its share of right answers."""
    frame = _Frame.over(name, title, (0.0, 1.0), (0.0, 1.0), width=HEIGHT + 120, height=HEIGHT + 90)
    frame.axes("mean score", "share of right answers")
    (x1, y1), (x2, y2) = frame.at(0, 0), frame.at(1, 1)
    _node(frame.root, "line", x1=x1, y1=y1, x2=x2, y2=y2, class_="perfect")
    for number, (called, bins) in enumerate(series.items()):
        points = [
            (
                one.confidence,
                one.accuracy,
                f"{called}, {one.count:,} answers: score {one.confidence:.3f}, right {one.accuracy:.3f}",
            )
            for one in bins
        ]
        _series(frame, number, points)
    frame.legend([(f"f{number}", called) for number, called in enumerate(series)])
    return frame.markup()


def scatter_plot(name: str, title: str, points: Sequence[tuple[float, float, str]]) -> Markup:
    """Draw what was found over what was wanted; what is right lies on the dashed line.

    Args:
        name: The `id` of the plot.
        title: What it shows.
        points: Number wanted, number found, and what is said of the point; at least one.
    """
    values = [value for point in points for value in point[:2]]
    span = _padded(min(values), max(values))
    frame = _Frame.over(name, title, span, span, width=HEIGHT + 120, height=HEIGHT + 90)
    frame.axes("wanted", "found")
    (x1, y1), (x2, y2) = frame.at(span[0], span[0]), frame.at(span[1], span[1])
    _node(frame.root, "line", x1=x1, y1=y1, x2=x2, y2=y2, class_="perfect")
    for wanted, found, said in points:
        x, y = frame.at(wanted, found)
        _node(_node(frame.root, "circle", cx=x, cy=y, r=3, class_="mark f0", fill_opacity=0.5), "title", said)
    return frame.markup()


@dataclass(frozen=True)
class LengthBin:
    """Texts of a range of lengths: `first` to `last` pieces, or from `first` on where `last` is None."""

    first: int
    last: int | None
    right: int
    wrong: int

    @property
    def range(self) -> str:
        """Name the lengths."""
        if self.last is None:
            return f"{self.first} or more"
        return str(self.first) if self.first == self.last else f"{self.first} to {self.last}"


def length_bins(lengths: Sequence[int], wrong: set[int]) -> list[LengthBin]:
    """Count texts by length, with and without a mistake; the longest hundredth may share the last bin.

    Args:
        lengths: Of each text, in pieces.
        wrong: Index of each text with a mistake.
    """
    array = np.asarray(lengths)
    top = min(int(array.max()), math.ceil(1.5 * float(np.quantile(array, 0.99))))
    step = max(1, math.ceil((top + 1) / LENGTH_BINS))
    number = np.minimum(array, top) // step
    mistaken = np.zeros(len(array), dtype=bool)
    mistaken[list(wrong)] = True
    bins = int(number.max()) + 1
    right, bad = (np.bincount(number[mask], minlength=bins).tolist() for mask in (~mistaken, mistaken))
    is_open = int(array.max()) > bins * step - 1
    return [
        LengthBin(i * step, None if is_open and i == bins - 1 else (i + 1) * step - 1, right[i], bad[i])
        for i in range(bins)
    ]


def length_plot(name: str, title: str, bins: Sequence[LengthBin]) -> Markup:
    """Draw a histogram of lengths, texts with a mistake at the foot of each bar."""
    step = bins[1].first - bins[0].first if len(bins) > 1 else 1
    tallest = max(one.right + one.wrong for one in bins)
    frame = _Frame.over(name, title, (0.0, float(step * len(bins))), (0.0, max(1.0, tallest * 1.05)), width=720)
    frame.axes("pieces", "texts")
    for one in bins:
        left, right = frame.at(one.first, 0)[0], frame.at(one.first + step, 0)[0]
        foot = 0
        for kind, count in (("wrong", one.wrong), ("right", one.right)):
            if count:
                top, bottom = frame.at(0, foot + count)[1], frame.at(0, foot)[1]
                said = "with a mistake" if kind == "wrong" else "all right"
                bar = _node(
                    frame.root, "rect", x=left + 0.5, y=top, width=max(0.5, right - left - 1), height=bottom - top,
                    class_=f"mark {kind}",
                )  # fmt: skip
                _node(bar, "title", f"{one.range} pieces: {count:,} texts {said}")
            foot += count
    frame.legend([("wrong", "with a mistake"), ("right", "all right")])
    return frame.markup()


def bar_plot(
    name: str, title: str, rows: Mapping[str, Mapping[str, int]], kinds: Sequence[str], *, counted: str
) -> Markup:
    """Draw a bar for each row, cut by kind, as long as its count of what is `counted`."""
    longest = max(1, *(sum(counts.get(kind, 0) for kind in kinds) for counts in rows.values()))
    left = MARGIN["left"] + CHARACTER * max(len(_cut(row)) for row in rows)
    height = MARGIN["top"] + MARGIN["bottom"] + 26 * len(rows)
    frame = _Frame.over(
        name, title, (0.0, longest * 1.02), (0.0, float(len(rows))), width=720, height=height, left=int(left)
    )
    frame.axes(counted, "", y_ticks=False)
    for place, (row, counts) in enumerate(rows.items()):
        y = MARGIN["top"] + 26 * place + 4
        label = _node(frame.root, "text", _cut(row), x=left - 8, y=y + 13, class_="tick end")
        _node(label, "title", row)
        start = 0
        for number, kind in enumerate(kinds):
            if count := counts.get(kind, 0):
                x1, x2 = frame.at(start, 0)[0], frame.at(start + count, 0)[0]
                bar = _node(
                    frame.root, "rect", x=x1, y=y, width=max(1.0, x2 - x1 - 1), height=18, class_=f"mark f{number}"
                )
                _node(bar, "title", f"{row}: {count:,} {kind}")
            start += count
    frame.legend([(f"f{number}", kind) for number, kind in enumerate(kinds)])
    return frame.markup()


def share_plot(name: str, title: str, shares: Mapping[str, float], *, x_label: str) -> Markup:
    """Draw a bar for each share of one whole.

    Args:
        name: The `id` of the plot.
        title: What it shows.
        shares: What a bar is for → its share, from 0 to 1; at least one.
        x_label: What they are shares of.
    """
    left = int(MARGIN["left"] + CHARACTER * max(len(_cut(row)) for row in shares))
    height = MARGIN["top"] + MARGIN["bottom"] + 26 * len(shares)
    frame = _Frame.over(name, title, (0.0, 1.0), (0.0, float(len(shares))), width=720, height=height, left=left)
    frame.axes(x_label, "", y_ticks=False)
    for place, (row, share) in enumerate(shares.items()):
        y = MARGIN["top"] + 26 * place + 4
        _node(_node(frame.root, "text", _cut(row), x=left - 8, y=y + 13, class_="tick end"), "title", row)
        width = max(1.0, frame.at(share, 0)[0] - left)
        bar = _node(frame.root, "rect", x=left, y=y, width=width, height=18, class_="mark f0")
        _node(bar, "title", f"{row}: {share:.1%}")
    return frame.markup()


def matrix_plot(name: str, title: str, matrix: Matrix, *, rows: str, columns: str) -> Markup:
    """Draw a matrix: what is right in one colour, what is wrong in another, the darker the larger its share of a row.

    Args:
        name: The `id` of the plot.
        title: What it shows.
        matrix: The counts.
        rows: What a row stands for: `wanted`.
        columns: What a column stands for: `found`.
    """
    said = {label: NOTHING if label is None else label for label in matrix.labels}
    margin = int(CHARACTER * max(len(_cut(text)) for text in said.values())) + 30
    side = CELL * len(said)
    whole = margin + side + 12
    root = _root(name, title, whole, whole)
    root.set("class", "plot matrix")
    for measure in ("width", "height"):
        root.set(measure, f"{min(LARGEST_SCALE * whole, max(whole, LEAST_MATRIX)):g}")
    place = {label: margin + CELL * i for i, label in enumerate(said)}
    _node(root, "rect", x=margin, y=margin, width=side, height=side, class_="ground")
    for label, text in said.items():
        middle = place[label] + CELL / 2
        row = _node(root, "text", _cut(text), x=margin - 6, y=middle + 3.5, class_="tick end")
        _node(row, "title", text)
        column = _node(
            root, "text", _cut(text), x=0, y=0, class_="tick",
            transform=f"translate({middle + 3.5:g} {margin - 6}) rotate(-90)",
        )  # fmt: skip
        _node(column, "title", text)
        at = place[label]
        _node(root, "path", d=f"M{margin} {at}h{side}M{at} {margin}v{side}", class_="grid")
    for (wanted, found), count in matrix.counts.items():
        share = count / matrix.totals[wanted]
        cell = _node(root, "g", class_="cell right" if wanted == found else "cell wrong")
        _node(
            cell, "rect", x=place[found], y=place[wanted], width=CELL, height=CELL,
            fill_opacity=round(0.18 + 0.82 * math.sqrt(share), 3),
        )  # fmt: skip
        _node(
            cell, "text", str(count) if count < 1000 else f"{count / 1000:.0f}k", x=place[found] + CELL / 2,
            y=place[wanted] + CELL / 2 + 2.8, class_="strong" if share > 0.35 else "",
        )  # fmt: skip
        _node(cell, "title", f"{rows} {said[wanted]}, {columns} {said[found]}: {count:,} ({share:.1%} of the row)")
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _cut(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


@dataclass(frozen=True)
class _Frame:
    """A plot with two axes; `x` and `y` are the ranges of its values, `box` the sides of their area in pixels."""

    root: ElementTree.Element
    x: tuple[float, float]
    y: tuple[float, float]
    box: tuple[float, float, float, float]

    @classmethod
    def over(
        cls,
        name: str,
        title: str,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        width: int = WIDTH,
        height: int = HEIGHT,
        left: int = MARGIN["left"],
    ) -> _Frame:
        if x[0] == x[1]:
            x = (x[0] - 0.5, x[1] + 0.5)
        box = (left, width - MARGIN["right"], MARGIN["top"], height - MARGIN["bottom"])
        return cls(_root(name, title, width, height), x, y, box)

    def at(self, x: float, y: float) -> tuple[float, float]:
        left, right, top, bottom = self.box
        across = left + (x - self.x[0]) / (self.x[1] - self.x[0]) * (right - left)
        return across, bottom - (y - self.y[0]) / (self.y[1] - self.y[0]) * (bottom - top)

    def axes(self, x_label: str, y_label: str, *, y_ticks: bool = True) -> None:
        left, right, top, bottom = self.box
        for value in _ticks(*self.x):
            across = self.at(value, 0)[0]
            _node(self.root, "line", x1=across, x2=across, y1=top, y2=bottom, class_="grid")
            _node(self.root, "text", f"{value:g}", x=across, y=bottom + 16, class_="tick middle")
        for value in _ticks(*self.y) if y_ticks else ():
            up = self.at(0, value)[1]
            _node(self.root, "line", x1=left, x2=right, y1=up, y2=up, class_="grid")
            _node(self.root, "text", f"{value:g}", x=left - 6, y=up + 4, class_="tick end")
        _node(self.root, "path", d=f"M{left} {top}V{bottom}H{right}", class_="axis")
        _node(self.root, "text", x_label, x=(left + right) / 2, y=bottom + 38, class_="tick middle")
        turned = f"translate(14 {(top + bottom) / 2:g}) rotate(-90)"
        _node(self.root, "text", y_label, x=0, y=0, transform=turned, class_="tick middle")

    def legend(self, entries: Sequence[tuple[str, str]]) -> None:
        across = self.box[0]
        for style, text in entries:
            _node(self.root, "rect", x=across, y=10, width=11, height=11, class_=f"mark {style}")
            _node(self.root, "text", text, x=across + 16, y=20, class_="tick")
            across += 16 + CHARACTER * len(text) + 18

    def markup(self) -> Markup:
        return Markup(ElementTree.tostring(self.root, encoding="unicode"))


def _series(frame: _Frame, number: int, points: Sequence[tuple[float, float, str]]) -> None:
    """Draw a line through points, each with a title."""
    places = [frame.at(x, y) for x, y, _ in points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    _node(frame.root, "path", d=path, class_=f"line s{number}", stroke_dasharray=("", "7 4", "2 3")[number % 3])
    for (x, y), (_, _, said) in zip(places, points, strict=True):
        _node(_node(frame.root, "circle", cx=x, cy=y, r=4, class_=f"mark f{number}"), "title", said)


def _root(name: str, title: str, width: float, height: float) -> ElementTree.Element:
    root = ElementTree.Element(
        "svg",
        {
            "id": name, "class": "plot", "role": "img", "aria-labelledby": f"{name}-title",
            "viewBox": f"0 0 {width:g} {height:g}", "width": f"{width:g}", "height": f"{height:g}",
        },
    )  # fmt: skip
    _node(root, "title", title, id=f"{name}-title")
    return root


def _node(parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: Any) -> ElementTree.Element:
    """Add an element; `class_` is `class`, `stroke_width` is `stroke-width`, and numbers keep two digits."""
    said = {
        key.rstrip("_").replace("_", "-"): f"{round(value, 2):g}" if isinstance(value, float) else str(value)
        for key, value in attributes.items()
        if value != ""
    }
    element = ElementTree.SubElement(parent, tag, said)
    element.text = text
    return element


def _padded(low: float, high: float) -> tuple[float, float]:
    """Leave a margin above and below."""
    room = 0.08 * (high - low) or 0.1 * abs(high) or 0.1
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Choose about five round numbers between two."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]
