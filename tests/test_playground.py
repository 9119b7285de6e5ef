"""A page on which a checkpoint is tried and corrected, used as a person does."""

import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lc_finetune import Checkpoint, ConfigError, InputError
from lc_finetune.checkpoint import JOINT, ORDINAL, QUESTIONS, RELATIONS, RUNNABLES, Task
from lc_finetune.cli import main
from lc_finetune.data import (
    Example,
    IntentExample,
    MultiLabelExample,
    PairExample,
    QuestionExample,
    ReadOptions,
    RegressionExample,
    RelationExample,
    TaggedExample,
    TextExample,
    read_examples,
)
from lc_finetune.evaluation.corrections import row_of
from lc_finetune.labels import Span
from lc_finetune.playground import PlaygroundConfig
from lc_finetune.playground.form import FIELDS, KEYS, Form
from lc_finetune.rendering import to_html
from lc_finetune.schemas import Entity, QuestionAnswer, Tagging
from lc_finetune.serving.listening import listener
from lc_finetune.serving.models import Runtime, Served
from lc_finetune.testing import tiny_checkpoint
from tests.chromium import BROWSER, Tab, tab

gr = pytest.importorskip("gradio")

from lc_finetune.playground import page, server  # noqa: E402  # they need it
from lc_finetune.playground.page import Steps, create_page, told  # noqa: E402

SECRET = "my secret text of five words"
TEXT = "Ann flew to Oslo. Then Ann left."
ENTITIES = [["Ann", "PER", "23"], ["Oslo", "LOC", ""], ["", "", ""], ["", None, ""]]
SPANS = (Span(12, 16, "LOC"), Span(23, 26, "PER"))
CORRECTIONS: dict[Task, tuple[tuple[str, ...], list[Any], Example]] = {
    "text-classification": ((TEXT,), ["cash"], TextExample(TEXT, "cash")),
    "text-pair-classification": ((TEXT, "b"), ["cash"], PairExample(TEXT, "cash", "b")),
    ORDINAL: ((TEXT,), ["low"], TextExample(TEXT, "low")),
    "multi-label-classification": ((TEXT,), [["other", "card"]], MultiLabelExample(TEXT, ("card", "other"))),
    "regression": ((TEXT,), [-2.5], RegressionExample(TEXT, -2.5)),
    "token-classification": ((TEXT,), [ENTITIES], TaggedExample(TEXT, SPANS)),
    JOINT: ((TEXT,), ["cash", ENTITIES], IntentExample(TEXT, "cash", SPANS)),
    RELATIONS: (("<e1>Ann</e1> left <e2>it</e2>",), ["cash"], RelationExample("Ann left it", "cash", (0, 3), (9, 11))),
    QUESTIONS: (("Where?", TEXT), [[["Oslo ", ""], ["", ""]]], QuestionExample("Where?", TEXT, ((12, 16),))),
}


def steps_for(checkpoint: Checkpoint, corrections: Path, *, most: int = 1_000) -> Steps:
    return Steps(Served.load(checkpoint, Runtime("cpu")), Form.of(checkpoint), corrections, most)


@pytest.fixture(scope="module")
def tagger(checkpoints: Path) -> Checkpoint:
    return tiny_checkpoint(checkpoints / "played-tagger", task="token-classification", labels=("LOC", "PER"))


# Corrections.


def test_every_task_can_be_corrected() -> None:
    """None is left out."""
    assert set(FIELDS) == set(KEYS) == set(CORRECTIONS) == set(RUNNABLES)


@pytest.mark.parametrize("task", CORRECTIONS)
def test_a_correction_is_a_row_that_training_reads(task: Task, tmp_path: Path) -> None:
    """With what the model said beside it; a second one follows, in a file of its owner alone."""
    labels = {ORDINAL: ("low", "high"), "token-classification": ("LOC", "PER")}.get(task)
    steps = steps_for(tiny_checkpoint(tmp_path / "c", task=task, labels=labels, max_length=64), tmp_path / "rows.jsonl")
    texts, values, example = CORRECTIONS[task]
    answered = steps.answer(*texts)
    steps.correct(answered, texts, tuple(values))
    steps.correct(answered, texts, tuple(steps.form.filled(answered.result)))
    read = read_examples(steps.corrections, ReadOptions(task=task))
    rows = [json.loads(line) for line in steps.corrections.read_text().splitlines()]

    assert read.task == task
    assert read.examples == (example, steps.form.corrected(answered.result, steps.form.filled(answered.result)))
    assert tuple(row_of(example)) == KEYS[task]
    assert rows[0]["predicted"] == rows[1]["predicted"]
    assert stat.S_IMODE(steps.corrections.stat().st_mode) == 0o600
    server.check_corrections(steps.corrections, task)


