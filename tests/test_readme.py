"""README's code runs, and the recipe it names."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from chains.customer_service import build_chain, fill_template
from lc_finetune import Checkpoint, Entity, EntityTagger, Tagging, TextClassifier
from lc_finetune.testing import tiny_base_model, tiny_checkpoint

ROOT = Path(__file__).parent.parent


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
    tiny_checkpoint(tmp_path / "runs" / "entities", task="token-classification")
    base = tiny_base_model(tmp_path / "base")
    namespace: dict[str, Any] = {}
    for snippet in snippets("README.md"):
        exec(snippet.replace('train_file="tickets.csv"', f'train_file="tickets.csv", base_model="{base}"'), namespace)

    assert namespace["careful"].invoke("Any news of it?").source == "llm" or namespace["result"].score >= 0.8
    assert len(namespace["results"]) == 2


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


def test_the_chinese_page_describes_the_same_formats_and_refers_to_the_same_pages() -> None:
    """Every suffix and every page of documentation that the one names, the other names too."""
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md")]
    suffixes, links = (
        [sorted(set(re.findall(pattern, page))) for page in pages]
        for pattern in (r"`(\.[a-z]+)`", r"\]\((docs/[^)]+)\)")
    )

    assert len(suffixes[0]) >= 9
    assert suffixes[0] == suffixes[1]
    assert links[0] == links[1]


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


def test_the_page_on_confidence_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "runs" / "support")
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/confidence.md"):
        exec(snippet, namespace)

    assert namespace["strict"].invoke("Where is my parcel?").accepted is False


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


def test_customer_service_routes_in_order(tiny_classifier: Checkpoint, tiny_tagger: Checkpoint) -> None:
    """By label, or to a person when the score is too low."""
    classifier = TextClassifier.from_checkpoint(tiny_classifier, device="cpu")
    tagger = EntityTagger.from_checkpoint(tiny_tagger, device="cpu")
    texts = [f"query {i}" for i in range(8)]
    label = classifier.invoke(texts[0]).label
    chain = build_chain(classifier, tagger, templates={label: "Done."}, least_score=0.0)
    careful = build_chain(classifier, tagger, templates={label: "Done."}, least_score=1.0)

    answered = chain.batch(texts)
    assert texts == [item["classification"].text for item in answered]
    assert all((item["route"] == label) == (item["classification"].label == label) for item in answered)
    assert {"person"} == {item["route"] for item in careful.batch(texts)}


def test_a_template_falls_back_when_an_entity_is_missing() -> None:
    """The first entity of the type wins."""
    entities = tuple(Entity(label="ORDER_ID", text=text, start=i, end=i + 2) for i, text in enumerate(["#1", "#2"]))

    assert fill_template("Find {ORDER_ID|it}.", Tagging(text="#1#2", entities=entities)) == "Find #1."
    assert fill_template("Find {ORDER_ID|it}.", Tagging(text="")) == "Find it."
