"""The measurements run from end to end; no time is asserted."""

import json
import shutil
import sys
import threading
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import (
    agents,
    cascade,
    confidence,
    continual,
    decisionformer,
    gpu,
    inference,
    interruption,
    monitor,
    quality,
    scope,
    service,
    serving,
    timing,
    training,
    tune,
)
from benchmarks import contestants as peers
from benchmarks.contestants import PIPELINE, contestants
from benchmarks.texts import long_tailed
from lc_finetune import Checkpoint, ConfigError, cli
from lc_finetune.data import TextExample, read_examples
from lc_finetune.testing import SENTENCES, tiny_base_model, tiny_checkpoint

SAMPLES = Path(__file__).parent.parent / "lc_finetune" / "data" / "samples"
SUPPORT, ENTITIES = str(SAMPLES / "support" / "test.csv"), str(SAMPLES / "entities" / "test.jsonl")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("bench") / "c", onnx=True)


def measured(output: Path) -> dict[str, Any]:
    """Title → rows."""
    return {table["title"]: table["rows"] for table in json.loads(output.read_text())["tables"]}


@pytest.mark.slow
def test_inference_runs_every_mode(exported: Checkpoint, tiny_tagger: Checkpoint, tmp_path: Path) -> None:
    """One table a mode; every contestant answers as torch does, ours in as few forwards as the raw loop."""
    output = tmp_path / "results.json"
    status = inference.main(
        f"{exported.path} --texts {SUPPORT} --tagger {tiny_tagger.path} --tagger-texts {ENTITIES} --rounds 1 "
        f"--texts-limit 24 --single-texts 2 --long-texts 3 --long-pieces 90 --output {output}".split()
    )
    tables = measured(output)
    bulk = tables["bulk"]

    assert status == 0
    assert len(inference.MODES) == len(tables)
    assert {"pipeline(texts)", PIPELINE, "ours, auto", "ours, torch"} < set(bulk)
    assert dict.fromkeys(bulk, 1.0) == {name: row["labels as torch fp32"] for name, row in bulk.items()}
    assert bulk["pipeline(texts)"]["forwards"] == 24
    assert bulk["ours, auto"]["forwards"] == bulk["raw onnx, sorted, batches of 512 tokens"]["forwards"]
    assert tables["single"]["ours, auto"]["p50 × raw, same runtime"] > 0
    assert tables["fan-out"]["LabelRouter"]["answers"] == 48
    assert tables["concurrent"]["gather of ainvoke"]["forwards"] < 24
    assert {"pipeline(texts)", "ours, auto"} < set(tables["ner"])


def test_a_model_in_bf16_is_compared_with_a_loop_in_bf16(exported: Checkpoint) -> None:
    """As on CUDA, where a loop in fp32 would be a weak opponent; in fp32 a runtime has no other name."""
    half, single = "bfloat16", "float32"
    (ours,) = peers._ours(exported, "ours", "cpu", backend="torch", dtype=half)
    (plain,) = peers._ours(exported, "ours", "cpu", backend="torch")
    ids = np.ones((2, 8), dtype=np.int64)
    logits = {name: peers._torch_forward(exported, "cpu", name)(ids, ids) for name in (half, single)}

    assert (ours.runtime, plain.runtime) == ("torch-bfloat16", "torch")
    assert logits[half].dtype == np.float32
    assert 0 < np.abs(logits[half] - logits[single]).max() < 0.1


