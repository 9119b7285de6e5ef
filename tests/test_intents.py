"""Intent and entities by two heads on one encoder: rows, forwards, the Runnable, exports and the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from langchain_core.runnables import RunnableLambda
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification

from lc_finetune import (
    Checkpoint,
    CheckpointError,
    Classification,
    DataError,
    EntityTagger,
    IntentAndEntities,
    IntentAndEntityTagger,
    LabelRouter,
    Tagging,
    TextClassifier,
)
from lc_finetune.cli import main
from lc_finetune.data import IntentExample, ReadOptions, read_examples, read_texts, sample_file, split_examples
from lc_finetune.data.split import classes
from lc_finetune.evaluation import compare, evaluate
from lc_finetune.inference import Predictor
from lc_finetune.inference.backends.torch import load_model
from lc_finetune.inference.export import export
from lc_finetune.labels import Span
from lc_finetune.testing import TOKENIZER_KINDS, TokenizerKind, tiny_checkpoint

SNIPS = Path(__file__).parents[2] / "shared" / "data" / "snips"
MERKEL = "Angela Merkel flew from Berlin to Paris on Monday with Barack Obama."
PLAY = {"PlayMusic": [{"data": [{"text": "Play "}, {"text": "Emma", "entity": "song"}, {"text": " now"}]}]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("intents") / "c", task="intent-and-entities")


@pytest.fixture(scope="module")
def runnable(checkpoint: Checkpoint) -> IntentAndEntityTagger:
    return IntentAndEntityTagger.from_checkpoint(checkpoint.path, device="cpu")


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def rows(*fields: dict[str, Any]) -> str:
    return "".join(json.dumps(one) + "\n" for one in fields)


# Reading.


def test_rows_with_label_and_entities_are_read_with_both(tmp_path: Path) -> None:
    """Recognised by their columns, and said; `intent` is as good a name as `label`."""
    row = {"text": "Play Emma", "entities": [{"start": 5, "end": 9, "label": "song"}]}
    for column in ("label", "intent"):
        loaded = read_examples(write(tmp_path / "a.jsonl", rows({**row, column: "play"})))

        assert loaded.task == "intent-and-entities"
        assert loaded.examples == (IntentExample("Play Emma", "play", (Span(5, 9, "song"),)),)
        assert "--task token-classification" in loaded.notes[-1]


def test_the_task_decides_where_rows_hold_more_than_it_needs(tmp_path: Path) -> None:
    """The same rows are a tagger's, or a classifier's; other columns are labels only if they are named."""
    path = write(tmp_path / "a.jsonl", rows({"text": "Play it", "topic": "x", "label": "play", "entities": []}))
    tasks: list[Any] = ["token-classification", "text-classification", "intent-and-entities"]

    assert [read_examples(path, ReadOptions(task=task)).task for task in tasks] == tasks
    named = read_examples(path, ReadOptions(label_column="topic", task="intent-and-entities")).examples[0]
    assert named == IntentExample("Play it", "x", ())


def test_snips_is_read_as_it_is_nested(tmp_path: Path) -> None:
    """Chunks are joined as they stand, and counted in characters."""
    loaded = read_examples(write(tmp_path / "a.json", json.dumps(PLAY)))

    assert loaded.examples == (IntentExample("Play Emma now", "PlayMusic", (Span(5, 9, "song"),)),)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"A": [{"data": [{"text": "x"}]}, {"words": []}]}, "A, item 2: expected an utterance with its chunks"),
        ({"A": [{"data": [{"entity": "x"}]}]}, "A, item 1: expected chunks with a 'text'"),
        ({"A": [{"data": [{"text": "x", "entity": 3}]}]}, "A, item 1: expected chunks with a 'text'"),
        ({"A": [{"data": ["secret"]}]}, "A, item 1: expected chunks with a 'text'"),
    ],
)
def test_a_fault_in_snips_is_told_with_its_place(content: Any, says: str, tmp_path: Path) -> None:
    """By intent and number, without the text."""
    with pytest.raises(DataError, match=says) as caught:
        read_examples(write(tmp_path / "a.json", json.dumps(content)))
    assert "secret" not in str(caught.value)


def test_conll_sentences_may_have_a_label_above_them(tmp_path: Path) -> None:
    """In a comment; it is read unless the task is another, and must be there for each sentence if it is asked for."""
    sentences = "# intent: play\n# source: x\nPlay O\nEmma B-song\n\n# label = stop it\nstop O\n"
    path = write(tmp_path / "a.conll", sentences)
    loaded = read_examples(path)

    assert loaded.examples == (
        IntentExample("Play Emma", "play", (Span(5, 9, "song"),)),
        IntentExample("stop", "stop it", ()),
    )
    assert any("1 comment lines left out" in note for note in loaded.notes)
    assert read_examples(path, ReadOptions(task="token-classification")).task == "token-classification"
    without = write(tmp_path / "b.conll", sentences.replace("# label = stop it\n", ""))
    assert read_examples(without).task == "token-classification"
    with pytest.raises(DataError, match=r"b\.conll:6: expected a label for each sentence"):
        read_examples(without, ReadOptions(task="intent-and-entities"))


def test_a_pattern_stands_for_several_files_of_one_kind(tmp_path: Path) -> None:
    """Read in the order of their names; a file of another kind is refused."""
    write(tmp_path / "train_b.json", json.dumps(PLAY))
    write(tmp_path / "train_a.json", json.dumps({"Stop": [{"data": [{"text": "stop"}]}]}))
    loaded = read_examples(tmp_path / "train_*.json")

    assert [example.label for example in loaded.examples if isinstance(example, IntentExample)] == ["Stop", "PlayMusic"]
    assert read_texts(tmp_path / "train_*.json").texts == ("stop", "Play Emma now")
    write(tmp_path / "train_c.json", json.dumps([{"text": "x"}]))
    with pytest.raises(DataError, match=r"train_c\.json: expected"):
        read_examples(tmp_path / "train_*.json")
    with pytest.raises(DataError, match="expected a file, found none"):
        read_examples(tmp_path / "none_*.json")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "x", "label": "a"}, "expected a column 'entities'"),
        ({"text": "x", "label": "", "entities": []}, "expected a label in every row"),
        ({"text": "x", "label": "a", "entities": "x"}, "expected 'entities' as a list"),
        ({"text": "x", "label": "a", "entities": [{"start": 0, "end": 9, "label": "b"}]}, "within the text"),
    ],
)
def test_rows_that_lack_something_are_refused(row: dict[str, Any], says: str, tmp_path: Path) -> None:
    """With file and line."""
    with pytest.raises(DataError, match=says):
        read_examples(write(tmp_path / "a.jsonl", rows(row)), ReadOptions(task="intent-and-entities"))


def test_splits_keep_every_label_and_type_in_training() -> None:
    """Both are what an example shows; without any entity, or with one label, there is nothing to train both on."""
    examples = [IntentExample(f"text number {i} {'a' * i}", f"l{i % 3}", (Span(0, 4, f"t{i % 2}"),)) for i in range(40)]
    splits = split_examples(examples, seed=0)

    assert {name for one in splits.train for name in classes(one)} == {"l0", "l1", "l2", "t0", "t1"}
    assert splits.validation
    with pytest.raises(DataError, match="Expected entities in the training rows"):
        split_examples([IntentExample(one.text, one.label, ()) for one in examples], seed=0)
    with pytest.raises(DataError, match="at least two classes"):
        split_examples([IntentExample(one.text, "l", one.spans) for one in examples], seed=0)


@pytest.mark.skipif(not SNIPS.is_dir(), reason="needs the SNIPS data")
def test_the_benchmark_is_read_whole() -> None:
    """Seven intents, all entities with their characters."""
    loaded = read_examples(str(SNIPS / "train_*.json"))
    examples = [one for one in loaded.examples if isinstance(one, IntentExample)]

    assert (len(examples), len({one.label for one in examples})) == (2100, 7)
    assert len({span.label for one in examples for span in one.spans}) == 39


# The model and its folder.


def test_transformers_loads_each_head(checkpoint: Checkpoint) -> None:
    """The folder is a sequence classifier's; a tagger takes the second head's weights under its own names."""
    both = load_model(checkpoint)
    classifier: Any = AutoModelForSequenceClassification.from_pretrained(checkpoint.path)
    names = dict(enumerate(checkpoint.config["tag_names"]))
    tagger: Any = AutoModelForTokenClassification.from_config(
        AutoConfig.from_pretrained(checkpoint.path, id2label=names, label2id={name: i for i, name in names.items()})
    )
    weights = load_file(checkpoint.path / "model.safetensors")
    for part in ("weight", "bias"):
        weights[f"classifier.{part}"] = weights.pop(f"tagger.{part}")
    missing, _ = tagger.load_state_dict(weights, strict=False)
    ids = torch.arange(5, 15)[None]
    found = both(input_ids=ids, attention_mask=torch.ones_like(ids))

    assert checkpoint.config["architectures"] == ["BertForSequenceClassification"]
    assert not missing
    assert torch.allclose(found.logits, classifier.eval()(ids).logits, atol=1e-6)
    assert torch.allclose(found.tag_logits, tagger.eval()(ids).logits, atol=1e-6)


def test_both_heads_learn_from_one_loss(checkpoint: Checkpoint) -> None:
    """Its gradient reaches both, and the encoder; pieces without a tag do not count, and need not be there."""
    model = load_model(checkpoint)
    ids = torch.arange(5, 13).reshape(2, 4)
    tags = torch.tensor([[-100, 1, 2, -100], [-100, 0, -100, -100]])
    outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=torch.tensor([0, 1]), tag_labels=tags)
    outputs.loss.backward()
    untagged = model(
        input_ids=ids, attention_mask=torch.ones_like(ids), labels=torch.tensor([0, 1]),
        tag_labels=torch.full_like(ids, -100),
    )  # fmt: skip
    log_p, of_tags = (one.log_softmax(-1) for one in (outputs.logits, outputs.tag_logits))
    expected = -(log_p[0, 0] + log_p[1, 1]) / 2 - (of_tags[0, 1, 1] + of_tags[0, 2, 2] + of_tags[1, 1, 0]) / 3

    assert outputs.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert untagged.loss.isfinite()
    assert all(parameter.grad is not None for parameter in (model.tagger.weight, model.classifier.weight))
    assert model.base_model.embeddings.word_embeddings.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("names", [None, [], ["O", 3], ["O", "O"]])
def test_a_folder_without_names_for_its_tags_is_refused(names: Any, tmp_path: Path) -> None:
    """Before any weight is read."""
    made = tiny_checkpoint(tmp_path / "c", task="intent-and-entities")
    (made.path / "lc_finetune.json").unlink()
    config = json.loads((made.path / "config.json").read_text())
    (made.path / "config.json").write_text(json.dumps({**config, "tag_names": names}))

    with pytest.raises(CheckpointError, match=r"tag_names|more than once|twice"):
        Checkpoint.load(made.path)


def test_a_plain_folder_is_recognised_by_its_tags(tmp_path: Path) -> None:
    """Without a manifest it loads too, uncalibrated."""
    made = tiny_checkpoint(tmp_path / "c", task="intent-and-entities")
    (made.path / "lc_finetune.json").unlink()

    assert Checkpoint.load(made.path).task == "intent-and-entities"
    assert IntentAndEntityTagger.from_checkpoint(made.path, device="cpu").invoke(MERKEL).accepted is None


def test_a_plain_text_classifier_is_refused(tmp_path: Path) -> None:
    """It has no tags: its labels are not taken for some."""
    folder = tiny_checkpoint(tmp_path / "c", task="text-classification").path
    (folder / "lc_finetune.json").unlink()

    with pytest.raises(CheckpointError, match="TextClassifier"):
        IntentAndEntityTagger.from_checkpoint(folder, device="cpu")


# The Runnable.


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_entities_have_their_characters_in_texts_of_any_length(kind: TokenizerKind, tmp_path: Path) -> None:
    """Of long texts too, which are read in windows, and of characters of several pieces or code points."""
    made = tiny_checkpoint(tmp_path / "c", task="intent-and-entities", tokenizer=kind)
    model = IntentAndEntityTagger.from_checkpoint(made.path, device="cpu")

    for text in (MERKEL, MERKEL * 9, "Zoë’s 👩🏽 café\r\n北京 now", " ", ""):
        result = model.invoke(text)
        assert all(text[one.start : one.end] == one.text for one in result.entities)
        assert sum(result.scores.values()) == pytest.approx(1.0)
    assert model.invoke(MERKEL * 9).entities
    assert model.invoke("").accepted is False


def test_each_head_answers_as_a_model_of_its_own(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """The label as the classifier in the folder, the entities as a tagger with the same weights, windows merged."""
    twin = tmp_path / "classifier"
    model: Any = AutoModelForSequenceClassification.from_pretrained(checkpoint.path)
    model.config.tag_names = None
    del model.config.tag_names
    model.save_pretrained(twin)
    (twin / "tokenizer.json").write_bytes((checkpoint.path / "tokenizer.json").read_bytes())
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (checkpoint.path / name).exists():
            (twin / name).write_bytes((checkpoint.path / name).read_bytes())
    plain = TextClassifier.from_checkpoint(twin, device="cpu").invoke(MERKEL * 4)
    found = IntentAndEntityTagger.from_checkpoint(checkpoint.path, device="cpu").invoke(MERKEL * 4)

    assert found.label == plain.label
    assert dict(found.scores) == pytest.approx(dict(plain.scores), abs=1e-5)


def test_a_batch_is_one_forward(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """For both heads together, however it is called."""
    model = IntentAndEntityTagger.from_checkpoint(checkpoint.path, device="cpu")
    backend = Predictor.load(checkpoint, device="cpu").backend
    forward, sizes = backend.forward, []

    def counted(batch: Any) -> Any:
        sizes.append(len(batch.input_ids))
        return forward(batch)

    monkeypatch.setattr(backend, "forward", counted)
    results = model.batch(["where is my card", "in Paris", "cash"])

    assert sizes == [3]
    assert all(isinstance(one, IntentAndEntities) for one in results)


def test_neighbours_do_not_change_an_answer(runnable: IntentAndEntityTagger) -> None:
    """Neither the label's score nor an entity's."""
    alone = runnable.invoke(MERKEL)
    beside = runnable.batch([MERKEL, "cash", MERKEL * 5])[0]

    assert [(one.label, one.start, one.end) for one in beside.entities] == [
        (one.label, one.start, one.end) for one in alone.entities
    ]
    assert np.allclose([one.score for one in beside.entities], [one.score for one in alone.entities], atol=1e-5)
    assert dict(alone.scores) == pytest.approx(dict(beside.scores), abs=1e-5)


def test_the_result_is_a_classification_that_a_router_takes(runnable: IntentAndEntityTagger) -> None:
    """Its parts are at hand as a classifier and a tagger would give them; it is frozen, and hashable."""
    result = runnable.invoke(MERKEL)
    chain = runnable | LabelRouter(
        routes={label: RunnableLambda(lambda found: len(found.entities)) for label in runnable.labels}
    )

    assert chain.invoke(MERKEL) == len(result.entities)
    assert type(result.classification) is Classification
    assert type(result.tagging) is Tagging
    assert (result.classification.label, result.tagging.entities) == (result.label, result.entities)
    assert runnable.entity_types == ("LOC", "PER")
    assert hash(result) == hash(runnable.invoke(MERKEL))


def test_a_threshold_holds_for_label_and_entities(checkpoint: Checkpoint) -> None:
    """`accept_score` takes the place of the checkpoint's own; nothing in a blank text is accepted."""
    text = MERKEL
    some = IntentAndEntityTagger.from_checkpoint(checkpoint.path, device="cpu", accept_score=0.5).invoke(text)

    assert some.accepted is (some.score is not None and some.score >= 0.5)
    assert [one.accepted for one in some.entities] == [(one.score or 0.0) >= 0.5 for one in some.entities]
    assert some.entities


