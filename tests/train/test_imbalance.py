"""What changes the loss, the order of the rows, and the steps, does so as it says."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, TrainingArguments

from lc_finetune import ConfigError
from lc_finetune.train import TrainConfig, fine_tune
from lc_finetune.train.losses import Loss, class_weights
from lc_finetune.train.optimizer import BalancedSampler, FasterHeadTrainer, depths, head_parameters
from lc_finetune.train.tokenization import IGNORED
from tests.train.test_train import options
from tests.train.test_train import spans as spans
from tests.train.test_train import table as table

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.2, 0.1], [-3.0, 1.0, 4.0]])
LABELS = torch.tensor([0, 2, 1])
INDICATORS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])


def outputs(logits: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"logits": logits}


def test_without_options_the_loss_is_the_model_s_own() -> None:
    """Cross-entropy over the rows, over the tagged pieces, and binary for independent labels."""
    assert torch.allclose(cross_entropy(LOGITS, LABELS), Loss()(outputs(LOGITS), LABELS))
    pieces, tags = LOGITS.unsqueeze(0), torch.tensor([[0, IGNORED, 1]])
    assert torch.allclose(cross_entropy(LOGITS[[0, 2]], LABELS[[0, 2]]), Loss()(outputs(pieces), tags))
    several = Loss(kind="sigmoid")(outputs(LOGITS), INDICATORS)
    assert torch.allclose(binary_cross_entropy_with_logits(LOGITS, INDICATORS), several)


def test_label_smoothing_spreads_a_share_of_the_label() -> None:
    """As torch's own."""
    assert torch.allclose(
        cross_entropy(LOGITS, LABELS, label_smoothing=0.2), Loss(smoothing=0.2)(outputs(LOGITS), LABELS)
    )


def test_a_weight_multiplies_the_rows_of_its_class() -> None:
    """Of independent labels, the texts that have the label."""
    each = cross_entropy(LOGITS, LABELS, reduction="none")
    weighted = Loss(weights=np.array([1.0, 5.0, 2.0]))(outputs(LOGITS), LABELS)
    assert torch.allclose((each * torch.tensor([1.0, 2.0, 5.0])).mean(), weighted)
    positive = torch.tensor([1.0, 5.0, 2.0])
    several = Loss(weights=positive.numpy(), kind="sigmoid")(outputs(LOGITS), INDICATORS)
    assert torch.allclose(binary_cross_entropy_with_logits(LOGITS, INDICATORS, pos_weight=positive), several)


def test_focal_loss_counts_what_is_wrong() -> None:
    """A row counts (1 − p) ** gamma; each label of a text likewise."""
    p = LOGITS.softmax(-1)[torch.arange(3), LABELS]
    assert torch.allclose((-((1 - p) ** 2) * p.log()).mean(), Loss(gamma=2.0)(outputs(LOGITS), LABELS))
    q = torch.where(INDICATORS == 1, LOGITS.sigmoid(), 1 - LOGITS.sigmoid())
    several = Loss(gamma=2.0, kind="sigmoid")(outputs(LOGITS), INDICATORS)
    assert torch.allclose((-((1 - q) ** 2) * q.log()).mean(), several)


def test_micro_batches_add_up_to_the_batch() -> None:
    """The number of rows in a step is the Trainer's; the parts of a step then sum to the whole."""
    loss = Loss(weights=np.array([1.0, 5.0, 2.0]), gamma=1.0)
    parts = [loss(outputs(LOGITS[i : i + 1]), LABELS[i : i + 1], num_items_in_batch=torch.tensor(3)) for i in range(3)]

    assert torch.allclose(loss(outputs(LOGITS), LABELS), torch.stack(parts).sum())


def test_balanced_weights_give_each_class_the_same_part() -> None:
    """Rows of the class times weight is the same for all, and the weights of all rows are 1 on average."""
    rows = [{"labels": 0}] * 6 + [{"labels": 1}] * 3 + [{"labels": 2}]
    weights = class_weights("balanced", rows, ("a", "b", "c"))

    assert pytest.approx([6 * weights[0], 3 * weights[1], weights[2]]) == [10 / 3] * 3


