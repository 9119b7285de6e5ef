"""The documentation site: what `mkdocs build --strict` (in `make check`) does not see."""

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from lc_finetune.testing import tiny_base_model, tiny_checkpoint
from tests.test_readme import commands, snippets

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def pages(entries: Any) -> Iterator[str]:
    """The pages of a navigation, in order."""
    for entry in entries if isinstance(entries, list) else [entries]:
        if isinstance(entry, dict):
            yield from (page for below in entry.values() for page in pages(below))
        else:
            yield entry


def test_every_page_is_in_the_navigation_once() -> None:
    """A new page is given its place."""
    assert sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")) == sorted(pages(SITE["nav"]))


def test_the_site_loads_nothing_from_elsewhere() -> None:
    """No fonts, styles or scripts of another host."""
    assert SITE["theme"]["font"] is False
    assert "extra_javascript" not in SITE
    assert [path for path in SITE["extra_css"] if not (DOCS / path).is_file()] == []


def documented() -> set[str]:
    """The names on the pages of the reference: those that are named, and those of modules that are."""
    names: set[str] = set()
    for page in (DOCS / "reference").glob("*.md"):
        for path in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M):
            module = ROOT / f"{path.replace('.', '/')}.py"
            if module.is_file():
                body = ast.parse(module.read_text(encoding="utf-8")).body
                names |= {node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
            else:
                names.add(path.rpartition(".")[2])
    return names


@pytest.mark.parametrize(
    "package", ["", ".agents", ".bulk", ".data", ".inspection", ".playground", ".serving", ".train"]
)
def test_every_public_class_and_function_is_in_the_reference(package: str) -> None:
    """Whatever `__all__` promises."""
    module = import_module(f"lc_finetune{package}")
    public = {name for name in module.__all__ if hasattr(getattr(module, name), "__qualname__")}

    assert len(public) >= 2
    assert sorted(public - documented()) == []


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "runs" / "demo" / "support", labels=("other", "track_order"))
    tiny_checkpoint(tmp_path / "runs" / "demo" / "entities", task="token-classification")
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/getting-started.md"):
        exec(snippet, namespace)

    assert len(namespace["answers"]) == 2


def test_the_tutorial_follows_the_two_commands_of_the_readme() -> None:
    """And ends with training on one's own rows, as the README goes on."""
    first, second, *others = commands("docs/getting-started.md")

    assert [first, second] == commands("README.md")[:2]
    assert set(others) - {"python"} <= set(commands("README.md"))


def titled_snippets(page: str) -> list[tuple[str, str]]:
    """The Python code of a page that stands under titles, with them."""
    return re.findall(r'```python title="([^"]+)"\n(.*?)```', (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def test_both_ways_do_the_same_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours run, and those of libraries that are installed; the others are Python at least."""
    base = tiny_base_model(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    rows = [
        f"{text} {i},{label}" for i in range(20) for text, label in (("where is it", "track_order"), ("hi", "other"))
    ]
    (tmp_path / "tickets.csv").write_text("\n".join(["text,label", *rows]))
    tiny_checkpoint(tmp_path / "runs" / "support", labels=("other", "refund", "track_order"))
    tiny_checkpoint(tmp_path / "runs" / "entities", task="token-classification", labels=("PERSON",))
    pairs = titled_snippets("docs/coming-from.md")
    namespaces: list[dict[str, Any]] = []
    for title, snippet in pairs:
        tiny = snippet.replace('train_file="tickets.csv"', f'train_file="tickets.csv", base_model="{base}"')
        code = compile(tiny, title, "exec")
        if title in ("lc_finetune", "transformers and LangChain"):
            namespaces.append({})
            exec(code, namespaces[-1])

    assert [title for title, _ in pairs[1::2]] == ["lc_finetune"] * 5
    theirs, ours, *_ = namespaces
    assert [one["label"] for one in theirs["many"]] == [one.label for one in ours["many"]]
    assert [one["score"] for one in theirs["many"]] == pytest.approx([one.score for one in ours["many"]], abs=1e-5)
    with pytest.raises(RuntimeError, match="size of"):
        theirs["pipe"]("card " * 100)  # what the page says of long texts
