"""The numbers of two sets of texts → what differs between them, by more than chance and by enough to matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from lc_finetune.checkpoint import QUESTIONS, Task
from lc_finetune.confidence import FloatArray
from lc_finetune.errors import DataError, shown
from lc_finetune.inspection.measures import FEWEST, Measures

LEAST_EFFECT = 0.1
"""Differences below it are not told as drift, however sure they are: with 100,000 texts every one is sure. 0.1 is small
for w, and less than that for h (Cohen 1988, "Statistical Power Analysis for the Behavioral Sciences")."""
SIGNIFICANCE = 0.01
"""How probable it is, at most, that texts which do not differ are said to."""
LEAST_EXPECTED = 5.0
"""Texts expected in a cell of a chi-squared test; rarer labels are put together."""
EXACT = 1_000
"""Texts up to which the distribution of the Kolmogorov–Smirnov statistic is computed exactly."""
SHOWN = 12
"""Lines of a table for measures that did not move."""

Test = Literal["Kolmogorov-Smirnov", "chi-squared", "two-proportion", "Fisher's exact"]


class Tested(NamedTuple):
    """What a test says: its statistic, p-value and effect size."""

    statistic: float
    p_value: float
    effect: float


class Change(BaseModel):
    """One measure of two sets of texts, compared.

    Attributes:
        measure: Which.
        figure: What `before` and `after` are: a median, or a share.
        before: Of the reference.
        after: Of the file.
        sizes: Texts of the reference, and of the file, that it was measured on.
        test: The test.
        statistic: Its statistic; an odds ratio for Fisher's exact test, None where that is infinite.
        p_value: Of the test alone.
        adjusted: The same, by Holm's method for all measures together.
        effect: D of Kolmogorov–Smirnov; Cohen's w of chi-squared, less what chance adds to it; Cohen's h of shares.
        moved: Whether `adjusted` and `effect` are both beyond their limits.
        most: The labels whose shares changed most, with the share before and after.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    measure: str
    figure: Literal["median", "share"]
    before: float
    after: float
    sizes: tuple[int, int]
    test: Test
    statistic: float | None
    p_value: float = Field(ge=0, le=1)
    adjusted: float = Field(default=1.0, ge=0, le=1)
    effect: float = Field(ge=0)
    moved: bool = False
    most: dict[str, tuple[float, float]] = Field(default_factory=dict)


