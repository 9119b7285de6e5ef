"""Unlabelled text becomes a base model, whole or not at all."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from lc_finetune import CheckpointError, ConfigError, DataError, TextClassifier
from lc_finetune.checkpoint import read_manifest
from lc_finetune.cli import main
from lc_finetune.data import read_texts
from lc_finetune.inference.encode import Encoder
from lc_finetune.testing import ENCODERS, TOKENIZER_KINDS, Architecture, TokenizerKind, tiny_base_model
from lc_finetune.train import TrainConfig, fine_tune, pre_train
from lc_finetune.train.base_model import BaseModel
from lc_finetune.train.masked_language_model import load_masked_language_model, loss_of_hidden, states_at
from lc_finetune.train.masking import WordMasking, masked_once
from lc_finetune.train.packing import NO_WORD, pack, word_starts
from lc_finetune.train.pretraining import PretrainedModel
from lc_finetune.train.tokenization import IGNORED
from tests.test_readme import snippets
from tests.train.test_train import TRAIN, wait_for

WORDS = ["card", "cash", "bank", "money", "account", "transfer", "password", "refund", "delay", "lost", "stolen"]


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 short texts of few words, one a line."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(3, 12))) + "." for _ in range(120)]
    path = tmp_path_factory.mktemp("texts") / "domain.txt"
    path.write_text("\n".join(texts) + "\n")
    return path


def options(base: Path, texts: Path, output: Path, **more: Any) -> dict[str, Any]:
    return {"task": "mlm", "base_model": str(base), "train_file": str(texts), "output_dir": str(output), "epochs": 3,
            "batch_size": 4, "max_length": 32, **more}  # fmt: skip


@pytest.fixture(scope="session")
def pretrained(base_model: Path, lines: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainedModel:
    """A run that nobody interrupts."""
    return pre_train(TrainConfig(**options(base_model, lines, tmp_path_factory.mktemp("whole") / "domain")))


# What comes out.


def test_text_becomes_a_base_model(pretrained: PretrainedModel) -> None:
    """A plain folder without pickle or export, and the gain on held-out text is a number."""
    files = {path.name for path in pretrained.path.iterdir()}
    figures = pretrained.metrics["validation"]

    assert {"config.json", "model.safetensors", "tokenizer.json", "lc_finetune.json", "README.md"} <= files
    assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl")) or name == "onnx" for name in files)
    assert json.loads((pretrained.path / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    assert figures["rows"] == 12
    assert figures["hidden"] > 0
    assert figures["loss"] < figures["loss_before"]
    assert figures["perplexity"] == pytest.approx(np.exp(figures["loss"]))
    assert any("eval_loss" in json.loads(line) for line in (pretrained.path / "metrics.jsonl").read_text().splitlines())
    assert "--base-model" in (pretrained.path / "README.md").read_text()
    assert not pretrained.path.with_name("domain.work").exists()


def test_other_tasks_start_from_it_and_record_it(pretrained: PretrainedModel, tmp_path: Path) -> None:
    """With its encoder; what came before stays on record, with digests of the texts."""
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"my card {i},card\nsome cash {i},cash\n" for i in range(12)))
    checkpoint = fine_tune(
        TrainConfig(train_file=str(rows), base_model=str(pretrained.path), output_dir=str(tmp_path / "out"), epochs=1,
                    learning_rate=1e-9, baseline=False)
    )  # fmt: skip
    assert checkpoint.manifest is not None
    (ancestor,) = checkpoint.manifest.lineage
    before, after = (load_file(folder / "model.safetensors") for folder in (pretrained.path, checkpoint.path))
    shared = [name for name in after if name in before]

    assert (ancestor.name, ancestor.task, ancestor.base_model) == ("domain", "mlm", "base")
    assert ancestor.data_fingerprint == pretrained.manifest.data_fingerprint
    assert checkpoint.manifest.base_model == "domain"
    assert all(name in shared for name in after if name.startswith("bert."))
    assert max(abs(before[name] - after[name]).max() for name in shared) < 1e-5


def test_it_is_no_checkpoint_to_serve(pretrained: PretrainedModel, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever loads it is told how to go on; so is the command line."""
    with pytest.raises(CheckpointError, match=r"--base-model .*domain --train-file"):
        TextClassifier.from_checkpoint(str(pretrained.path))
    assert main(["export", str(pretrained.path), "--format", "onnx"]) == 2
    assert "--base-model" in capsys.readouterr().err


