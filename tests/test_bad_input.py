"""What cannot be used is refused in one line, before any work, and nothing is lost or half-written."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lc_finetune import CheckpointError, ConfigError, TextClassifier
from lc_finetune.checkpoint import MANIFEST, Checkpoint, refuse_existing
from lc_finetune.cli import main
from lc_finetune.testing import tiny_checkpoint

GOOD = "text,label\n" + "".join(f"secret {word} {i},{word}\n" for i in range(6) for word in ("card", "cash"))
SPANS = [{"text": f"secret Oslo {i}", "entities": [{"start": 7, "end": 11, "label": "LOC"}]} for i in range(12)]


def spans(**wrong: Any) -> str:
    """Rows with spans, the second of them altered."""
    rows: list[Any] = [dict(row) for row in SPANS]
    rows[1] = {**rows[1], **wrong}
    return "\n".join(map(json.dumps, rows))


# File name, content, further options, and what the line must hold. Every text holds the word "secret".
FILES: list[tuple[str, str | bytes, list[str], str]] = [
    ("empty.csv", "", [], "empty.csv: expected rows, found an empty file"),
    ("blank.csv", " \n\n \n", [], "blank.csv: expected rows, found an empty file"),
    ("header.csv", "text,label\n", [], "header.csv: expected labelled rows, found a header alone"),
    ("one.csv", "text,label\nsecret a,x\nsecret b,x\n", [], "one.csv: Expected at least two classes"),
    ("a.csv", GOOD, ["--label-column", "lable"], "a.csv: expected the column 'lable', found text, label. Name yours "
     "with --label-column (did you mean 'label'?)"),
    ("noheader.csv", "my secret card has still not come,card\nsecret,cash\n", [], "found (one of 33 characters), card"),
    ("latin.csv", b"text,label\nsecret,a\nsecret caf\xe9,b\n", [], "latin.csv:3: expected UTF-8, found the byte 0xe9"),
    ("wide.csv", "text,label\nsecret,a\n".encode("utf-16"), [], "wide.csv:1: expected UTF-8, found UTF-16"),
    ("nul.csv", b"text,label\nsecret\0,a\n", [], "nul.csv:2: expected text, found a NUL byte"),
    ("ragged.csv", "text,label\nsecret,a\n\nsecret, more,b\n", [], "ragged.csv:4: expected 2 fields"),
    ("quote.csv", 'text,label\nsecret,a\n"secret,b\n', [], "quote.csv:3: expected a well-formed row"),
    ("stray.csv", 'text,label\n"secret" is,a\n', [], "stray.csv:2: expected a well-formed row"),
    ("semicolons.csv", "text;label\nsecret;a\n", [], "semicolons.csv:1: expected columns separated by a comma, found a "
     "semicolon"),
    ("tabs.csv", "text\tlabel\nsecret\ta\n", [], "Name the file .tsv"),
    ("twice.csv", "text,label,label\nsecret,a,b\n", [], "twice.csv:1: expected every column once, found label"),
    ("unlabelled.csv", "text,label\nsecret,a\nsecret,\nsecret, \n", [], "unlabelled.csv:3: expected a label in every "
     "row, found 2 of 3 rows without one"),
    ("none.csv", "text,label\nsecret,\n", ["--drop-unlabelled"], "found none with a label"),
    ("few.csv", "text,label\nsecret,0\nsecret b,2\n", ["--label-names", "no,yes"], "few.csv:3: expected a label from 0 "
     "to 1, found 2"),
    ("negative.jsonl", '{"text": "secret", "label": -1}\n', ["--label-names", "no,yes"], "negative.jsonl:1: expected "
     "a label from 0 to 1, found -1"),
    ("named.csv", "text,label\nsecret,0\nsecret b,often\n", ["--label-names", "no,yes"], "named.csv:3: expected a "
     "label from 0 to 1 or one of the names, found often"),
    ("fraction.jsonl", '{"text": "secret", "label": 0.5}\n', [], "fraction.jsonl:1: expected a class"),
    ("multi.jsonl", '{"text": "secret", "label": ["a", "b"]}\n', ["--task", "text-classification"], "multi-label"),
    ("single.csv", "text,label\nsecret,a\nsecret b,b\n", ["--task", "multi-label-classification"], "single.csv: "
     "expected rows with several labels, or with none, found exactly one in each. For one label a text leave --task"),
    ("unsure.csv", 'text,label\nsecret,"a, b"\nsecret b,c\n', ["--task", "multi-label-classification"], "unsure.csv: "
     "expected to see what stands between the labels in 'label', found ',' in some cells"),
    ("cut.csv", 'text,label\nsecret,"a, b"\nsecret b,c\n', ["--label-delimiter", ",", "--label-names", "x.txt"],
     "x.txt: expected a file"),
    ("nested.jsonl", '{"text": "secret", "label": [["a"], "b"]}\n', [], "nested.jsonl:1: expected one label, found a "
     "list"),
    ("headed.tsv", "text\tlabel\nsecret\ta\n", ["--text-column", "0", "--label-column", "1"], "headed.tsv:1: expected "
     "no header, since columns are given by number"),
    ("narrow.tsv", "secret\ta\n", ["--text-column", "0", "--label-column", "7"], "narrow.tsv:1: expected the columns "
     "0 and 7, counted from 0, found 2 columns"),
    ("bad.jsonl", '{"text": "secret", "label": "a"}\n{"text": "secret" "label"}\n', [], "bad.jsonl:2: expected JSON"),
    ("bad.json", '[{"text": "secret", "label": "a"},\n{"text": "secret" "label"}]\n', [], "bad.json:2: expected JSON"),
    ("keys.jsonl", '{"text": "secret", "label": "a", "label": "b"}\n', [], "keys.jsonl:1: expected plain JSON rows, "
     "found a key more than once"),
    ("deep.json", "[" * 100_000 + "]" * 100_000, [], "nesting too deep"),
    ("digits.jsonl", '{"text": "secret", "label": ' + "1" * 5000 + "}\n", [], "digits.jsonl:1: expected plain JSON"),
    ("number.jsonl", '{"text": 3, "label": "a"}\n', [], "number.jsonl:1: expected a text in 'text', found a number"),
    ("surrogate.jsonl", '{"text": "secret", "label": "\\ud800"}\n', [], "surrogate.jsonl:1: expected a label of valid"),
    ("unreadable.jsonl", '{"text": "secret", "label": "a"}\n{"text": "\\ud800", "label": "b"}\n', [],
     "unreadable.jsonl: labelled text number 2"),
    ("far.jsonl", spans(entities=[{"start": 7, "end": 99, "label": "LOC"}]), [], "far.jsonl:2: expected an entity "
     "within the text (0 to 13), found 7 to 99"),
    ("backwards.jsonl", spans(entities=[{"start": 9, "end": 7, "label": "LOC"}]), [], "backwards.jsonl:2"),
    ("nameless.jsonl", spans(entities=[{"start": 7, "end": 9, "label": " "}]), [], "nameless.jsonl:2: expected a name"),
    ("noentities.jsonl", spans(entities=None), [], "noentities.jsonl:2: expected 'entities' as a list, found nothing"),
    ("bare.jsonl", spans(entities=[]).splitlines()[1], [], "bare.jsonl: Expected entities in the training rows"),
    ("word.conll", "secret O\nOslo B-LOC\nsecret\n", [], "word.conll:3: expected 2 columns"),
    ("four.conll", "EU NNP B-NP B-ORG\nsecret VBZ B-VP\n", [], "four.conll:2: expected 4 columns"),
    ("tab.conll", "secret\tO\nOslo\t\n", [], "tab.conll:2: expected 2 columns"),
    ("mixed.conll", "secret O\nOslo S-LOC\n\nOslo U-LOC\n", [], ": expected one tagging scheme"),
    ("pos.conll", "secret NN\nis VBZ\n", [], "pos.conll: expected a tag such as O or B-PER"),
    ("plain.txt", "a secret\nwithout tags\n", [], "plain.txt: expected a tag such as O or B-PER"),
    ("a.xml", "<a>secret</a>", [], "a.xml: expected one of"),
    ("broken.parquet", "secret", [], "broken.parquet: expected a Parquet file"),
]  # fmt: skip

OPTIONS: list[tuple[list[str], str]] = [
    (["--train-file", "{tmp}/god.csv"], "god.csv: expected a file, found none there (did you mean 'good.csv'?)"),
    (["--train-file", "{tmp}"], "found a folder"),
    (["--train-file", "{tmp}/good.csv/x.csv"], "x.csv: expected a file"),
    (["--train-file", "{tmp}/pipe.csv"], "pipe.csv: expected a file, found a pipe or a device"),
    (["--train-file", "{tmp}/" + "n" * 300 + ".csv"], "expected a file that can be read"),
    (["--test-file", "{tmp}/nowhere.csv"], "nowhere.csv: expected a file"),
    (["--ouput-dir", "x"], "found '--ouput-dir' (did you mean '--output-dir'?)"),
    (["--epochs", "two"], "epochs"),
    (["--epochs", "-1"], "epochs"),
    (["--epochs"], "--epochs"),
    (["--learning-rate", "nan"], "learning_rate: Input should be a finite number"),
    (["--learning-rate", "-1"], "learning_rate"),
    (["--batch-size", "0"], "batch_size"),
    (["--max-length", "100000"], "max_length: expected at most 64"),
    (["--seed", "-1"], "seed"),
    (["--label-names", "no,,yes"], "label_names: expected a name for every number"),
    (["--label-names", "no,no"], "label_names: expected every name once"),
    (["--task", "summarisation"], "task"),
    (["--task", "regression"], "good.csv:2: expected a number in 'label', found something else"),
    (["--task", "text-classification", "--label-delimiter", ";"], "label_delimiter: expected data for multi-label-"),
    (["--task", "ordinal-classification"], "label_names: expected the order of the labels, found none"),
    (["--task", "token-classification"], "good.csv: expected data for token-classification"),
    (["--config", "{tmp}/typo.yaml"], "typo.yaml: Expected a field of TrainConfig, found 'epcohs' (did you mean "
     "'epochs'?)"),
    (["--config", "{tmp}/inner.yaml"], "inner.yaml: trainer: 'weigth_decay' is no field of TrainingArguments (did you "
     "mean 'weight_decay'?)"),
    (["--config", "{tmp}/type.yaml"], "type.yaml: trainer: weight_decay: Input should be a valid number"),
    (["--config", "{tmp}/list.yaml"], "list.yaml: expected fields of the configuration"),
    (["--config", "{tmp}/broken.yaml"], "broken.yaml:2: expected YAML or JSON"),
    (["--config", "{tmp}/date.yaml"], "date.yaml: expected YAML or JSON"),
    (["--output-dir", "{tmp}/full"], "Expected a new or empty output folder"),
    (["--output-dir", "gss://bucket/model"], "found the scheme 'gss' (did you mean 'gs'?)"),
    (["--report-to", "tensorbord"], "report_to: Input should be 'tensorboard', 'wandb' or 'mlflow'"),
    (["--output-dir", "{tmp}/good.csv"], "found the file"),
    (["--output-dir", "{tmp}/good.csv/out"], "found a file at"),
    (["--output-dir", "{tmp}/dangling"], "found the file"),
    (["--output-dir", "{tmp}/" + "n" * 230], "output_dir: expected a name of at most 200 bytes"),
    (["--output-dir", "{tmp}", "--overwrite"], "apart from what the run reads"),
    (["--output-dir", ".", "--overwrite"], "apart from what the run reads"),
    (["--output-dir", "{tmp}/taken"], "taken.work for the unfinished run, found something else"),
    (["--base-model", "{tmp}/nowhere"], "Expected a base model folder, found none"),
    (["--base-model", "{tmp}/full"], "full: expected a base model, found no config.json"),
    (["--base-model", "{tmp}/base-pickled"], "found only pytorch_model.bin, which is pickled"),
    (["--base-model", "{tmp}/base-no-tokenizer"], "expected a tokenizer, found no tokenizer.json"),
    (["--base-model", "{tmp}/base-own-code"], "expected a model_type that transformers knows, found homemade"),
    (["--base-model", "{tmp}/base-no-json"], "base-no-json/config.json: expected JSON"),
    (["--base-model", "{tmp}/base-truncated"], "the base model cannot be loaded"),
    (["--base-model", "{tmp}/base-small"], "expected a tokenizer of at most 10 pieces"),
]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, base_model: Path) -> Path:
    """A folder with one good file, and everything that the options above name."""
    (tmp_path / "good.csv").write_text(GOOD)
    os.mkfifo(tmp_path / "pipe.csv")
    for name, content in {
        "typo": "epcohs: 3", "inner": "trainer: {weigth_decay: 0.1}", "type": "trainer: {weight_decay: heavy}",
        "list": "- epochs", "broken": "seed: 3\n\t- [", "date": "seed: 2024-13-45",
    }.items():  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(content)
    for folder in ("full", "taken.work"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.txt").write_text("keep")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, spoil in SPOILED.items():
        folder = tmp_path / f"base-{name}"
        folder.mkdir()
        for path in base_model.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        spoil(folder)
    return tmp_path


def _in_config(**fields: Any) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return spoil


SPOILED: dict[str, Callable[[Path], Any]] = {
    "pickled": lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
    "no-tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "own-code": _in_config(model_type="homemade", auto_map={"AutoConfig": "code.Config"}),
    "no-json": lambda folder: (folder / "config.json").write_text("{"),
    "truncated": lambda folder: os.truncate(folder / "model.safetensors", 1000),
    "small": _in_config(vocab_size=10),
}


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command; its one line."""
    assert main(["train", *given]) == 2
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1
    assert err.startswith("lc-finetune: error: ")
    assert "secret" not in out + err
    return err


