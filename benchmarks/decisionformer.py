r"""Our decision model beside decisionformer's, both fine-tuned from one base on the same rows.

    python -m benchmarks.decisionformer --train-file banking77/train.csv --test-file banking77/test.csv \
        --rows 10 --output-dir runs/beside-decisionformer

Both are asked one `Choice` among all labels, in batches. `quality` compares the answers to the test rows; `speed` has
both take turns round by round and compares medians. What the output folder holds is not trained again. Needs
langchain-core 1.8 and decisionformer, which the page on performance says how to lay beside the environment.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from benchmarks.continual import read
from benchmarks.measure import Table, cores, in_turns, machine, medians, write
from benchmarks.texts import SEED
from benchmarks.training import draw, write_rows
from lc_finetune import Checkpoint, cli
from lc_finetune.data import Example, TextExample
from lc_finetune.errors import ConfigError, LCFinetuneError, MissingDependencyError
from lc_finetune.inference.reliability import expected_calibration_error
from lc_finetune.train import TrainConfig, fine_tune, recipe
from lc_finetune.train.preparation import Plan, epochs_of, learning_rate_of, prepare

MODES = ("quality", "speed")
OURS, PEER = "FineTunedDecisionModel.batch", "decisionformer, decide_many"
QUESTION = "label"
INSTRUCTIONS = "Which label does the text have?"
AIM = "coverage=0.9"
"""Of what is accepted, which plays no part here."""
EPOCHS = 5
ITEMS = 128
"""Decisions in one batch."""
LONGEST = 1024
"""Pieces of a prompt, unless the base has fewer positions: decisionformer's own default."""


class Answer(NamedTuple):
    """What a model says of a text."""

    label: str
    probability: float


@dataclass(frozen=True)
class Decider:
    """A decision model.

    Attributes:
        ask: Texts → an answer for each, in one call.
        seconds: That its training took, of the process's CPU time; None if it was trained earlier.
    """

    ask: Callable[[Sequence[str]], list[Answer]]
    seconds: float | None


@dataclass(frozen=True)
class Task:
    """What both sides are given.

    Attributes:
        plan: Our training's, with the rows for training and validation.
        calibration: Rows that neither learns from, in `calibration.csv` too.
        folder: For what is trained.
    """

    plan: Plan
    calibration: Sequence[TextExample]
    folder: Path

    @property
    def labels(self) -> list[str]:
        """The options."""
        return list(self.plan.task.answers)


def planned(arguments: argparse.Namespace) -> Task:
    """Draw the rows of each class, and divide them as our training does.

    Raises:
        ConfigError: If there are too few rows, or the output folder is of a run over others.
        LCFinetuneError: If a file or the base model cannot be used.
    """
    examples = read(arguments.train_file)
    each = arguments.rows + arguments.calibration_rows
    fewest = min(Counter(one.label for one in examples).values())
    if min(arguments.rows, arguments.calibration_rows) < 1 or each > fewest:
        raise ConfigError(
            f"Expected --rows and --calibration-rows of at least 1, {fewest} together at most, as the smallest class "
            f"has; found {arguments.rows} and {arguments.calibration_rows}."
        )
    drawn = draw(examples, each, arguments.seed)
    rows = [row for i, row in enumerate(drawn) if i % each < arguments.rows]
    calibration = [row for i, row in enumerate(drawn) if i % each >= arguments.rows]
    folder: Path = arguments.output_dir
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: expected a folder, or a place for one, found a file. Change --output-dir.")
    config = TrainConfig.of(
        {
            "train_file": str(folder / "rows.csv"), "base_model": arguments.base_model, "epochs": arguments.epochs,
            "seed": arguments.seed, "baseline": False, "output_dir": str(folder / "ours"),
        }
    )  # fmt: skip
    run = json.dumps(
        {"config": config.model_dump(mode="json", exclude_none=True), "rows": rows, "calibration": calibration}
    )
    kept = folder / "run.json"
    if kept.is_file() and kept.read_text(encoding="utf-8") != run:
        raise ConfigError(f"{folder}: expected a folder of these rows and options, found others. Change --output-dir.")
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "rows.csv", rows)
    write_rows(folder / "calibration.csv", calibration)
    plan, _ = prepare(config)
    kept.write_text(run, encoding="utf-8")
    return Task(plan, [TextExample(*row) for row in calibration], folder)


