"""A checkpoint is trained further on new rows, and keeps what it knew."""

import json
import random
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from langchain_core.runnables import RunnableLambda
from safetensors.numpy import load_file

from lc_finetune import Cascade, Checkpoint, CheckpointError, ConfigError, EntityTagger, TextClassifier
from lc_finetune.cli import main
from lc_finetune.data import MultiLabelExample, Splits, TaggedExample, TextExample
from lc_finetune.labels import LabelSet, Span
from lc_finetune.schemas import Classification
from lc_finetune.schemes import TagSet
from lc_finetune.testing import tiny_checkpoint
from lc_finetune.train import TrainConfig, fine_tune
from lc_finetune.train.distillation import Distillation, keep_columns
from lc_finetune.train.preparation import prepare
from lc_finetune.train.replay import Replay, choose_replay, not_among, read_replay, with_replay, write_replay
from lc_finetune.train.trainer import _new_model
from tests.test_readme import snippets

TEXTS = {"card": "my bank card is lost", "cash": "withdraw cash please", "loan": "a loan for a house"}
OTHERS = (
    "river",
    "morning",
    "yellow",
    "window",
    "seven",
    "quickly",
    "garden",
    "paper",
    "north",
    "letter",
    "music",
    "winter",
)


def texts_of(label: str, rows: int = 30) -> list[str]:
    """Texts that are no near duplicates of each other."""
    chance = random.Random(label)
    return [f"{' '.join(chance.sample(OTHERS, 5))} {TEXTS.get(label, label)}" for _ in range(rows)]


def write(path: Path, labels: tuple[str, ...], rows: int = 30) -> Path:
    lines = [f"{text},{label}" for label in labels for text in texts_of(label, rows)]
    path.write_text("\n".join(["text,label", *lines]))
    return path


