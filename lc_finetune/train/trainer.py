"""A configuration → a checkpoint, by `transformers.Trainer`."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from lc_finetune.checkpoint import (
    Checkpoint,
    Manifest,
    TagUnit,
    Task,
    refuse_existing,
    sha256,
    staged_folder,
    write_manifest,
    write_text_atomically,
)
from lc_finetune.data import (
    Example,
    ReadOptions,
    Splits,
    Summary,
    TaggedExample,
    TextExample,
    fingerprint,
    read_examples,
    split_examples,
    summarize,
)
from lc_finetune.errors import CheckpointError, ConfigError, DataError, InputError, LCFinetuneError
from lc_finetune.inference import Predictor
from lc_finetune.inference.decode import best_path, log_softmax
from lc_finetune.inference.encode import Encoder, Encoding
from lc_finetune.inference.export import export
from lc_finetune.inference.parity import BelowParity
from lc_finetune.inference.plan import windows
from lc_finetune.labels import LabelSet, Span, entity_f1
from lc_finetune.schemes import TagSet, tags_to_spans
from lc_finetune.train import recipe
from lc_finetune.train.base_model import BaseModel, resolve_base_model
from lc_finetune.train.baseline import classification_baseline, tagging_baseline
from lc_finetune.train.config import TrainConfig
from lc_finetune.train.metrics import Figures, classification_figures, entity_figures
from lc_finetune.train.report import model_card
from lc_finetune.train.samples import sample_files
from lc_finetune.train.tokenization import (
    IGNORED,
    Feature,
    Windowing,
    choose_tag_unit,
    classification_features,
    tagging_features,
)

logger = logging.getLogger(__name__)

LONGEST_NAME = 200
"""Bytes of an output folder's name; file systems allow 255, of which the names of temporary siblings take some."""
RUN_RECORD = "run.json"
TRAINER_STATE = "trainer_state.json"


@dataclass(frozen=True)
class _Plan:
    """All that is decided before the first step."""

    config: TrainConfig
    task: Task
    base: BaseModel
    splits: Splits
    labels: LabelSet
    tags: TagSet | None
    tag_unit: TagUnit | None
    windowing: Windowing
    fingerprint: str


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

    output = _output_folder(config)
    refuse_existing(output, overwrite=config.overwrite)
    work = output.absolute().with_name(output.name + ".work")
    _refuse_unfinished(work, config)
    plan, summary = _prepare(config)
    device = _arguments(plan, work).device  # an option that the Trainer refuses is refused now
    try:
        with quiet():
            say(str(replace(summary, estimated_seconds=_estimate(plan, device))))
            resume_from = _open_work(work, plan, say)
            model, history = _train(plan, work, resume_from, say)
            with staged_folder(output, overwrite=config.overwrite) as staging:
                _write(staging, output.name, plan, model, history)
    except Exception as error:
        if isinstance(error, LCFinetuneError):
            raise
        if not _is_full(error):
            if isinstance(error, OSError):
                raise ConfigError(
                    f"Expected to write to {output.parent}, could not ({error.strerror or type(error).__name__}). "
                    f"Mend it, then add --resume: finished epochs are kept in {work}."
                ) from error
            raise
        raise ConfigError(
            f"Expected room on the disk of {output.parent}, found it full. Free some, then add --resume: "
            f"finished epochs are kept in {work}."
        ) from error
    shutil.rmtree(work, ignore_errors=True)
    return Checkpoint.load(output)


