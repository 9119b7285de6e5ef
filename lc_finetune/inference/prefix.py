"""Prefixes: keys and values that each layer attends to before those of a text.

Li and Liang 2021, "Prefix-Tuning: Optimizing Continuous Prompts for Generation"; for encoders Liu et al. 2022,
"P-Tuning: Prompt Tuning Can Be Comparable to Fine-tuning Across Scales and Tasks". A prefix is no change of the
weights, so that it cannot be merged into them: it stays in the checkpoint's `adapter/`, as peft writes it, and joins
the model when it is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lc_finetune.errors import CheckpointError

PREFIXED = ("bert", "electra", "roberta", "xlm-roberta")
"""Families whose layers take keys and values from outside."""
VALUES = "prompt_embeddings"
"""What peft calls a prefix in its file."""


def put_prefix(model: Any, file: Path) -> None:
    """Let a model attend to a prefix; nothing else of it changes, and its own weights are saved without.

    Args:
        model: Of one of the families in `PREFIXED`.
        file: As peft writes it; holds the prefix, shape `(tokens, layers * 2 * hidden)`.

    Raises:
        CheckpointError: If there is no prefix of that shape.
    """
    from safetensors.torch import load_file

    try:
        values = load_file(file)[VALUES]
    except Exception as error:  # safetensors has an exception of its own for each fault
        raise CheckpointError(
            f"{file}: expected a prefix in safetensors, found none ({type(error).__name__}). Copy the checkpoint again."
        ) from error
    config, encoder = model.config, model.base_model
    expected = config.num_hidden_layers * 2 * config.hidden_size
    if values.dim() != 2 or values.shape[1] != expected or config.model_type not in PREFIXED:
        raise CheckpointError(
            f"{file}: expected a prefix for {config.model_type}, of {expected} numbers a token, found one of the shape "
            f"{tuple(values.shape)}. Copy the checkpoint again."
        )
    parted = values.view(len(values), config.num_hidden_layers, 2, config.num_attention_heads, -1)
    # `(layers, keys or values, heads, tokens, width)`, which moves to a device with the model.
    encoder.register_buffer("prefix", parted.permute(1, 2, 3, 0, 4).to(model.dtype).contiguous(), persistent=False)
    encoder.register_forward_pre_hook(_before, with_kwargs=True)


def _before(encoder: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Put the prefix before the pieces of every row, and widen the mask, `(rows, pieces)`, by it."""
    import torch
    from transformers import DynamicCache

    mask = named["attention_mask"]
    rows = mask.shape[0]  # not its `len`, which an export would take for a constant
    layers = encoder.prefix.unsqueeze(2).expand(-1, -1, rows, -1, -1, -1)
    seen = mask.new_ones(rows, encoder.prefix.shape[3])
    cache = DynamicCache([(keys, values) for keys, values in layers])
    return inputs, {**named, "attention_mask": torch.cat((seen, mask), dim=1), "past_key_values": cache}
