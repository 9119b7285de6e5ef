"""A search tries settings on the validation rows, and trains with the best."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from lc_finetune import Checkpoint, ConfigError, DataError, MissingDependencyError
from lc_finetune.cli import main
from lc_finetune.evaluation import evaluate, evaluation_page
from lc_finetune.evaluation.history import read_history
from lc_finetune.inference import Predictor
from lc_finetune.train import TrainConfig, fine_tune, recipe
from lc_finetune.train import search as searching
from lc_finetune.train.preparation import Plan, prepare
from lc_finetune.train.search import Report, default_space, search
from lc_finetune.train.search_space import Choices, Range
from lc_finetune.train.tasks import TASKS

TEXTS = {"card": ["card", "bank card", "my card is lost"], "cash": ["cash", "withdraw cash", "cash please"]}
METRIC = TASKS["regression"].metric
SPACE = {"learning_rate": {"low": 1e-6, "high": 1e-2, "log": True}, "batch_size": [16, 32]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds rows to train on and to test with, in formats of several tasks."""
    folder = tmp_path_factory.mktemp("search")
    rows = [f"{text} number {i},{label}" for i in range(12) for label, texts in TEXTS.items() for text in texts]
    (folder / "train.csv").write_text("\n".join(["text,label", *rows]))
    spans = [{"text": f"pay {n} at Oslo", "entities": [{"start": len(f"pay {n} at "), "end": len(f"pay {n} at Oslo"),
              "label": "LOC"}]} for n in range(40)]  # fmt: skip
    (folder / "spans.jsonl").write_text("\n".join(map(json.dumps, spans)))
    numbers = [f"number {n} of them,{n / 7}" for n in range(60)]
    (folder / "numbers.csv").write_text("\n".join(["text,label", *numbers]))
    (folder / "test.csv").write_text("\n".join(["text,label", *numbers[:2]]))
    return folder


