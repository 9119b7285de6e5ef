"""Explanations: which parts of a text speak for a label, and which training rows are most like it."""

from __future__ import annotations

import gc
import io
import json
import logging
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lc_finetune import (
    Attribution,
    Checkpoint,
    CheckpointError,
    ConfigError,
    EntityTagger,
    Explanation,
    InputError,
    MissingDependencyError,
    MultiLabelClassifier,
    PairClassifier,
    TextClassifier,
)
from lc_finetune.checkpoint import FETCHED, MANIFEST
from lc_finetune.cli import main
from lc_finetune.inference import explain
from lc_finetune.inference.explain import attributions, explainer_of
from lc_finetune.inference.outputs import outputs_of
from lc_finetune.remote import upload
from lc_finetune.testing import TokenizerKind, tiny_checkpoint
from lc_finetune.train import TrainConfig, fine_tune

LONG = "Where is my card? The cash machine kept it. " * 6
SECRET = "zebra"
KEPT = 12


@pytest.fixture(scope="module")
def classifier(tiny_classifier: Checkpoint) -> TextClassifier:
    return TextClassifier.from_checkpoint(tiny_classifier, device="cpu")


@pytest.fixture(scope="module")
def rows() -> dict[str, str]:
    """Texts, and the label of each."""
    return {
        f"{start} {name}, {end}": label
        for label, name in (("card", "my card"), ("cash", "the money"))
        for start in ("where is", "I want", "I lost", SECRET)
        for end in ("please", "today", "now", "at once")
    }


