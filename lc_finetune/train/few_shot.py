"""Few rows a class: bring the rows of each class together before the head is fitted.

The contrastive stage of SetFit (Tunstall et al. 2022, "Efficient Few-Shot Learning Without Prompts"), through
sentence-transformers; every pair of a batch counts, by the loss of Khosla et al. 2020, "Supervised Contrastive
Learning".

A classifier's head reads the state of the first piece. Most sentence encoders were trained on the mean of all states,
and know little by the first. So one more layer, which attends to all pieces alike and changes nothing else, puts that
mean in the first piece's place: the head reads what the encoder is good at, and the model stays an ordinary one.

The name of a label is one more text of its class, if it has words.
"""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import PrinterCallback

from lc_finetune.checkpoint import Task
from lc_finetune.data import Example, TextExample
from lc_finetune.errors import ConfigError, DataError, MissingDependencyError
from lc_finetune.train import recipe
from lc_finetune.train.base_model import BaseModel

if TYPE_CHECKING:
    from lc_finetune.train.preparation import Plan

WARM = "warmed-base"
"""The folder of the warmed encoder, in that of the run's state."""
STACKS = ("bert", "camembert", "electra", "roberta", "xlm-roberta")
"""Architectures whose blocks are BERT's, so that a layer can be put on top."""
MODULES = "modules.json"
"""What a sentence encoder's folder has, and no other's."""


def check(base: BaseModel, rows: Sequence[Example]) -> None:
    """Refuse a base model that is no sentence encoder, and rows that make no pairs.

    Raises:
        ConfigError: If it is none.
        DataError: If fewer than two classes have two rows.
        MissingDependencyError: If sentence-transformers is not installed.
    """
    if not is_sentence_encoder(base):
        raise ConfigError(
            f"few_shot: expected a sentence encoder such as minilm, found {base.name!r} without a {MODULES}. "
            "Take one with --base-model, or leave --few-shot out."
        )
    counts = Counter(row.label for row in with_names(cast("Sequence[TextExample]", rows)))
    paired = sum(count > 1 for count in counts.values())
    if paired < 2:
        raise DataError(
            f"few_shot: expected at least two classes with two training rows, found {paired}. Label more rows."
        )
    _sentence_transformers()


def is_sentence_encoder(base: BaseModel) -> bool:
    """Say whether a base model was trained so that near states mean near texts."""
    return (base.folder / MODULES).is_file()


def advice(base: BaseModel, task: Task, rows: Sequence[Example]) -> str | None:
    """Recommend the warm-up in words, where there are few rows for each class and the base model suits."""
    if task != "text-classification" or not is_sentence_encoder(base):
        return None
    counts = Counter(cast(TextExample, row).label for row in rows)
    mean = len(rows) / max(len(counts), 1)
    if not recipe.FEW_ROWS[0] <= mean <= recipe.FEW_ROWS[1]:
        return None
    return f"about {mean:.0f} rows a class: --few-shot brings them together first, which helps with so few."


def warm_up(
    plan: Plan, work: Path, arguments: Any, say: Callable[[str], None], trackers: Sequence[Any] = ()
) -> tuple[Plan, list[dict[str, Any]]]:
    """Warm the encoder on the training rows; returns the plan with it as its base, and more rows, and the log.

    Texts are cut at one window here.

    Args:
        plan: Of a classifier.
        work: The private folder beside the output.
        arguments: The `TrainingArguments` of the run: its device, precision and learning rate.
        say: Receives a line.
        trackers: Callbacks of the Trainer.
    """
    named = with_names(cast("Sequence[TextExample]", plan.splits.train))
    plan = replace(plan, splits=replace(plan.splits, train=named))
    folder = work / WARM
    folder.mkdir()
    say("Warm-up")
    history = _warm(plan, folder, arguments, trackers)
    say(f"  {history[-1]['step']} steps  mean loss {history[-1]['train_loss']:.4f}")
    return replace(plan, base=replace(plan.base, folder=folder)), history


def with_names(rows: Sequence[TextExample]) -> tuple[TextExample, ...]:
    """Add the words in the name of each label as a text of its class.

    Example:
        >>> with_names([TextExample("Where is it?", "card_arrival"), TextExample("2 + 2", "1")])[2:]
        (TextExample(text='card arrival', label='card_arrival'),)
    """
    words = {label: " ".join(re.findall(r"[^\W\d_]+", label)) for label in sorted({row.label for row in rows})}
    return (*rows, *(TextExample(text, label) for label, text in words.items() if text))


