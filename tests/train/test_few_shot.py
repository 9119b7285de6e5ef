"""With few rows a class, the encoder first learns which rows belong together."""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from lc_finetune import ConfigError, DataError, TextClassifier
from lc_finetune.data import ReadOptions, TextExample, read_examples
from lc_finetune.inference.backends.torch import masked_mean
from lc_finetune.testing import TOKENIZER_KINDS, TokenizerKind, tiny_base_model
from lc_finetune.train import TrainConfig, fine_tune, recipe
from lc_finetune.train.base_model import BaseModel, resolve_base_model
from lc_finetune.train.few_shot import add_averaging_layer, advice, averages, check, pair_loss, warm_up, with_names
from lc_finetune.train.preparation import prepare
from lc_finetune.train.trainer import _arguments
from tests.train.test_train import options
from tests.train.test_train import spans as spans
from tests.train.test_train import table as table

pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module")
def sentence_encoder(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random encoder, in a folder as sentence-transformers writes it."""
    folder = tmp_path_factory.mktemp("encoder") / "base"
    shutil.copytree(base_model, folder)
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    (folder / "modules.json").write_text(json.dumps([module]))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return folder


def test_the_loss_is_lowest_when_classes_are_apart() -> None:
    """Equal states in a class and opposite ones in the others leave log of the rows of the class."""
    labels = torch.tensor([0, 0, 1, 1])
    apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    mixed = apart[[0, 2, 1, 3]]

    assert float(pair_loss(apart, labels, 0.1)) == pytest.approx(0.0, abs=1e-6)
    assert float(pair_loss(mixed, labels, 0.1)) == pytest.approx(20.0, abs=1e-3)
    assert float(pair_loss(apart, labels, 0.1)) == float(pair_loss(5 * apart, labels, 0.1)), "only angles count"


def test_a_row_without_a_partner_counts_nothing() -> None:
    """Its class has no pair in the batch."""
    states = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])

    assert torch.isfinite(pair_loss(states, torch.tensor([0, 0, 1]), 0.1))


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_the_layer_on_top_puts_the_mean_in_the_first_place(kind: TokenizerKind, tmp_path: Path) -> None:
    """Whatever the padding, for BERT and what is built like it; the head then reads what sentences were compared by."""
    folder = tiny_base_model(tmp_path / "base", tokenizer=kind)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain, averaged = (AutoModel.from_pretrained(folder).eval() for _ in range(2))
    add_averaging_layer(averaged)
    averaged.save_pretrained(tmp_path / "averaged")
    averaged = AutoModel.from_pretrained(tmp_path / "averaged").eval()
    batch = tokenizer(["Where is my card?", "The cash machine kept my card and gave me no money."],
                      padding=True, return_tensors="pt", return_token_type_ids=False)  # fmt: skip
    with torch.no_grad():
        mean = masked_mean(plain(**batch).last_hidden_state, batch["attention_mask"])
        first = averaged(**batch).last_hidden_state[:, 0]

    assert plain.config.num_hidden_layers + 1 == averaged.config.num_hidden_layers
    wanted = torch.nn.functional.layer_norm(mean, mean.shape[-1:])
    near, far = torch.cosine_similarity(wanted, first), torch.cosine_similarity(wanted[[1, 0]], first)
    assert near.min() > 0.95
    assert (near > far).all()


@pytest.mark.parametrize(
    ("settings", "mean"),
    [({"pooling_mode_mean_tokens": True}, True), ({"pooling_mode": "mean"}, True),
     ({"pooling_mode_cls_token": True}, False), (None, False)],
)  # fmt: skip
def test_whether_an_encoder_averages_is_in_its_folder(
    settings: dict[str, Any] | None, mean: bool, tmp_path: Path
) -> None:
    """As sentence-transformers records it, in either of its forms."""
    if settings is not None:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(settings))

    assert mean == averages(tmp_path)


def test_a_label_s_name_is_a_text_of_its_class() -> None:
    """If it has words."""
    rows = [TextExample("x", "card_arrival"), TextExample("y", "2"), TextExample("z", "lost/stolen card")]

    assert with_names(rows)[3:] == (
        TextExample("card arrival", "card_arrival"),
        TextExample("lost stolen card", "lost/stolen card"),
    )


def nearness(folder: Path, texts: list[str], classes: list[str]) -> float:
    """How much nearer texts of one class are than those of two, as a difference of cosines."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        state = model(**tokenizer(texts, padding=True, return_tensors="pt")).last_hidden_state[:, 0]
    unit = torch.nn.functional.normalize(state, dim=-1)
    same = torch.tensor([[one == other for other in classes] for one in classes])
    cosines = unit @ unit.T
    return float(cosines[same].mean() - cosines[~same].mean())


def few(base: Path, table: Path, output: Path, **more: Any) -> dict[str, Any]:
    """The options of a run on few rows: none of those of epochs."""
    given = options(base, table, output, few_shot=True, learning_rate=0.02, **more)
    return {name: value for name, value in given.items() if name not in ("epochs", "batch_size")}


def test_the_warm_up_brings_a_class_together(sentence_encoder: Path, table: Path, tmp_path: Path) -> None:
    """The warmed encoder is a plain base model, of one layer more; the base model stays as it was."""
    before = load_file(sentence_encoder / "model.safetensors")
    plan, _ = prepare(TrainConfig(**few(sentence_encoder, table, tmp_path / "out")))
    said: list[str] = []
    work = tmp_path / "work"
    work.mkdir()
    warmed, history = warm_up(plan, work, _arguments(plan, work), said.append)
    texts, classes = zip(*((row.text, row.label) for row in plan.splits.train), strict=True)

    far, near = (nearness(folder, list(texts), list(classes)) for folder in (plan.base.folder, warmed.base.folder))
    assert near > far + 0.2
    assert plan.base.name == warmed.base.name
    assert [path.name for path in work.iterdir()] == ["warmed-base"]
    assert AutoModel.from_pretrained(warmed.base.folder).config.num_hidden_layers == 3
    assert said == ["Warm-up", f"  {recipe.WARM_UP_STEPS} steps  mean loss {history[-1]['train_loss']:.4f}"]
    after = load_file(sentence_encoder / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_few_rows_become_an_ordinary_checkpoint(sentence_encoder: Path, table: Path, tmp_path: Path) -> None:
    """Served as any other; the manifest names the base model; nothing is left beside it."""
    made = fine_tune(TrainConfig(**few(sentence_encoder, table, tmp_path / "out", baseline=True)))

    rows = read_examples(str(table), ReadOptions()).examples
    served = TextClassifier.from_checkpoint(made.path, device="cpu").batch([row.text for row in rows])
    right = [result.label == cast(TextExample, row).label for result, row in zip(served, rows, strict=True)]
    assert sum(right) > 0.8 * len(rows)
    assert made.manifest is not None
    assert made.manifest.base_model == "base"
    assert "frozen_baseline" in made.metrics["validation"]
    assert {"out", "train.csv"} == {path.name for path in tmp_path.iterdir()}


def test_any_program_reads_the_same_answers(sentence_encoder: Path, table: Path, tmp_path: Path) -> None:
    """Transformers' own model of the folder, uncalibrated; calibration is on rows that nothing was fitted to."""
    made = fine_tune(TrainConfig(**few(sentence_encoder, table, tmp_path / "out")))
    texts = ["my card", "cash please", "is my bank card lost"]
    tokenizer = AutoTokenizer.from_pretrained(made.path)
    model = AutoModelForSequenceClassification.from_pretrained(made.path).eval()
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    served = TextClassifier.from_checkpoint(made.path, device="cpu").batch(texts)

    assert [one.label for one in served] == [model.config.id2label[i] for i in logits.argmax(-1).tolist()]
    assert made.manifest is not None
    assert all("validation rows, held out of training" in one.split for one in made.manifest.calibration)
    assert len(made.manifest.calibration) == 2
    history = [json.loads(line) for line in (made.path / "metrics.jsonl").read_text().splitlines()]
    assert len([entry for entry in history if "loss" in entry]) == recipe.WARM_UP_STEPS // 10


@pytest.mark.slow
def test_a_killed_run_starts_anew(sentence_encoder: Path, table: Path, tmp_path: Path) -> None:
    """What a killed warm-up left is thrown away."""
    left = tmp_path / "out.work" / "warmed-base"
    left.mkdir(parents=True)
    (left / "config.json").write_text("{")
    made = fine_tune(TrainConfig(**few(sentence_encoder, table, tmp_path / "out", resume=True)))

    assert list(made.labels.names) == ["card", "cash"]
    assert not (tmp_path / "out.work").exists()


@pytest.mark.parametrize(
    "given",
    [{"epochs": 4}, {"batch_size": 16}, {"patience": 2}, {"focal_gamma": 2.0}, {"label_smoothing": 0.1},
     {"balanced_sampling": True}, {"layer_decay": 0.9}, {"gradient_accumulation": 2}, {"gradient_checkpointing": True}],
)  # fmt: skip
def test_fields_of_epochs_are_refused(given: dict[str, Any]) -> None:
    """There are none after the warm-up."""
    with pytest.raises(ConfigError, match=f"few_shot and {next(iter(given))}: expected one of them, found both"):
        TrainConfig.of({"few_shot": True, **given})


def test_only_device_and_precision_of_the_trainer_are_taken() -> None:
    """The rest would do nothing."""
    assert TrainConfig.of({"few_shot": True, "trainer": {"use_cpu": True}}).trainer == {"use_cpu": True}
    with pytest.raises(ConfigError, match=r"few_shot and trainer: expected none but use_cpu.*found max_steps"):
        TrainConfig.of({"few_shot": True, "trainer": {"max_steps": 3}})


@pytest.mark.slow
def test_classes_can_be_weighed(sentence_encoder: Path, table: Path, tmp_path: Path) -> None:
    """In the regression, as in any loss."""
    weights = {"card": 1000.0, "cash": 0.001}
    made = fine_tune(TrainConfig(**few(sentence_encoder, table, tmp_path / "out", class_weights=weights)))
    model = AutoModelForSequenceClassification.from_pretrained(made.path)

    assert model.classifier.bias[model.config.label2id["card"]] > model.classifier.bias[model.config.label2id["cash"]]


def test_another_base_model_is_refused(base_model: Path, table: Path, tmp_path: Path) -> None:
    """One that no sentence was compared with."""
    with pytest.raises(ConfigError, match=r"few_shot: expected a sentence encoder.*found 'base'"):
        fine_tune(TrainConfig(**few(base_model, table, tmp_path / "out")))


def test_rows_without_pairs_are_refused() -> None:
    """A class of one row, whose name has no words, has no pair."""
    rows = [TextExample("x", "1"), TextExample("y", "2"), TextExample("z", "2")]
    with pytest.raises(DataError, match="expected at least two classes with two training rows, found 1"):
        check(resolve_base_model("minilm"), rows)


@pytest.mark.parametrize(("rows", "advised"), [(7, False), (8, True), (64, True), (65, False)])
def test_the_warm_up_is_recommended_for_few_rows(rows: int, advised: bool) -> None:
    """Of 8 to 64 rows a class, for a sentence encoder."""
    examples = [TextExample(f"{label} {i}", label) for label in ("a", "b") for i in range(rows)]
    minilm = resolve_base_model("minilm")

    found = advice(minilm, "text-classification", examples)
    assert advised == (found is not None)
    assert not found or "--few-shot" in found
    assert advice(minilm, "token-classification", examples) is None


def test_it_is_not_recommended_for_other_base_models(base_model: Path) -> None:
    """It would be refused."""
    examples: list[Any] = [TextExample(f"{label} {i}", label) for label in ("a", "b") for i in range(20)]

    assert advice(BaseModel(base_model, "base"), "text-classification", examples) is None