def test_an_altered_base_model_is_refused(pretrained: PretrainedModel, lines: Path, tmp_path: Path) -> None:
    """Its manifest says what the files were."""
    import shutil

    folder = tmp_path / "altered"
    shutil.copytree(pretrained.path, folder)
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")

    with pytest.raises(CheckpointError, match="SHA-256"):
        pre_train(TrainConfig(**options(folder, lines, tmp_path / "out")))


def test_it_can_be_trained_further(pretrained: PretrainedModel, lines: Path, tmp_path: Path) -> None:
    """Its head is known now, so that training begins where it ended; the lineage grows."""
    said: list[str] = []
    further = pre_train(TrainConfig(**options(pretrained.path, lines, tmp_path / "out", epochs=1)), say=said.append)

    assert further.metrics["validation"]["loss_before"] == pytest.approx(pretrained.metrics["validation"]["loss"], 1e-4)
    assert [ancestor.name for ancestor in further.manifest.lineage] == ["domain"]
    assert not any("language-modelling head" in line for line in said)


def test_a_new_head_is_said(base_model: Path, lines: Path, tmp_path: Path) -> None:
    """Before training, and on the card; figures from before are of a random head."""
    said: list[str] = []
    made = pre_train(TrainConfig(**options(base_model, lines, tmp_path / "out", epochs=1)), say=said.append)

    assert any("no language-modelling head" in line for line in said)
    assert "no language-modelling head" in (made.path / "README.md").read_text()


def test_the_pooler_of_the_base_model_is_kept(base_model: Path, pretrained: PretrainedModel) -> None:
    """Pre-training has no use for it; classifiers have."""
    before, after = (load_file(folder / "model.safetensors") for folder in (base_model, pretrained.path))

    assert (before["pooler.dense.weight"] == after["bert.pooler.dense.weight"]).all()
    assert not (before["encoder.layer.0.output.dense.weight"]
                == after["bert.encoder.layer.0.output.dense.weight"]).all()  # fmt: skip


def test_given_files_are_measured(base_model: Path, lines: Path, tmp_path: Path) -> None:
    """A validation file takes the place of held-out texts; a test file is measured beside."""
    (tmp_path / "held.txt").write_text("the card is lost.\nmy cash, please.\n")
    config = TrainConfig(
        **options(base_model, lines, tmp_path / "out", epochs=1, validation_file=str(tmp_path / "held.txt"),
                  test_file=str(tmp_path / "held.txt"))
    )  # fmt: skip
    metrics = pre_train(config).metrics

    assert metrics["validation"]["rows"] == metrics["test"]["rows"] == 2
    assert metrics["validation"]["loss"] == metrics["test"]["loss"]


def test_the_page_on_it_runs(base_model: Path, lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code, as a reader types it, with a base model that is there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "messages.txt").write_text(lines.read_text())
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/pre-training.md"):
        exec(snippet.replace('task="mlm"', f'task="mlm", base_model="{base_model}", epochs=1'), namespace)

    assert namespace["domain"].path == Path("runs/domain")


# Interruptions.


def _started(given: dict[str, Any], **more: Any) -> tuple[list[str], subprocess.Popen[bytes]]:
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-c", TRAIN, *flags]
    return command, subprocess.Popen(command, stdout=subprocess.DEVNULL, **more)


@pytest.mark.parametrize(
    "moment",
    [
        "domain.work/checkpoint-*/trainer_state.json",
        "domain.work/checkpoint-*/optimizer.pt",
        ".domain.writing-*",
    ],
)
@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(
    moment: str, base_model: Path, lines: Path, pretrained: PretrainedModel, tmp_path: Path
) -> None:
    """SIGKILL after the first epoch, while its state is written, while the folder is: words are hidden as before."""
    command, killed = _started(options(base_model, lines, tmp_path / "domain"), stderr=subprocess.DEVNULL)
    wait_for(moment, killed, tmp_path)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()

    assert not (tmp_path / "domain").exists()
    assert subprocess.run([*command, "--resume"], capture_output=True, check=False).returncode == 0
    one, two = (load_file(folder / "model.safetensors") for folder in (pretrained.path, tmp_path / "domain"))
    resumed = read_manifest(tmp_path / "domain")
    assert all((one[name] == two[name]).all() for name in one)
    assert resumed is not None
    assert resumed.metrics == pretrained.metrics


