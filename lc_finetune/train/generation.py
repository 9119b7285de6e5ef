"""Texts with targets → an encoder-decoder that writes such targets, by `transformers.Trainer`."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from transformers import Trainer

from lc_finetune.checkpoint import SEQ2SEQ, Manifest, refuse_existing, staged_folder, write_manifest
from lc_finetune.data.duplicates import groups
from lc_finetune.data.split import hold_out
from lc_finetune.data.summary import UNKNOWN_WARNING
from lc_finetune.data.targets import TargetExample, read_targets
from lc_finetune.errors import ConfigError, DataError, InputError
from lc_finetune.inference.generation import (
    PLAIN_LENGTH,
    Generator,
    check_writes,
    encode,
    lengths_of,
    load_model,
    load_tokenizer,
    text_limit,
)
from lc_finetune.remote import is_url
from lc_finetune.train import recipe
from lc_finetune.train.base_model import MINILM, BaseModel, resolve_base_model
from lc_finetune.train.config import TrainConfig
from lc_finetune.train.preparation import encoder_config, output_folder
from lc_finetune.train.processes import size_of_run
from lc_finetune.train.resuming import open_work, raise_unwritable, refuse_unfinished, stopped_early
from lc_finetune.train.samples import sample_files
from lc_finetune.train.text_metrics import check_metrics_installed, rouge_reads, text_metrics
from lc_finetune.train.trainer import training_arguments

logger = logging.getLogger(__name__)

NOT_TAKEN = (
    "text_pair_column", "label_column", "label_names", "label_map", "label_delimiter", "out_of_scope_label",
    "drop_unlabelled", "accept", "baseline", "class_weights", "focal_gamma", "balanced_sampling", "layer_decay",
    "few_shot", "adapter", "adapter_rank", "adapter_alpha", "adapter_dropout", "adapter_tokens", "adapter_targets",
    "report_to", "push_to_hub", "upload_private", "continue_from", "earlier_test_file", "keep_replay",
    "keep_neighbours", "distillation", "search", "search_space",
)  # fmt: skip
"""Options that this task does not take: of labels, heads, adapters, trackers, uploads and searches."""
HELD_OUT = ("validation", "test")
METRIC = "chrf"
"""Of the validation rows, by which the best epoch is chosen."""
KEPT = (
    "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id", "bad_words_ids",
)  # fmt: skip
"""What is kept of the base model's way to generate; limits on length and repetition belonged to its own task."""

Feature = dict[str, Any]
"""`input_ids`, `attention_mask` and `labels`, of pieces, and `target`, the text."""


@dataclass(frozen=True)
class TrainedGenerator:
    """What a run has written: `TextGenerator.from_checkpoint` takes it, or its path."""

    path: Path
    manifest: Manifest

    @property
    def metrics(self) -> dict[str, Any]:
        """Loss, chrF and ROUGE-L of what was generated for held-out rows: split → figures."""
        return dict(self.manifest.metrics)


@dataclass(frozen=True)
class Corpus:
    """Rows as they are trained and measured on.

    Attributes:
        features: By part: train, validation and, if there is one, test.
        left_out: By part, rows with a text or a target that is longer than the limits.
        max_length: Pieces of a text, at most.
        max_target_length: Pieces of a target, at most.
        duplicates: Training rows whose text repeats another, near ones included.
        unknown: Share of unknown pieces, in texts and targets.
        fingerprint: Of all rows, whatever their order.
        order: Of the training and validation rows in their order.
    """

    features: dict[str, list[Feature]]
    left_out: dict[str, int]
    max_length: int
    max_target_length: int
    duplicates: int
    unknown: float
    fingerprint: str
    order: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            "Data",
            "  rows        " + ", ".join(f"{part} {len(rows):,}" for part, rows in self.features.items()),
            f"  length      texts of at most {self.max_length} pieces, targets of at most {self.max_target_length}; "
            "nothing is cut",
            f"  duplicates  {self.duplicates:,} texts, near ones included",
            f"  unknown     {self.unknown:.1%} of pieces",
        ]
        for part, number in self.left_out.items():
            share = number / (number + len(self.features[part]))
            lines.append(
                f"  WARNING     {number:,} {part} rows ({share:.1%}) are longer than that, and were left out: raise "
                "--max-length or --max-target-length, as far as the base model allows, or shorten them."
            )
        if self.unknown > UNKNOWN_WARNING:
            lines.append("  WARNING     many pieces are unknown to the base model: is it made for these languages?")
        return "\n".join([*lines, *(f"  note        {note}" for note in self.notes)])


