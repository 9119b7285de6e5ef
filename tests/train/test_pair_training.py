"""A label for two texts: from a file to a checkpoint that reads both."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lc_finetune import Checkpoint, DataError, PairClassifier
from lc_finetune.cli import main
from lc_finetune.data import PairExample, sample_file
from lc_finetune.inference.encode import Encoder
from lc_finetune.labels import LabelSet
from lc_finetune.testing import tiny_base_model
from lc_finetune.train import TrainConfig, fine_tune
from lc_finetune.train.tokenization import Windowing, classification_features

WORDS = ("card", "cash", "order", "money")


def write_table(folder: Path) -> Path:
    """Whether both texts speak of the same: neither text alone tells."""
    rows = [f"the {a} {i},my {b} please,{'same' if a == b else 'other'}"
            for i in range(3) for a in WORDS for b in (a, *WORDS)]  # fmt: skip
    path = folder / "train.csv"
    path.write_text("\n".join(["sentence1,sentence2,label", *rows]), encoding="utf-8")
    return path


def options(base: Path, table: Path, output: Path, **more: Any) -> dict[str, Any]:
    return {"base_model": str(base), "train_file": str(table), "output_dir": str(output), "epochs": 2, "batch_size": 8,
            "learning_rate": 0.001, **more}  # fmt: skip


@pytest.fixture(scope="module")
def trained(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, str]:
    """A checkpoint, and what was said on the way."""
    folder = tmp_path_factory.mktemp("pairs")
    said: list[str] = []
    table = write_table(folder)
    files = {"validation_file": str(table), "test_file": str(table)}
    checkpoint = fine_tune(TrainConfig(**options(base_model, table, folder / "out", **files)), say=said.append)
    return checkpoint, "\n".join(said)


def test_a_table_becomes_a_classifier_of_pairs(trained: tuple[Checkpoint, str]) -> None:
    """It serves from its export, and is a plain Hugging Face folder that answers the same to `tokenizer(a, b)`."""
    checkpoint, said = trained
    classifier = PairClassifier.from_checkpoint(checkpoint, device="cpu")
    result = classifier.invoke({"text": "the card", "text_pair": "my card please"})
    raw = PairClassifier.from_checkpoint(checkpoint, device="cpu", backend="torch")._loaded()
    seen: list[Any] = []
    decode = raw.decode
    raw.decode = lambda *given: (seen.append(given[2]), decode(*given))[1]  # type: ignore[method-assign]
    raw.predict([("the card", "my card please")])
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint.path).eval()
    with torch.inference_mode():
        given = AutoTokenizer.from_pretrained(checkpoint.path)("the card", "my card please", return_tensors="pt")
        logits = model(**given).logits[0]

    assert "read as pairs of 'sentence1' and 'sentence2'" in said
    assert checkpoint.task == "text-pair-classification"
    assert classifier._loaded().backend.name == "onnx"
    assert set(classifier.labels) == {"same", "other"}
    assert (result.text_pair, result.accepted is None) == ("my card please", False)
    assert seen[0] == pytest.approx(logits.numpy(), abs=1e-5)


def test_what_is_recorded(trained: tuple[Checkpoint, str]) -> None:
    """Figures as of a classifier, with the frozen baseline; calibration, scope, a card with the right call."""
    checkpoint, _ = trained
    manifest = checkpoint.manifest
    assert manifest is not None
    card = (checkpoint.path / "README.md").read_text(encoding="utf-8")

    assert {"accuracy", "macro_f1", "confidence", "frozen_baseline"} <= set(checkpoint.metrics["test"])
    assert [one.backend for one in manifest.calibration] == ["torch", "onnx"]
    assert "scope.safetensors" in manifest.files
    assert 'model.invoke({"text": "…", "text_pair": "…"})' in card


@pytest.mark.parametrize("kind", ["wordpiece", "bytelevel"])
def test_features_are_what_is_served(tmp_path: Path, kind: Any) -> None:
    """Rows of `tokenizer(a, b)`, token types where the model has some; every window of a long pair has the label."""
    base = tiny_base_model(tmp_path / "base", tokenizer=kind)
    tokenizer, encoder = AutoTokenizer.from_pretrained(base), Encoder(base, offsets=False)
    examples = [PairExample("the card", "same", "my card"), PairExample("the card", "other", "cash " * 60)]
    short, *long = classification_features(examples, encoder, LabelSet(("other", "same")), Windowing(32, 8))

    assert {**tokenizer("the card", "my card"), "labels": 1} == short
    assert len(long) > 1
    assert {row["labels"] for row in long} == {0}
    assert ("token_type_ids" in short) == (kind == "wordpiece")
    assert all(len(row["input_ids"]) == len(row.get("token_type_ids", row["input_ids"])) <= 32 for row in long)


def test_files_of_one_kind_are_asked_for(base_model: Path, tmp_path: Path) -> None:
    """Pairs and single texts do not mix."""
    table = write_table(tmp_path)
    (tmp_path / "test.csv").write_text("text,label\nmy card,same\n", encoding="utf-8")

    with pytest.raises(DataError, match="expected a text-pair column"):
        fine_tune(TrainConfig(**options(base_model, table, tmp_path / "o", test_file=str(tmp_path / "test.csv"))))
    with pytest.raises(DataError, match="expected data for text-classification, found data for text-pair"):
        fine_tune(TrainConfig(**options(base_model, table, tmp_path / "o", task="text-classification",
                                        text_pair_column="sentence2")))  # fmt: skip


def test_the_command_line_says_how_to_call_it(
    base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With both texts."""
    arguments = ["--train-file", str(write_table(tmp_path)), "--base-model", str(base_model), "--epochs", "1",
                 "--output-dir", str(tmp_path / "out"), "--no-baseline"]  # fmt: skip

    assert main(["train", *arguments]) == 0
    assert 'model.invoke({"text": "…", "text_pair": "…"})' in capsys.readouterr().out


@pytest.mark.slow
def test_the_bundled_sample_trains_on_the_bundled_base_model(tmp_path: Path) -> None:
    """People and items."""
    files = {f"{part}_file": str(sample_file("pairs", part)) for part in ("train", "validation", "test")}
    checkpoint = fine_tune(TrainConfig(output_dir=str(tmp_path / "out"), epochs=4, **files))

    assert checkpoint.labels.names == ("interested", "not_interested")
    assert checkpoint.metrics["test"]["rows"] == 30
    assert checkpoint.metrics["test"]["accuracy"] > 0.4
