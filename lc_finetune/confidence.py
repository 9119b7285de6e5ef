"""Confidence as a checkpoint records it: maps from a model's scores to probabilities, thresholds, and their figures.

The maps are applied in decoding (`lc_finetune.inference.decode`) and fitted by `lc_finetune.inference.calibrate`. None
changes the answer: the most probable label stays the most probable one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import zip_longest
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lc_finetune.schemas import Probability

FloatArray = NDArray[np.float64]
Interval = tuple[float, float]
CARD_HEADING = "## Confidence"
SMALLEST = 1e-12
"""No map is given, or gives, a probability nearer to 0 or 1."""
AHEAD = 1.0 + 1e-6
"""How many times the second label's probability that of the answer is at least."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Beta(_Record):
    """`logit(q) = a·ln(p) - b·ln(1 - p) + c`: Kull et al. 2017, "Beta calibration"."""

    kind: Literal["beta"] = "beta"
    a: float = Field(ge=0, allow_inf_nan=False)
    b: float = Field(ge=0, allow_inf_nan=False)
    c: float = Field(allow_inf_nan=False)

    def __call__(self, scores: FloatArray) -> FloatArray:
        """Map probabilities, of any shape, to probabilities."""
        return _beta(scores, self.a, self.b, self.c)


def _beta(scores: FloatArray, a: float | FloatArray, b: float | FloatArray, c: float | FloatArray) -> FloatArray:
    p = _inside(scores)
    return _inside(1.0 / (1.0 + np.exp(-(a * np.log(p) - b * np.log1p(-p) + c))))


class Isotonic(_Record):
    """Straight lines between knots that never fall: Zadrozny and Elkan 2002, made continuous."""

    kind: Literal["isotonic"] = "isotonic"
    knots: tuple[tuple[Probability, Probability], ...] = Field(
        min_length=1, description="Score and probability of each knot, both ascending; constant outside of them."
    )

    def __call__(self, scores: FloatArray) -> FloatArray:
        """Map probabilities, of any shape, to probabilities."""
        return np.asarray(np.interp(scores, *self._lines))

    @cached_property
    def _lines(self) -> FloatArray:
        return np.asarray(self.knots).T


TopMap = Annotated[Beta | Isotonic, Field(discriminator="kind")]


class ScoreMap(_Record):
    """A map from a model's scores to probabilities.

    Of one label a text, or of spans: a temperature on the logits, then a map of the top score, or both. Of several
    labels a text: a map for each.
    """

    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="What logits are divided by.")
    top: TopMap | None = Field(
        default=None, description="On the score of the answer; the other labels share the rest in their proportions."
    )
    per_label: dict[str, Beta] = Field(
        default_factory=dict,
        description="Of a multi-label classifier: on each label's own score, in the order of the label set.",
    )

    @property
    def method(self) -> str:
        """Name the steps: `none`, `temperature`, `beta`, `temperature + isotonic`, `beta per label` and so on."""
        if self.per_label:
            return "beta per label" if len(set(self.per_label.values())) > 1 else "beta, one for all labels"
        steps = [*(["temperature"] if self.temperature != 1.0 else []), *([self.top.kind] if self.top else [])]
        return " + ".join(steps) or "none"

    def of_labels(self, logits: NDArray[np.floating]) -> FloatArray:
        """Turn logits, shape `(…, labels)`, into probabilities of labels of which one is right, of the same shape."""
        scaled = np.asarray(logits, dtype=np.float64) / self.temperature
        scaled -= scaled.max(axis=-1, keepdims=True)
        np.exp(scaled, out=scaled)
        scaled /= scaled.sum(axis=-1, keepdims=True)
        return scaled if self.top is None else _with_top(scaled, np.asarray(logits).argmax(axis=-1), self.top)

    def of_each(self, scores: FloatArray) -> FloatArray:
        """Turn the scores of labels that are independent, shape `(…, labels)`, into probabilities of the same shape."""
        return _beta(scores, *self._curves) if self.per_label else scores

    @cached_property
    def _curves(self) -> FloatArray:
        """The parameters of all labels' maps: shape `(3, labels)`."""
        return np.array([(one.a, one.b, one.c) for one in self.per_label.values()]).T

    def of_spans(self, scores: FloatArray) -> FloatArray:
        """Turn the scores of found spans, of any shape, into the probabilities that they are right."""
        return scores if self.top is None else self.top(scores)