def train_generator(config: TrainConfig, *, say: Callable[[str], None] = logger.info) -> TrainedGenerator:
    """Fine-tune an encoder-decoder on texts and their targets, such as summaries or translations.

    Args:
        config: The run; its task is `"seq2seq"`.
        say: Receives a summary of the rows before training starts, and notices.

    Returns:
        The folder, written whole or not at all, with what was measured.

    Raises:
        DataError: If a file cannot be used.
        ConfigError: If an option cannot be used, or the disk is full.
        CheckpointError: If there is no such base model.
        MissingDependencyError: If a package that measures generated text is not installed.
    """
    from lc_finetune.inference.backends.torch import quiet

    _check_options(config)
    check_metrics_installed()
    output = output_folder(config)
    refuse_existing(output, overwrite=config.overwrite)
    work = output.absolute().with_name(output.name + ".work")
    refuse_unfinished(work, config)
    config = sample_files(config)
    base = resolve_base_model(config.base_model, config.revision)
    corpus, tokenizer = read_corpus(config, base)
    arguments = _arguments(config, base, corpus, work)  # an option that the Trainer refuses is refused now
    try:
        with quiet():
            say(str(corpus))
            resume_from = open_work(work, config, base, corpus.order, say)
            trainer = _trainer(config, base, corpus, tokenizer, arguments, resume_from, say)
            say("Training")
            trainer.train(resume_from_checkpoint=resume_from)
            history = list(trainer.state.log_history)
            metrics = {
                part: trainer.figures(part, corpus.features[part]) for part in HELD_OUT if part in corpus.features
            }
            with staged_folder(output, overwrite=config.overwrite) as staging:
                manifest = Manifest(
                    task=SEQ2SEQ,
                    max_length=corpus.max_length,
                    stride=0,
                    base_model=base.name,
                    base_revision=base.revision,
                    lineage=base.lineage,
                    data_fingerprint=corpus.fingerprint,
                    metrics=metrics,
                )
                manifest = _write(staging, output.name, trainer.model, tokenizer, manifest, history)
    except Exception as error:
        raise_unwritable(error, output, work)
        raise
    shutil.rmtree(work, ignore_errors=True)
    return TrainedGenerator(output, manifest)


def _check_options(config: TrainConfig) -> None:
    if config.task != SEQ2SEQ:
        raise ConfigError(f"task: expected {SEQ2SEQ}, found {config.task}. Labelled data is what fine_tune takes.")
    given = [name for name in NOT_TAKEN if name in config.model_fields_set]
    if given:
        raise ConfigError(
            f"{given[0]}: expected options that --task {SEQ2SEQ} takes, found one that it does not. Leave it out."
        )
    if config.base_model == MINILM:
        raise ConfigError(
            f"base_model: expected an encoder-decoder, such as T5, BART or Marian, found {MINILM}, an encoder. Name "
            "one with --base-model: a folder, or a Hub id."
        )
    if is_url(config.output_dir):
        raise ConfigError(f"output_dir: expected a folder of this machine with --task {SEQ2SEQ}, found a URL.")
    if size_of_run() > 1:
        raise ConfigError(
            f"Expected one process with --task {SEQ2SEQ}, found {size_of_run()}. Run without the launcher."
        )


