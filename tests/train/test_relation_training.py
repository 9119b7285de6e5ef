"""Relations between two mentions: from a file to a checkpoint, with the figure that such data is judged by."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lc_finetune import Checkpoint, ConfigError, DataError, RelationClassifier
from lc_finetune.data import sample_file
from lc_finetune.labels import LabelSet
from lc_finetune.markers import MARKERS
from lc_finetune.testing import tiny_base_model, tiny_checkpoint
from lc_finetune.train import TrainConfig, fine_tune
from lc_finetune.train.base_model import resolve_base_model
from lc_finetune.train.metrics import relation_figures, relation_macro_f1
from lc_finetune.train.tasks.relation import RelationClassification

PEOPLE = ("Ann", "Bob", "Eve", "Zoe", "Leo", "Mia", "Ida", "Max", "Kim", "Jan")


def write_rows(folder: Path, *, records: int = 60) -> Path:
    """A file as of SemEval-2010 task 8: who is named first pays, or is paid, as the verb says."""
    lines = []
    for i in range(records):
        first, second = PEOPLE[i % 10], PEOPLE[(i // 10 + i + 1) % 10]
        text, label = [
            (f"<e1>{first}</e1> pays <e2>{second}</e2>", "Pay(e1,e2)"),
            (f"<e1>{first}</e1> is paid by <e2>{second}</e2>", "Pay(e2,e1)"),
            (f"<e1>{first}</e1> and <e2>{second}</e2> walk", "Other"),
        ][i % 3]
        lines.append(f'{i}\t"{text} on day {i}."\n{label}\nComment:\n\n')
    path = folder / "train.txt"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def options(base: Path, rows: Path, output: Path, **more: Any) -> dict[str, Any]:
    return {"base_model": str(base), "train_file": str(rows), "output_dir": str(output), "epochs": 8, "batch_size": 8,
            "learning_rate": 0.003, "baseline": False, **more}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base_model(tmp_path_factory.mktemp("bases") / "base")


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def trained(base: Path, said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("trained")
    rows = write_rows(folder)
    config = TrainConfig(**options(base, rows, folder / "out", test_file=str(rows), baseline=True))
    return fine_tune(config, say=said.append)


# The official score.


def test_a_relation_named_the_wrong_way_round_counts_against_it_twice() -> None:
    """By hand: A has 3 gold, 3 named, 1 right, so P = R = F1 = 1/3; B has 1 gold, 1 named, 1 right."""
    gold = ["A(e1,e2)", "A(e1,e2)", "A(e2,e1)", "B(e1,e2)", "Other"]
    found = ["A(e1,e2)", "A(e2,e1)", "A(e1,e2)", "B(e1,e2)", "Other"]

    assert relation_macro_f1(gold, found) == pytest.approx((1 / 3 + 1) / 2)


def test_other_has_no_score_but_costs_the_relations() -> None:
    """By hand: A has 2 gold, 2 named, 1 right (F1 1/2); B 1 gold, none named (0); a right Other gains nothing."""
    gold = ["A(e1,e2)", "A(e1,e2)", "B(e2,e1)", "Other", "Other"]
    found = ["A(e1,e2)", "Other", "Other", "A(e2,e1)", "Other"]

    assert relation_macro_f1(gold, found) == pytest.approx(0.25)


def test_relations_that_no_row_has_are_left_out() -> None:
    """As in the official scorer, whose average runs over the answer key; no relation at all is 0."""
    assert relation_macro_f1(["A(e1,e2)", "Other"], ["A(e1,e2)", "B(e1,e2)"]) == 1.0
    assert relation_macro_f1(["Other"], ["A(e1,e2)"]) == 0.0


def test_labels_without_direction_are_relations_too() -> None:
    """Then it is the macro F1 without the rows of no relation."""
    figures = relation_figures(["owns", "owns", "no_relation"], ["owns", "no_relation", "no_relation"])

    assert figures["relation_macro_f1"] == pytest.approx(2 / 3)
    assert (figures["rows"], figures["accuracy"]) == (3, pytest.approx(2 / 3))


def test_validation_measures_it() -> None:
    """On logits, by the columns of the label set."""
    task = RelationClassification(LabelSet(("A(e1,e2)", "A(e2,e1)", "Other")), {})

    assert task.validate(np.eye(3)[[0, 1, 2]], np.array([0, 0, 2])) == pytest.approx(0.5)


# Training.


def test_it_learns_who_does_what_to_whom(trained: Checkpoint) -> None:
    """The file is recognised; the same names in the same order stand in different relations."""
    relations = RelationClassifier.from_checkpoint(trained.path, device="cpu")

    assert trained.task == "relation-classification"
    assert trained.labels.names == ("Other", "Pay(e1,e2)", "Pay(e2,e1)")
    assert trained.metrics["test"]["relation_macro_f1"] > 0.9
    assert [r.label for r in relations.batch(["<e1>Ann</e1> pays <e2>Bob</e2> on day 7.",
                                              "<e1>Ann</e1> is paid by <e2>Bob</e2> on day 7."])] == [
        "Pay(e1,e2)", "Pay(e2,e1)",
    ]  # fmt: skip


def test_the_checkpoint_is_a_plain_classifier_with_four_more_pieces(trained: Checkpoint, base: Path) -> None:
    """Transformers loads it as it is; the base model is as it was."""
    model: Any = AutoModelForSequenceClassification.from_pretrained(trained.path)
    tokenizer: Any = AutoTokenizer.from_pretrained(trained.path)
    before: Any = AutoTokenizer.from_pretrained(base)

    assert [tokenizer.tokenize(marker) for marker in MARKERS] == [[marker] for marker in MARKERS]
    assert len(tokenizer) == len(before) + 4 == model.get_input_embeddings().num_embeddings
    assert not set(MARKERS) & set(before.get_vocab())


def test_the_report_speaks_of_relations(trained: Checkpoint, said: list[str]) -> None:
    """The card shows how to ask, and the official score; the baseline stands beside it; scores are calibrated."""
    card = (trained.path / "README.md").read_text(encoding="utf-8")

    assert "from lc_finetune import RelationClassifier" in card
    assert '"head": (' in card
    assert "relations  macro F1" in card
    assert "in a window of 64 pieces around both mentions" in card
    assert any("read around their two mentions" in line for line in said)
    assert "frozen encoder + logistic regression: macro F1 of relations" in card
    assert trained.manifest is not None
    assert {one.backend for one in trained.manifest.calibration} == {"torch", "onnx"}
    assert any("validation relation_macro_f1" in line for line in said)


def test_new_markers_begin_as_the_mean_of_what_they_are_made_of(base: Path) -> None:
    """Of the pieces `[`, `E1`, `]`, as far as the tokenizer has them."""
    extended = RelationClassification.extend(resolve_base_model(str(base)))
    assert RelationClassification.extend(extended) is extended
    tokenizer: Any = AutoTokenizer.from_pretrained(extended.folder)
    rows = len(tokenizer) - len(MARKERS)
    made = RelationClassification(LabelSet(("a", "b")), {rows: [7, 9], rows + 1: [8]})
    model: Any = AutoModelForSequenceClassification.from_pretrained(base)
    made.start(model, ())
    weight = model.get_input_embeddings().weight

    assert len(weight) == rows + 2
    assert weight[rows].tolist() == pytest.approx(weight[[7, 9]].mean(dim=0).tolist())
    assert weight[rows + 1].tolist() == weight[8].tolist()


def test_a_relation_checkpoint_is_a_base_model_with_markers(trained: Checkpoint) -> None:
    """Its tokenizer knows them, so that nothing is added."""
    base = resolve_base_model(str(trained.path))

    assert RelationClassification.extend(base) is base


def test_what_a_base_model_went_through_is_kept_where_markers_are_added(tmp_path: Path) -> None:
    """A base model of this package's own stays in the lineage."""
    earlier = resolve_base_model(str(tiny_checkpoint(tmp_path / "earlier").path))
    extended = RelationClassification.extend(earlier)

    assert extended.folder != earlier.folder
    assert extended.lineage == earlier.lineage != ()