def tagged(text: str) -> Tagging:
    return Tagging(text=text, entities=(Entity(label="PER", text=text[:3], start=0, end=3),))


FORM = Form("token-classification", (), ("LOC", "PER"))


def test_words_are_found_where_they_stand() -> None:
    """Without the space around them; the start tells equal words apart, and is not needed for others."""
    rows = [["  Ann ", "PER", "23"], ["Oslo", "LOC", "999"], ["flew to", " LOC ", ""]]

    assert FORM.corrected(tagged(TEXT), [rows]) == TaggedExample(
        TEXT, (Span(4, 11, "LOC"), Span(12, 16, "LOC"), Span(23, 26, "PER"))
    )
    assert FORM.corrected(tagged("a\nb 😀c"), [[["a\nb", "PER", ""], ["😀", "LOC", ""]]]) == TaggedExample(
        "a\nb 😀c", (Span(0, 3, "PER"), Span(4, 5, "LOC"))
    )


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([["Bob", "PER", ""]], "Row 1: expected words of the text, found others"),
        ([["", "", ""], [" ", "PER", ""]], "Row 2: expected words of the text, found none"),
        ([["Ann", "PER", ""]], r"Row 1: .* which of 2 equal words is meant, found none. They start at 0, 23"),
        ([["Ann", "PER", "1"]], r"Row 1: .* found another. They start at 0, 23"),
        ([["Oslo", "", ""]], r"Row 1: expected a type \(LOC, PER\), found none"),
        ([["Oslo", "LOK", ""]], r"Row 1: .* found another \(did you mean 'LOC'\?\)"),
        ([["to Oslo", "LOC", ""], ["Oslo", "PER", ""]], "Row 1 and row 2 overlap"),
        ([["Oslo", "LOC", ""], ["Oslo", "LOC", ""]], "Row 1 and row 2 overlap"),
        ([["Oslo", "LOC", "", "x"]], "Row 1: expected 3 columns, found 4"),
    ],
)
def test_a_row_that_would_be_lost_is_refused(rows: list[list[str]], says: str) -> None:
    """By its number, without a word of the text."""
    with pytest.raises(InputError, match=says) as refused:
        FORM.corrected(tagged(TEXT), [rows])
    assert "Ann" not in str(refused.value)
    assert "Bob" not in str(refused.value)


def test_an_answer_may_be_none() -> None:
    """Of a question that the context does not answer; one that is given twice counts once."""
    form = Form(QUESTIONS, (), ())
    result = QuestionAnswer(text=TEXT, question="Where?", answer="Oslo", start=12, end=16)

    assert form.corrected(result, [[["", ""]]]) == QuestionExample("Where?", TEXT, ())
    assert form.corrected(result, [form.filled(result)[0] * 2]) == QuestionExample("Where?", TEXT, ((12, 16),))


@pytest.mark.parametrize("value", [None, "", "unheard of"])
def test_a_label_that_is_none_is_refused(value: Any) -> None:
    """As one that was taken out is."""
    with pytest.raises(InputError, match="Expected a label of the checkpoint"):
        Form("text-classification", ("a", "b"), ()).corrected(tagged(TEXT), [value])


@pytest.mark.parametrize("value", [None, float("nan"), "3"])
def test_a_number_that_is_none_is_refused(value: Any) -> None:
    """Nothing is taken for 0."""
    with pytest.raises(InputError, match="Expected a number"):
        Form("regression", (), ()).corrected(tagged(TEXT), [value])


def test_texts_that_cannot_be_asked_about_are_refused(tiny_classifier: Checkpoint, tmp_path: Path) -> None:
    """Blank ones, and longer ones than is allowed, of which nothing is cut off."""
    steps = steps_for(tiny_classifier, tmp_path / "rows.jsonl", most=10)
    for text, says in ((" \n", "expected a text"), ("x" * 11, "at most 10 characters, found 11")):
        with pytest.raises(InputError, match=says):
            steps.answer(text)