def options(base: Path, folder: Path, output: Path, **more: Any) -> dict[str, Any]:
    given = {"base_model": str(base), "train_file": str(folder / "train.csv"), "output_dir": str(output), "epochs": 1,
             "baseline": False, "search": 3, "search_space": SPACE}  # fmt: skip
    return {name: value for name, value in {**given, **more}.items() if value is not None}


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What the run of `searched` says."""
    return []


@pytest.fixture(scope="module")
def searched(base_model: Path, folder: Path, said: list[str]) -> Checkpoint:
    """A regressor, whose metric tells any two trainings apart; its settings were searched for in three trials."""
    given = options(base_model, folder, folder / "searched", task="regression", epochs=2,
                    train_file=str(folder / "numbers.csv"), test_file=str(folder / "test.csv"))  # fmt: skip
    return fine_tune(TrainConfig(**given), say=said.append)


def test_the_search_is_recorded(searched: Checkpoint) -> None:
    """Space, sampler, pruner, seed, trials, and what was best, in the manifest; the trials beside it."""
    assert searched.manifest is not None
    record = searched.manifest.search
    assert record is not None
    trials = read_history(searched.path, "search.jsonl")

    assert record.space == {
        "learning_rate": {"low": 1e-6, "high": 1e-2, "log": True}, "batch_size": {"choices": [16, 32]},
    }  # fmt: skip
    assert (record.sampler, record.pruner, record.seed, record.metric) == ("TPE", "median", 0, METRIC)
    assert (record.finished, record.pruned, record.failed) == (3, 0, 0)
    assert [one["trial"] for one in trials] == [1, 2, 3]
    assert record.best_value == max(one["value"] for one in trials)
    assert record.best == trials[record.best_trial - 1]["settings"]
    assert "Settings found by a search: learning_rate" in (searched.path / "README.md").read_text()


def best_epoch(checkpoint: Checkpoint) -> float:
    """The greatest validation metric in the log of the training."""
    return max(one[f"eval_{METRIC}"] for one in read_history(checkpoint.path) if f"eval_{METRIC}" in one)


def test_the_winner_is_trained_as_in_its_trial(searched: Checkpoint) -> None:
    """The same seed and settings give the same metric, to the last digit."""
    assert searched.manifest is not None
    assert searched.manifest.search is not None
    of_trials = [one["value"] for one in read_history(searched.path, "search.jsonl")]

    assert len(set(of_trials)) == 3
    assert best_epoch(searched) == searched.manifest.search.best_value


def test_the_test_file_is_read_last(searched: Checkpoint, said: list[str]) -> None:
    """The summary before the trials knows no test rows, the one after them does."""
    summaries = [i for i, line in enumerate(said) if line.startswith("Data")]
    trials = [i for i, line in enumerate(said) if line.startswith("  trial")]

    assert len(summaries) == 2
    assert len(trials) == 3
    assert summaries[0] < trials[0] < trials[-1] < summaries[1]
    assert ", test " not in said[summaries[0]]
    assert ", test 2" in said[summaries[1]]
    assert searched.metrics["test"]["rows"] == 2


def test_nothing_of_the_trials_is_left(searched: Checkpoint) -> None:
    """Neither the study nor states."""
    assert not searched.path.with_name("searched.work").exists()
    assert not list(searched.path.rglob("*.sqlite3*"))


def test_the_report_lists_the_trials(searched: Checkpoint) -> None:
    """In a table, with a plot of what mattered."""
    page = (searched.path / "report.html").read_text(encoding="utf-8")

    assert 'id="search-table"' in page
    assert 'id="search-plot"' in page


def test_importances_are_drawn(searched: Checkpoint) -> None:
    """A bar for each field, with its share."""
    assert searched.manifest is not None
    assert searched.manifest.search is not None
    record = searched.manifest.search.model_copy(update={"importances": {"learning_rate": 0.75, "batch_size": 0.25}})
    checkpoint = replace(searched, manifest=searched.manifest.model_copy(update={"search": record}))
    page = evaluation_page(checkpoint, evaluate(Predictor.load(searched), (), source="validation"), {}, name="searched")

    assert "learning_rate: 75.0%" in page
    assert "batch_size: 25.0%" in page


# The study. Its trials are real, what they measure is given.


@pytest.fixture(scope="module")
def plan(base_model: Path, folder: Path) -> Plan:
    """A plan that searches in four epochs."""
    return prepare(TrainConfig(**options(base_model, folder, folder / "out", epochs=4, search=6)))[0]


def best_at(rate: float) -> Any:
    """Measure a trial: the nearer its learning rate, the better, and the later the epoch."""

    def measure(trial: Plan, report: Report) -> None:
        assert trial.config.learning_rate is not None
        for epoch in range(trial.config.epochs or 0):
            if report(epoch / 100 - abs(trial.config.learning_rate - rate)):
                return

    return measure


def tried(trials: tuple[dict[str, Any], ...]) -> list[Any]:
    return [(one["state"], one["value"], one["settings"]) for one in trials]


def test_bad_trials_are_pruned(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that fall below the median of the finished ones, once there are some, and not in their first epoch."""
    monkeypatch.setattr(recipe, "SEARCH_STARTUP", 2)
    found, _ = search(plan, tmp_path, best_at(1e-4), lambda line: None)
    pruned = [one for one in found.trials if one["state"] == "pruned"]

    assert found.record.pruned == len(pruned) >= 1
    assert {one["epochs"] for one in pruned} <= {2, 3, 4}
    assert found.record.best_value == max(one["value"] for one in found.trials if one["state"] == "finished")
    assert sum(found.record.importances.values()) == pytest.approx(1)


def test_the_first_trial_is_the_defaults(plan: Plan, tmp_path: Path) -> None:
    """So that a search does no worse than none, on these rows."""
    found, _ = search(plan, tmp_path, best_at(1e-4), lambda line: None)

    assert found.trials[0]["settings"] == {"learning_rate": recipe.learning_rate(32), "batch_size": 32}


@pytest.mark.slow
def test_an_interrupted_search_goes_on_as_a_whole_one(plan: Plan, tmp_path: Path) -> None:
    """The trial that was cut off counts as failed and is run again; the others are as if nothing had happened."""
    whole, part = tmp_path / "whole", tmp_path / "part"
    whole.mkdir()
    part.mkdir()
    expected, _ = search(plan, whole, best_at(1e-3), lambda line: None)
    calls: list[int] = []

    def interrupted(trial: Plan, report: Report) -> None:
        calls.append(1)
        if len(calls) == 4:
            report(0.5)
            raise KeyboardInterrupt
        best_at(1e-3)(trial, report)

    with pytest.raises(KeyboardInterrupt):
        search(plan, part, interrupted, lambda line: None)
    found, is_new = search(plan, part, best_at(1e-3), lambda line: None)
    again, none = search(plan, part, best_at(1e-3), lambda line: None)

    assert (is_new, none) == (True, False)
    assert found.record.failed == 1
    assert found.trials[3]["state"] == "failed"
    assert tried(found.trials[:3] + found.trials[4:]) == tried(expected.trials)
    assert again == found


