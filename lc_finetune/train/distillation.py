"""A model that goes on from an earlier one, and stays near its answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, kl_div, log_softmax

from lc_finetune.train import recipe

READ = ("input_ids", "attention_mask", "token_type_ids")


def keep_columns(model: Any, earlier: Any, columns: int) -> None:
    """Give a model with more labels the head of the earlier one; what a new label adds begins as the mean of the old.

    A new label so begins below whatever label a text has. As for new pieces in Hewitt 2021, "Initializing New Word
    Embeddings for Pretrained Language Models".

    Args:
        model: Its first columns are those of `earlier`; the others are small random numbers, which stay on top.
        earlier: With as many columns as `columns` says.
        columns: Labels of `earlier`.
    """
    before = earlier.state_dict()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            old = before[name]
            if old.shape != parameter.shape:
                parameter[:columns] = old
                parameter[columns:] += old.mean(dim=0)


class Distillation:
    """What a model loses by answering otherwise than an earlier one, over the labels that both have.

    Li and Hoiem 2016, "Learning without Forgetting": the divergence between softened answers, the earlier model's being
    the target; of independent labels, the cross-entropy of each.
    """

    def __init__(self, earlier: Any, *, weight: float, independent: bool) -> None:
        """Take the earlier model.

        Args:
            earlier: It is not changed.
            weight: Of the whole, beside the loss of the labels.
            independent: Whether a text has any number of labels.
        """
        self._earlier = earlier.eval()
        self._weight = weight
        self._independent = independent

    def __call__(self, inputs: Mapping[str, Any], outputs: Any) -> Any:
        """Measure a batch: logits of shape `(rows, labels)`, or `(rows, pieces, labels)` of a tagger; a scalar."""
        logits = outputs["logits"].float()
        with torch.no_grad():
            earlier = self._earlier.to(logits.device)
            target = earlier(**{name: inputs[name] for name in READ if name in inputs}).logits.float()
        logits = logits[..., : target.shape[-1]]
        if target.ndim == 3:
            pieces = inputs["attention_mask"].bool()
            logits, target = logits[pieces], target[pieces]
        if self._independent:
            return self._weight * binary_cross_entropy_with_logits(logits, target.sigmoid())
        softness = recipe.DISTILLATION_TEMPERATURE
        answers, wanted = (log_softmax(each / softness, dim=-1) for each in (logits, target))
        return self._weight * softness**2 * kl_div(answers, wanted, log_target=True, reduction="batchmean")