@pytest.mark.slow
def test_inference_prints_markdown(exported: Checkpoint, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The same text goes to the file."""
    output = tmp_path / "results.md"
    arguments = ["--texts", SUPPORT, "--modes", "overhead", "--rounds", "1", "--texts-limit", "8"]
    inference.main([str(exported.path), *arguments, "--output", str(output)])

    assert "| batch, one callback handler |" in output.read_text()
    assert output.read_text().strip() == capsys.readouterr().out.strip()


def test_a_missing_peer_is_named(exported: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason; the others run without it."""
    for package in ("infinity_emb", "sentence_transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    with contestants(exported, "cpu") as (found, missing):
        names = {one.name for one in found}

    assert missing["infinity"] == "infinity_emb is not installed"
    assert missing["CrossEncoder"] == "sentence_transformers is not installed"
    assert {"pipeline(texts)", "ours, auto"} < names


def test_infinity_answers_as_torch_and_ends(exported: Checkpoint) -> None:
    """In one call and in many at the same time; its threads are gone afterwards."""
    pytest.importorskip("infinity_emb")
    texts = SENTENCES[:3]
    with contestants(exported, "cpu") as (found, _):
        by_name = {one.name: one for one in found}
        infinity, expected = by_name["infinity"], by_name["ours, torch"].many(texts)

        assert infinity.many(texts) == expected
        assert infinity.at_once is not None
        assert infinity.at_once(texts) == expected
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]
        assert threads
    assert not any(thread.is_alive() for thread in threads)


def test_scope_compares_detectors(base_model: Path, tmp_path: Path) -> None:
    """Each on the same test rows, and the checkpoint's own in_scope beside them."""
    output = tmp_path / "results.json"
    sample = SAMPLES / "support"
    status = scope.main(
        f"--train-file {sample / 'train.csv'} --test-file {sample / 'test.csv'} --held-out 4 --epochs 1 "
        f"--base-model {base_model} --output-dir {tmp_path / 'c'} --output {output}".split()
    )
    (title, compared), (_, own) = measured(output).items()

    assert status == 0
    assert title == "36 test texts of unseen classes, 72 of seen ones"
    assert {"maximum softmax probability", "energy", "Mahalanobis", "cosine to the class mean"} < set(compared)
    assert len(Checkpoint.load(tmp_path / "c").labels) == 8
    assert list(own) == ["33 held-out rows"]


def test_a_missing_checkpoint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, no traceback."""
    status = inference.main(["nowhere", "--texts", SUPPORT])

    assert status == 2
    assert "expected" in capsys.readouterr().err.lower()


@pytest.mark.slow
def test_tuning_names_a_budget(exported: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    """One of those that were tried."""
    status = tune.main(
        f"{exported.path} --texts {SUPPORT} --budgets 64 128 --lengths 8 16 --rounds 1 --texts-limit 20".split()
    )
    printed = capsys.readouterr().out

    assert status == 0
    assert 'TOKEN_BUDGET["cpu"] = 64' in printed or 'TOKEN_BUDGET["cpu"] = 128' in printed


def test_of_budgets_that_are_as_good_the_smallest_is_chosen() -> None:
    """A single text waits less behind smaller forwards."""
    assert tune.best_budget({128: 50.0, 256: 99.5, 512: 100.0}) == 256


def test_confidence_compares_before_and_after(tmp_path: Path) -> None:
    """For each checkpoint and for all together; what is not calibrated accepts nothing."""
    labels = sorted({example.label for example in read_examples(SUPPORT).examples if isinstance(example, TextExample)})
    one, other = (tiny_checkpoint(tmp_path / name, labels=labels, seed=i) for i, name in enumerate(("one", "other")))
    assert cli.main(["calibrate", str(one.path), SUPPORT, "--accept", "coverage=0.5"]) == 0
    output = tmp_path / "results.json"
    status = confidence.main([str(one.path), str(other.path), "--texts", SUPPORT, "--output", str(output)])
    rows = measured(output)["confidence"]

    assert status == 0
    assert list(rows) == ["one", "other", "pooled", "mean"]
    assert rows["one"]["log loss after"] < rows["one"]["log loss before"]
    assert rows["other"]["log loss after"] == rows["other"]["log loss before"]
    assert rows["one"]["accepted %"] >= 50 > rows["other"]["accepted %"] == 0
    assert rows["pooled"]["answers"] == 2 * rows["one"]["answers"]
    assert rows["one"]["labels a set"] is None
    assert confidence.main([str(one.path), "--texts", SUPPORT, "--output", str(output), "--coverage", "0.8"]) == 0
    assert measured(output)["confidence"]["one"]["right label in set %"] >= 79
    assert 1 <= measured(output)["confidence"]["one"]["labels a set"] <= len(labels)
    assert confidence.main([str(other.path), "--texts", SUPPORT, "--coverage", "0.8"]) == 2


def test_confidence_judges_pairs_of_texts_and_labels(tmp_path: Path) -> None:
    """Of a table without a header, as GoEmotions is published; what is accepted is a text's labels together."""
    checkpoint = tiny_checkpoint(
        tmp_path / "c", task="multi-label-classification", thresholds=dict.fromkeys(("card", "cash", "other"), 0.4)
    )
    random = np.random.default_rng(0)
    words = sorted({word for sentence in SENTENCES for word in sentence.split() if '"' not in word})
    rows = "".join(
        f"{' '.join(random.choice(words, size=4))}\t{random.choice(['0', '1', '2', '1,2'])}\tx{i}\n" for i in range(90)
    )
    (tmp_path / "rows.tsv").write_text(rows, encoding="utf-8")
    (tmp_path / "names.txt").write_text("card\ncash\nother\n", encoding="utf-8")
    reading = ["--text-column", "0", "--label-column", "1", "--label-names", str(tmp_path / "names.txt")]
    file, output = str(tmp_path / "rows.tsv"), tmp_path / "results.json"
    assert cli.main(["calibrate", str(checkpoint.path), file, *reading, "--accept", "coverage=0.5"]) == 0
    assert confidence.main([str(checkpoint.path), "--texts", file, *reading, "--output", str(output)]) == 0
    row = measured(output)["confidence"]["c"]

    assert 90 < row["answers"] <= 270
    assert row["log loss after"] < row["log loss before"]
    assert row["accepted %"] >= 50
    assert 0 <= row["right of them %"] <= 100


@pytest.mark.slow
def test_the_accelerator_script_runs_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a tiny model: every table that the goals are read from, and the goals."""
    output = tmp_path / "results.json"
    options = "--device cpu --tiny --texts 16 --single-texts 2 --rounds 1 --matrix 64"
    status = gpu.main([*options.split(), "--output", str(output)])
    tables = measured(output)

    assert status == 0
    assert "| ours, forward alone |" in capsys.readouterr().out
    assert {"pipeline(text)", "ours, invoke"} < set(tables["one text in bf16"])
    assert [row["at least"] for row in tables["goals"].values()] == [20, 1.5, 5, 0.45]
    assert all(row["measured"] > 0 for row in tables["goals"].values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without such a device")
def test_the_accelerator_script_says_that_there_is_no_accelerator(capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, with exit status 2."""
    assert gpu.main(["--tiny"]) == 2
    assert "expected a device of this machine" in capsys.readouterr().err.lower()


@pytest.mark.slow
def test_the_agents_script_runs(exported: Checkpoint, tiny_tagger: Checkpoint, tmp_path: Path) -> None:
    """With tiny models; all entities of the sample are counted."""
    output = tmp_path / "results.json"
    status = agents.main([str(exported.path), str(tiny_tagger.path), "--rounds", "2", "--output", str(output)])
    timed, masked = measured(output).values()

    assert status == 0
    assert list(timed) == ["classifier.invoke", "agent", "agent with sentiment", "added by the middleware"]
    assert masked["all"]["entities"] == sum(row["entities"] for name, row in masked.items() if name != "all") > 0


def test_operations_of_bert_base() -> None:
    """85 million weights in matrix products, two operations each for a token; attention comes on top."""
    assert gpu.BERT_BASE.flops(1, 1) == pytest.approx(2 * 84.9e6, rel=0.01)


def test_joined_texts_reach_their_length() -> None:
    """Seeded, so the same each time."""
    texts = long_tailed(["a b", "c d e"], [2, 3], count=20, least=5, most=50)

    assert texts == long_tailed(["a b", "c d e"], [2, 3], count=20, least=5, most=50)
    assert all(5 <= len(text.split()) <= 52 for text in texts)


def test_the_cascade_gains_as_more_is_asked_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the small model's accuracy to the large one's; the same for the same seed."""
    labels = ("cancel_order", "track_order", "other")
    checkpoint = tiny_checkpoint(tmp_path / "c", labels=labels)
    texts = tmp_path / "texts.csv"
    texts.write_text("text,label\n" + "".join(f"query {i},{labels[i % 3]}\n" for i in range(40)))
    command = [str(checkpoint.path), "--texts", str(texts), "--right", "1", "--shares", "0", "0.1", "1"]

    assert cascade.main([*command, "--output", str(tmp_path / "r.json")]) == 0
    rows = list(measured(tmp_path / "r.json")["accuracy by share asked again"].values())
    assert [row["asked again"] for row in rows] == [0, 4, 40]
    assert rows[0]["points gained"] == 0
    assert rows[2]["accuracy %"] == 100
    assert "| 10.0% |" in capsys.readouterr().out
    assert cascade.main([str(checkpoint.path), "--texts", SUPPORT]) == 2
    assert "labels that it lacks" in capsys.readouterr().err


def test_the_simulated_large_model_errs_as_often_as_told() -> None:
    """On the same texts each time, and never with a label that is none."""
    examples = [TextExample(f"text {i}", "abc"[i % 3]) for i in range(2000)]
    model = cascade.simulated(examples, "abc", right=0.97, seed=1)
    answers = [model(example.text) for example in examples]

    right = sum(answer == example.label for answer, example in zip(answers, examples, strict=True))
    assert right == pytest.approx(1940, abs=25)
    assert answers == [model(example.text) for example in examples]
    assert set(answers) == {"a", "b", "c"}


def test_monitor_counts_surges_and_false_alarms(tmp_path: Path) -> None:
    """Surges of a share that is triple a third are all seen; a loose level makes quiet windows alarms."""
    output = tmp_path / "results.json"
    status = monitor.main(["--replays", "2", "--quiet-windows", "20", "--output", str(output)])
    [rows] = measured(output).values()

    assert status == 0
    assert len(monitor.SHARES) == len(rows)
    assert list(rows["30% negative"].values())[:3] == [2, 2, 2]
    assert 1 <= monitor.false_alarms(0.3, 100, monitor.SurgeConfig(alpha=0.5), 20, seed=0) <= 20


@pytest.mark.slow
@pytest.mark.parametrize("surge", ["share", "count"])
def test_the_monitor_sees_surges_and_keeps_quiet(surge: monitor.Surge) -> None:
    """As the page on results says: 100 messages a window, 15 % negative before; the draws are seeded."""
    config = monitor.SurgeConfig()
    delays = [monitor.delay(0.15, 100, config, seed, 0.0, surge) for seed in range(100)]

    assert sum(windows <= 1 for windows in delays) >= 95
    assert monitor.false_alarms(0.15, 100, config, 5_000, seed=0) <= 5


def test_customer_service_is_timed_beside_its_models(
    exported: Checkpoint, tiny_tagger: Checkpoint, tmp_path: Path
) -> None:
    """Over as many messages as asked for."""
    output = tmp_path / "results.json"
    arguments = ["--messages", "150", "--rounds", "1", "--output", str(output)]
    status = service.main([str(exported.path), str(tiny_tagger.path), *arguments])
    rows = measured(output)["150 messages"]

    assert status == 0
    assert rows["classifier.batch, tagger.batch"]["of the models' rate"] == 1
    assert rows["chain.batch"]["messages a second"] > 0


@pytest.mark.slow
def test_memory_of_training_is_measured_in_processes_of_their_own(base_model: Path, tmp_path: Path) -> None:
    """A row for the whole model, which the others are shares of, and one for each adapter."""
    pytest.importorskip("peft")
    output = tmp_path / "results.json"
    status = training.main(
        f"memory --base-model {base_model} --adapters ia3 --steps 2 --batch-size 4 --output {output}".split()
    )

    assert status == 0
    assert list(measured(output)["peak memory of training"]) == ["whole model", "ia3"]


@pytest.mark.slow
def test_few_rows_are_drawn_and_compared(base_model: Path, tmp_path: Path) -> None:
    """With the warm-up, without, and the frozen encoder: an accuracy for each draw, and their mean."""
    pytest.importorskip("sentence_transformers")
    encoder = tmp_path / "encoder"
    shutil.copytree(base_model, encoder)
    (encoder / "modules.json").write_text("[]")
    train, output = str(SAMPLES / "support" / "train.csv"), tmp_path / "results.json"
    status = training.main(
        f"few-shot --base-model {encoder} --train-file {train} --test-file {SUPPORT} --rows 4 --draws 1 "
        f"--output {output}".split()
    )
    table = measured(output)["accuracy from 4 rows a class"]

    assert status == 0
    assert list(table) == ["with --few-shot", "without", "frozen encoder + logistic regression"]
    assert all(row["draw 0"] == row["mean"] for row in table.values())


@pytest.mark.slow
def test_training_is_timed_beside_the_plain_trainer(base_model: Path, tmp_path: Path) -> None:
    """On the same rows and epochs; the exit status says whether ours is faster and no less accurate."""
    train, output = str(SAMPLES / "support" / "train.csv"), tmp_path / "results.json"
    status = training.main(
        f"time {train} --base-model {base_model} --rows 60 --epochs 2 --batch-size 8 --output {output}".split()
    )
    plain, ours = measured(output)["training beside the plain Trainer"].values()

    assert plain["epochs"] == ours["epochs"] == 2
    assert plain["share"] == 1
    assert 0 < plain["s in the Trainer"] < plain["s of the command"]
    assert 0 < ours["s in the Trainer"] < ours["s of the command"]
    assert status == int(ours["share"] > timing.LARGEST_SHARE or ours["accuracy"] < plain["accuracy"])


def test_training_is_timed_on_texts_with_a_label(capsys: pytest.CaptureFixture[str]) -> None:
    """A tagger's file is one line and exit status 2, as is a number of rows, or of moments, that is none."""
    assert training.main(["time", ENTITIES]) == 2
    assert "expected data for text-classification" in capsys.readouterr().err
    assert training.main(["time", SUPPORT, "--rows", "0"]) == 2
    assert "--rows" in capsys.readouterr().err
    assert training.main(["kill", "--moments", "0"]) == 2
    assert "--moments" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_trainings_end_as_the_whole_one(tmp_path: Path) -> None:
    """A row for each moment; it says what was left, and that metrics and weights are the same."""
    output = tmp_path / "results.json"
    status = training.main(f"kill --moments 2 --epochs 2 --output {output}".split())
    rows = measured(output)["SIGKILL and --resume"]

    assert status == 0
    assert len(rows) == 2
    assert all(row["same metrics"] == row["same weights"] == 1 for row in rows.values())


def test_the_stage_of_a_killed_training_shows_in_its_files(tmp_path: Path) -> None:
    """From nothing but its record to the checkpoint in place."""
    output, work = tmp_path / "out", tmp_path / "out.work"
    state, staged = work / "checkpoint-7", tmp_path / ".out.writing-x"
    stages = [interruption.stage_of(output)]
    state.mkdir(parents=True)
    stages.append(interruption.stage_of(output))
    (state / "trainer_state.json").write_text("{}")
    stages.append(interruption.stage_of(output))
    staged.mkdir()
    stages.append(interruption.stage_of(output))
    output.mkdir()
    stages.append(interruption.stage_of(output))

    assert stages == [
        "before the first epoch's end", "saving the state of an epoch", "between epochs' ends",
        "writing the checkpoint", "the checkpoint was in place",
    ]  # fmt: skip


@pytest.mark.slow
def test_quality_keeps_what_is_done(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row a seed; a finished cell is not trained again, one that is missing is."""
    (tmp_path / "data" / "banking77").mkdir(parents=True)
    for name, count in (("train", 40), ("test", 12)):
        rows = [f"{name} {i * 7919 % 1000} {'card' if i % 2 else 'cash'},{i % 2}" for i in range(count)]
        (tmp_path / "data" / "banking77" / f"{name}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    command = f"{tmp_path / 'data'} --sets banking77 --base-model {base_model} --output-dir {tmp_path / 'runs'} --seeds"
    ledger = tmp_path / "runs" / quality.LEDGER

    assert quality.main([*command.split(), "0"]) == 0
    first = quality.finished(ledger)
    assert quality.main([*command.split(), "0", "1"]) == 0
    printed = capsys.readouterr().out

    assert list(first) == ["banking77-0"]
    assert next(iter(quality.finished(ledger).items())) == ("banking77-0", first["banking77-0"])
    assert set(first["banking77-0"]["test"]) == {"accuracy", "macro F1"}
    assert all(name in printed for name in ("| seed 0 |", "| seed 1 |", "| mean |", "| standard deviation |"))


@pytest.mark.slow
def test_going_on_is_measured_beside_training_on_all(base_model: Path, tmp_path: Path) -> None:
    """Old and new classes share no class; the exit status says whether too much was lost."""
    train, output = str(SAMPLES / "support" / "train.csv"), tmp_path / "results.json"
    status = continual.main(
        f"--base-model {base_model} --train-file {train} --test-file {SUPPORT} --old 9 --keep-replay 18 --epochs 1 "
        f"--output {output}".split()
    )
    table = measured(output)["going on with new classes"]
    further, joint = table["went on with the new classes"], table["all rows together"]

    assert table["old classes alone"]["new classes"] is None
    assert status == int(max(joint[part] - further[part] for part in joint) > continual.MOST_LOST)
    old, new = continual.divide([TextExample("a", label) for label in "abcde"], 3)
    assert (len(old), len(new), old & new) == (3, 2, set())


def drawn(folder: Path, base_model: Path, **changed: Any) -> Namespace:
    """Options of the benchmark beside decisionformer."""
    options = {"rows": 3, "calibration_rows": 2, "epochs": 1, "seed": 0, **changed}
    train = str(SAMPLES / "support" / "train.csv")
    return Namespace(train_file=train, base_model=str(base_model), output_dir=folder, **options)


def test_both_decision_models_learn_from_the_same_rows(base_model: Path, tmp_path: Path) -> None:
    """As many of each class, those for calibration apart; a folder of other rows is not gone on with."""
    task = decisionformer.planned(drawn(tmp_path / "out", base_model))
    learnt = {one.text for one in (*task.plan.splits.train, *task.plan.splits.validation)}

    assert len(learnt) == 3 * len(task.labels)
    assert len(task.calibration) == 2 * len(task.labels)
    assert not learnt & {one.text for one in task.calibration}
    assert decisionformer.planned(drawn(tmp_path / "out", base_model)).plan.splits == task.plan.splits
    with pytest.raises(ConfigError, match="--output-dir"):
        decisionformer.planned(drawn(tmp_path / "out", base_model, rows=4))
    with pytest.raises(ConfigError, match="--rows"):
        decisionformer.planned(drawn(tmp_path / "other", base_model, rows=10_000))
    assert not (tmp_path / "other").exists()


def test_decisionformer_is_asked_for_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, with exit status 2, before anything is written."""
    monkeypatch.setitem(sys.modules, "decisionformer", None)
    status = decisionformer.main(
        f"--train-file {SUPPORT} --test-file {SUPPORT} --output-dir {tmp_path / 'out'}".split()
    )

    assert status == 2
    assert "expected decisionformer" in capsys.readouterr().err.lower()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_decisions_are_compared_with_decisionformer(tmp_path: Path) -> None:
    """From one base, each a row in both tables; what is trained is not trained again."""
    pytest.importorskip("langchain_core.decisions")
    pytest.importorskip("decisionformer")
    base, train, output = (
        tiny_base_model(tmp_path / "base", max_length=256),
        SAMPLES / "support" / "train.csv",
        "r.json",
    )
    command = (
        f"--train-file {train} --test-file {SUPPORT} --base-model {base} --output-dir {tmp_path / 'out'} --epochs 1"
    )
    short = f"--rows 4 --test-rows 12 --items 4 --rounds 1 --output {tmp_path / output}"
    first = decisionformer.main([*command.split(), *short.split()])
    tables = measured(tmp_path / output)
    second = decisionformer.main([*command.split(), *short.split()])
    again = measured(tmp_path / output)

    assert first == second == 0
    for rows in tables.values():
        assert list(rows) == [decisionformer.OURS, decisionformer.PEER]
    for name, row in tables["quality"].items():
        assert row["CPU s of training"] > 0
        assert again["quality"][name] == {**row, "CPU s of training": None}
    assert tables["speed"][decisionformer.PEER]["× decisionformer, decide_many"] == 1


@pytest.mark.slow
def test_serving_compares_requests_with_a_batch(tiny_classifier: Checkpoint, tmp_path: Path) -> None:
    """Each way answers all texts; the server is a process that ends with the run."""
    output = tmp_path / "results.json"
    status = serving.main(
        f"{tiny_classifier.path} --texts {SUPPORT} --items 12 --connections 4 --rounds 1 --output {output}".split()
    )

    assert status == 0
    assert len(measured(output)["serving"]) == 4
    assert all(row["texts/s"] > 0 for row in measured(output)["serving"].values())
