"""Texts with targets become a generator, which writes the same for a text alone and among others."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.messages import HumanMessage
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MBartTokenizer

from lc_finetune import (
    Checkpoint,
    CheckpointError,
    Classification,
    ConfigError,
    DataError,
    Generation,
    InputError,
    MissingDependencyError,
    TextClassifier,
    TextGenerator,
)
from lc_finetune.checkpoint import read_manifest
from lc_finetune.cli import main
from lc_finetune.data.bundled import sample_file
from lc_finetune.data.targets import read_targets
from lc_finetune.errors import LCFinetuneError
from lc_finetune.rendering import to_html
from lc_finetune.train import TrainConfig, fine_tune, train_generator
from lc_finetune.train.samples import sample_files
from lc_finetune.train.text_metrics import text_metrics
from tests.test_readme import snippets
from tests.tiny_generators import FAMILIES, POSITIONS, Family, tiny_generator

TEXTS = ["My card is lost.", "Where is it?", "The cash machine kept my card and gave me no money.", "Oslo", "你好"]
SAID = "YES"


@pytest.fixture(scope="session")
def writer(checkpoints: Path) -> Path:
    """A plain folder of BART whose answers mean nothing, but depend on the text."""
    return tiny_generator(checkpoints / "writer", spread=0.5)


@pytest.fixture(scope="session")
def bart(checkpoints: Path) -> Path:
    """A random BART, to fine-tune."""
    return tiny_generator(checkpoints / "bart")


@pytest.fixture(scope="session")
def rows(checkpoints: Path) -> Path:
    """Twelve texts, of which each is to become `SAID`."""
    path = checkpoints / "rows.csv"
    lines = [
        f"my {thing} is {how},{SAID}" for thing in ("card", "cash", "bank", "app") for how in ("lost", "old", "here")
    ]
    path.write_text("\n".join(["text,target", *lines, ""]))
    return path


def options(base: Path, rows: Path, output: Path, **more: Any) -> dict[str, Any]:
    return {"task": "seq2seq", "base_model": str(base), "train_file": str(rows), "output_dir": str(output), "epochs": 1,
            "batch_size": 4, **more}  # fmt: skip


def flags(given: dict[str, Any]) -> list[str]:
    return [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]


# Training.


@pytest.fixture(scope="session")
def trained(bart: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that the command line has written."""
    output = tmp_path_factory.mktemp("generation") / "yes"
    more = {"epochs": 10, "learning_rate": 0.02, "validation_file": rows, "test_file": rows}
    assert main(["train", *flags(options(bart, rows, output, **more))]) == 0
    return output


def test_the_command_line_trains_what_the_runnable_loads(trained: Path) -> None:
    """It has learnt what it was shown, ends by itself, and measured it on validation and test rows."""
    answer = TextGenerator.from_checkpoint(trained, device="cpu").invoke("my card is lost")
    manifest = read_manifest(trained)

    assert (answer.text, answer.complete, answer.input) == (SAID, True, "my card is lost")
    assert manifest is not None
    assert set(manifest.metrics) == {"validation", "test"}
    assert manifest.metrics["test"]["rows"] == 12
    assert manifest.metrics["test"]["chrf"] == pytest.approx(100)
    assert manifest.metrics["test"]["rouge_l"] == pytest.approx(1)
    assert (manifest.base_model, manifest.max_length) == ("bart", POSITIONS)


