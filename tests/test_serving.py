"""Checkpoints over HTTP, asked by a real client over a real socket."""

import asyncio
import gc
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from prometheus_client.parser import text_string_to_metric_families
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from transformers.decision import DecisionConfig
from transformers.decision.template_utils import Question as SystemOneQuestion

from lc_finetune import (
    Checkpoint,
    CheckpointError,
    Classification,
    ConfigError,
    IntentAndEntities,
    MultiLabelClassification,
    MultiLabelClassifier,
    OrdinalClassification,
    PairClassification,
    QuestionAnswer,
    Regression,
    RelationClassification,
    Tagging,
    TextClassifier,
)
from lc_finetune.checkpoint import RUNNABLES
from lc_finetune.cli import main
from lc_finetune.inference import worker
from lc_finetune.inference.predictor import Predictor
from lc_finetune.serving import Limits, create_app, server
from lc_finetune.serving.config import API_KEY
from lc_finetune.serving.listening import listener
from lc_finetune.serving.server import named, read_questions
from lc_finetune.systemone import AnsweredBy
from lc_finetune.testing import tiny_checkpoint
from tests.test_readme import snippets

KEY = "correct-horse-battery-staple"
WITH_KEY = {"Authorization": f"Bearer {KEY}"}
SECRET = "my secret text of five words"
LIMITS = Limits(max_body_bytes=20_000, max_text_characters=1_000, max_inputs=64, max_questions=4)
TOPIC = {"type": "choice", "instructions": "What is it about?", "criteria": {"card": "Cards.", "other": None}}
ANSWER = "/v1/systemone"


class Running(httpx.Client):
    """A client of an application that runs in a thread."""

    def __init__(self, server: uvicorn.Server, port: int) -> None:
        super().__init__(base_url=f"http://127.0.0.1:{port}", timeout=60)
        self.server = server

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric now."""
        text = self.get("/metrics", headers=WITH_KEY).text
        samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())


@contextmanager
def running(app: FastAPI) -> Iterator[Running]:
    """Serve an application on a free port of this machine, as `serve` does."""
    with listener("127.0.0.1", 0, beyond=False) as bound:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        until(lambda: server.started)
        try:
            with Running(server, bound.getsockname()[1]) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(60)


def until(holds: Callable[[], Any]) -> None:
    """Wait for what another thread brings about."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def every_task(
    checkpoints: Path, tiny_classifier: Checkpoint, tiny_tagger: Checkpoint, tiny_multi_label: Checkpoint
) -> dict[str, Checkpoint]:
    """A checkpoint of each task."""
    return {
        "topic": tiny_classifier,
        "topics": tiny_multi_label,
        "entities": tiny_tagger,
        "stars": tiny_checkpoint(checkpoints / "served-stars", task="ordinal-classification"),
        "rating": tiny_checkpoint(checkpoints / "served-rating", task="regression"),
        "same": tiny_checkpoint(checkpoints / "served-pair", task="text-pair-classification"),
        "questions": tiny_checkpoint(checkpoints / "served-questions", task="question-answering"),
        "relation": tiny_checkpoint(checkpoints / "served-relation", task="relation-classification", max_length=64),
        "order": tiny_checkpoint(checkpoints / "served-order", task="intent-and-entities"),
    }


@pytest.fixture(scope="module")
def app(every_task: dict[str, Checkpoint]) -> FastAPI:
    """All of them, without a key."""
    questions = {
        "plastic": AnsweredBy(classifier="topics", labels={"true": "card"}),
        "level": AnsweredBy(classifier="topic", labels={"0": "other", "1": "cash", "2": "card"}),
    }
    return create_app(every_task, questions=questions, limits=LIMITS, device="cpu")


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[Running]:
    with running(app) as client:
        yield client


@pytest.fixture(scope="module")
def guarded(tiny_classifier: Checkpoint) -> Iterator[Running]:
    """One classifier, with a key."""
    with running(create_app({"topic": tiny_classifier}, api_key=KEY, limits=LIMITS, device="cpu")) as client:
        yield client


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each forward."""
    rows: list[int] = []
    forward = Predictor.forward

    def counted(self: Predictor, batch: Any) -> Any:
        rows.append(len(batch.input_ids))
        return forward(self, batch)

    monkeypatch.setattr(Predictor, "forward", counted)
    return rows


class Hold:
    """Forwards wait until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self._free = threading.Event(), threading.Event()
        forward = Predictor.forward

        def held(predictor: Predictor, batch: Any) -> Any:
            self.begun.set()
            assert self._free.wait(60)
            return forward(predictor, batch)

        monkeypatch.setattr(Predictor, "forward", held)

    def let_go(self) -> None:
        self._free.set()


# POST /predict