def libraries() -> tuple[Any, Any]:
    """Import both sides' modules before any work is done: ours, and decisionformer.

    Raises:
        MissingDependencyError: If decisionformer is not installed, or langchain-core is older than 1.8.
    """
    try:
        import decisionformer
    except ImportError as error:
        raise MissingDependencyError(
            f"Expected decisionformer, found no package {error.name!r}. docs/performance.md says how to install it."
        ) from error
    from lc_finetune import decisions

    return decisions, decisionformer


def ours(task: Task, decisions: Any) -> Decider:
    """Train and calibrate ours, unless it is there, and put it behind LangChain's interface.

    Raises:
        LCFinetuneError: If the training or the calibration fails.
    """
    from langchain_core.decisions import Choice

    folder, started, seconds = task.folder / "ours", time.process_time(), None
    if not folder.is_dir():
        fine_tune(task.plan.config, say=_say)
        seconds = time.process_time() - started
    checkpoint = Checkpoint.load(folder)
    if not (checkpoint.manifest and checkpoint.manifest.calibration):
        with redirect_stdout(sys.stderr):
            status = cli.main(["calibrate", str(folder), str(task.folder / "calibration.csv"), "--accept", AIM])
        if status:
            raise LCFinetuneError(f"{folder}: expected a calibration, found exit status {status}.")
        checkpoint = Checkpoint.load(folder)
    model = decisions.FineTunedDecisionModel.from_checkpoints({QUESTION: checkpoint}, device="cpu")
    questions = {QUESTION: Choice(instructions=INSTRUCTIONS, criteria=dict.fromkeys(checkpoint.labels.names))}

    def ask(texts: Sequence[str]) -> list[Answer]:
        responses = model.batch([{"state": text, "questions": questions} for text in texts])
        choices = [one.choices[QUESTION] for one in responses]
        return [Answer(one.choice, one.probabilities[one.choice]) for one in choices]

    return Decider(ask, seconds)


def peer(task: Task, decisionformer: Any) -> Decider:
    """Train decisionformer, unless it is there: the head of its recipe for encoders, our rows, epochs and rates.

    Its prompt names every option. So that it fits the positions of a small encoder, options are numbered.
    """
    folder, started, seconds = task.folder / "decisionformer", time.process_time(), None
    if not (folder / "summary.json").is_file():
        decisionformer.train(_peer_config(task, folder))
        seconds = time.process_time() - started
    model = decisionformer.AutoDecisionModel.from_pretrained(folder / "best", device="cpu")
    labels, questions = task.labels, {QUESTION: _peer_question(task)}

    def ask(texts: Sequence[str]) -> list[Answer]:
        responses = model.decide_many([{"state": text, "questions": questions} for text in texts])
        answers = [one["answers"][QUESTION] for one in responses]
        return [Answer(labels[int(one["choice"])], one["probabilities"][one["choice"]]) for one in answers]

    return Decider(ask, seconds)


def _peer_question(task: Task) -> dict[str, Any]:
    return {"type": "choice", "instructions": INSTRUCTIONS, "criteria": {str(i): None for i in range(len(task.labels))}}


def _peer_config(task: Task, folder: Path) -> dict[str, Any]:
    """Write the parts of the rows as it reads them, and configure its training."""
    plan, labels, question = task.plan, task.labels, _peer_question(task)
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Sequence[Example]] = {
        "train": plan.splits.train, "dev": plan.splits.validation, "calibration": task.calibration,
    }  # fmt: skip
    files = {}
    for part, examples in parts.items():
        records = [
            {
                "id": f"{part}-{i}", "state": one.text, "questions": {QUESTION: question},
                "gold": {QUESTION: str(labels.index(one.label))},
            }
            for i, one in enumerate(cast("Sequence[TextExample]", examples))
        ]  # fmt: skip
        files[part] = folder / f"{part}.jsonl"
        files[part].write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    rate = learning_rate_of(plan.config, plan.base)
    positions = int(json.loads((plan.base.folder / "config.json").read_text())["max_position_embeddings"])
    return {
        "model": {
            "backbone": str(plan.base.folder), "pooler": {"type": "cls"},
            "head": {"type": "fixed_softmax", "labels": list(map(str, range(len(labels))))},
        },
        "data": {
            "train": str(files["train"]), "calibration": str(files["calibration"]), "eval": {"dev": str(files["dev"])},
            "max_length": min(LONGEST, positions),
        },
        "train": {
            "output_dir": str(folder), "epochs": epochs_of(plan), "global_batch_size": plan.config.batch_size,
            "lr": rate, "head_lr": rate * recipe.HEAD_RATE, "seed": plan.config.seed,
        },
    }  # fmt: skip