def test_other_classes_name_the_right_one(checkpoint: Checkpoint, tiny_classifier: Checkpoint) -> None:
    """And it names theirs."""
    for other in (TextClassifier, EntityTagger):
        with pytest.raises(CheckpointError, match="Load it with IntentAndEntityTagger"):
            other.from_checkpoint(checkpoint.path)
    with pytest.raises(CheckpointError, match=r"expected a model of intents and entities.*Load it with TextClassifier"):
        IntentAndEntityTagger.from_checkpoint(tiny_classifier.path)


def test_a_tool_answers_both(runnable: IntentAndEntityTagger) -> None:
    """As JSON, without the text."""
    answered = json.loads(runnable.as_tool(name="frame", description="d").invoke({"text": MERKEL}))

    assert {"label", "score", "entities"} <= answered.keys()
    assert "text" not in answered


# Exports.


@pytest.mark.parametrize(("format", "precision"), [("onnx", "float32"), ("onnx", "float16"), ("openvino", "float32")])
def test_an_export_gives_both_answers(format: Any, precision: Any, tmp_path: Path) -> None:
    """Parity is measured over both heads, and by exact match; batches of several lengths are padded alike."""
    if format == "openvino":
        pytest.importorskip("openvino")
    made = tiny_checkpoint(tmp_path / "c", task="intent-and-entities")
    torch_one = IntentAndEntityTagger.from_checkpoint(made.path, device="cpu", backend="torch")
    texts = [MERKEL, "where is my card", MERKEL * 4, "cash", ""]
    wanted = torch_one.batch(texts)
    gold = [(one.label, tuple(Span(e.start, e.end, e.label) for e in one.entities)) for one in wanted]
    forced = precision != "float32"  # of random weights, halves may give a piece another tag
    parity = export(made.path, format=format, precision=precision, texts=texts, gold=gold, force=forced).manifest.parity
    exported = IntentAndEntityTagger.from_checkpoint(made.path, device="cpu", backend=format, dtype=precision)
    found = exported.batch(texts)

    assert parity is not None
    assert (parity.metric, parity.metric_before) == ("exact_match", 1.0)
    assert [one.label for one in found] == [one.label for one in wanted]
    if precision == "float32":
        assert [[(e.label, e.start, e.end) for e in one.entities] for one in found] == [
            [(e.label, e.start, e.end) for e in one.entities] for one in wanted
        ]


