"""A configuration → a checkpoint, by `transformers.Trainer`."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from lc_finetune.checkpoint import AdapterRecord, Checkpoint, refuse_existing, staged_folder
from lc_finetune.errors import CheckpointError, ConfigError, LCFinetuneError
from lc_finetune.hub import check_access, push
from lc_finetune.inference.encode import Encoder
from lc_finetune.remote import is_url
from lc_finetune.train import recipe
from lc_finetune.train.adapters import Adapted, RankBudget, adapt, orthogonality
from lc_finetune.train.base_model import BaseModel
from lc_finetune.train.config import TrainConfig
from lc_finetune.train.few_shot import warm_up
from lc_finetune.train.losses import Loss, class_weights
from lc_finetune.train.preparation import (
    Plan,
    count_windows,
    epochs_of,
    learning_rate_of,
    output_folder,
    prepare,
    smoothing_of,
)
from lc_finetune.train.processes import Part, Processes, join, on_cpu, size_of_run
from lc_finetune.train.regression_head import fit_last_layer, pass_states_on
from lc_finetune.train.resuming import (
    drop_states,
    open_work,
    ordered_fingerprint,
    raise_unwritable,
    refuse_unfinished,
    stopped_early,
)
from lc_finetune.train.search import Report, check_search_installed, of_trial, search
from lc_finetune.train.tokenization import IGNORED, Feature
from lc_finetune.train.tracking import check_installed, report_final, tracking
from lc_finetune.train.uploading import fine_tune_to_url
from lc_finetune.train.writing import write_checkpoint

logger = logging.getLogger(__name__)


def fine_tune(config: TrainConfig, *, say: Callable[[str], None] = logger.info) -> Checkpoint:
    """Train, measure what is shipped, and write the checkpoint whole or not at all.

    In several processes, started by `torchrun` or `accelerate launch`, the first one does all but the training itself.

    Args:
        config: The run.
        say: Receives the data summary before training starts, and notices.

    Returns:
        The checkpoint; `.path` and `.metrics` are what most callers want.

    Raises:
        DataError: If a file cannot be used.
        ConfigError: If an option cannot be used, or the disk is full.
        CheckpointError: If there is no such base model.
        MissingDependencyError: If a tracker, the store of a URL, or a search lacks its package.
        ProcessError: If another process of the run fails, or is gone.
    """
    processes = join(config)
    return processes.run(
        lambda: _lead(config, say, processes),
        lambda part: _follow(config, part, processes),
        lambda: Checkpoint.load(config.output_dir),
    )


def _lead(config: TrainConfig, say: Callable[[str], None], processes: Processes) -> Checkpoint:
    check_installed(config.report_to)
    if config.search is not None:
        check_search_installed()
    if config.push_to_hub is not None:
        check_access(config.push_to_hub)
    if is_url(config.output_dir):
        checkpoint = fine_tune_to_url(config, lambda local: _fine_tune(config, local, say, processes), say)
    else:
        checkpoint = _fine_tune(config, output_folder(config), say, processes)
    if config.push_to_hub is not None:
        say(f"Pushed to {push(checkpoint, config.push_to_hub)}")
    return checkpoint


def _follow(config: TrainConfig, part: Part, processes: Processes) -> None:
    """Take part in the training that the first process leads."""
    from lc_finetune.inference.backends.torch import quiet

    plan, _ = prepare(config)
    part.check(_digest(plan), processes.rank)
    with quiet():
        train_model(plan, Path(part.work), part.resume_from, lambda _: None, processes=processes)


def _digest(plan: Plan) -> str:
    """Hash the rows in their order, and the labels in that of their columns."""
    labels = "\n".join(plan.task.labels.names)
    return f"{ordered_fingerprint(plan.splits)} {hashlib.sha256(labels.encode()).hexdigest()}"


def _fine_tune(config: TrainConfig, output: Path, say: Callable[[str], None], processes: Processes) -> Checkpoint:
    from lc_finetune.inference.backends.torch import quiet

    refuse_existing(output, overwrite=config.overwrite)
    work = output.absolute().with_name(output.name + ".work")
    refuse_unfinished(work, config)
    plan, summary = prepare(config, test=config.search is None)
    arguments = _arguments(plan, work)  # an option that the Trainer refuses is refused now
    try:
        with quiet():
            seconds, adapter = _estimate(plan, arguments)
            say(str(replace(summary, estimated_seconds=seconds, learns=str(adapter) if adapter else None)))
            processes.introduce(config.batch_size, say)
            resume_from = open_work(work, plan.config, plan.base, ordered_fingerprint(plan.splits), say)
            if config.search is not None:
                plan, is_new = _search(config, plan, work, say)
                if is_new:  # what states there are may be of what was best before
                    drop_states(work)
                    resume_from = None
            with tracking(config, output.name, say) as trackers:
                callbacks = [tracker.callback for tracker in trackers]
                if config.few_shot:
                    tuned, history = train_on_few(plan, work, arguments, say, callbacks)
                else:
                    tuned, history = processes.train_together(
                        Part(os.fspath(work), resume_from, _digest(plan)),
                        lambda: train_model(plan, work, resume_from, say, callbacks, processes=processes),
                    )
                with staged_folder(output, overwrite=config.overwrite) as staging:
                    write_checkpoint(staging, output.name, plan, tuned, history)
                checkpoint = Checkpoint.load(output)
                report_final(trackers, checkpoint.metrics, max((entry.get("step", 0) for entry in history), default=0))
    except Exception as error:
        raise_unwritable(error, output, work)
        raise
    shutil.rmtree(work, ignore_errors=True)
    return checkpoint


def _search(config: TrainConfig, plan: Plan, work: Path, say: Callable[[str], None]) -> tuple[Plan, bool]:
    """Find the best settings, and only then read the test files; says whether any trial was run."""
    searched, is_new = search(plan, work, lambda trial, report: _measure_epochs(trial, work, report), say)
    if plan.config.test_file or plan.config.earlier_test_file:
        plan, summary = prepare(config)
        say(str(summary))
    return replace(of_trial(plan, searched.record.best), searched=searched), is_new


def _measure_epochs(plan: Plan, work: Path, report: Report) -> None:
    """Train without keeping anything, and report the validation metric of each epoch, until told to stop."""
    from lc_finetune.train.progress import EpochReports

    trainer, _, _ = _trainer(plan, work, None, lambda line: None, Processes(), keep=False)
    trainer.add_callback(EpochReports(report, metric=plan.task.metric))
    trainer.train()


def _estimate(plan: Plan, arguments: Any) -> tuple[float, AdapterRecord | None]:
    """Time two steps of a throw-away model and scale up to all steps, in seconds; say what of it learns.

    Raises:
        CheckpointError: If the base model cannot take such a step.
    """
    try:
        seconds, adapter = _timed_step(plan, arguments)
        if plan.config.few_shot:
            steps = recipe.WARM_UP_STEPS * recipe.WARM_UP_BATCH // plan.config.batch_size
        else:
            steps = epochs_of(plan) * -(-count_windows(plan) // plan.config.batch_size)
        return seconds * steps, adapter
    except LCFinetuneError:
        raise
    except Exception as error:  # whatever the model's code raises; memory that ran out too
        raise CheckpointError(
            f"{plan.base.folder}: expected a model that can be trained on a batch of {plan.config.batch_size} rows, "
            f"found one that fails ({type(error).__name__}). Lower --batch-size, or take another base model."
        ) from error


def _timed_step(plan: Plan, arguments: Any) -> tuple[float, AdapterRecord | None]:
    import torch

    device = arguments.device
    with torch.random.fork_rng():
        adapted = _adapted(plan)
    model = adapted.model.to(device).train()
    encoder = Encoder(plan.base.folder, offsets=plan.task.offsets)
    rows = arguments.per_device_train_batch_size
    features, _ = plan.task.features(plan.splits.train[:rows], encoder, plan.windowing)
    batch = {name: tensor.to(device) for name, tensor in collate(features[:rows], encoder.pad_id).items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
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
    return seconds, adapted.record


def _new_model(plan: Plan) -> Any:
    import torch
    from transformers import set_seed

    from lc_finetune.inference.backends.torch import set_padding
    from lc_finetune.train.distillation import keep_columns
    from lc_finetune.train.optimizer import head_parameters

    labels = plan.task.labels
    set_seed(plan.config.seed)  # the head is random
    try:
        model, info = plan.task.model_class().from_pretrained(
            plan.base.folder, use_safetensors=True, id2label=labels.id2label, label2id=labels.label2id,
            ignore_mismatched_sizes=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True,
            **plan.task.model_options(),
        )  # fmt: skip
    except Exception as error:  # safetensors, configuration and shape errors share no base class
        raise CheckpointError(
            f"{plan.base.folder}: the base model cannot be loaded ({type(error).__name__}). Copy it again."
        ) from error
    set_padding(model, plan.base.folder)
    head = head_parameters(model)
    encoder = {name for name, parameter in model.named_parameters() if id(parameter) not in head}
    random = sorted(encoder & {*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])})
    if random:
        raise CheckpointError(
            f"{plan.base.folder}: expected weights for the whole encoder, found {len(random)} missing or of another "
            f"shape ({random[0]}, …): they would be random. Copy the base model again, with its own config.json."
        )
    if plan.continued is None:
        plan.task.start(model, plan.splits.train)
    else:
        keep_columns(model, _earlier_model(plan), len(plan.continued.checkpoint.labels))
    return model


def _earlier_model(plan: Plan) -> Any:
    """Load the model that the run goes on from, as it was."""
    import torch

    return plan.task.model_class().from_pretrained(
        plan.base.folder, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
    )


def _penalty(plan: Plan, model: Any) -> Callable[[Any, Any], Any] | None:
    """Choose what is added to the loss of a step, from its inputs and outputs."""
    from lc_finetune.train.distillation import Distillation

    terms: list[Callable[[Any, Any], Any]] = []
    if plan.config.adapter == "adalora":
        terms.append(lambda inputs, outputs: orthogonality(model))
    if plan.continued is not None and plan.continued.distillation:
        independent = plan.task.loss == "sigmoid"
        terms.append(Distillation(_earlier_model(plan), weight=plan.continued.distillation, independent=independent))
    return (lambda inputs, outputs: sum(term(inputs, outputs) for term in terms)) if terms else None


def _adapted(plan: Plan) -> Adapted:
    """Make the model that is trained: whole, or wrapped with an adapter."""
    model = _new_model(plan)
    return adapt(model, plan.config, plan.base) if plan.config.adapter else Adapted(model, None)


def _loss(plan: Plan, features: Sequence[Feature], processes: Processes) -> Loss | None:
    """Choose the loss; None is the model's own, or the Trainer's with label smoothing."""
    config = plan.config
    # The Trainer's own smoothing looks for the model where peft keeps none beside a prefix.
    smoothed = config.adapter == "prefix" and smoothing_of(plan)
    plain = config.class_weights is None and config.focal_gamma is None and plan.task.loss != "cumulative"
    # A model's own loss is the mean over the pieces of one process, whose texts may be shorter than another's.
    shared = processes.size > 1 and plan.task.loss is not None and isinstance(features[0]["labels"], list)
    if plain and not smoothed and not shared:
        return None
    return Loss(
        weights=class_weights(config.class_weights, features, plan.task.weighed) if config.class_weights else None,
        gamma=config.focal_gamma or 0.0,
        smoothing=smoothing_of(plan),
        kind=plan.task.loss or "softmax",
    )


def collate(features: Sequence[Feature], pad_id: int) -> dict[str, Any]:
    """Pad a batch to its longest row."""
    import torch

    longest = max(len(feature["input_ids"]) for feature in features)

    def padded(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([[*f[name], *[fill] * (longest - len(f["input_ids"]))] for f in features])

    if "labels" in features[0]:
        tagged = isinstance(features[0]["labels"], list)
        labels = padded("labels", IGNORED) if tagged else torch.tensor(np.array([f["labels"] for f in features]))
        wanted = {"labels": labels}
        if "tag_labels" in features[0]:
            wanted["tag_labels"] = padded("tag_labels", IGNORED)
    else:
        wanted = {name: torch.tensor([f[name] for f in features]) for name in ("start_positions", "end_positions")}
    fill = {"input_ids": pad_id, "attention_mask": 0, "token_type_ids": 0}
    return {**{name: padded(name, by) for name, by in fill.items() if name in features[0]}, **wanted}


def train_model(
    plan: Plan,
    work: Path,
    resume_from: str | None,
    say: Callable[[str], None],
    trackers: Sequence[Any] = (),
    *,
    processes: Processes | None = None,
) -> tuple[Adapted, list[dict[str, Any]]]:
    """Run the Trainer, in each process alike if there are several.

    Returns:
        The model, whole or adapted, with its best epoch's weights, and the log.
    """
    trainer, adapted, validation = _trainer(plan, work, resume_from, say, processes or Processes())
    for callback in trackers:
        trainer.add_callback(callback)
    say("Training")
    trainer.train(resume_from_checkpoint=resume_from)
    for callback in trackers:  # W&B's would log what follows on validation rows as `test/…`
        trainer.remove_callback(callback)
    history = list(trainer.state.log_history)
    if validation:
        history += plan.task.choose(trainer, lambda: _new_model(plan), validation, say)
    return adapted, history


def _trainer(
    plan: Plan,
    work: Path,
    resume_from: str | None,
    say: Callable[[str], None],
    processes: Processes,
    *,
    keep: bool = True,
) -> tuple[Any, Adapted, list[Feature]]:
    """Make the Trainer; returns it with the model that it trains, and the validation rows.

    Without `keep`, it writes no states, and ends with the last epoch's weights; the steps are the same.
    """
    from transformers import EarlyStoppingCallback, PrinterCallback
    from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
    from transformers.trainer_utils import IntervalStrategy, SaveStrategy

    from lc_finetune.train.optimizer import FasterHeadTrainer
    from lc_finetune.train.progress import EpochLines

    encoder = Encoder(plan.base.folder, offsets=plan.task.offsets)
    train, cut = plan.task.features(plan.splits.train, encoder, plan.windowing)
    if cut:
        say(f"  note        {cut} training entities end inside a token and were widened to it or left out.")
    validation, _ = plan.task.features(plan.splits.validation, encoder, plan.windowing)
    arguments = _arguments(plan, work)
    if not validation:  # too few rows to spare any: the last epoch is kept
        arguments.eval_strategy, arguments.load_best_model_at_end = IntervalStrategy.NO, False
    if not keep:
        arguments.save_strategy, arguments.load_best_model_at_end = SaveStrategy.NO, False
    if resume_from is not None and validation and stopped_early(Path(resume_from), plan.config.patience):
        arguments.num_train_epochs = 0  # nothing is left but to load the best epoch
    config, adapted = plan.config, _adapted(plan)
    trainer = FasterHeadTrainer(
        head_rate=recipe.HEAD_RATE if config.adapter is None else 1.0,
        layer_decay=config.layer_decay,
        balanced_sampling=config.balanced_sampling,
        penalty=_penalty(plan, adapted.model),
        processes=processes,
        compute_loss_func=_loss(plan, train, processes),
        model=adapted.model,
        args=arguments,
        train_dataset=cast(Any, train),
        eval_dataset=cast(Any, validation),
        data_collator=lambda features: collate(features, encoder.pad_id),
        compute_metrics=lambda outcome: {plan.task.metric: plan.task.validate(outcome.predictions, outcome.label_ids)},
        callbacks=[EarlyStoppingCallback(early_stopping_patience=plan.config.patience)] if validation else [],
    )
    for printer in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
        trainer.remove_callback(printer)
    trainer.add_callback(EpochLines(say, metric=plan.task.metric))
    if config.adapter == "adalora":
        trainer.add_callback(RankBudget())
    return trainer, adapted, validation


def train_on_few(
    plan: Plan, work: Path, arguments: Any, say: Callable[[str], None], trackers: Sequence[Any] = ()
) -> tuple[Adapted, list[dict[str, Any]]]:
    """Warm the encoder up and fit the head to what it then makes of the rows; returns the model and the log."""
    warmed, history = warm_up(plan, work, arguments, say, trackers)
    model = _new_model(warmed).to(arguments.device)
    pass_states_on(model)
    encoder = Encoder(plan.base.folder, offsets=False)
    features, _ = plan.task.features(warmed.splits.train, encoder, plan.windowing)
    asked = plan.config.class_weights
    weights = class_weights(asked, features, plan.task.weighed) if asked else None
    say("Regression")
    fit_last_layer(model, _batches(features, arguments.per_device_eval_batch_size, encoder.pad_id), weights=weights)
    return Adapted(model, None), history


def _batches(features: Sequence[Feature], rows: int, pad_id: int) -> Iterator[dict[str, Any]]:
    """Pad all rows in batches, of like length each."""
    ordered = sorted(features, key=lambda feature: len(feature["input_ids"]))
    for start in range(0, len(ordered), rows):
        yield collate(ordered[start : start + rows], pad_id)


def _arguments(plan: Plan, work: Path) -> Any:
    return training_arguments(
        plan.config,
        plan.base,
        work,
        epochs=epochs_of(plan),
        per_device_eval_batch_size=64,
        label_smoothing_factor=smoothing_of(plan),
        train_sampling_strategy="group_by_length",
        metric_for_best_model=plan.task.metric,
        greater_is_better=True,
    )


def training_arguments(config: TrainConfig, base: BaseModel, work: Path, *, epochs: int, **of_task: Any) -> Any:
    """Make the Trainer's arguments: what all tasks share, what this one wants, and what the user's `trainer` says.

    Raises:
        ConfigError: If the Trainer refuses one.
    """
    import torch
    from transformers import AutoConfig, TrainingArguments

    on_cuda, cpu = torch.cuda.is_available(), on_cpu()
    in_bf16 = AutoConfig.from_pretrained(base.folder, trust_remote_code=False).model_type not in recipe.NOT_IN_BF16
    values: dict[str, Any] = {
        "output_dir": os.fspath(work),
        "num_train_epochs": epochs,
        "learning_rate": learning_rate_of(config, base),
        "per_device_train_batch_size": config.batch_size // size_of_run(),
        "weight_decay": recipe.WEIGHT_DECAY,
        "warmup_steps": recipe.WARMUP,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "activation_checkpointing": config.gradient_checkpointing,
        "lr_scheduler_type": "linear",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "restore_callback_states_from_checkpoint": True,  # or the patience of early stopping would start anew
        "seed": config.seed,
        "data_seed": config.seed,
        "use_cpu": cpu,
        "bf16": in_bf16 and ((on_cuda and torch.cuda.is_bf16_supported()) or (cpu and _multiplies_bf16())),
        "optim": "adamw_torch_fused",
        "report_to": "none",  # the trackers' callbacks are handed over with their runs open
        "run_name": work.name.removesuffix(".work"),
        "dataloader_pin_memory": on_cuda,
    }
    try:
        return TrainingArguments(**{**values, **of_task, **config.trainer})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"trainer: {str(error).splitlines()[0]}") from error


def _multiplies_bf16() -> bool:
    """Say whether the CPU has bf16 products; autocast halves the time of a step there."""
    import torch

    return bool(torch.cpu.get_capabilities().get("avx512_bf16") or torch.cpu.get_capabilities().get("amx_bf16"))