def quality(deciders: dict[str, Decider], test: Sequence[TextExample]) -> Table:
    """Compare the answers to the test rows."""
    rows: dict[str, tuple[float | int | None, ...]] = {}
    for name, one in deciders.items():
        answers = one.ask([example.text for example in test])
        right = np.array([answer.label == example.label for answer, example in zip(answers, test, strict=True)])
        scores = np.array([answer.probability for answer in answers])
        rows[name] = (100 * float(right.mean()), 100 * expected_calibration_error(scores, right), one.seconds)
    notes = [f"{len(test):,} test rows; ECE over 15 bins of equal mass."]
    return Table("quality", ("accuracy %", "ECE %", "CPU s of training"), rows, notes)


def speed(deciders: dict[str, Decider], texts: Sequence[str], rounds: int) -> Table:
    """Ask both about the same texts, in turns."""
    for one in deciders.values():
        one.ask(texts[:8])
    seconds = medians(in_turns({name: partial(one.ask, texts) for name, one in deciders.items()}, rounds))
    rows = {name: (len(texts) / seconds[name], seconds[PEER] / seconds[name]) for name in deciders}
    notes = [f"{len(texts):,} texts in one batch, {rounds} rounds in turns."]
    return Table("speed", ("decisions/s", f"× {PEER}"), rows, notes)


def _tables(arguments: argparse.Namespace) -> Iterator[Table]:
    import torch

    decisions, decisionformer = libraries()
    test = read(arguments.test_file)
    random.Random(SEED).shuffle(test)
    task = planned(arguments)
    unknown = {one.label for one in test}.difference(task.labels)
    if unknown:
        raise ConfigError(
            f"{arguments.test_file}: expected the labels of the training file, found {len(unknown)} more."
        )
    deciders = {OURS: ours(task, decisions), PEER: peer(task, decisionformer)}
    torch.set_num_threads(cores())
    for mode in arguments.modes:
        _say(f"measuring {mode} …")
        if mode == "quality":
            table = quality(deciders, test[: arguments.test_rows])
        else:
            table = speed(deciders, [one.text for one in test[: arguments.items]], arguments.rounds)
        splits = task.plan.splits
        table.notes.append(
            f"Both on {arguments.rows} rows a class, {len(splits.train):,} for training and {len(splits.validation):,} "
            f"for validation, and {len(task.calibration):,} for calibration; {epochs_of(task.plan)} epochs, "
            f"{len(task.labels)} options."
        )
        yield table


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Train both, measure, and print the tables; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decisionformer", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--train-file", required=True, metavar="FILE", help="labelled file")
    parser.add_argument("--test-file", required=True, metavar="FILE", help="labelled file of the same labels")
    parser.add_argument("--output-dir", required=True, type=Path, metavar="FOLDER", help="for what is trained")
    parser.add_argument("--rows", type=int, metavar="N", default=10, help="of each class (default 10)")
    parser.add_argument("--calibration-rows", type=int, default=3, metavar="N", help="of each class (default 3)")
    parser.add_argument("--test-rows", type=int, metavar="N", help="of the test file at most (default: all)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, metavar="N", help=f"of both (default {EPOCHS})")
    parser.add_argument("--base-model", default="minilm", metavar="NAME")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--items", type=int, default=ITEMS, metavar="N", help=f"texts in one batch ({ITEMS})")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds in turns (default 5)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the tables to a .md or .json file too")
    arguments = parser.parse_args(argv)
    if min(arguments.items, arguments.rounds, arguments.test_rows or 1) < 1:
        parser.error("expected --items, --rounds and --test-rows of at least 1")
    try:
        write(_tables(arguments), machine("cpu"), arguments.output)
    except LCFinetuneError as error:
        print(f"benchmarks.decisionformer: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
