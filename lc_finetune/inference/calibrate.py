"""Labelled texts a model has not learnt from → the map that makes its scores true, measured, and the threshold."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from lc_finetune.answers import ANSWERED, ANSWERS, UNANSWERED, exact_match
from lc_finetune.checkpoint import QUESTIONS, TAGGED, Checkpoint, Manifest, write_manifest, write_text_atomically
from lc_finetune.confidence import (
    CARD_HEADING,
    SMALLEST,
    Beta,
    Calibration,
    FloatArray,
    HeadCalibration,
    Isotonic,
    Reliability,
    ScoreMap,
    confidence_section,
)
from lc_finetune.errors import CheckpointError, ConfigError, shown
from lc_finetune.inference.acceptance import NEVER, Aim, BoolArray, accept
from lc_finetune.inference.backends import BackendName, Dtype, resolve_device
from lc_finetune.inference.conformal import prediction_sets
from lc_finetune.inference.costs import CostMatrix
from lc_finetune.inference.decode import Confidence
from lc_finetune.inference.exported import SERVED, is_exported
from lc_finetune.inference.fitting import fit_beta, fit_isotonic, fit_temperature
from lc_finetune.inference.parity import Gold
from lc_finetune.inference.predictor import Predictor, window_of
from lc_finetune.inference.reliability import reliability, reliability_of_pairs
from lc_finetune.labels import LabelSet, Span
from lc_finetune.remote import refuse_cached
from lc_finetune.schemas import (
    Classification,
    Input,
    IntentAndEntities,
    MultiLabelClassification,
    QuestionAnswer,
    Tagging,
)
from lc_finetune.schemes import TagSet

logger = logging.getLogger(__name__)

FOLDS = 10
"""Parts of the rows, each judged by maps that were fitted on the others."""
MOST_ROWS = 10_000
"""Texts that are looked at, chosen with a seed if there are more."""
MOST_PAIRS = 500_000
"""Pairs of a text and a label that are looked at, likewise, where labels are independent."""
SEED = 0
LABEL_SPREADS = {"tight": 0.2, "loose": 1.0}
"""How far the parameters of a label's map may be from those of the map that all labels share: standard deviations of
normal priors. A label with few rows keeps to the shared map."""
_TOP_MAPS: Mapping[str, Callable[[FloatArray, BoolArray], Beta | Isotonic]] = {
    "beta": fit_beta,
    "isotonic": fit_isotonic,
}


class Outcome(NamedTuple):
    """Answers under a map: each of shape `(answers,)`, or `(texts, labels)` where labels are independent.

    Attributes:
        scores: Of what was answered, or of each label.
        squared_errors: Of the probabilities of an answer, summed over the labels, or of each label.
        log_losses: Negative log of the probability of what was right.
    """

    scores: FloatArray
    squared_errors: FloatArray
    log_losses: FloatArray


class Verdicts(NamedTuple):
    """What `accept` has to judge: each of shape `(answers,)`.

    Attributes:
        scores: Calibrated; `NEVER` where an answer cannot be accepted.
        right: Whether the answer is right.
        labels: Whose threshold holds.
    """

    scores: FloatArray
    right: BoolArray
    labels: NDArray[Any]


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
        cooled = ScoreMap(temperature=fit_temperature(self.logits, self.gold))
        scores, right = self.under(cooled).scores, self.right
        return {
            "none": ScoreMap(),
            "temperature": cooled,
            **{kind: cooled.model_copy(update={"top": fit(scores, right)}) for kind, fit in _TOP_MAPS.items()},
        }

    def costs(self, map: ScoreMap, of: CostMatrix) -> dict[str, float]:
        """Say what a wrong answer of each label costs on average."""
        return of.when_wrong(map.of_labels(self.logits), self.logits.argmax(axis=1), self.gold, self.names)

    def verdicts(self, map: ScoreMap, _: Aim) -> Verdicts:
        """Judge each text's label."""
        labels = np.array(self.names, dtype=object)[self.logits.argmax(axis=1)]
        return Verdicts(self.under(map).scores, self.right, labels)