def options(train: Path, output: Path, **more: Any) -> dict[str, Any]:
    return {
        "train_file": str(train),
        "output_dir": str(output),
        "epochs": 1,
        "batch_size": 8,
        "baseline": False,
        **more,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("continual")


@pytest.fixture(scope="module")
def earlier(base_model: Path, folder: Path) -> Checkpoint:
    """A classifier of card and cash that keeps eight rows."""
    table = write(folder / "old.csv", ("cash", "card"))
    given = options(table, folder / "earlier", base_model=str(base_model), keep_replay=8, epochs=4)
    return fine_tune(TrainConfig(**given))


@pytest.fixture(scope="module")
def further(earlier: Checkpoint, folder: Path) -> Checkpoint:
    """It goes on with a label that comes before the others in the alphabet, and one that comes after."""
    table = write(folder / "new.csv", ("atm", "loan"))
    return fine_tune(
        TrainConfig(
            **options(
                table, folder / "further", continue_from=str(earlier.path), earlier_test_file=str(folder / "old.csv")
            )
        )
    )


def test_kept_rows_are_balanced_and_private(earlier: Checkpoint) -> None:
    """In a file that its owner alone can read."""
    path = earlier.path / "private" / "replay.jsonl"
    replay = read_replay(earlier.path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(row.label for row in replay.train if isinstance(row, TextExample)) == ["card"] * 4 + ["cash"] * 4
    assert 0 < len(replay.held_out) <= 2


def test_old_labels_keep_their_columns(earlier: Checkpoint, further: Checkpoint) -> None:
    """New ones come after them, sorted, also where the new file has no row of an old one."""
    assert earlier.labels.names == ("card", "cash")
    assert further.labels.names == ("card", "cash", "atm", "loan")
    assert set(TextClassifier.from_checkpoint(further.path, device="cpu").invoke("a loan").scores) == set(
        further.labels.names
    )


def test_forgetting_is_a_number(earlier: Checkpoint, further: Checkpoint) -> None:
    """On the earlier rows, before and after; in the metrics, the table and the card."""
    figures = further.metrics["earlier_test"]

    assert figures["forgotten"] == pytest.approx(figures["before"]["accuracy"] - figures["accuracy"])
    assert figures["rows"] == 60
    assert further.metrics["validation"]["before"]["accuracy"] <= further.metrics["validation"]["accuracy"]
    card = (further.path / "README.md").read_text()
    assert "Labels, earlier test (60 rows)" in card
    assert "before this training: accuracy" in card
    assert "forgotten" in (further.path / "report.html").read_text()


def test_lineage_and_fingerprints_of_both_are_recorded(earlier: Checkpoint, further: Checkpoint) -> None:
    """And what was done."""
    assert earlier.manifest is not None
    assert further.manifest is not None
    last = further.manifest.lineage[-1]

    assert (last.name, last.task) == ("earlier", "text-classification")
    assert last.data_fingerprint == earlier.manifest.data_fingerprint != further.manifest.data_fingerprint
    assert further.manifest.continued is not None
    assert further.manifest.continued.new_labels == ("atm", "loan")
    assert further.manifest.continued.replayed == 8
    assert earlier.manifest.continued is None


def test_kept_rows_go_on_with_new_ones_among_them(further: Checkpoint) -> None:
    """As many as before, of all labels, so that the next training has them too."""
    kept = [row.label for row in read_replay(further.path).train if isinstance(row, TextExample)]

    assert sorted(kept) == sorted([*further.labels.names, *further.labels.names])


def test_the_head_begins_with_the_old_one(earlier: Checkpoint, folder: Path) -> None:
    """Old rows of weights as they were, to the bit, and a new one."""
    table = write(folder / "begin.csv", ("loan", "card"))
    plan, _ = prepare(TrainConfig(**options(table, folder / "unused", continue_from=str(earlier.path))))
    state = _new_model(plan).state_dict()
    old = load_file(earlier.path / "model.safetensors")

    assert plan.task.labels.names == ("card", "cash", "loan")
    for name, before in old.items():
        assert np.array_equal(state[name].numpy()[: len(before)], before)
    assert len(state["classifier.weight"]) == 3


def test_one_new_label_is_enough(earlier: Checkpoint, tmp_path: Path) -> None:
    """A training file of one class, since the checkpoint has others."""
    table = write(tmp_path / "new.csv", ("loan",))
    plan, summary = prepare(TrainConfig(**options(table, tmp_path / "out", continue_from=str(earlier.path))))

    assert plan.task.labels.names == ("card", "cash", "loan")
    assert "2 labels kept, 1 new (loan); 8 rows replayed" in str(summary)
    assert plan.config.balanced_sampling


def test_rows_are_drawn_as_they_are_where_classes_are_weighed(earlier: Checkpoint, tmp_path: Path) -> None:
    """In every trial of a search too, one of which may weigh them: both would balance twice."""
    table = write(tmp_path / "new.csv", ("loan",))
    for more in ({"class_weights": "balanced"}, {"search": 2, "search_space": {"class_weights": [None, "balanced"]}}):
        given = options(table, tmp_path / "out", continue_from=str(earlier.path), **more)
        assert not prepare(TrainConfig(**given))[0].config.balanced_sampling


def test_a_renamed_label_is_said(earlier: Checkpoint, tmp_path: Path) -> None:
    """Both are labels; nobody else can know that they are one."""
    table = write(tmp_path / "new.csv", ("Cash", "loan"))
    plan, summary = prepare(TrainConfig(**options(table, tmp_path / "out", continue_from=str(earlier.path))))

    assert "1 new label(s) look like an old one renamed (Cash like cash)" in " ".join(str(summary).split())
    assert plan.task.labels.names == ("card", "cash", "Cash", "loan")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"base_model": "other"}, "continue_from and base_model: expected one of them"),
    ({"few_shot": True}, "continue_from and few_shot: expected one of them"),
    ({"train_file": None}, "continue_from: expected a training file"),
    ({"continue_from": None, "distillation": 1.0}, "distillation: expected it beside continue_from"),
    ({"continue_from": None, "earlier_test_file": "x.csv"}, "earlier_test_file: expected it beside continue_from"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=[str(given) for given, _ in REFUSED])
