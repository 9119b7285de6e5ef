"""One run in several processes, one for each device: the result of one, written once, and a clean end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from lc_finetune import Checkpoint, ConfigError, ProcessError
from lc_finetune.testing import tiny_base_model
from lc_finetune.train import TrainConfig, fine_tune, pre_train
from lc_finetune.train.processes import Part

TEXTS = {"card": ["card", "bank card", "my card is lost"], "cash": ["cash", "withdraw cash", "cash please"]}
PLAIN = {"trainer": {"optim": "sgd", "max_grad_norm": 0.0, "bf16": False}, "learning_rate": 0.01}
"""Steps as large as the gradient says: a loss that is twice as large shows, which Adam and clipping would hide; and
rounded finely, so that nothing else shows."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder without dropout, whose draws two processes cannot share."""
    folder = tiny_base_model(tmp_path_factory.mktemp("base") / "base")
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_table(path: Path, rows: int) -> str:
    lines = [f"{text} number {i},{label}" for i in range(rows) for label, texts in TEXTS.items() for text in texts]
    path.write_text("\n".join(["text,label", *lines]))
    return str(path)


def write_spans(path: Path, rows: int) -> str:
    """Write texts of unequal numbers of pieces."""
    texts = [f"pay {'the bill ' * (n % 5)}{n} at Oslo" for n in range(rows)]
    spans = [[{"start": len(text) - 4, "end": len(text), "label": "LOC"}] for text in texts]
    rows_ = [json.dumps({"text": text, "entities": found}) for text, found in zip(texts, spans, strict=True)]
    path.write_text("\n".join(rows_))
    return str(path)


def write_sets(path: Path, rows: int) -> str:
    lines = [{"text": f"{a} and {b} number {n}", "labels": sorted({x, y})} for n in range(rows)
             for (x, (a, *_)), (y, (b, *_)) in zip(TEXTS.items(), [*TEXTS.items()][::-1], strict=True)]  # fmt: skip
    lines += [
        {"text": f"{text} alone {n}", "labels": [label]} for n in range(rows) for label, (text, *_) in TEXTS.items()
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def write_numbers(path: Path, rows: int) -> str:
    path.write_text(
        "\n".join(["text,label", *(f"card {'cash ' * (n % 4)}number {n},{n % 4 + 0.5}" for n in range(rows))])
    )
    return str(path)


def write_texts(path: Path, rows: int) -> str:
    path.write_text("\n".join(f"my card number {n} is lost, withdraw cash {n + 1} please" for n in range(rows)))
    return str(path)


def options(base: Path, folder: Path, **more: Any) -> dict[str, Any]:
    """Options of a run of 96 rows, which fill each batch of 16."""
    return {
        "base_model": str(base),
        "train_file": write_table(folder / "train.csv", 16),
        "validation_file": write_table(folder / "validation.csv", 4),
        "epochs": 2,
        "batch_size": 16,
        "baseline": False,
        "output_dir": str(folder / "out"),
        **more,
    }


def command_of(folder: Path, given: dict[str, Any]) -> list[str]:
    """Write the options to a file, and give what is run with it."""
    path = folder / "config.json"
    path.write_text(json.dumps(given))
    return ["-m", "lc_finetune.train", "--config", str(path)]


QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}


TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]


def launched(program: list[str], by: list[str] = TORCHRUN) -> subprocess.Popen[str]:
    """Start a program in two processes."""
    command = [sys.executable, "-m", *by, *program]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=QUIET)