@dataclass(frozen=True)
class LabelEvidence:
    """What a multi-label classifier said of labelled texts.

    Attributes:
        scores: Of each label, shape `(texts, labels)`.
        gold: Whether it applies, shape `(texts, labels)`.
        given: Whether it was given, shape `(texts, labels)`.
        names: The labels.
    """

    scores: FloatArray
    gold: BoolArray
    given: BoolArray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.gold)

    @property
    def right(self) -> BoolArray:
        """Whether each pair of a text and a label is right: whether the label applies."""
        return self.gold

    def part(self, rows: NDArray[np.intp]) -> LabelEvidence:
        """Take some of the texts."""
        return LabelEvidence(self.scores[rows], self.gold[rows], self.given[rows], self.names)

    def under(self, map: ScoreMap) -> Outcome:
        """Apply a map."""
        scores = map.of_each(self.scores)
        of_right = np.where(self.gold, scores, 1.0 - scores)
        return Outcome(scores, (1.0 - of_right) ** 2, -np.log(np.maximum(of_right, SMALLEST)))

    def maps(self) -> dict[str, ScoreMap]:
        """Fit none, one map for all labels, and maps of each label around that one."""
        shared = fit_beta(self.scores.ravel(), self.gold.ravel())
        fitted = {
            kind: [
                fit_beta(*pair, around=shared, spread=spread) for pair in zip(self.scores.T, self.gold.T, strict=True)
            ]
            for kind, spread in LABEL_SPREADS.items()
        }
        fitted = {"shared": [shared] * len(self.names), **fitted}
        return {
            "none": ScoreMap(),
            **{kind: ScoreMap(per_label=dict(zip(self.names, maps, strict=True))) for kind, maps in fitted.items()},
        }

    def verdicts(self, map: ScoreMap, aim: Aim) -> Verdicts:
        """Judge each text's labels as one answer, which is right if each of them is.

        It is accepted if each reaches its threshold: what decides is the label that is farthest below its own.
        """
        scores = map.of_each(self.scores)
        over = np.where(self.given, scores - np.array([aim.threshold_of(name) for name in self.names]), np.inf)
        decides = np.arange(len(self)), over.argmin(axis=1)
        return Verdicts(
            np.where(self.given.any(axis=1), scores[decides], NEVER),
            np.asarray((self.gold | ~self.given).all(axis=1)),
            np.array(self.names, dtype=object)[decides[1]],
        )