GIVEN: dict[str, tuple[str, Any, type]] = {
    "a text": ("topic", "Where is my card?", Classification),
    "a label with a place": ("stars", "Where is my card?", OrdinalClassification),
    "labels": ("topics", "Where is my card?", MultiLabelClassification),
    "a pair": ("same", {"text": "my card", "text_pair": "the card"}, PairClassification),
    "a number": ("rating", "Where is my card?", Regression),
    "entities": ("entities", "Angela flew to Paris.", Tagging),
    "a question": ("questions", {"question": "Where?", "context": "In Paris, I think."}, QuestionAnswer),
    "a relation": ("relation", {"text": "Ann runs it", "head": [0, 3], "tail": "it"}, RelationClassification),
    "a label and entities": ("order", "Angela flew to Paris.", IntentAndEntities),
    "a marked relation": ("relation", "<e1>Ann</e1> runs <e2>it</e2>", RelationClassification),
}


def test_every_task_is_among_them(every_task: dict[str, Checkpoint]) -> None:
    """A new one is served, too."""
    assert set(RUNNABLES) == {every_task[model].task for model, _, _ in GIVEN.values()}


@pytest.mark.parametrize(("model", "given", "kind"), GIVEN.values(), ids=GIVEN)
def test_every_task_answers_its_typed_result(model: str, given: Any, kind: type[Any], client: Running) -> None:
    """Which the very class reads that the Runnable answers with."""
    response = client.post("/predict", json={"model": model, "inputs": [given, given]})
    first, second = map(kind.model_validate, response.raise_for_status().json()["results"])

    assert first == second


def test_results_are_the_runnables_own(
    client: Running, tiny_multi_label: Checkpoint, tiny_classifier: Checkpoint
) -> None:
    """Text by text, in order, whatever characters are in them."""
    texts = ["Where is my card?", " \u00e9\U0001f44d ", "card " * 150, ""]
    for name, runnable in (
        ("topics", MultiLabelClassifier.from_checkpoint(tiny_multi_label, device="cpu")),
        ("topic", TextClassifier.from_checkpoint(tiny_classifier, device="cpu")),
    ):
        body = client.post("/predict", json={"model": name, "inputs": texts}).json()
        expected = [one.model_dump(mode="json") for one in runnable.batch(texts)]

        assert body["model"] == name
        for one, wanted in zip(body["results"], expected, strict=True):
            assert one.pop("scores") == pytest.approx(wanted.pop("scores"), abs=1e-5)
            if name == "topic":
                assert one.pop("score") == pytest.approx(wanted.pop("score"), abs=1e-5)
            assert one == wanted


@pytest.mark.parametrize("part", ['"\\ud800"', "NaN", "[Infinity]"])
def test_what_no_answer_could_repeat_is_refused(part: str, client: Running) -> None:
    """Rather than that the answer has another id or legend, or none."""
    legend = '{"state": "x", "questions": {"level": {"type": "score", "criteria": [PART, "b", "c"]}}}'
    name = '{"model": "topic", "state": "x", "questions": {PART: {"type": "choice", "criteria": {"card": null}}}}'
    for body in [legend, *([name] if part.startswith('"') else [])]:
        sent = body.replace("PART", part)
        response = client.post(ANSWER, content=sent, headers={"content-type": "application/json"})
        assert response.status_code == 422
        assert "whole characters" in response.text


def test_an_input_fails_alone(client: Running) -> None:
    """What the model cannot read is said in its place; its neighbours are answered."""
    inputs = ["no marks", "<e1>Ann</e1> runs <e2>it</e2>", {"text": SECRET, "head": [0, 99], "tail": [0, 2]}]
    response = client.post("/predict", json={"model": "relation", "inputs": inputs})
    first, second, third = response.raise_for_status().json()["results"]

    assert second["label"] in ("card", "cash", "other")
    assert first["type"] == third["type"] == "InputError"
    assert "<e1>" in first["error"]
    assert "secret" not in response.text


def test_the_only_model_needs_no_name(guarded: Running, client: Running) -> None:
    """Of several, one has to be named."""
    assert guarded.post("/predict", json={"inputs": ["x"]}, headers=WITH_KEY).json()["model"] == "topic"
    refused = client.post("/predict", json={"inputs": ["x"]})
    assert refused.status_code == 422
    assert "name of a model (topic, topics" in refused.json()["detail"][0]["msg"]


# POST /v1/systemone


def test_questions_are_answered_in_the_system_one_format(client: Running, tiny_classifier: Checkpoint) -> None:
    """Field for field what transformers' own server answers, from the classifiers' probabilities."""
    classifier = TextClassifier.from_checkpoint(tiny_classifier, device="cpu")
    scores = classifier.invoke("Where is my card?").scores
    levels = [scores["other"], scores["cash"], scores["card"]]
    questions = {
        "topic": TOPIC,
        "plastic": {"type": "noul", "instructions": "Is it about a card?"},
        "level": {"type": "score", "criteria": ["calm", {"angry": "a little"}, "angry"]},
    }
    body = client.post(ANSWER, json={"state": "Where is my card?", "questions": questions}).raise_for_status().json()
    two = scores["card"] + scores["other"]

    def reference(name: str, probabilities: list[float]) -> Any:
        parsed = SystemOneQuestion.from_request(name, questions[name], DecisionConfig())  # type: ignore[arg-type]
        return parsed.answer(probabilities)

    assert body["model"] == "topic, topics"
    for name, probabilities in (("topic", [scores["card"] / two, scores["other"] / two]), ("level", levels)):
        expected, answer = reference(name, probabilities), body["answers"][name]
        assert answer.keys() == expected.keys()
        for field, value in expected.items():
            close = isinstance(value, float) or field == "probabilities"
            assert answer[field] == (pytest.approx(value, abs=1e-5) if close else value)
    assert body["answers"]["plastic"].keys() == {"type", "noul"}
    assert body["usage"]["output_tokens"] == 0
    assert body["usage"]["input_tokens"] > 2 * 2


