"""A configuration → all that is decided before the first step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lc_finetune.checkpoint import Task, before_first
from lc_finetune.data import (
    Example,
    ReadOptions,
    Splits,
    Summary,
    TextExample,
    fingerprint,
    read_examples,
    set_apart,
    split_examples,
    summarize,
)
from lc_finetune.data.readers import check_source, files_of
from lc_finetune.errors import CheckpointError, ConfigError, DataError, InputError, did_you_mean, shown
from lc_finetune.inference.acceptance import Aim
from lc_finetune.inference.encode import Encoder, Encoding
from lc_finetune.train import recipe
from lc_finetune.train.adapters import prefix_tokens
from lc_finetune.train.base_model import BaseModel, resolve_base_model
from lc_finetune.train.config import TrainConfig
from lc_finetune.train.continual import Continued, go_on, label_notes
from lc_finetune.train.few_shot import advice
from lc_finetune.train.few_shot import check as check_few_shot
from lc_finetune.train.fields import check_task
from lc_finetune.train.replay import not_among, with_replay
from lc_finetune.train.samples import sample_files
from lc_finetune.train.tasks import TASKS, TrainingTask
from lc_finetune.train.tokenization import Windowing, encoded, windows_of

if TYPE_CHECKING:
    from lc_finetune.train.search import Searched

LONGEST_NAME = 200
"""Bytes of an output folder's name; file systems allow 255, of which the names of temporary siblings take some."""


LEAST_LENGTH = 8
"""Pieces in one window, at least, as `max_length` has it."""


@dataclass(frozen=True)
class Plan:
    """All that is decided before the first step."""

    config: TrainConfig
    task: TrainingTask
    base: BaseModel
    splits: Splits
    windowing: Windowing
    fingerprint: str
    continued: Continued | None = None
    searched: Searched | None = None


def output_folder(config: TrainConfig) -> Path:
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
    read = (config.train_file, config.validation_file, config.test_file, config.base_model,
            config.continue_from, config.earlier_test_file, os.curdir)  # fmt: skip
    files = [path for name in read if name for path in files_of(name) if os.path.exists(path)]
    for path in (path.expanduser().resolve() for path in files):
        if inside.is_dir() and path.is_relative_to(inside):
            raise ConfigError(
                f"Expected an output folder apart from what the run reads, found {path} in {output}. "
                "Change --output-dir."
            )
    return output


def prepare(config: TrainConfig, *, test: bool = True) -> tuple[Plan, Summary]:
    """Read and check the data and the base model, and decide what the options leave open.

    Args:
        config: The run.
        test: Whether the test files are read, which decide nothing of the rest of the plan.

    Raises:
        DataError: If a file cannot be used.
        ConfigError: If an option does not fit the base model.
        CheckpointError: If there is no such base model.
    """
    from transformers import AutoTokenizer

    config = sample_files(config)
    config, continued = go_on(config)
    base = continued.base if continued else resolve_base_model(config.base_model, config.revision)
    options = ReadOptions(
        config.text_column, config.label_column, config.label_names, config.drop_unlabelled, config.task_of_rows,
        config.label_delimiter, config.text_pair_column, config.label_map, whole_map=True,
    )  # fmt: skip
    tokenizer: Any = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False)
    lengths = windowing(config, encoder_config(base, pieces=len(tokenizer)))
    encoder = Encoder(base.folder, offsets=False)
    parts: dict[str, Sequence[Example] | None] = {}
    notes: list[str] = []
    tasks: dict[str, Task] = {}
    for part in ("train", "validation", "test", "earlier_test"):
        source = getattr(config, f"{part}_file")
        if source and not test and part not in ("train", "validation"):
            check_source(source)
            source = None
        loaded = read_examples(source, options) if source else None
        parts[part] = loaded.examples if loaded else None
        if loaded:
            notes += loaded.notes
            tasks[source] = loaded.task
            options = replace(  # of the next file too
                options, task=loaded.task, label_delimiter=loaded.label_delimiter, whole_map=False
            )
            extended = TASKS[loaded.task].extend(base)
            if extended is not base:
                base, encoder = extended, Encoder(extended.folder, offsets=False)
            _check_readable(source, loaded.examples, encoder, lengths)
    task = _agreed(config, tasks)
    _check_fields(config, task)
    outside = _set_apart(config, task, parts, whole=test or config.test_file is None)
    train = cast("Sequence[Example]", parts["train"])
    known = TASKS[task].answers_of(continued.checkpoint.labels) if continued else ()
    try:
        splits = split_examples(
            train, validation=parts["validation"], test=parts["test"], seed=config.seed, known=known
        )
    except DataError as error:
        raise DataError(f"{config.train_file}: {error}") from error
    splits = replace(
        splits, out_of_scope=(*outside["train"], *outside["validation"]), out_of_scope_test=outside["test"]
    )
    if continued:
        kept = not_among(continued.replay, splits)
        splits = with_replay(splits, kept)
        continued = replace(continued, replay=kept, test=tuple(parts["earlier_test"] or ()))
    tokenizer = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False)
    training = TASKS[task].of(splits.train, base.folder)
    if continued:
        training = training.after(continued.checkpoint)
        notes += label_notes(continued, training)
    else:
        training = training.ordered(config.label_order)
    Aim.parse(config.accept).check(task, training.answers)
    all_examples = [
        *splits.train, *splits.validation, *splits.calibration, *splits.test, *splits.out_of_scope,
        *splits.out_of_scope_test,
    ]  # fmt: skip
    plan = Plan(config, training, base, splits, lengths, fingerprint(all_examples), continued)
    if config.few_shot:
        check_few_shot(base, splits.train)
    elif advised := advice(base, task, splits.train):
        notes.append(advised)
    summary = summarize(splits, tokenizer, max_length=lengths.max_length, notes=notes)
    return plan, summary