@pytest.mark.parametrize(("name", "content", "more", "expected"), FILES, ids=[case[0] for case in FILES])
def test_a_file_that_cannot_be_used(
    name: str, content: str | bytes, more: list[str], expected: str, base_model: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Names the file, the line if there is one, and the remedy; quotes no text; writes nothing."""
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = snapshot(tmp_path)
    basic = ["--base-model", str(base_model), "--output-dir", str(tmp_path / "out"), "--epochs", "1"]

    assert expected in refused([*basic, "--train-file", str(tmp_path / name), *more], capsys)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(("wrong", "expected"), OPTIONS, ids=[" ".join(case[0])[:40] for case in OPTIONS])
def test_an_option_that_cannot_be_used(
    wrong: list[str], expected: str, base_model: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names the option or the place, with a guess where there is one; writes and deletes nothing."""
    before = snapshot(place)
    basic = ["--base-model", str(base_model), "--train-file", str(place / "good.csv"), "--epochs", "1"]
    given = [part.replace("{tmp}", str(place)) for part in wrong]

    assert expected in refused([*basic, "--output-dir", str(place / "out"), *given], capsys)
    assert snapshot(place) == before


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda folder: os.truncate(folder / "model.safetensors", 1000), "model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{}"), "config.json"),
        (SPOILED["pickled"], "pickled"),
    ],
    ids=["missing", "truncated", "altered", "pickled"],
)
def test_a_checkpoint_that_cannot_be_used(
    fault: Callable[[Path], Any], words: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with the file, and no output."""
    folder = tiny_checkpoint(tmp_path / "checkpoint").path
    fault(folder)
    given = [str(folder), "--input", str(place / "good.csv"), "--output", str(tmp_path / "answers.csv")]

    assert main(["predict", *given]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("lc-finetune: error: ")
    assert words in error
    assert not (tmp_path / "answers.csv").exists()


def test_a_mount_point_is_no_output_folder() -> None:
    """It cannot be renamed into, which would show only after training."""
    with pytest.raises(ConfigError, match="mount point"):
        refuse_existing(Path("/"), overwrite=True)


COMMAND = [sys.executable, "-m", "lc_finetune.train"]


def test_a_refusal_in_a_process_of_its_own(base_model: Path, tmp_path: Path) -> None:
    """Status 2, one line on stderr, nothing on stdout; a line break in a name does not make it two."""
    path = tmp_path / "a\nb.csv"
    path.write_text("text,label\nsecret\n")
    basic = ["--base-model", str(base_model), "--output-dir", str(tmp_path / "out")]
    done = subprocess.run([*COMMAND, *basic, "--train-file", str(path)], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert os.listdir(tmp_path) == [path.name]


LIMITED = """
import resource, sys
from lc_finetune.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(["train", *sys.argv[2:]]))
"""


@pytest.mark.slow
def test_a_disk_that_fills_up(base_model: Path, tmp_path: Path) -> None:
    """No file may grow past a limit: one line, nothing under the final name; with room again, --resume finishes."""
    (tmp_path / "good.csv").write_text(GOOD)
    basic = ["--base-model", str(base_model), "--train-file", str(tmp_path / "good.csv"), "--epochs", "1",
             "--output-dir", str(tmp_path / "out"), "--no-baseline"]  # fmt: skip
    small, large = 20_000, 1 << 30
    limited = [sys.executable, "-c", LIMITED]
    full = subprocess.run([*limited, str(small), *basic], capture_output=True, text=True, check=False)
    kept = sorted(os.listdir(tmp_path))
    again = subprocess.run([*limited, str(large), *basic, "--resume"], capture_output=True, check=False)

    assert full.returncode == 2
    assert [
        line for line in full.stderr.splitlines() if line.startswith("lc-finetune: error: Expected room on the disk")
    ]
    assert "Traceback" not in full.stderr
    assert kept == ["good.csv", "out.work"]
    assert again.returncode == 0
    assert sorted(os.listdir(tmp_path)) == ["good.csv", "out"]


WRITE = """
import pathlib, sys, time
from lc_finetune.checkpoint import staged_folder
with staged_folder(pathlib.Path(sys.argv[1]), overwrite=True) as staging:
    (staging / "model.safetensors").write_bytes(b"half")
    print("half", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(("sent", "left"), [(signal.SIGKILL, True), (signal.SIGINT, False)])
def test_a_folder_killed_while_it_is_written(tmp_path: Path, sent: signal.Signals, left: bool) -> None:
    """Never has the final name, and the one that was there is whole; after Ctrl-C nothing is left over at all."""
    old = tiny_checkpoint(tmp_path / "out")
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(old.path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"half\n"
    writer.send_signal(sent)
    writer.wait(60)
    writer.stdout.close()

    assert Checkpoint.load(tmp_path / "out").digest == old.digest
    assert left == any(name.startswith(".out.writing-") for name in os.listdir(tmp_path))


def _in_manifest(**fields: Any) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        path = folder / MANIFEST
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (_in_manifest(files={"../secret.json": "0" * 64}), "plain file names"),
        (_in_manifest(files={"/etc/hostname": "0" * 64}), "plain file names"),
        (_in_manifest(files={}), "would be loaded unchecked"),
        (_in_manifest(task="summarization"), "'task'"),
        (_in_manifest(surprise=1), "'surprise'"),
        (_in_manifest(format_version="1"), "format version"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "expected a JSON object"),
        (lambda folder: (folder / MANIFEST).write_text("[" * 100_000), "expected JSON"),
        (lambda folder: (folder / "vocab.txt").write_text("x"), r"vocab\.txt as well"),
    ],
)
def test_a_manifest_that_cannot_be_right(spoil: Callable[[Path], Any], expected: str, tmp_path: Path) -> None:
    """Nothing outside the folder is ever read, and nothing in it unchecked."""
    folder = tiny_checkpoint(tmp_path / "out").path
    spoil(folder)

    with pytest.raises(CheckpointError, match=expected):
        Checkpoint.load(folder)