class Drift(BaseModel):
    """How the texts of a file differ from the reference.

    Attributes:
        reference: Where the reference's texts come from.
        file: Where the file's come from.
        rows: Rows of each.
        texts: Texts of each that were measured.
        unread: Texts of each that could not be.
        significance: Of all tests together.
        least_effect: What an effect must reach to count.
        least_told: The smallest difference of scores or lengths (D) that so many texts can show.
        changes: Each measure; those that moved first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: str
    file: str
    rows: tuple[int, int]
    texts: tuple[int, int]
    unread: tuple[int, int]
    significance: float
    least_effect: float
    least_told: float
    changes: tuple[Change, ...]

    @property
    def moved(self) -> tuple[Change, ...]:
        """What moved."""
        return tuple(change for change in self.changes if change.moved)


def compare_measures(
    reference: Measures,
    file: Measures,
    *,
    task: Task,
    significance: float = SIGNIFICANCE,
    least_effect: float = LEAST_EFFECT,
) -> Drift:
    """Test each measure that both have.

    Args:
        reference: Of the texts that the model is known to be good for.
        file: Of the texts in question.
        task: Of the model: whether a text has one label, or any number.
        significance: Bound of the probability of any false alarm, by Holm's method (Holm 1979, "A Simple Sequentially
            Rejective Multiple Test Procedure").
        least_effect: What an effect must reach.

    Raises:
        DataError: If either has too few texts.
    """
    for one in (reference, file):
        if len(one) < FEWEST:
            unread = f", and {one.unread} that the model cannot read" if one.unread else ""
            raise DataError(
                f"{one.source}: expected at least {FEWEST} texts to compare, found {len(one)}{unread}. Give more."
            )
    both = (reference, file)
    changes = [
        *_distributions("score", reference.scores, file.scores),
        *_distributions("number", reference.numbers, file.numbers),
        *_distributions("in-scope p-value", reference.in_scope, file.in_scope),
        *_distributions("length in pieces", reference.pieces, file.pieces),
        *_unknown(*both),
        *(_each_label(*both) if task in SEVERAL else _one_label(*both, answers=task == QUESTIONS)),
    ]
    judged = _judged(changes, significance, least_effect)
    sizes = (len(reference), len(file))
    return Drift(
        reference=reference.source,
        file=file.source,
        rows=(reference.rows, file.rows),
        texts=sizes,
        unread=(reference.unread, file.unread),
        significance=significance,
        least_effect=least_effect,
        least_told=float(np.sqrt(np.log(2 * len(judged) / significance) / 2 * (1 / sizes[0] + 1 / sizes[1]))),
        changes=tuple(judged),
    )


SEVERAL: tuple[Task, ...] = ("multi-label-classification", "token-classification")
"""Tasks with any number of labels a text."""


def _judged(changes: Sequence[Change], significance: float, least_effect: float) -> list[Change]:
    adjusted = holm([change.p_value for change in changes])
    judged = [
        change.model_copy(update={"adjusted": p, "moved": p <= significance and change.effect >= least_effect})
        for change, p in zip(changes, adjusted, strict=True)
    ]
    return sorted(judged, key=lambda change: not change.moved)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values, so that all that are at most α then are false with a probability of at most α together.

    Example:
        >>> holm([0.01, 0.5, 0.02])
        [0.03, 0.5, 0.04]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


# Measures.


def _distributions(measure: str, before: Sequence[float], after: Sequence[float]) -> list[Change]:
    if min(len(before), len(after)) < FEWEST:
        return []
    tested = kolmogorov_smirnov(np.array(before, dtype=np.float64), np.array(after, dtype=np.float64))
    return [_change(measure, "median", (float(np.median(before)), float(np.median(after))),
                    (len(before), len(after)), "Kolmogorov-Smirnov", tested)]  # fmt: skip


def _unknown(reference: Measures, file: Measures) -> list[Change]:
    tested = two_proportions(*(_arrays(one) for one in (reference, file)))
    shares = (reference.unknown_share, file.unknown_share)
    return [_change("unknown pieces", "share", shares, (len(reference), len(file)), "two-proportion", tested)]


def _arrays(measures: Measures) -> tuple[FloatArray, FloatArray]:
    return np.array(measures.unknown, dtype=np.float64), np.array(measures.pieces, dtype=np.float64)


def _one_label(reference: Measures, file: Measures, *, answers: bool) -> list[Change]:
    """Compare the mix of labels of which each text has one: all together."""
    names = sorted(reference.labels.keys() | file.labels.keys())
    counts = np.array([[one.labels.get(name, 0) for name in names] for one in (reference, file)], dtype=np.float64)
    tested = chi_squared(counts) if names else None
    if tested is None:
        return []
    shares = counts / counts.sum(axis=1, keepdims=True)
    by_change = np.argsort(-np.abs(shares[1] - shares[0]), kind="stable")[:3]
    most = {names[i]: (float(shares[0, i]), float(shares[1, i])) for i in by_change}
    change = _change("answers given" if answers else "label mix", "share", next(iter(most.values())),
                     (len(reference), len(file)), "chi-squared", tested)  # fmt: skip
    return [change.model_copy(update={"most": most})]


def _each_label(reference: Measures, file: Measures) -> list[Change]:
    """Compare the share of the texts that has each label: a text has several, so that they are no parts of a whole."""
    sizes = (len(reference), len(file))
    names = sorted(reference.labels.keys() | file.labels.keys())
    counts = {f"texts with {name}": tuple(one.labels.get(name, 0) for one in (reference, file)) for name in names}
    counts["texts without a label"] = (reference.without, file.without)
    return [
        _change(name, "share", (found[0] / sizes[0], found[1] / sizes[1]), sizes, "Fisher's exact",
                fisher_exact((found[0], found[1]), sizes))
        for name, found in counts.items() if any(found)
    ]  # fmt: skip


def _change(
    measure: str,
    figure: Literal["median", "share"],
    values: tuple[float, float],
    sizes: tuple[int, int],
    test: Test,
    tested: Tested,
) -> Change:
    statistic = tested.statistic if np.isfinite(tested.statistic) else None
    return Change(
        measure=measure, figure=figure, before=values[0], after=values[1], sizes=sizes, test=test,
        statistic=statistic, p_value=tested.p_value, effect=tested.effect,
    )  # fmt: skip


# Tests.


def kolmogorov_smirnov(before: FloatArray, after: FloatArray) -> Tested:
    """Compare two samples by the largest distance D of their distribution functions; the effect is D.

    Equal values, of which lengths have many, make the test say less, never more.
    """
    from scipy.stats import ks_2samp

    method = "exact" if max(len(before), len(after)) <= EXACT else "asymp"
    found = ks_2samp(before, after, method=method)
    return Tested(float(found.statistic), float(found.pvalue), float(found.statistic))


def two_proportions(before: tuple[FloatArray, FloatArray], after: tuple[FloatArray, FloatArray]) -> Tested:
    """Compare two shares of pieces, with the text as what is drawn: the pieces of one text resemble each other.

    z of the difference of two ratio estimates, with the variances of Cochran 1977, "Sampling Techniques", chapter 6, or
    with that of the test for independent pieces where it is greater, as it is where there are next to none. The effect
    is Cohen's h.

    Args:
        before: Unknown pieces and all pieces of each text, each of shape `(texts,)`.
        after: The same of the others.
    """
    from scipy.stats import norm

    (one, of_one), (other, of_other) = _ratio(*before), _ratio(*after)
    pieces = before[1].sum(), after[1].sum()
    pooled = (before[0].sum() + after[0].sum()) / max(1.0, sum(pieces))
    independent = pooled * (1 - pooled) * sum(1 / max(1.0, total) for total in pieces)
    spread = np.sqrt(max(of_one + of_other, independent))
    z = float((other - one) / spread) if spread > 0 else 0.0
    return Tested(z, float(2 * norm.sf(abs(z))), cohens_h(one, other))


def _ratio(parts: FloatArray, wholes: FloatArray) -> tuple[float, float]:
    """Estimate a ratio and the variance of the estimate."""
    total, texts = max(1.0, wholes.sum()), len(wholes)
    ratio = float(parts.sum() / total)
    return ratio, float(((parts - ratio * wholes) ** 2).sum() / total**2 * texts / (texts - 1))


def cohens_h(one: float, other: float) -> float:
    """Give the distance of two shares on the scale on which shares vary alike, from 0 to π."""
    return float(abs(2 * np.arcsin(np.sqrt(other)) - 2 * np.arcsin(np.sqrt(one))))


def chi_squared(counts: FloatArray) -> Tested | None:
    """Compare two mixes of labels; None if there are not two cells with enough texts.

    Labels that are too rare for the test are put together, with the rarest of the others if need be. The effect is
    Cohen's w, less what chance alone adds: the more labels, the more that is.

    Args:
        counts: Texts with each label, shape `(2, labels)`.
    """
    from scipy.stats import chi2_contingency

    sizes = counts.sum(axis=1)
    expected = counts.sum(axis=0) * sizes.min() / sizes.sum()
    order = np.argsort(expected, kind="stable")
    together = int((expected < LEAST_EXPECTED).sum())
    while 0 < together < len(order) and expected[order[:together]].sum() < LEAST_EXPECTED:
        together += 1
    cells = np.column_stack([counts[:, order[:together]].sum(axis=1), counts[:, order[together:]]])
    cells = cells[:, cells.sum(axis=0) > 0]
    if cells.shape[1] < 2:
        return None
    found = chi2_contingency(cells, correction=False)
    excess = max(0.0, float(found.statistic) - (cells.shape[1] - 1))
    return Tested(float(found.statistic), float(found.pvalue), float(np.sqrt(excess * (1 / sizes[0] + 1 / sizes[1]))))


def fisher_exact(counts: tuple[int, int], sizes: tuple[int, int]) -> Tested:
    """Compare the shares of two sets of texts that have a label, exactly; the effect is Cohen's h."""
    from scipy.stats import fisher_exact as test

    table = [[count, size - count] for count, size in zip(counts, sizes, strict=True)]
    odds, p_value = test(table)
    return Tested(float(odds), min(1.0, float(p_value)), cohens_h(counts[0] / sizes[0], counts[1] / sizes[1]))