def read_corpus(config: TrainConfig, base: BaseModel) -> tuple[Corpus, Any]:
    """Read the rows, hold some out where no validation file is given, and turn them into pieces.

    Returns:
        The rows, and the tokenizer.

    Raises:
        DataError: If a file cannot be used, or no row of it is short enough.
        ConfigError: If an option does not fit the base model.
        CheckpointError: If the base model cannot be used.
    """
    parts: dict[str, tuple[TargetExample, ...]] = {}
    notes: list[str] = []
    for part in ("train", *HELD_OUT):
        if source := getattr(config, f"{part}_file"):
            read = read_targets(source, text_column=config.text_column, target_column=config.target_column)
            parts[part] = read.examples
            notes += read.notes
    group_of = groups([example.text for example in parts["train"]])
    if "validation" not in parts:
        if len(set(group_of)) < 2:
            raise DataError(
                f"{config.train_file}: expected at least two different texts, found one, so that none can be held out. "
                "Add rows, or give --validation-file."
            )
        parts["train"], parts["validation"] = hold_out(parts["train"], group_of, seed=config.seed)
    if not rouge_reads([example.target for example in parts["validation"]]):
        notes.append(
            "ROUGE-L reads ASCII letters alone, and much of the targets is in others: chrF is what is reported."
        )
    tokenizer = load_tokenizer(base.folder)
    encoder = encoder_config(base, pieces=len(tokenizer))
    check_writes(base.folder, encoder.to_dict())
    reads, writes = lengths_of(encoder)
    longest = _limit("max_length", config.max_length, reads, text_limit(encoder))
    encoded = {part: _encoded(tokenizer, examples) for part, examples in parts.items()}
    seen = max(len(row["labels"]) for part in ("train", "validation") for row in encoded[part])
    cap = writes or PLAIN_LENGTH
    longest_target = _limit("max_target_length", config.max_target_length, writes, min(seen, cap))
    features = {
        part: [row for row in rows if len(row["input_ids"]) <= longest and len(row["labels"]) <= longest_target]
        for part, rows in encoded.items()
    }
    for part, rows in features.items():
        if not rows:
            source = getattr(config, f"{part}_file") or config.train_file
            raise DataError(
                f"{source}: expected {part} rows of at most {longest} pieces, and targets of at most "
                f"{longest_target}, found none. Raise --max-length or --max-target-length, or shorten them."
            )
    pieces = [piece for rows in features.values() for row in rows for piece in (*row["input_ids"], *row["labels"])]
    every = [json.dumps([example.text, example.target]) for examples in parts.values() for example in examples]
    corpus = Corpus(
        features=features,
        left_out={part: left for part in parts if (left := len(parts[part]) - len(features[part]))},
        max_length=longest,
        max_target_length=longest_target,
        duplicates=len(group_of) - len(set(group_of)),
        unknown=pieces.count(tokenizer.unk_token_id) / len(pieces),
        fingerprint=_digest(sorted(every)),
        order=_digest(json.dumps([row["target"], row["input_ids"]]) for part in ("train", "validation")
                      for row in features[part]),
        notes=tuple(notes),
    )  # fmt: skip
    return corpus, tokenizer


def _limit(name: str, given: int | None, positions: int | None, otherwise: int) -> int:
    """Choose a limit on length; the model's positions are the most that may be asked."""
    if given is not None and positions is not None and given > positions:
        raise ConfigError(f"{name}: expected at most {positions}, the base model's, found {given}.")
    return given or otherwise


def _encoded(tokenizer: Any, examples: Sequence[TargetExample]) -> list[Feature]:
    texts = encode(tokenizer, [example.text for example in examples])
    targets = encode(tokenizer, [example.target for example in examples], targets=True)
    rows: list[Feature] = []
    for example, text, target in zip(examples, texts, targets, strict=True):
        for one in (text, target):
            if isinstance(one, InputError):
                raise DataError(f"{example.where}: {one}") from one
        mask = [1] * len(cast("list[int]", text))
        rows.append({"input_ids": text, "attention_mask": mask, "labels": target, "target": example.target})
    return rows


def _digest(rows: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _arguments(config: TrainConfig, base: BaseModel, corpus: Corpus, work: Path) -> Any:
    return training_arguments(
        config,
        base,
        work,
        epochs=config.epochs or recipe.epochs(SEQ2SEQ, len(corpus.features["train"]), config.batch_size),
        per_device_eval_batch_size=config.batch_size,
        label_smoothing_factor=config.label_smoothing or 0.0,
        train_sampling_strategy="group_by_length",
        metric_for_best_model=METRIC,
        greater_is_better=True,
        prediction_loss_only=True,
    )


def _trainer(
    config: TrainConfig,
    base: BaseModel,
    corpus: Corpus,
    tokenizer: Any,
    arguments: Any,
    resume_from: str | None,
    say: Callable[[str], None],
) -> GenerationTrainer:
    import torch
    from transformers import DataCollatorForSeq2Seq, EarlyStoppingCallback, PrinterCallback, set_seed
    from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

    from lc_finetune.train.progress import EpochLines

    set_seed(config.seed)
    model = load_model(base.folder, torch.float32)
    model.generation_config = _settings(model.generation_config, config.num_beams, corpus.max_target_length)
    if resume_from is not None and stopped_early(Path(resume_from), config.patience):
        arguments.num_train_epochs = 0  # nothing is left but to load the best epoch
    trainer = GenerationTrainer(
        generator=Generator(model, tokenizer, max_length=corpus.max_length),
        model=model,
        args=arguments,
        train_dataset=corpus.features["train"],
        eval_dataset=corpus.features["validation"],
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=config.patience)],
    )
    for printer in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
        trainer.remove_callback(printer)
    trainer.add_callback(EpochLines(say, metric=METRIC))
    return trainer


