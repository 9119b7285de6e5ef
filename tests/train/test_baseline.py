"""What fine-tuning has to beat is fitted to rows of all kinds, whatever the order of the file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from lc_finetune.data import TaggedExample, TextExample
from lc_finetune.labels import Span
from lc_finetune.schemes import TagSet
from lc_finetune.testing import tiny_base_model
from lc_finetune.train import baseline


def rows_of(label: str, number: int) -> list[TextExample]:
    return [TextExample(f"{label} {label} number {i}", label) for i in range(number)]


def test_of_rows_sorted_by_class_some_of_each_are_fitted(base_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many common data sets are: the first rows alone are of one class."""
    monkeypatch.setattr(baseline, "ROWS", 20)
    train = [*rows_of("card", 30), *rows_of("cash", 30)]
    figures = baseline.classification_baseline(base_model, train, [*rows_of("card", 5), *rows_of("cash", 5)], 32)

    assert figures["accuracy"] > 0.5


def test_rows_of_one_class_are_answered_with_it(base_model: Path) -> None:
    """As those of a checkpoint that goes on from others, with a new label alone and none kept."""
    figures = baseline.classification_baseline(
        base_model, rows_of("loan", 4), [*rows_of("loan", 3), *rows_of("card", 1)], 32
    )

    assert figures["accuracy"] == 0.75


def test_texts_that_are_entities_and_nothing_else_have_one_tag(base_model: Path) -> None:
    """Which each unit of the others gets, too."""
    train = [TaggedExample("card", (Span(0, 4, "A"),))] * 3
    figures = baseline.tagging_baseline(base_model, train, train, TagSet.of_types(["A"]), 32, "word")

    assert figures["f1"] == 1.0


def test_a_base_model_in_half_precision_is_run_in_whole(tmp_path: Path) -> None:
    """Decoders are published in bfloat16, which NumPy does not have."""
    folder = tiny_base_model(tmp_path / "base", architecture="qwen2")
    AutoModel.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    [(_, states)] = baseline.encoder_states(folder, ["my card"], 32)

    assert AutoModel.from_pretrained(folder).dtype == torch.bfloat16
    assert states.dtype == np.float32


def test_states_come_in_the_order_of_the_texts(base_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few at a time, so that many texts need no more memory; whatever is read together is the same."""
    texts = ["my card", "cash " * 90, "", "where is my card", "no"]
    together = list(baseline.encoder_states(base_model, texts, 32))
    monkeypatch.setattr(baseline, "AT_ONCE", 2)
    apart = list(baseline.encoder_states(base_model, texts, 32))

    assert [encoding for encoding, _ in apart] == [encoding for encoding, _ in together]
    for (encoding, one), (_, other) in zip(apart, together, strict=True):
        assert one.shape == (len(encoding.ids[:30]) or 1, 32)
        assert np.abs(one - other).max() < 1e-5
