"""Part of the way back to the base model: an encoder that keeps more of what pre-training knew.

Wortsman et al. 2022, "Robust fine-tuning of zero-shot models": weights between those of the base model and the
fine-tuned ones do as well on rows like the training rows, and better on others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lc_finetune.train.optimizer import head_parameters


def interpolate_encoder(
    model: Any, base: Any, shares: Sequence[float], measure: Callable[[], float]
) -> list[tuple[float, float]]:
    """Give the encoder the mixture of base and fine-tuned weights that measures best; the head stays as it is.

    Args:
        model: The fine-tuned model; changed in place.
        base: The same model before training.
        shares: Shares of the fine-tuned weights to try besides 1.
        measure: The validation metric of `model` as it stands; greater is better.

    Returns:
        Each share tried with its metric. The best was kept; of equals, the one with most of the fine-tuned weights.
    """
    import torch

    head = head_parameters(model)
    before = base.state_dict()
    encoder = {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in head}
    tuned = {name: parameter.detach().clone() for name, parameter in encoder.items()}

    def mix(share: float) -> None:
        with torch.no_grad():
            for name, parameter in encoder.items():
                parameter.copy_(torch.lerp(before[name].to(parameter), tuned[name], share))

    tried = [(1.0, measure())]
    for share in sorted(shares, reverse=True):
        mix(share)
        tried.append((share, measure()))
    mix(max(tried, key=lambda one: (one[1], one[0]))[0])
    return tried
