"""The documentation site: what `mkdocs build --strict` (in `make check`) does not see."""

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

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


@pytest.mark.parametrize("package", ["", ".agents", ".bulk", ".data", ".train"])
def test_every_public_class_and_function_is_in_the_reference(package: str) -> None:
    """Whatever `__all__` promises."""
    module = import_module(f"lc_finetune{package}")
    public = {name for name in module.__all__ if hasattr(getattr(module, name), "__qualname__")}

    assert len(public) >= 2
    assert sorted(public - documented()) == []
