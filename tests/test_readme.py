"""The code of README and of the pages runs."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import lc_finetune
from lc_finetune.checkpoint import FETCHED, MANIFEST
from lc_finetune.cli import main
from lc_finetune.remote import upload
from lc_finetune.testing import tiny_base_model, tiny_checkpoint
from lc_finetune.train import TrainConfig, fine_tune
from lc_finetune.train.base_model import BaseModel

ROOT = Path(__file__).parent.parent
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
INTEREST = ("interested", "not_interested")


def snippets(page: str) -> list[str]:
    """The Python code of a page, in order."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def test_every_snippet_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace, as a reader types them."""
    monkeypatch.chdir(tmp_path)
    rows = [
        f"{text} {i},{label}" for i in range(20) for text, label in (("where is it", "track_order"), ("hi", "other"))
    ]
    (tmp_path / "tickets.csv").write_text("\n".join(["text,label", *rows]))
    tiny_checkpoint(tmp_path / "runs" / "support", labels=("other", "track_order"))
    tiny_checkpoint(tmp_path / "runs" / "entities", task="token-classification")
    base = tiny_base_model(tmp_path / "base")
    namespace: dict[str, Any] = {}
    for snippet in snippets("README.md"):
        exec(snippet.replace('train_file="tickets.csv"', f'train_file="tickets.csv", base_model="{base}"'), namespace)

    assert namespace["careful"].invoke("Any news of it?").source == "llm" or namespace["result"].score >= 0.8
    assert len(namespace["results"]) == 2
    assert namespace["checkpoint"].path == Path("runs/tickets")


def commands(page: str) -> list[str]:
    """The commands of a page, in order, without what is said of them."""
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    return [line.partition(" #")[0].rstrip() for block in blocks for line in block.splitlines()]


def test_the_chinese_page_names_the_same_commands_and_code() -> None:
    """In the same order; only comments are in Chinese."""
    chinese = "README.zh-CN.md"

    assert commands("README.md") == commands(chinese)
    assert [ast.dump(ast.parse(one)) for one in snippets("README.md")] == [
        ast.dump(ast.parse(one)) for one in snippets(chinese)
    ]


def prose(page: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_chinese_page_names_the_same_things_and_refers_to_the_same_pages() -> None:
    """Every option, class, column, suffix and page that the one names, the other names too."""
    pages = [prose(name) for name in ("README.md", "README.zh-CN.md")]
    named, links = (
        [sorted(set(re.findall(pattern, page))) for page in pages]
        for pattern in (r"`([^`\n]+)`", r"\]\((docs/[^)]+)\)")
    )

    assert len(named[0]) >= 50
    assert named[0] == named[1]
    assert links[0] == links[1]


def test_the_readme_names_every_task_and_every_page_of_one() -> None:
    """A task that is added has its row."""
    page = prose("README.md")
    tasks = {entry for section in SITE["nav"] for entry in section.get("Tasks", ()) for entry in entry.values()}
    served = {name for name in lc_finetune.__all__ if name.endswith(("Classifier", "Tagger", "Regressor", "Answerer"))}

    assert len(served) >= 9
    assert [name for name in sorted(served) if f"| `{name}` |" not in page] == []
    assert [task for task in sorted(tasks) if f"](docs/{task})" not in page] == []


def test_the_page_on_several_labels_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "runs" / "topics", task="multi-label-classification", labels=("delivery", "payment"))
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/multi-label.md"):
        exec(snippet, namespace)

    assert set(namespace["answer"].scores) == {"delivery", "payment"}


def test_the_page_on_numbers_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "runs" / "ratings", task="regression")
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/regression.md"):
        exec(snippet, namespace)

    assert isinstance(namespace["answer"].value, float)


def test_the_page_on_relations_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "runs" / "relations", task="relation-classification", max_length=64)
    tiny_checkpoint(tmp_path / "runs" / "entities", task="token-classification")
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/relations.md"):
        exec(snippet, namespace)

    assert (namespace["one"].head.text, namespace["one"].tail.text) == ("Ann", "Acme")
    assert len(namespace["found"]) == len(namespace["every"].relations)


def test_the_page_on_question_answering_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "runs" / "questions", task="question-answering")
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/question-answering.md"):
        exec(snippet, namespace)

    assert namespace["reply"].context[namespace["reply"].start : namespace["reply"].end] == namespace["reply"].answer
    assert len(namespace["replies"]) == 2


def test_the_page_on_intents_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "runs" / "assistant", task="intent-and-entities", labels=("book_table", "call"))
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/intents.md"):
        exec(snippet, namespace)

    assert namespace["frame"].label in ("book_table", "call")
    assert namespace["booking"] == "a person" or isinstance(namespace["booking"], dict)
    assert namespace["left"].missing_keys == []
    assert namespace["classifier"].config.id2label == {0: "book_table", 1: "call"}


def test_the_page_on_explaining_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "runs" / "support", labels=("other", "refund", "track_order"))
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/explaining.md"):
        exec(snippet, namespace)

    assert namespace["part"].text == "."


