"""Calibrated scores → the threshold from which on an answer is accepted, with what it promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lc_finetune.checkpoint import Task
from lc_finetune.confidence import Acceptance, FloatArray
from lc_finetune.errors import ConfigError, did_you_mean, shown
from lc_finetune.inference.costs import PRICED, SUFFIX, CostMatrix

BoolArray = NDArray[np.bool_]

DEFAULT = "precision=0.95"
RISK = 0.05
"""How often a promise may fail: bounds hold with 95 % confidence."""
STARTS = {20: 0.01, 40: 0.02, 60: 0.02}
"""Where the tests of a precision start, in percent of the answers, and the part of `RISK` that each start brings."""
TESTED = range(20, 101)
"""Shares of the answers that are tested, in percent."""
NEVER = -1.0
"""Stands for the score of an answer that is not accepted whatever the threshold: its text is out of scope."""
ROUNDING = 1e-6
"""How far the lowest accepted score may be off elsewhere."""
SHARES_SHOWN = 10
"""Thresholds among which the best bound is sought when a target cannot be shown."""


@dataclass(frozen=True)
class Aim:
    """What is asked of the accepted answers.

    Attributes:
        asked: As it was written.
        kind: `precision`, `coverage`, `score` or `cost`.
        value: The number asked for.
        per_label: Thresholds of labels of their own, for `score` and `cost`.
        costs: What each mistake costs, where that was asked for; `priced` makes thresholds of it.
    """

    asked: str
    kind: str
    value: float
    per_label: dict[str, float] = field(default_factory=dict)
    costs: CostMatrix | None = None

    @classmethod
    def parse(cls, asked: str) -> Aim:
        """Read `precision=0.95`, `coverage=0.9`, `score=0.8` or `cost=20`, the last two with labels: `cost=20,LABEL=9`.

        `cost=FILE.csv` names a file with the cost of each mistake, which is read at once.

        Raises:
            ConfigError: If it is none of these, or the file holds no costs.
        """
        first, *others = asked.split(",")
        kind, _, number = first.partition("=")
        kind = kind.strip()
        if kind not in _CHOICES:
            raise ConfigError(
                f"accept: expected precision=…, coverage=…, score=… or cost=…, found {shown([kind])!r}"
                f"{did_you_mean(kind, _CHOICES)}."
            )
        if kind == "cost" and asked.strip().lower().endswith(SUFFIX):
            return cls(asked, kind, 1.0, costs=CostMatrix.read(asked.partition("=")[2].strip()))
        value = _number(kind, kind, number)
        if others and kind not in _THRESHOLD_OF:
            raise ConfigError(
                "accept: expected values of labels after score=… or cost=… only, as in score=0.8,LABEL=0.95."
            )
        per_label: dict[str, float] = {}
        for other in others:
            label, _, number = (part.strip() for part in other.rpartition("="))
            if not label or label in per_label:
                raise ConfigError(
                    f"accept: expected LABEL=… with each label once after {kind}=…, found "
                    f"{f'{shown([label])!r} twice' if label else 'one without a label'}."
                )
            per_label[label] = _THRESHOLD_OF[kind](_number(kind, label, number, least=0.0))
        return cls(asked, kind, value, per_label)

    def threshold_of(self, label: str) -> float:
        """Give the threshold that was asked for, of a label by its name; one for all, whatever it is, in other aims."""
        return self.per_label.get(label, self.threshold)

    @property
    def threshold(self) -> float:
        """The threshold of labels without their own, in `score` and `cost`; the number asked for in other aims."""
        return _THRESHOLD_OF[self.kind](self.value) if self.kind in _THRESHOLD_OF else self.value

    def check(self, task: Task, known: Sequence[str]) -> None:
        """Refuse thresholds and costs of labels that a model does not have.

        Args:
            task: What the model is trained for.
            known: What a threshold can be set for.

        Raises:
            ConfigError: With a guess.
        """
        if self.costs is not None:
            if task not in PRICED:
                raise ConfigError(
                    f"accept: expected one cost, as in cost=20, for {task}, found a file of them. One label for each "
                    "text has mistakes of different costs."
                )
            self.costs.check_labels(known)
        for label in self.per_label:
            if label not in known:
                raise ConfigError(
                    f"accept: expected labels of the model, found {shown([label])!r}{did_you_mean(label, known)}."
                )

    def priced(self, costs: Mapping[str, float]) -> Aim:
        """Turn what a wrong answer of each label costs into thresholds; `score` is that of the average cost."""
        average = sum(costs.values()) / len(costs)
        return replace(self, value=average, per_label={label: _worth(cost) for label, cost in costs.items()})


def accept(aim: Aim, scores: FloatArray, right: BoolArray, labels: NDArray[Any]) -> Acceptance:
    """Choose the threshold, and say what can be promised of the answers that reach it.

    Args:
        aim: What is asked.
        scores: Calibrated score of each calibration answer, shape `(answers,)`; `NEVER` where it cannot be accepted.
        right: Whether it was right, shape `(answers,)`.
        labels: What was answered, as text, shape `(answers,)`; for thresholds of their own.
    """
    return _CHOICES[aim.kind](aim, scores, right, labels)


def lower_bound(right: Any, of: Any, risk: float = RISK) -> Any:
    """Bound a share from below, with confidence `1 - risk`: one-sided, Clopper and Pearson 1934.

    Args:
        right: Successes, a count or an array of counts.
        of: Trials, likewise.
        risk: How often the share may be lower than the bound.

    Example:
        >>> float(round(lower_bound(100, 100), 3))
        0.97
    """
    from scipy.special import betaincinv

    return np.where(right, betaincinv(np.maximum(right, 1), of - right + 1, risk), 0.0)


# One choice for each kind of aim.


def _precise(aim: Aim, scores: FloatArray, right: BoolArray, _: NDArray[Any]) -> Acceptance:
    """Find the lowest threshold whose precision is shown to be at least the target.

    Thresholds are tested in an order fixed beforehand, from strict to lax, each by an exact binomial test, and testing
    ends at the first that fails: whatever their number, the chance that a threshold below the target is taken is at
    most `RISK` (fixed sequence testing, as in Angelopoulos et al. 2021, "Learn then Test"). Later starts have parts of
    the risk of their own, to which the chain adds what it brings if it arrives there (the fallback procedure, Wiens
    2003): a few wrong answers with high scores do not end it all.
    """
    chosen, risk = None, 0.0
    for percent in TESTED:
        risk += STARTS.get(percent, 0.0)
        threshold = _threshold_of_share(scores, percent / 100)
        accepted = scores >= threshold
        if risk and lower_bound(int(right[accepted].sum()), int(accepted.sum()), risk) >= aim.value:
            chosen = threshold
        else:
            risk = 0.0
    if chosen is not None:
        return _acceptance(aim, chosen, scores, right, bound=aim.value, reached=True)
    bounds = dict(_bounds(scores, right))
    best = max(bounds, key=lambda threshold: (bounds[threshold], -threshold))
    return _acceptance(aim, best, scores, right, bound=float(bounds[best]), reached=False)


def _bounds(scores: FloatArray, right: BoolArray) -> Iterator[tuple[float, float]]:
    """Pair thresholds with bounds of their precision that hold for all of them at once (Bonferroni)."""
    for share in np.linspace(1.0 / SHARES_SHOWN, 1.0, SHARES_SHOWN):
        threshold = _threshold_of_share(scores, float(share))
        accepted = scores >= threshold
        yield threshold, lower_bound(int(right[accepted].sum()), int(accepted.sum()), RISK / SHARES_SHOWN)


def _covering(aim: Aim, scores: FloatArray, right: BoolArray, _: NDArray[Any]) -> Acceptance:
    """Take the highest threshold that at least the share asked for is shown to reach, whatever the distribution.

    The coverage above the k-th lowest score follows a beta distribution: Wilks 1941, tolerance limits.
    """
    reaching = np.arange(len(scores), 0, -1)  # answers that reach the k-th lowest score
    enough = np.flatnonzero(lower_bound(reaching, len(scores)) >= aim.value)
    kth = int(enough[-1]) if len(enough) else 0
    score = float(np.sort(scores)[kth])
    return _acceptance(aim, max(0.0, score - ROUNDING), scores, right, reached=bool(len(enough)) and score >= 0)


def _given(aim: Aim, scores: FloatArray, right: BoolArray, labels: NDArray[Any]) -> Acceptance:
    """Take the thresholds as given; a threshold that no answer reaches is no error, but is said."""
    thresholds = np.array([aim.threshold_of(str(label)) for label in labels])
    return _acceptance(aim, thresholds, scores, right)


def _worth(cost: float) -> float:
    """Accept while a wrong answer is expected to cost less than a referral, whose cost is 1: Chow 1970."""
    return max(0.0, 1.0 - 1.0 / cost) if cost else 0.0


_THRESHOLD_OF: dict[str, Callable[[float], float]] = {"score": float, "cost": _worth}
"""Of the aims that say the threshold, how."""
_CHOICES = {"precision": _precise, "coverage": _covering, "score": _given, "cost": _given}


def _acceptance(
    aim: Aim,
    thresholds: float | FloatArray,
    scores: FloatArray,
    right: BoolArray,
    *,
    bound: float | None = None,
    reached: bool | None = None,
) -> Acceptance:
    """Record thresholds; without a bound that was proven for many at once, they were chosen without the outcomes."""
    accepted = scores >= thresholds
    count, good = int(accepted.sum()), int(right[accepted].sum())
    return Acceptance(
        asked=aim.asked,
        score=thresholds if isinstance(thresholds, float) else aim.threshold,
        per_label=aim.per_label,
        coverage=count / len(scores),
        precision=good / count if count else None,
        precision_bound=(float(lower_bound(good, count)) if bound is None else bound) if count else None,
        best_score=max(0.0, float(scores.max())),
        reached=count > 0 if reached is None else reached,
    )


def _threshold_of_share(scores: FloatArray, share: float) -> float:
    """Find a threshold that a share of the answers reaches, ties together.

    It lies halfway to the next score below, so that rounding does not matter.
    """
    ordered = np.sort(scores)[::-1]
    last = max(0, int(np.ceil(share * len(ordered) - 1e-9)) - 1)
    below = ordered[ordered < ordered[last]]
    return max(0.0, float((ordered[last] + below[0]) / 2 if len(below) else ordered[last] - ROUNDING))


def _number(kind: str, name: str, written: str, *, least: float = np.nextafter(0.0, 1.0)) -> float:
    """Read the number behind a name: that of an aim, or of one of its labels."""
    try:
        value = float(written)
    except ValueError:
        raise ConfigError(
            f"accept: expected a number after {shown([name])}=, found none. Write it as in {DEFAULT}."
        ) from None
    if kind == "cost" and not value > 1:
        raise ConfigError(f"accept: expected a cost above 1, what one referral costs, found {value:g}.")
    if kind != "cost" and not least <= value <= 1:
        above = "of 0" if least == 0.0 else "above 0"
        raise ConfigError(f"accept: expected {shown([name])} {above} to at most 1, found {value:g}.")
    return value
