"""Labels with entities: from a file to a checkpoint with two heads, measured, calibrated and exported."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from lc_finetune import Checkpoint, ConfigError, DataError, IntentAndEntityTagger
from lc_finetune.data import IntentExample, sample_file
from lc_finetune.inference.encode import Encoder
from lc_finetune.labels import LabelSet, Span
from lc_finetune.schemes import TagSet
from lc_finetune.testing import tiny_base_model
from lc_finetune.train import TrainConfig, fine_tune
from lc_finetune.train.metrics import intent_figures
from lc_finetune.train.recipe import STEPS
from lc_finetune.train.tasks import TASKS
from lc_finetune.train.tokenization import IGNORED, Windowing, intent_features

PEOPLE = ("Ann", "Bob", "Eve", "Zoe", "Leo", "Mia", "Ida", "Max", "Kim", "Jan")
CITIES = ("Oslo", "Rome", "Bonn", "Lima", "Cork")


def write_rows(folder: Path, *, rows: int = 160) -> Path:
    """Who flies, or calls: the verb tells the label, names are entities."""
    draw = random.Random(0)
    lines = []
    for i in range(rows):
        person, city = draw.choice(PEOPLE), draw.choice(CITIES)
        verb, label = (("flew to", "travel"), ("called from", "call"))[i % 2]
        text = f"{person} {verb} {city} on day {i}."
        start = text.index(city)
        spans = [(0, len(person), "person"), (start, start + len(city), "city")]
        entities = [dict(zip(("start", "end", "label"), span, strict=True)) for span in spans]
        lines.append(json.dumps({"text": text, "label": label, "entities": entities}) + "\n")
    path = folder / "train.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def options(base: Path, rows: Path, output: Path, **more: Any) -> dict[str, Any]:
    return {"base_model": str(base), "train_file": str(rows), "output_dir": str(output), "epochs": 6, "batch_size": 8,
            "learning_rate": 0.003, **more}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base_model(tmp_path_factory.mktemp("bases") / "base")


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("trained")
    rows = write_rows(folder)
    return fine_tune(TrainConfig(**options(base, rows, folder / "out", validation_file=str(rows), test_file=str(rows))))


# Figures and features.


def test_figures_count_whole_texts_too() -> None:
    """By hand: one right, one with a wrong label, one with a wrong entity."""
    span = Span(0, 3, "a")
    figures = intent_figures(["x", "x", "y"], ["x", "y", "y"], [[span], [span], [span]], [[span], [span], []])

    assert figures["rows"] == 3
    assert figures["exact_match"] == pytest.approx(1 / 3)
    assert figures["accuracy"] == pytest.approx(2 / 3)
    assert figures["entities"]["f1"] == pytest.approx(4 / 5)
    assert set(figures["per_label"]) == {"x", "y"}
    assert set(figures["entities"]["per_label"]) == {"a"}


def test_each_window_has_the_label_and_its_own_tags(base: Path) -> None:
    """Windows of a long text carry the label of the text; labels that training never saw are left out."""
    tags = TagSet.of_types(["city"])
    text = "order it " * 12 + "Oslo"
    long = IntentExample(text, "a", (Span(len(text) - 4, len(text), "city"),))
    encoder = Encoder(base, offsets=True)
    features, cut = intent_features(
        [long, IntentExample("x", "unseen", ())], encoder, LabelSet(("a", "b")), tags, Windowing(16, 4),
        tag_unit="word",
    )  # fmt: skip

    assert len(features) > 2
    assert cut == 0
    assert {row["labels"] for row in features} == {0}
    assert all(len(row["tag_labels"]) == len(row["input_ids"]) for row in features)
    begins = tags.labels.id_of["B-city"]
    assert begins in features[-1]["tag_labels"]
    assert begins not in features[0]["tag_labels"]
    assert features[0]["tag_labels"][0] == IGNORED


# Training.


def test_both_heads_learn(trained: Checkpoint) -> None:
    """The file is recognised; label and entities are right at once, through what serves."""
    found = IntentAndEntityTagger.from_checkpoint(trained.path, device="cpu").invoke("Bob called from Lima on day 3.")
    figures = trained.metrics["test"]

    assert trained.task == "intent-and-entities"
    assert figures["exact_match"] > 0.9
    assert figures["accuracy"] > 0.95
    assert figures["entities"]["f1"] > 0.9
    assert (found.label, [(e.label, e.text) for e in found.entities]) == ("call", [("person", "Bob"), ("city", "Lima")])


def test_the_checkpoint_is_a_plain_sequence_classifier(trained: Checkpoint) -> None:
    """With the tags' names beside; exported and calibrated in each way to serve it, for both heads."""
    manifest = trained.manifest
    assert manifest is not None
    assert trained.tags is not None

    assert trained.labels.names == ("call", "travel")
    assert set(trained.tags.names) == {"O", "B-city", "I-city", "B-person", "I-person"}
    assert manifest.tag_unit == "word"
    assert {one.backend for one in manifest.calibration} == {"torch", "onnx"}
    assert all(one.entities is not None for one in manifest.calibration)


