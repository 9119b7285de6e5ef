"""Exports: the same answers from another runtime, or none at all."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lc_finetune import EntityTagger, TextClassifier
from lc_finetune.checkpoint import EXPORTS, WEIGHTS, Checkpoint, write_manifest
from lc_finetune.cli import main
from lc_finetune.errors import CheckpointError, ConfigError, MissingDependencyError
from lc_finetune.inference import Predictor
from lc_finetune.inference.backends import Batch
from lc_finetune.inference.export import export
from lc_finetune.inference.exported import EXPORT_MANIFEST, ExportManifest, Parity, export_folder
from lc_finetune.inference.parity import BelowParity, sample_texts, shortfall
from lc_finetune.labels import Span
from lc_finetune.schemas import MultiLabelClassification
from lc_finetune.testing import tiny_checkpoint
from tests.test_readme import snippets

SERVED = [("onnx", "float32"), ("onnx", "float16"), ("onnx", "int8"), ("openvino", "float32"), ("openvino", "float16")]
TASKS = ["text-classification", "multi-label-classification", "token-classification"]
TEXTS = ["where is my card", "", "I need to top up some cash, please!", "card " * 200, "Ünïcödé 😀 text", "Ann in Oslo"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """A checkpoint of each task with all exports that serve; a random tagger's near-ties need force at int8."""
    made = {}
    for task in TASKS:
        checkpoint = tiny_checkpoint(tmp_path_factory.mktemp("exports") / task, task=task)  # type: ignore[arg-type]
        for format, precision in SERVED:
            export(checkpoint, format=format, precision=precision, texts=sample_texts(), force=True)  # type: ignore[arg-type]
        made[task] = Checkpoint.load(checkpoint.path)
    return made


@pytest.fixture
def onnx_copy(exported: dict[str, Checkpoint], tmp_path: Path) -> Path:
    """A classifier with exports, to spoil."""
    return Path(shutil.copytree(exported["text-classification"].path, tmp_path / "copy"))


def scores(result: Any) -> list[float]:
    """What a result is sure of."""
    return list(result.scores.values()) if hasattr(result, "scores") else [e.score for e in result.entities]


def labels(result: Any) -> Any:
    """What a result says."""
    if isinstance(result, MultiLabelClassification):
        return result.labels
    return result.label if hasattr(result, "label") else [(e.start, e.end, e.label) for e in result.entities]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("backend", "dtype"), SERVED)
def test_an_export_answers_as_torch_does(exported: dict[str, Checkpoint], task: str, backend: Any, dtype: Any) -> None:
    """Long texts too, in windows: fp32 within 1e-4, fp16 within 0.02, int8 near."""
    ours = Predictor.load(exported[task], device="cpu", backend=backend, dtype=dtype)
    batch = Batch(np.arange(40).reshape(4, 10).astype(np.int64) % 30, np.ones((4, 10), dtype=np.int64))
    theirs = Predictor.load(exported[task], device="cpu", backend="torch")

    assert (backend, dtype) == (ours.backend.name, ours.backend.precision)
    within = {"float32": 1e-4, "float16": 0.02, "int8": 0.5}[dtype]
    assert np.abs(ours.forward(batch).logits - theirs.forward(batch).logits).max() < within
    assert ours.forward(batch).features.shape == (4, 32)
    if dtype == "float32":
        assert [labels(r) for r in theirs.predict(TEXTS)] == [labels(r) for r in ours.predict(TEXTS)]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("backend", "dtype"), SERVED)
def test_neighbours_never_change_an_answer(
    exported: dict[str, Checkpoint], task: str, backend: Any, dtype: Any
) -> None:
    """Alone and among texts of other lengths: the same label, the score within 0.01."""
    predictor = Predictor.load(exported[task], device="cpu", backend=backend, dtype=dtype)
    together = predictor.predict(TEXTS * 6)[: len(TEXTS)]
    alone = [predictor.predict([text])[0] for text in TEXTS]

    assert [labels(result) for result in alone] == [labels(result) for result in together]
    for one, other in zip(alone, together, strict=True):
        assert scores(one) == pytest.approx(scores(other), abs=0.01)


