"""Ordinal classification, from a file of ordered labels to a Runnable whose answers know how far off they are."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lc_finetune import (
    Checkpoint,
    CheckpointError,
    ConfigError,
    DataError,
    OrdinalClassification,
    OrdinalClassifier,
    TextClassifier,
)
from lc_finetune.bulk import PredictConfig, predict_file
from lc_finetune.cli import main
from lc_finetune.data import ReadOptions, TextExample, read_examples, sample_file
from lc_finetune.evaluation.matrix import matrix_of
from lc_finetune.inference.backends import resolve_backend
from lc_finetune.inference.decode import decode_rank
from lc_finetune.inference.encode import Encoder
from lc_finetune.inference.export import export
from lc_finetune.inference.predictor import Predictor
from lc_finetune.labels import LabelSet, number_in, quadratic_weighted_kappa
from lc_finetune.testing import tiny_checkpoint
from lc_finetune.train import TrainConfig, fine_tune
from lc_finetune.train.losses import Loss
from lc_finetune.train.metrics import confusion_counts, ordinal_figures
from lc_finetune.train.preparation import prepare
from tests.test_readme import snippets

TASK = "ordinal-classification"
OPTIONS = ReadOptions(task=TASK)
WORDS = ("cold", "cool", "warm", "hot")
ORDER = LabelSet(("low", "medium", "high"))


def table(path: Path, labels: Callable[[int], object], *, rows: int = 120) -> str:
    """Write rows whose first word says which of four ranks they have; gives the path."""
    lines = [f"{WORDS[i % 4]} tea number {i * 7919 % 1000},{labels(i % 4)}" for i in range(rows)]
    path.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def trained_on(train_file: str, base_model: Path, folder: Path, **options: object) -> Checkpoint:
    """Train a tiny model for two epochs."""
    config = {"task": TASK, "base_model": str(base_model), "train_file": train_file, "output_dir": str(folder),
              "epochs": 2, "learning_rate": 1e-3, "baseline": False, **options}  # fmt: skip
    if "continue_from" in options:
        del config["base_model"]
    return fine_tune(TrainConfig.of(config), say=lambda _: None)


@pytest.fixture(scope="module")
def trained(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Words in an order that is not that of the alphabet, with enough rows held out for calibration and scope."""
    folder = tmp_path_factory.mktemp("ordinal")
    train = table(folder / "train.csv", WORDS.__getitem__)
    validation = table(folder / "validation.csv", WORDS.__getitem__, rows=40)
    return trained_on(train, base_model, folder / "out", epochs=6, learning_rate=2e-3, label_names=WORDS,
                      validation_file=validation, baseline=True, keep_replay=40)  # fmt: skip


# Files, and the order of their labels.


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\na,4\nb,4.0\nc,0.5\n"),
        ("a.tsv", "text\tlabel\na\t4\nb\t04\nc\t0.50\n"),
        ("a.jsonl", '{"text": "a", "label": 4}\n{"text": "b", "label": "4"}\n{"text": "c", "label": 0.5}\n'),
        ("a.json", '[{"text": "a", "label": 4.0}, {"text": "b", "label": 4}, {"text": "c", "label": 0.5}]'),
    ],
)
def test_a_number_is_one_label_however_it_is_written(tmp_path: Path, name: str, content: str) -> None:
    """And a fraction is a label too; whether other rows have fractions makes no difference."""
    (tmp_path / name).write_text(content, encoding="utf-8")

    loaded = read_examples(tmp_path / name, OPTIONS)

    assert loaded.task == TASK
    assert loaded.examples == (TextExample("a", "4"), TextExample("b", "4"), TextExample("c", "0.5"))


def test_labels_have_no_order_unless_the_task_is_given() -> None:
    """A column of integers means classes."""
    assert read_examples(sample_file("stars")).task == "text-classification"


@pytest.mark.parametrize("label", ["", "high", "nan", "Infinity", "1_000", "1e99", "1" * 30, "1,5", "true"])
def test_a_word_is_no_number(label: str) -> None:
    """Nor is what only Python takes for one."""
    assert number_in(label) is None


def test_numbers_are_ordered_by_value_not_by_digits(base_model: Path, tmp_path: Path) -> None:
    """10 comes after 9, and -1 before 0."""
    numbers = ("10", "-1", "9", "0")
    checkpoint = trained_on(table(tmp_path / "a.csv", numbers.__getitem__), base_model, tmp_path / "out", epochs=1)

    assert checkpoint.labels.names == ("-1", "0", "9", "10")


