"""A prefix and the head learn; the prefix is no part of the weights, and is loaded beside them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from lc_finetune import Checkpoint, CheckpointError, ConfigError, TextClassifier
from lc_finetune.checkpoint import JOINT, MANIFEST, PREFIX, RELATIONS, Manifest, Task, write_manifest
from lc_finetune.inference import Predictor
from lc_finetune.inference.backends.torch import load_model
from lc_finetune.inference.export import export
from lc_finetune.inference.outputs import outputs_of
from lc_finetune.inference.prefix import PREFIXED, put_prefix
from lc_finetune.testing import DECODERS, ENCODERS, Architecture, tiny_base_model
from lc_finetune.train import TrainConfig, fine_tune
from lc_finetune.train.adapters import Adapted, adapt, load_adapted, merged
from lc_finetune.train.base_model import BaseModel, resolve_base_model
from tests.train.test_adapters import learn
from tests.train.test_architectures import CASES, assert_same
from tests.train.test_architectures import options as architecture_options
from tests.train.test_train import TRAIN, _write_table, flags, options, wait_for
from tests.train.test_train import table as table

pytest.importorskip("peft")

TAKEN: list[Architecture] = [name for name in ENCODERS if name in PREFIXED]
REFUSED: list[Architecture] = [name for name in (*ENCODERS, *DECODERS) if name not in PREFIXED]
HEADS: dict[Task, Any] = {
    "text-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
    "question-answering": AutoModelForQuestionAnswering,
}
IDS = torch.tensor([[5, 7, 9, 11], [6, 8, 3, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def prefixed(architecture: Architecture, head: Any, folder: Path, **more: Any) -> Adapted:
    """A model with a head and a prefix, both of which have learnt something."""
    base = tiny_base_model(folder / "base", architecture=architecture)
    torch.manual_seed(0)
    model = head.from_pretrained(base)
    adapted = adapt(model, TrainConfig(**{"adapter": "prefix", **more}), BaseModel(base, "base"))
    learn(adapted.model)
    adapted.model.eval()
    return adapted


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("architecture", TAKEN)
def test_the_served_model_answers_as_the_trained_one(architecture: Architecture, task: Task, tmp_path: Path) -> None:
    """Peft's model in training, and transformers' with the prefix put before it: the same logits, which it changes."""
    adapted = prefixed(architecture, HEADS[task], tmp_path, adapter_tokens=5)
    adapted.model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    with torch.no_grad():
        wanted = adapted.model(input_ids=IDS, attention_mask=MASK)[0]
        plain = merged(adapted).eval()
        without = plain(input_ids=IDS, attention_mask=MASK)[0]
        put_prefix(plain, tmp_path / PREFIX)
        found = plain(input_ids=IDS, attention_mask=MASK)[0]

    assert float((wanted - found).abs().max()) < 1e-5
    assert float((wanted - without).abs().max()) > 1e-3
    assert adapted.record is not None
    assert (adapted.record.kind, adapted.record.tokens) == ("prefix", 5)
    assert not any("prefix" in name for name in plain.state_dict())


@pytest.mark.parametrize("architecture", REFUSED)
def test_families_that_take_no_prefix_are_refused(architecture: Architecture, tmp_path: Path) -> None:
    """With the reason, and those that do."""
    with pytest.raises(ConfigError, match=rf"adapter: .*take a prefix \(bert, .*found {architecture}"):
        prefixed(architecture, AutoModelForSequenceClassification, tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A classifier, with its export."""
    folder = tmp_path_factory.mktemp("prefix")
    base = tiny_base_model(folder / "base")
    given = options(base, _write_table(folder), folder / "out", adapter="prefix", adapter_tokens=4, epochs=6)
    return fine_tune(TrainConfig(**given))


TEXTS = ["card", "where is my card", "cash " * 90, "no", ""]


def test_the_runnable_loads_the_prefix(run: Checkpoint) -> None:
    """On both backends, alone as in a batch, in windows; without the prefix the weights would answer otherwise."""
    found = {name: outputs_of(Predictor.load(run, device="cpu", backend=name), TEXTS).logits
             for name in ("torch", "onnx")}  # type: ignore[arg-type]  # fmt: skip
    alone = [outputs_of(Predictor.load(run, device="cpu", backend="torch"), [text]).logits[0] for text in TEXTS]
    clf = TextClassifier.from_checkpoint(run.path, device="cpu")

    assert np.abs(found["torch"] - found["onnx"]).max() < 1e-4
    assert np.abs(found["torch"] - np.stack(alone)).max() < 1e-5
    assert {"card", "cash"} == set(clf.invoke("card").scores)
    plain = AutoModelForSequenceClassification.from_pretrained(run.path).eval()
    assert not hasattr(plain.base_model, "prefix")
    assert hasattr(load_model(run).base_model, "prefix")


def test_the_kind_is_stated(run: Checkpoint) -> None:
    """In the manifest, which hashes the prefix with the weights, and in the card; windows leave it room."""
    manifest = run.manifest
    assert manifest is not None
    assert manifest.adapter is not None
    assert (manifest.adapter.kind, manifest.adapter.tokens) == ("prefix", 4)
    assert manifest.prefixed
    assert PREFIX in manifest.files
    assert manifest.max_length == cast(int, run.config["max_position_embeddings"]) - 4 == run.positions
    assert "adapter prefix and head" in (run.path / "README.md").read_text()
    assert "A prefix is no part of the weights" in (run.path / "README.md").read_text()
    assert 0 < manifest.adapter.share < 0.5


