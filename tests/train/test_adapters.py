"""A small adapter and the head learn; what is served is a plain model."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    DebertaConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    Qwen2Config,
    RobertaConfig,
    XLMRobertaConfig,
)

from lc_finetune import Checkpoint, CheckpointError, ConfigError, EntityTagger, TextClassifier
from lc_finetune.testing import tiny_base_model
from lc_finetune.train import TrainConfig, fine_tune
from lc_finetune.train.adapters import adapt, head_modules, load_adapted, merged, orthogonality
from lc_finetune.train.base_model import BaseModel
from lc_finetune.train.optimizer import head_parameters
from tests.train.test_train import TRAIN, _write_table, flags, options, wait_for
from tests.train.test_train import spans as spans
from tests.train.test_train import table as table

pytest.importorskip("peft")

COMMON: dict[str, Any] = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                          "intermediate_size": 64, "initializer_range": 0.2, "pad_token_id": 0,
                          "num_labels": 3}  # fmt: skip
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "bert": lambda: BertConfig(**COMMON),
    "roberta": lambda: RobertaConfig(**COMMON),
    "xlm-roberta": lambda: XLMRobertaConfig(**COMMON),
    "deberta": lambda: DebertaConfig(**COMMON, relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "deberta-v2": lambda: DebertaV2Config(**COMMON, relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "modernbert": lambda: ModernBertConfig(**COMMON),
    "distilbert": lambda: DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=2, hidden_dim=64, num_labels=3),
    "electra": lambda: ElectraConfig(**COMMON, embedding_size=16),
    "gpt2": lambda: GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, num_labels=3, pad_token_id=0),
    "llama": lambda: LlamaConfig(**COMMON, num_key_value_heads=2),
    "qwen2": lambda: Qwen2Config(**COMMON, num_key_value_heads=2),
}
KINDS = ("lora", "adalora", "ia3")
KINDS_IN_TURN = [KINDS[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])]


def config(**more: Any) -> TrainConfig:
    return TrainConfig(**{"adapter": "lora", **more})


def tiny(architecture: str, loader: Any = AutoModelForSequenceClassification) -> Any:
    torch.manual_seed(0)
    return loader.from_config(ARCHITECTURES[architecture]())


def learn(model: Any) -> None:
    """Move all that learns away from where it began."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * (0.3 if "lora_" in name else 0.1))


