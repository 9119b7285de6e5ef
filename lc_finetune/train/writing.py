"""A trained model → the checkpoint folder, measured as it will serve."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from lc_finetune.checkpoint import (
    Checkpoint,
    Manifest,
    write_manifest,
)
from lc_finetune.confidence import Calibration
from lc_finetune.data import (
    Example,
    MultiLabelExample,
    TextExample,
    gold_of,
    inputs_of,
)
from lc_finetune.data.split import classes as classes_of
from lc_finetune.evaluation import Evaluation, evaluate, write_report
from lc_finetune.evaluation.history import HISTORY, TRIALS
from lc_finetune.inference import Predictor
from lc_finetune.inference.acceptance import Aim
from lc_finetune.inference.calibrate import TooFewAnswers, calibrate, served_ways
from lc_finetune.inference.encode import padding_id
from lc_finetune.inference.export import NotExportable, export
from lc_finetune.inference.neighbours import Neighbourhood
from lc_finetune.inference.outputs import outputs_of
from lc_finetune.inference.parity import BelowParity
from lc_finetune.inference.scope import FEWEST, fit_detector
from lc_finetune.inspection.measures import reference_of, write_reference
from lc_finetune.train.adapters import ADAPTER_FOLDER, Adapted, merged, write_adapter
from lc_finetune.train.continual import with_earlier_figures
from lc_finetune.train.metrics import (
    Figures,
    out_of_scope_figures,
)
from lc_finetune.train.preparation import Plan
from lc_finetune.train.replay import balanced, choose_replay, in_turn, write_replay
from lc_finetune.train.report import model_card
from lc_finetune.train.tasks import TASKS

logger = logging.getLogger(__name__)

SCOPE_ROWS = 10_000
"""Training rows that the means of the classes are taken from, at most."""
OUTSIDE_ROWS = 500
"""Out-of-scope rows that a checkpoint keeps the directions of, at most."""


def write_checkpoint(staging: Path, name: str, plan: Plan, tuned: Adapted, history: list[dict[str, Any]]) -> None:
    """Save, export, measure the folder through the path that serves, and record it all."""
    from transformers import AutoTokenizer

    if tuned.record:
        write_adapter(staging / ADAPTER_FOLDER, tuned, plan.task, plan.base)
    merged(tuned).save_pretrained(staging)
    for weights in staging.glob("*.safetensors"):
        weights.chmod(0o644)  # safetensors writes them readable by their owner alone
    tokenizer: Any = AutoTokenizer.from_pretrained(plan.base.folder, trust_remote_code=False)
    if tokenizer.pad_token is None:  # decoders come without; see `padding_id`
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding_id(plan.base.folder, tokenizer))
    tokenizer.save_pretrained(staging)
    manifest = Manifest(
        task=plan.task.name,
        max_length=plan.windowing.max_length,
        stride=plan.windowing.stride,
        adapter=tuned.record,
        base_model=plan.base.name,
        base_revision=plan.base.revision,
        lineage=plan.base.lineage,
        continued=plan.continued.record(plan.task) if plan.continued else None,
        search=plan.searched.record if plan.searched else None,
        data_fingerprint=plan.fingerprint,
        **plan.task.recorded,
    )
    write_manifest(staging, manifest)
    served = plan.task.choose_served(Checkpoint.load(staging), plan.splits)
    manifest = manifest.model_copy(update=dict(served))
    write_manifest(staging, manifest)
    _export(staging, plan)
    _write_scope(staging, plan)
    write_manifest(staging, manifest)
    manifest = manifest.model_copy(update={"calibration": _calibrations(staging, plan)})
    write_manifest(staging, manifest)
    _write_reference(staging, plan)
    metrics, evaluation = _measure(staging, plan)
    manifest = manifest.model_copy(update={"metrics": metrics})
    manifest = write_manifest(staging, manifest)
    if plan.config.keep_replay:
        write_replay(staging, choose_replay(plan.splits, plan.config.keep_replay))
    if plan.config.keep_neighbours:
        _write_neighbours(staging, plan, plan.config.keep_neighbours)
    card = model_card(name, manifest, plan.task.labels.names, plan.task.types)
    (staging / "README.md").write_text(card, encoding="utf-8")
    _write_lines(staging / HISTORY, history)
    if plan.searched is not None:
        _write_lines(staging / TRIALS, plan.searched.trials)
    write_report(staging, evaluation, metrics, name=name)


def _write_lines(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def _export(staging: Path, plan: Plan) -> None:
    """Leave `onnx/`, which serves on CPU; parity is measured on rows that no step was taken on."""
    held_out = [*plan.splits.validation, *plan.splits.calibration]
    try:
        export(
            staging,
            texts=inputs_of(held_out),
            gold=gold_of(held_out) or None,
            source="validation and calibration rows",
        )
    except (BelowParity, NotExportable) as error:
        logger.warning("No export is left beside the weights, torch serves: %s", error)


def _held_out(plan: Plan) -> tuple[list[Example], str]:
    """Take the rows held out for calibration or, where there are too few, for validation, and say which they are."""
    if plan.splits.calibration:
        rows, split = plan.splits.calibration, "calibration rows, held out of training and of the choice of the epoch"
    else:
        chose = "held out of training" if plan.config.few_shot else "which also chose the epoch"
        rows, split = plan.splits.validation, f"validation rows, {chose}"
    known = [row for row in rows if set(classes_of(row)) <= set(plan.task.answers)]
    if len(known) < len(rows):
        split += f"; {len(rows) - len(known)} more have labels that training never saw"
    return known, split


def _write_scope(staging: Path, plan: Plan) -> None:
    """Leave the statistics by which a classifier of one label tells texts that are out of scope."""
    if not plan.task.scopes:
        return
    held_out, _ = _held_out(plan)
    if len(held_out) < FEWEST:
        logger.warning(
            "The checkpoint is left without in_scope: expected at least %d rows held out of training, found %d.",
            FEWEST,
            len(held_out),
        )
        return
    if unseen := set(plan.task.labels.names) - {row.label for row in cast("Sequence[TextExample]", plan.splits.train)}:
        logger.warning(
            "The checkpoint is left without in_scope: expected training rows of every label, found none of %d. "
            "Train with --keep-replay, so that rows of each are there when it is trained further.",
            len(unseen),
        )
        return
    predictor = Predictor.load(Checkpoint.load(staging))
    train = cast("Sequence[TextExample]", plan.splits.train)
    classes = np.array([plan.task.labels.id_of[row.label] for row in train])
    chosen = in_turn(classes.tolist(), SCOPE_ROWS)
    outside = plan.splits.out_of_scope
    some = np.random.default_rng(0).permutation(len(outside))[:OUTSIDE_ROWS]
    detector = fit_detector(
        outputs_of(predictor, inputs_of([train[row] for row in chosen])).features,
        classes[chosen],
        outputs_of(predictor, inputs_of(held_out)).features,
        outside=outputs_of(predictor, inputs_of([outside[row] for row in some])).features if len(some) else None,
    )
    detector.save(staging)


def _write_neighbours(staging: Path, plan: Plan, most: int) -> None:
    """Leave training rows, with the model's features of them, among which `explain` finds those most like a text."""
    checkpoint = Checkpoint.load(staging)
    rows = cast("Sequence[TextExample | MultiLabelExample]", balanced(plan.splits.train, most))
    features = outputs_of(Predictor.load(checkpoint), inputs_of(rows)).features
    Neighbourhood.of(rows, features).save(checkpoint)