def test_balanced_weights_of_tags_and_of_independent_labels() -> None:
    """Pieces without a tag do not count; a label's weight is texts without it over texts with it."""
    tags = [{"labels": [IGNORED, 0, 0, 0, 1]}, {"labels": [IGNORED, 0, 0, 2]}]
    assert pytest.approx(class_weights("balanced", tags, ("O", "X", "X")).tolist()) == [
        7 / 15,
        7 / 3,
        7 / 3,
    ]
    several = [{"labels": np.array(row, dtype=np.float32)} for row in ([1, 0], [1, 0], [1, 1], [0, 0])]
    assert pytest.approx(class_weights("balanced", several, ("a", "b")).tolist()) == [1 / 3, 3.0]


def test_weights_are_named() -> None:
    """A label that is not named weighs 1; an entity type's weight is that of its tags; a typo is refused."""
    assert class_weights({"b": 3.0}, [], ("a", "b")).tolist() == [1.0, 3.0]
    assert class_weights({"O": 0.5, "X": 2.0}, [], ("O", "X", "X")).tolist() == [0.5, 2.0, 2.0]
    with pytest.raises(ConfigError, match=r"class_weights: .*'crad' \(did you mean 'card'\?\)"):
        class_weights({"crad": 2.0}, [], ("card", "cash"))


def test_balanced_sampling_draws_each_class_equally_often() -> None:
    """As many rows as there are, grouped by length, and others at each pass."""
    classes, lengths = [0] * 900 + [1] * 90 + [2] * 10, [5 + i % 20 for i in range(1000)]
    torch.manual_seed(0)
    sampler = BalancedSampler(classes, lengths, batch_size=50)
    first, second = list(sampler), list(sampler)

    assert len(first) == len(sampler) == 1000
    assert all(280 < count < 390 for count in Counter(classes[row] for row in first).values())
    assert first != second
    spread = [np.ptp([lengths[row] for row in first[i : i + 50]]) for i in range(0, 1000, 50)]
    assert np.mean(spread) < 5


def test_each_layer_learns_slower_than_the_one_above(base_model: Path, tmp_path: Path) -> None:
    """Embeddings slowest; the head at its own rate; weight decay stays what it was, every parameter is there once."""
    model = AutoModelForSequenceClassification.from_pretrained(base_model, num_labels=3)
    arguments = TrainingArguments(output_dir=str(tmp_path), learning_rate=0.01, weight_decay=0.1, use_cpu=True)
    trainer = FasterHeadTrainer(head_rate=10, layer_decay=0.5, model=model, args=arguments)
    groups = trainer.create_optimizer().param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    named = dict(model.named_parameters())

    assert sum(len(group["params"]) for group in groups) == len(rates) == len(named)
    wanted = {"bert.embeddings.word_embeddings.weight": 0.0025, "bert.encoder.layer.0.output.dense.weight": 0.005,
              "bert.encoder.layer.1.output.dense.bias": 0.01, "classifier.weight": 0.1}  # fmt: skip
    assert wanted == pytest.approx({name: rates[id(named[name])] for name in wanted})
    assert {0.1, 0.0} == {group["weight_decay"] for group in groups}


def test_depths_leave_the_head_out(base_model: Path) -> None:
    """The deepest block is the last."""
    model: Any = AutoModelForTokenClassification.from_pretrained(base_model, num_labels=3)
    of = depths(model)

    assert {0, 1, 2} == set(of.values())
    assert {name for name, p in model.named_parameters() if id(p) in head_parameters(model)} == {
        name for name, _ in model.named_parameters()
    } - set(of)


def test_a_penalty_counts_in_training_alone(base_model: Path, tmp_path: Path) -> None:
    """Once a step, however many batches make one."""
    model = AutoModelForSequenceClassification.from_pretrained(base_model, num_labels=3)
    batch = {"input_ids": torch.tensor([[2, 7, 3]]), "attention_mask": torch.ones(1, 3), "labels": torch.tensor([1])}

    def loss(penalty: float, *, training: bool, parts: int = 1) -> float:
        arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
        trainer = FasterHeadTrainer(
            head_rate=1, model=model, args=arguments, compute_loss_func=Loss(), penalty=lambda *_: torch.tensor(penalty)
        )
        trainer.current_gradient_accumulation_steps = parts
        return float(trainer.compute_loss(model.train(training).requires_grad_(False), dict(batch)))

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    plain = loss(0.0, training=True)
    assert loss(6.0, training=True) == pytest.approx(plain + 6.0)
    assert loss(6.0, training=True, parts=3) == pytest.approx(plain + 2.0)
    assert loss(6.0, training=False) == pytest.approx(plain)


