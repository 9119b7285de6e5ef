"""Several labels a text: from a file to a checkpoint, with thresholds and figures."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_finetune import (
    Checkpoint,
    ConfigError,
    DataError,
    MultiLabelClassification,
    MultiLabelClassifier,
    Scores,
)
from lc_finetune.cli import main
from lc_finetune.data import ReadOptions, gold_of, read_examples, sample_file
from lc_finetune.labels import micro_f1
from lc_finetune.train import TrainConfig, fine_tune
from lc_finetune.train.metrics import label_confidence_figures, macro_average_precision, multi_label_figures
from lc_finetune.train.report import report_table
from lc_finetune.train.tasks.multi_label import MultiLabelClassification as MultiLabelTask
from lc_finetune.train.thresholds import choose_thresholds

WORDS = {"card": "my card", "cash": "some cash", "order": "the order"}


def write_table(folder: Path, rows: int = 60) -> Path:
    """Texts that name their topics, from none to three."""
    generator = random.Random(0)
    table = ["text,topics"]
    for i in range(rows):
        topics = generator.sample(sorted(WORDS), generator.choice([0, 1, 1, 2, 3]))
        table.append(f"{' and '.join(WORDS[topic] for topic in topics)} please {i},{' | '.join(topics)}")
    path = folder / "train.csv"
    path.write_text("\n".join(table), encoding="utf-8")
    return path


def options(base: Path, table: Path, output: Path, **more: Any) -> dict[str, Any]:
    return {"base_model": str(base), "train_file": str(table), "label_column": "topics", "output_dir": str(output),
            "epochs": 12, "batch_size": 8, "learning_rate": 0.003, "baseline": False, **more}  # fmt: skip


@pytest.fixture(scope="module")
def trained(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, str]:
    """A checkpoint, and what was said on the way."""
    folder = tmp_path_factory.mktemp("multi-label")
    said: list[str] = []
    table = write_table(folder)
    checkpoint = fine_tune(
        TrainConfig(**options(base_model, table, folder / "out", validation_file=str(table), baseline=True)),
        say=said.append,
    )
    return checkpoint, "\n".join(said)


def test_a_table_becomes_a_multi_label_classifier(trained: tuple[Checkpoint, str]) -> None:
    """It learns, serves from its export, and is a plain Hugging Face folder."""
    checkpoint, _ = trained
    classifier = MultiLabelClassifier.from_checkpoint(checkpoint.path, device="cpu")

    assert (checkpoint.task, checkpoint.config["problem_type"]) == (
        "multi-label-classification", "multi_label_classification",
    )  # fmt: skip
    assert classifier.labels == ("card", "cash", "order")
    assert (checkpoint.path / "onnx" / "model.onnx").is_file()
    assert checkpoint.metrics["validation"]["macro_f1"] > 0.8


def test_what_is_measured_is_what_serves(trained: tuple[Checkpoint, str]) -> None:
    """The answers to the validation rows have the recorded F1."""
    checkpoint = trained[0]
    examples = read_examples(checkpoint.path.parent / "train.csv", ReadOptions(label_column="topics")).examples
    results = MultiLabelClassifier.from_checkpoint(checkpoint.path).batch([example.text for example in examples])

    found = micro_f1(gold_of(examples), [result.labels for result in results])
    assert found == pytest.approx(checkpoint.metrics["validation"]["micro_f1"])


def test_thresholds_are_recorded_with_their_method(trained: tuple[Checkpoint, str]) -> None:
    """For each label, with the rows they were chosen on, in manifest and card."""
    manifest = trained[0].manifest
    assert manifest is not None
    assert manifest.thresholds is not None

    assert set(manifest.thresholds.per_label) == {"card", "cash", "order"}
    assert (manifest.thresholds.split, manifest.thresholds.rows) == ("validation", 60)
    assert "drawn in logits towards the one shared threshold" in manifest.thresholds.method
    assert "| `cash` |" in (trained[0].path / "README.md").read_text(encoding="utf-8")


def test_training_ends_with_calibration(trained: tuple[Checkpoint, str]) -> None:
    """Of torch and of the export, label by label; the record, the card and the metrics say what was found."""
    checkpoint = trained[0]
    manifest = checkpoint.manifest
    result = MultiLabelClassifier.from_checkpoint(checkpoint.path, device="cpu").invoke("my card")

    assert manifest is not None
    assert [(c.backend, c.after.unit, c.texts) for c in manifest.calibration] == [
        ("torch", "pair", 60), ("onnx", "pair", 60),
    ]  # fmt: skip
    assert all("validation rows, which also chose the epoch" in c.split for c in manifest.calibration)
    assert result.accepted in (True, False)
    assert {"ece", "coverage", "accepted_precision"} <= set(checkpoint.metrics["validation"]["confidence"])
    assert "pairs of a text and a label" in (checkpoint.path / "README.md").read_text(encoding="utf-8")
    assert "calibrated scores: ECE" in report_table(MultiLabelTask, checkpoint.metrics)


def test_figures_of_confidence_are_of_pairs_and_of_whole_answers() -> None:
    """Two pairs have a tenth; of two accepted answers the one with a wrong label is wrong."""
    results = [
        MultiLabelClassification(text="x", labels=("a",), scores=Scores.of({"a": 0.9, "b": 0.0}), accepted=True),
        MultiLabelClassification(text="y", labels=("a",), scores=Scores.of({"a": 0.8, "b": 0.05}), accepted=True),
        MultiLabelClassification(text="z", labels=(), scores=Scores.of({"a": 0.0, "b": 0.05}), accepted=False),
    ]
    figures = label_confidence_figures([("a", "never seen"), ("b",), ()], results)

    assert (figures["answers"], figures["coverage"], figures["accepted_precision"]) == (2, pytest.approx(2 / 3), 0.5)
    assert figures["ece"] == pytest.approx((0.1 + 0.8) / 2)


def test_the_run_is_told_of_labels_a_row_and_of_its_metric(trained: tuple[Checkpoint, str]) -> None:
    """Before and while it trains."""
    said = trained[1]

    assert "labels of a cell are separated by '|'" in said
    assert "per row     1." in said
    assert "validation average_precision" in said


def test_the_report_has_every_average_and_the_baseline(trained: tuple[Checkpoint, str]) -> None:
    """Micro, macro, weighted and by text, and a row for each label."""
    table = report_table(MultiLabelTask, trained[0].metrics)

    assert {"micro", "macro", "weighted", "samples"} <= {line.split()[0] for line in table.splitlines() if line.strip()}
    assert "frozen encoder + logistic regression: macro F1" in table
    assert "order" in table


def test_without_a_row_to_choose_on_labels_are_given_from_one_half_on(base_model: Path, tmp_path: Path) -> None:
    """And the manifest says so."""
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"card {i}", "labels": [one]}) for i, one in enumerate("ab")))
    checkpoint = fine_tune(TrainConfig(**options(base_model, path, tmp_path / "o", label_column=None, epochs=1)))

    assert checkpoint.manifest is not None
    assert checkpoint.manifest.thresholds is not None
    assert checkpoint.manifest.thresholds.per_label == {"a": 0.5, "b": 0.5}
    assert "no row to choose on" in checkpoint.manifest.thresholds.method


def test_the_next_file_is_read_as_the_first(base_model: Path, tmp_path: Path) -> None:
    """Its delimiter and task hold for files that would not show them."""
    table, test = write_table(tmp_path), tmp_path / "test.csv"
    test.write_text("text,topics\nmy card,card\nthe order,order\nno,none of these\n", encoding="utf-8")
    checkpoint = fine_tune(TrainConfig(**options(base_model, table, tmp_path / "o", test_file=str(test), epochs=1)))

    assert checkpoint.metrics["test"]["rows"] == 3
    assert checkpoint.metrics["test"]["per_label"]["none of these"]["support"] == 1


def test_a_list_in_a_later_file_of_single_labels_is_refused(base_model: Path, tmp_path: Path) -> None:
    """With the fix."""
    single, several = tmp_path / "train.csv", tmp_path / "test.jsonl"
    single.write_text("text,topics\n" + "".join(f"t{i},{'ab'[i % 2]}\n" for i in range(20)), encoding="utf-8")
    several.write_text(json.dumps({"text": "x", "topics": ["a", "b"]}), encoding="utf-8")

    with pytest.raises(DataError, match=r"test\.jsonl:1: .*--task multi-label-classification"):
        fine_tune(TrainConfig(**options(base_model, single, tmp_path / "o", test_file=str(several))))


@pytest.mark.parametrize(
    ("more", "expected"),
    [({"label_smoothing": 0.1}, "label_smoothing"), ({"accept": "score=0.5,crad=0.9"}, "accept")],
)
def test_options_that_do_not_fit_are_refused(
    more: dict[str, Any], expected: str, base_model: Path, tmp_path: Path
) -> None:
    """Before any work; what is right or wrong by itself is not smoothed, and only labels have thresholds."""
    with pytest.raises(ConfigError, match=expected):
        fine_tune(TrainConfig(**options(base_model, write_table(tmp_path), tmp_path / "o", **more)))
    assert not (tmp_path / "o").exists()


def test_figures_of_several_labels() -> None:
    """By hand: 3 right of 4 given and 5 wanted; a text of no label that got none is right."""
    gold = [("a", "b"), ("a",), (), ("b", "c")]
    found = [("a", "b"), ("b",), (), ("c",)]
    figures = multi_label_figures(gold, found)

    assert figures["micro_f1"] == pytest.approx(2 * 3 / (4 + 5))
    assert figures["macro_f1"] == pytest.approx((2 / 3 + 2 / 4 + 1) / 3)
    assert figures["samples_f1"] == pytest.approx((1 + 0 + 1 + 2 / 3) / 4)
    assert figures["subset_accuracy"] == pytest.approx(2 / 4)
    assert figures["per_label"]["b"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}


SETS = st.lists(st.sets(st.sampled_from("abc")), min_size=1, max_size=12)


@given(st.data())
def test_figures_are_those_of_scikit_learn(data: st.DataObject) -> None:
    """Wherever both define them: over the labels that occur, and over texts that have or got one."""
    from sklearn.metrics import f1_score
    from sklearn.preprocessing import MultiLabelBinarizer

    gold = data.draw(SETS)
    found = data.draw(st.lists(st.sets(st.sampled_from("abc")), min_size=len(gold), max_size=len(gold)))
    names = sorted({name for names in (*gold, *found) for name in names})
    figures = multi_label_figures([tuple(one) for one in gold], [tuple(one) for one in found])
    if names:
        wanted, given_ = (MultiLabelBinarizer(classes=[*"abc"]).fit_transform(one) for one in (gold, found))
        columns = ["abc".index(name) for name in names]
        for average in ("micro", "macro", "weighted"):
            expected = f1_score(wanted, given_, labels=columns, average=average, zero_division=0)
            assert figures[f"{average}_f1"] == pytest.approx(expected)
        assert figures["samples_f1"] == pytest.approx(f1_score(wanted, given_, average="samples", zero_division=1.0))


def test_average_precision_leaves_out_labels_that_never_apply() -> None:
    """They would have no precision; a perfect ranking is 1."""
    gold = np.array([[1, 0, 0], [0, 1, 0]])

    assert macro_average_precision(gold, np.array([[2.0, -1, 0], [1, 3, 0]])) == 1.0
    assert macro_average_precision(np.zeros((2, 3)), np.zeros((2, 3))) == 0.0


def test_a_frequent_label_gets_the_threshold_that_serves_it() -> None:
    """Whatever the others want: with many rows its own counts nearly alone."""
    generator = np.random.default_rng(0)
    gold = generator.random((4000, 2)) < [0.5, 0.05]
    logits = np.where(gold, 0.0, -3.0) + generator.normal(0, 0.3, gold.shape) + [0.0, -2.0]
    thresholds = choose_thresholds(gold, logits)

    found = logits >= np.log(thresholds / (1 - thresholds))
    assert (found == gold).mean() > 0.99


def test_a_rare_label_is_drawn_to_the_threshold_of_all() -> None:
    """One row of its own says little; none says nothing."""
    generator = np.random.default_rng(1)
    gold = np.zeros((2000, 12), dtype=bool)
    gold[:, :10] = generator.random((2000, 10)) < 0.3
    gold[0, 10] = True
    logits = np.where(gold, 1.0, -1.0) + generator.normal(0, 0.8, gold.shape)
    logits[0, 10] = 6.0  # alone, its best threshold would be far up
    shared, rare, never = (thresholds := choose_thresholds(gold, logits))[:10].mean(), *thresholds[10:]

    assert abs(never - shared) < 0.1
    assert abs(rare - shared) < 0.15


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 99))
def test_thresholds_are_probabilities(rows: int, labels: int, seed: int) -> None:
    """Also of ties, of labels that always apply, and of none."""
    generator = np.random.default_rng(seed)
    gold = generator.random((rows, labels)) < generator.random()
    thresholds = choose_thresholds(gold, generator.integers(-3, 3, gold.shape).astype(float))

    assert thresholds.shape == (labels,)
    assert ((thresholds > 0) & (thresholds < 1)).all()


def test_the_command_line_names_the_class(base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And takes a table without a header, names in a file."""
    (tmp_path / "names.txt").write_text("joy\nlove\n", encoding="utf-8")
    rows = [f"{text} {i}\t{labels}\tid{i}" for i in range(8) for text, labels in
            (("so glad", "0"), ("dear you", "1"), ("glad dear", "0,1"), ("dear glad oh", "1,0,1"))]  # fmt: skip
    (tmp_path / "train.tsv").write_text("\n".join(rows), encoding="utf-8")
    given_ = ["--train-file", str(tmp_path / "train.tsv"), "--text-column", "0", "--label-column", "1", "--label-names",
              str(tmp_path / "names.txt"), "--label-delimiter", ",", "--base-model", str(base_model), "--output-dir",
              str(tmp_path / "out"), "--epochs", "1", "--no-baseline"]  # fmt: skip

    assert main(["train", *given_]) == 0
    assert "from lc_finetune import MultiLabelClassifier" in capsys.readouterr().out
    assert Checkpoint.load(tmp_path / "out").labels.names == ("joy", "love")


@pytest.mark.slow
def test_the_bundled_sample_trains_on_the_bundled_base_model(tmp_path: Path) -> None:
    """Messages of several topics."""
    files = {f"{part}_file": str(sample_file("multilabel", part)) for part in ("train", "validation", "test")}
    checkpoint = fine_tune(TrainConfig(output_dir=str(tmp_path / "out"), **files))

    assert len(checkpoint.labels) == 6
    assert checkpoint.metrics["test"]["micro_f1"] > 0.5