def test_words_without_an_order_are_refused(base_model: Path, tmp_path: Path) -> None:
    """The message names the flag; nothing is left behind."""
    train = table(tmp_path / "a.csv", WORDS.__getitem__)

    with pytest.raises(ConfigError, match=r"label_names: expected the order .* lowest to the highest"):
        trained_on(train, base_model, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv"]


def test_names_give_the_order_of_words_and_keep_a_rank_without_rows(base_model: Path, tmp_path: Path) -> None:
    """From hot to cold, with one that no row has: distances count it."""
    train, names = table(tmp_path / "a.csv", WORDS.__getitem__), ("hot", "warm", "tepid", "cool", "cold")
    checkpoint = trained_on(train, base_model, tmp_path / "out", epochs=1, label_names=names)

    assert checkpoint.labels.names == names


def test_names_of_integer_labels_are_their_order(base_model: Path, tmp_path: Path) -> None:
    """As for classes, number i is called as the i-th name."""
    train = table(tmp_path / "a.csv", lambda rank: rank)
    checkpoint = trained_on(train, base_model, tmp_path / "out", epochs=1, label_names=WORDS)

    assert checkpoint.labels.names == WORDS


def test_names_of_an_order_are_mapped_as_labels_are(base_model: Path, tmp_path: Path) -> None:
    """Each rank has its new name and keeps its rows; neighbours may become one rank, and no others may."""
    train = table(tmp_path / "a.csv", WORDS.__getitem__)
    given = {"task": TASK, "base_model": str(base_model), "train_file": train, "label_names": WORDS}
    plan, _ = prepare(TrainConfig.of({**given, "label_map": {"cold": "low", "cool": "low", "warm": "high"}}))
    features, _ = plan.task.features(plan.splits.train, Encoder(base_model, offsets=False), plan.windowing)

    assert plan.task.labels.names == ("low", "high", "hot")
    assert len(features) == len(plan.splits.train)
    with pytest.raises(ConfigError, match=r"neighbours in the order of label_names, found x in two places"):
        prepare(TrainConfig.of({**given, "label_map": {"cold": "x", "hot": "x"}}))


def test_a_label_without_a_name_is_refused(base_model: Path, tmp_path: Path) -> None:
    """With file and line."""
    train = table(tmp_path / "a.csv", WORDS.__getitem__)

    with pytest.raises(DataError, match=r"a\.csv:3: expected a label from 0 to 2 or one of the names"):
        trained_on(train, base_model, tmp_path / "out", label_names=("cold", "warm", "hot"))


def test_rows_out_of_scope_have_no_rank(base_model: Path, tmp_path: Path) -> None:
    """Even if their label is among the names, as it must be to be read."""
    path = tmp_path / "a.csv"
    table(path, WORDS.__getitem__)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"nothing to drink {i},none\n" for i in range(8))
    checkpoint = trained_on(str(path), base_model, tmp_path / "out", epochs=1, label_names=(*WORDS, "none"),
                            out_of_scope_label="none")  # fmt: skip

    assert checkpoint.labels.names == WORDS


# The loss.


def outputs(logits: Any) -> dict[str, Any]:
    """What a model gives."""
    return {"logits": torch.tensor(logits)}


def test_the_loss_is_the_cross_entropy_of_each_cut() -> None:
    """Summed over the cuts, as written out by hand."""
    logits, labels = [[0.3, -1.0, 2.0], [1.0, 0.5, -0.5]], torch.tensor([0, 1])
    p = torch.tensor(logits).softmax(-1)
    first = -torch.log(p[0, 0]) - torch.log(p[0, 0] + p[0, 1])
    second = -torch.log(p[1, 1] + p[1, 2]) - torch.log(p[1, 0] + p[1, 1])

    assert Loss(kind="cumulative")(outputs(logits), labels).item() == pytest.approx(((first + second) / 2).item())


def test_of_two_labels_it_is_the_cross_entropy() -> None:
    """Smoothed and weighted alike."""
    logits, labels = outputs([[0.3, -1.0], [1.0, 0.5]]), torch.tensor([0, 1])
    options: dict[str, Any] = {"smoothing": 0.1, "weights": np.array([1.0, 3.0])}

    ordered, plain = Loss(kind="cumulative", **options), Loss(**options)
    assert ordered(logits, labels).item() == pytest.approx(plain(logits, labels).item())