@pytest.fixture(scope="module")
def trained(base_model: Path, rows: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A classifier of card and cash that keeps some of its training rows."""
    return train(rows, base_model, tmp_path_factory.mktemp("trained"), keep_neighbours=KEPT)


def train(rows: dict[str, str], base_model: Path, folder: Path, **more: Any) -> Checkpoint:
    table = folder / "rows.jsonl"
    table.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows.items()))
    return fine_tune(
        TrainConfig(
            train_file=str(table), base_model=str(base_model), output_dir=str(folder / "out"), epochs=2, batch_size=8,
            baseline=False, **more,
        )
    )  # fmt: skip


def total(explanation: Explanation) -> float:
    return sum(one.weight for one in explanation.attributions)


@pytest.mark.parametrize("text", ["Where is my card?", LONG, "客户的 订单 👩🏽 in 🇫🇷", "", "  \n "])
def test_weights_add_up_to_what_the_text_adds(text: str, tokenizer_kind: TokenizerKind, checkpoints: Path) -> None:
    """To the logit, over the same text of padding; what is left over is small, and stated."""
    folder = checkpoints / f"explained-{tokenizer_kind}"
    checkpoint = Checkpoint.load(folder) if folder.exists() else tiny_checkpoint(folder, tokenizer=tokenizer_kind)
    model = TextClassifier.from_checkpoint(checkpoint, device="cpu")
    found = model.explain(text)
    difference = found.logit - found.baseline_logit
    served = outputs_of(model._loaded(), [text]).logits[0, model.labels.index(found.label)]

    assert total(found) - difference == pytest.approx(found.convergence_delta, abs=1e-9)
    assert total(found) == pytest.approx(difference, abs=0.01 * max(1, abs(difference)))
    assert found.logit == pytest.approx(served, abs=1e-4)
    assert found.text == text
    assert bool(found.attributions) == (difference != 0)


@pytest.mark.parametrize("text", ["Where is my card?", LONG, "客户的 订单 👩🏽 in 🇫🇷"])
def test_every_character_that_is_read_is_in_one_part(
    text: str, tokenizer_kind: TokenizerKind, checkpoints: Path
) -> None:
    """Offsets are exact and in order; blanks are in none at the ends of a part."""
    folder = checkpoints / f"explained-{tokenizer_kind}"
    checkpoint = Checkpoint.load(folder) if folder.exists() else tiny_checkpoint(folder, tokenizer=tokenizer_kind)
    found = TextClassifier.from_checkpoint(checkpoint, device="cpu").explain(text).attributions
    covered = [i for one in found for i in range(one.start, one.end)]

    assert [one.text for one in found] == [text[one.start : one.end] for one in found]
    assert [one.text.strip() for one in found] == [one.text for one in found]
    assert covered == sorted(set(covered))
    assert {i for i, character in enumerate(text) if not character.isspace()} <= set(covered)


def test_weights_are_integrals_of_gradients(classifier: TextClassifier, tiny_classifier: Checkpoint) -> None:
    """As a sum over many points on the line gives them, taken without captum."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    text = "Where is my card?"
    found = classifier.explain(text, target="cash")
    loader: Any = AutoModelForSequenceClassification
    model = loader.from_pretrained(tiny_classifier.path).eval()
    ids = AutoTokenizer.from_pretrained(tiny_classifier.path)(text, return_tensors="pt")["input_ids"]
    baseline = ids.clone()
    baseline[:, 1:-1] = 0
    start, end = (model.get_input_embeddings()(one).detach() for one in (baseline, ids))
    points = 500
    on_line = start + (end - start) * ((torch.arange(points) + 0.5) / points)[:, None, None]
    on_line.requires_grad_()
    model(inputs_embeds=on_line).logits[:, classifier.labels.index("cash")].sum().backward()
    assert on_line.grad is not None
    wanted = (on_line.grad.mean(0) * (end - start)[0]).sum(-1)[1:-1]

    assert [one.weight for one in found.attributions] == pytest.approx(wanted.tolist(), abs=2e-3)
    assert max(abs(one.weight) for one in found.attributions) > 0.05


def test_the_predicted_label_is_explained_unless_another_is_asked_for(classifier: TextClassifier) -> None:
    """With its probability as it is served."""
    result = classifier.invoke(LONG)
    others = [label for label in classifier.labels if label != result.label]

    assert (classifier.explain(LONG).label, classifier.explain(LONG).score) == (result.label, result.score)
    assert {"text": LONG}.items() <= classifier.explain({"text": LONG}).model_dump().items()
    for label in others:
        other = classifier.explain(LONG, target=label)
        assert (other.label, other.score) == (label, result.scores[label])
        assert other.logit < classifier.explain(LONG).logit


def test_of_several_labels_the_likeliest_is_explained(tiny_multi_label: Checkpoint) -> None:
    """Whether it is given or not."""
    model = MultiLabelClassifier.from_checkpoint(tiny_multi_label, device="cpu")
    result = model.invoke("Where is my card?")
    found = model.explain("Where is my card?")

    assert found.score == result.scores[found.label] == max(result.scores.values())
    assert total(found) == pytest.approx(found.logit - found.baseline_logit, abs=0.01)


def test_it_is_the_same_whatever_serves(tmp_path: Path) -> None:
    """From the torch weights, which lie beside each export."""
    checkpoint = tiny_checkpoint(tmp_path / "exported", onnx=True)
    served = [TextClassifier.from_checkpoint(checkpoint, device="cpu", backend=name) for name in ("onnx", "torch")]
    exported, own = (model.explain(LONG) for model in served)

    assert exported.attributions == own.attributions
    assert exported.score == pytest.approx(own.score, abs=1e-5)


def test_pieces_that_share_a_character_are_one_part() -> None:
    """Blanks count for what stands before them, or after them where nothing does."""
    text = " a 🙂 b "
    offsets = [(0, 1), (0, 2), (2, 4), (3, 4), (4, 5), (4, 6), (6, 7)]
    found = list(attributions(text, offsets, np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])))

    assert [(one.text, one.start, one.end, one.weight) for one in found] == [
        ("a", 1, 2, 3.0), ("🙂", 3, 4, 28.0), ("b", 5, 6, 96.0),
    ]  # fmt: skip
    assert list(attributions("  ", [(0, 1)], np.array([5.0]))) == [Attribution(text="  ", start=0, end=2, weight=5.0)]
    assert list(attributions("", [], np.array([]))) == []


def test_kept_rows_are_balanced_and_private(trained: Checkpoint, rows: dict[str, str]) -> None:
    """Readable by their owner alone; nothing of a text is elsewhere in the folder."""
    private = trained.path / "private"
    kept = [json.loads(line) for line in (private / "neighbours.jsonl").read_text().splitlines()]

    assert sorted(row["label"] for row in kept) == ["card"] * (KEPT // 2) + ["cash"] * (KEPT // 2)
    assert all(rows[row["text"]] == row["label"] for row in kept)
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in private.iterdir()} == {
        "neighbours.jsonl": 0o600, "neighbours.safetensors": 0o600,
    }  # fmt: skip
    others = [path for path in trained.path.rglob("*") if path.is_file() and path.parent != private]
    assert [path for path in others if path.suffix in (".md", ".html", ".jsonl") and SECRET in path.read_text()] == []
    assert trained.manifest is not None
    assert [name for name in trained.manifest.files if "private" in name] == []