def test_options_that_contradict_are_refused(given: dict[str, Any], message: str) -> None:
    """Before anything is read."""
    with pytest.raises(ConfigError, match=message):
        TrainConfig.of({"train_file": "new.csv", "continue_from": "runs/support", **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"label_names": ("card", "loan")}, r"label_names: expected all labels of .*, found 1 missing \(cash\)"),
        ({"out_of_scope_label": "cash"}, "out_of_scope_label: expected a label that .* does not have"),
        ({"task": "regression"}, "task: expected text-classification, as the checkpoint"),
    ],
)
def test_a_label_is_never_lost(earlier: Checkpoint, tmp_path: Path, given: dict[str, Any], message: str) -> None:
    """What would drop one is refused, and so is another task."""
    table = write(tmp_path / "new.csv", ("loan", "card"))
    with pytest.raises(ConfigError, match=message):
        prepare(TrainConfig(**options(table, tmp_path / "out", continue_from=str(earlier.path), **given)))


def test_a_task_that_cannot_go_on_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, with what can be done."""
    made = tiny_checkpoint(tmp_path / "pairs", task="text-pair-classification")
    table = write(tmp_path / "new.csv", ("loan", "card"))
    status = main(
        ["train", "--continue-from", str(made.path), "--train-file", str(table), "--output-dir", str(tmp_path / "out")]
    )

    assert status == 2
    assert "found one for text-pair-classification. Train it anew" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_checkpoint_itself_is_not_replaced(earlier: Checkpoint, tmp_path: Path) -> None:
    """Its weights are read while the new ones are written."""
    table = write(tmp_path / "new.csv", ("loan", "card"))
    with pytest.raises(ConfigError, match="apart from what the run reads"):
        fine_tune(TrainConfig(**options(table, earlier.path, continue_from=str(earlier.path), overwrite=True)))


def test_a_cascade_s_record_is_new_data(earlier: Checkpoint, tmp_path: Path) -> None:
    """The language model's answers train the classifier that asked it; kept rows held out say what it forgot."""
    record = tmp_path / "escalations.jsonl"
    small = TextClassifier.from_checkpoint(earlier.path, device="cpu")
    large = RunnableLambda(
        lambda text: Classification(text=text, label="loan" if "loan" in text else "card", source="llm")
    )
    cascade = Cascade(small=small, large=large, threshold=1.0, labels=("card", "cash", "loan"), record=str(record))
    cascade.batch([text for label in ("loan", "card") for text in texts_of(label, 60)[30:]])
    made = fine_tune(TrainConfig(**options(record, tmp_path / "out", continue_from=str(earlier.path))))

    assert made.labels.names == ("card", "cash", "loan")
    assert made.metrics["earlier_validation"]["rows"] == len(read_replay(earlier.path).held_out)


def test_without_kept_rows_the_earlier_answers_guide(tiny_classifier: Checkpoint, tmp_path: Path) -> None:
    """Distillation alone: old classes cannot be located then, so nothing tells what is out of scope; no row is kept."""
    table = write(tmp_path / "new.csv", ("loan", "atm"))
    made = fine_tune(TrainConfig(**options(table, tmp_path / "out", continue_from=str(tiny_classifier.path))))

    assert made.manifest is not None
    assert made.manifest.continued is not None
    assert (made.manifest.continued.replayed, made.manifest.continued.distillation) == (0, 1.0)
    assert made.manifest.max_length == 32
    assert not (made.path / "scope.safetensors").exists()
    assert not (made.path / "private").exists()


