"""Files of texts in, the same rows with a language model's labels out, those without a label apart."""

import csv
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lc_finetune.bulk import LabelConfig, Progress, label_file
from lc_finetune.bulk import label as stage
from lc_finetune.checkpoint import Checkpoint
from lc_finetune.cli import main
from lc_finetune.data import read_examples
from lc_finetune.errors import ConfigError
from lc_finetune.testing import tiny_checkpoint

MODELS = """
import json, os
from langchain_core.language_models import SimpleChatModel
from langchain_core.runnables import RunnableLambda


class Chat(SimpleChatModel):
    @property
    def _llm_type(self):
        return "chat"

    def _call(self, messages, stop=None, run_manager=None, **kwargs):
        text = messages[-1].text
        with open("asked.jsonl", "a") as file:
            file.write(json.dumps(text) + "\\n")
        if "fail" in text:
            raise TimeoutError("too\\tlate\\n" + text)
        return "no label at all" if "odd" in text else "It is *Cash*." if "money" in text else "card"


def refuse(text):
    raise PermissionError("no key")


def kill(text):
    if os.path.exists("kill") and "kill" in text:
        os.kill(os.getpid(), 9)
    return "card"


chat = Chat()
down = RunnableLambda(refuse)
deadly = RunnableLambda(kill)
number = 3


class models:
    chat = chat
"""

SMALL_BATCHES = """
from lc_finetune.bulk import label, work
from lc_finetune.cli import main
label.LABEL_ROWS, work.COMMIT_SECONDS = 4, 0.0
main(["label", "a.csv", "--output", "b.csv", "--with", "lc_label_models:deadly", "--labels", "card,cash"])
"""
PATHS = {"PYTHONPATH": str(Path(__file__).parent.parent)}


class Stop(Exception):
    """Stands for whatever stops a run."""


def stopper(rows: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.rows >= rows:
            raise Stop

    return report


def write(path: Path, content: str) -> Path:
    path.write_bytes(content.encode())
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """What other readers make of an output; of CSV, all strings."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()  # type: ignore[no-any-return]
    lines = path.read_text().splitlines()
    return list(csv.DictReader(lines)) if path.suffix == ".csv" else [json.loads(line) for line in lines]


def leftovers(output: Path) -> list[str]:
    return sorted(name for name in os.listdir(output.parent) if ".part" in name)


ROWS = ("where is it", "my money", "odd one", "", "please fail", "again money")
Label = Callable[..., Progress]


@pytest.fixture
def label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Label:
    """`label_file` in a folder with a module of models."""
    write(tmp_path / "lc_label_models.py", MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(source: str, output: str, **options: Any) -> Progress:
        report = options.pop("report", None)
        given = {"model": "lc_label_models:chat", "labels": ("card", "cash"), **options}
        return label_file(LabelConfig(input=Path(source), output=Path(output), **given), report=report)

    return run


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of four rows, each recorded at once."""
    monkeypatch.setattr(stage, "LABEL_ROWS", 4)
    monkeypatch.setattr("lc_finetune.bulk.work.COMMIT_SECONDS", 0.0)


def table(path: Path, texts: tuple[Any, ...] = ROWS) -> Path:
    """A file of these texts, each with a number."""
    rows = [{"id": i, "text": text} for i, text in enumerate(texts)]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=5)
    elif path.suffix == ".jsonl":
        write(path, "".join(json.dumps(row) + "\n" for row in rows))
    else:
        delimiter = "," if path.suffix == ".csv" else "\t"
        write(path, f"id{delimiter}text\n" + "".join(f"{row['id']}{delimiter}{row['text']}\n" for row in rows))
    return path