@pytest.mark.slow
def test_the_bundled_sample_trains(tmp_path: Path) -> None:
    """From columns of spans; the tail may come first."""
    base = tiny_base_model(tmp_path / "base", max_length=192)
    config = options(base, sample_file("relations"), tmp_path / "out", epochs=1)

    assert fine_tune(TrainConfig(**config)).metrics["validation"]["rows"] > 0


def test_mentions_too_far_apart_are_refused_before_training(base: Path, tmp_path: Path) -> None:
    """With the file and the row, not its text."""
    config = options(base, sample_file("relations"), tmp_path / "out", max_length=16)

    with pytest.raises(DataError, match=r"train.jsonl: labelled text number 1: Expected head and tail within"):
        fine_tune(TrainConfig(**config))


def test_options_of_other_tasks_are_refused(base: Path, tmp_path: Path) -> None:
    """Out-of-scope rows and the warm-up are for classifiers of texts; an adapter would not learn the markers."""
    config = options(base, write_rows(tmp_path), tmp_path / "out")
    del config["epochs"], config["batch_size"]

    for name, value in (("out_of_scope_label", "Other"), ("few_shot", True), ("adapter", "lora")):
        with pytest.raises(ConfigError, match=f"^{name}: expected"):
            fine_tune(TrainConfig(**config, **{name: value}))