def test_a_plain_folder_comes_out(trained: Path) -> None:
    """Safetensors and JSON, with the way to generate, each epoch's figures and a card."""
    files = {path.name for path in trained.iterdir()}
    history = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    settings = json.loads((trained / "generation_config.json").read_text())

    assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl")) for name in files)
    assert type(AutoModelForSeq2SeqLM.from_pretrained(trained)).__name__ == "BartForConditionalGeneration"
    assert all(entry["eval_chrf"] >= 0 for entry in history if "eval_loss" in entry)
    assert (settings["do_sample"], settings["num_beams"]) == (False, 1)
    assert settings["max_new_tokens"] == len(AutoTokenizer.from_pretrained(trained)(SAID)["input_ids"])
    assert "TextGenerator.from_checkpoint" in (trained / "README.md").read_text()
    assert not trained.with_name("yes.work").exists()


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "bart"])
def test_other_families_train_and_load(family: Family, rows: Path, tmp_path: Path) -> None:
    """T5, and Marian with its two tokenizers; by beams, with smoothed labels."""
    base = tiny_generator(tmp_path / family, family)
    made = train_generator(
        TrainConfig(**options(base, rows, tmp_path / "out", num_beams=2, label_smoothing=0.1, max_target_length=9))
    )
    first, second = TextGenerator.from_checkpoint(made, device="cpu").batch(["my card", "the bank"])

    assert 0 <= made.metrics["validation"]["chrf"] <= 100
    assert json.loads((made.path / "generation_config.json").read_text())["num_beams"] == 2
    assert isinstance(first, Generation)
    assert isinstance(second, Generation)
    assert (made.path / "source.spm").exists() == (family == "marian")


def test_an_interrupted_run_goes_on_to_the_same_weights(bart: Path, rows: Path, tmp_path: Path) -> None:
    """From the last epoch that ended; another target column is another run."""

    def stop(line: str) -> None:
        if "epoch 2/" in line:
            raise KeyboardInterrupt

    given = options(bart, rows, tmp_path / "cut", epochs=3)
    with pytest.raises(KeyboardInterrupt):
        train_generator(TrainConfig(**given), say=stop)
    assert not (tmp_path / "cut").exists()
    with pytest.raises(ConfigError, match="target_column changed"):
        train_generator(TrainConfig(**given, resume=True, target_column="target"))
    resumed = train_generator(TrainConfig(**given, resume=True))
    whole = train_generator(TrainConfig(**{**given, "output_dir": str(tmp_path / "whole")}))

    one, two = (load_file(made.path / "model.safetensors") for made in (resumed, whole))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert resumed.metrics == whole.metrics


def test_rows_that_are_too_long_are_counted_and_not_cut(bart: Path, tmp_path: Path) -> None:
    """Of text or target; what to do is said."""
    lines = [f"text number {i},target {i}" for i in range(8)]
    (tmp_path / "rows.csv").write_text(
        "\n".join(["text,target", *lines, f"{'card ' * 100},short", f"short,{'long ' * 20}"])
    )
    said: list[str] = []
    train_generator(
        TrainConfig(**options(bart, tmp_path / "rows.csv", tmp_path / "out", max_target_length=12,
                              validation_file=str(tmp_path / "rows.csv"))),
        say=said.append,
    )  # fmt: skip

    assert "train 8, validation 8" in said[0]
    assert "2 train rows (20.0%) are longer" in said[0]
    assert "--max-target-length" in said[0]


def test_without_a_file_it_learns_subjects() -> None:
    """English and Chinese, from the bundled sample."""
    config = sample_files(TrainConfig(task="seq2seq"))
    parts = {part: read_targets(getattr(config, f"{part}_file")) for part in ("train", "validation", "test")}

    assert config.train_file == str(sample_file("subjects"))
    assert all(not read.notes for read in parts.values())
    for read in parts.values():
        assert {example.text.isascii() for example in read.examples} == {True, False}
        assert all(len(example.target) < len(example.text) for example in read.examples)


