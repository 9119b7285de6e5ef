"""Few rows a class: bring the rows of each class together before the head learns.

The contrastive stage of SetFit (Tunstall et al. 2022, "Efficient Few-Shot Learning Without Prompts"), through
sentence-transformers. Every pair of a batch counts, by the loss of Khosla et al. 2020, "Supervised Contrastive
Learning", and for two views of a text: the mean over its pieces, which sentence encoders are trained on, and the state
of its first piece, which a classifier's head reads.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import PrinterCallback

from lc_finetune.checkpoint import Task
from lc_finetune.data import Example, TextExample
from lc_finetune.errors import ConfigError, MissingDependencyError
from lc_finetune.inference.backends.torch import masked_mean
from lc_finetune.train import recipe
from lc_finetune.train.base_model import BaseModel

if TYPE_CHECKING:
    from lc_finetune.train.preparation import Plan

WARM = "warmed-base"
"""The folder of the warmed encoder, beside the Trainer's states."""
MODULES = "modules.json"
"""What a sentence encoder's folder has, and no other's."""


def check_base(base: BaseModel) -> None:
    """Refuse a base model that is no sentence encoder.

    Raises:
        ConfigError: If it is not.
        MissingDependencyError: If sentence-transformers is not installed.
    """
    if not is_sentence_encoder(base):
        raise ConfigError(
            f"few_shot: expected a sentence encoder such as minilm, found {base.name!r} without a {MODULES}. "
            "Take one with --base-model, or leave --few-shot out."
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


def warm_up(plan: Plan, work: Path, arguments: Any, say: Callable[[str], None]) -> Plan:
    """Warm the encoder on the training rows; returns the plan with the warmed encoder as its base.

    A warm-up that an earlier run finished in `work` is taken up. Texts are cut at one window here.

    Args:
        plan: Of a classifier.
        work: The private folder beside the output.
        arguments: The `TrainingArguments` of the fine-tuning that follows: its device, precision and learning rate.
        say: Receives a line.
    """
    folder = work / WARM
    if not folder.is_dir():
        say("Warm-up")
        staging = Path(mkdtemp(dir=work, prefix=f"{WARM}-"))
        try:
            loss = _warm(plan, staging, arguments)
            os.rename(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        say(f"  {recipe.WARM_UP_STEPS} steps  loss {loss:.4f}")
    return replace(plan, base=replace(plan.base, folder=folder))


def _warm(plan: Plan, folder: Path, arguments: Any) -> float:
    """Train the encoder and save it to `folder`; returns the mean loss of the last steps."""
    from datasets import Dataset
    from transformers import AutoModel, AutoTokenizer, set_seed

    parts = _sentence_transformers()
    set_seed(plan.config.seed)
    # The folder's own list of modules is not followed: it may name others, with weights that are pickled.
    layers = parts.base.modules.Transformer(
        str(plan.base.folder),
        model_kwargs={"use_safetensors": True, "trust_remote_code": False},
        max_seq_length=plan.windowing.max_length,
    )
    model = parts.SentenceTransformer(modules=[layers])
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
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    encoder = AutoModel.from_pretrained(plan.base.folder, use_safetensors=True, trust_remote_code=False)
    encoder.load_state_dict(layers.auto_model.state_dict())
    encoder.float().save_pretrained(folder)
    AutoTokenizer.from_pretrained(plan.base.folder, trust_remote_code=False).save_pretrained(folder)
    return float(losses[-1])


class PairLoss(torch.nn.Module):
    """Texts of one class near each other, others far, over every pair of a batch and both views of a text.

    Khosla et al. 2020, equation 2, on cosines divided by the temperature.
    """

    def __init__(self, model: Any, *, temperature: float) -> None:
        super().__init__()
        self.model = model
        self._temperature = temperature

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Any) -> Any:
        """Measure a batch of texts against class ids `(texts,)`."""
        (features,) = sentence_features
        out = self.model(features)
        state, mask = out["token_embeddings"].float(), out["attention_mask"]
        return pair_loss(torch.cat([state[:, 0], masked_mean(state, mask)]), labels.repeat(2), self._temperature)


def pair_loss(states: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """Say how much nearer than the others the states `(rows, hidden)` of each class `(rows,)` are; 0 is best."""
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