def _settings(given: Any, num_beams: int | None, max_new_tokens: int) -> Any:
    """Say how the model writes from now on: the base model's special pieces and beams, no sampling, our limit."""
    from transformers import GenerationConfig

    kept = {name: getattr(given, name) for name in KEPT}
    return GenerationConfig(
        do_sample=False, num_beams=num_beams or given.num_beams or 1, max_new_tokens=max_new_tokens, **kept
    )


class GenerationTrainer(Trainer):  # type: ignore[misc]  # transformers is not typed
    """Measures, beside the loss, what the model writes: with the code that serves it."""

    def __init__(self, *, generator: Generator, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Most models take the number of items of the whole step as an argument, and do not look at it.
        self.model_accepts_loss_kwargs = False
        self._generator = generator

    def evaluation_loop(self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Compute the Trainer's figures, and compare what is generated for each row with its target."""
        outcome = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        rows = dataloader.dataset
        written = self._generator.generate([row["input_ids"] for row in rows])
        figures = text_metrics([one.text for one in written], [row["target"] for row in rows])
        outcome.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in figures.items()})
        return outcome

    def figures(self, part: str, rows: Sequence[Feature]) -> dict[str, Any]:
        """Measure rows, for the record."""
        found = self.predict(rows, metric_key_prefix=part).metrics
        names = ("loss", METRIC, "rouge_l")
        return {"rows": len(rows), **{name: found[f"{part}_{name}"] for name in names if f"{part}_{name}" in found}}


def _write(
    staging: Path, name: str, model: Any, tokenizer: Any, manifest: Manifest, history: Sequence[Mapping[str, Any]]
) -> Manifest:
    """Save model, tokenizer and record."""
    model.to("cpu").float().save_pretrained(staging)
    for weights in staging.glob("*.safetensors"):
        weights.chmod(0o644)  # safetensors writes them readable by their owner alone
    tokenizer.save_pretrained(staging)
    written = write_manifest(staging, manifest)
    (staging / "README.md").write_text(_card(name, written), encoding="utf-8")
    (staging / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history), encoding="utf-8")
    return written


def generation_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Write what was measured as text."""
    lines: list[str] = []
    for part, figures in metrics.items():
        lines += [
            f"Generated texts, {part} ({figures['rows']:,} rows)",
            f"  chrF        {figures['chrf']:.2f} of 100",
            *([f"  ROUGE-L     {figures['rouge_l']:.4f}"] if "rouge_l" in figures else []),
            f"  loss        {figures['loss']:.4f}",
        ]
    return "\n".join(lines)


def _card(name: str, manifest: Manifest) -> str:
    header = [
        "---",
        "library_name: transformers",
        *([f"base_model: {manifest.base_model}"] if manifest.base_model else []),
        "tags: [lc-finetune]",
        "---",
    ]
    version = manifest.versions.get("lc-finetune", "")
    body = [
        f"# {name}",
        f"An encoder-decoder fine-tuned with lc_finetune {version}: it reads texts of at most {manifest.max_length} "
        "pieces, and writes one for each, by the search that `generation_config.json` names, without sampling.",
        "```python\nfrom lc_finetune import TextGenerator\n\n"
        f'generator = TextGenerator.from_checkpoint("path/to/{name}")\ngenerator.invoke("…").text\n```',
        "## Figures",
        f"```\n{generation_table(manifest.metrics)}\n```",
    ]
    return "\n".join(header) + "\n\n" + "\n\n".join(body) + "\n"