# What is refused.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"base_model": "minilm"}, "base_model: expected an encoder-decoder"),
        ({"label_column": "target"}, "label_column"),
        ({"adapter": "lora"}, "adapter"),
        ({"push_to_hub": "me/it"}, "push_to_hub"),
        ({"search": 2}, "search"),
        ({"output_dir": "memory://it"}, "found a URL"),
        ({"max_length": 1000}, f"max_length: expected at most {POSITIONS}"),
        ({"max_target_length": 1000}, f"max_target_length: expected at most {POSITIONS}"),
        ({"max_target_length": 2}, "targets of at most 2, found none"),
        ({"target_column": "summary"}, "--target-column"),
        ({"num_beams": 0}, "num_beams"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_that_do_not_fit_are_refused(
    given: dict[str, Any], message: str, bart: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, before anything is written."""
    status = main(["train", *flags({**options(bart, rows, tmp_path / "out"), **given})])

    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [{"target_column": "t"}, {"max_target_length": 9}, {"num_beams": 2}])
@pytest.mark.parametrize("task", ["auto", "mlm"])
def test_its_options_belong_to_no_other_task(given: dict[str, Any], task: str) -> None:
    """They would do nothing."""
    with pytest.raises(ConfigError, match=f"{next(iter(given))}: expected task seq2seq"):
        TrainConfig.of({"task": task, **given})


def test_each_task_has_its_own_function(bart: Path, rows: Path, tmp_path: Path) -> None:
    """Either names the other."""
    given = options(bart, rows, tmp_path / "out")
    with pytest.raises(ConfigError, match="train_generator"):
        fine_tune(TrainConfig(**given))
    with pytest.raises(ConfigError, match="fine_tune"):
        train_generator(TrainConfig(**{**given, "task": "auto"}))


def test_an_encoder_is_refused(base_model: Path, rows: Path, tmp_path: Path) -> None:
    """It cannot write."""
    with pytest.raises(CheckpointError, match="expected an encoder-decoder"):
        train_generator(TrainConfig(**options(base_model, rows, tmp_path / "out")))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,target\none,1\ntwo,\nthree,", r"a.csv:3: expected something in 'target' .* 2 of 3 rows"),
        ("a.jsonl", '{"text": "one", "target": "1"}\n{"text": "two"}', r"a.jsonl:2: expected something in 'target'"),
        ("a.csv", "text,target\n  ,1\ntwo,2", r"a.csv:2: expected something in 'text'"),
        ("a.jsonl", '{"text": "one", "target": 1}', r"a.jsonl:1: expected a text in 'target', found a number"),
        ("a.csv", "text,label\none,1", r"expected a target column .* --target-column"),
        ("a.csv", "target,other\none,1", r"expected a text column"),
        ("a.csv", "text,target\n", "found a header alone"),
        ("a.csv", "", "empty file"),
        ("a.conll", "Oslo\tB-LOC\n", "expected columns of texts and targets"),
        ("a.csv", "text,target\none,1\none,2", "expected at least two different texts"),
        ("a.jsonl", '{"text": "\\ud800", "target": "1"}\n{"text": "b", "target": "2"}', "a.jsonl:1: .*valid Unicode"),
    ],
)
def test_rows_that_cannot_be_used_are_named(name: str, content: str, message: str, bart: Path, tmp_path: Path) -> None:
    """By file and line."""
    (tmp_path / name).write_text(content)

    with pytest.raises(DataError, match=message):
        train_generator(TrainConfig(**options(bart, tmp_path / name, tmp_path / "out")))


def test_other_columns_and_patterns_are_read(tmp_path: Path) -> None:
    """Columns are named or recognised; several files are one."""
    for i in range(2):
        (tmp_path / f"part_{i}.csv").write_text(f"id,article,summary,title\n{i},long {i},short {i},t\n")
    read = read_targets(tmp_path / "part_*.csv", text_column="article")

    assert [(one.text, one.target) for one in read.examples] == [("long 0", "short 0"), ("long 1", "short 1")]
    assert "id" in read.notes[0]


def test_a_missing_package_is_said_first(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it, before the base model is looked for."""
    monkeypatch.setattr("lc_finetune.train.text_metrics.find_spec", lambda name: None if name == "sacrebleu" else name)

    with pytest.raises(MissingDependencyError, match=r"sacrebleu.*pip install 'lc-finetune\[generation\]'"):
        train_generator(TrainConfig(**options(Path("nowhere"), rows, Path("nowhere"))))


# What is measured.


def test_texts_are_compared_with_their_targets() -> None:
    """Equal ones are 100 and 1, texts with nothing in common 0."""
    assert text_metrics(["a b"], ["a b"]) == {"chrf": pytest.approx(100), "rouge_l": pytest.approx(1)}
    assert text_metrics(["zzz"], ["a b"]) == {"chrf": 0, "rouge_l": 0}


def test_rouge_is_left_out_where_it_cannot_read() -> None:
    """Its tokenizer drops Chinese: a perfect answer would count as nothing."""
    assert text_metrics(["你好"], ["你好"]) == {"chrf": pytest.approx(100)}
    assert set(text_metrics(["the naïve card"], ["the naïve card"])) == {"chrf", "rouge_l"}


# Answering.


def test_a_text_alone_and_among_others_gives_the_same(writer: Path) -> None:
    """Whatever its length and theirs."""
    generator = TextGenerator.from_checkpoint(writer, device="cpu", max_new_tokens=12)
    alone = [generator.invoke(text) for text in TEXTS]

    assert alone == generator.batch(TEXTS) == generator.batch(TEXTS[::-1])[::-1]
    assert len({answer.text for answer in alone}) > 1
    assert [answer.input for answer in alone] == TEXTS


def test_it_writes_what_transformers_writes(writer: Path) -> None:
    """Greedy search, and beams, of a plain folder; sampling is off, whatever the folder says."""
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(writer), AutoTokenizer.from_pretrained(writer)
    model.generation_config.forced_eos_token_id = None  # else the last piece is an end, cut off or not
    for beams in (1, 3):
        given = tokenizer(TEXTS[0], return_tensors="pt")
        expected = model.generate(**given, do_sample=False, num_beams=beams, max_new_tokens=12)
        answer = TextGenerator.from_checkpoint(writer, device="cpu", num_beams=beams, max_new_tokens=12).invoke(
            TEXTS[0]
        )

        assert answer.text == tokenizer.decode(expected[0], skip_special_tokens=True)


def test_a_folder_that_samples_does_not(writer: Path, tmp_path: Path) -> None:
    """The same text gets the same answer; and a length that it names is kept."""
    folder = shutil.copytree(writer, tmp_path / "sampling")
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_sample": True, "top_k": 0, "temperature": 2.0,
                                "max_length": 7, "forced_eos_token_id": 2}))  # fmt: skip
    sampling = TextGenerator.from_checkpoint(folder, device="cpu")
    greedy = TextGenerator.from_checkpoint(writer, device="cpu", max_new_tokens=6)

    assert sampling.batch(TEXTS * 2) == greedy.batch(TEXTS * 2)
    assert not all(answer.complete for answer in sampling.batch(TEXTS))


