"""A configuration → a checkpoint, by `transformers.Trainer`."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from lc_finetune.checkpoint import (
    MULTI_LABEL,
    Checkpoint,
    refuse_existing,
    staged_folder,
)
from lc_finetune.errors import CheckpointError, LCFinetuneError
from lc_finetune.inference.decode import best_path, log_softmax
from lc_finetune.inference.encode import Encoder
from lc_finetune.labels import Span, entity_f1
from lc_finetune.schemes import OUTSIDE, TagSet, tags_to_spans
from lc_finetune.train import recipe
from lc_finetune.train.arguments import training_arguments
from lc_finetune.train.config import TrainConfig
from lc_finetune.train.metrics import macro_average_precision
from lc_finetune.train.preparation import Plan, epochs_of, features_of, output_folder, prepare, windows_of
from lc_finetune.train.resuming import open_work, ordered_fingerprint, refuse_unfinished, stopped_early, unwritable_said
from lc_finetune.train.tokenization import (
    IGNORED,
    Feature,
    indicators,
    padded,
)
from lc_finetune.train.writing import write_checkpoint

logger = logging.getLogger(__name__)


def fine_tune(config: TrainConfig, *, say: Callable[[str], None] = logger.info) -> Checkpoint:
    """Train, measure what is shipped, and write the checkpoint whole or not at all.

    Args:
        config: The run.
        say: Receives the data summary before training starts, and notices.

    Returns:
        The checkpoint; `.path` and `.metrics` are what most callers want.

    Raises:
        DataError: If a file cannot be used.
        ConfigError: If an option cannot be used, or the disk is full.
        CheckpointError: If there is no such base model.
    """
    from lc_finetune.inference.backends.torch import quiet

    output = output_folder(config)
    refuse_existing(output, overwrite=config.overwrite)
    work = output.absolute().with_name(output.name + ".work")
    refuse_unfinished(work, config)
    plan, summary = prepare(config)
    arguments = _arguments(plan, work)  # an option that the Trainer refuses is refused now
    with unwritable_said(output, work), quiet():
        say(str(replace(summary, estimated_seconds=_estimate(plan, arguments))))
        resume_from = open_work(work, plan.config, plan.base, ordered_fingerprint(plan.splits), say)
        model, history = _train(plan, work, resume_from, say)
        with staged_folder(output, overwrite=config.overwrite) as staging:
            write_checkpoint(staging, output.name, plan, model, history)
    shutil.rmtree(work, ignore_errors=True)
    return Checkpoint.load(output)


def _estimate(plan: Plan, arguments: Any) -> float:
    """Time two steps of a throw-away model and scale up to all epochs, in seconds.

    Raises:
        CheckpointError: If the base model cannot take such a step.
    """
    try:
        return _timed_step(plan, arguments) * epochs_of(plan) * -(-windows_of(plan) // plan.config.batch_size)
    except LCFinetuneError:
        raise
    except Exception as error:  # whatever the model's code raises; memory that ran out too
        raise CheckpointError(
            f"{plan.base.folder}: expected a model that can be trained on a batch of {plan.config.batch_size} rows, "
            f"found one that fails ({type(error).__name__}). Lower --batch-size, or take another base model."
        ) from error


def _timed_step(plan: Plan, arguments: Any) -> float:
    import torch

    device = arguments.device
    with torch.random.fork_rng():
        model = _new_model(plan).to(device).train()
    encoder = Encoder(plan.base.folder, offsets=plan.tags is not None)
    features, _ = features_of(plan, plan.splits.train[: plan.config.batch_size], encoder)
    batch = {
        name: tensor.to(device) for name, tensor in padded(features[: plan.config.batch_size], encoder.pad_id).items()
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.bf16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the device
        optimizer.zero_grad()
        seconds = time.perf_counter() - started
    return seconds


_PROBLEM_TYPES: dict[str, str] = {
    "text-classification": "single_label_classification",
    "multi-label-classification": MULTI_LABEL,
}


def _new_model(plan: Plan) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, set_seed

    from lc_finetune.train.optimizer import head_parameters, start_at_shares

    loader: Any = AutoModelForTokenClassification if plan.tags else AutoModelForSequenceClassification
    kind = {} if plan.tags else {"problem_type": _PROBLEM_TYPES[plan.task]}
    set_seed(plan.config.seed)  # the head is random
    try:
        model, info = loader.from_pretrained(
            plan.base.folder, use_safetensors=True, id2label=plan.labels.id2label, label2id=plan.labels.label2id,
            ignore_mismatched_sizes=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True,
            **kind,
        )  # fmt: skip
    except Exception as error:  # safetensors, configuration and shape errors share no base class
        raise CheckpointError(
            f"{plan.base.folder}: the base model cannot be loaded ({type(error).__name__}). Copy it again."
        ) from error
    head = head_parameters(model)
    encoder = {name for name, parameter in model.named_parameters() if id(parameter) not in head}
    random = sorted(encoder & {*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])})
    if random:
        raise CheckpointError(
            f"{plan.base.folder}: expected weights for the whole encoder, found {len(random)} missing or of another "
            f"shape ({random[0]}, …): they would be random. Copy the base model again, with its own config.json."
        )
    if plan.task == "multi-label-classification":
        start_at_shares(model, indicators(plan.splits.train, plan.labels).mean(axis=0))
    return model


def _train(
    plan: Plan, work: Path, resume_from: str | None, say: Callable[[str], None]
) -> tuple[Any, list[dict[str, Any]]]:
    """Run the Trainer; returns the model with its best epoch's weights, and the log."""
    from transformers import EarlyStoppingCallback, PrinterCallback
    from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
    from transformers.trainer_utils import IntervalStrategy

    from lc_finetune.train.optimizer import FasterHeadTrainer
    from lc_finetune.train.progress import EpochLines

    encoder = Encoder(plan.base.folder, offsets=plan.tags is not None)
    train, cut = features_of(plan, plan.splits.train, encoder)
    if cut:
        say(f"  note        {cut} training entities end inside a token and were widened to it or left out.")
    validation, _ = features_of(plan, plan.splits.validation, encoder)
    arguments = _arguments(plan, work)
    if not validation:  # too few rows to spare any: the last epoch is kept
        arguments.eval_strategy, arguments.load_best_model_at_end = IntervalStrategy.NO, False
    if resume_from is not None and validation and stopped_early(Path(resume_from), plan.config.patience):
        arguments.num_train_epochs = 0  # nothing is left but to load the best epoch
    trainer = FasterHeadTrainer(
        head_rate=recipe.HEAD_RATE,
        model=_new_model(plan),
        args=arguments,
        train_dataset=cast(Any, train),
        eval_dataset=cast(Any, validation),
        data_collator=lambda features: padded(features, encoder.pad_id),
        compute_metrics=_validation_metric(plan),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=plan.config.patience)] if validation else [],
    )
    for printer in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
        trainer.remove_callback(printer)
    trainer.add_callback(EpochLines(say, metric=_metric(plan)))
    say("Training")
    trainer.train(resume_from_checkpoint=resume_from)
    history = list(trainer.state.log_history)
    if validation and plan.tags is not None:
        history += _choose_tagger(plan, plan.tags, trainer, validation, say)
    return trainer.model, history