def test_what_was_not_answered_cannot_be_corrected(tiny_classifier: Checkpoint, tmp_path: Path) -> None:
    """A text that was changed since has an answer of its own."""
    steps = steps_for(tiny_classifier, tmp_path / "rows.jsonl")
    for answered in (None, steps.answer("one text")):
        with pytest.raises(InputError, match="Ask for an answer first"):
            steps.correct(answered, ("another",), ("cash",))
    assert not steps.corrections.exists()


def test_a_file_that_cannot_be_written_is_said(tiny_classifier: Checkpoint, tmp_path: Path) -> None:
    """The correction is not lost without a word."""
    steps = steps_for(tiny_classifier, tmp_path / "gone" / "rows.jsonl")

    with pytest.raises(ConfigError, match="The correction is not saved"):
        steps.correct(steps.answer(TEXT), (TEXT,), ("cash",))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.csv", "", "a .jsonl file"),
        ("none/rows.jsonl", "", "a folder that exists"),
        ("rows.jsonl", '{"utterance": "a", "intent": "b"}\n', "rows without text"),
        ("rows.jsonl", '{"text": "a", "labels": ["b", "c"]}\n', "found others"),
        ("rows.jsonl", '{"text": "a", "label": "b"}\n{', "found others"),
    ],
)
def test_a_file_of_other_rows_is_left_alone(name: str, content: str, says: str, tmp_path: Path) -> None:
    """Before anything is loaded."""
    path = tmp_path / name
    if content:
        path.write_text(content)
    with pytest.raises(ConfigError, match=says):
        server.check_corrections(path, "text-classification")


def test_what_no_row_can_be_added_to_is_refused(tmp_path: Path) -> None:
    """A folder, and a link, which may lead anywhere."""
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    for name, says in (("folder.jsonl", "found a folder"), ("link.jsonl", "found a link")):
        with pytest.raises(ConfigError, match=says):
            server.check_corrections(tmp_path / name, "regression")


# The page.


def config_of(checkpoint: Checkpoint, corrections: Path) -> PlaygroundConfig:
    return PlaygroundConfig(checkpoint=str(checkpoint.path), corrections=corrections, device="cpu")