def steps_of(folder: Path, base: Path, data: Path, **more: Any) -> tuple[list[float], Any]:
    """Train, and give the losses of the epochs and the Trainer that ran."""
    seen: list[Any] = []

    class Watched(FasterHeadTrainer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            seen.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lc_finetune.train.optimizer.FasterHeadTrainer", Watched)
        made = fine_tune(TrainConfig(**options(base, data, folder, **more)))
    lines = map(json.loads, (made.path / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line], seen[-1]


@pytest.mark.slow
def test_the_fields_reach_the_training(base_model: Path, table: Path, tmp_path: Path) -> None:
    """Weights and focus change the loss; accumulation makes one step of several batches; checkpointing changes none."""
    plain, trainer = steps_of(tmp_path / "plain", base_model, table)
    weighted, _ = steps_of(tmp_path / "weighted", base_model, table, class_weights="card=3,cash=3", label_smoothing=0.1)
    focal, _ = steps_of(tmp_path / "focal", base_model, table, focal_gamma=2.0)
    halves, accumulating = steps_of(tmp_path / "halves", base_model, table, batch_size=4, gradient_accumulation=2)
    again, checkpointing = steps_of(tmp_path / "again", base_model, table, gradient_checkpointing=True)

    assert weighted[0] == pytest.approx(3 * plain[0], rel=0.05)
    assert focal[0] < 0.5 * plain[0]
    assert accumulating.state.global_step == trainer.state.global_step
    assert halves[0] == pytest.approx(plain[0], rel=0.1)
    assert checkpointing.model.is_activation_checkpointing
    assert again == pytest.approx(plain, rel=1e-2)


@pytest.mark.slow
def test_a_tagger_takes_weights_and_focus(base_model: Path, spans: Path, tmp_path: Path) -> None:
    """By entity type."""
    plain, _ = steps_of(tmp_path / "plain", base_model, spans)
    weighted, _ = steps_of(tmp_path / "weighted", base_model, spans, class_weights={"LOC": 4.0, "O": 4.0})

    assert weighted[0] == pytest.approx(4 * plain[0], rel=0.05)


def test_sampling_is_the_trainer_s(base_model: Path, table: Path, tmp_path: Path) -> None:
    """Drawn by class when asked for."""
    _, trainer = steps_of(tmp_path / "out", base_model, table, balanced_sampling=True, layer_decay=0.8)

    assert isinstance(trainer.get_train_dataloader().batch_sampler.sampler, BalancedSampler)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"class_weights": "balanced", "balanced_sampling": True},
            "class_weights and balanced_sampling: .*twice",
        ),
        ({"focal_gamma": 2, "label_smoothing": 0.1}, "focal_gamma and label_smoothing"),
        ({"class_weights": "card:2"}, "class_weights: expected balanced, or LABEL=WEIGHT"),
        ({"class_weights": "card=0"}, "class_weights"),
        ({"trainer": {"gradient_accumulation_steps": 2}}, "set by the field 'gradient_accumulation'"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(given: dict[str, Any], words: str) -> None:
    """In one line that names them."""
    with pytest.raises(ConfigError, match=words) as error:
        TrainConfig.of(given)

    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", [{"balanced_sampling": True}, {"few_shot": True}])
def test_fields_of_classifiers_are_refused_for_taggers(
    given: dict[str, Any], base_model: Path, spans: Path, tmp_path: Path
) -> None:
    """Before training."""
    config = options(base_model, spans, tmp_path / "out", **given)
    del config["epochs"], config["batch_size"]

    with pytest.raises(ConfigError, match=f"{next(iter(given))}: expected .*token-classification"):
        fine_tune(TrainConfig(**config))


def test_a_mapping_on_the_command_line() -> None:
    """Labels may hold equals signs."""
    assert TrainConfig.of({"class_weights": "a=b=2, c=0.5"}).class_weights == {"a=b": 2.0, "c": 0.5}
    assert TrainConfig.of({"class_weights": "balanced"}).class_weights == "balanced"