def asked() -> list[str]:
    return [json.loads(line) for line in Path("asked.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_labelled_rows_are_what_training_reads_and_the_others_are_kept_apart(label: Label, kind: str) -> None:
    """Their own columns stay; each row is in one of the two files, with its label or its reason."""
    source = table(Path(f"a.{kind}"))
    source.chmod(0o640)
    done = label(str(source), f"b.{kind}")
    examples: Any = read_examples(f"b.{kind}").examples

    assert [(example.text, example.label) for example in examples] == [
        ("where is it", "card"),
        ("my money", "cash"),
        ("again money", "cash"),
    ]
    assert (done.rows, done.errors, done.share) == (6, 3, 1.0)
    for name in (f"b.{kind}", f"b.unlabelled.{kind}"):
        assert stat.S_IMODE(os.stat(name).st_mode) == 0o640
    if kind != "tsv":
        rows, others = read(Path(f"b.{kind}")), read(Path(f"b.unlabelled.{kind}"))
        assert [list(rows[0]), list(others[0])] == [["id", "text", "label"], ["id", "text", "error"]]
        assert [int(row["id"]) for row in (*rows, *others)] == [0, 1, 5, 2, 3, 4]
        assert [
            words
            for row in others
            for words in ("exactly one of the labels", "blank", "too late please fail")
            if words in row["error"]
        ] == ["exactly one of the labels", "blank", "too late please fail"]


def test_blank_rows_and_those_without_a_text_are_not_asked_about(label: Label) -> None:
    """A model would make a label up, which would be learned."""
    done = label(str(table(Path("a.jsonl"), ("where", " ", None, 7))), "b.jsonl")

    assert done.errors == 3
    assert asked() == ["where"]


def test_without_failures_there_is_no_file_of_them(label: Label) -> None:
    """Nor one of an earlier run that was replaced."""
    label(str(table(Path("a.csv"))), "b.csv")
    done = label(str(table(Path("c.csv"), ("x", "y"))), "b.csv", overwrite=True)

    assert done.errors == 0
    assert leftovers(Path("b.csv")) == []
    assert not Path("b.unlabelled.csv").exists()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_file_without_rows_gives_one_without_rows(label: Label, kind: str) -> None:
    """The columns are there."""
    source = Path(f"a.{kind}")
    if kind == "parquet":
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), source)
    else:
        write(source, "" if kind == "jsonl" else "text\n")

    assert label(str(source), f"b.{kind}").rows == 0
    assert read(Path(f"b.{kind}")) == []


def test_labels_come_from_a_checkpoint_too(label: Label, tiny_classifier: Checkpoint, tiny_tagger: Checkpoint) -> None:
    """Those that it answers; a tagger has none to give."""
    label(str(table(Path("a.csv"))), "b.csv", labels=(), checkpoint=str(tiny_classifier.path))

    assert [row["label"] for row in read(Path("b.csv"))] == ["card", "cash", "cash"]
    ordered = tiny_checkpoint(Path("ordered"), task="ordinal-classification", labels=("cash", "card"))
    label("a.csv", "d.csv", labels=(), checkpoint=str(ordered.path))
    assert [row["label"] for row in read(Path("d.csv"))] == ["card", "cash", "cash"]
    for options in ({"labels": ()}, {"checkpoint": str(tiny_classifier.path)}):
        with pytest.raises(ConfigError, match="--labels or from --checkpoint"):
            label("a.csv", "c.csv", **options)
    with pytest.raises(Exception, match="expected a text classifier"):
        label("a.csv", "c.csv", labels=(), checkpoint=str(tiny_tagger.path))


# Being stopped.


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_stopped_after_every_batch_it_ends_with_the_same_bytes(label: Label, kind: str) -> None:
    """No row is lost, doubled or asked about twice."""
    source, texts = f"a.{kind}", tuple(f"{ROWS[i % 6]} {i}" for i in range(22))
    table(Path(source), texts)
    whole = label(source, f"whole.{kind}")
    Path("asked.jsonl").unlink()
    for rows in range(4, 22, 4):
        with pytest.raises(Stop):
            label(source, f"b.{kind}", report=stopper(rows))
    done = label(source, f"b.{kind}")

    assert (done.rows, done.errors, done.resumed) == (22, whole.errors, 20)
    for name in (f".{kind}", f".unlabelled.{kind}"):
        assert Path(f"whole{name}").read_bytes() == Path(f"b{name}").read_bytes()
    assert sorted(asked()) == sorted(text for text in texts if text.strip())
    assert leftovers(Path(f"b.{kind}")) == []