@pytest.mark.slow
def test_more_trials_go_on_with_the_study(plan: Plan, tmp_path: Path) -> None:
    """The first ones are kept."""
    few = replace(plan, config=plan.config.model_copy(update={"search": 3}))
    first, _ = search(few, tmp_path, best_at(1e-3), lambda line: None)
    more, is_new = search(plan, tmp_path, best_at(1e-3), lambda line: None)

    assert is_new
    assert tried(more.trials[:3]) == tried(first.trials)
    assert len(more.trials) == 6


@pytest.mark.parametrize("harm", ["error", "nan"])
def test_a_trial_that_fails_ends_no_search(plan: Plan, tmp_path: Path, harm: str) -> None:
    """It is counted, said, and never the winner."""
    calls: list[int] = []
    said: list[str] = []

    def fails_first(trial: Plan, report: Report) -> None:
        calls.append(1)
        if len(calls) == 1:
            report(float("nan"))
            if harm == "error":
                raise RuntimeError("a text of the user's")
            return
        best_at(1e-3)(trial, report)

    found, _ = search(plan, tmp_path, fails_first, said.append)

    assert found.record.failed == 1
    assert found.trials[0]["value"] is None
    assert found.record.best_trial != 1
    assert any("failed: " + ("RuntimeError" if harm == "error" else "the metric is no number") in line for line in said)
    assert not any("a text of the user's" in line for line in said)


def test_a_search_without_a_finished_trial_is_an_error(plan: Plan, tmp_path: Path) -> None:
    """It says why trials failed, and what to do."""

    def fails(trial: Plan, report: Report) -> None:
        raise MemoryError

    with pytest.raises(ConfigError, match=r"expected a trial that finishes, found none: 0 pruned, 6 failed \(MemoryEr"):
        search(plan, tmp_path, fails, lambda line: None)


def test_a_damaged_study_is_an_error(plan: Plan, tmp_path: Path) -> None:
    """It names the file and the way out."""
    (tmp_path / "search.sqlite3").write_text("no database " * 100)

    with pytest.raises(
        ConfigError, match=r"search\.sqlite3: expected the trials of a search, found a file that cannot"
    ):
        search(plan, tmp_path, best_at(1e-3), lambda line: None)


# Where it looks.


def test_the_default_space_is_around_the_defaults(base_model: Path, folder: Path, tmp_path: Path) -> None:
    """And leaves out what is set, and what the task or the adapter has not."""
    given = options(base_model, folder, tmp_path / "out", search_space=None, epochs=None)
    plain = default_space(prepare(TrainConfig(**given))[0])
    lora = default_space(prepare(TrainConfig(**given, adapter="lora", learning_rate=1e-3))[0])
    tagger = default_space(prepare(TrainConfig(**{**given, "train_file": str(folder / "numbers.csv")},
                                               task="regression"))[0])  # fmt: skip
    rate = recipe.learning_rate(32)

    assert plain == {
        "learning_rate": Range(low=rate / 4, high=rate * 4, log=True),
        "epochs": Range(low=10, high=30),
        "batch_size": Choices(choices=(16, 32, 64)),
        "label_smoothing": Range(low=0.0, high=0.2),
    }
    assert lora.keys() == {"epochs", "batch_size", "label_smoothing", "adapter_rank"}
    assert tagger.keys() == {"learning_rate", "epochs", "batch_size"}


def test_a_space_is_read_from_a_file(tmp_path: Path) -> None:
    """Lists are choices, and numbers are read as the field reads them, which YAML does not."""
    path = tmp_path / "space.yaml"
    path.write_text(
        "learning_rate: {low: 1e-5, high: 1e-3, log: true}\nlayer_decay: [null, 0.9]\nepochs: {low: 2, high: 9}\n"
        "class_weights: [null, balanced]\n"
    )
    config = TrainConfig.of({"search": "5", "search_space": str(path)})

    assert config.search_space == {
        "learning_rate": Range(low=1e-5, high=1e-3, log=True),
        "layer_decay": Choices(choices=(None, 0.9)),
        "epochs": Range(low=2, high=9),
        "class_weights": Choices(choices=(None, "balanced")),
    }


