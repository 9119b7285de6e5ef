"""The notebooks are clean, listed, and run from the first cell to the last."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SHORT = ("first-tagger",)
"""Run by `make test`, with little training; `make test-all` runs all as they are."""


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_clean(path: Path) -> None:
    """It is valid, its cells have names, and it holds no output and no count of a run."""
    notebook = read(path)
    names = [cell.id for cell in notebook.cells]

    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in names)
    assert len(set(names)) == len(names)
    assert [cell.id for cell in code_cells(notebook) if cell.outputs or cell.execution_count is not None] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_begins_with_the_installation(path: Path) -> None:
    """The cell is the same in all, and installs nothing where the package is."""
    first = read(path).cells[0]

    assert read(NOTEBOOKS[0]).cells[0] == first
    assert 'if find_spec("lc_finetune") is None:\n    %pip install' in first.source


def test_the_index_lists_every_notebook_with_its_question() -> None:
    """In the words of the notebook's title."""
    rows = re.findall(r"^\| \[([\w-]+)\]\(([\w-]+)\.ipynb\) \| (.+) \|$", (FOLDER / "README.md").read_text(), re.M)
    questions = {path.stem: read(path).cells[1].source.splitlines()[0].removeprefix("# ") for path in NOTEBOOKS}

    assert questions == {name: question for name, _, question in rows}
    assert all(name == linked for name, linked, _ in rows)


def test_links_lead_to_files() -> None:
    """Whatever a notebook refers to in this repository is there."""
    pages = "\n".join(cell.source for path in NOTEBOOKS for cell in read(path).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", pages)

    assert links
    assert [link for link in links if not (FOLDER / link).is_file()] == []


@pytest.mark.parametrize("name", SHORT)
def test_a_short_notebook_runs_with_one_pass_over_the_data(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every cell, in order; a better model would change the answers only."""
    notebook = read(FOLDER / f"{name}.ipynb")
    for cell in code_cells(notebook):
        cell.source = re.sub(r"epochs=\d+", "epochs=1", cell.source)

    assert len(run(notebook, tmp_path, monkeypatch)) >= 5


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all, as on a reader's machine: what one notebook has trained, the next one loads."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell, in order, as it is stored, and without a word on stderr."""
    outputs = run(read(path), shared, monkeypatch)

    assert [output.text for output in outputs if output.get("name") == "stderr"] == []


def run(notebook: NotebookNode, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[NotebookNode]:
    """Execute it in the folder, without the Hub; returns what it shows."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent), prepend=":")

    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()

    return [output for cell in code_cells(notebook) for output in cell.outputs]