def test_an_adapter_goes_on_too(earlier: Checkpoint, tmp_path: Path) -> None:
    """Merged, as ever."""
    table = write(tmp_path / "new.csv", ("loan", "card"))
    made = fine_tune(TrainConfig(**options(table, tmp_path / "out", continue_from=str(earlier.path), adapter="lora")))

    assert made.manifest is not None
    assert made.manifest.adapter is not None
    assert made.labels.names == ("card", "cash", "loan")


def test_a_multi_label_classifier_goes_on(tiny_multi_label: Checkpoint, tmp_path: Path) -> None:
    """With its labels first, and a threshold for each."""
    path = tmp_path / "new.jsonl"
    rows = [
        {"text": text, "labels": ["loan"] if i % 2 else ["card", "loan"]} for i, text in enumerate(texts_of("loan"))
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    made = fine_tune(
        TrainConfig(**options(path, tmp_path / "out", continue_from=str(tiny_multi_label.path), keep_replay=6))
    )

    assert made.labels.names == ("card", "cash", "other", "loan")
    assert made.manifest is not None
    assert made.manifest.thresholds is not None
    assert set(made.manifest.thresholds.per_label) == set(made.labels.names)
    assert all(isinstance(row, MultiLabelExample) for row in read_replay(made.path).train)


def test_a_tagger_goes_on(tiny_tagger: Checkpoint, tmp_path: Path) -> None:
    """Tags of a new type come last, and the unit of a tag stays."""
    path = tmp_path / "new.jsonl"
    rows = [
        {"text": f"pay {i} euros", "entities": [{"start": 4, "end": 4 + len(str(i)), "label": "AMOUNT"}]}
        for i in range(40)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    made = fine_tune(TrainConfig(**options(path, tmp_path / "out", continue_from=str(tiny_tagger.path), keep_replay=6)))

    assert made.labels.names == (*tiny_tagger.labels.names, "B-AMOUNT", "I-AMOUNT")
    assert made.manifest is not None
    assert tiny_tagger.manifest is not None
    assert made.manifest.tag_unit == tiny_tagger.manifest.tag_unit
    assert EntityTagger.from_checkpoint(made.path, device="cpu").invoke("pay 7 euros").text == "pay 7 euros"
    assert all(isinstance(row, TaggedExample) for row in read_replay(made.path).train)


def test_an_interrupted_run_wants_the_same_checkpoint(earlier: Checkpoint, tmp_path: Path) -> None:
    """What is resumed is what was begun: the checkpoint and the weight are options like others."""
    first = TrainConfig(**options(tmp_path / "new.csv", tmp_path / "out", continue_from=str(earlier.path)))
    other = first.model_copy(update={"distillation": 0.0})

    assert first.fingerprint_fields() != other.fingerprint_fields()
    assert TrainConfig.model_validate_json(first.model_dump_json()) == first


def test_columns_are_added_after_the_old_ones() -> None:
    """Sorted among themselves."""
    assert LabelSet(("b", "a")).extended(["d", "a", "c"]).names == ("b", "a", "c", "d")
    tags = TagSet.of_types(["LOC"], "BIOES").extended(["DAY", "LOC"])
    assert tags.labels.names[-4:] == ("B-DAY", "I-DAY", "E-DAY", "S-DAY")


EXAMPLES = [
    TextExample("a", "1"),
    MultiLabelExample("b\u2028c", ()),
    MultiLabelExample("b", ("x", "y")),
    TaggedExample("Ann here", (Span(0, 3, "PER"),)),
    TaggedExample("nobody", ()),
]


@pytest.mark.parametrize("example", EXAMPLES, ids=repr)
def test_kept_rows_come_back_as_they_were(example: Any, tmp_path: Path) -> None:
    """Of every task that goes on; line separators in a text are no ends of lines."""
    replay = Replay((example,), (example, example))
    write_replay(tmp_path, replay)

    assert read_replay(tmp_path) == replay


def test_an_altered_file_of_kept_rows_is_refused(tmp_path: Path) -> None:
    """The line is named, its text is not."""
    write_replay(tmp_path, Replay((TextExample("secret", "1"),)))
    path = tmp_path / "private" / "replay.jsonl"
    path.write_text(path.read_text() + '{"part": "train", "text": "secret"}\n')
    with pytest.raises(CheckpointError, match=r"replay\.jsonl:2: expected a row kept for replay") as raised:
        read_replay(tmp_path)

    assert "secret" not in str(raised.value)


def test_rare_classes_are_kept_before_frequent_ones_get_more() -> None:
    """One row of each, then another of each."""
    rows = (*(TextExample(f"t{i}", "often") for i in range(50)), TextExample("x", "rare"), TextExample("y", "rare"))
    kept = choose_replay(Splits(rows, rows[-2:]), 6)

    assert sorted(row.label for row in kept.train if isinstance(row, TextExample)) == ["often"] * 4 + ["rare"] * 2
    assert len(kept.held_out) == 1


def test_a_text_that_is_labelled_anew_is_not_replayed() -> None:
    """The new row counts; kept rows that were held out are shared by validation and calibration."""
    old = tuple(TextExample(f"old {i}", "a") for i in range(4))
    replay = Replay((TextExample("Same text", "a"), *old[:1]), old)
    splits = Splits((TextExample("same text", "b"),), (TextExample("v", "b"),), (TextExample("c", "b"),))
    mixed = with_replay(splits, not_among(replay, splits))

    assert mixed.train == (TextExample("same text", "b"), old[0])
    assert mixed.validation[1:] == (old[0], old[2])
    assert mixed.calibration[1:] == (old[1], old[3])


class Answering(torch.nn.Module):
    """Gives fixed logits."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.classifier = torch.nn.Linear(2, logits.shape[-1])
        self._logits = logits

    def forward(self, **inputs: Any) -> Any:
        return type("Outputs", (), {"logits": self._logits})


LOGITS = torch.tensor([[2.0, -1.0], [0.5, 0.0]])


@pytest.mark.parametrize("independent", [False, True])
def test_distillation_looks_at_old_labels_alone(independent: bool) -> None:
    """Least where the answers are the earlier ones, whatever the new labels get; in proportion to its weight."""
    loss = Distillation(Answering(LOGITS), weight=1.0, independent=independent)
    same = loss({}, {"logits": torch.cat([LOGITS, torch.tensor([[9.0], [-9.0]])], dim=1)})
    others = loss({}, {"logits": torch.cat([-LOGITS, torch.zeros(2, 1)], dim=1)})

    assert same < others
    assert independent or torch.allclose(same, torch.tensor(0.0), atol=1e-6)
    twice = Distillation(Answering(LOGITS), weight=2.0, independent=independent)
    assert torch.allclose(twice({}, {"logits": -LOGITS}), 2 * loss({}, {"logits": -LOGITS}))


def test_distillation_of_a_tagger_leaves_padding_out() -> None:
    """What it answers there never counts."""
    loss = Distillation(Answering(LOGITS.unsqueeze(0)), weight=1.0, independent=False)
    mask = {"attention_mask": torch.tensor([[1, 0]])}

    assert torch.allclose(
        loss(mask, {"logits": torch.stack([LOGITS[0], -LOGITS[1]]).unsqueeze(0)}), torch.tensor(0.0), atol=1e-6
    )


def test_new_columns_begin_at_the_mean() -> None:
    """With the small random numbers that they had on top."""
    earlier, model = Answering(LOGITS), Answering(torch.zeros(1, 3))
    random = model.classifier.weight[2].clone()
    keep_columns(model, earlier, 2)

    assert torch.equal(model.classifier.weight[:2], earlier.classifier.weight)
    assert torch.allclose(model.classifier.weight[2], random + earlier.classifier.weight.mean(dim=0))


def test_the_page_runs(further: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a checkpoint that was trained further."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(further.path, tmp_path / "runs" / "support-2")
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/continual-learning.md"):
        exec(snippet, namespace)

    assert namespace["figures"]["rows"] == 60