@pytest.mark.parametrize("task", TASKS)
def test_a_torch_export_is_a_state_dict_and_a_program(tmp_path: Path, task: Any) -> None:
    """The state dict needs no unpickling of code; the program takes any batch and length."""
    checkpoint = tiny_checkpoint(tmp_path / "c", task=task)
    made = export(checkpoint, format="torch")
    state = torch.load(made.folder / "model.pth", weights_only=True)
    program = torch.export.load(made.folder / "model.pt2").module()
    theirs = Predictor.load(checkpoint, device="cpu", backend="torch")

    assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(checkpoint.path / WEIGHTS).items())
    for rows, pieces in ((1, 3), (5, 32)):
        ids = torch.arange(rows * pieces).reshape(rows, pieces) % 30
        logits, _ = program(ids, torch.ones_like(ids))
        expected = theirs.forward(Batch(ids.numpy(), np.ones((rows, pieces), dtype=np.int64))).logits
        assert np.abs(logits.detach().numpy() - expected).max() < 1e-4
    assert "torch" not in EXPORTS


def test_int8_products_are_computed_in_integers(onnx_copy: Path, tmp_path: Path) -> None:
    """Each product with weights becomes an integer kernel; attention and the head stay in fp32."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(onnx_copy / "onnx-int8" / "model.onnx", options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]

    assert kinds.count("MatMulIntegerToFloat") == 2 * 6  # two layers: query, key, value, output, two of the MLP
    assert not {"QLinearMatMul", "QGemm", "DynamicQuantizeLinear"} & set(kinds)


@pytest.mark.parametrize(
    ("task", "gold", "metric"),
    [
        ("text-classification", "card", "accuracy"),
        ("multi-label-classification", ("card", "other"), "micro_f1"),
        ("token-classification", (Span(0, 4, "PER"),), "entity_f1"),
    ],
)
def test_the_manifest_records_what_was_measured(tmp_path: Path, task: Any, gold: Any, metric: str) -> None:
    """Figures with their texts, and digests of weights and files."""
    checkpoint = tiny_checkpoint(tmp_path / "c", task=task)
    texts = sample_texts()
    made = export(checkpoint, texts=texts, gold=[gold] * len(texts), source="rows at hand")
    manifest = ExportManifest.model_validate_json((made.folder / "export.json").read_text())
    parity = manifest.parity

    assert manifest == made.manifest
    assert manifest.weights == checkpoint.weights_digest
    assert parity is not None
    assert (parity.texts, parity.source, parity.metric) == (len(texts), "rows at hand", metric)
    assert parity.metric_before == parity.metric_after
    assert parity.label_agreement == parity.batch_label_agreement == 1.0
    assert 0 < parity.max_logit_error < 1e-4
    assert not manifest.forced


def test_without_texts_the_bundled_samples_measure(exported: dict[str, Checkpoint], tmp_path: Path) -> None:
    """And the manifest says so."""
    parity = export(tiny_checkpoint(tmp_path / "c")).manifest.parity

    assert parity is not None
    assert (parity.source, parity.texts, parity.metric) == ("bundled samples", len(sample_texts()), None)


def test_int8_divides_the_texts(onnx_copy: Path) -> None:
    """No text both sets a scale and measures; without two there is nothing to divide."""
    made = export(onnx_copy, precision="int8", texts=sample_texts()[:41], force=True).manifest

    assert made.parity is not None
    assert (made.calibration_texts, made.parity.texts) == (20, 21)
    with pytest.raises(ConfigError, match="--calibration-file"):
        export(onnx_copy, precision="int8")


GOOD = Parity(
    texts=1000, source="x", max_logit_error=0.0, label_agreement=1.0, metric="accuracy", metric_before=0.9,
    metric_after=0.9, batch_texts=256, batch_label_agreement=1.0, batch_score_difference=0.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "figure", "good", "bad", "named"),
    [
        ("float32", "max_logit_error", 9e-5, 2e-4, "logits within 0.0001"),
        ("float32", "max_logit_error", 0.0, float("nan"), "logits"),
        ("float16", "max_logit_error", 0.04, 0.06, "logits within 0.05"),
        ("int8", "label_agreement", 0.98, 0.96, "label agreement"),
        ("int8", "batch_label_agreement", 1.0, 0.999, "same label alone"),
        ("int8", "batch_score_difference", 0.009, 0.011, "scores within 0.01"),
        ("int8", "metric_after", 0.897, 0.896, "accuracy to lose at most 0.3 points"),
    ],
)
def test_the_least_parity_is_stated(precision: Any, figure: str, good: float, bad: float, named: str) -> None:
    """The first figure below it is named with what was expected."""
    assert shortfall(GOOD.model_copy(update={figure: good}), precision) is None
    assert named in str(shortfall(GOOD.model_copy(update={figure: bad}), precision))


def test_in_a_small_file_one_answer_may_differ() -> None:
    """0.3 points of 50 rows are less than one row."""
    small = GOOD.model_copy(update={"texts": 50})

    assert shortfall(small.model_copy(update={"metric_after": 0.88}), "int8") is None
    assert shortfall(small.model_copy(update={"metric_after": 0.86}), "int8")


def spoiled(checkpoint: Path) -> None:
    """Swap the fp32 export for one of other weights that claims to be of these."""
    other = tiny_checkpoint(checkpoint.with_name("other"), seed=1, onnx=True)
    manifest = json.loads((other.path / "onnx" / "export.json").read_text())
    manifest["weights"] = Checkpoint.load(checkpoint).weights_digest
    shutil.rmtree(checkpoint / "onnx")
    shutil.copytree(other.path / "onnx", checkpoint / "onnx")
    (checkpoint / "onnx" / "export.json").write_text(json.dumps(manifest))


def test_below_the_least_parity_nothing_is_written_unless_forced(onnx_copy: Path) -> None:
    """The export that was there stays; forced, the manifest says so."""
    spoiled(onnx_copy)  # other formats are converted from it
    before = (onnx_copy / "openvino" / "export.json").read_bytes()

    with pytest.raises(BelowParity, match=r"logits within 0\.0001, found .*--force"):
        export(onnx_copy, format="openvino")
    assert before == (onnx_copy / "openvino" / "export.json").read_bytes()
    assert not list(onnx_copy.glob(".*"))
    assert export(onnx_copy, format="openvino", force=True).manifest.forced


@pytest.mark.parametrize(
    ("backend", "file"), [("onnx", "model.onnx"), ("openvino", "model.xml"), ("openvino", "model.bin")]
)
@pytest.mark.parametrize("fault", ["missing", "altered"])
def test_an_altered_export_is_refused(onnx_copy: Path, backend: Any, file: str, fault: str) -> None:
    """By each of its files; the message names the command that makes it anew."""
    path = onnx_copy / backend / file
    content = path.read_bytes()
    path.unlink() if fault == "missing" else path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    with pytest.raises(CheckpointError, match=f"{file}.*lc-finetune export .* --format {backend}"):
        Predictor.load(Checkpoint.load(onnx_copy), device="cpu", backend=backend)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_an_export_of_other_weights_is_refused(onnx_copy: Path, tmp_path: Path, backend: Any) -> None:
    """The manifest names the weights it was made from."""
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    shutil.copytree(onnx_copy / backend, other.path / backend)

    with pytest.raises(CheckpointError, match="other weights"):
        Predictor.load(other, device="cpu", backend=backend)


def test_an_export_under_the_name_of_another_is_refused(onnx_copy: Path) -> None:
    """An int8 model never serves as fp32."""
    shutil.rmtree(onnx_copy / "onnx")
    shutil.copytree(onnx_copy / "onnx-int8", onnx_copy / "onnx")

    with pytest.raises(CheckpointError, match="float32, found one for onnx in int8"):
        Predictor.load(Checkpoint.load(onnx_copy), device="cpu")


@pytest.mark.parametrize(("backend", "dtype"), [*SERVED, ("auto", "int8")])
def test_an_export_that_is_not_there_names_its_command(tiny_classifier: Checkpoint, backend: Any, dtype: Any) -> None:
    """What was asked for, and how to make it."""
    with pytest.raises(CheckpointError, match="lc-finetune export"):
        TextClassifier.from_checkpoint(
            tiny_classifier, device="cpu", backend="onnx" if backend == "auto" else backend, dtype=dtype
        )


@pytest.mark.parametrize(
    ("backend", "dtype"), [("onnx", "bfloat16"), ("openvino", "int8"), ("torch", "int8"), ("tensorrt", "auto")]
)
def test_what_no_backend_has_is_a_clear_error(exported: dict[str, Checkpoint], backend: Any, dtype: Any) -> None:
    """It says what there is."""
    with pytest.raises(ConfigError, match=r"Expected (dtype|backend)"):
        Predictor.load(exported["text-classification"], device="cpu", backend=backend, dtype=dtype)


def test_auto_takes_the_fastest_fp32_and_int8_only_when_asked(onnx_copy: Path) -> None:
    """ONNX Runtime, then OpenVINO, then torch."""

    def chosen(**options: Any) -> tuple[str, str]:
        backend = Predictor.load(Checkpoint.load(onnx_copy), device="cpu", **options).backend
        return backend.name, backend.precision

    assert chosen() == ("onnx", "float32")
    assert chosen(dtype="int8") == ("onnx", "int8")
    assert chosen(dtype="bfloat16") == ("torch", "bfloat16")
    shutil.rmtree(onnx_copy / "onnx")
    assert chosen() == ("openvino", "float32")
    shutil.rmtree(onnx_copy / "openvino")
    assert chosen() == ("torch", "float32")


def test_a_new_export_is_never_taken_for_the_old_one(onnx_copy: Path) -> None:
    """Even while the old one is in use."""
    old = TextClassifier.from_checkpoint(onnx_copy, device="cpu", dtype="int8")
    before = old.invoke("where is my card")
    export(onnx_copy, precision="int8", texts=["card"] * 4, force=True)
    new = TextClassifier.from_checkpoint(onnx_copy, device="cpu", dtype="int8")

    assert before == old.invoke("where is my card")
    assert before.scores != new.invoke("where is my card").scores


def test_a_runnable_serves_from_openvino(exported: dict[str, Checkpoint]) -> None:
    """As from any backend."""
    tagger = EntityTagger.from_checkpoint(exported["token-classification"], device="cpu", backend="openvino")

    assert [labels(r) for r in tagger.batch(TEXTS)] == [labels(tagger.invoke(text)) for text in TEXTS]


def test_shards_can_be_exported(tmp_path: Path) -> None:
    """Weights in several files have one digest; a changed shard changes it."""
    from transformers import AutoModelForSequenceClassification

    checkpoint = tiny_checkpoint(tmp_path / "c")
    manifest = copy.copy(checkpoint.manifest)
    assert manifest is not None
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint.path)
    (checkpoint.path / WEIGHTS).unlink()
    model.save_pretrained(checkpoint.path, max_shard_size="20KB")
    write_manifest(checkpoint.path, manifest)
    sharded = Checkpoint.load(checkpoint.path)

    assert len(list(checkpoint.path.glob("model-*.safetensors"))) > 1
    export(sharded)
    assert Predictor.load(sharded, device="cpu").backend.name == "onnx"
    first = sorted(checkpoint.path.glob("model-*.safetensors"))[0]
    first.write_bytes(first.read_bytes()[:-1] + b"\x01")
    write_manifest(checkpoint.path, manifest)
    with pytest.raises(CheckpointError, match="other weights"):
        Predictor.load(Checkpoint.load(checkpoint.path), device="cpu")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("backend", ["torch", "onnx", "openvino"])
def test_a_forked_process_answers_too(exported: dict[str, Checkpoint], backend: str) -> None:
    """As servers fork their workers: the threads of the runtime stayed in the parent."""
    code = (
        "import os, sys; from lc_finetune import TextClassifier;"
        f"c = TextClassifier.from_checkpoint(sys.argv[1], device='cpu', backend={backend!r}); one = c.invoke('card');"
        "child = os.fork();"
        "child or os._exit(c.invoke('card').label != one.label);"  # as multiprocessing ends its children
        "sys.exit(os.waitpid(child, 0)[1])"
    )
    folder = str(exported["text-classification"].path)
    done = subprocess.run([sys.executable, "-c", code, folder], timeout=120, capture_output=True)

    assert done.returncode == 0


def test_openvino_reports_to_nobody() -> None:
    """Importing it would tell its makers; here it does not."""
    code = (
        "import sys; from lc_finetune.inference.backends.openvino import import_openvino; import_openvino();"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_a_missing_package_names_its_extra(onnx_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When serving and when exporting."""
    monkeypatch.setitem(sys.modules, "openvino", None)

    with pytest.raises(MissingDependencyError, match=r"pip install 'lc-finetune\[openvino\]'"):
        export(onnx_copy, format="openvino")
    with pytest.raises(MissingDependencyError, match=r"lc-finetune\[openvino\]"):
        Predictor.load(Checkpoint.load(onnx_copy), device="cpu", backend="openvino", dtype="float16")