def _warm(plan: Plan, folder: Path, arguments: Any, trackers: Sequence[Any]) -> list[dict[str, Any]]:
    """Train the encoder and save it to `folder`; returns the log."""
    from datasets import Dataset
    from transformers import AutoModel, AutoTokenizer, set_seed

    parts = _sentence_transformers()
    set_seed(plan.config.seed)
    encoder = AutoModel.from_pretrained(
        plan.base.folder, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
    )
    if averages(plan.base.folder) and encoder.config.model_type in STACKS:
        add_averaging_layer(encoder)
    tokenizer = AutoTokenizer.from_pretrained(plan.base.folder, trust_remote_code=False)
    for part in (encoder, tokenizer):
        part.save_pretrained(folder)
    # The folder's own list of modules is not followed: it may name others, with weights that are pickled.
    layers = parts.base.modules.Transformer(
        str(folder),
        model_kwargs={"use_safetensors": True, "trust_remote_code": False},
        max_seq_length=plan.windowing.max_length,
    )
    model = parts.SentenceTransformer(modules=[layers])
    model.model_card_data.generate_widget_examples = False  # no card is written
    rows = cast("Sequence[TextExample]", plan.splits.train)
    settings = parts.SentenceTransformerTrainingArguments(
        output_dir=str(folder), max_steps=recipe.WARM_UP_STEPS, per_device_train_batch_size=recipe.WARM_UP_BATCH,
        learning_rate=recipe.WARM_UP_RATE * arguments.learning_rate, warmup_steps=recipe.WARMUP,
        weight_decay=recipe.WEIGHT_DECAY, batch_sampler="group_by_label", save_strategy="no", logging_steps=10,
        report_to="none", disable_tqdm=True, seed=plan.config.seed, use_cpu=arguments.use_cpu, bf16=arguments.bf16,
        dataloader_pin_memory=arguments.dataloader_pin_memory,
    )  # fmt: skip
    trainer = parts.SentenceTransformerTrainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_dict(
            {"text": [row.text for row in rows], "label": [plan.task.labels.id_of[row.label] for row in rows]}
        ),
        loss=PairLoss(model, temperature=recipe.WARM_UP_TEMPERATURE),
        callbacks=list(trackers),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    encoder.load_state_dict(layers.auto_model.float().state_dict())
    encoder.save_pretrained(folder)
    return list(trainer.state.log_history)


def averages(folder: Path) -> bool:
    """Say whether a sentence encoder was trained on the mean of its states, as its folder records it."""
    for settings in folder.glob("*_Pooling/config.json"):
        found = json.loads(settings.read_text(encoding="utf-8"))
        return bool(found.get("pooling_mode_mean_tokens") or found.get("pooling_mode") == "mean")
    return False


def add_averaging_layer(encoder: Any) -> None:
    """Put a layer on top of a BERT-like encoder that makes every state the mean of all, up to its length.

    Its queries and keys are 0, so that attention is spread evenly; values and output pass the states on; the
    feed-forward part is 0. What a state itself adds to the mean is a share of `1 / recipe.MEAN_SCALE`.
    """
    layer = copy.deepcopy(encoder.encoder.layer[-1])
    itself = torch.eye(encoder.config.hidden_size)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.attention.self.value.weight.copy_(itself)
        layer.attention.output.dense.weight.copy_(recipe.MEAN_SCALE * itself)
        for norm in (layer.attention.output.LayerNorm, layer.output.LayerNorm):
            norm.weight.fill_(1.0)
    encoder.encoder.layer.append(layer)
    encoder.config.num_hidden_layers += 1


class PairLoss(torch.nn.Module):
    """Texts of one class near each other, others far, by the states that a head reads."""

    def __init__(self, model: Any, *, temperature: float) -> None:
        super().__init__()
        self.model = model
        self._temperature = temperature

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Any) -> Any:
        """Measure a batch of texts against class ids `(texts,)`."""
        (features,) = sentence_features
        return pair_loss(self.model(features)["token_embeddings"][:, 0].float(), labels, self._temperature)


def pair_loss(states: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """Say how far the states `(rows, hidden)` of each class `(rows,)` are from each other, and how near to others.

    Khosla et al. 2020, equation 2, on cosines divided by the temperature; a row without a partner counts nothing.
    """
    unit = torch.nn.functional.normalize(states, dim=-1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    near = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf)
    log_p = near - near.logsumexp(dim=1, keepdim=True)
    same = (labels.unsqueeze(0) == labels.unsqueeze(1)) & ~itself
    return -(log_p.masked_fill(~same, 0.0).sum(dim=1) / same.sum(dim=1).clamp(min=1)).mean()


def _sentence_transformers() -> Any:
    try:
        import sentence_transformers
        import sentence_transformers.base.modules
    except ImportError as error:
        raise MissingDependencyError(
            "Expected the package sentence-transformers for --few-shot, found none. "
            "Run `pip install 'lc-finetune[few-shot]'`."
        ) from error
    return sentence_transformers