def test_a_probability_costs_more_the_farther_it_lies() -> None:
    """To the cross-entropy, both answers are alike."""
    near, far = outputs([[4.0, 3.0, 0.0]]), outputs([[4.0, 0.0, 3.0]])
    labels = torch.tensor([0])

    assert Loss(kind="cumulative")(near, labels) < Loss(kind="cumulative")(far, labels)
    assert Loss()(near, labels).item() == pytest.approx(Loss()(far, labels).item())


def test_the_loss_is_least_for_the_true_shares() -> None:
    """It is a proper score: rows of 10, 60 and 30 % are best answered with just these probabilities."""
    shares = torch.tensor([0.1, 0.6, 0.3])
    labels = torch.repeat_interleave(torch.arange(3), (10 * shares).round().long())
    logits = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100)

    def step() -> Any:
        optimizer.zero_grad()
        loss = Loss(kind="cumulative")({"logits": logits.expand(10, 3)}, labels)
        loss.backward()
        return loss

    optimizer.step(step)
    assert logits.softmax(-1).tolist() == pytest.approx(shares.tolist(), abs=1e-3)


def test_far_logits_have_a_finite_loss() -> None:
    """And a finite gradient."""
    logits = torch.tensor([[500.0, 0.0, -500.0]], requires_grad=True)
    loss = Loss(kind="cumulative")({"logits": logits}, torch.tensor([2]))
    loss.backward()

    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


# Figures and results.


def test_figures_are_those_of_scikit_learn_and_scipy() -> None:
    """Labels by kappa and mean distance, expected ranks by correlation."""
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import cohen_kappa_score, mean_absolute_error

    generator = np.random.default_rng(0)
    gold = generator.integers(0, 3, 60)
    found = np.clip(gold + generator.integers(-1, 2, 60), 0, 2)
    expected = found + generator.normal(size=60)
    figures = ordinal_figures([ORDER[i] for i in gold], [ORDER[i] for i in found], expected.tolist(), ORDER)

    assert figures["qwk"] == pytest.approx(cohen_kappa_score(gold, found, weights="quadratic"))
    assert figures["mae"] == pytest.approx(mean_absolute_error(gold, found))
    assert figures["within_one"] == pytest.approx(np.mean(abs(gold - found) <= 1))
    assert figures["pearson"] == pytest.approx(pearsonr(gold, expected).statistic)
    assert figures["spearman"] == pytest.approx(spearmanr(gold, expected).statistic)
    assert list(figures["per_label"]) == ["low", "medium", "high"]


def test_a_right_label_without_a_rank_counts_as_wrong() -> None:
    """It is in no distance; if no label has a rank, there is no mean."""
    figures = ordinal_figures(["low", "other"], ["medium", "low"], [0.6, 0.1], ORDER)
    without = ordinal_figures(["other"], ["low"], [0.1], ORDER)

    assert (figures["accuracy"], figures["within_one"], figures["mae"]) == (0.0, 0.5, 1.0)
    assert (without["mae"], without["qwk"], without["pearson"]) == (None, 0.0, 0.0)


def test_one_label_for_all_has_no_kappa() -> None:
    """0, not a division by zero; also when it is right."""
    one = np.zeros(4, np.intp)

    assert quadratic_weighted_kappa(confusion_counts(one, one, 3)) == 0.0
    assert quadratic_weighted_kappa(np.diag([1.0, 2.0, 3.0])) == 1.0


def test_a_result_knows_its_order() -> None:
    """Scores from the lowest label up, their mean rank, and how probable a label or a higher one is."""
    result = decode_rank("x", np.log(np.array([0.1, 0.6, 0.3], np.float32)), ORDER)

    assert list(result.scores) == ["low", "medium", "high"]
    assert (result.label, result.expected_rank) == ("medium", pytest.approx(1.2))
    assert [result.at_least(name) for name in ORDER.names] == pytest.approx([1.0, 0.9, 0.3])
    with pytest.raises(KeyError):
        result.at_least("highest")


