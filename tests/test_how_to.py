"""The how-to pages: their code runs, and does what they say."""

import gc
import shutil
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lc_finetune import TextClassifier
from lc_finetune.checkpoint import WEIGHTS
from lc_finetune.testing import tiny_checkpoint
from tests.test_readme import snippets

TRUSTED = {"Authorization": "Bearer secret"}


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """The app of the page, over a tiny checkpoint in `runs/support`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELOAD_TOKEN", "secret")
    monkeypatch.delenv("CHECKPOINT", raising=False)
    tiny_checkpoint("runs/support", labels=("other", "track_order"), onnx=True)
    (page,) = snippets("docs/how-to/serve-with-fastapi.md")
    namespace: dict[str, Any] = {"__name__": "app"}
    exec(page, namespace)
    return namespace["app"]  # type: ignore[no-any-return]


def train_anew() -> None:
    """Put a model with other labels in the place of the old one, as training with --overwrite does."""
    tiny_checkpoint("runs/next", labels=("cancel", "refund"), seed=1)
    Path("runs/support").rename("runs/old")
    Path("runs/next").rename("runs/support")


def gone(kept: "weakref.ref[Any]") -> bool:
    """Whether an object leaves memory; the worker lets go of it a moment after it has answered."""
    until = time.monotonic() + 10
    while kept() is not None and time.monotonic() < until:
        gc.collect()
        time.sleep(0.01)
    return kept() is None


def test_it_answers_as_the_classifier_does(served: FastAPI) -> None:
    """One result as JSON, without the text, which the client has; the schema names its fields."""
    expected = TextClassifier.from_checkpoint("runs/support").invoke("Where is my card?")
    with TestClient(served) as client:
        answer = client.post("/classify", json={"text": "Where is my card?"})
        schema = client.get("/openapi.json").json()

    assert answer.status_code == 200
    assert answer.json() == expected.model_dump(mode="json", exclude={"text"})
    assert "scores" in schema["components"]["schemas"]["Classification"]["properties"]


def test_it_is_warm_before_the_first_request(served: FastAPI) -> None:
    """Nothing is read from the disk afterwards."""
    with TestClient(served) as client:
        shutil.rmtree("runs/support")

        assert client.post("/classify", json={"text": "hi"}).status_code == 200


def test_a_folder_that_cannot_serve_ends_the_start(served: FastAPI) -> None:
    """With the message that says why."""
    Path("runs/support", WEIGHTS).unlink()

    with pytest.raises(Exception, match=f"expected {WEIGHTS}"), TestClient(served):
        pass


def test_a_hot_swap_loses_no_request_and_no_memory(served: FastAPI) -> None:
    """Requests before, during and after it are answered, each by one of the two models; the old weights are let go."""
    with TestClient(served) as client, ThreadPoolExecutor(8) as clients:
        old = weakref.ref(served.state.classifier._loaded())
        train_anew()
        during = [clients.submit(client.post, "/classify", json={"text": f"query {i}"}) for i in range(32)]
        swapped = client.post("/reload", headers=TRUSTED)
        during += [clients.submit(client.post, "/classify", json={"text": f"query {i}"}) for i in range(32)]
        answers = [future.result() for future in during]
        after = client.post("/classify", json={"text": "query"}).json()

        assert swapped.status_code == 204
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.json()["label"] for answer in answers} <= {"other", "track_order", "cancel", "refund"}
        assert {"cancel", "refund"} == set(after["scores"])
        assert gone(old)


def test_a_refused_checkpoint_leaves_the_old_one_serving(served: FastAPI) -> None:
    """409 and the reason."""
    with TestClient(served) as client:
        Path("runs/support", WEIGHTS).write_bytes(b"half of it")
        refused = client.post("/reload", headers=TRUSTED)

        assert refused.status_code == 409
        assert WEIGHTS in refused.json()["detail"]
        assert client.post("/classify", json={"text": "hi"}).json()["label"] in ("other", "track_order")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
def test_a_stranger_reloads_nothing(served: FastAPI, headers: dict[str, str]) -> None:
    """A reload takes seconds of every core."""
    with TestClient(served) as client:
        before = served.state.classifier

        assert client.post("/reload", headers=headers).status_code == 401
        assert served.state.classifier is before


def test_stopping_lets_go_of_the_weights(served: FastAPI) -> None:
    """`close` is called when the last request is answered."""
    with TestClient(served) as client:
        client.post("/classify", json={"text": "hi"})
        weights = weakref.ref(served.state.classifier._loaded())

    assert gone(weights)