@dataclass(frozen=True)
class SpanEvidence:
    """What a tagger found in labelled texts, or how a question answerer answered.

    Attributes:
        scores: Of each found entity or answer, shape `(entities,)`.
        right: Whether label, start and end, or the answer, are right, shape `(entities,)`.
        answers: The label of each, or whether it is an answer, shape `(entities,)`.
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

    def verdicts(self, map: ScoreMap, _: Aim) -> Verdicts:
        """Judge each entity."""
        return Verdicts(self.under(map).scores, self.right, self.answers)


Evidence = TextEvidence | LabelEvidence | SpanEvidence


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
        gold: The right label of each, its labels for a multi-label classifier, its spans for a tagger, its label with
            its spans where there are two heads, or the right answers to a question, none if it has none.
        split: Where the texts come from, for the record.
        aim: What is asked of the accepted answers.
        way: How it is served.

    Raises:
        CheckpointError: If the weights or the export cannot be loaded.
        ConfigError: If there are too few answers to learn from, a label is not the model's, or the device, backend or
            dtype is not to be had.
        LCFinetuneError: If a text cannot be read or answered.
    """
    aim.check(checkpoint.task, answers_of(checkpoint))
    several = checkpoint.task == "multi-label-classification"
    most = min(MOST_ROWS, MOST_PAIRS // len(checkpoint.labels)) if several else MOST_ROWS
    rows = np.random.default_rng(SEED).permutation(len(texts))[:most]
    raw = RawPredictor(Predictor.load(checkpoint, **way._asdict()))
    results = answer(raw, [texts[row] for row in rows])
    wanted: Any = [gold[row] for row in rows]
    entities = None
    if checkpoint.tags is not None:
        wanted, spans = zip(*wanted, strict=True)
        entities = _of_entities(raw, results, spans, checkpoint.tags, aim)
        results = [result.classification for result in results]
    evidence = evidence_of(results, cast(Gold, wanted), checkpoint.labels.names)
    of_texts = checkpoint.task != "token-classification"  # and not of entities, which a blank text has none of
    return Calibration(
        backend=cast(Any, raw.backend.name),
        precision=cast(Any, raw.backend.precision),
        model=raw.export or checkpoint.weights_digest,
        split=split,
        texts=len(rows),
        **dict(_judged(evidence, aim, _may_be_accepted(raw, results) if of_texts else None)),
        entities=entities,
        sets=prediction_sets(ScoreMap().of_labels(evidence.logits), evidence.gold)
        if isinstance(evidence, TextEvidence)
        else None,
    )


def answers_of(checkpoint: Checkpoint) -> Sequence[str]:
    """Name what a threshold can be set for."""
    if checkpoint.task == QUESTIONS:
        return ANSWERS
    if checkpoint.task not in TAGGED:
        return checkpoint.labels.names
    types = TagSet.from_labels(checkpoint.tags or checkpoint.labels).types
    return types if checkpoint.tags is None else (*checkpoint.labels.names, *types)


def _judged(evidence: Evidence, aim: Aim, may_be: BoolArray | None) -> HeadCalibration:
    """Fit the map and choose the threshold, for answers that `may_be` accepted, shape `(answers,)`; all if None."""
    map, before, after = fit(evidence)
    if aim.costs is not None and isinstance(evidence, TextEvidence):
        aim = aim.priced(evidence.costs(map, aim.costs))
    verdicts = evidence.verdicts(map, aim)
    if may_be is not None:
        verdicts = verdicts._replace(scores=np.where(may_be, verdicts.scores, NEVER))
    return HeadCalibration(map=map, before=before, after=after, acceptance=accept(aim, *verdicts))


def _may_be_accepted(raw: Predictor, results: Sequence[Any]) -> BoolArray:
    """Say which answers a high score would get accepted, shape `(texts,)`: no blank text's, none out of scope."""
    significance = raw.scope.significance if raw.scope else 0.0
    scope = [getattr(result, "in_scope", None) for result in results]
    return np.array(
        [
            result.accepted is not False and (p_value is None or p_value >= significance)
            for result, p_value in zip(results, scope, strict=True)
        ]
    )


def _of_entities(
    raw: Predictor, results: Sequence[IntentAndEntities], spans: Gold, tags: LabelSet, aim: Aim
) -> HeadCalibration | None:
    """Calibrate what a second head finds; None if it finds too little."""
    may_be = np.repeat(_may_be_accepted(raw, results), [len(result.entities) for result in results])
    try:
        return _judged(evidence_of([result.tagging for result in results], spans, tags.names), aim, may_be)
    except TooFewAnswers as error:
        logger.warning("The entities are left uncalibrated: %s", error)
        return None


class RawPredictor(Predictor):
    """A loaded model that gives its own scores, whatever calibration the checkpoint has."""

    confidence = entity_confidence = Confidence()

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
        gold: As many labels, tuples of labels, or of spans.
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
    if results and isinstance(results[0], MultiLabelClassification):
        several = cast("Sequence[Sequence[str]]", gold)
        _refuse_unknown({label for labels in several for label in labels}, names)
        return LabelEvidence(
            np.array([list(result.scores.values()) for result in results]),
            _indicators(several, names),
            _indicators([result.labels for result in results], names),
            names,
        )
    if results and isinstance(results[0], QuestionAnswer):
        return SpanEvidence(
            np.array([result.score for result in results]),
            np.array([exact_match(result.answer, texts) for result, texts in zip(results, gold, strict=True)]),
            np.array([UNANSWERED if result.answer is None else ANSWERED for result in results], dtype=object),
        )
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


def _indicators(several: Sequence[Sequence[str]], names: tuple[str, ...]) -> BoolArray:
    return np.array([[name in labels for name in names] for labels in map(frozenset, several)])


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
    """Measure answers under a map, or pairs of texts and labels if arrays have two dimensions."""
    measure = reliability if right.ndim == 1 else reliability_of_pairs
    return measure(outcome.scores, right, squared_errors=outcome.squared_errors, log_losses=outcome.log_losses)


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
        chosen = one.acceptance
        if chosen and chosen.precision is None and Aim.parse(chosen.asked).kind in ("score", "cost"):
            raise ConfigError(
                f"accept: expected a score that an answer reaches, found {chosen.score!r}. Of the answers of "
                f"{one.backend} in {one.precision}, none has more than {chosen.best_score:.4f}."
            )


def record(checkpoint: Checkpoint, calibrations: Sequence[Calibration]) -> Checkpoint:
    """Write calibrations into the folder's manifest, in place of those of the same backend and precision.

    A plain Hugging Face folder gets a manifest. Exports stay valid: they are tied to the weights.

    Returns:
        The folder, read anew.

    Raises:
        CheckpointError: If the folder cannot be written to, or its card cannot be read.
        ConfigError: If the folder is the cached copy of a URL.
    """
    refuse_cached(checkpoint.path, "calibration")
    card = checkpoint.path / "README.md"
    try:
        written = card.read_text(encoding="utf-8") if card.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{card}: expected a card in UTF-8, could not read it. Mend or remove it.") from error
    new = {(one.backend, one.precision) for one in calibrations}
    manifest = checkpoint.manifest or _plain_manifest(checkpoint)
    kept = tuple(one for one in manifest.calibration if (one.backend, one.precision) not in new)
    manifest = manifest.model_copy(update={"calibration": (*kept, *calibrations)})
    try:
        manifest = write_manifest(checkpoint.path, manifest)
        if written is not None:
            write_text_atomically(card, _with_section(written, manifest.calibration))
    except OSError as error:
        raise CheckpointError(
            f"{checkpoint.path}: expected a folder that can be written to, found: {error.strerror}. Copy it, and "
            "calibrate the copy."
        ) from error
    return Checkpoint.load(checkpoint.path)


def _with_section(card: str, records: Sequence[Calibration]) -> str:
    """Put the figures into a model card, in place of the section of that name or at its end."""
    before, found, rest = f"\n{card}".partition(f"\n{CARD_HEADING}\n")
    _, following, after = rest.partition("\n## ")
    kept = f"\n## {after}" if found and following else ""
    return f"{before[1:].rstrip()}\n\n{confidence_section(records)}{kept}"


def _plain_manifest(checkpoint: Checkpoint) -> Manifest:
    length, stride = window_of(checkpoint)
    tag_unit: Any = "first" if checkpoint.task in TAGGED else None
    return Manifest(task=checkpoint.task, max_length=length, stride=stride, tag_unit=tag_unit)