def test_a_result_survives_json() -> None:
    """With its order."""
    result = decode_rank("x", np.zeros(3, np.float32), ORDER)
    twin = OrdinalClassification.model_validate_json(result.model_dump_json())

    assert (twin, list(twin.scores)) == (result, ["low", "medium", "high"])
    assert hash(twin) == hash(result)


def test_a_matrix_of_ordered_labels_is_in_their_order() -> None:
    """Whatever is taken for what; labels without a place come last."""
    counts = {("low", "high"): 9, ("medium", "medium"): 1, ("none", "low"): 1}

    assert matrix_of(counts, ORDER.names).labels == ("low", "medium", "high", "none")


# From file to Runnable.


def test_a_trained_checkpoint_ranks_texts(trained: Checkpoint) -> None:
    """What is learnt, what is measured, what is recorded."""
    classifier = OrdinalClassifier.from_checkpoint(trained.path, device="cpu")
    results = classifier.batch([f"{word} tea number 4" for word in WORDS])
    ranks = [result.expected_rank for result in results]
    figures = trained.metrics["validation"]

    assert classifier.labels == WORDS
    assert max(ranks[:2]) + 1 < min(ranks[2:])
    assert figures["qwk"] > 0.5
    assert figures["within_one"] >= figures["accuracy"]
    assert {"mae", "pearson", "spearman", "macro_f1", "confidence"} <= set(figures)
    assert {"qwk", "mae", "spearman"} <= set(figures["frozen_baseline"])
    assert "eval_qwk" in (trained.path / "metrics.jsonl").read_text(encoding="utf-8")


def test_scores_are_calibrated_accepted_and_in_scope(trained: Checkpoint) -> None:
    """As a text classifier's are; a blank text is never accepted, and the threshold can be set."""
    classifier = OrdinalClassifier.from_checkpoint(trained.path, device="cpu")
    result, blank = classifier.batch(["hot tea number 4", " "])
    all_accepted = OrdinalClassifier.from_checkpoint(trained.path, device="cpu", accept_score=0.0)
    by_hand = sum(rank * score for rank, score in enumerate(result.scores.values()))

    assert trained.manifest is not None
    assert trained.manifest.calibration
    assert sum(result.scores.values()) == pytest.approx(1.0)
    assert result.score == result.scores[result.label]
    assert result.expected_rank == pytest.approx(by_hand)
    assert result.in_scope is not None
    assert result.accepted in (True, False)
    assert blank.accepted is False
    assert Predictor.load(trained, device="cpu").scope is not None
    assert all_accepted.invoke("hot tea number 4").accepted is (result.in_scope >= 0.05)


def test_the_folder_is_a_plain_classifier(trained: Checkpoint, tmp_path: Path) -> None:
    """`AutoModel` gives a softmax over the labels in their order; such a folder is served if it is asked for."""
    model = AutoModelForSequenceClassification.from_pretrained(trained.path)
    tokenizer = AutoTokenizer.from_pretrained(trained.path)
    with torch.inference_mode():
        logits = model.eval()(**tokenizer(["hot tea"], return_tensors="pt")).logits[0]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    plain = OrdinalClassifier.from_checkpoint(tmp_path, device="cpu").invoke("hot tea")

    assert model.config.problem_type == "single_label_classification"
    assert tuple(model.config.id2label.values()) == WORDS
    assert list(plain.scores.values()) == pytest.approx(logits.softmax(-1).tolist(), abs=1e-5)
    assert plain.accepted is None


def test_another_class_names_the_right_one(trained: Checkpoint, tiny_classifier: Checkpoint) -> None:
    """In both directions."""
    with pytest.raises(CheckpointError, match="OrdinalClassifier"):
        TextClassifier.from_checkpoint(trained.path)
    with pytest.raises(CheckpointError, match="TextClassifier"):
        OrdinalClassifier.from_checkpoint(tiny_classifier.path)


def test_a_plain_folder_of_independent_labels_is_refused(tmp_path: Path) -> None:
    """A softmax would falsify its scores."""
    folder = tiny_checkpoint(tmp_path / "many", task="multi-label-classification").path
    (folder / "lc_finetune.json").unlink()

    with pytest.raises(CheckpointError, match="MultiLabelClassifier"):
        OrdinalClassifier.from_checkpoint(folder)


