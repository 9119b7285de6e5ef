"""The last layer of a classifier, fitted to the states it reads: a logistic regression that is part of the model.

What is fitted to few rows by gradient steps depends on when they stop; the regression has one solution (the second
stage of SetFit, Tunstall et al. 2022, "Efficient Few-Shot Learning Without Prompts").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lc_finetune.train import recipe
from lc_finetune.train.optimizer import head_parameters


def pass_states_on(model: Any) -> None:
    """Let the square layers between encoder and last layer pass on what they read, times `recipe.PASSED_ON`.

    At that scale tanh changes nothing, and GELU little: the last layer is then linear in the encoder's state.
    """
    head = head_parameters(model)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear) and id(layer.weight) in head and _is_square(layer):
                layer.weight.copy_(recipe.PASSED_ON * torch.eye(layer.in_features))
                if layer.bias is not None:
                    layer.bias.zero_()


def fit_last_layer(
    model: Any, batches: Iterable[Mapping[str, Any]], *, weights: NDArray[np.floating] | None = None
) -> None:
    """Fit a classifier's last layer to the labels, by penalised logistic regression; nothing else changes.

    Args:
        model: A sequence classifier, one label a text.
        batches: Inputs of the model, with `labels` of shape `(rows,)`; each label occurs.
        weights: Of the classes, shape `(labels,)`.
    """
    from sklearn.linear_model import LogisticRegression

    states, labels = _read(model, batches)
    scale = 1.0 / np.linalg.norm(states, axis=1).mean()  # the penalty is for states of length 1
    layer = model.get_submodule(_last_layer(model))
    regression = LogisticRegression(
        C=recipe.REGRESSION_C, max_iter=recipe.REGRESSION_ITERATIONS, fit_intercept=layer.bias is not None
    ).fit(scale * states, labels, sample_weight=None if weights is None else np.asarray(weights)[labels])
    slopes, offsets = scale * regression.coef_, regression.intercept_
    if len(slopes) == 1:  # two labels, of which sklearn fits the difference
        slopes, offsets = (np.concatenate([-values, values]) / 2.0 for values in (slopes, offsets))
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(slopes))
        if layer.bias is not None:
            layer.bias.copy_(torch.as_tensor(offsets))


def _read(model: Any, batches: Iterable[Mapping[str, Any]]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Give what the last layer reads of each row, `(rows, hidden)`, and the labels."""
    name = _last_layer(model)
    layer = model.get_submodule(name)
    states: list[NDArray[np.float64]] = []
    labels: list[NDArray[np.intp]] = []
    trained = model.training
    model.set_submodule(name, torch.nn.Identity())  # so that the model itself chooses the state of each row
    try:
        model.eval()
        for batch in batches:
            inputs = {key: value.to(model.device) for key, value in batch.items() if key != "labels"}
            with torch.inference_mode():
                states.append(model(**inputs).logits.double().cpu().numpy())
            labels.append(batch["labels"].numpy())
    finally:
        model.set_submodule(name, layer)
        model.train(trained)
    return np.concatenate(states), np.concatenate(labels)


def _last_layer(model: Any) -> str:
    columns = model.config.num_labels
    found: list[str] = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and layer.out_features == columns
    ]
    return found[-1]


def _is_square(layer: torch.nn.Linear) -> bool:
    return layer.in_features == layer.out_features
