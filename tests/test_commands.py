"""The commands of the pages, and their settings: each is understood by the program that it names."""

import argparse
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from lc_finetune.cli import main
from lc_finetune.train import TrainConfig

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
TARGETS = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
OTHERS = {"curl", "uvicorn", ".", "python"}
"""Programs that are not ours; `python` alone."""


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """The blocks of a language, each with its page."""
    for page in PAGES:
        for block in re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            yield page.relative_to(ROOT).as_posix(), block


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command as its words, without what is set before it, variables and cores, with its page."""
    for page, block in blocks("console"):
        for line in re.sub(r"\\\n|\btaskset -c \d+ ", " ", block).splitlines():
            words = shlex.split(line, comments=True)
            yield page, words[next(i for i, word in enumerate(words) if not re.match(r"\w+=", word)) :]


COMMANDS = list(dict.fromkeys((page, shlex.join(words)) for page, words in commands()))


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda value: value)
def test_a_command_is_understood(page: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the parser of its program; `make` has its target, and `pip` its extra."""
    monkeypatch.chdir(tmp_path)
    for names in re.findall(r"--label-names (\S+/\S+)", command):  # which a configuration reads
        Path(names).parent.mkdir()
        Path(names).write_text("joy\nanger\n")
    match shlex.split(command):
        case ["make", target]:
            assert target in TARGETS
        case ["pip", "install", *what] | ["python", "-m", "pip", "install", *what]:
            assert all((ROOT / file).is_file() for option, file in pairwise(what) if option in ("-c", "-r"))
            assert {extra for word in what for extra in re.findall(r"\[([\w-]+)\]", word)} <= set(EXTRAS)
        case ["lc-finetune", *arguments]:
            assert understood(main, arguments, monkeypatch)
        case ["python", "-m", "lc_finetune.train", *arguments] | [
            "torchrun", "--nproc-per-node", _, "-m", "lc_finetune.train", *arguments
        ]:  # fmt: skip
            assert understood(main, ["train", *arguments], monkeypatch)
        case ["python", "-m", module] if module.startswith("chains."):
            assert callable(import_module(module).main)
        case ["python", "-m", module, *arguments]:
            assert understood(import_module(module).main, arguments, monkeypatch)
        case ["python", "-c", code]:
            compile(code, page, "exec")
        case [program, *_]:
            assert program in OTHERS


class UnderstoodError(Exception):
    """Raised where a program would begin its work."""


def understood(program: Any, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a program takes the arguments; an option that it does not have ends it."""
    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, given: Any = None, namespace: Any = None) -> None:
        options = vars(parse(parser, given, namespace))
        if getattr(options.get("run"), "__name__", "") == "_train":
            fields = {name: value for name, value in options.items() if name in TrainConfig.model_fields}
            TrainConfig.of({name: value for name, value in fields.items() if value is not None})
        raise UnderstoodError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(UnderstoodError):
        program(arguments)
    return True


def test_there_are_commands_on_the_pages() -> None:
    """Of every command of ours; one that no page shows is hardly found."""
    shown = {command.split()[1] for _, command in COMMANDS if command.startswith("lc-finetune ")}

    assert {"train", "predict", "evaluate", "calibrate", "export", "inspect", "label", "explain", "serve"} <= shown
    assert len(COMMANDS) > 60


SETTINGS = {
    "docs/data-formats.md": "label_map",
    "docs/few-labels.md": None,
    "docs/hyper-parameter-search.md": "search_space",
}
"""Page → the field that its YAML is the value of, if it is not a whole configuration."""


@pytest.mark.parametrize(("page", "block"), blocks("yaml"), ids=lambda value: value.partition("\n")[0])
def test_settings_are_understood(page: str, block: str, tmp_path: Path) -> None:
    """As a configuration, or as the file that an option names."""
    field = SETTINGS[page]
    (tmp_path / "settings.yaml").write_text(block)
    given: dict[str, Any] = yaml.safe_load(block) if field is None else {field: str(tmp_path / "settings.yaml")}

    assert TrainConfig.of({"train_file": "tickets.csv", **({"search": 20} if field == "search_space" else {}), **given})
