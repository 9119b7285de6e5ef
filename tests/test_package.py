"""The package as it is imported."""

import subprocess
import sys
from importlib import import_module

import pytest

import lc_finetune
from lc_finetune.cli import main


def test_import_has_no_consequences() -> None:
    """Neither torch nor LangChain is loaded, and no logging is set up."""
    code = (
        "import sys, logging, lc_finetune;"
        "print([m for m in ('torch', 'transformers', 'langchain_core', 'pydantic') if m in sys.modules],"
        " logging.getLogger('lc_finetune').handlers)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[] []"


@pytest.mark.parametrize("name", lc_finetune.__all__)
def test_every_public_name_resolves(name: str) -> None:
    """What is promised is there."""
    assert name == getattr(lc_finetune, name).__name__


def test_the_promises_and_their_homes_agree() -> None:
    """`__all__` and the table of homes name the same things."""
    assert sorted(lc_finetune.__all__) == sorted(lc_finetune._HOME_OF)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["trian"], "Expected a command, found 'trian' (did you mean 'train'?)"),
        (["--hlep"], "Expected a known option, found '--hlep' (did you mean '--help'?)"),
    ],
)
def test_a_mistyped_command_is_one_line_with_a_guess(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And exit status 2."""
    assert main(given) == 2
    assert said in capsys.readouterr().err


def test_decision_models_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older LangChain has none: an ImportError that names the version and the remedy."""
    monkeypatch.setitem(sys.modules, "langchain_core.decisions", None)
    monkeypatch.delitem(sys.modules, "lc_finetune.decisions", raising=False)

    with pytest.raises(
        lc_finetune.MissingDependencyError, match=r"langchain-core 1\.8 or newer.*lc-finetune\[decisions\]"
    ):
        import_module("lc_finetune.decisions")
