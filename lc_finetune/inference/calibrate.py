"""Labelled texts a model has not learnt from → the map that makes its scores true, measured, and the threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from lc_finetune.checkpoint import Checkpoint, Manifest, write_manifest, write_text_atomically
from lc_finetune.confidence import (
    CARD_HEADING,
    SMALLEST,
    Beta,
    Calibration,
    FloatArray,
    Isotonic,
    Reliability,
    ScoreMap,
    confidence_section,
)
from lc_finetune.errors import CheckpointError, ConfigError, shown
from lc_finetune.inference.acceptance import NEVER, Aim, BoolArray, accept
from lc_finetune.inference.backends import BackendName, Dtype, resolve_device
from lc_finetune.inference.decode import Confidence
from lc_finetune.inference.exported import SERVED, is_exported
from lc_finetune.inference.parity import Gold
from lc_finetune.inference.predictor import Predictor, window_of
from lc_finetune.inference.reliability import reliability
from lc_finetune.labels import LabelSet, Span
from lc_finetune.schemas import Classification, Input, Tagging
from lc_finetune.schemes import TagSet

FOLDS = 10
"""Parts of the rows, each judged by maps that were fitted on the others."""
MOST_ROWS = 10_000
"""Texts that are looked at, chosen with a seed if there are more."""
SEED = 0
PRIOR = 2.0
"""Standard deviation of the normal priors on a map's parameters around those that change nothing: they matter only
where there are few rows, and keep a model that was always right there from being certain."""


class Outcome(NamedTuple):
    """Answers under a map: each of shape `(answers,)`.

    Attributes:
        scores: Of what was answered.
        squared_errors: Of the probabilities, summed over the labels.
        log_losses: Negative log of the probability of what was right.
    """

    scores: FloatArray
    squared_errors: FloatArray
    log_losses: FloatArray


@dataclass(frozen=True)
class TextEvidence:
    """What a classifier said of labelled texts.

    Attributes:
        logits: Up to a constant for each text, shape `(texts, labels)`.
        gold: Column of the right label, shape `(texts,)`.
        names: The labels.
    """

    logits: FloatArray
    gold: NDArray[np.intp]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.gold)

    @property
    def right(self) -> BoolArray:
        """Whether each answer is right."""
        return np.asarray(self.logits.argmax(axis=1) == self.gold)

    @property
    def answers(self) -> NDArray[Any]:
        """The label of each answer."""
        return np.asarray(np.array(self.names, dtype=object)[self.logits.argmax(axis=1)])

    def part(self, rows: NDArray[np.intp]) -> TextEvidence:
        """Take some of the texts."""
        return TextEvidence(self.logits[rows], self.gold[rows], self.names)

    def under(self, map: ScoreMap) -> Outcome:
        """Apply a map."""
        probabilities = map.of_labels(self.logits)
        of_gold = probabilities[np.arange(len(self)), self.gold]
        scores = np.take_along_axis(probabilities, self.logits.argmax(axis=1)[:, None], axis=1)[:, 0]
        return Outcome(scores, (probabilities**2).sum(axis=1) - 2 * of_gold + 1, -np.log(np.maximum(of_gold, SMALLEST)))

    def maps(self) -> dict[str, ScoreMap]:
        """Fit each kind of map, the simplest first."""
        cooled = ScoreMap(temperature=_temperature(self.logits, self.gold))
        scores, right = self.under(cooled).scores, self.right
        return {
            "none": ScoreMap(),
            "temperature": cooled,
            **{kind: cooled.model_copy(update={"top": fit(scores, right)}) for kind, fit in _TOP_MAPS.items()},
        }


@dataclass(frozen=True)
class SpanEvidence:
    """What a tagger found in labelled texts.

    Attributes:
        scores: Of each found entity, shape `(entities,)`.
        right: Whether label, start and end are right, shape `(entities,)`.
        answers: The label of each, shape `(entities,)`.
    """

    scores: FloatArray
    right: BoolArray
    answers: NDArray[Any]

    def __len__(self) -> int:
        return len(self.right)

    def part(self, rows: NDArray[np.intp]) -> SpanEvidence:
        """Take some of the entities."""
        return SpanEvidence(self.scores[rows], self.right[rows], self.answers[rows])

    def under(self, map: ScoreMap) -> Outcome:
        """Apply a map."""
        scores = map.of_spans(self.scores)
        of_right = np.where(self.right, scores, 1.0 - scores)
        return Outcome(scores, 2 * (1.0 - of_right) ** 2, -np.log(np.maximum(of_right, SMALLEST)))

    def maps(self) -> dict[str, ScoreMap]:
        """Fit each kind of map, the simplest first."""
        fitted = {kind: ScoreMap(top=fit(self.scores, self.right)) for kind, fit in _TOP_MAPS.items()}
        return {"none": ScoreMap(), **fitted}


Evidence = TextEvidence | SpanEvidence


class TooFewAnswers(ConfigError):
    """There is nothing to calibrate on."""


class Way(NamedTuple):
    """A way to serve a folder, as `Predictor.load` takes it."""

    backend: BackendName
    device: str
    dtype: Dtype


def calibrate(
    checkpoint: Checkpoint,
    texts: Sequence[Input],
    gold: Gold,
    *,
    split: str,
    aim: Aim,
    way: Way,
) -> Calibration:
    """Calibrate a model as it is served: through the same windows, merging, backend and precision.

    Args:
        checkpoint: The folder.
        texts: Texts, or pairs, that the model has not learnt from.
        gold: The right label of each, or its spans for a tagger.
        split: Where the texts come from, for the record.
        aim: What is asked of the accepted answers.
        way: How it is served.

    Raises:
        CheckpointError: If the weights or the export cannot be loaded.
        ConfigError: If there are too few answers to learn from, a label is not the model's, or the device, backend or
            dtype is not to be had.
        LCFinetuneError: If a text cannot be read or answered.
    """
    tagger = checkpoint.task == "token-classification"
    aim.check_labels(TagSet.from_labels(checkpoint.labels).types if tagger else checkpoint.labels.names)
    rows = np.random.default_rng(SEED).permutation(len(texts))[:MOST_ROWS]
    raw = RawPredictor(Predictor.load(checkpoint, **way._asdict()))
    results = answer(raw, [texts[row] for row in rows])
    evidence = evidence_of(results, cast(Gold, [gold[row] for row in rows]), checkpoint.labels.names)
    map, before, after = fit(evidence)
    scores = evidence.under(map).scores
    if raw.scope and isinstance(evidence, TextEvidence):
        inside = np.array([result.in_scope >= raw.scope.significance for result in results])
        scores = np.where(inside, scores, NEVER)
    return Calibration(
        backend=cast(Any, raw.backend.name),
        precision=cast(Any, raw.backend.precision),
        model=raw.export or checkpoint.weights_digest,
        split=split,
        texts=len(rows),
        map=map,
        before=before,
        after=after,
        acceptance=accept(aim, scores, evidence.right, evidence.answers),
    )


class RawPredictor(Predictor):
    """A loaded model that gives its own scores, whatever calibration the checkpoint has."""

    confidence = Confidence()

    def __init__(self, served: Predictor) -> None:
        super().__init__(
            served.checkpoint, device=served.device, dtype=served._dtype, backend=served._backend_name,
            export=served.export,
        )  # fmt: skip
        self._backend = served.backend


def answer(predictor: Predictor, texts: Sequence[Input]) -> list[Any]:
    """Answer texts.

    Raises:
        LCFinetuneError: If one cannot be read or answered.
    """
    results = predictor.predict(texts)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def evidence_of(results: Sequence[Any], gold: Gold, names: tuple[str, ...]) -> Evidence:
    """Set results against right answers.

    Args:
        results: Of a classifier, or of a tagger.
        gold: As many labels, or spans.
        names: The labels of the model.

    Raises:
        ConfigError: If a label is not the model's, or there is nothing to judge.
    """
    if results and isinstance(results[0], Classification):
        column = {name: i for i, name in enumerate(names)}
        _refuse_unknown({str(label) for label in gold}, names)
        scores = np.array([list(result.scores.values()) for result in results])
        logits = np.log(np.maximum(scores, np.finfo(np.float64).tiny))
        return TextEvidence(logits, np.array([column[str(label)] for label in gold]), names)
    spans = cast("Sequence[Sequence[Span]]", gold)
    types = TagSet.from_labels(LabelSet(names)).types
    _refuse_unknown({span.label for right in spans for span in right}, types)
    found = [
        (entity.score, Span(entity.start, entity.end, entity.label) in set(right), entity.label)
        for result, right in zip(cast("Sequence[Tagging]", results), spans, strict=True)
        for entity in result.entities
    ]
    if not found:
        raise TooFewAnswers("Expected texts in which the tagger finds entities, found none. Give more, or others.")
    of_found, are_right, labels = zip(*found, strict=True)
    return SpanEvidence(np.array(of_found, dtype=np.float64), np.array(are_right), np.array(labels, dtype=object))


def fit(evidence: Evidence) -> tuple[ScoreMap, Reliability, Reliability]:
    """Choose the kind of map with the least log loss on rows that it was not fitted on, and fit it on all.

    Returns:
        The map; the figures of the model's own scores; the figures of scores whose maps were fitted without them.

    Raises:
        TooFewAnswers: If there are fewer answers than two.
    """
    if len(evidence) < 2:
        raise TooFewAnswers(f"Expected at least two answers to calibrate on, found {len(evidence)}. Give some hundred.")
    unseen = _cross_fitted(evidence)
    best = min(unseen, key=lambda kind: unseen[kind].log_losses.mean())  # the simplest of those that are as good
    own = unseen["none"]
    return evidence.maps()[best], figures(own, evidence.right), figures(unseen[best], evidence.right)


def figures(outcome: Outcome, right: BoolArray) -> Reliability:
    """Measure answers under a map."""
    return reliability(outcome.scores, right, squared_errors=outcome.squared_errors, log_losses=outcome.log_losses)


def _cross_fitted(evidence: Evidence) -> dict[str, Outcome]:
    """Judge each part of the rows by maps fitted on the others, for each kind of map."""
    order = np.random.default_rng(SEED).permutation(len(evidence))
    parts = np.array_split(order, min(FOLDS, len(evidence)))
    judged: dict[str, list[Outcome]] = {}
    for part in parts:
        others = np.setdiff1d(order, part)
        for kind, map in evidence.part(others).maps().items():
            judged.setdefault(kind, []).append(evidence.part(part).under(map))
    back = np.argsort(np.concatenate(parts))
    return {
        kind: Outcome(*(np.concatenate(columns)[back] for columns in zip(*outcomes, strict=True)))
        for kind, outcomes in judged.items()
    }


def _temperature(logits: FloatArray, gold: NDArray[np.intp]) -> float:
    """Find the temperature of least log loss: Guo et al. 2017, "On Calibration of Modern Neural Networks"."""
    from scipy.optimize import minimize_scalar

    of_gold = logits[np.arange(len(gold)), gold]

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        largest = logits.max(axis=1)
        normalizer = np.log(np.exp(scale * (logits - largest[:, None])).sum(axis=1))
        return float((normalizer - scale * (of_gold - largest)).sum() + log_temperature**2 / (2 * PRIOR**2))

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x))


def _beta(scores: FloatArray, right: BoolArray) -> Beta:
    from scipy.optimize import minimize

    p = np.clip(scores, SMALLEST, 1.0 - SMALLEST)
    features = np.stack([np.log(p), -np.log1p(-p), np.ones_like(p)], axis=1)
    neutral = np.array([1.0, 1.0, 0.0])
    sign = np.where(right, 1.0, -1.0)

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        margin = sign * (features @ parameters)
        away = parameters - neutral
        slope = -sign / (1.0 + np.exp(np.clip(margin, -500, 500)))
        value = np.logaddexp(0.0, -margin).sum() + (away**2).sum() / (2 * PRIOR**2)
        return float(value), features.T @ slope + away / PRIOR**2

    fitted = minimize(loss, neutral, jac=True, method="L-BFGS-B", bounds=[(0.0, None), (0.0, None), (None, None)])
    a, b, c = map(float, fitted.x)
    return Beta(a=a, b=b, c=c)


def _isotonic(scores: FloatArray, right: BoolArray) -> Isotonic:
    """Join the middles of the pooled blocks; none is surer than as many rows can show (Laplace's rule)."""
    from sklearn.isotonic import IsotonicRegression

    order = np.argsort(scores, kind="stable")
    levels = IsotonicRegression().fit_transform(scores[order], right[order].astype(np.float64))
    edges = np.flatnonzero(np.diff(levels)) + 1
    margin = 1.0 / (len(scores) + 2)
    return Isotonic(
        knots=tuple(
            (float(np.clip(block.mean(), 0.0, 1.0)), float(np.clip(level.mean(), margin, 1.0 - margin)))
            for block, level in zip(np.split(scores[order], edges), np.split(levels, edges), strict=True)
        )
    )


_TOP_MAPS: Mapping[str, Callable[[FloatArray, BoolArray], Beta | Isotonic]] = {"beta": _beta, "isotonic": _isotonic}


# The folder.


def served_ways(checkpoint: Checkpoint) -> list[Way]:
    """List the ways in which this machine can serve a folder: torch in float32, its default, and each export."""
    device = resolve_device("auto")
    ways = [Way("torch", device, "float32")]
    if device.startswith("cuda"):
        ways.append(Way("torch", device, "auto"))
    for format, precision in SERVED:
        if is_exported(checkpoint, format, precision) and (format == "onnx" or find_spec("openvino")):
            ways.append(Way(format, "cpu", precision))
    return ways


def _refuse_unknown(wanted: set[str], known: Sequence[str]) -> None:
    if unknown := sorted(wanted - set(known)):
        raise ConfigError(
            f"Expected labels of the model, found {len(unknown)} that it lacks: {shown(unknown, most=5)}. "
            f"Its labels are {shown(known)}."
        )


def check_reached(calibrations: Sequence[Calibration]) -> None:
    """Refuse thresholds given as scores that no answer reaches.

    Raises:
        ConfigError: It names the highest score.
    """
    for one in calibrations:
        if one.acceptance is not None and one.acceptance.precision is None:
            raise ConfigError(
                f"accept: expected a score that an answer reaches, found {one.acceptance.score!r}. Of "
                f"{one.after.count} answers of {one.backend} in {one.precision}, none has more than "
                f"{one.acceptance.best_score:.4f}."
            )


def record(checkpoint: Checkpoint, calibrations: Sequence[Calibration]) -> Checkpoint:
    """Write calibrations into the folder's manifest, in place of those of the same backend and precision.

    A plain Hugging Face folder gets a manifest. Exports stay valid: they are tied to the weights.

    Returns:
        The folder, read anew.
    """
    card = checkpoint.path / "README.md"
    try:
        written = card.read_text(encoding="utf-8") if card.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{card}: expected a card in UTF-8, could not read it. Mend or remove it.") from error
    new = {(one.backend, one.precision) for one in calibrations}
    manifest = checkpoint.manifest or _plain_manifest(checkpoint)
    kept = tuple(one for one in manifest.calibration if (one.backend, one.precision) not in new)
    manifest = write_manifest(checkpoint.path, manifest.model_copy(update={"calibration": (*kept, *calibrations)}))
    if written is not None:
        write_text_atomically(card, _with_section(written, manifest.calibration))
    return Checkpoint.load(checkpoint.path)


def _with_section(card: str, records: Sequence[Calibration]) -> str:
    """Put the figures into a model card, in place of the section of that name or at its end."""
    before, found, rest = f"\n{card}".partition(f"\n{CARD_HEADING}\n")
    _, following, after = rest.partition("\n## ")
    kept = f"\n## {after}" if found and following else ""
    return f"{before[1:].rstrip()}\n\n{confidence_section(records)}{kept}"


def _plain_manifest(checkpoint: Checkpoint) -> Manifest:
    length, stride = window_of(checkpoint)
    tagger = checkpoint.task == "token-classification"
    return Manifest(task=checkpoint.task, max_length=length, stride=stride, tag_unit="first" if tagger else None)