def _with_top(probabilities: FloatArray, best: NDArray[np.intp], top: Beta | Isotonic) -> FloatArray:
    """Map the largest probability and rescale the others, which stay at most as large: shape `(…, labels)`."""
    rows = np.maximum(
        probabilities.reshape(-1, probabilities.shape[-1]), 1e-300
    )  # what underflowed shares the rest too
    at = np.arange(len(rows)), best.reshape(-1)
    first = rows[at]
    rows[at] = 0.0
    second, rest = rows.max(axis=1), rows.sum(axis=1)
    least = AHEAD * second / rest  # below that share, the second label would be the first
    mapped = np.maximum(top(first), least / (1.0 + least))
    rows *= ((1.0 - mapped) / rest)[:, None]
    rows[at] = mapped
    return rows.reshape(probabilities.shape)


def _inside(probabilities: FloatArray) -> FloatArray:
    return np.asarray(np.minimum(np.maximum(probabilities, SMALLEST), 1.0 - SMALLEST))


class Bin(_Record):
    """A bin of a reliability diagram."""

    count: int = Field(ge=1)
    confidence: Probability = Field(description="Mean score of the answers in it.")
    accuracy: Probability = Field(description="Share of them that are right.")


class Reliability(_Record):
    """How true a model's scores are, on answers whose right ones are known."""

    unit: Literal["answer", "pair"] = Field(
        default="answer", description="An answer, or a pair of a text and a label, which is right if the label applies."
    )
    floor: Probability = Field(
        default=0.0, description="Only what has such a score counts, except in `brier` and `log_loss`, where all count."
    )
    count: int = Field(ge=1, description="Texts of a classifier, found entities of a tagger, pairs of several labels.")
    accuracy: Probability = Field(description="Share of right ones.")
    confidence: Probability = Field(description="Mean score.")
    ece: Probability = Field(description="Expected calibration error, 15 equal-mass bins.")
    ece_interval: Interval = Field(description="95 % bootstrap interval of `ece`.")
    ece_perfect: Interval = Field(
        description="Mean and 95th percentile of the ECE that perfectly calibrated scores show at this size."
    )
    brier: float = Field(
        ge=0, description="Mean squared error of the probabilities, summed over labels; of pairs, the mean over all."
    )
    log_loss: float = Field(ge=0, description="Mean negative log of the probability of what was right, in nats.")
    bins: tuple[Bin, ...] = Field(description="The reliability diagram.")


class Thresholds(_Record):
    """Which answers are accepted: those whose score reaches the threshold of their label."""

    score: Probability = Field(description="The threshold, on the calibrated score.")
    per_label: dict[str, Probability] = Field(default_factory=dict, description="Thresholds of labels that differ.")

    def of(self, label: str) -> float:
        """Give the score from which on an answer with this label is accepted."""
        return self.per_label.get(label, self.score)


class Acceptance(Thresholds):
    """Thresholds as they were chosen, and what they promise."""

    asked: str = Field(description="As given: `precision=0.95`, `coverage=0.9`, `score=0.8`, `cost=20`.")
    coverage: Probability = Field(description="Share of the calibration answers that are accepted.")
    precision: Probability | None = Field(description="Share of right ones among those; None if there are none.")
    precision_bound: Probability | None = Field(
        description="What the precision on like texts is at least, with 95 % confidence; None if nothing is accepted."
    )
    best_score: Probability = Field(description="The highest score of a calibration answer.")
    reached: bool = Field(description="Whether what was asked could be shown on these rows.")


class SetLevel(_Record):
    """Which labels are in a set, for one coverage."""

    coverage: Probability = Field(description="How probable it is, at least, that the set holds the right label.")
    score: Probability = Field(description="Labels with such a score are in it; the model's own, before any map.")
    size: float = Field(ge=1, description="Labels in the set of a calibration text, on average.")


class PredictionSets(_Record):
    """Sets of labels that hold the right one as often as asked: see `lc_finetune.inference.conformal`."""

    levels: tuple[SetLevel, ...] = Field(description="By ascending coverage, as far as the rows can show one.")

    def level(self, coverage: float) -> SetLevel | None:
        """Give the lowest level with a coverage; None if only the set of all labels has it."""
        return next((level for level in self.levels if level.coverage >= coverage), None)


class Calibration(_Record):
    """What `lc_finetune.json` records for one backend and precision, and for the very weights it was measured with."""

    backend: Literal["torch", "onnx", "openvino"]
    precision: Literal["float32", "bfloat16", "float16", "int8"]
    model: str = Field(description="Digest of the weights (torch) or of the export's manifest.")
    split: str = Field(description="Which rows it was fitted on.")
    texts: int = Field(ge=1, description="Their number.")
    map: ScoreMap
    before: Reliability = Field(description="Of the model's own scores.")
    after: Reliability = Field(description="Of the mapped scores, each by a map that was fitted without it.")
    acceptance: Acceptance | None = None
    sets: PredictionSets | None = Field(default=None, description="Of a classifier of one label a text.")


