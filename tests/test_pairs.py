"""Pairs of texts: one model reads both at once, whatever their lengths."""

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lc_finetune import Cascade, LabelRouter, PairClassification, PairClassifier, TextClassifier
from lc_finetune.bulk import PredictConfig, predict_file
from lc_finetune.checkpoint import Checkpoint
from lc_finetune.cli import main
from lc_finetune.errors import CheckpointError, InputError
from lc_finetune.inference import Predictor, plan
from lc_finetune.inference.encode import Encoder
from lc_finetune.inference.export import export
from lc_finetune.testing import TOKENIZER_KINDS, FakeClassifier, TokenizerKind, tiny_checkpoint

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
    with torch.inference_mode():  # a list, since of a lone pair with a blank second text transformers makes a single
        theirs = [model(**tokenizer([pair], return_tensors="pt")).logits.log_softmax(-1)[0].numpy() for pair in short]
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


# The Runnable.


@pytest.fixture(scope="session")
def pair_checkpoint(checkpoints: Path) -> Checkpoint:
    """A classifier of pairs: labels card, cash, other; windows of 32 pieces."""
    return tiny_checkpoint(checkpoints / "pairs", task="text-pair-classification")


@pytest.fixture(scope="session")
def classifier(pair_checkpoint: Checkpoint) -> PairClassifier:
    return PairClassifier.from_checkpoint(pair_checkpoint, device="cpu")


@pytest.mark.parametrize(
    "given",
    [
        {"text": "my card", "text_pair": "is lost"},
        ("my card", "is lost"),
        {"text": HumanMessage("my card"), "text_pair": Document("is lost"), "score": 3},
        PairClassification(text="my card", text_pair="is lost", label="other"),
    ],
)
def test_shapes_of_a_pair(classifier: PairClassifier, given: Any) -> None:
    """A mapping, whose values may be what a text may be; a tuple; a result."""
    result = classifier.invoke(given)

    assert isinstance(result, PairClassification)
    assert (result.text, result.text_pair) == ("my card", "is lost")
    assert result.label in classifier.labels
    assert sum(result.scores.values()) == pytest.approx(1.0)
    assert "card" not in repr(result).replace("'card'", "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("secret", "found str"),
        (["secret", "secret"], "found list"),
        (("secret", "secret", "secret"), "found tuple"),
        (("secret", 3), "found tuple"),
        ({"text": "secret"}, "found a mapping with text. Name the keys with input_key= and pair_key="),
        ({"text": "secret", "text_pair": None}, "found NoneType"),
        ({"text": "secret", "text_pair": {"text": "secret"}}, "under 'text_pair', found another mapping"),
    ],
)
def test_what_is_no_pair_is_refused(classifier: PairClassifier, given: Any, message: str) -> None:
    """In its own slot, by its type alone."""
    good, bad = classifier.batch([("a", "b"), given], return_exceptions=True)

    assert good.label
    assert isinstance(bad, InputError)
    assert message in str(bad)
    assert "secret" not in str(bad)


def test_keys_can_be_named(pair_checkpoint: Checkpoint, classifier: PairClassifier) -> None:
    """As columns are called elsewhere; which text is first makes a difference."""
    named = PairClassifier.from_checkpoint(pair_checkpoint, device="cpu", input_key="history", pair_key="item")
    result = named.invoke({"history": "my card", "item": "is lost"})

    assert result.scores == classifier.invoke(("my card", "is lost")).scores
    assert result.scores != classifier.invoke(("is lost", "my card")).scores
    assert set(named.as_tool(name="interest", description="…").args) == {"history", "item"}


def test_the_tool_answers_without_the_texts(classifier: PairClassifier) -> None:
    """Which the caller has."""
    answered = json.loads(classifier.as_tool(name="n", description="d").invoke({"text": "a", "text_pair": "b"}))

    assert answered["label"] == classifier.invoke(("a", "b")).label
    assert not {"text", "text_pair"} & set(answered)


def test_a_router_takes_its_results(classifier: PairClassifier) -> None:
    """A `PairClassification` is a `Classification`."""
    routed = classifier | LabelRouter(routes={}, default=RunnableLambda(lambda result: result.text_pair))

    assert routed.invoke(("my card", "is lost")) == "is lost"