def test_parity_looks_at_the_second_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export whose tags alone are wrong is refused."""
    from lc_finetune.inference import export as exporting
    from lc_finetune.inference.backends import Outputs
    from lc_finetune.inference.parity import BelowParity

    made = tiny_checkpoint(tmp_path / "c", task="intent-and-entities")
    opened = exporting.open_backend

    def with_wrong_tags(*args: Any, **kwargs: Any) -> Any:
        backend: Any = opened(*args, **kwargs)
        forward = backend.forward

        def wrong(batch: Any) -> Outputs:
            outputs = forward(batch)
            return Outputs(outputs.logits, outputs.features, outputs.tag_logits[..., ::-1])

        backend.forward = wrong
        return backend

    monkeypatch.setattr(exporting, "open_backend", with_wrong_tags)
    with pytest.raises(BelowParity, match="logits within"):
        export(made.path)
    assert not (made.path / "onnx").exists()


def test_int8_keeps_both_heads_in_fp32(tmp_path: Path) -> None:
    """Only products of the encoder are quantized, and answers do not depend on the batch."""
    import onnx

    made = tiny_checkpoint(tmp_path / "c", task="intent-and-entities")
    texts = [f"{MERKEL[i : i + 40]} {i}" for i in range(20)]
    written = export(made.path, precision="int8", texts=texts, force=True)
    graph = onnx.load(written.folder / "model.onnx").graph
    produced = {output: node for node in graph.node for output in node.output}
    parity = written.manifest.parity

    for name in ("logits", "tag_logits"):
        node = produced[name]
        while node.op_type not in ("MatMul", "Gemm"):
            node = next(produced[one] for one in node.input if one in produced)
        assert not any(produced[one].op_type == "DequantizeLinear" for one in node.input if one in produced)
    assert any(node.op_type == "QuantizeLinear" for node in graph.node)
    assert parity is not None
    assert parity.batch_score_difference < 0.01


# The command line.


def labelled(path: Path) -> Path:
    """Rows for the tiny checkpoint's labels and types."""
    texts = [f"Ann {i} in Oslo asks for card {'x' * (i % 7)}" for i in range(24)]
    return write(
        path,
        rows(
            *(
                {
                    "text": text, "label": ("card", "cash", "other")[i % 3],
                    "entities": [{"start": 0, "end": 3, "label": "PER"}],
                } for i, text in enumerate(texts)
            )
        ),
    )  # fmt: skip