def by_hand(command: list[str]) -> list[subprocess.Popen[str]]:
    """Start two processes without a launcher, which nobody ends when the other one does."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**QUIET, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip


def wait_for(pattern: str, folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a file is there, or the process has ended."""
    deadline = time.monotonic() + 600
    while not list(folder.glob(pattern)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(folder.glob(pattern)), process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end; returns status, output, and errors."""
    output, errors = process.communicate(timeout=900)
    return process.returncode, output, errors


def farthest(one: Path, two: Path) -> float:
    """Give the largest difference between the weights of two folders."""
    first, second = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert set(first) == set(second)
    return max(float(np.abs(first[name] - second[name]).max()) for name in first)


@pytest.mark.parametrize("launcher", [TORCHRUN, pytest.param(ACCELERATE, marks=pytest.mark.slow)], ids=lambda by: by[0])
def test_two_processes_train_the_model_of_one(launcher: list[str], base: Path, tmp_path: Path) -> None:
    """At an equal batch: weights, labels and figures agree; each line is said once; nothing else is left."""
    given = options(base, tmp_path, **PLAIN)
    status, output, errors = ended(launched(command_of(tmp_path, given), launcher))
    alone = fine_tune(TrainConfig(**{**given, "output_dir": str(tmp_path / "alone")}))
    shared = Checkpoint.load(tmp_path / "out")

    assert status == 0, errors
    assert farthest(tmp_path / "alone", tmp_path / "out") < 1e-5 < farthest_from_start(base, tmp_path / "out")
    assert shared.labels == alone.labels
    assert shared.metrics["validation"]["accuracy"] == alone.metrics["validation"]["accuracy"]
    said = [line.partition("  loss")[0] for line in output.splitlines()]
    assert said.count("  epoch 1/2") == said.count("Data") == 1
    assert "  processes   2, each of which takes 8 rows of a batch" in said
    assert {path.name for path in tmp_path.iterdir()} == {
        "train.csv", "validation.csv", "config.json", "out", "alone"}  # fmt: skip


def farthest_from_start(base: Path, folder: Path) -> float:
    """Give how far training went, so that equal weights are no weights left alone."""
    before, after = load_file(base / "model.safetensors"), load_file(folder / "model.safetensors")
    return max(float(np.abs(after[f"bert.{name}"] - start).max()) for name, start in before.items())


SEVERAL = """
import json, sys
from pathlib import Path
from lc_finetune.train import TrainConfig, fine_tune
for given in json.loads(Path(sys.argv[1]).read_text()):
    assert fine_tune(TrainConfig(**given)).path == Path(given["output_dir"])
"""
KINDS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "the model's own loss": (write_table, "csv", {"label_smoothing": 0.0}),
    "class weights": (write_table, "csv", {"class_weights": "balanced"}),
    "balanced sampling": (write_table, "csv", {"balanced_sampling": True}),
    "accumulation": (write_table, "csv", {"batch_size": 8, "gradient_accumulation": 2}),
    "tagger": (write_spans, "jsonl", {}),
    "several labels": (write_sets, "jsonl", {}),
    "numbers": (write_numbers, "csv", {"task": "regression", "learning_rate": 1e-4}),  # or squares explode
    "LoRA": (write_table, "csv", {"adapter": "lora", "adapter_rank": 2, "adapter_dropout": 0.0}),
    "AdaLoRA": (write_table, "csv", {"adapter": "adalora", "adapter_rank": 2, "adapter_dropout": 0.0}),
    "trained further": (write_table, "csv", {"continue_from": "earlier"}),
}
"""Runs whose steps are divided by different things: rows, pieces, labels, micro-batches; or have more to their loss."""


@pytest.fixture(scope="module")
def shared_runs(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The options of runs of each kind, done one after the other by two processes that call `fine_tune`."""
    folder = tmp_path_factory.mktemp("kinds")
    runs: dict[str, dict[str, Any]] = {}
    for number, (name, (write, suffix, more)) in enumerate(KINDS.items()):
        here = folder / str(number)
        here.mkdir()
        rows = 16 if write is write_table else 96
        given = options(base, here, **PLAIN) | more
        for part, of in (("train", rows), ("validation", 8)):
            given[f"{part}_file"] = write(here / f"{part}.{suffix}", of)
        if "continue_from" in more:
            fine_tune(TrainConfig(**options(base, here, output_dir=str(here / "earlier"), epochs=1)))
            given["continue_from"] = str(here / "earlier")
            del given["base_model"]
        runs[name] = given
    (folder / "runs.json").write_text(json.dumps(list(runs.values())))
    (folder / "several.py").write_text(SEVERAL)
    status, _, errors = ended(launched([str(folder / "several.py"), str(folder / "runs.json")]))
    assert status == 0, errors
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_run_is_that_of_one_process(
    kind: str, shared_runs: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Whatever the rows of a step are divided by, and whatever is added to their loss."""
    given = shared_runs[kind]
    fine_tune(TrainConfig(**{**given, "output_dir": str(tmp_path / "alone")}))

    assert farthest(tmp_path / "alone", Path(given["output_dir"])) < 1e-4


@pytest.mark.slow
def test_pre_training_is_shared_too(base: Path, tmp_path: Path) -> None:
    """The folder is written once, with figures; words are hidden at random, so that weights are not compared."""
    given = {
        "task": "mlm", "base_model": str(base), "train_file": write_texts(tmp_path / "train.txt", 64), "epochs": 2,
        "batch_size": 4, "max_length": 32, "output_dir": str(tmp_path / "out"),
    }  # fmt: skip
    status, output, errors = ended(launched(command_of(tmp_path, given)))
    alone = pre_train(TrainConfig(**{**given, "output_dir": str(tmp_path / "alone")}))
    figures = json.loads((tmp_path / "out" / "lc_finetune.json").read_text())["metrics"]["validation"]

    assert status == 0, errors
    assert output.count("Written to") == 1
    assert figures["loss_before"] == pytest.approx(alone.metrics["validation"]["loss_before"], rel=0.02)
    assert figures["loss"] < figures["loss_before"]


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_run_that_loses_a_process_ends_and_resumes(lost: int, base_model: Path, tmp_path: Path) -> None:
    """The other one says so and ends with an error; nothing is written; a resumed run ends as a whole one does."""
    given = options(base_model, tmp_path, epochs=6)
    command = command_of(tmp_path, given)
    both = by_hand(command)
    wait_for("out.work/checkpoint-*/trainer_state.json", tmp_path, both[0])
    both[lost].kill()
    status, _, errors = ended(both[1 - lost])
    both[lost].communicate()

    assert status == 2
    assert "expected all processes to train together, but lost another one" in errors
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out.*"))
    assert ended(launched([*command, "--resume"]))[0] == 0
    assert ended(launched([*command, "--output-dir", str(tmp_path / "whole")]))[0] == 0
    assert farthest(tmp_path / "out", tmp_path / "whole") == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_launcher_leaves_finished_epochs_alone(
    sent: signal.Signals, base_model: Path, tmp_path: Path
) -> None:
    """All processes end; the state is there to resume from; nothing has the final name."""
    launcher = launched(command_of(tmp_path, options(base_model, tmp_path, epochs=200, patience=200)))
    wait_for("out.work/checkpoint-*/trainer_state.json", tmp_path, launcher)
    launcher.send_signal(sent)
    status, _, errors = ended(launcher)

    assert status != 0
    assert errors.count("lc-finetune: interrupted; ") <= 1
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob("out.work/checkpoint-*"))


@pytest.mark.slow
def test_a_mistake_is_said_by_the_first_process(base: Path, tmp_path: Path) -> None:
    """The others stop too, without a traceback."""
    given = options(base, tmp_path, train_file=str(tmp_path / "none.csv"))
    first, other = (ended(one) for one in by_hand(command_of(tmp_path, given)))

    assert (first[0], other[0]) == (2, 2)
    assert "none.csv" in first[2]
    assert "expected the first process to go on, but it failed" in other[2]
    assert "Traceback" not in first[2] + other[2]
    assert not other[1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"batch_size": 32}, r"batch_size: expected a multiple of the 3 processes.*found 32\. Give 30 or 33"),
        ({"batch_size": 2}, r"batch_size: .*found 2\. Give 3\."),
        ({"batch_size": 3, "search": 2}, "search: expected one process, found 3"),
        ({"batch_size": 3, "trainer": {"fsdp": "full_shard"}}, "trainer: expected .* the whole model, found fsdp"),
    ],
)
def test_what_processes_cannot_share_is_refused_before_they_meet(
    more: dict[str, Any], said: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to give instead."""
    monkeypatch.setenv("WORLD_SIZE", "3")

    with pytest.raises(ConfigError, match=said):
        fine_tune(TrainConfig(**options(base, tmp_path, **more)))


def test_few_rows_need_one_process(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The warm-up compares each row with all others of its batch."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    given = options(base, tmp_path, few_shot=True)

    with pytest.raises(ConfigError, match="few_shot: expected one process, found 2"):
        fine_tune(TrainConfig(**{name: value for name, value in given.items() if name not in ("epochs", "batch_size")}))


def test_a_machine_with_other_files_is_refused(tmp_path: Path) -> None:
    """It would train on rows that the first process does not know, or from the end of another epoch."""
    Part(str(tmp_path), None, "a").check("a", rank=1)

    with pytest.raises(ProcessError, match="Process 1: expected the rows and labels that the first process has read"):
        Part(str(tmp_path), None, "a").check("b", rank=1)
    with pytest.raises(ProcessError, match="a place on a disk that all machines share"):
        Part(str(tmp_path / "none"), None, "a").check("a", rank=1)