def test_the_encoder_is_the_base_model_s(run: Checkpoint) -> None:
    """Only head, pooler and prefix learn."""
    base = load_file(run.path.parent / "base" / "model.safetensors")
    tuned = load_file(run.path / "model.safetensors")
    same = {name: torch.equal(base[name.removeprefix("bert.")], weights)
            for name, weights in tuned.items() if name.removeprefix("bert.") in base}  # fmt: skip

    assert {name for name, equal in same.items() if not equal} <= {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert sum(same.values()) > 10
    assert load_file(run.path / PREFIX)["prompt_embeddings"].abs().max() > 0


def test_the_adapter_and_the_base_model_make_it_again(run: Checkpoint) -> None:
    """As for the kinds that are merged."""
    model = load_adapted(run.path / "adapter", base_model=str(run.path.parent / "base"))
    with torch.no_grad():
        found, wanted = (one(input_ids=IDS, attention_mask=MASK).logits for one in (model, load_model(run)))

    assert float((found - wanted).abs().max()) < 1e-5


def copied(run: Checkpoint, folder: Path) -> Path:
    return Path(shutil.copytree(run.path, folder / "copy"))


def test_a_prefix_that_is_missing_or_another_is_refused(run: Checkpoint, tmp_path: Path) -> None:
    """Before a weight is read; so is a manifest that does not name it, and a prefix of another shape."""
    folder = copied(run, tmp_path)
    file = folder / PREFIX
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(CheckpointError, match=r"expected adapter/adapter_model\.safetensors, found no such file"):
        Checkpoint.load(folder)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="SHA-256"):
        Checkpoint.load(folder)
    file.write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    unnamed = {name: digest for name, digest in manifest["files"].items() if name != PREFIX}
    (folder / MANIFEST).write_text(json.dumps({**manifest, "files": unnamed}))
    with pytest.raises(CheckpointError, match="the prefix without which the weights do not serve"):
        Checkpoint.load(folder)
    save_file({"prompt_embeddings": torch.zeros(4, 6)}, file)
    write_manifest(folder, Manifest.model_validate(manifest))
    with pytest.raises(CheckpointError, match=r"expected a prefix for bert, of 128 numbers a token.*\(4, 6\)"):
        TextClassifier.from_checkpoint(folder, device="cpu", backend="torch")


def test_another_prefix_is_another_model(run: Checkpoint, tmp_path: Path) -> None:
    """Neither a loaded model nor an export of the earlier one is taken for it."""
    folder = copied(run, tmp_path)
    tensors = load_file(folder / PREFIX)
    save_file({**tensors, "prompt_embeddings": tensors["prompt_embeddings"] + 1.0}, folder / PREFIX)
    assert run.manifest is not None
    write_manifest(folder, run.manifest)
    other = Checkpoint.load(folder)

    assert other.digest != run.digest
    assert other.weights_digest != run.weights_digest
    with pytest.raises(CheckpointError, match="export of the checkpoint's weights, found one of other weights"):
        TextClassifier.from_checkpoint(folder, device="cpu", backend="onnx")
    export(folder)
    TextClassifier.from_checkpoint(folder, device="cpu", backend="onnx")


def test_its_weights_are_no_base_model(run: Checkpoint) -> None:
    """They are those of its own, and the prefix would be lost."""
    with pytest.raises(CheckpointError, match="tuned by a prefix"):
        resolve_base_model(str(run.path))


def test_a_prefix_leaves_room_for_a_text(base_model: Path, table: Path, tmp_path: Path) -> None:
    """Of the positions that the base model has."""
    given = options(base_model, table, tmp_path / "out", adapter="prefix")
    with pytest.raises(ConfigError, match="at most 48, the base model's beside a prefix of 16, found 49"):
        fine_tune(TrainConfig(**{**given, "max_length": 49}))
    with pytest.raises(ConfigError, match=r"adapter_tokens: expected at most 56.* 64 positions.*, found 57"):
        fine_tune(TrainConfig(**{**given, "adapter_tokens": 57}))


@pytest.mark.slow
@pytest.mark.parametrize("task", [task for task in CASES if task not in (RELATIONS, JOINT)])
def test_every_task_takes_a_prefix(task: Task, base_model: Path, tmp_path: Path) -> None:
    """But those of marked mentions and of two heads, which take no adapter; both backends answer alike."""
    case = CASES[task]
    rows = case.write(tmp_path / "rows")
    made = fine_tune(
        TrainConfig(**architecture_options(base_model, rows, tmp_path / "out", task=task, adapter="prefix"))
    )
    asked = [case.ask(text) for text in ("Ann flew to Oslo", "Zoë 北京 " * 60, "")]
    found = []
    for name in ("torch", "onnx"):
        runnable = case.runnable.from_checkpoint(made.path, device="cpu", backend=name)
        found.append([case.figures(result) for result in runnable.batch(asked)])

    assert_same(*found, gap=1e-3)


@pytest.mark.slow
def test_a_killed_run_goes_on(base_model: Path, table: Path, tmp_path: Path) -> None:
    """From the epoch that was saved, to the same prefix."""
    given = options(base_model, table, tmp_path / "whole", adapter="prefix", epochs=4)
    whole = fine_tune(TrainConfig(**given))
    command = [sys.executable, "-c", TRAIN, *flags({**given, "output_dir": str(tmp_path / "killed")})]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for("killed.work/checkpoint-*[2-9]/trainer_state.json", killed, tmp_path)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    resumed = subprocess.run([*command, "--resume"], capture_output=True, check=False)

    assert resumed.returncode == 0, resumed.stderr
    for name in ("model.safetensors", PREFIX):
        one, two = (load_file(folder / name) for folder in (whole.path, tmp_path / "killed"))
        assert all(torch.equal(one[key], two[key]) for key in one)
