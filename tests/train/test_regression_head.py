"""A classifier's last layer is a logistic regression on what the encoder makes of the texts."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from lc_finetune.testing import SENTENCES, Architecture, tiny_base_model
from lc_finetune.train import recipe
from lc_finetune.train.regression_head import fit_last_layer, pass_states_on

TEXTS = [sentence for sentence in SENTENCES if sentence.strip()]


def batches_of(folder: Path, labels: list[int]) -> list[dict[str, Any]]:
    """Two batches of texts, padded."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    half = len(labels) // 2
    parts = ((TEXTS[:half], labels[:half]), (TEXTS[half : len(labels)], labels[half:]))
    return [
        {**tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt"),
         "labels": torch.tensor(ids)}
        for texts, ids in parts
    ]  # fmt: skip


def of_batches(model: Any, batches: list[dict[str, Any]], read: Any) -> Any:
    """What `read` takes from the model's output for each text, without the labels."""
    with torch.no_grad():
        outputs = [model(**{name: value for name, value in batch.items() if name != "labels"}) for batch in batches]
    return np.concatenate([read(output).double().numpy() for output in outputs])


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
@pytest.mark.parametrize("labels", [2, 3])
def test_the_saved_model_answers_as_the_regression(architecture: Architecture, labels: int, tmp_path: Path) -> None:
    """Fitted apart, to the state of the first piece: the logits are within a thousandth, through tanh and all."""
    base = tiny_base_model(tmp_path / "base", architecture=architecture)
    ids = [i % labels for i in range(len(TEXTS))]
    batches = batches_of(base, ids)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)
    pass_states_on(model)
    fit_last_layer(model, batches)
    model.save_pretrained(tmp_path / "made")

    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "made").eval()
    found = of_batches(loaded, batches, lambda output: output.logits)
    states = of_batches(AutoModel.from_pretrained(base).eval(), batches, lambda output: output.last_hidden_state[:, 0])
    states /= np.linalg.norm(states, axis=1).mean()
    regression = LogisticRegression(C=recipe.REGRESSION_C, max_iter=recipe.REGRESSION_ITERATIONS).fit(states, ids)
    wanted = regression.decision_function(states)
    assert np.abs((found[:, 1] - found[:, 0] if labels == 2 else found) - wanted).max() < 1e-3
    assert (found.argmax(axis=1) == regression.predict(states)).all()
    assert np.ptp(found, axis=0).min() > 0.1, "texts are told apart"


@pytest.mark.parametrize("architecture", ["electra", "distilbert", "deberta-v2"])
def test_other_heads_are_fitted_to_what_they_read(architecture: Architecture, tmp_path: Path) -> None:
    """Whatever stands before the last layer; the encoder, and whether the model trains, stay as they were."""
    base = tiny_base_model(tmp_path / "base", architecture=architecture)
    ids = [i % 3 for i in range(len(TEXTS))]
    batches = batches_of(base, ids)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3).train()
    before = {name: value.clone() for name, value in model.base_model.state_dict().items()}
    fit_last_layer(model, batches)

    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.base_model.state_dict().items())
    logits = torch.tensor(of_batches(model.eval(), batches, lambda output: output.logits))
    assert float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids))) < math.log(3) - 0.05


def test_a_class_that_weighs_more_is_found_more(tmp_path: Path) -> None:
    """As by any loss with weights."""
    base = tiny_base_model(tmp_path / "base")
    batches = batches_of(base, [i % 3 for i in range(len(TEXTS))])
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    shares = []
    for weight in (1.0, 20.0):
        fit_last_layer(model, batches, weights=np.array([1.0, 1.0, weight]))
        logits = of_batches(model.eval(), batches, lambda output: output.logits)
        shares.append(float(torch.tensor(logits).softmax(dim=-1)[:, 2].mean()))

    assert shares[1] > shares[0] + 0.1