def test_the_model_of_a_request_answers_whatever_the_questions_are_called(client: Running) -> None:
    """As System One clients ask: a model by its name, questions by theirs."""
    asked = {"state": [{"role": "user", "content": "my card"}], "questions": {"what is it": TOPIC}}
    answered = client.post(ANSWER, json={"model": "topic", **asked}).raise_for_status().json()

    assert answered["model"] == "topic"
    assert answered["answers"]["what is it"]["choice"] in TOPIC["criteria"]
    assert client.post(ANSWER, json=asked).status_code == 422
    asked["questions"] = {"plastic": {"type": "noul"}}  # which is another's, whoever is asked
    assert client.post(ANSWER, json={"model": "topic", **asked}).raise_for_status().json()["model"] == "topics"


def test_the_only_classifier_answers_every_question(guarded: Running) -> None:
    """Nothing has to be named."""
    asked = {"state": {"text": "my card", "id": 3}, "questions": {"anything": TOPIC}}

    assert guarded.post(ANSWER, json=asked, headers=WITH_KEY).raise_for_status().json()["model"] == "topic"


def test_several_questions_about_a_state_are_one_forward(client: Running, forwards: list[int]) -> None:
    """A model reads a text once, whatever is asked about it."""
    questions = {"topic": TOPIC, "level": {"type": "score", "criteria": ["a", "b", "c"]}}
    client.post(ANSWER, json={"state": "my card", "questions": questions}).raise_for_status()

    assert forwards == [1]


# What is refused, and that nothing of it is repeated.


REFUSED: dict[str, tuple[str, Any, str]] = {
    "a label that is not there": (ANSWER, {"questions": {"topic": {"type": "choice", "criteria": {"crad": None}}}},
                                  "did you mean 'card'"),
    "a label that is a text": (ANSWER, {"questions": {"topic": {"type": "choice", "criteria": {SECRET: None}}}},
                               "one of 28 characters"),
    "a question that is a text": (ANSWER, {"questions": {SECRET: TOPIC}}, "one of 28 characters"),
    "a question of a wrong type": (ANSWER, {"questions": {SECRET: {"type": SECRET}}}, "choice, noul or score"),
    "a question without a type": (ANSWER, {"questions": {"topic": {SECRET: SECRET}}}, "found none"),
    "a question with a text for a field": (ANSWER, {"questions": {"topic": {**TOPIC, SECRET: SECRET}}}, "Extra"),
    "no question": (ANSWER, {"questions": {}}, "at least 1"),
    "too many questions": (ANSWER, {"questions": {f"q{i}": TOPIC for i in range(5)}}, "at most 4"),
    "a state that is none": (ANSWER, {"state": 3.5, "questions": {"topic": TOPIC}}, "valid"),
    "an empty state": (ANSWER, {"state": " ", "questions": {"topic": TOPIC}}, "empty"),
    "a state that is too long": (ANSWER, {"state": "x" * 1_001, "questions": {"topic": TOPIC}}, "found 1,001"),
    "an image": (ANSWER, {"questions": {"topic": TOPIC}, "assets": {SECRET: {"data_base64": SECRET}}}, "at most 0"),
    "an unknown model": (ANSWER, {"questions": {"topic": TOPIC}, "model": "topik"}, "did you mean 'topic'"),
    "a model that is no classifier": (ANSWER, {"questions": {"topic": TOPIC}, "model": "entities"}, "text classifier"),
    "a regressor's choice": (ANSWER, {"questions": {"topic": TOPIC}, "model": "rating"}, "a model of labels"),
    "a yes or no of three labels": (ANSWER, {"questions": {"topic": {"type": "noul"}}}, "two labels"),
    "inputs that are none": ("/predict", {"model": "topic", "inputs": [{SECRET: SECRET}]}, "Extra"),
    "no inputs": ("/predict", {"model": "topic", "inputs": []}, "at least 1"),
    "one text outside a list": ("/predict", {"model": "topic", "inputs": SECRET}, "list"),
    "an input of another task": ("/predict", {"model": "topic", "inputs": [{"text": SECRET, "text_pair": SECRET}]},
                                 "Expected str, which a model for text-classification is given, found TextPair"),
    "a text that is too long": ("/predict", {"model": "topic", "inputs": ["x", SECRET * 40]}, "found 1,120"),
    "a second text that is too long": (
        "/predict", {"model": "same", "inputs": [{"text": "x", "text_pair": SECRET * 40}]}, "found 1,120"),
    "too many inputs": ("/predict", {"model": "topic", "inputs": [SECRET] * 65}, "at most 64"),
    "a model that is a text": ("/predict", {"model": SECRET, "inputs": ["x"]}, "one of 28 characters"),
    "a field that is a text": ("/predict", {"model": "topic", "inputs": ["x"], SECRET: SECRET}, "Extra"),
    "no object": ("/predict", [SECRET], "object"),
}  # fmt: skip


