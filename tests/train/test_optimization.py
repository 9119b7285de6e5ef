"""What the head and the encoder are each given: their learning rates, and the mixture with the base model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, TrainingArguments

from lc_finetune.train.optimizer import FasterHeadTrainer, head_parameters, start_at_shares
from lc_finetune.train.selection import choose_tagger


def _model(base: Path, loader: Any = AutoModelForTokenClassification) -> Any:
    return loader.from_pretrained(base, num_labels=3)


def _names(model: Any, ids: set[int]) -> set[str]:
    return {name for name, parameter in model.named_parameters() if id(parameter) in ids}


def test_the_head_is_what_the_task_added_and_the_pooler(base_model: Path) -> None:
    """The encoder's own layers and embeddings are no part of it."""
    tagger, classifier = _model(base_model), _model(base_model, AutoModelForSequenceClassification)

    assert {"classifier.weight", "classifier.bias"} == _names(tagger, head_parameters(tagger))
    pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert {"classifier.weight", "classifier.bias"} | pooler == _names(classifier, head_parameters(classifier))


def test_the_head_learns_faster_and_every_parameter_once(base_model: Path, tmp_path: Path) -> None:
    """Weight decay stays what the Trainer decides for each parameter."""
    model = _model(base_model)
    arguments = TrainingArguments(output_dir=str(tmp_path), learning_rate=0.01, weight_decay=0.1, use_cpu=True)

    groups = FasterHeadTrainer(head_rate=10, model=model, args=arguments).create_optimizer().param_groups

    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rates) == len(list(model.parameters()))
    assert head_parameters(model) == {one for one, rate in rates.items() if rate == pytest.approx(0.1)}
    assert {0.1, 0.0} == {decays[id(model.classifier.weight)], decays[id(model.classifier.bias)]}


@pytest.mark.parametrize(
    ("metrics", "share", "bias"),
    [
        ({(1.0, 0.0): 0.5, (1.0, 2.0): 0.6, (0.5, 0.0): 0.7, (0.5, 2.0): 0.8}, 0.5, 2.0),
        ({(1.0, 0.0): 0.5, (1.0, 2.0): 0.8, (0.5, 0.0): 0.7, (0.5, 2.0): 0.6}, 1.0, 2.0),
        ({(1.0, 0.0): 0.7, (1.0, 2.0): 0.7, (0.5, 0.0): 0.7, (0.5, 2.0): 0.7}, 1.0, 0.0),
    ],
)
def test_the_best_of_the_nearby_weights_is_kept(
    base_model: Path, metrics: dict[tuple[float, float], float], share: float, bias: float
) -> None:
    """The encoder is mixed with the base model's, the head keeps its weights; of equals, the model as trained."""
    base, model = _model(base_model), _model(base_model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    head, offsets = model.classifier.weight.detach().clone(), model.classifier.bias.detach().clone()
    shares = iter((1.0, 0.5))

    def measure(biases: Any) -> list[float]:
        mixed = next(shares)
        return [metrics[mixed, one] for one in biases]

    tried = choose_tagger(model, base, shares=(1.0, 0.5), biases=(0.0, 2.0), outside=1, measure=measure)

    assert metrics == {(choice.encoder_share, choice.outside_bias): choice.metric for choice in tried}
    word = "bert.embeddings.word_embeddings.weight"
    moved = model.state_dict()[word] - base.state_dict()[word]
    assert torch.allclose(moved, torch.full_like(moved, share), atol=1e-5)
    assert torch.equal(head, model.classifier.weight)
    assert torch.equal(offsets - torch.tensor([0.0, bias, 0.0]), model.classifier.bias)


def test_a_multi_label_head_begins_with_the_shares_of_its_labels(base_model: Path) -> None:
    """Within a thousandth of never and always; nothing else is touched."""
    model = _model(base_model, AutoModelForSequenceClassification)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    start_at_shares(model, np.array([0.5, 0.1, 0.0]))

    assert model.classifier.bias.sigmoid().tolist() == pytest.approx([0.5, 0.1, 0.001])
    same = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert set(before) - set(same) == {"classifier.bias"}