FEW_ANSWERS = 200
"""With fewer, it is said that they show little."""


def calibration_table(record: Calibration, *, diagram: bool = True) -> str:
    """Write a calibration for people, a figure a line; `diagram` adds the reliability diagrams as numbers."""
    before, after = record.before, record.after
    few = f"; fewer than {FEW_ANSWERS} show little, see the interval" if after.count < FEW_ANSWERS else ""
    counted = f"{record.texts:,} {record.split}"
    if after.unit == "pair":
        least = f" with a score of at least {after.floor:g}" if after.floor else ""
        counted += f", {after.count:,} pairs of a text and a label{least}"
    elif after.count != record.texts:
        counted += f", {after.count:,} entities found in them"
    low, high = after.ece_interval
    mean, most = after.ece_perfect
    lines = [
        f"Confidence, {record.backend} in {record.precision} ({counted}{few})",
        f"  {'':<12}   before    after",
        f"  {'ECE':<12}   {before.ece:.4f}   {after.ece:.4f}   95 % interval {low:.4f} to {high:.4f}; "
        f"perfect scores show {mean:.4f}, 95 % of them at most {most:.4f}",
        f"  {'Brier':<12}   {before.brier:.4f}   {after.brier:.4f}",
        f"  {'log loss':<12}   {before.log_loss:.4f}   {after.log_loss:.4f}",
        f"  {'mean score':<12}   {before.confidence:.4f}   {after.confidence:.4f}   {after.accuracy:.4f} are right",
        f"  {'map':<12}   {_map_in_words(record.map)}",
    ]
    if record.acceptance is not None:
        lines.append(f"  {'accepted':<12}   {_acceptance_in_words(record.acceptance, after.unit)}")
    if record.sets is not None:
        lines.append(f"  {'sets':<12}   {_sets_in_words(record.sets)}")
    if diagram:
        lines += _diagrams(before, after)
    return "\n".join(lines)


def _diagrams(before: Reliability, after: Reliability) -> list[str]:
    lines = [f"  {f'{after.unit}s':>12}   score before → right     {f'{after.unit}s':>8}   score after → right"]
    for bins in zip_longest(before.bins, after.bins):
        one, other = (
            ("", "") if bin is None else (f"{bin.count}", f"{bin.confidence:.3f} → {bin.accuracy:.3f}") for bin in bins
        )
        lines.append(f"  {one[0]:>12}         {one[1]:>13}     {other[0]:>8}         {other[1]}".rstrip())
    return lines


def confidence_section(records: Sequence[Calibration]) -> str:
    """Write the part of a model card that speaks of confidence, its heading included."""
    tables = "\n\n".join(calibration_table(record, diagram=i == 0) for i, record in enumerate(records))
    return f"{CARD_HEADING}\n\n```\n{tables}\n```\n"


def _map_in_words(map: ScoreMap) -> str:
    return f"{map.method} (logits / {map.temperature:.3f})" if map.temperature != 1.0 else map.method


def _sets_in_words(sets: PredictionSets) -> str:
    shown = [(coverage, level.size) for coverage in (0.9, 0.99) if (level := sets.level(coverage))]
    said = [f"coverage {coverage:g} takes {size:.2f} labels on average" for coverage, size in shown]
    highest = f"more than {sets.levels[-1].coverage:g} takes all" if sets.levels else "any takes all, the rows are few"
    return "; ".join([*said, highest])


def _acceptance_in_words(acceptance: Acceptance, unit: str) -> str:
    others = f", {len(acceptance.per_label)} labels have their own" if acceptance.per_label else ""
    said = f"{acceptance.asked}: from score {acceptance.score:.4f}{others}, {acceptance.coverage:.1%} of the answers"
    if acceptance.precision is None or acceptance.precision_bound is None:
        return f"{said}: none reaches it, the highest score is {acceptance.best_score:.4f}"
    said += (
        f", {acceptance.precision:.1%} of them right{' in each label given' if unit == 'pair' else ''}; at least "
        f"{acceptance.precision_bound:.1%} with 95 % confidence"
    )
    return said if acceptance.reached else f"{said}. What was asked cannot be shown on so few answers, or on this model"