@pytest.mark.parametrize(("path", "body", "says"), REFUSED.values(), ids=REFUSED)
def test_a_bad_request_is_refused_before_inference(
    path: str, body: Any, says: str, client: Running, forwards: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """With 422, what was expected and found, and not a word of what was sent, in the answer or the log."""
    caplog.set_level(logging.DEBUG)
    stated = {"state": SECRET, **body} if path == ANSWER else body
    response = client.post(path, json=stated)

    assert response.status_code == 422
    assert says in " ".join(fault["msg"] for fault in response.json()["detail"]) + str(response.json()["detail"])
    assert "secret" not in response.text
    assert "secret" not in caplog.text
    assert not forwards


BROKEN: dict[str, tuple[bytes, str, int]] = {
    "no JSON": (b'{"inputs": ["my secret text"', "application/json", 422),
    "no UTF-8": (b'{"inputs": ["my secret \xff"]}', "application/json", 400),
    "JSON without end": (b'{"state": ' + b"[" * 15_000, "application/json", 400),
    "a form": (b"inputs=my+secret+text", "application/x-www-form-urlencoded", 422),
    "plain text": (b'{"inputs": ["my secret text"]}', "text/plain", 422),
    "nothing": (b"", "application/json", 422),
    "a half character as an id": (b'{"state": "my secret", "questions": {"\\ud800": {"type": "noul"}}}',
                                  "application/json", 422),
    "a half character in a state": (b'{"state": {"a": "my secret \\ud800"}, "questions": {"topic": '
                                    b'{"type": "choice", "criteria": {"card": null}}}}', "application/json", 422),
    "NaN in a state": (b'{"state": {"my secret": NaN}, "questions": {"topic": '
                       b'{"type": "choice", "criteria": {"card": null}}}}', "application/json", 422),
    "a deep legend": (b'{"state": "my secret", "questions": {"level": {"type": "score", "criteria": ['
                      + b"[" * 500 + b"]" * 500 + b", 1, 2]}}}", "application/json", 422),
}  # fmt: skip


@pytest.mark.parametrize(("body", "kind", "status"), BROKEN.values(), ids=BROKEN)
def test_a_broken_body_is_refused(
    body: bytes, kind: str, status: int, client: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it is broken by."""
    caplog.set_level(logging.DEBUG)
    path = ANSWER if b"state" in body else "/predict"
    response = client.post(path, content=body, headers={"content-type": kind})

    assert response.status_code == status
    assert response.json()["detail"][0]["msg"]
    assert "secret" not in response.text + caplog.text


def test_half_a_character_fails_its_input_alone(client: Running) -> None:
    """No tokenizer reads it, and no response can hold it."""
    body = b'{"model": "topic", "inputs": ["my secret \\ud800", "x"]}'
    response = client.post("/predict", content=body, headers={"content-type": "application/json"})
    first, second = response.raise_for_status().json()["results"]

    assert "valid Unicode" in first["error"]
    assert "secret" not in response.text
    assert second["text"] == "x"


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
def test_a_large_body_is_refused(chunked: bool, client: Running) -> None:
    """Whether its size was announced or not; one byte less is read whole."""
    head, tail = b'{"model": "topic", "inputs": ["', b'"]}'

    def post(size: int) -> httpx.Response:
        body = head + b"x" * 900 + tail
        body += b" " * (size - len(body))
        parts: Any = iter([body[:5000], body[5000:]]) if chunked else body
        return client.post("/predict", content=parts, headers={"content-type": "application/json"})

    assert post(20_000).status_code == 200
    assert post(20_001).status_code == post(5_000_000).status_code == 422
    assert post(20_001).json()["detail"][0]["msg"].startswith("Expected a body of at most 20,000 bytes")


def test_a_text_at_the_limit_is_read_to_its_end(client: Running) -> None:
    """Nothing is cut off: the last word changes the scores."""
    first, second = (
        client.post("/predict", json={"model": "topic", "inputs": [text]}).json()["results"][0]
        for text in ("a" + " card" * 199 + " cas", "a" + " card" * 199 + " 😀")
    )

    assert len(first["text"]) > 990
    assert first["scores"] != second["scores"]


def test_other_paths_and_methods_are_refused_in_the_same_shape(client: Running) -> None:
    """With the methods that there are."""
    assert client.get(f"/{SECRET}").json() == {"detail": [{"loc": [], "msg": "Not Found", "type": "http_error"}]}
    assert (refused := client.get("/predict")).status_code == 405
    assert refused.headers["allow"] == "POST"


def test_a_fault_of_the_server_says_nothing_of_the_text(
    client: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither to the client nor in the log, which says where it was."""

    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(Predictor, "apredict", broken)
    asked = client.post(ANSWER, json={"state": SECRET, "questions": {"topic": TOPIC}})
    predicted = client.post("/predict", json={"model": "topic", "inputs": [SECRET]})

    assert asked.status_code == 500
    assert "see its log" in asked.json()["detail"][0]["msg"]
    assert "see its log" in predicted.json()["results"][0]["error"]
    assert caplog.text.count("failed. RuntimeError") == caplog.text.count("in broken") == 2
    assert "secret" not in asked.text + predicted.text + caplog.text


def test_a_model_that_fails_says_so(
    client: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine's own error goes to the client; the log has its cause, without the cause's words."""

    def broken(*_: Any) -> Any:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(Predictor, "forward", broken)
    asked = client.post(ANSWER, json={"state": SECRET, "questions": {"topic": TOPIC}})
    predicted = client.post("/predict", json={"model": "topic", "inputs": [SECRET]})

    assert asked.status_code == 500
    assert asked.json()["detail"][0]["type"] == predicted.json()["results"][0]["type"] == "EngineError"
    assert caplog.text.count("Caused by RuntimeError") == 2
    assert "secret" not in asked.text + predicted.text + caplog.text


# The key.


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}, {"Authorization": KEY},
     {"Authorization": f"Bearer {KEY}x"}, {"Authorization": f"Bearer {KEY[:-1]}"}, {"Authorization": "Bearer"}],
)  # fmt: skip
def test_without_the_key_nothing_is_answered(headers: dict[str, str], guarded: Running, forwards: list[int]) -> None:
    """On any path, before the body is read."""
    for method, path in (("POST", "/predict"), ("POST", ANSWER), ("POST", "/admin/reload"), ("GET", "/v1/models"),
                         ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/nowhere")):  # fmt: skip
        response = guarded.request(method, path, content=b"no JSON", headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
    assert not forwards


def test_with_the_key_all_is_answered(guarded: Running) -> None:
    """Whatever the case of the scheme; health needs no key."""
    for scheme in ("Bearer", "bearer"):
        assert guarded.get("/v1/models", headers={"Authorization": f"{scheme} {KEY}"}).status_code == 200
    assert guarded.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize("key", ["", " ", "schlüssel", "two\nlines", " padded"])
def test_a_key_that_no_header_can_hold_is_refused(key: str, tiny_classifier: Checkpoint) -> None:
    """An empty variable must not look like a key."""
    with pytest.raises(ConfigError, match=API_KEY):
        create_app({"topic": tiny_classifier}, api_key=key)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_a_server_without_a_key_stays_on_this_machine(host: str) -> None:
    """Unless it is asked for."""
    with pytest.raises(ConfigError, match=r"--without-key|expected an address|Expected an address to listen"):
        listener(host, 0, beyond=False)


def test_an_address_beyond_this_machine_needs_a_key_or_a_word() -> None:
    """Then it is taken."""
    with pytest.raises(ConfigError, match="--without-key"):
        listener("0.0.0.0", 0, beyond=False)
    with listener("0.0.0.0", 0, beyond=True) as bound:
        assert bound.getsockname()[0] == "0.0.0.0"
    with listener("localhost", 0, beyond=False) as bound:
        assert bound.getsockname()[0] in ("127.0.0.1", "::1")


def test_an_application_may_be_mounted(tiny_classifier: Checkpoint) -> None:
    """Under a path of another one, with its key and its counts."""
    outer = FastAPI()
    outer.mount("/models", create_app({"topic": tiny_classifier}, api_key=KEY, device="cpu"))
    with running(outer) as client:
        assert client.get("/models/health").status_code == 200
        assert client.post("/models/predict", json={"inputs": ["x"]}).status_code == 401
        assert client.post("/models/predict", json={"inputs": ["x"]}, headers=WITH_KEY).status_code == 200
        assert 'path="/predict",status="200"' in client.get("/models/metrics", headers=WITH_KEY).text


# Requests at the same time.


def test_requests_share_forwards(client: Running, tiny_classifier: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that come while a forward runs are answered by the next one, of both paths together."""
    rows: list[int] = []
    free = threading.Event()
    forward = Predictor.forward

    def held(predictor: Predictor, batch: Any) -> Any:
        rows.append(len(batch.input_ids))
        assert free.wait(60)
        return forward(predictor, batch)

    monkeypatch.setattr(Predictor, "forward", held)
    url = str(client.base_url)

    async def ask() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as many:
            first = asyncio.create_task(many.post("/predict", json={"model": "topic", "inputs": ["the first"]}))
            while not rows:
                await asyncio.sleep(0.005)
            others = [
                asyncio.create_task(
                    many.post("/predict", json={"model": "topic", "inputs": [f"a {i}"]})
                    if i % 2
                    else many.post(ANSWER, json={"state": f"a {i}", "questions": {"topic": TOPIC}})
                )
                for i in range(20)
            ]
            while len(worker.worker_of("cpu")._queue) < 20:
                await asyncio.sleep(0.005)
            free.set()
            return list(await asyncio.gather(first, *others))

    answers = asyncio.run(ask())

    assert {one.status_code for one in answers} == {200}
    assert rows == [1, 20]


def test_many_clients_at_once_get_their_own_answers(client: Running, tiny_classifier: Checkpoint) -> None:
    """200 requests over 50 connections: each is answered, with its own text, and counted."""
    before = client.metric("lc_finetune_items_total", path="/predict", outcome="answered")

    async def ask() -> list[Any]:
        limits = httpx.Limits(max_connections=50)
        async with httpx.AsyncClient(base_url=str(client.base_url), timeout=120, limits=limits) as many:
            posts = (
                many.post("/predict", json={"model": "topic", "inputs": [f"card {i}", f"{i}"]}) for i in range(200)
            )
            return [one.json()["results"] for one in await asyncio.gather(*posts)]

    answers = asyncio.run(ask())
    classifier = TextClassifier.from_checkpoint(tiny_classifier, device="cpu")

    assert [[one["text"] for one in both] for both in answers] == [[f"card {i}", f"{i}"] for i in range(200)]
    assert [both[0]["label"] for both in answers[:20]] == [
        one.label for one in classifier.batch([f"card {i}" for i in range(20)])
    ]
    assert client.metric("lc_finetune_items_total", path="/predict", outcome="answered") == before + 400
    assert client.metric("lc_finetune_requests_in_flight") == 1  # the one that asks


# Hot swap.


@pytest.fixture
def swapped(tmp_path: Path) -> Iterator[tuple[Path, Running]]:
    """A folder that is served, and its server."""
    tiny_checkpoint(tmp_path / "served", labels=("old", "older"))
    with running(create_app({"topic": str(tmp_path / "served")}, api_key=KEY, device="cpu")) as client:
        client.headers.update(WITH_KEY)
        yield tmp_path / "served", client


def exchange(folder: Path, **made: Any) -> None:
    """Put another checkpoint in a folder's place."""
    new = tiny_checkpoint(folder.with_name("new"), **made)
    shutil.rmtree(folder)
    new.path.rename(folder)


def loaded_labels() -> set[str]:
    """The labels of all models in memory."""
    return {name for one in list(Predictor._living) for name in one.checkpoint.labels.names}


def label(client: Running) -> str:
    return str(client.post("/predict", json={"inputs": ["x"]}).raise_for_status().json()["results"][0]["label"])


def test_a_new_checkpoint_takes_over(swapped: tuple[Path, Running]) -> None:
    """When it is asked for; the weights of the one before leave memory."""
    folder, client = swapped
    digest = client.get("/v1/models").json()["models"][0]["digest"]
    exchange(folder, labels=("new", "newer"))

    assert label(client) in ("old", "older")
    cards = client.post("/admin/reload").raise_for_status().json()["models"]
    assert label(client) in ("new", "newer")
    assert cards == client.get("/v1/models").json()["models"]
    assert cards[0]["labels"] == ["new", "newer"]
    assert cards[0]["digest"] != digest
    assert client.metric("lc_finetune_reloads_total", outcome="done") == 1
    until(lambda: gc.collect() >= 0 and "old" not in loaded_labels())


def test_a_request_under_way_ends_with_its_own_model(
    swapped: tuple[Path, Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the next one is loaded and takes over."""
    folder, client = swapped
    exchange(folder, labels=("new", "newer"))
    hold = Hold(monkeypatch)
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.append(label(client)))
    asking.start()
    assert hold.begun.wait(60)
    status: list[int] = []
    with httpx.Client(base_url=client.base_url, headers=WITH_KEY, timeout=60) as other:
        reloading = threading.Thread(target=lambda: status.append(other.post("/admin/reload").status_code))
        reloading.start()
        hold.let_go()
        reloading.join(60)
    asking.join(60)

    assert status == [200]
    assert found[0] in ("old", "older")
    assert label(client) in ("new", "newer")


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "none": (shutil.rmtree, "found"),
    "half a file": (lambda folder: os.truncate(folder / "model.safetensors", 100), "SHA-256"),
    "another task": (lambda folder: exchange(folder, task="regression"), "Start the server again"),
}


@pytest.mark.parametrize(("spoil", "says"), BAD.values(), ids=BAD)
def test_a_bad_checkpoint_leaves_the_old_one_serving(
    spoil: Callable[[Path], Any], says: str, swapped: tuple[Path, Running]
) -> None:
    """And says why."""
    folder, client = swapped
    spoil(folder)
    refused = client.post("/admin/reload")

    assert refused.status_code == 409
    assert says in refused.json()["detail"][0]["msg"]
    assert label(client) in ("old", "older")
    assert client.metric("lc_finetune_reloads_total", outcome="refused") == 1


def test_a_mapping_holds_for_the_next_checkpoint_too(tmp_path: Path) -> None:
    """One that lacks a label which questions are mapped to is refused."""
    tiny_checkpoint(tmp_path / "served", labels=("old", "older"))
    app = create_app(
        {"topic": tmp_path / "served"}, api_key=KEY, device="cpu",
        questions={"aged": AnsweredBy(labels={"true": "old"})},
    )  # fmt: skip
    with running(app) as client:
        exchange(tmp_path / "served", labels=("new", "newer"))
        assert client.post("/admin/reload", headers=WITH_KEY).status_code == 409
        asked = {"state": "x", "questions": {"aged": {"type": "noul"}}}
        assert client.post(ANSWER, json=asked, headers=WITH_KEY).status_code == 200


def test_without_a_key_nobody_exchanges_models(client: Running) -> None:
    """On this machine neither."""
    refused = client.post("/admin/reload")

    assert refused.status_code == 403
    assert API_KEY in refused.json()["detail"][0]["msg"]


# Start and stop.


def test_a_request_under_way_is_answered_when_the_server_stops(
    tiny_classifier: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no new one is taken."""
    with running(create_app({"topic": tiny_classifier}, device="cpu")) as client:
        hold = Hold(monkeypatch)
        found: list[str] = []
        asking = threading.Thread(target=lambda: found.append(label(client)))
        asking.start()
        assert hold.begun.wait(60)
        client.server.should_exit = True  # what SIGTERM does
        until(lambda: all(not one.is_serving() for one in client.server.servers))
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{client.base_url}/health")
        hold.let_go()
        asking.join(60)

    assert found[0] in ("card", "cash", "other")


def test_the_command_serves_until_it_is_told_to_stop(tiny_classifier: Checkpoint, tmp_path: Path) -> None:
    """SIGTERM ends it once the request under way is answered; nothing of it was written anywhere."""
    command = [sys.executable, "-c", "import sys; from lc_finetune.cli import main; sys.exit(main(sys.argv[1:]))"]
    options = ["serve", f"topic={tiny_classifier.path}", "--port", "0", "--device", "cpu"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, API_KEY: KEY, "PYTHONPATH": str(Path(__file__).parent.parent)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said = process.stdout.readline()
        url = said.split(" on ")[1].split(". ")[0]
        answered: list[httpx.Response] = []
        body = {"inputs": [f"{SECRET} {i} " * 20 for i in range(256)]}
        with httpx.Client(base_url=url, headers=WITH_KEY, timeout=120) as client:
            until(lambda: _healthy(client))
            asking = threading.Thread(target=lambda: answered.append(client.post("/predict", json=body)))
            asking.start()
            with httpx.Client(base_url=url, headers=WITH_KEY) as other:
                until(lambda: "in_flight 2.0" in other.get("/metrics").text or answered)
            process.send_signal(signal.SIGTERM)
            asking.join(120)
        rest, errors = process.communicate(timeout=120)

    assert said.startswith("Serving topic on http://127.0.0.1:")
    assert len(answered[0].json()["results"]) == 256
    assert process.returncode in (0, -signal.SIGTERM)
    assert "secret" not in rest + errors
    assert "Traceback" not in errors


def _healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.ConnectError:
        return False


WRONG: dict[str, tuple[list[str], str]] = {
    "no folder": (["nowhere/at-all"], "nowhere/at-all"),
    "a port that is none": (["--port", "x", "c"], "invalid int value: 'x'"),
    "a port that is too high": (["--port", "70000", "c"], "--port: Input should be less than or equal to 65535"),
    "a limit of nothing": (["--max-inputs", "0", "c"], "--max-inputs"),
    "a name twice": (["a/c", "b/c"], "NAME=CHECKPOINT"),
    "an address that is none": (["--host", "no.such.host.invalid", "c"], "no.such.host.invalid"),
    "the whole world": (["--host", "0.0.0.0", "c"], "--without-key"),
    "no file of questions": (["--questions", "none.json", "c"], "none.json"),
    "an unknown option": (["--prot", "1", "c"], "did you mean '--port'"),
}


@pytest.mark.parametrize(("arguments", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_command_is_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And exit status 2, before anything is served."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(API_KEY, raising=False)

    assert main(["serve", *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_an_address_that_is_taken_is_one_line(tiny_classifier: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a user who started the server twice."""
    with listener("127.0.0.1", 0, beyond=False) as bound:
        bound.listen()
        assert main(["serve", str(tiny_classifier.path), "--port", str(bound.getsockname()[1])]) == 2
    assert "in use" in capsys.readouterr().err


def test_an_address_that_is_taken_meanwhile_is_one_line(
    tiny_classifier: Checkpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two servers that load at the same time, the first to be ready has it."""
    with listener("127.0.0.1", 0, beyond=False) as other:

        def loaded(*args: Any, **options: Any) -> FastAPI:
            other.listen()
            return create_app(*args, **options)

        monkeypatch.setattr(server, "create_app", loaded)
        assert main(["serve", str(tiny_classifier.path), "--port", str(other.getsockname()[1])]) == 2
    said = capsys.readouterr()
    assert "in use" in said.err
    assert said.out == ""


@pytest.mark.parametrize("host", ["a" * 64, "a\0b", ""])
def test_a_host_that_is_none_is_one_clear_error(host: str) -> None:
    """Whatever the resolver makes of it."""
    with pytest.raises(ConfigError, match="Expected an address"):
        listener(host, 0, beyond=False)


def test_checkpoints_are_named() -> None:
    """By the last part of their place, unless it is said."""
    given = ["runs/support", "mood=runs/a=b/x", "s3://models/intent/", "organisation/model", "runs/a=b"]

    assert named(given) == {
        "support": "runs/support", "mood": "runs/a=b/x", "intent": "s3://models/intent/", "model": "organisation/model",
        "a=b": "runs/a=b",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "says"),
    [("[]", "an object"), ("{", "JSON"), ('{"a": {"clasifier": "x"}}', "extra_forbidden"), ('{"a": 3}', "a question")],
)
def test_a_file_of_questions_is_checked(content: str, says: str, tmp_path: Path) -> None:
    """Before anything is loaded."""
    (tmp_path / "q.json").write_text(content)
    with pytest.raises(ConfigError, match=says):
        read_questions(tmp_path / "q.json")


def test_a_file_of_questions_is_read(tmp_path: Path) -> None:
    """As `AnsweredBy` has it."""
    (tmp_path / "q.json").write_text(json.dumps({"is_risky": {"classifier": "guard", "labels": {"true": "risky"}}}))

    assert read_questions(tmp_path / "q.json") == {"is_risky": AnsweredBy(classifier="guard", labels={"true": "risky"})}


def test_what_cannot_be_served_is_refused_at_once(every_task: dict[str, Checkpoint], tmp_path: Path) -> None:
    """No checkpoint, none at all, a question that nobody answers."""
    with pytest.raises(ConfigError, match="at least one"):
        create_app({})
    with pytest.raises(CheckpointError):
        create_app({"topic": tmp_path})
    for how, says in ((AnsweredBy(classifier="topik"), "did you mean"), (AnsweredBy(labels={"true": "crad"}), "card")):
        with pytest.raises(ConfigError, match=says):
            create_app({"topic": every_task["topic"]}, questions={"q": how}, device="cpu")


def test_the_extra_is_named_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, with the remedy; the options are shown without it."""
    for name in ("app", "server"):
        monkeypatch.delitem(sys.modules, f"lc_finetune.serving.{name}")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    assert main(["serve", "c"]) == 2
    assert "pip install 'lc-finetune[serve]'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["serve", "--help"])


# What is said of the interface.


def test_metrics_count_requests_by_path_and_status(guarded: Running) -> None:
    """A path that is not ours is never a label."""
    before = guarded.metric("lc_finetune_requests_total", path="/predict", status="200")
    guarded.post("/predict", json={"inputs": ["x"]}, headers=WITH_KEY)
    guarded.get(f"/{SECRET}", headers=WITH_KEY)

    assert guarded.metric("lc_finetune_requests_total", path="/predict", status="200") == before + 1
    assert guarded.metric("lc_finetune_requests_total", path="other", status="404") >= 1
    assert guarded.metric("lc_finetune_request_seconds_count", path="/predict") >= 1
    assert "secret" not in guarded.get("/metrics", headers=WITH_KEY).text


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it shows of requests and responses is of the form that they have."""
    page = (Path(__file__).parent.parent / "docs" / "serving.md").read_text(encoding="utf-8")
    predict, _, asked, answered, mapping = map(json.loads, re.findall(r"```json\n(.*?)```", page, re.DOTALL))
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "runs" / "support", labels=("other", "track_order"))
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/serving.md"):
        exec(snippet, namespace)
    with running(namespace["app"]) as client:
        results = client.post("/predict", json=predict).raise_for_status().json()["results"]
        answer = client.post(ANSWER, json=asked).raise_for_status().json()

    assert len(results) == len(predict["inputs"])
    assert shape(answer) == shape(answered)
    assert AnsweredBy.model_validate(mapping["is_risky"]).labels == {"true": ("risky",)}


def shape(value: Any) -> Any:
    """The keys of a mapping, all the way down."""
    return {key: shape(one) for key, one in value.items()} if isinstance(value, dict) else None


def test_models_are_listed(client: Running, every_task: dict[str, Checkpoint]) -> None:
    """Name, task, labels, and what identifies the content."""
    cards = {one["name"]: one for one in client.get("/v1/models").json()["models"]}

    assert {name: one.task for name, one in every_task.items()} == {name: one["task"] for name, one in cards.items()}
    assert cards["topic"]["labels"] == ["card", "cash", "other"]
    assert cards["topic"]["digest"] == every_task["topic"].digest


def test_the_description_loads_nothing_from_elsewhere(client: Running) -> None:
    """There are no pages with scripts of another host."""
    assert client.get("/openapi.json").json()["openapi"].startswith("3.")
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


def check_interface(client: Running, examples: int) -> None:
    """Ask what the interface allows, and what it does not: every answer is one that it describes, none a fault."""
    schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json", headers=WITH_KEY)
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in GenerationMode if operation.body else [GenerationMode.POSITIVE]:

            @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(operation.as_strategy(generation_mode=mode))
            def conforms(case: schemathesis.Case) -> None:
                # What has the right form may still ask for labels that the model lacks.
                response = case.call_and_validate(excluded_checks=[positive_data_acceptance], headers=WITH_KEY)
                assert response.status_code < 500

            conforms()


def test_the_interface_is_as_it_is_described(guarded: Running) -> None:
    """A few examples of each operation."""
    check_interface(guarded, 5)


@pytest.mark.slow
def test_the_interface_is_as_it_is_described_at_length(guarded: Running) -> None:
    """Many."""
    check_interface(guarded, 200)