def test_the_page_on_langchain_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "runs" / "support", labels=("other", "track_order"))
    tiny_checkpoint(tmp_path / "runs" / "entities", task="token-classification")
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/langchain.md"):
        exec(snippet, namespace)

    assert list(namespace["rows"][0]) == ["classification", "tagging"]
    assert {"label", "tagging"} <= set(namespace["with_entities"].invoke("Hello"))
    assert len(namespace["answers"]) == 2
    assert namespace["label"] in ("other", "track_order")


def test_the_page_on_text_pairs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "runs" / "interest", task="text-pair-classification", labels=INTEREST)
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/text-pairs.md"):
        exec(snippet, namespace)

    assert {result.text_pair for result in namespace["ranked"]} == set(namespace["items"])


def test_the_page_on_confidence_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "runs" / "support")
    rows = [f"{text} {i},{label}" for i in range(20) for text, label in (("where is it", "card"), ("hi", "other"))]
    (tmp_path / "held_out.csv").write_text("\n".join(["text,label", *rows]))
    assert main(["calibrate", "runs/support", "held_out.csv"]) == 0
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/confidence.md"):
        exec(snippet, namespace)

    assert namespace["strict"].invoke("Where is my parcel?").accepted is False


def test_the_page_on_evaluation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "runs" / "support", labels=("other", "track_order"))
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/evaluate.md"):
        exec(snippet, namespace)

    assert [answer.wanted for answer in namespace["evaluation"].answers] == ["track_order", "other"]


def test_the_page_on_saving_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a store in memory."""
    monkeypatch.setenv("LC_FINETUNE_CACHE", str(tmp_path / "cache"))
    made = tiny_checkpoint(tmp_path / "support")
    upload(made.path, "memory://models/support", last=MANIFEST, replaced=FETCHED)
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/saving-and-tracking.md"):
        exec(snippet, namespace)

    assert namespace["classifier"].labels == made.labels.names


def test_the_page_on_agents_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "runs" / "sentiment", labels=("negative", "neutral", "positive"))
    tiny_checkpoint(tmp_path / "runs" / "support", labels=("other", "track_order"))
    tiny_checkpoint(tmp_path / "runs" / "entities", task="token-classification", labels=("CITY", "PERSON"))
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/agents.md"):
        exec(snippet, namespace)

    assert namespace["state"]["sentiment_trail"][-1]["label"] in namespace["mood"].labels
    assert namespace["noted"]["label"] in namespace["intent"].labels


def test_the_page_on_recipes_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace."""
    base = tiny_base_model(tmp_path / "base")
    monkeypatch.setattr("lc_finetune.train.base_model.resolve_base_model", lambda _: BaseModel(base, "base"))
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "runs" / "demo" / "support", labels=("other", "track_order"))
    tiny_checkpoint(tmp_path / "runs" / "demo" / "entities", task="token-classification")
    tiny_checkpoint(tmp_path / "runs" / "demo" / "sentiment", labels=("negative", "neutral", "positive"))
    tiny_checkpoint(tmp_path / "runs" / "demo" / "interest", task="text-pair-classification", labels=INTEREST)
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/chains.md"):
        exec(snippet, namespace)

    assert namespace["item"]["entities"]["ORDER_ID"] == "C4-80031"
    assert [event["event"] for event in namespace["events"]] == ["window"]
    assert (tmp_path / "state.json").exists()
    assert len(namespace["advice"]["ranking"]) == 2


def test_the_page_on_adapters_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the base model that the adapter names."""
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    tiny_base_model(tmp_path / "base")
    rows = [f"{text} {i},{label}" for i in range(20) for text, label in (("where is it", "a"), ("hi", "b"))]
    (tmp_path / "tickets.csv").write_text("\n".join(["text,label", *rows]))
    given = {"train_file": "tickets.csv", "base_model": "base", "output_dir": "runs/adapted", "adapter": "lora"}
    fine_tune(TrainConfig(**given, epochs=1, baseline=False))
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/adapters.md"):
        exec(snippet, namespace)

    assert namespace["model"].config.id2label == {0: "a", 1: "b"}


def test_the_page_on_searching_runs(tmp_path: Path) -> None:
    """In Python the space is the mapping of the page's file."""
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/hyper-parameter-search.md"):
        exec(snippet, namespace)
    page = (ROOT / "docs" / "hyper-parameter-search.md").read_text(encoding="utf-8")
    (file,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "space.yaml").write_text(file)
    read = TrainConfig.of({"search": 20, "search_space": str(tmp_path / "space.yaml")})

    assert namespace["config"].search_space["batch_size"] == read.search_space["batch_size"]


LEFT_OUT = {
    "CONTRIBUTING.md": "pieces of code, to show a style",
    "README.zh-CN.md": "the code of README.md, as another test says",
}


def test_no_page_with_code_is_left_out() -> None:
    """Each is named where its code is run; code in fences of another form would not be seen."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    fences = {
        page.relative_to(ROOT).as_posix(): re.findall(r"^ *```(py.*)$", page.read_text(encoding="utf-8"), re.M)
        for page in pages
    }
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    run = set(re.findall(r'snippets\(\s*"([^"]+)"', tests))

    assert {page for page, found in fences.items() if found} == run | set(LEFT_OUT)
    assert {page for page, found in fences.items() if set(found) - {"python"}} == {"docs/coming-from.md"}