@pytest.mark.slow
def test_imbalance_and_smoothing_take_the_loss_along(base_model: Path, tmp_path: Path) -> None:
    """Class weights, balanced sampling, focal loss and label smoothing are no other loss."""
    train = table(tmp_path / "a.csv", lambda rank: rank, rows=60)
    for i, options in enumerate(
        [{"class_weights": "balanced", "label_smoothing": 0.1}, {"balanced_sampling": True, "focal_gamma": 2.0}]
    ):
        checkpoint = trained_on(train, base_model, tmp_path / str(i), epochs=1, **options)
        assert checkpoint.task == TASK


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_exports_answer_alike(tmp_path: Path, name: str) -> None:
    """Parity holds, also with the accuracy of labelled texts."""
    folder = tiny_checkpoint(tmp_path / "tiny", task=TASK).path
    texts = [f"tea number {i}" for i in range(40)]
    manifest = export(folder, format=name, texts=texts, gold=["low", "high"] * 20).manifest  # type: ignore[arg-type]
    plain, exported = (
        OrdinalClassifier.from_checkpoint(folder, device="cpu", backend=backend).invoke("my card")
        for backend in ("torch", name)
    )

    assert manifest.parity.metric == "accuracy"
    assert resolve_backend(Checkpoint.load(folder), "auto", "cpu", "auto") == name
    assert exported.expected_rank == pytest.approx(plain.expected_rank, abs=1e-4)


# Trained further.


def test_more_rows_of_the_same_labels_are_learnt(trained: Checkpoint, base_model: Path, tmp_path: Path) -> None:
    """In the same order, without stating it again, and with rows of some labels only."""
    new = table(tmp_path / "new.csv", lambda rank: WORDS[rank % 2], rows=40)
    old = table(tmp_path / "old.csv", WORDS.__getitem__, rows=40)
    checkpoint = trained_on(new, base_model, tmp_path / "out", epochs=1, continue_from=str(trained.path),
                            earlier_test_file=old)  # fmt: skip

    assert checkpoint.labels.names == WORDS
    assert checkpoint.manifest is not None
    assert checkpoint.manifest.continued is not None
    assert checkpoint.manifest.continued.new_labels == ()
    assert "forgotten" in checkpoint.metrics["earlier_test"]


def test_a_new_label_has_no_place_in_the_order(trained: Checkpoint, base_model: Path, tmp_path: Path) -> None:
    """Refused with the way out, and so is another order."""
    train = table(tmp_path / "new.csv", (*WORDS[:3], "boiling").__getitem__)
    with pytest.raises(ConfigError, match=r"found 1 new \(boiling\), which have no place in its order"):
        trained_on(train, base_model, tmp_path / "out", continue_from=str(trained.path))
    with pytest.raises(ConfigError, match=r"in its order .* found another"):
        trained_on(
            table(tmp_path / "a.csv", WORDS.__getitem__), base_model, tmp_path / "out",
            continue_from=str(trained.path), label_names=WORDS[::-1],
        )  # fmt: skip


# The command line.