def test_ctrl_c_leaves_nothing_half_written(base_model: Path, lines: Path, tmp_path: Path) -> None:
    """Status 130, one line that says how to go on, and what is done is kept for it."""
    given = options(base_model, lines, tmp_path / "domain", epochs=200)
    _, stopped = _started(given, stderr=subprocess.PIPE)
    wait_for("domain.work/checkpoint-*/trainer_state.json", stopped, tmp_path)
    stopped.send_signal(signal.SIGINT)
    _, err = stopped.communicate(timeout=120)

    assert stopped.returncode == 130
    assert b"--resume" in err
    assert b"Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["domain.work"]


def test_resuming_with_other_texts_is_refused(base_model: Path, lines: Path, tmp_path: Path) -> None:
    """It says what changed."""
    (tmp_path / "out.work").mkdir()
    record = {"config": TrainConfig(**options(base_model, lines, tmp_path / "out")).fingerprint_fields(), "data": "x"}
    (tmp_path / "out.work" / "run.json").write_text(json.dumps(record))

    with pytest.raises(ConfigError, match="the data changed"):
        pre_train(TrainConfig(**options(base_model, lines, tmp_path / "out", resume=True)))


# What is refused.


@pytest.mark.parametrize(
    "wrong",
    [{"label_column": "topic"}, {"label_names": ("a", "b")}, {"accept": "score=0.5"}, {"baseline": False},
     {"drop_unlabelled": True}, {"label_smoothing": 0.1},
        {"adapter": "lora"},
        {"output_dir": "memory://bucket/domain"}],
)  # fmt: skip
def test_options_it_does_not_take_are_refused(
    wrong: dict[str, Any], base_model: Path, lines: Path, tmp_path: Path
) -> None:
    """By name, before any work."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        pre_train(TrainConfig(**{**options(base_model, lines, tmp_path / "out"), **wrong}))
    assert not list(tmp_path.iterdir())


def test_each_function_refuses_the_task_of_the_other(base_model: Path, lines: Path, tmp_path: Path) -> None:
    """And names it."""
    config = TrainConfig(**options(base_model, lines, tmp_path / "out"))

    with pytest.raises(ConfigError, match="pre_train"):
        fine_tune(config)
    with pytest.raises(ConfigError, match="fine_tune"):
        pre_train(config.model_copy(update={"task": "auto"}))


def test_one_text_alone_is_refused(base_model: Path, tmp_path: Path) -> None:
    """Nothing could be held out; a text that repeats it is no second one."""
    (tmp_path / "one.txt").write_text("My card is lost.\nmy card  is lost.\n")

    with pytest.raises(DataError, match="--validation-file"):
        pre_train(TrainConfig(**options(base_model, tmp_path / "one.txt", tmp_path / "out")))


def test_a_decoder_is_refused(lines: Path, tmp_path: Path, base_model: Path) -> None:
    """It sees no words that follow, so that there is nothing to hide."""
    import shutil

    from transformers import GPT2Config, GPT2Model

    GPT2Model(GPT2Config(vocab_size=1000, n_embd=32, n_layer=1, n_head=2)).save_pretrained(tmp_path / "gpt2")
    shutil.copy(base_model / "tokenizer.json", tmp_path / "gpt2")
    shutil.copy(base_model / "tokenizer_config.json", tmp_path / "gpt2")

    with pytest.raises(ConfigError, match=r"encoder.*gpt2"):
        pre_train(TrainConfig(**options(tmp_path / "gpt2", lines, tmp_path / "out")))


def test_the_command_line_shows_the_gain(
    base_model: Path, lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the next command."""
    given = options(base_model, lines, tmp_path / "out", epochs=1)
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]

    assert main(["train", *flags]) == 0
    shown = capsys.readouterr().out
    assert "perplexity" in shown
    assert f"--base-model {tmp_path / 'out'}" in shown


# Files.


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.txt", "One.\r\n\r\nTwo, three.\n"),
        ("t.csv", 'label,text,id\nA,One.,1\nB,"Two, three.",2\n'),
        ("t.tsv", "text\tlabel\nOne.\tA\nTwo, three.\tB\n"),
        ("t.jsonl", '{"text": "One.", "label": 3}\n{"text": "Two, three."}\n'),
        ("t.json", '[{"text": "One."}, {"text": " "}, {"text": "Two, three."}]'),
    ],
)
def test_texts_are_read_from_each_kind_of_file(name: str, content: str, tmp_path: Path) -> None:
    """Unchanged, without blank ones; whatever else a table holds is left out, and both are said."""
    (tmp_path / name).write_bytes(content.encode())
    read = read_texts(tmp_path / name)

    assert read.texts == ("One.", "Two, three.")
    assert any("blank" in note for note in read.notes) == (name in ("t.txt", "t.json"))
    assert any("label left out" in note or "label, id left out" in note for note in read.notes) == ("label" in content)


