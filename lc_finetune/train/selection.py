"""What the validation rows still decide once training is over: how far the encoder went, and how ready a tagger is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lc_finetune.train.optimizer import head_parameters


@dataclass(frozen=True)
class Choice:
    """A setting that was tried, and its validation metric.

    Attributes:
        encoder_share: Share of the fine-tuned encoder; the rest is the base model's.
        outside_bias: Taken off the logit of `O`, so that more is tagged.
        metric: Greater is better.
    """

    encoder_share: float
    outside_bias: float
    metric: float


def choose_tagger(
    model: Any, base: Any, *, shares: Sequence[float], biases: Sequence[float], outside: int,
    measure: Callable[[Sequence[float]], Sequence[float]],
) -> list[Choice]:  # fmt: skip
    """Move a fine-tuned tagger to the mixture with its base model, and to the bias, that measure best.

    Weights between those of the base model and the fine-tuned ones do as well on rows like the training rows, and
    better on others (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"). The F1 of entities is highest
    where precision and recall are near each other, which is rarely where training ends: most tokens are `O` (Lipton
    et al. 2014, "Optimal Thresholding of Classifiers to Maximize F1 Measure").

    Args:
        model: The fine-tuned model; changed in place.
        base: The same model before training.
        shares: Shares of the fine-tuned encoder to try.
        biases: Biases to try; a head that has none is left alone.
        outside: Column of `O`.
        measure: The validation metric of `model` as it stands, for each of the given biases.

    Returns:
        All that was tried. The best was kept; of equals, what is nearest to the weights as trained.
    """
    import torch

    head = head_parameters(model)
    before = base.state_dict()
    encoder = {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in head}
    tuned = {name: parameter.detach().clone() for name, parameter in encoder.items()}
    bias = getattr(getattr(model, "classifier", None), "bias", None)

    def mix(share: float) -> None:
        with torch.no_grad():
            for name, parameter in encoder.items():
                parameter.copy_(torch.lerp(before[name].to(parameter), tuned[name], share))

    offered = tuple(biases) if bias is not None else (0.0,)
    tried: list[Choice] = []
    for share in shares:
        mix(share)
        tried += [Choice(share, *one) for one in zip(offered, measure(offered), strict=True)]
    best = max(tried, key=lambda choice: (choice.metric, choice.encoder_share, -choice.outside_bias))
    mix(best.encoder_share)
    if bias is not None:
        with torch.no_grad():
            bias[outside] -= best.outside_bias
    return tried