def test_train_says_what_was_learnt_and_how_to_load_it(
    base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the bundled sample, whose labels are numbers."""
    files = [f"--{part}-file={sample_file('stars', part)}" for part in ("train", "validation", "test")]
    assert main(["train", "--task", TASK, *files, f"--base-model={base_model}", f"--output-dir={tmp_path / 'out'}",
                 "--epochs=1"]) == 0  # fmt: skip
    said = capsys.readouterr().out

    assert re.search(r"quadratic weighted kappa -?0\.\d{4}  MAE \d\.\d{4} ranks", said)
    assert "frozen encoder + logistic regression: quadratic weighted kappa" in said
    assert "from lc_finetune import OrdinalClassifier" in said
    assert "From the lowest to the highest: `1`, `2`, `3`, `4`, `5`" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label-names", "low"], "expected a label from 0 to 0 or one of the names"),
        (["--few-shot"], "few_shot: expected data for text-classification"),
        (["--label-delimiter", ";"], "label_delimiter: expected data for multi-label-classification"),
        (["--text-pair-column", "label"], "expected data for ordinal-classification, found data for text-pair"),
        (["--label-column", "stars"], "expected the column 'stars'"),
    ],
)
def test_bad_options_end_with_one_line(
    options: list[str], message: str, base_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, and nothing written."""
    train = table(tmp_path / "a.csv", WORDS.__getitem__)
    status = main(["train", "--task", TASK, "--train-file", train, f"--base-model={base_model}",
                   f"--output-dir={tmp_path / 'out'}", *options])  # fmt: skip
    error = capsys.readouterr().err

    assert (status, error.count("\n")) == (2, 1)
    assert message in error
    assert not (tmp_path / "out").exists()


def test_evaluate_shows_distances_and_compares(
    trained: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page has its sections in the order of the labels; rows to correct are read again; two are compared."""
    rows = table(tmp_path / "rows.csv", (*WORDS[:3], "boiling").__getitem__, rows=40)
    page, errors = tmp_path / "page.html", tmp_path / "errors.csv"
    assert main(["evaluate", str(trained.path), rows, "--report", str(page), "--errors", str(errors),
                 "--against", str(trained.path)]) == 0  # fmt: skip
    said, html = capsys.readouterr().out, page.read_text(encoding="utf-8")
    wrong = read_examples(errors, OPTIONS).examples

    for name in ("accuracy", "MAE", "QWK"):
        assert re.search(rf"{name} +\d\.\d{{4}} against \d\.\d{{4}}: \+0\.0000", said)
    assert "McNemar" in said
    assert 'id="ranks-plot"' in html
    assert html.index("two or more below") < html.index("one above")
    assert "boiling" in {example.label for example in wrong if isinstance(example, TextExample)}


def test_predict_adds_the_expected_rank(trained: Checkpoint, tmp_path: Path) -> None:
    """Behind the score; scores in the order of the labels."""
    (tmp_path / "in.jsonl").write_text('{"text": "hot tea"}\n{"text": 3}\n', encoding="utf-8")
    predict_file(PredictConfig(checkpoint=str(trained.path), input=str(tmp_path / "in.jsonl"),
                               output=str(tmp_path / "out.jsonl"), scores=True))  # fmt: skip
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines())

    assert list(first) == ["text", "label", "score", "expected_rank", "accepted", "in_scope", "scores", "error"]
    assert 0 <= first["expected_rank"] <= 3
    assert tuple(first["scores"]) == WORDS
    assert second["expected_rank"] is None
    assert "Expected a text" in second["error"]


def test_calibrate_and_export_take_such_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On labelled rows, whose labels are checked against the model's."""
    folder = tiny_checkpoint(tmp_path / "tiny", task=TASK, labels=WORDS).path
    rows, others = table(tmp_path / "rows.csv", WORDS.__getitem__), table(tmp_path / "others.csv", lambda rank: rank)

    assert main(["calibrate", str(folder), rows, "--accept", "coverage=0.5"]) == 0
    assert main(["export", str(folder), "--format", "onnx", "--calibration-file", rows]) == 0
    manifest = Checkpoint.load(folder).manifest
    assert manifest is not None
    assert [one.backend for one in manifest.calibration] == ["torch", "onnx"]
    capsys.readouterr()
    assert main(["calibrate", str(folder), others]) == 2
    assert "Expected labels of the model, found 4 that it lacks" in capsys.readouterr().err
    assert main(["calibrate", str(folder), others, "--label-names", ",".join(WORDS)]) == 0


# In LangChain.


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a reader types it."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "runs" / "stars", task=TASK, labels=("1", "2", "3", "4", "5"))
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/ordinal.md"):
        exec(snippet, namespace)

    assert 0 <= namespace["review"].expected_rank <= 4


def test_a_tool_answers_json_with_the_order(trained: Checkpoint) -> None:
    """What an agent sees."""
    tool = OrdinalClassifier.from_checkpoint(trained.path, device="cpu").as_tool(name="heat", description="How hot?")
    answer = json.loads(tool.invoke({"text": "hot tea"}))

    assert answer["label"] in WORDS
    assert "expected_rank" in answer


def test_the_order_is_part_of_the_model(tmp_path: Path) -> None:
    """Two folders with the same weights and another order are two models."""
    up = tiny_checkpoint(tmp_path / "up", task=TASK, labels=("low", "high")).path
    down = tiny_checkpoint(tmp_path / "down", task=TASK, labels=("high", "low")).path
    one, other = (OrdinalClassifier.from_checkpoint(f, device="cpu").invoke("my card") for f in (up, down))

    assert (list(one.scores), list(other.scores)) == (["low", "high"], ["high", "low"])
    assert one.expected_rank == pytest.approx(other.expected_rank)
    assert one.label != other.label