def _set_apart(
    config: TrainConfig, task: Task, parts: dict[str, Sequence[Example] | None], *, whole: bool
) -> dict[str, tuple[Example, ...]]:
    """Take the out-of-scope rows out of the parts; returns them by part.

    Unless the parts are the `whole` data, there may be none in them.

    Raises:
        ConfigError: If the data is not for a classifier.
        DataError: If no row has the label, or the training file holds no others.
    """
    outside: dict[str, tuple[Example, ...]] = dict.fromkeys(parts, ())
    label = config.out_of_scope_label
    if label is None:
        return outside
    if not TASKS[task].scopes:
        raise ConfigError(
            f"out_of_scope_label: expected data for text-classification, found data for {task}. Leave it out."
        )
    found = {cast(TextExample, example).label for examples in parts.values() for example in examples or ()}
    if label not in found and whole:
        raise DataError(
            f"{config.train_file}: expected rows with the out-of-scope label {shown([label])!r}, found none"
            f"{did_you_mean(label, found)}. Correct --out-of-scope-label, or leave it out."
        )
    for part, examples in parts.items():
        if examples is not None:
            inside, outside[part] = set_apart(examples, label)
            parts[part] = inside or None
    if parts["train"] is None:
        raise DataError(f"{config.train_file}: expected rows of at least two classes, found only out-of-scope ones.")
    return outside


def _check_readable(source: str, examples: Sequence[Example], encoder: Encoder, windowing: Windowing) -> None:
    """Refuse rows that cannot be read as they are served, before any work is done."""
    for row, encoding in enumerate(encoded(examples, encoder, windowing), start=1):
        if isinstance(encoding, InputError):
            raise DataError(f"{source}: labelled text number {row}: {encoding}") from encoding


def encoder_config(base: BaseModel, *, pieces: int) -> Any:
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
    wanted: Task = first if config.task_of_rows == "auto" else config.task_of_rows
    for source, task in tasks.items():
        if task != wanted:
            raise DataError(
                f"{source}: expected data for {wanted}, found data for {task}. "
                "Give files of one kind, and --task only if you must."
            )
    return wanted


def _check_fields(config: TrainConfig, task: Task) -> None:
    """Refuse options that would do nothing, or harm, in this task."""
    if config.label_delimiter is not None and task != "multi-label-classification":
        raise ConfigError(f"label_delimiter: expected data for multi-label-classification, found data for {task}.")
    TASKS[task].check(config)
    check_task(config, TASKS[task])


def windowing(config: TrainConfig, encoder: Any) -> Windowing:
    """Choose how long texts are read, by what the base model has positions for."""
    positions = int(getattr(encoder, "max_position_embeddings", 0) or recipe.MAX_LENGTH)
    positions -= before_first(encoder.model_type)
    prefix = prefix_tokens(config)
    if prefix and positions - prefix < LEAST_LENGTH:
        raise ConfigError(
            f"adapter_tokens: expected at most {positions - LEAST_LENGTH}, which leave {LEAST_LENGTH} of the base "
            f"model's {positions} positions to a text, found {prefix}."
        )
    positions -= prefix
    if config.max_length is not None and config.max_length > positions:
        beside = f" beside a prefix of {prefix}" if prefix else ""
        raise ConfigError(
            f"max_length: expected at most {positions}, the base model's{beside}, found {config.max_length}."
        )
    length = config.max_length or min(positions, recipe.MAX_LENGTH)
    return Windowing(length, length // 4)


def count_windows(plan: Plan) -> int:
    """Count the windows of the training texts, which are the rows of the Trainer."""
    encoder = Encoder(plan.base.folder, offsets=False)
    encodings = encoded(plan.splits.train, encoder, plan.windowing)
    return sum(len(windows_of(e, encoder, plan.windowing)) for e in encodings if isinstance(e, Encoding))


def epochs_of(plan: Plan) -> int:
    """Say how many passes over the training rows there will be at most."""
    return plan.config.epochs or recipe.epochs(plan.task.name, len(plan.splits.train), plan.config.batch_size)


def learning_rate_of(config: TrainConfig, base: BaseModel) -> float:
    """Say what the peak learning rate of the encoder, or of the adapter, will be."""
    from transformers import AutoConfig

    hidden = int(AutoConfig.from_pretrained(base.folder, trust_remote_code=False).hidden_size)
    return config.learning_rate or recipe.learning_rate(hidden, config.adapter)


def smoothing_of(plan: Plan) -> float:
    """Say how much of a row's label will be spread over all."""
    if plan.config.label_smoothing is not None:
        return plan.config.label_smoothing
    return 0.0 if plan.config.focal_gamma else recipe.LABEL_SMOOTHING.get(plan.task.name, 0.0)
