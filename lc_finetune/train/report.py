"""What is said of a run: a table for the terminal, a card for the folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from lc_finetune.checkpoint import (
    QUESTIONS,
    RELATIONS,
    RUNNABLES,
    AnswerRule,
    LabelThresholds,
    Manifest,
    Task,
    example_of,
)
from lc_finetune.confidence import confidence_section
from lc_finetune.train.tasks import TASKS, TrainingTask

AVERAGES = {"micro_f1": "micro", "macro_f1": "macro", "weighted_f1": "weighted", "samples_f1": "samples"}


def report_table(task: type[TrainingTask], metrics: Mapping[str, Any]) -> str:
    """Write the figures of each split, and the baseline's beside them, as text."""
    return "\n\n".join(_split_table(task, split, figures) for split, figures in metrics.items())


def _split_table(task: type[TrainingTask], split: str, figures: Mapping[str, Any]) -> str:
    baseline = figures.get("frozen_baseline")
    key, name = task.headline
    lines = [f"{task.judges}, {split.replace('_', ' ')} ({figures['rows']:,} rows)", f"  {task.first_line(figures)}"]
    lines += [f"  {average:<10} F1 {figures[field]:.4f}" for field, average in AVERAGES.items() if field in figures]
    if before := figures.get("before"):
        change = f"{before[key]:.4f} ({figures[key] - before[key]:+.4f} since)"
        lines.append(f"  before this training: {name} {change}")
    if baseline:
        gain = f"{baseline[key]:.4f} ({figures[key] - baseline[key]:+.4f} by fine-tuning)"
        lines.append(f"  frozen encoder + {task.frozen_head}: {name} {gain}")
    if confidence := figures.get("confidence"):
        lines.append(f"  calibrated scores: {_confidence_in_words(confidence)}")
        if "entities" in confidence:
            lines.append(f"  calibrated scores of entities: {_confidence_in_words(confidence['entities'])}")
    if outside := figures.get("out_of_scope"):
        lines.append(
            f"  out of scope: {outside['rejected_outside']:.1%} of {outside['rows']:,} rows rejected, and "
            f"{outside['rejected_inside']:.1%} of the others; AUROC {outside['auroc']:.4f}"
        )
    for one in (figures, figures.get("entities", {})):
        if "per_label" in one:
            lines += _by_label(one["per_label"])
    return "\n".join(lines)


def _confidence_in_words(confidence: Mapping[str, Any]) -> str:
    precision = confidence["accepted_precision"]
    taken = f"{confidence['coverage']:.1%} accepted"
    if precision is not None:
        taken += f", {precision:.2%} of them right"
    return f"ECE {confidence['ece']:.4f} (perfect ones: 95 % at most {confidence['ece_perfect']:.4f}), {taken}"


def _by_label(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    width = max([12, *map(len, figures)])
    lines = [f"  {'':<{width}}  precision  recall      F1  support"]
    for label, row in figures.items():
        lines.append(
            f"  {label:<{width}}  {row['precision']:9.4f} {row['recall']:7.4f} {row['f1']:7.4f} {row['support']:8d}"
        )
    return lines


def model_card(name: str, manifest: Manifest, labels: Sequence[str], types: Sequence[str] = ()) -> str:
    """Write the folder's README: what the model is, how to load it, how good it is.

    Args:
        name: Of the folder.
        manifest: Its manifest.
        labels: Columns of its head.
        types: Entity types of a second head.
    """
    task = cast(Task, manifest.task)
    runnable = RUNNABLES[task]
    table = report_table(TASKS[task], manifest.metrics)
    named = task in ("token-classification", QUESTIONS)
    header = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {task if named else 'text-classification'}",
        *([f"base_model: {manifest.base_model}"] if manifest.base_model else []),
        "tags: [lc-finetune, langchain]",
        "---",
    ]
    body = [
        f"# {name}",
        f"Fine-tuned for {task} with lc_finetune {manifest.versions.get('lc-finetune', '')}.".replace(" .", "."),
        "```python\n"
        f"from lc_finetune import {runnable}\n\n"
        f'model = {runnable}.from_checkpoint("path/to/{name}")\n'
        f"model.invoke({example_of(task)})\n"
        "```",
        *([_adapter_in_words(manifest)] if manifest.adapter else []),
        *([_continued_in_words(manifest)] if manifest.continued else []),
        *([f"Settings found by a search: {manifest.search}."] if manifest.search else []),
        *(["## Labels", _labels_in_words(task, labels)] if manifest.answering is None else []),
        *(["Entities: " + ", ".join(f"`{one}`" for one in types)] if types else []),
        *([_rule_in_words(manifest.answering)] if manifest.answering else []),
        *([_thresholds_in_words(manifest.thresholds)] if manifest.thresholds else []),
        "## Figures",
        f"```\n{table}\n```" if manifest.metrics else "None were measured.",
        f"Texts are read in windows of {manifest.max_length} pieces that share {manifest.stride}."
        if manifest.task != RELATIONS
        else f"A text is read in a window of {manifest.max_length} pieces around both mentions.",
        *([confidence_section(manifest.calibration).rstrip()] if manifest.calibration else []),
    ]
    return "\n".join(header) + "\n\n" + "\n\n".join(body) + "\n"


def _adapter_in_words(manifest: Manifest) -> str:
    said = f"Trained: {manifest.adapter}. The adapter is in `adapter/`."
    return f"{said} A prefix is no part of the weights: do not serve them without it." if manifest.prefixed else said


def _labels_in_words(task: Task, labels: Sequence[str]) -> str:
    """List the labels, and say so where they have an order."""
    named = ", ".join(f"`{label}`" for label in labels)
    return f"From the lowest to the highest: {named}" if TASKS[task].has_order else named


def _continued_in_words(manifest: Manifest) -> str:
    """Say what the checkpoint went on from, and how."""
    assert manifest.continued is not None, "asked for"
    new, replayed = manifest.continued.new_labels, manifest.continued.replayed
    said = f"Trained further from {manifest.base_model} on new rows, with {len(new)} new label(s)"
    return f"{said}; {replayed:,} rows of the earlier training were replayed."


def _rule_in_words(rule: AnswerRule) -> str:
    said = f"An answer has {rule.longest:,} pieces at most."
    if rule.null_margin is None:
        return f"{said} There always is one: no training row was without."
    return (
        f"{said} There is none where that is more probable than the best span by more than {rule.null_margin:.4f} in "
        f"log-probability, chosen on {rule.rows:,} {rule.split} rows."
    )


def _thresholds_in_words(thresholds: LabelThresholds) -> str:
    lines = [f"A label is given from this score on, chosen on {thresholds.rows:,} {thresholds.split} rows", ""]
    lines[0] += f" ({thresholds.method}). The score is the model's own, before any calibration:"
    lines += ["| label | from own score |", "| --- | --- |"]
    lines += [f"| `{label}` | {score:.4f} |" for label, score in thresholds.per_label.items()]
    return "\n".join(lines)
