"""Tiny checkpoints for all tests: built once, offline, and never changed (copy one before you alter it)."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import settings

from lc_finetune.checkpoint import Checkpoint
from lc_finetune.testing import TOKENIZER_KINDS, TokenizerKind, tiny_base_model, tiny_checkpoint

# A job in the background is started without it, and so would be the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test measures time: the first example loads a model, which may take long on a busy machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the session's checkpoints."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="session")
def tiny_classifier(checkpoints: Path) -> Checkpoint:
    """A text classifier: labels card, cash, other; windows of 32 pieces."""
    return tiny_checkpoint(checkpoints / "classifier")


@pytest.fixture(scope="session")
def tiny_tagger(checkpoints: Path) -> Checkpoint:
    """A tagger: types LOC and PER; every piece carries a tag; windows of 32 pieces."""
    return tiny_checkpoint(checkpoints / "tagger", task="token-classification")


@pytest.fixture(scope="session", params=TOKENIZER_KINDS)
def tokenizer_kind(request: pytest.FixtureRequest) -> TokenizerKind:
    """Each family of tokenizers in turn."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def any_tagger(checkpoints: Path, tokenizer_kind: TokenizerKind) -> Checkpoint:
    """A tagger of each tokenizer family in turn."""
    return tiny_checkpoint(
        checkpoints / f"tagger-{tokenizer_kind}", task="token-classification", tokenizer=tokenizer_kind
    )


@pytest.fixture(scope="session")
def base_model(checkpoints: Path) -> Path:
    """A random encoder without a head, to fine-tune."""
    return tiny_base_model(checkpoints / "base")


@pytest.fixture(scope="session")
def tiny_ordinal(checkpoints: Path) -> Checkpoint:
    """A classifier of ordered labels: other, cash, card, from the lowest up; windows of 32 pieces."""
    return tiny_checkpoint(checkpoints / "ordinal", task="ordinal-classification", labels=("other", "cash", "card"))


@pytest.fixture(scope="session")
def tiny_multi_label(checkpoints: Path) -> Checkpoint:
    """A multi-label classifier: labels card, cash, other; windows of 32 pieces; thresholds that differ."""
    return tiny_checkpoint(
        checkpoints / "multi-label",
        task="multi-label-classification",
        thresholds={"card": 0.0, "cash": 1.0, "other": 0.5},
    )
