"""Unlabelled texts → a base model that knows their language, by `transformers.Trainer`."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from lc_finetune.checkpoint import MANIFEST, PRETRAINING, Manifest, refuse_existing, staged_folder, write_manifest
from lc_finetune.data.duplicates import groups
from lc_finetune.data.split import hold_out
from lc_finetune.data.summary import UNKNOWN_WARNING
from lc_finetune.data.texts import read_texts
from lc_finetune.errors import ConfigError, DataError
from lc_finetune.inference.encode import Encoder
from lc_finetune.remote import is_url
from lc_finetune.train import recipe
from lc_finetune.train.base_model import BaseModel, resolve_base_model
from lc_finetune.train.config import TrainConfig
from lc_finetune.train.masked_language_model import (
    MaskedLanguageModel,
    MaskedLanguageTrainer,
    check_maskable,
    load_masked_language_model,
)
from lc_finetune.train.masking import MaskedBlocks, WordMasking, masked_once
from lc_finetune.train.packing import NO_WORD, Block, pack
from lc_finetune.train.preparation import encoder_config, output_folder, windowing
from lc_finetune.train.processes import Part, Processes, join
from lc_finetune.train.resuming import open_work, raise_unwritable, refuse_unfinished, stopped_early
from lc_finetune.train.samples import sample_files
from lc_finetune.train.tokenization import IGNORED, Feature
from lc_finetune.train.trainer import collate, training_arguments

logger = logging.getLogger(__name__)

NOT_TAKEN = (
    "text_pair_column", "label_column", "label_names", "label_map", "label_delimiter", "out_of_scope_label",
    "drop_unlabelled", "accept", "baseline", "class_weights", "focal_gamma", "label_smoothing", "balanced_sampling",
    "few_shot", "adapter", "adapter_rank", "adapter_alpha", "adapter_dropout", "adapter_tokens", "adapter_targets",
    "report_to", "push_to_hub", "upload_private", "continue_from", "earlier_test_file", "keep_replay",
    "keep_neighbours", "distillation", "search", "search_space",
)  # fmt: skip
"""Options that pre-training does not take: of labels and answers, adapters, trackers, uploads and searches."""
HELD_OUT = ("validation", "test")


@dataclass(frozen=True)
class PretrainedModel:
    """A base model, pre-trained further: a folder that `--base-model` takes."""

    path: Path
    manifest: Manifest

    @property
    def metrics(self) -> dict[str, Any]:
        """Loss and perplexity on held-out texts, before and after: split → figures."""
        return dict(self.manifest.metrics)


@dataclass(frozen=True)
class Corpus:
    """Texts as they are trained and measured on.

    Attributes:
        texts: Their number, by part.
        blocks: By part: train, validation and, if there is one, test.
        duplicates: Training texts that repeat another, near ones included.
        unknown: Share of unknown pieces.
        fingerprint: Of all texts, whatever their order.
        order: Of the training and validation texts in their order.
    """

    texts: dict[str, int]
    blocks: dict[str, list[Block]]
    max_length: int
    duplicates: int
    unknown: float
    fingerprint: str
    order: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        pieces = sum(int((block.words != NO_WORD).sum()) for blocks in self.blocks.values() for block in blocks)
        lines = [
            "Data",
            "  texts       " + ", ".join(f"{part} {number:,}" for part, number in self.texts.items()),
            f"  pieces      {pieces:,}, none is left out",
            f"  blocks      of {self.max_length} pieces: "
            + ", ".join(f"{part} {len(blocks):,}" for part, blocks in self.blocks.items()),
            f"  duplicates  {self.duplicates:,} texts, near ones included",
            f"  unknown     {self.unknown:.1%} of pieces",
        ]
        if self.unknown > UNKNOWN_WARNING:
            lines.append("  WARNING     many pieces are unknown to the base model: is it made for this language?")
        return "\n".join([*lines, *(f"  note        {note}" for note in self.notes)])


def pre_train(config: TrainConfig, *, say: Callable[[str], None] = logger.info) -> PretrainedModel:
    """Train a base model further on unlabelled texts, to find words that are hidden from it.

    Gururangan et al. 2020, "Don't Stop Pretraining: Adapt Language Models to Domains and Tasks".

    Args:
        config: The run; its task is `"mlm"`.
        say: Receives a summary of the texts before training starts, and notices.

    Returns:
        The folder, written whole or not at all, with what was measured.

    Raises:
        DataError: If a file cannot be used.
        ConfigError: If an option cannot be used, or the disk is full.
        CheckpointError: If there is no such base model.
        ProcessError: If another process of the run fails, or is gone.
    """
    if config.task != PRETRAINING:
        raise ConfigError(f"task: expected {PRETRAINING}, found {config.task}. Labelled data is what fine_tune takes.")
    _refuse_not_taken(config)
    processes = join(config)
    return processes.run(
        lambda: _lead(config, say, processes),
        lambda part: _follow(config, part, processes),
        lambda: _written(output_folder(config)),
    )


def _written(folder: Path) -> PretrainedModel:
    text = (folder / MANIFEST).read_text(encoding="utf-8")
    return PretrainedModel(folder, Manifest.model_validate_json(text))


def _follow(config: TrainConfig, part: Part, processes: Processes) -> None:
    """Take part in the training that the first process leads."""
    from lc_finetune.inference.backends.torch import quiet

    config = sample_files(config)
    base = resolve_base_model(config.base_model, config.revision)
    corpus = read_corpus(config, base)
    part.check(corpus.order, processes.rank)
    arguments = _arguments(config, base, corpus, Path(part.work))
    with quiet():
        _train(config, base, corpus, arguments, part.resume_from, lambda _: None, processes)


def _lead(config: TrainConfig, say: Callable[[str], None], processes: Processes) -> PretrainedModel:
    from lc_finetune.inference.backends.torch import quiet

    output = output_folder(config)
    refuse_existing(output, overwrite=config.overwrite)
    work = output.absolute().with_name(output.name + ".work")
    refuse_unfinished(work, config)
    config = sample_files(config)
    base = resolve_base_model(config.base_model, config.revision)
    corpus = read_corpus(config, base)
    arguments = _arguments(config, base, corpus, work)  # an option that the Trainer refuses is refused now
    try:
        with quiet():
            say(str(corpus))
            processes.introduce(config.batch_size, say)
            resume_from = open_work(work, config, base, corpus.order, say)
            loaded, metrics, history = processes.train_together(
                Part(os.fspath(work), resume_from, corpus.order),
                lambda: _train(config, base, corpus, arguments, resume_from, say, processes),
            )
            with staged_folder(output, overwrite=config.overwrite) as staging:
                manifest = Manifest(
                    task=PRETRAINING,
                    max_length=corpus.max_length,
                    stride=0,
                    base_model=base.name,
                    base_revision=base.revision,
                    lineage=base.lineage,
                    data_fingerprint=corpus.fingerprint,
                    metrics=metrics,
                )
                manifest = _write(staging, output.name, base, loaded, manifest, history)
    except Exception as error:
        raise_unwritable(error, output, work)
        raise
    shutil.rmtree(work, ignore_errors=True)
    return PretrainedModel(output, manifest)


def _refuse_not_taken(config: TrainConfig) -> None:
    given = [name for name in NOT_TAKEN if name in config.model_fields_set]
    if given:
        raise ConfigError(
            f"{given[0]}: expected options that pre-training takes (--task {PRETRAINING}), found one that it does not. "
            "Leave it out."
        )
    if is_url(config.output_dir):
        raise ConfigError(f"output_dir: expected a folder of this machine with --task {PRETRAINING}, found a URL.")


def read_corpus(config: TrainConfig, base: BaseModel) -> Corpus:
    """Read the texts, hold some out where no validation file is given, and pack each part.

    Raises:
        DataError: If a file cannot be used, or holds too few texts to hold one out.
        ConfigError: If an option does not fit the base model, or that cannot be trained so.
        CheckpointError: If the base model cannot be used.
    """
    from transformers import AutoTokenizer

    parts: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    for part in ("train", *HELD_OUT):
        if source := getattr(config, f"{part}_file"):
            read = read_texts(source, text_column=config.text_column)
            parts[part] = read.texts
            notes += read.notes
    tokenizer = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False)
    length = windowing(config, encoder_config(base, pieces=len(tokenizer))).max_length
    check_maskable(base, tokenizer)
    group_of = groups(parts["train"])
    if "validation" not in parts:
        if len(set(group_of)) < 2:
            raise DataError(
                f"{config.train_file}: expected at least two different texts, found one, so that none can be held out. "
                "Write a text, such as a paragraph, on a line of its own, or give --validation-file."
            )
        parts["train"], parts["validation"] = hold_out(parts["train"], group_of, seed=config.seed)
    encoder = Encoder(base.folder, offsets=True)
    blocks = {
        part: pack(texts, encoder, max_length=length, source=getattr(config, f"{part}_file") or str(config.train_file))
        for part, texts in parts.items()
    }
    for part, packed in blocks.items():
        if not packed:
            raise DataError(f"{config.train_file}: expected texts that the tokenizer reads, found none for {part}.")
    ids = np.concatenate([block.ids[block.words != NO_WORD] for packed in blocks.values() for block in packed])
    return Corpus(
        texts={part: len(texts) for part, texts in parts.items()},
        blocks=blocks,
        max_length=length,
        duplicates=len(group_of) - len(set(group_of)),
        unknown=float((ids == tokenizer.unk_token_id).mean()) if tokenizer.unk_token_id is not None else 0.0,
        fingerprint=_digest(sorted(text for texts in parts.values() for text in texts)),
        order=_digest([*parts["train"], "", *parts["validation"]]),
        notes=tuple(notes),
    )


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(json.dumps(text) for text in texts).encode()).hexdigest()


def _arguments(config: TrainConfig, base: BaseModel, corpus: Corpus, work: Path) -> Any:
    return training_arguments(
        config,
        base,
        work,
        epochs=config.epochs or recipe.epochs(PRETRAINING, len(corpus.blocks["train"]), config.batch_size),
        per_device_eval_batch_size=config.batch_size,
        metric_for_best_model="loss",
        greater_is_better=False,
        prediction_loss_only=True,
    )


def _train(
    config: TrainConfig,
    base: BaseModel,
    corpus: Corpus,
    arguments: Any,
    resume_from: str | None,
    say: Callable[[str], None],
    processes: Processes,
) -> tuple[MaskedLanguageModel, dict[str, Any], list[dict[str, Any]]]:
    """Run the Trainer; returns the model with its best weights, what was measured, and the log."""
    from transformers import AutoTokenizer, EarlyStoppingCallback, PrinterCallback
    from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

    from lc_finetune.train.progress import EpochLines

    tokenizer = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False)
    masking = WordMasking(tokenizer)
    loaded = load_masked_language_model(base, seed=config.seed)
    if loaded.new_head:
        say("  note        the base model has no language-modelling head: a new one is trained, on its own embeddings.")
    measured = {part: masked_once(corpus.blocks[part], masking, seed=0) for part in HELD_OUT if part in corpus.blocks}
    if resume_from is not None and stopped_early(Path(resume_from), config.patience):
        arguments.num_train_epochs = 0  # nothing is left but to load the best epoch
    trainer = MaskedLanguageTrainer(
        head_rate=recipe.HEAD_RATE if loaded.new_head else 1.0,
        layer_decay=config.layer_decay,
        processes=processes,
        model=loaded.model,
        args=arguments,
        train_dataset=MaskedBlocks(corpus.blocks["train"], masking),
        eval_dataset=cast(Any, measured["validation"]),
        data_collator=lambda features: collate(features, tokenizer.pad_token_id or 0),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=config.patience)],
    )
    for printer in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
        trainer.remove_callback(printer)
    trainer.add_callback(EpochLines(say, metric="loss"))
    before = {part: _loss(trainer, features) for part, features in measured.items()}
    say("Training")
    trainer.train(resume_from_checkpoint=resume_from)
    metrics = {
        part: _figures(corpus.texts[part], features, before[part], _loss(trainer, features))
        for part, features in measured.items()
    }
    return loaded, metrics, list(trainer.state.log_history)


def _loss(trainer: Any, features: Sequence[Feature]) -> float:
    return float(trainer.predict(features, metric_key_prefix="held_out").metrics["held_out_loss"])


def _figures(texts: int, features: Sequence[Feature], before: float, after: float) -> dict[str, Any]:
    return {
        "rows": texts,
        "hidden": sum(label != IGNORED for feature in features for label in feature["labels"]),
        "loss_before": before,
        "loss": after,
        "perplexity_before": math.exp(before),
        "perplexity": math.exp(after),
    }


def _write(
    staging: Path,
    name: str,
    base: BaseModel,
    loaded: MaskedLanguageModel,
    manifest: Manifest,
    history: Sequence[Mapping[str, Any]],
) -> Manifest:
    """Save model, tokenizer and record; what the base model has beside, a pooler, is kept for the tasks that use it."""
    from transformers import AutoTokenizer

    model = loaded.model.to("cpu").float()
    model.save_pretrained(staging, state_dict={**model.state_dict(), **loaded.left})
    for weights in staging.glob("*.safetensors"):
        weights.chmod(0o644)  # safetensors writes them readable by their owner alone
    AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False).save_pretrained(staging)
    written = write_manifest(staging, manifest)
    (staging / "README.md").write_text(_card(name, written, new_head=loaded.new_head), encoding="utf-8")
    (staging / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history), encoding="utf-8")
    return written


def pretraining_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Write loss and perplexity on held-out texts, before and after, as text."""
    lines: list[str] = []
    for part, figures in metrics.items():
        gain = 1 - figures["perplexity"] / figures["perplexity_before"]
        lines += [
            f"Hidden words, {part} ({figures['rows']:,} texts, {figures['hidden']:,} hidden pieces)",
            f"  loss        {figures['loss_before']:.4f} before, {figures['loss']:.4f} after "
            f"({figures['loss'] - figures['loss_before']:+.4f})",
            f"  perplexity  {figures['perplexity_before']:,.2f} before, {figures['perplexity']:,.2f} after "
            f"({abs(gain):.1%} {'less' if gain >= 0 else 'more'})",
        ]
    return "\n".join(lines)


def _card(name: str, manifest: Manifest, *, new_head: bool) -> str:
    header = [
        "---",
        "library_name: transformers",
        "pipeline_tag: fill-mask",
        *([f"base_model: {manifest.base_model}"] if manifest.base_model else []),
        "tags: [lc-finetune]",
        "---",
    ]
    version = manifest.versions.get("lc-finetune", "")
    head = (
        "The base model had no language-modelling head, so that figures from before are those of a random one, and the "
        "gain is in part the head's."
    )
    body = [
        f"# {name}",
        f"Pre-trained further on unlabelled texts with lc_finetune {version}: 15 % of the words hidden, each whole, in "
        f"blocks of {manifest.max_length} pieces.",
        "A base model to fine-tune, which answers nothing by itself:",
        f"```sh\npython -m lc_finetune.train --base-model path/to/{name} --train-file labelled.csv\n```",
        "## Figures",
        f"```\n{pretraining_table(manifest.metrics)}\n```",
        *([head] if new_head else []),
    ]
    return "\n".join(header) + "\n\n" + "\n\n".join(body) + "\n"
