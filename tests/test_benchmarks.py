"""The measurements run from end to end; no time is asserted."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import confidence, gpu, inference, tune
from benchmarks.contestants import PIPELINE
from benchmarks.texts import long_tailed
from lc_finetune import Checkpoint, cli
from lc_finetune.data import TextExample, read_examples
from lc_finetune.testing import tiny_checkpoint

SAMPLES = Path(__file__).parent.parent / "lc_finetune" / "data" / "samples"
SUPPORT, ENTITIES = str(SAMPLES / "support" / "test.csv"), str(SAMPLES / "entities" / "test.jsonl")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("bench") / "c", onnx=True)


def measured(output: Path) -> dict[str, Any]:
    """Title → rows."""
    return {table["title"]: table["rows"] for table in json.loads(output.read_text())["tables"]}


def test_inference_runs_every_mode(exported: Checkpoint, tiny_tagger: Checkpoint, tmp_path: Path) -> None:
    """One table a mode; every contestant answers as torch does, ours in as few forwards as the raw loop."""
    output = tmp_path / "results.json"
    status = inference.main(
        f"{exported.path} --texts {SUPPORT} --tagger {tiny_tagger.path} --tagger-texts {ENTITIES} --rounds 1 "
        f"--texts-limit 24 --single-texts 2 --long-texts 3 --long-pieces 90 --output {output}".split()
    )
    tables = measured(output)
    bulk = tables["bulk"]

    assert status == 0
    assert len(inference.MODES) == len(tables)
    assert {"pipeline(texts)", PIPELINE, "ours, auto", "ours, torch"} < set(bulk)
    assert dict.fromkeys(bulk, 1.0) == {name: row["labels as torch fp32"] for name, row in bulk.items()}
    assert bulk["pipeline(texts)"]["forwards"] == 24
    assert bulk["ours, auto"]["forwards"] == bulk["raw onnx, sorted, batches of 512 tokens"]["forwards"]
    assert tables["single"]["ours, auto"]["p50 × raw, same runtime"] > 0
    assert tables["fan-out"]["LabelRouter"]["answers"] == 48
    assert tables["concurrent"]["gather of ainvoke"]["forwards"] < 24
    assert {"pipeline(texts)", "ours, auto"} < set(tables["ner"])


def test_inference_prints_markdown(exported: Checkpoint, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The same text goes to the file."""
    output = tmp_path / "results.md"
    arguments = ["--texts", SUPPORT, "--modes", "overhead", "--rounds", "1", "--texts-limit", "8"]
    inference.main([str(exported.path), *arguments, "--output", str(output)])

    assert "| batch, one callback handler |" in output.read_text()
    assert output.read_text().strip() == capsys.readouterr().out.strip()


def test_a_missing_checkpoint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, no traceback."""
    status = inference.main(["nowhere", "--texts", SUPPORT])

    assert status == 2
    assert "expected" in capsys.readouterr().err.lower()


def test_tuning_names_a_budget(exported: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    """One of those that were tried."""
    status = tune.main(
        f"{exported.path} --texts {SUPPORT} --budgets 64 128 --lengths 8 16 --rounds 1 --texts-limit 20".split()
    )
    printed = capsys.readouterr().out

    assert status == 0
    assert 'TOKEN_BUDGET["cpu"] = 64' in printed or 'TOKEN_BUDGET["cpu"] = 128' in printed


def test_of_budgets_that_are_as_good_the_smallest_is_chosen() -> None:
    """A single text waits less behind smaller forwards."""
    assert tune.best_budget({128: 50.0, 256: 99.5, 512: 100.0}) == 256


def test_confidence_compares_before_and_after(tmp_path: Path) -> None:
    """For each checkpoint and for all together; what is not calibrated accepts nothing."""
    labels = sorted({example.label for example in read_examples(SUPPORT).examples if isinstance(example, TextExample)})
    one, other = (tiny_checkpoint(tmp_path / name, labels=labels, seed=i) for i, name in enumerate(("one", "other")))
    assert cli.main(["calibrate", str(one.path), SUPPORT, "--accept", "coverage=0.5"]) == 0
    output = tmp_path / "results.json"
    status = confidence.main([str(one.path), str(other.path), "--texts", SUPPORT, "--output", str(output)])
    rows = measured(output)["confidence"]

    assert status == 0
    assert list(rows) == ["one", "other", "pooled", "mean"]
    assert rows["one"]["log loss after"] < rows["one"]["log loss before"]
    assert rows["other"]["log loss after"] == rows["other"]["log loss before"]
    assert rows["one"]["accepted %"] >= 50 > rows["other"]["accepted %"] == 0
    assert rows["pooled"]["answers"] == 2 * rows["one"]["answers"]


def test_the_accelerator_script_runs_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    """With a tiny model."""
    status = gpu.main(["--device", "cpu", "--tiny", "--texts", "16", "--rounds", "1", "--matrix", "64"])
    printed = capsys.readouterr().out

    assert status == 0
    assert "| ours, forward alone |" in printed
    assert "share of the bf16 matrix peak" in printed


def test_operations_of_bert_base() -> None:
    """85 million weights in matrix products, two operations each for a token; attention comes on top."""
    assert gpu.BERT_BASE.flops(1, 1) == pytest.approx(2 * 84.9e6, rel=0.01)


def test_joined_texts_reach_their_length() -> None:
    """Seeded, so the same each time."""
    texts = long_tailed(["a b", "c d e"], [2, 3], count=20, least=5, most=50)

    assert texts == long_tailed(["a b", "c d e"], [2, 3], count=20, least=5, most=50)
    assert all(5 <= len(text.split()) <= 52 for text in texts)
