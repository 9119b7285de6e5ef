"""Pairs of texts: one model reads both at once, whatever their lengths."""

import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lc_finetune.checkpoint import Checkpoint
from lc_finetune.errors import InputError
from lc_finetune.inference import Predictor, plan
from lc_finetune.inference.encode import Encoder
from lc_finetune.inference.export import export
from lc_finetune.testing import TOKENIZER_KINDS, TokenizerKind, tiny_checkpoint

PAIRS = [
    ("where is my card", "it has not arrived"),
    ("", "the cash machine kept my card"),
    ("I need to top up some cash, please!", ""),
    ("x " * 60, "one card"),
    ("one card", "y " * 60),
    ("x " * 60, "y z " * 40),
    ("Ünïcödé 😀 text", "卡片"),
]


@pytest.fixture(scope="session", params=TOKENIZER_KINDS)
def any_pair_classifier(request: pytest.FixtureRequest, checkpoints: Path) -> Checkpoint:
    """A classifier of pairs of each tokenizer family in turn."""
    kind: TokenizerKind = request.param
    return tiny_checkpoint(checkpoints / f"pairs-{kind}", task="text-pair-classification", tokenizer=kind)


@pytest.fixture(scope="session")
def encoder(checkpoints: Path) -> Encoder:
    """Of a BERT-like tokenizer, for which each word and ideograph used here is one piece."""
    return Encoder(tiny_checkpoint(checkpoints / "pairs-encoder").path, offsets=False)


def logits_of(predictor: Predictor, pairs: Any) -> np.ndarray[Any, Any]:
    """Log-probabilities, which fix logits up to a constant."""
    return np.log([list(result.scores.values()) for result in predictor.predict(pairs)])


def test_the_logits_are_transformers_own(any_pair_classifier: Checkpoint) -> None:
    """As of `tokenizer(text, text_pair)`, token types included: within 1e-5, alone and in a batch."""
    model = AutoModelForSequenceClassification.from_pretrained(any_pair_classifier.path).eval()
    tokenizer = AutoTokenizer.from_pretrained(any_pair_classifier.path)
    short = [pair for pair in PAIRS if len(tokenizer(*pair).input_ids) <= 32]
    with torch.inference_mode():
        theirs = [model(**tokenizer(*pair, return_tensors="pt")).logits.log_softmax(-1)[0].numpy() for pair in short]
    predictor = Predictor.load(any_pair_classifier, device="cpu", backend="torch")

    assert len(short) >= 3
    np.testing.assert_allclose(logits_of(predictor, short), theirs, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([logits_of(predictor, [pair]) for pair in short]), theirs, atol=1e-5)


def test_a_pair_alone_and_in_a_batch_gives_the_same(any_pair_classifier: Checkpoint) -> None:
    """Long ones too, whichever text is the longer: within 1e-5."""
    predictor = Predictor.load(any_pair_classifier, device="cpu", backend="torch")
    together = logits_of(predictor, PAIRS * 5)[: len(PAIRS)]

    np.testing.assert_allclose(together, np.concatenate([logits_of(predictor, [pair]) for pair in PAIRS]), atol=1e-5)