def test_a_cascade_refuses_its_results(classifier: PairClassifier) -> None:
    """Its large model would be asked about the first text alone."""
    cascade = Cascade(small=classifier, threshold=1.0, large=FakeClassifier(labels=("card", "cash", "other")))

    with pytest.raises(InputError, match="found one of a pair"):
        cascade.invoke(("my card", "is lost"))


def test_each_class_names_the_one_that_serves_the_other(
    tiny_classifier: Checkpoint, pair_checkpoint: Checkpoint
) -> None:
    """A pair model reads two texts, a text model one."""
    with pytest.raises(CheckpointError, match="Load it with PairClassifier"):
        TextClassifier.from_checkpoint(pair_checkpoint.path, device="cpu")
    with pytest.raises(CheckpointError, match="Load it with TextClassifier"):
        PairClassifier.from_checkpoint(tiny_classifier.path, device="cpu")


def test_a_plain_folder_answers_pairs_if_it_is_asked(pair_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """A classifier of the Hub does not say what it reads: which class loads it decides, and both may at once."""
    plain = Path(shutil.copytree(pair_checkpoint.path, tmp_path / "plain"))
    (plain / "lc_finetune.json").unlink()
    of_texts = TextClassifier.from_checkpoint(plain, device="cpu")
    of_pairs = PairClassifier.from_checkpoint(plain, device="cpu")
    expected = PairClassifier.from_checkpoint(pair_checkpoint, device="cpu").invoke(("my card", "is lost"))

    assert of_pairs.invoke(("my card", "is lost")) == expected
    assert of_texts.invoke("my card").text == "my card"


def test_a_pair_with_a_blank_text_is_never_accepted(pair_checkpoint: Checkpoint) -> None:
    """Whichever it is, and whatever its score."""
    classifier = PairClassifier.from_checkpoint(pair_checkpoint, device="cpu", accept_score=0.0)
    accepted = [result.accepted for result in classifier.batch([("a", "b"), ("", "b"), ("a", " \n")])]

    assert accepted == [True, False, False]


# The command line.


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_file_of_pairs_is_answered(pair_checkpoint: Checkpoint, tmp_path: Path, suffix: str) -> None:
    """Row by row; a row that lacks a text says which."""
    rows = [{"premise": "my card", "hypothesis": "is lost"}, {"premise": "my cash", "hypothesis": None}]
    source, output = tmp_path / f"in.{suffix}", tmp_path / "out.jsonl"
    if suffix == "csv":
        source.write_text("premise,hypothesis\nmy card,is lost\n", "utf-8")
    elif suffix == "jsonl":
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), source)
    predict_file(PredictConfig(checkpoint=str(pair_checkpoint.path), input=source, output=output, device="cpu"))
    answered = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    expected = PairClassifier.from_checkpoint(pair_checkpoint, device="cpu").invoke(("my card", "is lost"))

    assert (answered[0]["label"], answered[0]["error"]) == (expected.label, None)
    assert answered[0]["score"] == pytest.approx(expected.score, abs=1e-5)
    if suffix != "csv":
        assert answered[1]["label"] is None
        assert answered[1]["error"] == "Expected a text in 'hypothesis', found none."


def test_a_column_of_pairs_is_refused_where_none_are_read(
    tiny_classifier: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line."""
    (tmp_path / "in.csv").write_text("text,text_pair\na,b\n", "utf-8")
    arguments = ["--input", str(tmp_path / "in.csv"), "--output", str(tmp_path / "o.csv"), "--text-pair-column", "b"]

    assert main(["predict", str(tiny_classifier.path), *arguments]) == 2
    assert "expected a checkpoint for text pairs, or questions, for --text-pair-column" in capsys.readouterr().err


def test_scores_are_calibrated_as_those_of_texts_are(
    pair_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the same command; answers then say whether they are accepted."""
    copied = Path(shutil.copytree(pair_checkpoint.path, tmp_path / "c"))
    rows = "".join(f"{word} {i},pair {i % 7},{word}\n" for i in range(40) for word in ("card", "cash", "other"))
    (tmp_path / "rows.csv").write_text(f"profile,item,label\n{rows}", "utf-8")

    assert main(["calibrate", str(copied), str(tmp_path / "rows.csv"), "--accept", "coverage=0.5"]) == 0
    assert "Recorded in" in capsys.readouterr().out
    (record,) = Checkpoint.load(copied).manifest.calibration  # type: ignore[union-attr]
    assert record.texts == 120
    assert PairClassifier.from_checkpoint(copied, device="cpu").invoke(("card", "pair")).accepted is not None