def _calibrations(staging: Path, plan: Plan) -> tuple[Calibration, ...]:
    """Calibrate each way to serve the folder."""
    if not plan.task.calibrates:
        return ()
    known, split = _held_out(plan)
    checkpoint = Checkpoint.load(staging)
    texts, gold, aim = inputs_of(known), gold_of(known), Aim.parse(plan.config.accept)
    try:
        return tuple(
            calibrate(checkpoint, texts, gold, split=split, aim=aim, way=way) for way in served_ways(checkpoint)
        )
    except TooFewAnswers as error:
        logger.warning("The checkpoint is left uncalibrated: %s", error)
        return ()


def _write_reference(staging: Path, plan: Plan) -> None:
    """Leave the numbers that later texts are compared with."""
    held_out, split = _held_out(plan)
    reference = reference_of(Checkpoint.load(staging), inputs_of(held_out), source=split)
    if reference is None:
        logger.info(
            "The checkpoint is left without a reference for drift: %d held-out rows are too few.", len(held_out)
        )
    else:
        write_reference(staging, reference)


def _measure(staging: Path, plan: Plan) -> tuple[dict[str, Figures], Evaluation]:
    """Measure each split, and give the answers to the last one that has rows."""
    predictor = Predictor.load(Checkpoint.load(staging))
    measured: dict[str, Figures] = {}
    evaluation = evaluate(predictor, (), source="validation")
    for split in ("validation", "test"):
        examples: Sequence[Example] = getattr(plan.splits, split)
        if examples:
            evaluation = evaluate(predictor, examples, source=split)
            measured[split] = figures_of(evaluation)
    if plan.splits.test:
        measured["test"] |= figures_out_of_scope(predictor, plan.splits.test, plan.splits.out_of_scope_test)
    if plan.continued is not None:
        rows = {split: getattr(plan.splits, split) for split in measured}
        measured = with_earlier_figures(plan.continued, TASKS[plan.task.name], predictor, rows, measured, figures_of)
    last = "test" if plan.splits.test else "validation"
    if plan.config.baseline and last in measured:
        rows, length = getattr(plan.splits, last), plan.windowing.max_length
        baseline = plan.task.baseline(plan.base.folder, plan.splits, rows, length)
        if baseline:
            measured[last]["frozen_baseline"] = {name: value for name, value in baseline.items() if name != "per_label"}
    return measured, evaluation


def figures_out_of_scope(predictor: Predictor, inside: Sequence[Example], outside: Sequence[Example]) -> Figures:
    """Measure how texts out of scope are told from others; nothing where there are none, or nothing to tell them by."""
    if not outside or predictor.scope is None:
        return {}
    features = (outputs_of(predictor, inputs_of(examples)).features for examples in (inside, outside))
    return {"out_of_scope": out_of_scope_figures(predictor.scope, *features)}


def figures_of(evaluation: Evaluation) -> Figures:
    """Measure a checkpoint's answers, and its scores if they are calibrated."""
    task, results, examples = TASKS[evaluation.task], evaluation.results, evaluation.examples
    figures, judged = task.figures(results, examples)
    if evaluation.calibration is not None and (confidence := task.confidence(results, examples, judged)):
        figures["confidence"] = confidence
    return figures