IDS = torch.tensor([[5, 7, 9, 11], [6, 8, 3, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


@pytest.mark.parametrize("kind", KINDS_IN_TURN)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_merged_model_answers_as_the_adapted_one(architecture: str, kind: str, tmp_path: Path) -> None:
    """Of every architecture; the head has moved, the encoder has not, and the merged model is of the plain class."""
    model = tiny(architecture)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    plain = type(model)
    adapted = adapt(model, config(adapter=kind), BaseModel(tmp_path, "base"))
    learn(adapted.model)
    adapted.model.eval()
    with torch.no_grad():
        wanted = adapted.model(input_ids=IDS, attention_mask=MASK).logits
        alone = merged(adapted).eval()
        found = alone(input_ids=IDS, attention_mask=MASK).logits

    assert type(alone) is plain
    assert set(before) == {name for name, _ in alone.named_parameters()}
    assert float((wanted - found).abs().max()) < 1e-5 * max(1.0, float(wanted.abs().max()))
    head = {name for name, p in alone.named_parameters() if id(p) in head_parameters(alone)}
    moved = {name for name, p in alone.named_parameters() if not torch.allclose(p, before[name], atol=1e-7)}
    assert head <= moved
    assert all("weight" in name or kind == "ia3" for name in moved - head)
    assert moved - head, "the adapter reaches the encoder"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_whole_head_learns_and_little_else(architecture: str, tmp_path: Path) -> None:
    """Of the encoder nothing but what the adapter added; the record counts it."""
    model = tiny(architecture)
    size = sum(p.numel() for p in model.parameters())
    head = head_parameters(model)
    head_size = sum(p.numel() for p in model.parameters() if id(p) in head)
    adapted = adapt(model, config(adapter_rank=2), BaseModel(tmp_path, "base"))
    learning = {name: p.numel() for name, p in adapted.model.named_parameters() if p.requires_grad}

    assert all("lora_" in name or ".modules_to_save." in name for name in learning)
    assert head_size == sum(n for name, n in learning.items() if ".modules_to_save." in name)
    assert adapted.record is not None
    assert adapted.record.parameters == size
    assert adapted.record.trained_parameters == sum(learning.values())


def test_adalora_s_matrices_are_kept_near_orthogonal(tmp_path: Path) -> None:
    """Nothing is asked of orthogonal ones; the penalty is peft's own, weighed as there."""
    model = adapt(tiny("bert"), config(adapter="adalora", adapter_rank=2), BaseModel(tmp_path, "base")).model
    learn(model.eval())
    plain, with_peft_s = (
        one(input_ids=IDS, attention_mask=MASK, labels=torch.tensor([0, 2])).loss for one in (model, model.base_model)
    )

    assert orthogonality(model).item() == pytest.approx(float(with_peft_s - plain), rel=1e-3)
    assert orthogonality(model).item() > 0.1
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                torch.nn.init.orthogonal_(parameter)
    assert orthogonality(model).item() == pytest.approx(0.0, abs=1e-5)


def test_a_pooler_is_part_of_the_head() -> None:
    """Its innermost modules are named."""
    assert head_modules(tiny("bert")) == ["bert.pooler.dense", "classifier"]
    assert head_modules(tiny("electra")) == ["classifier.dense", "classifier.out_proj"]
    assert head_modules(tiny("distilbert")) == ["pre_classifier", "classifier"]
    assert head_modules(tiny("bert", AutoModelForTokenClassification)) == ["classifier"]


@pytest.mark.parametrize(
    ("architecture", "kind", "endings"),
    [
        ("bert", "lora", {"attention.self.query", "attention.self.value"}),  # peft's own choice
        ("distilbert", "lora", {f"attention.{name}" for name in ("q_lin", "k_lin", "v_lin", "out_lin")}),
        ("modernbert", "lora", {"attn.Wqkv", "attn.Wo"}),
        ("modernbert", "ia3", {"attn.Wqkv", "attn.Wo", "mlp.Wo"}),
        ("gpt2", "lora", {"attn.c_attn"}),
    ],
)
def test_the_layers_follow_from_the_architecture(
    architecture: str, kind: str, endings: set[str], tmp_path: Path
) -> None:
    """Peft's choice where it has one, else the linear layers of the attention."""
    assert endings == adapted_layers(tiny(architecture), tmp_path, adapter=kind)


def adapted_layers(model: Any, folder: Path, **more: Any) -> set[str]:
    """Name the layers of a block that got an adapter."""
    adapted = adapt(model, config(**more), BaseModel(folder, "base")).model
    found = [re.search(r"\.\d+\.(.+?)\.(lora_A|ia3_l)\.", name) for name, _ in adapted.named_parameters()]
    return {one[1] for one in found if one}


def test_all_linear_layers_are_all_of_the_encoder_s(tmp_path: Path) -> None:
    """Not those of the head."""
    layers = {"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
              "intermediate.dense", "output.dense"}  # fmt: skip

    assert layers == adapted_layers(tiny("bert"), tmp_path, adapter_targets="all-linear")
    assert {"attention.self.key"} == adapted_layers(tiny("bert"), tmp_path, adapter_targets="key")


def test_a_layer_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With those that are, and a guess."""
    with pytest.raises(ConfigError, match=r"adapter_targets.*query.*'qeury'.*did you mean 'query'"):
        adapt(tiny("bert"), config(adapter_targets="qeury"), BaseModel(tmp_path, "base"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"adapter": "prefix", "adapter_rank": 8}, "adapter_rank: .*lora or adalora, found prefix, which has none"),
        ({"adapter": "lora", "adapter_tokens": 8}, "adapter_tokens: expected adapter prefix, found lora"),
        ({"adapter_tokens": 8}, "adapter_tokens: .*Add --adapter prefix"),
        ({"adapter": "prefix", "gradient_checkpointing": True}, "adapter and gradient_checkpointing"),
        ({"adapter_rank": 8}, "adapter_rank: expected it beside adapter"),
        ({"adapter": "ia3", "adapter_alpha": 8}, "adapter_alpha: .*ia3, which has none"),
        ({"adapter": "lora", "layer_decay": 0.9}, "layer_decay"),
        ({"adapter": "lora", "few_shot": True}, "few_shot and adapter"),
    ],
)
def test_fields_that_do_not_fit_an_adapter_are_refused(given: dict[str, Any], words: str) -> None:
    """Before any file is read."""
    with pytest.raises(ConfigError, match=words):
        TrainConfig.of(given)


@pytest.fixture(scope="module", params=KINDS_IN_TURN)
def adapted_run(
    request: pytest.FixtureRequest, base_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    """A run that nobody interrupts, of each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    said: list[str] = []
    made = fine_tune(
        TrainConfig(**options(base_model, _write_table(folder), folder / "out", epochs=6, adapter=request.param)),
        say=said.append,
    )
    (folder / "said").write_text("\n".join(said))
    return made


def test_an_adapted_checkpoint_serves_as_any_other(adapted_run: Checkpoint) -> None:
    """With its export; what learnt is said in the summary, the manifest and the card."""
    record = adapted_run.manifest.adapter if adapted_run.manifest else None
    assert record is not None
    assert 0 < record.share < 1
    assert {"card", "cash"} == set(TextClassifier.from_checkpoint(adapted_run.path, device="cpu").invoke("card").scores)
    assert (adapted_run.path / "onnx" / "model.onnx").is_file()
    said = (adapted_run.path.parent / "said").read_text()
    assert f"learns      {record}" in said
    assert str(record) in (adapted_run.path / "README.md").read_text()


def test_the_adapter_beside_a_checkpoint_makes_it_again(adapted_run: Checkpoint, base_model: Path) -> None:
    """Adapter and base model give the weights that the checkpoint holds; its files are safetensors and JSON."""
    folder = adapted_run.path / "adapter"
    model = load_adapted(folder, base_model=str(base_model))
    weights = load_file(adapted_run.path / "model.safetensors")

    state = {name: tensor.numpy() for name, tensor in model.state_dict().items() if name in weights}
    assert set(weights) == set(state)
    assert all(np.abs(state[name] - weights[name]).max() < 1e-5 for name in weights)
    assert {".json", ".safetensors"} == {path.suffix for path in folder.iterdir()}
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == base_model.name


def test_an_adapter_wants_its_own_base_model(adapted_run: Checkpoint, base_model: Path, tmp_path: Path) -> None:
    """A missing one and another one are named; so are an altered file and a folder that is none."""
    folder = adapted_run.path / "adapter"
    other = tiny_base_model(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match=r"expected the base model 'base'.*could not get it"):
        load_adapted(folder, base_model=str(tmp_path / "gone"))
    with pytest.raises(CheckpointError, match=r"'base' that the adapter was made for, found others"):
        load_adapted(folder, base_model=str(other))
    with pytest.raises(CheckpointError, match="expected an adapter"):
        load_adapted(adapted_run.path, base_model=str(base_model))
    copy = tmp_path / "adapter"
    shutil.copytree(folder, copy)
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        load_adapted(copy, base_model=str(base_model))


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_adapter(
    adapted_run: Checkpoint, base_model: Path, table: Path, tmp_path: Path
) -> None:
    """SIGKILL after the second epoch; AdaLoRA has taken ranks away by then."""
    assert adapted_run.manifest is not None
    assert adapted_run.manifest.adapter is not None
    kind = adapted_run.manifest.adapter.kind
    command = [
        sys.executable,
        "-c",
        TRAIN,
        *flags(options(base_model, table, tmp_path / "killed", epochs=6, adapter=kind)),
    ]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for("killed.work/checkpoint-*[2-9]/trainer_state.json", killed, tmp_path)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()

    assert not (tmp_path / "killed").exists()
    resumed = subprocess.run([*command, "--resume"], capture_output=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    one, two = (load_file(folder / "model.safetensors") for folder in (adapted_run.path, tmp_path / "killed"))
    assert all((one[name] == two[name]).all() for name in one)


def test_adalora_ends_with_the_rank_that_was_asked_for(base_model: Path, table: Path, tmp_path: Path) -> None:
    """On average over the layers, after the last epoch; the ranks that were taken away are zeros."""
    last = {"load_best_model_at_end": False}
    given = options(base_model, table, tmp_path / "out", adapter="adalora", adapter_rank=4, trainer=last)
    made = fine_tune(TrainConfig(**{**given, "epochs": 4}))
    weights = load_file(made.path / "adapter" / "adapter_model.safetensors")
    ranks = [int((values != 0).sum()) for name, values in weights.items() if "lora_E" in name]

    assert len(ranks) == 4
    assert sum(ranks) <= 4 * len(ranks) < 6 * len(ranks)


@pytest.mark.slow
def test_checkpointing_lets_an_adapter_learn(base_model: Path, table: Path, tmp_path: Path) -> None:
    """Although nothing below its first layer does: the same weights as without, within rounding."""
    given = {"adapter": "lora", "adapter_dropout": 0.0, "epochs": 1}
    made = [
        fine_tune(
            TrainConfig(**{**options(base_model, table, tmp_path / str(one), gradient_checkpointing=one), **given})
        )
        for one in (False, True)
    ]
    plain, checkpointed = (load_file(one.path / "adapter" / "adapter_model.safetensors") for one in made)

    assert all(np.abs(plain[name] - checkpointed[name]).max() < 1e-2 for name in plain)
    assert all(np.abs(values).max() > 0 for name, values in checkpointed.items() if "lora_B" in name)


def test_a_tagger_is_adapted_too(base_model: Path, spans: Path, tmp_path: Path) -> None:
    """Its encoder is not mixed with the base model's, so that adapter and checkpoint stay one."""
    made = fine_tune(TrainConfig(**options(base_model, spans, tmp_path / "out", adapter="lora")))
    shares = [json.loads(line).get("encoder_share") for line in (made.path / "metrics.jsonl").read_text().splitlines()]

    assert EntityTagger.from_checkpoint(made.path, device="cpu").invoke("at Oslo").text == "at Oslo"
    assert {1.0} == set(shares) - {None}
    weights = load_file(made.path / "model.safetensors")
    again = load_adapted(made.path / "adapter", base_model=str(base_model)).state_dict()
    assert all(np.abs(again[name].numpy() - weights[name]).max() < 1e-5 for name in weights)