def test_figures_of_both_heads_are_beside_a_baseline_of_both(trained: Checkpoint) -> None:
    """Confidence too, by label and by entity; the card and the page show them."""
    figures = trained.metrics["test"]
    card = (trained.path / "README.md").read_text(encoding="utf-8")
    page = (trained.path / "report.html").read_text(encoding="utf-8")

    assert {"exact_match", "accuracy", "entities"} <= figures["frozen_baseline"].keys()
    assert figures["confidence"]["answers"] == 160
    assert figures["confidence"]["entities"]["answers"] >= 300
    assert "pipeline_tag: text-classification" in card
    assert "IntentAndEntityTagger" in card
    assert "Entities: `city`, `person`" in card
    assert all(title in page for title in ("Entity types", "Confusion of types", "Reliability of entity scores"))


def test_a_text_out_of_scope_has_nothing_accepted(trained: Checkpoint, tmp_path: Path) -> None:
    """Neither the label nor an entity, whatever their scores; a p-value is there."""
    model = IntentAndEntityTagger.from_checkpoint(trained.path, device="cpu", accept_score=0.0)
    results = model.batch(["Bob flew to Rome on day 7.", "my card has not arrived, refund it at once! " * 3])

    assert all(one.in_scope is not None for one in results)
    for one in results:
        outside = one.in_scope is not None and one.in_scope < 0.05
        assert one.accepted is not outside
        assert {entity.accepted for entity in one.entities} <= {not outside}


@pytest.mark.slow
def test_the_bundled_sample_trains(tmp_path: Path) -> None:
    """From its file, and with labels drawn equally often."""
    base = tiny_base_model(tmp_path / "base", max_length=160)
    config = options(base, sample_file("intents"), tmp_path / "out", epochs=1, balanced_sampling=True, baseline=False)
    made = fine_tune(TrainConfig(**config))

    assert made.metrics["validation"]["rows"] > 0


def test_options_that_do_nothing_for_two_heads_are_refused(base: Path, tmp_path: Path) -> None:
    """There is no one head to weigh, soften or adapt; nothing is written."""
    config = options(base, write_rows(tmp_path, rows=20), tmp_path / "out")
    del config["epochs"], config["batch_size"]

    for name, value in (("class_weights", "balanced"), ("label_smoothing", 0.1), ("few_shot", True),
                        ("adapter", "lora"), ("keep_replay", 5)):  # fmt: skip
        with pytest.raises(ConfigError, match=f"^{name}: expected"):
            fine_tune(TrainConfig(**config, **{name: value}))
    assert not (tmp_path / "out").exists()


def test_it_cannot_be_trained_further(trained: Checkpoint, tmp_path: Path) -> None:
    """Which is said, with the tasks that can."""
    rows = write_rows(tmp_path, rows=20)
    with pytest.raises(ConfigError, match="found one for intent-and-entities"):
        fine_tune(
            TrainConfig(continue_from=str(trained.path), train_file=str(rows), output_dir=str(tmp_path / "further"))
        )


def test_rows_for_another_task_are_refused(base: Path, tmp_path: Path) -> None:
    """A file of labels alone has no entities to learn from; a test file must be of the same kind."""
    (tmp_path / "labels.csv").write_text("text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(20)))
    with pytest.raises(DataError, match="expected a column 'entities'"):
        fine_tune(TrainConfig(**options(base, tmp_path / "labels.csv", tmp_path / "out", task="intent-and-entities")))
    rows = write_rows(tmp_path, rows=20)
    with pytest.raises(DataError, match="expected a column 'entities'"):
        fine_tune(TrainConfig(**options(base, rows, tmp_path / "out", test_file=str(tmp_path / "labels.csv"))))


def test_the_output_may_not_replace_files_that_a_pattern_names(base: Path, tmp_path: Path) -> None:
    """They are protected as a file that is named itself."""
    write_rows(tmp_path, rows=20)
    config = options(base, tmp_path / "*.jsonl", tmp_path, overwrite=True)

    with pytest.raises(ConfigError, match="apart from what the run reads"):
        fine_tune(TrainConfig(**config))
    assert (tmp_path / "train.jsonl").exists()


def test_the_recipe_knows_every_task() -> None:
    """A task without a number of steps would fail at its first training."""
    assert set(TASKS) <= set(STEPS)