def test_the_command_line_exports_and_prints_parity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows of a labelled file measure the metric too."""
    checkpoint = tiny_checkpoint(tmp_path / "c")
    rows = [f"my {word} number {i},{label}" for i in range(60) for word, label in (("card", "card"), ("cash", "cash"))]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]))
    asked = ["export", str(checkpoint.path), "--format", "onnx", "--precision", "int8", "--force"]

    assert main([*asked, "--calibration-file", str(tmp_path / "rows.csv")]) == 0
    printed = capsys.readouterr().out
    assert "60 texts" in printed
    assert "set by 60 other texts" in printed
    assert "accuracy" in printed
    folder = export_folder(checkpoint.path, "onnx", "int8")
    assert (folder / "model.onnx").is_file()
    assert json.loads((folder / EXPORT_MANIFEST).read_text())["parity"]["source"] == "of rows.csv"  # no path of a user


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (["--format", "onnx", "--precision", "int8"], "--calibration-file"),
        (["--format", "openvino", "--precision", "int8"], "format 'onnx'"),
        (["--format", "onxx"], "onnx"),
        (["--format", "onnx", "--calibration-file", "nowhere.csv"], "nowhere.csv"),
        (["--format", "onnx", "--forse"], "did you mean '--force'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    wrong: list[str], expected: str, tiny_classifier: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never a traceback."""
    assert main(["export", str(tiny_classifier.path), *wrong]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert len(message.splitlines()) == 1


def test_the_page_on_exports_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a file of labelled rows."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "runs" / "support", labels=("other", "track_order"))
    rows = [
        f"{text} {i},{label}" for i in range(20) for text, label in (("where is it", "track_order"), ("hi", "other"))
    ]
    (tmp_path / "held_out.csv").write_text("\n".join(["text,label", *rows]))
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/exports.md"):
        exec(snippet, namespace)

    assert namespace["made"].folder == Path("runs/support/onnx-int8")