@given(st.integers(0, 90), st.integers(0, 90), st.integers(4, 40))
def test_the_shorter_text_is_kept_whole_if_half_of_the_room_is_enough(first: int, second: int, room: int) -> None:
    """What fits is not cut; otherwise the window is full, and neither text has less than half unless it needs less."""
    shared = plan.rooms(first, second, room)

    if first + second <= room:
        assert shared == (first, second)
    else:
        assert sum(shared) == room
        assert all(given >= min(length, room // 2) for given, length in zip(shared, (first, second), strict=True))
        if min(first, second) <= room // 2:
            assert min(first, second) in shared


@given(st.integers(0, 60), st.integers(0, 60), st.integers(12, 40), st.integers(0, 20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_piece_of_both_texts_is_read(encoder: Encoder, first: int, second: int, length: int, stride: int) -> None:
    """Each piece of the one meets each piece of the other in a window; no window is too long; shares add up to 1."""
    ideographs = [chr(0x4E00 + i) for i in range(first + second)]  # a piece each
    texts = "".join(ideographs[:first]), "".join(ideographs[first:])
    (encoding,) = encoder.encode_pairs([texts], max_length=length, stride=stride)
    ours, theirs = (one.ids for one in encoder.encode(texts) if not isinstance(one, InputError))
    assert not isinstance(encoding, InputError)
    ranges = plan.windows(len(encoding.ids), length - len(encoding.frames[0]), stride)
    (opening,), (closing,) = encoder.frame.before, encoder.frame.after
    rows = [frame.around(encoding.ids[start:end]) for frame in encoding.frames for start, end in ranges]
    types = [frame.types_around(end - start) for frame in encoding.frames for start, end in ranges]

    assert max(map(len, rows)) <= length
    assert sum(frame.share for frame in encoding.frames) == pytest.approx(1.0)
    met = set()
    for row, of_row in zip(rows, types, strict=True):
        left, right = ([piece for piece in row if piece in ids] for ids in (ours, theirs))
        assert row == [opening, *left, closing, *right, closing]
        assert of_row == [0] * (len(left) + 2) + [1] * (len(right) + 1)
        met |= set(product(left, right))
    assert met == set(product(ours, theirs))
    assert len(rows) == 1 or first + second > length - 3


def test_a_repeated_text_is_the_frame_of_each_window(encoder: Encoder) -> None:
    """As question and context: `[CLS] first [SEP] window [SEP]`, and token types 0 and 1."""
    (encoding,) = encoder.encode_pairs([("card", "cash " * 20)], max_length=12, stride=2)
    assert not isinstance(encoding, InputError)
    (frame,) = encoding.frames
    ((card,), (cash,)) = (one.ids for one in encoder.encode(["card", "cash"]) if not isinstance(one, InputError))
    opening, closing = encoder.frame.before, encoder.frame.after

    assert frame.around([cash]) == [*opening, card, *closing, cash, *closing]
    assert frame.types_around(1) == [0, 0, 0, 1, 1]


def test_a_pair_that_breaks_the_tokenizer_fails_alone(any_pair_classifier: Checkpoint) -> None:
    """Whichever text it is."""
    pairs = [("fine", "fine"), ("\ud800", "fine"), ("fine", "\ud800")]
    good, *bad = Predictor.load(any_pair_classifier, device="cpu", backend="torch").predict(pairs)

    assert good.label
    assert all(isinstance(one, InputError) for one in bad)


@pytest.mark.parametrize("format", ["onnx", "openvino", "torch"])
def test_exports_take_the_token_types(any_pair_classifier: Checkpoint, tmp_path: Path, format: Any) -> None:
    """Within the least parity, on the bundled pairs; served, they answer as torch does, long pairs too."""
    copied = Path(shutil.copytree(any_pair_classifier.path, tmp_path / "c"))
    made = export(copied, format=format)
    checkpoint = Checkpoint.load(copied)

    assert Encoder(copied, offsets=False).token_types == (checkpoint.config["model_type"] == "bert")
    assert made.manifest.parity is not None
    assert made.manifest.parity.max_logit_error < 1e-4
    if format != "torch":
        exported, torch_one = (Predictor.load(checkpoint, device="cpu", backend=b) for b in (format, "torch"))
        np.testing.assert_allclose(logits_of(exported, PAIRS), logits_of(torch_one, PAIRS), atol=1e-4)


def test_the_export_for_single_texts_takes_no_token_types(tmp_path: Path) -> None:
    """Though the model has some: they would cost time and tell it nothing."""
    checkpoint = tiny_checkpoint(tmp_path / "c", onnx=True)
    session = onnxruntime.InferenceSession(checkpoint.path / "onnx" / "model.onnx")

    assert checkpoint.config["type_vocab_size"] == 2
    assert [one.name for one in session.get_inputs()] == ["input_ids", "attention_mask"]