@pytest.mark.parametrize(
    ("space", "more", "message"),
    [
        ({"lerning_rate": [1, 2]}, {}, "found 'lerning_rate' .did you mean 'learning_rate'"),
        ({"seed": [1, 2]}, {}, "expected fields that say how a model learns"),
        ({"batch_size": [16]}, {}, "batch_size: .*at least 2"),
        ({"batch_size": [16, 16]}, {}, "batch_size: expected each choice once"),
        ({"batch_size": [0, 16]}, {}, "batch_size: .*greater than or equal to 1"),
        ({"batch_size": 16}, {}, "batch_size: expected a list of choices, or low and high"),
        ({"batch_size": {"low": 2.5, "high": 8}}, {}, "batch_size: .*valid integer"),
        ({"epochs": {"low": 4, "high": 2}}, {}, "epochs: expected low to be less than high"),
        ({"epochs": {"low": 2}}, {}, "epochs: high: Field required"),
        ({"learning_rate": {"low": 0.1, "high": 2}}, {}, "learning_rate: .*less than or equal to 1"),
        ({"label_smoothing": {"low": 0, "high": 0.1, "log": True}}, {}, "label_smoothing: expected a low above 0"),
        ({"class_weights": {"low": 1, "high": 2}}, {}, "class_weights: expected choices, as a list"),
        ({"class_weights": [{"card": 2.0}, None]}, {}, "class_weights: expected choices that are numbers, words"),
        ({"adapter_rank": [4, 8]}, {}, "adapter_rank: expected it beside adapter"),
        ({"adapter_rank": [4, 8]}, {"adapter": "ia3"}, "adapter_rank: expected adapter lora or adalora"),
        ({"focal_gamma": [1, 2], "label_smoothing": [0, 0.1]}, {}, "focal_gamma and label_smoothing: .*focal_gamma 1"),
        ({"epochs": [1, 2]}, {"epochs": 3}, "expected fields that are not set otherwise, found epochs"),
        ({"epochs": [1, 2]}, {"search": None}, "search_space: expected it beside search"),
        ({}, {"few_shot": True}, "search and few_shot: expected one of them"),
        ({}, {"search": 0}, "search: .*greater than or equal to 1"),
    ],
)  # fmt: skip
def test_a_space_that_cannot_be_is_refused(space: Any, more: dict[str, Any], message: str) -> None:
    """Before any data is read; the field is named."""
    with pytest.raises(ConfigError, match=message):
        TrainConfig.of({"search": 3, "search_space": space, **more})


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "could not read it"), ("", "found none"), ("- 1", "found something else"), ("{", "found neither")],
)
def test_a_file_that_holds_no_space_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    """It is named."""
    path = tmp_path / "space.yaml"
    if content is not None:
        path.write_text(content)

    with pytest.raises(ConfigError, match=f"{path.name}: .*{message}"):
        TrainConfig.of({"search": 3, "search_space": str(path)})


def test_a_field_of_another_task_is_refused(base_model: Path, folder: Path, tmp_path: Path) -> None:
    """Before the first trial."""
    given = options(base_model, folder, tmp_path / "out", train_file=str(folder / "numbers.csv"), task="regression",
                    search_space={"label_smoothing": [0.0, 0.1]})  # fmt: skip

    with pytest.raises(ConfigError, match="search_space: label_smoothing: expected a task with one right answer"):
        fine_tune(TrainConfig(**given))


def test_nothing_left_to_vary_is_refused(base_model: Path, folder: Path, tmp_path: Path) -> None:
    """It says what is set."""
    given = options(base_model, folder, tmp_path / "out", search_space=None, learning_rate=1e-3, batch_size=8,
                    label_smoothing=0.0)  # fmt: skip

    with pytest.raises(ConfigError, match="expected something left to vary"):
        fine_tune(TrainConfig(**given))


def test_rows_that_leave_none_to_validate_are_refused(base_model: Path, tmp_path: Path) -> None:
    """Trials cannot be told apart on none."""
    (tmp_path / "train.csv").write_text("text,label\ncard,card\ncash,cash\n")

    with pytest.raises(ConfigError, match="search: expected validation rows"):
        fine_tune(TrainConfig(**options(base_model, tmp_path, tmp_path / "out")))


def test_a_missing_test_file_is_said_before_the_trials(base_model: Path, folder: Path, tmp_path: Path) -> None:
    """Its content is read later."""
    said: list[str] = []
    with pytest.raises(DataError, match="none there"):
        fine_tune(TrainConfig(**options(base_model, folder, tmp_path / "out", test_file="tset.csv")), say=said.append)

    assert said == []


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, base_model: Path, folder: Path, tmp_path: Path
) -> None:
    """With the command that installs it."""
    monkeypatch.setattr(searching, "find_spec", lambda name: None if name == "optuna" else find_spec(name))

    with pytest.raises(MissingDependencyError, match=r"pip install 'lc-finetune\[search\]'"):
        fine_tune(TrainConfig(**options(base_model, folder, tmp_path / "out")))


