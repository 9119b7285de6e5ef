"""A Trainer whose new head learns faster than the encoder below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import Trainer


def head_parameters(model: Any) -> set[int]:
    """Find what the task added: the ids of the parameters outside the encoder, and of its pooler.

    A pooler counts as head because pre-training often leaves it as good as random.
    """
    encoder = {id(p) for name, p in model.base_model.named_parameters() if not name.startswith("pooler.")}
    return {id(p) for p in model.parameters() if id(p) not in encoder}


def start_at_shares(model: Any, shares: NDArray[np.floating]) -> None:
    """Let a new multi-label head begin with the share of texts that have each label, shape `(labels,)`.

    Most labels apply to few texts. A head that begins at one half spends its first steps on pushing every logit down,
    through features that all texts have in common, and pooler and head may never recover from that (Lin et al. 2017,
    "Focal Loss for Dense Object Detection", section 3.3). A head without a bias is left alone.
    """
    import torch

    outputs = [one for one in model.modules() if isinstance(one, torch.nn.Linear) and one.out_features == len(shares)]
    if outputs and outputs[-1].bias is not None:
        kept = torch.as_tensor(shares, dtype=torch.float32).clamp(1e-3, 1.0 - 1e-3)
        with torch.no_grad():
            outputs[-1].bias.copy_(kept.logit())


def grow_embeddings(model: Any, words: Mapping[int, Sequence[int]]) -> None:
    """Add rows to a model's embeddings for new pieces; each begins as the mean of the pieces it is made of.

    Gee et al. 2022, "Fast Vocabulary Transfer for Language Model Compression". Pieces that have a row keep it.

    Args:
        model: The model.
        words: New pieces, the last of the vocabulary, each with older ones.
    """
    import torch

    rows = len(model.get_input_embeddings().weight)
    if max(words) < rows:
        return
    model.resize_token_embeddings(max(words) + 1, mean_resizing=False)
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        for piece, made_of in words.items():
            if piece >= rows:
                weight[piece] = weight[list(made_of)].mean(dim=0)


class FasterHeadTrainer(Trainer):  # type: ignore[misc]  # transformers is not typed
    """Trains the head at `head_rate` times the learning rate of the encoder.

    A random head needs large steps, a pre-trained encoder small ones: discriminative fine-tuning with two groups
    (Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification").
    """

    def __init__(self, *, head_rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._head_rate = head_rate

    def create_optimizer(self, model: Any = None) -> Any:
        """Make the Trainer's optimizer, each of its groups divided into encoder and head."""
        optimizer = super().create_optimizer(model)
        head = head_parameters(self.model)
        for group in list(optimizer.param_groups):
            ours = [p for p in group["params"] if id(p) in head]
            if ours and "lr" in group:
                group["params"] = [p for p in group["params"] if id(p) not in head]
                optimizer.add_param_group({**group, "params": ours, "lr": group["lr"] * self._head_rate})
        return optimizer