def test_parquet_and_conll_are_read(tmp_path: Path) -> None:
    """Of CoNLL the words."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["One.", "Two."], "label": [0, 1]}), tmp_path / "t.parquet")
    (tmp_path / "t.conll").write_text("Angela B-PER\nspoke O\n\nYes O\n")

    assert read_texts(tmp_path / "t.parquet").texts == ("One.", "Two.")
    assert read_texts(tmp_path / "t.conll").texts == ("Angela spoke", "Yes")


def test_a_table_without_a_header_is_read_by_number(tmp_path: Path) -> None:
    """The first row is a text too."""
    (tmp_path / "t.csv").write_text("One.,A\nTwo.,B\n")

    assert read_texts(tmp_path / "t.csv", text_column="0").texts == ("One.", "Two.")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.txt", b" \n\n", "empty"),
        ("t.txt", b"caf\xe9\n", r"t\.txt:1: expected UTF-8"),
        ("t.txt", b"Angela B-PER\nspoke O\n", "conll"),
        ("t.csv", b"words,label\nOne,A\n", "--text-column"),
        ("t.jsonl", b'{"text": 3}\n', r"t\.jsonl:1: expected a text"),
        ("t.csv", b"text,label\n", "header alone"),
        ("t.csv", b'text,label\n"",A\n', "not blank"),
    ],
)
def test_files_without_texts_are_refused(name: str, content: bytes, expected: str, tmp_path: Path) -> None:
    """With the place and the next step."""
    (tmp_path / name).write_bytes(content)

    with pytest.raises(DataError, match=expected):
        read_texts(tmp_path / name)


# Words.


@pytest.fixture(scope="session")
def encoders(checkpoints: Path) -> dict[TokenizerKind, Encoder]:
    """A tokenizer of each kind, with offsets."""
    return {
        kind: Encoder(tiny_base_model(checkpoints / f"words-{kind}", tokenizer=kind), offsets=True)
        for kind in TOKENIZER_KINDS
    }


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_words_are_the_tokenizers_and_each_chinese_character(
    kind: TokenizerKind, encoders: dict[TokenizerKind, Encoder]
) -> None:
    """Continuations belong to their word; bytes of one character stay together."""
    text = "unbelievable cards 一丁七 at 5,三cash"
    encoding = encoders[kind].encode([text])[0]
    starts = [encoding.offsets[piece][0] for piece in word_starts(text, encoding)]  # type: ignore[union-attr]
    begins = {text[start:].lstrip()[:1] for start in starts}
    chinese = [text[start:].lstrip()[:1] for start in starts if text[start:].lstrip()[:1] in "一丁七三"]

    assert {"u", "c", "a", "5"} <= begins
    assert chinese == list("一丁七三")
    assert len([start for start in starts if start < len("unbelievable cards")]) == 2


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
@settings(max_examples=40)
@given(texts=st.lists(st.text(alphabet="ab card,.一七é 👍\t", max_size=40), max_size=6), length=st.integers(8, 24))
def test_packing_loses_nothing_and_parts_no_word(
    texts: list[str], length: int, kind: TokenizerKind, encoders: dict[TokenizerKind, Encoder]
) -> None:
    """All pieces of all texts come back in order, framed; only a word longer than a block is cut."""
    encoder = encoders[kind]
    blocks = pack(texts, encoder, max_length=length)
    encoded = [(text, encoding) for text, encoding in zip(texts, encoder.encode(texts), strict=True)]
    room = length - len(encoder.frame)
    sizes = [size for text, e in encoded for size in np.diff([*word_starts(text, e), len(e.ids)])]  # type: ignore[arg-type, union-attr]
    words = sum(-(-size // room) for size in sizes)

    assert [i for block in blocks for i in block.ids[block.words != NO_WORD].tolist()] == [
        i
        for _, encoding in encoded
        for i in encoding.ids  # type: ignore[union-attr]
    ]
    assert sum(int(block.words.max()) + 1 for block in blocks) == words
    for block in blocks:
        assert len(block.ids) <= length
        assert block.ids[: len(encoder.frame.before)].tolist() == list(encoder.frame.before)
        assert block.ids[len(block.ids) - len(encoder.frame.after) :].tolist() == list(encoder.frame.after)
        assert block.words[-len(encoder.frame.after) - 1] != NO_WORD


def test_texts_of_a_block_are_separated(encoders: dict[TokenizerKind, Encoder]) -> None:
    """By what ends a text."""
    encoder = encoders["wordpiece"]
    (block,) = pack(["my card", "the cash"], encoder, max_length=32)
    one, two = encoder.encode(["my card", "the cash"])

    expected = [*encoder.frame.before, *one.ids, *encoder.frame.after, *two.ids, *encoder.frame.after]  # type: ignore[union-attr]
    assert block.ids.tolist() == expected


def test_an_unreadable_text_is_named(encoders: dict[TokenizerKind, Encoder]) -> None:
    """By its number; its content is not repeated."""
    with pytest.raises(DataError, match=r"a\.txt: text number 2"):
        pack(["fine", "lone \ud800 surrogate"], encoders["wordpiece"], max_length=32, source="a.txt")


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_words_are_hidden_whole(kind: TokenizerKind, checkpoints: Path, encoders: dict[TokenizerKind, Encoder]) -> None:
    """15 % of them; of their pieces 80 % are masked, 10 % others, 10 % as they were; nothing else is touched."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoints / f"words-{kind}")
    draw = random.Random(0)
    texts = [" ".join(draw.choices([*WORDS, "unbelievable", "password"], k=40)) for _ in range(200)]
    blocks = pack(texts, encoders[kind], max_length=64)
    features = masked_once(blocks, WordMasking(tokenizer), seed=0)
    masked = other = kept = chosen = words = 0
    for block, feature in zip(blocks, features, strict=True):
        labels, ids = np.array(feature["labels"]), np.array(feature["input_ids"])
        hidden = labels != IGNORED
        words += int(block.words.max()) + 1
        chosen += len(set(block.words[hidden].tolist()))
        assert (labels[hidden] == block.ids[hidden]).all()
        assert (ids[~hidden] == block.ids[~hidden]).all()
        assert not hidden[block.words == NO_WORD].any()
        assert all(hidden[block.words == word].all() for word in block.words[hidden])
        masked += int((ids[hidden] == tokenizer.mask_token_id).sum())
        kept += int((ids[hidden] == block.ids[hidden]).sum())
        other += int(hidden.sum())

    assert chosen / words == pytest.approx(0.15, abs=0.02)
    assert masked / other == pytest.approx(0.8, abs=0.03)
    assert kept / other == pytest.approx(0.1, abs=0.03)