def test_predict_adds_label_and_entities(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """To JSONL as objects, to CSV as JSON; scores of labels if asked for."""
    source = write(tmp_path / "in.jsonl", rows({"text": MERKEL}, {"text": None}))
    command = ["predict", str(checkpoint.path), "--input", str(source), "--quiet", "--output"]

    assert main([*command, str(tmp_path / "out.jsonl"), "--scores"]) == 0
    assert main([*command, str(tmp_path / "out.csv")]) == 0
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines())
    assert list(first) == ["text", "label", "score", "accepted", "in_scope", "entities", "scores", "error"]
    assert first["entities"][0].keys() == {"label", "text", "start", "end", "score", "accepted"}
    assert (second["label"], second["entities"]) == (None, None)
    assert "text" in second["error"]
    assert main([*command, str(tmp_path / "out.parquet")]) == 0


def test_calibrate_makes_both_scores_true(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And sets thresholds for labels and for types; what it says of them is in the table."""
    made = tiny_checkpoint(tmp_path / "c", task="intent-and-entities")
    path = labelled(tmp_path / "rows.jsonl")

    assert main(["calibrate", str(made.path), str(path), "--accept", "score=0.3,PER=0"]) == 0
    said = capsys.readouterr().out
    loaded = Checkpoint.load(made.path)
    assert loaded.manifest is not None
    record = loaded.manifest.calibration[0]
    result = IntentAndEntityTagger.from_checkpoint(made.path, device="cpu").invoke(MERKEL)
    assert record.entities is not None
    assert record.entities.acceptance is not None
    assert record.entities.acceptance.of("PER") == 0.0
    assert "entities found in them" in said
    assert result.accepted is not None
    assert all(one.accepted for one in result.entities if one.label == "PER")
    assert {one.accepted for one in result.entities} <= {True, False}


def test_labels_are_calibrated_even_if_nothing_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Entities are then left uncalibrated, which is said."""
    made = tiny_checkpoint(tmp_path / "c", task="intent-and-entities")
    empty = [{"text": " " * i, "label": ("card", "cash")[i % 2], "entities": []} for i in range(1, 12)]
    path = write(tmp_path / "rows.jsonl", rows(*empty))

    assert main(["calibrate", str(made.path), str(path)]) == 0
    loaded = Checkpoint.load(made.path)
    assert loaded.manifest is not None
    assert loaded.manifest.calibration[0].entities is None
    assert "The entities are left uncalibrated" in caplog.text


def test_evaluate_measures_both_and_whole_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A page with the figures of each, a file to correct that is read again, and a comparison."""
    made = tiny_checkpoint(tmp_path / "c", task="intent-and-entities")
    other = tiny_checkpoint(tmp_path / "other", task="intent-and-entities", seed=1)
    path = labelled(tmp_path / "rows.jsonl")
    outputs = ["--report", str(tmp_path / "r.html"), "--errors", str(tmp_path / "e.jsonl"), "--show-texts"]

    assert main(["evaluate", str(made.path), str(path), "--against", str(other.path), *outputs]) == 0
    said = capsys.readouterr().out
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    ids = [part.partition('"')[0] for part in page.split(' id="')[1:]]
    assert "all right" in said
    assert "entities   precision" in said
    assert "entity F1" in said
    assert len(ids) == len(set(ids))
    assert {"labels", "confusion", "types", "errors", "type-confusion", "mistakes"} <= set(ids)
    again = read_examples(tmp_path / "e.jsonl", ReadOptions(task="intent-and-entities"))
    wanted = {one.text: one for one in read_examples(path).examples}
    assert again.examples
    assert all(one == wanted[one.text] for one in again.examples)


def test_a_comparison_counts_texts_labels_and_entities(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """A checkpoint against itself differs in nothing; what is all right has label and entities right."""
    examples = read_examples(labelled(tmp_path / "rows.jsonl")).examples
    evaluation = evaluate(Predictor.load(checkpoint, device="cpu"), examples, source="rows")
    labels, entities = evaluation.parts
    compared = compare(evaluation, evaluation, name="itself")

    assert evaluation.wrong == labels.wrong | entities.wrong
    assert [(one.name, one.gain) for one in compared.differences] == [
        ("all right", 0.0), ("accuracy", 0.0), ("entity F1", 0.0),
    ]  # fmt: skip
    assert compared.differences[1].this == pytest.approx(1 - len(labels.wrong) / len(examples))


def test_rows_of_another_kind_are_refused(
    checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, with what is missing."""
    path = write(tmp_path / "a.csv", "text,label\nhello,card\n")

    for command in ("evaluate", "calibrate"):
        assert main([command, str(checkpoint.path), str(path)]) == 2
        assert "expected a column 'entities'" in capsys.readouterr().err


def test_the_bundled_sample_is_of_this_kind() -> None:
    """With all labels and types in each part; see also the promises of its README."""
    loaded = read_examples(sample_file("intents"))

    assert loaded.task == "intent-and-entities"
    assert all(one.text[span.start : span.end].strip() for one in loaded.examples for span in getattr(one, "spans", ()))