def _is_full(error: Exception) -> bool:
    """Say whether a disk without room is behind an error: safetensors and torch do not raise OSError for it."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    marks = ("No space left", "File too large", "iostream error", "inline_container", "PytorchStreamWriter")
    return any(mark in str(error) for mark in marks)


# Before training.


def _output_folder(config: TrainConfig) -> Path:
    """Find a place for the checkpoint before any work is done; nothing is made there yet.

    Raises:
        ConfigError: If nothing can be written there, or replacing it would delete what the run reads.
    """
    output = Path(config.output_dir).expanduser()
    if output.name in ("", ".."):
        output = output.resolve()
    if len(os.fsencode(output.name)) > LONGEST_NAME:
        raise ConfigError(
            f"output_dir: expected a name of at most {LONGEST_NAME} bytes, found {len(os.fsencode(output.name))}."
        )
    try:
        there = next(folder for folder in output.absolute().parents if os.path.lexists(folder))
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            found = "one without permission" if there.is_dir() else "a file"
            raise ConfigError(f"Expected a folder to write to, found {found} at {there}. Change --output-dir.")
        inside = output.resolve()
    except OSError as error:
        raise ConfigError(f"{output}: expected an output folder, found no such place ({error.strerror}).") from error
    read = (config.train_file, config.validation_file, config.test_file, config.base_model, os.curdir)
    for path in (Path(name).expanduser().resolve() for name in read if name and os.path.exists(name)):
        if inside.is_dir() and path.is_relative_to(inside):
            raise ConfigError(
                f"Expected an output folder apart from what the run reads, found {path} in {output}. "
                "Change --output-dir."
            )
    return output


def _prepare(config: TrainConfig) -> tuple[_Plan, Summary]:
    from transformers import AutoTokenizer

    config = sample_files(config)
    base = resolve_base_model(config.base_model, config.revision)
    options = ReadOptions(config.text_column, config.label_column, config.label_names, config.drop_unlabelled)
    encoder = Encoder(base.folder, offsets=False)
    parts: dict[str, Sequence[Example] | None] = {}
    notes: list[str] = []
    tasks: dict[str, Task] = {}
    for part in ("train", "validation", "test"):
        source = getattr(config, f"{part}_file")
        loaded = read_examples(source, options) if source else None
        parts[part] = loaded.examples if loaded else None
        if loaded:
            notes += loaded.notes
            tasks[source] = loaded.task
            _check_readable(source, loaded.examples, encoder)
    task = _agreed(config, tasks)
    train = cast("Sequence[Example]", parts["train"])
    try:
        splits = split_examples(train, validation=parts["validation"], test=parts["test"], seed=config.seed)
    except DataError as error:
        raise DataError(f"{config.train_file}: {error}") from error
    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    encoder_config = _encoder_config(base, pieces=len(tokenizer))
    windowing = _windowing(config, encoder_config, tokenizer.model_max_length)
    tags, tag_unit = None, None
    if task == "token-classification":
        tagged = cast("Sequence[TaggedExample]", splits.train)
        tags = TagSet.of_types(span.label for example in tagged for span in example.spans)
        tag_unit = choose_tag_unit(tagged, Encoder(base.folder, offsets=True))
    labels = tags.labels if tags else LabelSet.sorted(cast(TextExample, example).label for example in splits.train)
    all_examples = [*splits.train, *splits.validation, *splits.calibration, *splits.test]
    plan = _Plan(config, task, base, splits, labels, tags, tag_unit, windowing, fingerprint(all_examples))
    summary = summarize(splits, tokenizer, max_length=windowing.max_length, notes=notes)
    return plan, summary


def _check_readable(source: str, examples: Sequence[Example], encoder: Encoder) -> None:
    """Refuse rows that the tokenizer cannot read, before any work is done."""
    for row, encoding in enumerate(encoder.encode([example.text for example in examples]), start=1):
        if isinstance(encoding, InputError):
            raise DataError(f"{source}: labelled text number {row}: {encoding}") from encoding


def _encoder_config(base: BaseModel, *, pieces: int) -> Any:
    """Read the base model's configuration, and check that it has a row for each piece of its tokenizer."""
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(base.folder, trust_remote_code=False)
        rows = int(config.vocab_size)
    except Exception as error:  # configurations check themselves, each in its own way
        raise CheckpointError(
            f"{base.folder}/config.json: expected the configuration of an encoder, found one that cannot be used "
            f"({type(error).__name__}). Copy the base model again, or take another."
        ) from error
    if pieces > rows:
        raise CheckpointError(
            f"{base.folder}: expected a tokenizer of at most {rows} pieces, as the model, found {pieces}. "
            "Take model and tokenizer from one place."
        )
    return config