@pytest.mark.usefixtures("small_batches")
def test_killed_between_two_answers_it_goes_on(label: Label) -> None:
    """SIGKILL in the middle of a batch; only that batch is asked about again."""
    table(Path("a.csv"), tuple("kill me" if i == 10 else f"text {i}" for i in range(20)))
    write(Path("kill"), "")
    killed = subprocess.run([sys.executable, "-c", SMALL_BATCHES], env={**os.environ, **PATHS})

    assert killed.returncode == -signal.SIGKILL
    Path("kill").unlink()
    assert label("a.csv", "b.csv", model="lc_label_models:deadly").resumed == 8
    assert list(range(20)) == [int(row["id"]) for row in read(Path("b.csv"))]


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_stopped_while_it_finishes_it_finishes(
    label: Label, kind: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any of the renamings and removals at the end."""
    source = str(table(Path(f"a.{kind}")))
    label(source, f"whole.{kind}")
    calls = 0

    def stopping(original: Any) -> Any:
        def step_or_stop(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            if "b." in str(args[0]) and not str(args[0]).rpartition("/")[2].startswith(".b."):
                calls += 1
                if calls == step + 1:
                    raise Stop
            return original(*args, **kwargs)

        return step_or_stop

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopping(os.replace))
        patch.setattr(Path, "unlink", stopping(Path.unlink))
        with pytest.raises(Stop):
            label(source, f"b.{kind}")
    done = label(source, f"b.{kind}")

    assert (done.rows, done.errors) == (6, 3)
    for name in (f".{kind}", f".unlabelled.{kind}"):
        assert Path(f"whole{name}").read_bytes() == Path(f"b{name}").read_bytes()
    assert leftovers(Path(f"b.{kind}")) == []


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize(
    ("options", "named"),
    [({"labels": ("card", "cash", "more")}, "labels"), ({"model": "lc_label_models:deadly"}, "model")],
)
def test_another_model_or_label_set_is_named(label: Label, options: dict[str, Any], named: str) -> None:
    """What was begun is gone on with by the same command only."""
    source = str(table(Path("a.csv"), tuple(f"text {i}" for i in range(9))))
    with pytest.raises(Stop):
        label(source, "b.csv", report=stopper(4))

    with pytest.raises(ConfigError, match=f"another {named}"):
        label(source, "b.csv", **options)


@pytest.mark.parametrize("rows", [1, 9])
def test_a_model_that_never_answers_ends_the_run(label: Label, rows: int) -> None:
    """Rather than that a whole file is called unlabelled; the same command goes on when it answers again."""
    table(Path("a.csv"), tuple(f"text {i}" for i in range(rows)))

    with pytest.raises(ConfigError, match=rf"all {rows} questions of a batch failed.*PermissionError.*goes on"):
        label("a.csv", "b.csv", model="lc_label_models:down")
    assert not Path("b.csv").exists()


@pytest.mark.usefixtures("small_batches")
def test_a_last_row_that_is_never_answered_does_not_hold_the_others_up(label: Label) -> None:
    """The model has answered before: in this run, or in the one that this one goes on with."""
    source = str(table(Path("a.csv"), ("a", "b", "c", "d", "please fail")))
    with pytest.raises(Stop):
        label(source, "b.csv", report=stopper(4))
    done = label(source, "b.csv")

    assert (done.rows, done.resumed, done.errors) == (5, 4, 1)


def test_an_earlier_file_of_failures_is_not_replaced_unasked(label: Label) -> None:
    """Nothing is left behind by the refusal."""
    table(Path("a.csv"))
    write(Path("b.unlabelled.csv"), "mine")

    with pytest.raises(ConfigError, match=r"b\.unlabelled\.csv: expected no such file yet"):
        label("a.csv", "b.csv")
    assert Path("b.unlabelled.csv").read_text() == "mine"
    assert leftovers(Path("b.csv")) == []


# The command.


def test_the_command_counts_and_names_the_file_of_failures(label: Label, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stdout; --quiet has none."""
    table(Path("a.csv"))
    chosen = ["--with", "lc_label_models:models.chat", "--labels", "card,cash", "--max-concurrency", "1"]
    basic = ["label", "a.csv", *chosen, "--output"]

    assert main([*basic, "b.csv"]) == 0
    assert capsys.readouterr().out == "b.csv: 3 of 6 rows labelled; 3 without a label are in b.unlabelled.csv.\n"
    assert asked() == [text for text in ROWS if text]
    assert main([*basic, "c.csv", "--quiet"]) == 0
    assert tuple(capsys.readouterr()) == ("", "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--with", "lc_label_models"], "Expected MODULE:RUNNABLE"),
        (["--with", "lc_label_models:"], "Expected MODULE:RUNNABLE"),
        (["--with", "no_such_module:chat"], "ModuleNotFoundError"),
        (["--with", "broken:chat"], "ZeroDivisionError"),
        (["--with", "lc_label_models:chatt"], "did you mean 'chat'"),
        (["--with", "lc_label_models:number"], "expected a Runnable, found int"),
        (["--with", "lc_label_models:Chat"], "expected a Runnable, found ModelMetaclass"),
        (["--labels", "a,,b"], "a blank one"),
        (["--labels", "a,a"], "once"),
        (["--labels", ""], "neither"),
        (["--max-concurrency", "0"], "1 or more"),
        (["--max-concurrency", "many"], "invalid int value"),
        (["--output", "a.csv"], "same file"),
        (["--output", "b.xlsx"], ".parquet"),
        (["--text-column", "txt"], "did you mean 'text'"),
        (["--lables", "a"], "did you mean '--labels'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    label: Label, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never a traceback, and nothing is left behind."""
    table(Path("a.csv"))
    write(Path("broken.py"), "1 / 0")
    shutil.rmtree("__pycache__", ignore_errors=True)
    before = sorted(os.listdir())
    options = {
        "--with": "lc_label_models:chat",
        "--labels": "card,cash",
        "--output": "b.csv",
        arguments[0]: arguments[1],
    }

    assert main(["label", "a.csv", *(word for option in options.items() for word in option)]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert len(message.splitlines()) == 1
    shutil.rmtree("__pycache__", ignore_errors=True)
    assert before == sorted(os.listdir())
