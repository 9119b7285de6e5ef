"""A base model with a language-modelling head, and the Trainer that trains both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from lc_finetune.errors import CheckpointError, ConfigError, shown
from lc_finetune.train.base_model import BaseModel
from lc_finetune.train.optimizer import FasterHeadTrainer, head_parameters
from lc_finetune.train.tokenization import IGNORED


@dataclass(frozen=True)
class MaskedLanguageModel:
    """A model to pre-train.

    Attributes:
        model: The encoder with a head.
        new_head: Whether the base model had no such head, or part of one, so that it is random but for the embeddings
            that it shares.
        left: Weights of the encoder that pre-training does not use, a pooler, by name.
    """

    model: Any
    new_head: bool
    left: dict[str, torch.Tensor]


def check_maskable(base: BaseModel, tokenizer: Any) -> None:
    """Refuse a base model that cannot be trained to find hidden words.

    Raises:
        ConfigError: If it is no encoder, or its tokenizer has no mask token.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    config = AutoConfig.from_pretrained(base.folder, trust_remote_code=False)
    if config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES or getattr(config, "is_encoder_decoder", False):
        raise ConfigError(
            f"base_model: expected an encoder that finds hidden words, such as BERT or ModernBERT, found "
            f"{shown([config.model_type])}. Take an encoder for --task mlm."
        )
    if tokenizer.mask_token_id is None:
        raise ConfigError(
            f"base_model: expected a tokenizer with a mask token, found none in {base.folder}. Take the model's own."
        )


def load_masked_language_model(base: BaseModel, *, seed: int) -> MaskedLanguageModel:
    """Load a base model with its language-modelling head, or a new one, tied to its embeddings as its family does it.

    Raises:
        CheckpointError: If it cannot be loaded, or weights of the encoder are missing.
    """
    from transformers import AutoModel, AutoModelForMaskedLM, set_seed

    options: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False, "dtype": torch.float32,
                               "output_loading_info": True}  # fmt: skip
    set_seed(seed)  # a new head is random
    try:
        model, info = AutoModelForMaskedLM.from_pretrained(base.folder, ignore_mismatched_sizes=True, **options)
        encoder, encoder_info = AutoModel.from_pretrained(base.folder, ignore_mismatched_sizes=True, **options)
    except Exception as error:  # safetensors, configuration and shape errors share no base class
        raise CheckpointError(
            f"{base.folder}: the base model cannot be loaded ({type(error).__name__}). Copy it again."
        ) from error
    absent = {*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])}
    head = head_parameters(model)
    random = sorted(absent & {name for name, parameter in model.named_parameters() if id(parameter) not in head})
    if random:
        raise CheckpointError(
            f"{base.folder}: expected weights for the whole encoder, found {len(random)} missing or of another "
            f"shape ({random[0]}, …): they would be random. Copy the base model again, with its own config.json."
        )
    unread = {*encoder_info["missing_keys"], *(key[0] for key in encoder_info["mismatched_keys"])}
    used = model.base_model.state_dict()
    left = {
        f"{model.base_model_prefix}.{name}": weights
        for name, weights in encoder.state_dict().items()
        if name not in used and name not in unread
    }
    return MaskedLanguageModel(model, bool(absent), left)


class MaskedLanguageTrainer(FasterHeadTrainer):
    """Computes the head, which is as wide as the vocabulary, at hidden pieces only: the loss looks at no others."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(compute_loss_func=loss_of_hidden, **kwargs)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """As the Trainer's, of hidden pieces alone."""
        hidden = inputs["labels"] != IGNORED
        if self.args.n_gpu > 1:  # each replica sees a part of the batch
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with states_at(self.model.base_model, hidden):
            inputs = {**inputs, "labels": inputs["labels"][hidden][None]}
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


def loss_of_hidden(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Mean cross-entropy of hidden pieces, in nats; over the whole step, where the Trainer says how many it has."""
    logits = outputs.logits.float()
    total = cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1), ignore_index=IGNORED, reduction="sum")
    number = (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
    return total / max(1, number)


@contextmanager
def states_at(encoder: Any, chosen: torch.Tensor) -> Iterator[None]:
    """Let the encoder hand on the states at chosen pieces only, as one row; `chosen` is of shape `(rows, pieces)`.

    Heads look at one piece at a time, so that they answer for these as they would among all.
    """

    def choose(module: Any, arguments: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[chosen][None]
        return output

    hook = encoder.register_forward_hook(choose)
    try:
        yield
    finally:
        hook.remove()