# For people.

_EFFECTS: dict[Test, str] = {
    "Kolmogorov-Smirnov": "D",
    "chi-squared": "w",
    "two-proportion": "h",
    "Fisher's exact": "h",
}


def drift_table(drift: Drift) -> str:
    """Write a comparison for people, a measure a line."""
    lines = [
        f"reference   {_said(drift, 0)}",
        f"file        {_said(drift, 1)}",
        "",
    ]
    still = [change for change in drift.changes if not change.moved]
    for change in (*drift.moved, *still[:SHOWN]):
        lines += _lines(change)
    if len(still) > SHOWN:
        lines.append(f"  … {len(still) - SHOWN} more that did not move")
    names = ", ".join(change.measure for change in drift.moved)
    lines += [
        "",
        f"Moved: {names}." if names else "Nothing moved.",
        f"Moved is what has p ≤ {drift.significance:g}, by Holm's method for {len(drift.changes)} tests, and an effect "
        f"of {drift.least_effect:g} or more.",
    ]
    if drift.least_told > drift.least_effect:
        lines.append(
            f"So few texts show of scores and lengths only a difference D of about {drift.least_told:.2f} or more."
        )
    return "\n".join(lines)


def _said(drift: Drift, which: int) -> str:
    texts, rows, unread = drift.texts[which], drift.rows[which], drift.unread[which]
    source = (drift.reference, drift.file)[which]
    drawn = f" drawn from {rows:,}" if texts + unread < rows else ""
    return f"{texts:,} texts{drawn}: {source}" + (f"; {unread:,} could not be read" if unread else "")


def _lines(change: Change) -> list[str]:
    as_share = change.figure == "share"
    before, after = (f"{value:.1%}" if as_share else f"{value:.4g}" for value in (change.before, change.after))
    figure = "median" if not as_share else f"share of {shown(list(change.most)[:1])}" if change.most else "share"
    mark = "MOVED" if change.moved else "same "
    name = change.measure if change.measure.isprintable() and len(change.measure) <= 60 else f"{change.measure[:57]!r}…"
    line = (
        f"  {mark}  {name:<18} {figure} {before} → {after}; {change.test}: p {_p(change.adjusted)}, "
        f"{_EFFECTS[change.test]} {change.effect:.3f} ({change.sizes[0]:,} and {change.sizes[1]:,} texts)"
    )
    others = list(change.most.items())[1:] if change.moved else []
    return [line, *(f"         {shown([name])} {one:.1%} → {other:.1%}" for name, (one, other) in others)]


def _p(value: float) -> str:
    return "< 1e-16" if value < 1e-16 else f"{value:.2g}"