@pytest.mark.parametrize(
    "id2label", [None, {}, ["a", "b"], {"a": "b"}, {"0": 1, "1": 2}, {"0": "a", "2": "b"}, {"0": "a", "1": "a"}]
)
def test_label_names_that_cannot_be_right(id2label: Any, tmp_path: Path) -> None:
    """In a plain folder, whose configuration nobody vouches for."""
    folder = tiny_checkpoint(tmp_path / "out").path
    (folder / MANIFEST).unlink()
    _in_config(id2label=id2label)(folder)

    with pytest.raises(CheckpointError, match=r"config\.json"):
        Checkpoint.load(folder)


def test_code_in_a_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is anybody asked whether it should be."""
    folder = tiny_checkpoint(tmp_path / "out").path
    (folder / MANIFEST).unlink()
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\nfrom transformers import BertConfig as Own\n")
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForSequenceClassification": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | own))
    monkeypatch.setattr("builtins.input", lambda *_: "y")

    with pytest.raises(CheckpointError, match="cannot be loaded"):
        TextClassifier.from_checkpoint(folder, device="cpu")
    assert not ran.exists()


def test_plain_weights_that_are_truncated(tmp_path: Path) -> None:
    """Without a manifest there is no digest to compare, but the file is refused all the same."""
    folder = tiny_checkpoint(tmp_path / "out").path
    (folder / MANIFEST).unlink()
    os.truncate(folder / "model.safetensors", 1000)

    with pytest.raises(CheckpointError, match="cannot be loaded"):
        TextClassifier.from_checkpoint(folder, device="cpu")


FROZEN = Path(__file__).parent / "data" / "format-1"


def test_a_folder_of_format_1_loads_and_answers_as_recorded() -> None:
    """A frozen example: what was written once stays readable."""
    recorded = json.loads((FROZEN / "answers.json").read_text())
    classifier = TextClassifier.from_checkpoint(FROZEN / "checkpoint", device="cpu")

    for text, label in recorded.items():
        assert classifier.invoke(text).label == label