def test_a_text_that_is_too_long_is_refused_alone(writer: Path) -> None:
    """Not cut; the others are answered."""
    generator = TextGenerator.from_checkpoint(writer, device="cpu", max_new_tokens=4)
    long, broken, fine = generator.batch(["card " * 100, "\ud800", "card"], return_exceptions=True)

    assert isinstance(long, InputError)
    assert f"at most {POSITIONS} pieces" in str(long)
    assert isinstance(broken, InputError)
    assert isinstance(fine, Generation)


def test_nothing_is_written_for_a_blank_text(writer: Path) -> None:
    """And the model is not asked."""
    blank, _ = TextGenerator.from_checkpoint(writer, device="cpu", max_new_tokens=4).batch([" \n", "card"])

    assert (blank.text, blank.input, blank.complete) == ("", " \n", True)


def test_memory_that_runs_out_is_met_by_smaller_batches(writer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halved until they fit."""
    generator = TextGenerator.from_checkpoint(writer, device="cpu", max_new_tokens=6)
    expected = generator.batch(TEXTS)
    model: Any = generator._loaded()._model
    whole = model.generate

    def small(input_ids: torch.Tensor, **options: Any) -> Any:
        if len(input_ids) > 1:
            raise RuntimeError("CUDA out of memory")
        return whole(input_ids=input_ids, **options)

    monkeypatch.setattr(model, "generate", small)
    assert generator.batch(TEXTS) == expected


def test_more_than_the_decoder_holds_is_refused(writer: Path) -> None:
    """When it is loaded, not in the middle of a text."""
    with pytest.raises(ConfigError, match=f"max_new_tokens: expected at most {POSITIONS}"):
        TextGenerator.from_checkpoint(writer, device="cpu", max_new_tokens=POSITIONS + 1)


def test_it_is_composed_by_what_it_wrote(writer: Path, tiny_classifier: Checkpoint) -> None:
    """A classifier behind it reads the new text; a message is an input; a tool answers JSON."""
    generator = TextGenerator.from_checkpoint(writer, device="cpu", max_new_tokens=8)
    written = generator.invoke(HumanMessage(TEXTS[0]))
    classified = (generator | TextClassifier(checkpoint=str(tiny_classifier.path), device="cpu")).invoke(TEXTS[0])

    assert isinstance(classified, Classification)
    assert classified.text == written.text
    assert json.loads(generator.as_tool(name="write").invoke({"text": TEXTS[0]})) == {
        "text": written.text, "source": "model", "complete": written.complete,
    }  # fmt: skip
    assert generator.pick("text").invoke(TEXTS[0]) == written.text
    assert "cut off" in to_html(Generation(text="a", input="b", complete=False))


def test_weights_are_shared_until_the_folder_changes(writer: Path, tmp_path: Path) -> None:
    """By all Runnables over a folder; one that was trained anew is loaded anew."""
    folder = shutil.copytree(writer, tmp_path / "writer")
    one, two = (TextGenerator.from_checkpoint(folder, device="cpu", num_beams=beams) for beams in (1, 2))
    assert one._loaded() is two._loaded()

    shutil.rmtree(folder)
    tiny_generator(folder, spread=0.5, seed=1)
    assert TextGenerator.from_checkpoint(folder, device="cpu")._loaded() is not one._loaded()


def test_the_page_on_it_runs(writer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code, as a reader types it."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "subjects").symlink_to(writer)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/generation.md"):
        exec(snippet, namespace)

    assert isinstance(namespace["answer"], Generation)


# Folders of another kind.


def test_each_class_names_the_other(trained: Path, tiny_classifier: Checkpoint, writer: Path) -> None:
    """A generator is no classifier, and a classifier no generator; so at the command line."""
    for folder in (trained, writer):
        with pytest.raises(CheckpointError, match="TextGenerator"):
            TextClassifier.from_checkpoint(folder)
    with pytest.raises(CheckpointError, match="found one for text-classification"):
        TextGenerator.from_checkpoint(tiny_classifier)
    assert main(["inspect", str(trained)]) == 2


def test_a_model_that_is_told_the_languages_is_refused(writer: Path, tmp_path: Path) -> None:
    """As mBART is, at each call: it would write in any of them."""
    folder = shutil.copytree(writer, tmp_path / "mbart")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mbart"}))
    MBartTokenizer().save_pretrained(folder)

    with pytest.raises(CheckpointError, match="one pair of languages"):
        TextGenerator.from_checkpoint(folder)


@pytest.mark.parametrize("name", ["generation_config.json", "model.safetensors"])
def test_an_altered_checkpoint_is_refused(name: str, trained: Path, tmp_path: Path) -> None:
    """Its manifest says what its files were, the way to generate among them."""
    folder = shutil.copytree(trained, tmp_path / "altered")
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")

    with pytest.raises(CheckpointError, match="SHA-256"):
        TextGenerator.from_checkpoint(folder)


def test_a_folder_without_all_weights_is_refused(writer: Path, tmp_path: Path) -> None:
    """They would be random; so for pickled ones."""
    folder = shutil.copytree(writer, tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "encoder_layers": 3}))
    with pytest.raises(CheckpointError, match="would be random"):
        TextGenerator.from_checkpoint(folder)

    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(LCFinetuneError, match="pickled"):
        TextGenerator.from_checkpoint(folder)