def _choose_tagger(
    plan: Plan, tags: TagSet, trainer: Any, validation: Sequence[Feature], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Let the validation rows choose between what is near the trained weights; returns what was tried, for the log."""
    from lc_finetune.train.selection import choose_tagger

    outside = tags.labels.id_of[OUTSIDE]

    def measure(biases: Sequence[float]) -> list[float]:
        outcome = trainer.predict(validation)
        shift = np.eye(len(tags.labels))[outside]
        return [_entity_f1(tags, outcome.predictions - bias * shift, outcome.label_ids) for bias in biases]

    tried = choose_tagger(
        trainer.model, _new_model(plan), shares=recipe.ENCODER_SHARES, biases=recipe.OUTSIDE_BIASES, outside=outside,
        measure=measure,
    )  # fmt: skip
    best = max(choice.metric for choice in tried)
    say(f"  nearby weights, {len(tried)} tried  validation f1 {best:.4f}")
    return [asdict(choice) for choice in tried]


def _arguments(plan: Plan, work: Path) -> Any:
    return training_arguments(
        plan.config,
        plan.base,
        work,
        epochs=epochs_of(plan),
        per_device_eval_batch_size=64,
        label_smoothing_factor=recipe.LABEL_SMOOTHING[plan.task],
        train_sampling_strategy="group_by_length",
        metric_for_best_model=_metric(plan),
        greater_is_better=True,
    )


def _metric(plan: Plan) -> str:
    return {"text-classification": "accuracy", "multi-label-classification": "average_precision"}.get(plan.task, "f1")


def _validation_metric(plan: Plan) -> Callable[[Any], dict[str, float]]:
    tags = plan.tags
    if plan.task == "multi-label-classification":
        return lambda outcome: {"average_precision": macro_average_precision(outcome.label_ids, outcome.predictions)}
    if tags is None:
        return lambda outcome: {"accuracy": float((outcome.predictions.argmax(-1) == outcome.label_ids).mean())}

    return lambda outcome: {"f1": _entity_f1(tags, outcome.predictions, outcome.label_ids)}


def _entity_f1(tags: TagSet, predictions: Any, label_ids: Any) -> float:
    """Measure logits `(rows, pieces, tags)` against tags `(rows, pieces)`, `IGNORED` where there is none."""
    gold: list[list[Span]] = []
    found: list[list[Span]] = []
    for logits, wanted in zip(predictions, label_ids, strict=True):
        units = wanted != IGNORED
        gold.append(tags_to_spans([tags.labels[i] for i in wanted[units]], tags.scheme))
        found.append(tags.spans(best_path(log_softmax(np.asarray(logits)[units]), tags)))
    return entity_f1(gold, found)