def test_several_processes_take_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their trials would get in each other's way."""
    monkeypatch.setenv("WORLD_SIZE", "2")

    with pytest.raises(ConfigError, match="search: expected one process, found 2"):
        fine_tune(TrainConfig(search=2))


def test_pre_training_takes_no_search(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has no metric of answers."""
    assert main(["train", "--task", "mlm", "--train-file", str(folder / "train.csv"), "--search", "2"]) == 2
    assert "search: expected options that pre-training takes" in capsys.readouterr().err


# The whole way.


@pytest.mark.slow
def test_other_tasks_are_searched_by_their_own_metric(base_model: Path, folder: Path, tmp_path: Path) -> None:
    """A tagger by the F1 of entities."""
    made = fine_tune(TrainConfig(**options(base_model, folder, tmp_path / "out", search=2,
                                           train_file=str(folder / "spans.jsonl"))))  # fmt: skip

    assert made.manifest is not None
    assert made.manifest.search is not None
    assert (made.manifest.search.metric, made.manifest.search.finished) == ("f1", 2)


@pytest.mark.slow
def test_a_run_that_failed_after_its_search_goes_on_with_what_was_found(
    base_model: Path, folder: Path, tmp_path: Path
) -> None:
    """As where the test file turns out to be unreadable; no trial is run again, and the search is not lost unasked."""
    test = tmp_path / "test.csv"
    test.write_text("text,label\nmy card again,card\n,\n")
    given = options(base_model, folder, tmp_path / "out", search=2, test_file=str(test))
    said: list[str] = []

    with pytest.raises(DataError):
        fine_tune(TrainConfig(**given))
    with pytest.raises(ConfigError, match=r"found a search in"):
        fine_tune(TrainConfig(**given))
    test.write_text("text,label\nmy card again,card\n")
    with pytest.raises(ConfigError, match=r"found another: .*search"):
        fine_tune(TrainConfig(**{**given, "search": None, "search_space": {}}, resume=True))
    made = fine_tune(TrainConfig(**given, resume=True), say=said.append)

    assert made.metrics["test"]["rows"] == 1
    assert [line for line in said if line.startswith("  trial")] == []


def trials_in(work: Path) -> Iterator[str]:
    """The states of the trials in a study."""
    path = work / "search.sqlite3"
    if path.is_file():
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
                yield from (state for (state,) in connection.execute("select state from trials"))
        except sqlite3.Error:
            return


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on(base_model: Path, folder: Path, tmp_path: Path) -> None:
    """In the middle of its second trial, which counts as failed; the winner is that of a whole search."""
    space = tmp_path / "space.json"
    space.write_text(json.dumps(SPACE))
    command = [
        sys.executable, "-m", "lc_finetune.train", "--base-model", str(base_model), "--train-file",
        str(folder / "train.csv"), "--no-baseline", "--epochs", "3", "--search", "3", "--search-space", str(space),
    ]  # fmt: skip
    output = tmp_path / "killed"
    process = subprocess.Popen([*command, "--output-dir", str(output)], stdout=subprocess.DEVNULL)
    while len(list(trials_in(tmp_path / "killed.work"))) < 2 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    subprocess.run([*command, "--output-dir", str(output), "--resume"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*command, "--output-dir", str(tmp_path / "whole")], check=True, stdout=subprocess.DEVNULL)
    killed, whole = (Checkpoint.load(tmp_path / name) for name in ("killed", "whole"))

    assert killed.manifest is not None
    assert whole.manifest is not None
    assert killed.manifest.search is not None
    assert whole.manifest.search is not None
    assert killed.manifest.search.failed == 1
    assert killed.manifest.search.best == whole.manifest.search.best
    assert killed.metrics == whole.metrics
    assert killed.weights_digest == whole.weights_digest


@pytest.mark.slow
def test_adapters_are_trained_as_in_their_trial(base_model: Path, folder: Path, tmp_path: Path) -> None:
    """Also where the trained part is wrapped, and early stopping ends a trial."""
    given = options(base_model, folder, tmp_path / "out", adapter="lora", epochs=4, patience=1, task="regression",
                    train_file=str(folder / "numbers.csv"),
                    search_space={"adapter_rank": [2, 4], "learning_rate": [1e-3, 1e-2]})  # fmt: skip
    made = fine_tune(TrainConfig(**given))
    assert made.manifest is not None
    assert made.manifest.search is not None
    assert made.manifest.adapter is not None

    assert best_epoch(made) == made.manifest.search.best_value
    assert made.manifest.adapter.rank == made.manifest.search.best["adapter_rank"]