def _agreed(config: TrainConfig, tasks: dict[str, Task]) -> Task:
    first = next(iter(tasks.values()))
    wanted: Task = first if config.task == "auto" else config.task
    for source, task in tasks.items():
        if task != wanted:
            raise DataError(
                f"{source}: expected data for {wanted}, found data for {task}. "
                "Give files of one kind, and --task only if you must."
            )
    return wanted


def _windowing(config: TrainConfig, encoder: Any, tokenizer_length: int) -> Windowing:
    positions = int(getattr(encoder, "max_position_embeddings", 0) or recipe.MAX_LENGTH)
    if encoder.model_type in ("roberta", "xlm-roberta", "camembert"):
        positions -= 2  # their positions start after the padding id
    if config.max_length is not None and config.max_length > positions:
        raise ConfigError(f"max_length: expected at most {positions}, the base model's, found {config.max_length}.")
    length = config.max_length or min(positions, recipe.MAX_LENGTH)
    return Windowing(length, length // 4)


def _features(plan: _Plan, examples: Sequence[Example], encoder: Encoder) -> tuple[list[Feature], int]:
    if plan.tags is None or plan.tag_unit is None:
        texts = cast("Sequence[TextExample]", examples)
        return classification_features(texts, encoder, plan.labels, plan.windowing), 0
    tagged = cast("Sequence[TaggedExample]", examples)
    return tagging_features(tagged, encoder, plan.tags, plan.windowing, tag_unit=plan.tag_unit)


def _epochs(plan: _Plan) -> int:
    return plan.config.epochs or recipe.epochs(plan.task, len(plan.splits.train), plan.config.batch_size)


def _estimate(plan: _Plan, device: Any) -> float:
    """Time two steps of a throw-away model and scale up to all epochs, in seconds.

    Raises:
        CheckpointError: If the base model cannot take such a step.
    """
    try:
        return _timed_step(plan, device) * _epochs(plan) * -(-_windows(plan) // plan.config.batch_size)
    except LCFinetuneError:
        raise
    except Exception as error:  # whatever the model's code raises; memory that ran out too
        raise CheckpointError(
            f"{plan.base.folder}: expected a model that can be trained on a batch of {plan.config.batch_size} rows, "
            f"found one that fails ({type(error).__name__}). Lower --batch-size, or take another base model."
        ) from error


def _windows(plan: _Plan) -> int:
    """Count the windows of the training texts, which are the rows of the Trainer."""
    encoder = Encoder(plan.base.folder, offsets=False)
    room = plan.windowing.max_length - len(encoder.prefix) - len(encoder.suffix)
    encodings = encoder.encode([example.text for example in plan.splits.train])
    return sum(len(windows(len(e.ids), room, plan.windowing.stride)) for e in encodings if isinstance(e, Encoding))


def _timed_step(plan: _Plan, device: Any) -> float:
    import torch

    with torch.random.fork_rng():
        model = _new_model(plan).to(device).train()
    encoder = Encoder(plan.base.folder, offsets=plan.tags is not None)
    features, _ = _features(plan, plan.splits.train[: plan.config.batch_size], encoder)
    batch = {
        name: tensor.to(device) for name, tensor in _collate(features[: plan.config.batch_size], encoder.pad_id).items()
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the device
        optimizer.zero_grad()
        seconds = time.perf_counter() - started
    return seconds


# Resuming.


def _open_work(work: Path, plan: _Plan, say: Callable[[str], None]) -> str | None:
    """Make the private folder of the Trainer's state, or find the last whole state to go on from.

    What the result depends on is recorded: the options, the rows in their order, the weights of the base model.

    Raises:
        ConfigError: If the run to resume had other data or other options.
    """
    options = plan.config.fingerprint_fields()
    record: dict[str, Any] = {
        "config": options,
        "data": _ordered_fingerprint(plan.splits),
        "base_model": {path.name: sha256(path) for path in sorted(plan.base.folder.glob("*.safetensors"))},
    }
    path = work / RUN_RECORD
    if plan.config.resume and path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            changed = [name for name, value in options.items() if before["config"].get(name) != value]
            changed += ["the weights of the base model"] if before.get("base_model") != record["base_model"] else []
            changed += ["the data"] if before["data"] != record["data"] else []
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"{path}: expected the record of a run, found an altered file. Start anew without --resume, "
                "with --overwrite."
            ) from error
        if changed:
            raise ConfigError(
                f"Expected the run that {work} belongs to, found another: {', '.join(changed)} changed. "
                "Give the same options, or start anew without --resume."
            )
        whole = _whole_states(work)
        if whole:
            return os.fspath(whole[-1])
    if plan.config.resume:
        say("Nothing to resume from: starting at the beginning.")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, mode=0o700)
    write_text_atomically(path, json.dumps(record, indent=2))
    return None


def _refuse_unfinished(work: Path, config: TrainConfig) -> None:
    """Refuse to throw away finished epochs of an interrupted run unasked, or what is no run at all."""
    if work.is_file() or (work.is_dir() and not all(_is_ours(path.name) for path in work.iterdir())):
        raise ConfigError(f"Expected {work} for the unfinished run, found something else there. Move it away.")
    if _whole_states(work) and not (config.resume or config.overwrite):
        raise ConfigError(
            f"Expected no unfinished run for {config.output_dir}, found finished epochs in {work}. "
            "Continue it with --resume, or start anew with --overwrite."
        )


def _is_ours(name: str) -> bool:
    return name.startswith((RUN_RECORD, f".{RUN_RECORD}.", "checkpoint-", "runs", "tmp-checkpoint-"))


def _whole_states(work: Path) -> list[Path]:
    whole = [folder for folder in work.glob("checkpoint-[0-9]*") if _is_whole(folder)]
    return sorted(whole, key=lambda folder: int(folder.name.rpartition("-")[2]))


def _ordered_fingerprint(splits: Splits) -> str:
    """Hash the rows in order, which decides who shares a batch; `fingerprint` does not look at the order."""
    content = hashlib.sha256()
    for part in (splits.train, splits.validation):
        content.update("".join(fingerprint([example]) for example in part).encode() + b"\n")
    return content.hexdigest()


def _stopped_early(state: Path, patience: int) -> bool:
    """Say whether the run had already run out of patience: only what follows training was cut off."""
    callbacks = json.loads((state / TRAINER_STATE).read_text(encoding="utf-8"))["stateful_callbacks"]
    attributes = callbacks.get("EarlyStoppingCallback", {}).get("attributes", {})
    return int(attributes.get("early_stopping_patience_counter", 0)) >= patience


def _is_whole(folder: Path) -> bool:
    """Say whether the Trainer finished writing a state; its own record is the last file it writes."""
    try:
        json.loads((folder / TRAINER_STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


# Training.


def _new_model(plan: _Plan) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, set_seed

    loader: Any = AutoModelForTokenClassification if plan.tags else AutoModelForSequenceClassification
    kind = {} if plan.tags else {"problem_type": "single_label_classification"}
    set_seed(plan.config.seed)  # the head is random
    try:
        return loader.from_pretrained(
            plan.base.folder, use_safetensors=True, id2label=plan.labels.id2label, label2id=plan.labels.label2id,
            ignore_mismatched_sizes=True, dtype=torch.float32, **kind,
        )  # fmt: skip
    except Exception as error:  # safetensors, configuration and shape errors share no base class
        raise CheckpointError(
            f"{plan.base.folder}: the base model cannot be loaded ({type(error).__name__}). Copy it again."
        ) from error


def _collate(features: Sequence[Feature], pad_id: int) -> dict[str, Any]:
    """Pad a batch to its longest row."""
    import torch

    longest = max(len(feature["input_ids"]) for feature in features)

    def padded(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([[*f[name], *[fill] * (longest - len(f["input_ids"]))] for f in features])

    tagged = isinstance(features[0]["labels"], list)
    labels = padded("labels", IGNORED) if tagged else torch.tensor([feature["labels"] for feature in features])
    return {"input_ids": padded("input_ids", pad_id), "attention_mask": padded("attention_mask", 0), "labels": labels}


def _train(
    plan: _Plan, work: Path, resume_from: str | None, say: Callable[[str], None]
) -> tuple[Any, list[dict[str, Any]]]:
    """Run the Trainer; returns the model with its best epoch's weights, and the log."""
    from transformers import EarlyStoppingCallback, PrinterCallback
    from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
    from transformers.trainer_utils import IntervalStrategy

    from lc_finetune.train.optimizer import FasterHeadTrainer
    from lc_finetune.train.progress import EpochLines

    encoder = Encoder(plan.base.folder, offsets=plan.tags is not None)
    train, cut = _features(plan, plan.splits.train, encoder)
    if cut:
        say(f"  note        {cut} training entities end inside a token and were widened to it or left out.")
    validation, _ = _features(plan, plan.splits.validation, encoder)
    arguments = _arguments(plan, work)
    if not validation:  # too few rows to spare any: the last epoch is kept
        arguments.eval_strategy, arguments.load_best_model_at_end = IntervalStrategy.NO, False
    if resume_from is not None and validation and _stopped_early(Path(resume_from), plan.config.patience):
        arguments.num_train_epochs = 0  # nothing is left but to load the best epoch
    trainer = FasterHeadTrainer(
        head_rate=recipe.HEAD_RATE,
        model=_new_model(plan),
        args=arguments,
        train_dataset=cast(Any, train),
        eval_dataset=cast(Any, validation),
        data_collator=lambda features: _collate(features, encoder.pad_id),
        compute_metrics=_validation_metric(plan),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=plan.config.patience)] if validation else [],
    )
    for printer in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
        trainer.remove_callback(printer)
    trainer.add_callback(EpochLines(say, metric=_metric(plan)))
    say("Training")
    trainer.train(resume_from_checkpoint=resume_from)
    return trainer.model, list(trainer.state.log_history)


def _arguments(plan: _Plan, work: Path) -> Any:
    import torch
    from transformers import AutoConfig, TrainingArguments

    config = plan.config
    on_cuda = torch.cuda.is_available()
    on_cpu = not on_cuda and not torch.backends.mps.is_available()
    hidden = int(AutoConfig.from_pretrained(plan.base.folder).hidden_size)
    values: dict[str, Any] = {
        "output_dir": os.fspath(work),
        "num_train_epochs": _epochs(plan),
        "learning_rate": config.learning_rate or recipe.learning_rate(hidden),
        "per_device_train_batch_size": config.batch_size,
        "per_device_eval_batch_size": 64,
        "weight_decay": recipe.WEIGHT_DECAY,
        "warmup_steps": recipe.WARMUP,
        "label_smoothing_factor": recipe.LABEL_SMOOTHING[plan.task],
        "lr_scheduler_type": "linear",
        "train_sampling_strategy": "group_by_length",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": _metric(plan),
        "greater_is_better": True,
        "restore_callback_states_from_checkpoint": True,  # or the patience of early stopping would start anew
        "seed": config.seed,
        "data_seed": config.seed,
        "use_cpu": on_cpu,
        "bf16": (on_cuda and torch.cuda.is_bf16_supported()) or (on_cpu and _multiplies_bf16()),
        "optim": "adamw_torch_fused",
        "report_to": "none",
        "dataloader_pin_memory": on_cuda,
    }
    try:
        return TrainingArguments(**{**values, **config.trainer})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"trainer: {str(error).splitlines()[0]}") from error


def _multiplies_bf16() -> bool:
    """Say whether the CPU has bf16 products; autocast halves the time of a step there."""
    import torch

    return bool(torch.cpu.get_capabilities().get("avx512_bf16") or torch.cpu.get_capabilities().get("amx_bf16"))


def _metric(plan: _Plan) -> str:
    return "f1" if plan.tags else "accuracy"


def _validation_metric(plan: _Plan) -> Callable[[Any], dict[str, float]]:
    tags = plan.tags
    if tags is None:
        return lambda outcome: {"accuracy": float((outcome.predictions.argmax(-1) == outcome.label_ids).mean())}

    def entities(outcome: Any) -> dict[str, float]:
        gold: list[list[Span]] = []
        found: list[list[Span]] = []
        for logits, wanted in zip(outcome.predictions, outcome.label_ids, strict=True):
            units = wanted != IGNORED
            gold.append(tags_to_spans([tags.labels[i] for i in wanted[units]], tags.scheme))
            found.append(tags.spans(best_path(log_softmax(np.asarray(logits)[units]), tags)))
        return {"f1": entity_f1(gold, found)}

    return entities


# After training.


def _write(staging: Path, name: str, plan: _Plan, model: Any, history: list[dict[str, Any]]) -> None:
    """Save, export, measure the folder through the path that serves, and record it all."""
    from transformers import AutoTokenizer

    model.to("cpu").float().save_pretrained(staging)
    for weights in staging.glob("*.safetensors"):
        weights.chmod(0o644)  # safetensors writes them readable by their owner alone
    AutoTokenizer.from_pretrained(plan.base.folder).save_pretrained(staging)
    manifest = Manifest(
        task=plan.task,
        max_length=plan.windowing.max_length,
        stride=plan.windowing.stride,
        tag_unit=plan.tag_unit,
        base_model=plan.base.name,
        base_revision=plan.base.revision,
        data_fingerprint=plan.fingerprint,
    )
    write_manifest(staging, manifest)
    _export(staging, plan)
    manifest = manifest.model_copy(update={"metrics": _measure(staging, plan)})
    manifest = write_manifest(staging, manifest)
    (staging / "README.md").write_text(model_card(name, manifest, plan.labels.names), encoding="utf-8")
    (staging / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history), encoding="utf-8")


