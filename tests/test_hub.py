"""A checkpoint is pushed with its card and without texts; a failure names what to do."""

from pathlib import Path
from typing import Any

import pytest

from lc_finetune import Checkpoint, ConfigError
from lc_finetune.checkpoint import FETCHED
from lc_finetune.cli import main
from lc_finetune.hub import push


class FakeHub:
    """Records what is asked of it; `fails` names what it refuses."""

    def __init__(self, fails: str = "") -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._fails = fails

    def _note(self, name: str, **given: Any) -> None:
        if name == self._fails:
            raise PermissionError("secret")
        self.asked.append((name, given))

    def whoami(self) -> dict[str, str]:
        self._note("whoami")
        return {"name": "me"}

    def create_repo(self, repo_id: str, **given: Any) -> str:
        self._note("create_repo", repo_id=repo_id, **given)
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, **given: Any) -> None:
        self._note("upload_folder", **given)


def connect(monkeypatch: pytest.MonkeyPatch, fails: str = "") -> FakeHub:
    """Put a fake in the Hub's place."""
    hub = FakeHub(fails)
    monkeypatch.setattr("lc_finetune.hub.open_api", lambda: hub)
    return hub


def test_a_push_is_one_commit_into_a_private_repository(
    tiny_classifier: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `private/`; what an earlier checkpoint left there and would be read goes with it."""
    hub = connect(monkeypatch)
    address = push(tiny_classifier, "me/intents")
    (made, repo), (sent, upload) = hub.asked

    assert address == "https://huggingface.co/me/intents"
    assert (made, repo) == ("create_repo", {"repo_id": "me/intents", "private": True, "exist_ok": True})
    assert (sent, upload["repo_id"]) == ("upload_folder", "me/intents")
    assert upload["folder_path"] == str(tiny_classifier.path)
    assert (upload["ignore_patterns"], upload["delete_patterns"]) == (["private/*"], list(FETCHED))


def test_the_pattern_keeps_all_texts_back(tmp_path: Path) -> None:
    """As the Hub's own library reads it."""
    from huggingface_hub.utils import filter_repo_objects

    names = ["README.md", "private/mistakes.jsonl", "private/deep/replay.jsonl", "onnx/model.onnx"]

    assert list(filter_repo_objects(names, ignore_patterns=["private/*"])) == ["README.md", "onnx/model.onnx"]


@pytest.mark.parametrize("fails", ["create_repo", "upload_folder"])
def test_a_push_that_fails_says_where_the_checkpoint_is(
    fails: str, tiny_classifier: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And how to push it without training again; not what the Hub answered."""
    connect(monkeypatch, fails)
    with pytest.raises(ConfigError, match="hf upload me/intents") as failed:
        push(tiny_classifier, "me/intents")

    assert str(tiny_classifier.path) in str(failed.value)
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize(
    ("repo", "fails", "expected"),
    [
        ("intents", "", "expected ORG/NAME"),
        ("me/my intents", "", "expected ORG/NAME"),
        ("a/b/c", "", "expected ORG/NAME"),
        ("me/intents", "whoami", "set HF_TOKEN"),
    ],
)
def test_what_cannot_be_pushed_is_said_before_any_work(
    repo: str, fails: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A name that cannot be, or a user whom the Hub does not know: one line, nothing trained."""
    connect(monkeypatch, fails)

    assert main(["train", "--push-to-hub", repo, "--output-dir", str(tmp_path / "out")]) == 2
    assert expected in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_ends_with_its_push(
    base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder that is pushed is the one that was written, card and all."""
    hub = connect(monkeypatch)
    rows = [f"{text} {i},{label}" for i in range(12) for text, label in (("my card", "card"), ("some cash", "cash"))]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]))
    given = ["--train-file", str(tmp_path / "train.csv"), "--base-model", str(base_model), "--epochs", "1",
             "--output-dir", str(tmp_path / "out"), "--no-baseline"]  # fmt: skip

    assert main(["train", *given, "--push-to-hub", "me/intents"]) == 0
    assert [name for name, _ in hub.asked] == ["whoami", "create_repo", "upload_folder"]
    assert hub.asked[-1][1]["folder_path"] == str(tmp_path / "out")
    assert (tmp_path / "out" / "README.md").is_file()
    assert "Pushed to https://huggingface.co/me/intents" in capsys.readouterr().out