@contextmanager
def opened(app: FastAPI) -> Iterator[str]:
    """Serve the page on a free port; its address."""
    with listener("127.0.0.1", 0, beyond=False) as bound:
        served = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=served.run, kwargs={"sockets": [bound]})
        thread.start()
        while not served.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}/"
        finally:
            served.should_exit = True
            thread.join(60)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with tab(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def press(seen: Tab, name: str) -> None:
    """Press a button by its name."""
    found = f"[...document.querySelectorAll('button')].find(one => one.innerText.trim().startsWith({json.dumps(name)}))"
    seen.until(found)
    seen.js(f"{found}.click()")


def choose(seen: Tab, name: str, option: str) -> None:
    """Choose an option of a list by its name, and wait until it is chosen."""
    box = f"document.querySelector('input[aria-label={name}]')"
    seen.until(box)
    seen.js(f"{box}.focus()")
    found = f"[...document.querySelectorAll('[role=option]')].find(one => one.innerText.includes({json.dumps(option)}))"
    seen.until(found)
    seen.js(f"{found}.dispatchEvent(new MouseEvent('mousedown', {{bubbles: true}}))")
    seen.until(f"{box}.value === {json.dumps(option)}")


def asked(seen: Tab, address: str, text: str) -> None:
    """Open the page, and ask about a text."""
    seen.open(address)
    seen.type("textarea", text)
    press(seen, "Answer")
    seen.until("document.querySelector('#answer strong')")


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
def test_a_label_is_seen_explained_and_corrected(
    tiny_classifier: Checkpoint, tmp_path: Path, browser: Tab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hostile text is shown and kept as it is; the page asks nothing of elsewhere, nor does what serves it."""
    hosts: list[Any] = []
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *more, **by: hosts.append(host) or resolve(host, *more, **by)
    )
    rows = tmp_path / "rows.jsonl"
    hostile = "<img src=x onerror='document.title = 1'>\n${document.title = 2} {{value}} where is my card 😀"
    browser.requests.clear()
    browser.console.clear()
    with opened(server.create_app(config_of(tiny_classifier, rows))) as address:
        asked(browser, address, hostile)
        shown = browser.js("document.querySelector('#answer').innerText")
        press(browser, "Explain")
        browser.until("document.querySelector('#explanation strong')")
        answer = browser.js("document.querySelector('#answer strong').innerText")
        right = next(label for label in tiny_classifier.labels.names if label != answer)
        choose(browser, "Label", right)
        press(browser, "Add to rows.jsonl")
        browser.until("document.querySelector('#status').innerText.includes('Added to')")
        browser.picture(tmp_path / "page.png")
        press(browser, "Add to rows.jsonl")  # it is disabled
        title = browser.js("document.title")

    assert hostile in shown
    assert title.endswith("playground")
    assert read_examples(rows).examples == (TextExample(hostile, right),)
    assert {one for one in browser.requests if not one.startswith((address, "data:", "blob:"))} == set()
    assert {host for host in hosts if host not in ("127.0.0.1", "localhost")} == set()
    assert browser.console == []


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
def test_entities_are_corrected_in_a_table(tagger: Checkpoint, tmp_path: Path, browser: Tab) -> None:
    """A cell is typed over; what cannot be used is said on the page, and nothing is written."""
    rows = tmp_path / "rows.jsonl"
    with opened(server.create_app(config_of(tagger, rows))) as address:
        browser.console.clear()
        asked(browser, address, TEXT)
        type_over(browser, 0, "LOK")
        press(browser, "Add to rows.jsonl")
        browser.until("document.querySelector('.toast-body')?.innerText.includes('Row 1: expected a type (LOC, PER)')")
        written = rows.exists()
        type_over(browser, 0, "LOC")
        press(browser, "Add to rows.jsonl")
        browser.until("document.querySelector('#status').innerText.includes('Added to')")
    result = steps_for(tagger, rows).answer(TEXT).result
    assert isinstance(result, Tagging)
    first, *others = (Span(one.start, one.end, one.label) for one in result.entities)

    assert not written
    assert first.label == "PER"
    assert read_examples(rows).examples == (TaggedExample(TEXT, (first._replace(label="LOC"), *others)),)
    assert browser.console == []


def type_over(seen: Tab, row: int, said: str) -> None:
    """Type over the type in a row of the table."""
    cell = f"document.querySelector('[data-testid=\"cell-{row}-1\"]')"
    seen.until(cell)
    seen.double_click(cell)
    seen.until("document.activeElement?.tagName === 'TEXTAREA'")
    seen.js("document.activeElement.select()")
    seen.call("Input.insertText", text=said)
    seen.press("Enter", 13)
    seen.until(f"{cell}.querySelector('[data-editable]')?.innerText === {json.dumps(said)}")


def sent(client: TestClient, step: int, given: list[Any]) -> list[Any]:
    """Do what the page does when a button is pressed; what its parts hold then."""
    client.post("/gradio_api/queue/join", json={"data": given, "fn_index": step, "session_hash": "me"})
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "me"}) as lines:
        told = (json.loads(line.removeprefix("data: ")) for line in lines.iter_lines() if line)
        done = next(one for one in told if one["msg"] == "process_completed")
    assert done["success"], done
    return list(done["output"]["data"])


@pytest.mark.parametrize("task", CORRECTIONS)
def test_an_answer_of_every_task_can_be_added_as_it_is(task: Task, tmp_path: Path) -> None:
    """What the fields are filled with is what they give back."""
    labels = {ORDINAL: ("low", "high")}.get(task)
    config = config_of(tiny_checkpoint(tmp_path / "c", task=task, labels=labels, max_length=64), tmp_path / "r.jsonl")
    texts = CORRECTIONS[task][0]
    with TestClient(server.create_app(config), base_url="http://127.0.0.1") as client:
        last = len(client.get("/config").json()["dependencies"]) - 1
        _, _, shown, _, _, *fields = sent(client, 0, list(texts))
        said, *_ = sent(client, last, [None, *texts, *fields[: len(FIELDS[task])]])
    steps = steps_for(Checkpoint.load(config.checkpoint), tmp_path / "other.jsonl", most=50_000)
    result = steps.answer(*texts).result

    assert shown == to_html(result)
    assert "r.jsonl" in said
    assert read_examples(config.corrections, ReadOptions(task=task)).examples == (
        steps.form.corrected(result, steps.form.filled(result)),
    )


def test_pages_of_elsewhere_cannot_use_it(tiny_classifier: Checkpoint, tmp_path: Path) -> None:
    """Neither under another name of this machine, nor from another origin; and the page may load nothing of theirs."""
    app = server.create_app(config_of(tiny_classifier, tmp_path / "rows.jsonl"))
    with TestClient(app, base_url="http://localhost:7860") as client:
        own = client.get("/", headers={"Origin": "http://localhost:7860"})
        refused = [
            client.get("/", headers=headers).status_code
            for headers in (
                {"Host": "evil.example"},
                {"Host": "127.0.0.1.evil.example:7860"},
                {"Host": "[::1"},
                {"Origin": "https://evil.example"},
                {"Origin": "http://localhost:7861"},
                {"Origin": "null"},
            )
        ]

    assert own.status_code == 200
    assert "default-src 'self'" in own.headers["Content-Security-Policy"]
    assert refused == [403] * 6


def test_nothing_is_told_to_gradio_and_nothing_is_linked(tiny_classifier: Checkpoint, tmp_path: Path) -> None:
    """Whatever the environment says."""
    app = server.create_app(config_of(tiny_classifier, tmp_path / "rows.jsonl"))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        config = client.get("/config").json()

    assert config["analytics_enabled"] is False
    assert config["run_history"] is False
    assert config["footer_links"] == []
    assert "share_url" not in config


def test_a_fault_is_logged_without_the_text(caplog: pytest.LogCaptureFixture) -> None:
    """What is ours to say is said on the page; what is not may quote the text."""

    def broken(text: str) -> None:
        raise ValueError(text)

    def refused(text: str) -> None:
        raise InputError("Expected <b>, found 'another'.")

    with caplog.at_level(logging.DEBUG), pytest.raises(gr.Error, match="failed on this text"):
        told(broken)(SECRET)
    with pytest.raises(gr.Error, match="Expected &lt;b&gt;, found"):
        told(refused)(SECRET)
    assert "ValueError" in caplog.text
    assert SECRET not in caplog.text


# The command.


WRONG: dict[str, tuple[list[str], str]] = {
    "no folder": (["nowhere/at-all"], "nowhere/at-all"),
    "a port that is too high": (["--port", "70000", "c"], "--port: Input should be less than or equal to 65535"),
    "a limit of nothing": (["--max-text-characters", "0", "c"], "--max-text-characters"),
    "a device that is none": (["--device", "abacus", "c"], "abacus"),
    "an unknown option": (["--prot", "1", "c"], "did you mean '--port'"),
    "corrections of another kind": (["--corrections", "rows.csv", "c"], "a .jsonl file"),
    "no folder for corrections": (["--corrections", "none/rows.jsonl", "c"], "Make the folder first"),
}


@pytest.mark.parametrize(("arguments", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_command_is_one_line(
    arguments: list[str], says: str, tiny_classifier: Checkpoint, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    """And exit status 2, before anything is served."""
    monkeypatch.chdir(tmp_path)
    Path("c").symlink_to(tiny_classifier.path)

    assert main(["playground", "--port", "0", *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_the_extra_is_named_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, with the remedy; the options are shown without it."""
    for name in ("page", "server"):
        monkeypatch.delitem(sys.modules, f"lc_finetune.playground.{name}")
    monkeypatch.setitem(sys.modules, "gradio", None)

    assert main(["playground", "c"]) == 2
    assert "pip install 'lc-finetune[playground]'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["playground", "--help"])


def test_without_captum_the_page_says_how_to_get_it(
    tiny_classifier: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the place of the button."""
    monkeypatch.setattr(page, "find_spec", lambda _: None)
    config = create_page(steps_for(tiny_classifier, tmp_path / "rows.jsonl"), name="c").get_config_file()
    parts = [part["props"].get("value") for part in config["components"]]

    assert any("pip install 'lc-finetune[explain]'" in str(value) for value in parts)
    assert "Explain" not in parts


def test_the_command_ends_with_ctrl_c_though_a_page_is_open(tiny_classifier: Checkpoint, tmp_path: Path) -> None:
    """It says where it is and where rows go; a file is made when there is a row."""
    command = [sys.executable, "-c", "import sys; from lc_finetune.cli import main; sys.exit(main(sys.argv[1:]))"]
    with subprocess.Popen(
        [*command, "playground", str(tiny_classifier.path), "--port", "0", "--device", "cpu"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said = process.stdout.readline()
        address = said.split(" on ")[1].split(";")[0]
        with httpx.stream("GET", f"{address}/gradio_api/heartbeat/session", timeout=60) as held:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)

    assert held.status_code == 200
    assert said.endswith("corrections go to corrections.jsonl. Ctrl-C stops it.\n")
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not (tmp_path / "corrections.jsonl").exists()