def test_the_most_similar_rows_are_found(trained: Checkpoint, rows: dict[str, str]) -> None:
    """By the cosine between the features that serve; a kept row finds itself."""
    model = TextClassifier.from_checkpoint(trained, device="cpu")
    kept = [
        json.loads(line)["text"]
        for line in (trained.path / "private" / "neighbours.jsonl").read_text().split("\n")[:-1]
    ]
    features = outputs_of(model._loaded(), [*kept, "I want cash now"]).features
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarities = directions[:-1] @ directions[-1]
    order = np.argsort(-similarities)[:4]
    found = model.explain("I want cash now", neighbours=4).neighbours

    assert found is not None
    assert [one.text for one in found] == [kept[i] for i in order]
    assert [one.label for one in found] == [rows[kept[i]] for i in order]
    assert [one.similarity for one in found] == pytest.approx(similarities[order].tolist(), abs=1e-4)
    itself = model.explain(kept[3], neighbours=1).neighbours
    assert itself is not None
    assert (itself[0].text, itself[0].similarity) == (kept[3], pytest.approx(1, abs=1e-4))
    assert model.explain(kept[3], neighbours=0).neighbours == ()
    assert len(model.explain(kept[3], neighbours=1000).neighbours or ()) == KEPT


def test_rows_of_several_labels_are_kept_with_all(base_model: Path, tmp_path: Path) -> None:
    """Sorted; a row without any has none."""
    lines = [
        {"text": f"{text} {i}", "labels": labels}
        for i in range(12)
        for text, labels in (("late and torn", ["delivery", "defect"]), ("late", ["delivery"]), ("thanks", []))
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    checkpoint = fine_tune(
        TrainConfig(
            train_file=str(tmp_path / "rows.jsonl"), base_model=str(base_model), output_dir=str(tmp_path / "out"),
            epochs=1, baseline=False, keep_neighbours=100,
        )
    )  # fmt: skip
    found = MultiLabelClassifier.from_checkpoint(checkpoint, device="cpu").explain("late", neighbours=100).neighbours

    assert found is not None
    assert {one.labels for one in found} == {("defect", "delivery"), ("delivery",), ()}
    assert {one.label for one in found} == {None}


def test_without_kept_rows_there_are_none(classifier: TextClassifier, trained: Checkpoint, tmp_path: Path) -> None:
    """Nor where `private/` was not copied along."""
    shutil.copytree(trained.path, tmp_path / "copy", ignore=shutil.ignore_patterns("private"))

    assert classifier.explain("Where is my card?").neighbours is None
    whole = TextClassifier.from_checkpoint(trained, device="cpu")
    copy = TextClassifier.from_checkpoint(tmp_path / "copy", device="cpu")
    assert copy._loaded() is whole._loaded()
    assert len(whole.explain("my card").neighbours or ()) == 5
    assert copy.explain("my card").neighbours is None


def test_kept_rows_are_uploaded_only_when_asked(trained: Checkpoint, tmp_path: Path) -> None:
    """As all of `private/`; a copy that was fetched explains without them."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    upload(trained.path, "memory://explained", last=MANIFEST, replaced=FETCHED)

    assert [name for name in MemoryFileSystem.store if "private" in name or "neighbours" in name] == []
    assert "/explained/model.safetensors" in MemoryFileSystem.store


@pytest.mark.parametrize("fault", ["no row", "one missing", "no tensor", "other weights", "fewer rows"])
def test_kept_rows_that_are_not_the_models_are_refused(fault: str, trained: Checkpoint, tmp_path: Path) -> None:
    """What is wrong and what to do, and nothing of a row."""
    folder = tmp_path / "copy"
    shutil.copytree(trained.path, folder)
    texts, directions = folder / "private" / "neighbours.jsonl", folder / "private" / "neighbours.safetensors"
    if fault == "no row":
        texts.write_text(json.dumps({"text": SECRET, "lable": "x"}) + "\n")
    elif fault == "one missing":
        texts.unlink()
    elif fault == "no tensor":
        directions.write_bytes(b"zebra" * 20)
    elif fault == "fewer rows":
        texts.write_text("".join(texts.read_text().splitlines(keepends=True)[1:]))
    else:
        tiny = tiny_checkpoint(tmp_path / "other", labels=("card", "cash"), max_length=64)
        shutil.copytree(folder / "private", tiny.path / "private")
        folder = tiny.path
    model = TextClassifier(checkpoint=str(folder), device="cpu")
    with pytest.raises(CheckpointError, match=r"expected in neighbours\.jsonl and neighbours\.safetensors") as refused:
        model.explain("my card")

    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


def test_only_classifiers_of_single_texts_explain(tiny_tagger: Checkpoint, tmp_path: Path) -> None:
    """Others say who does."""
    pairs = tiny_checkpoint(tmp_path / "pairs", task="text-pair-classification")

    for model in (EntityTagger(checkpoint=str(tiny_tagger.path)), PairClassifier(checkpoint=str(pairs.path))):
        with pytest.raises(
            ConfigError, match=rf"TextClassifier or MultiLabelClassifier.*found a {type(model).__name__}"
        ):
            model.explain("x")


def test_a_label_that_is_not_there_is_refused(classifier: TextClassifier) -> None:
    """With a guess; so is a negative number, and an input that is none."""
    with pytest.raises(ConfigError, match=r"target: expected a label.*'crad' \(did you mean 'card'\?\)"):
        classifier.explain("x", target="crad")
    with pytest.raises(ConfigError, match="neighbours: expected 0 or more, found -1"):
        classifier.explain("x", neighbours=-1)
    with pytest.raises(InputError):
        classifier.explain(17)
    with pytest.raises(InputError, match="valid Unicode"):
        classifier.explain("a\ud800")


def test_without_captum_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In Python and on the command line; answers need no captum."""
    checkpoint = tiny_checkpoint(tmp_path / "other", seed=3)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    model = TextClassifier.from_checkpoint(checkpoint, device="cpu")
    with pytest.raises(MissingDependencyError, match=r"captum.*lc-finetune\[explain\]"):
        model.explain("x")

    assert main(["explain", str(checkpoint.path), "x"]) == 2
    assert "lc-finetune[explain]" in capsys.readouterr().err


def test_keeping_rows_is_refused_where_nothing_explains(base_model: Path, tmp_path: Path) -> None:
    """Before any work."""
    (tmp_path / "rows.conll").write_text("Ann B-PER\nruns O\n\n" * 30)
    config = TrainConfig(
        train_file=str(tmp_path / "rows.conll"), base_model=str(base_model), output_dir=str(tmp_path / "out"),
        keep_neighbours=5,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"keep_neighbours: expected.*found data for token-classification"):
        fine_tune(config)


def test_logs_hold_no_text(trained: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    """Neither that of the question nor those of the rows."""
    with caplog.at_level(logging.DEBUG):
        found = TextClassifier.from_checkpoint(trained, device="cpu").explain(f"{SECRET} {SECRET}", neighbours=KEPT)

    assert SECRET not in caplog.text
    for one in (found, *found.attributions, *(found.neighbours or ())):
        assert SECRET not in repr(one)
        assert SECRET not in str(one)
    assert any(SECRET in one.text for one in found.neighbours or ())


def test_what_explains_leaves_memory_with_the_model(tmp_path: Path) -> None:
    """It is loaded once for all that share the model."""
    checkpoint = tiny_checkpoint(tmp_path / "alone", seed=7)
    first, second = (TextClassifier.from_checkpoint(checkpoint, device="cpu") for _ in range(2))
    gc.collect()  # of other tests
    before = len(explain._explainers)
    first.explain("x")

    assert explainer_of(first._loaded()) is explainer_of(second._loaded())
    assert len(explain._explainers) == before + 1
    first.close()
    second.close()
    gc.collect()
    assert len(explain._explainers) == before


def test_the_command_shows_what_speaks_for_a_label(
    trained: Checkpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the rows most like the text, which may come from standard input."""
    assert main(["explain", str(trained.path), "I lost my card", "--target", "cash", "--neighbours", "2"]) == 0
    shown = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO("I lost my card"))
    assert main(["explain", str(trained.path), "-", "--target", "cash", "--neighbours", "2"]) == 0

    assert capsys.readouterr().out == shown
    assert shown.startswith("cash · score 0.")
    assert {"for", "against"} & set(shown.split())
    assert len(shown.partition("Most like it among the training rows\n")[2].splitlines()) == 2


def test_bytes_that_are_no_text_are_one_line(
    tiny_classifier: Checkpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On standard input, whose encoding is named."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8"))

    assert main(["explain", str(tiny_classifier.path), "-"]) == 2
    assert "Expected a text in utf-8 on standard input, found other bytes." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no/such/folder", "x"], "no/such/folder"),
        (["{}", "x", "--target", "crad"], "did you mean 'card'?"),
        (["{}", "x", "--neighbours", "-2"], "expected 0 or more"),
        (["{}", "x", "--neighbours", "some"], "invalid int value"),
        (["{}"], "TEXT"),
    ],
)
def test_the_command_names_what_is_wrong(
    arguments: list[str], said: str, tiny_classifier: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, with exit status 2."""
    assert main(["explain", *(one.format(tiny_classifier.path) for one in arguments)]) == 2

    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