def _export(staging: Path, plan: _Plan) -> None:
    """Leave `onnx/`, which serves on CPU; parity is measured on rows that no step was taken on."""
    held_out = [*plan.splits.validation, *plan.splits.calibration]
    gold: Any = [e.label if isinstance(e, TextExample) else e.spans for e in held_out]
    try:
        export(staging, texts=[e.text for e in held_out], gold=gold or None, source="validation and calibration rows")
    except BelowParity as error:
        logger.warning("No export is left beside the weights, torch serves: %s", error)


def _measure(staging: Path, plan: _Plan) -> dict[str, Figures]:
    predictor = Predictor.load(Checkpoint.load(staging))
    measured: dict[str, Figures] = {}
    for split in ("validation", "test"):
        examples: Sequence[Example] = getattr(plan.splits, split)
        if examples:
            measured[split] = score(predictor, examples)
    last = "test" if plan.splits.test else "validation"
    if plan.config.baseline and last in measured:
        measured[last]["frozen_baseline"] = {
            name: value for name, value in _baseline(plan, getattr(plan.splits, last)).items() if name != "per_label"
        }
    return measured


def _baseline(plan: _Plan, examples: Sequence[Example]) -> Figures:
    length = plan.windowing.max_length
    if plan.tags is None or plan.tag_unit is None:
        return classification_baseline(plan.base.folder, plan.splits.train, examples, length)
    return tagging_baseline(plan.base.folder, plan.splits.train, examples, plan.tags, length, plan.tag_unit)


def score(predictor: Predictor, examples: Sequence[Example]) -> Figures:
    """Measure a loaded checkpoint on labelled examples.

    Raises:
        LCFinetuneError: If a text cannot be read or answered.
    """
    results = predictor.predict([example.text for example in examples])
    for result in results:
        if isinstance(result, LCFinetuneError):
            raise result
    if isinstance(examples[0], TextExample):
        return classification_figures([cast(TextExample, e).label for e in examples], [r.label for r in results])
    found = [[Span(e.start, e.end, e.label) for e in result.entities] for result in results]
    return entity_figures([cast(TaggedExample, e).spans for e in examples], found)