def test_unknown_pieces_are_never_hidden(checkpoints: Path, encoders: dict[TokenizerKind, Encoder]) -> None:
    """There is nothing to find; a block of nothing else gives no label."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "words-wordpiece")
    blocks = pack(["☃ ☂ ☁ card", "☃ ☂"], encoders["wordpiece"], max_length=8)
    hidden = [set(feature["labels"]) - {IGNORED} for feature in masked_once(blocks, WordMasking(tokenizer), seed=0)]

    assert tokenizer.unk_token_id in blocks[0].ids
    assert hidden == [{tokenizer.convert_tokens_to_ids("card")}, set()]


# Architectures.


@pytest.mark.parametrize(
    "architecture",
    [one if one in ("bert", "roberta") else pytest.param(one, marks=pytest.mark.slow) for one in ENCODERS],
)
def test_each_architecture_learns(architecture: Architecture, lines: Path, tmp_path: Path) -> None:
    """With a head tied to its embeddings; the loss of hidden pieces is that of the whole head; it comes back whole."""
    folder = tiny_base_model(tmp_path / "base", architecture=architecture)
    model = load_masked_language_model(BaseModel(folder, "base"), seed=0).model.eval()
    ids = torch.randint(5, 100, (3, 12))
    labels = torch.full_like(ids, IGNORED)
    labels[:, 3:6] = ids[:, 3:6]
    hidden = labels != IGNORED
    with torch.no_grad():
        whole = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        with states_at(model.base_model, hidden):
            outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    made = pre_train(TrainConfig(**options(folder, lines, tmp_path / "out", epochs=2, learning_rate=1e-3)))
    again = load_masked_language_model(BaseModel(made.path, "out"), seed=0)

    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert outputs.logits.shape[:2] == (1, 9)
    assert float(loss_of_hidden(outputs, labels[hidden][None])) == pytest.approx(float(whole), abs=1e-4)
    assert made.metrics["validation"]["loss"] < made.metrics["validation"]["loss_before"]
    assert not again.new_head
