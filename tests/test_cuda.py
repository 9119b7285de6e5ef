"""Full batches without padding, small ones padded to recorded shapes: the answers are those of the plain model.

What only CUDA can do (FlashAttention's kernel, graphs, pinned memory) is tested where there is such a device; all else
runs the same code on the CPU.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification

from lc_finetune import Checkpoint
from lc_finetune.errors import ConfigError
from lc_finetune.inference import Predictor, worker
from lc_finetune.inference.backends import Batch, cuda, resolve_device
from lc_finetune.inference.backends.torch import Headed, TorchBackend
from lc_finetune.testing import tiny_checkpoint

TASKS = ("text-classification", "token-classification")
POSITIONS = 42
LENGTHS = (3, 40, 7, 11, 2)
TEXTS = ["where is my card", "", "I need to top up some cash, please!", "x " * 100, "Ünïcödé 😀 text"]


def on_cuda(test: Callable[..., Any]) -> Any:
    """Mark a test that needs the device."""
    return pytest.mark.cuda(pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")(test))


def random_model(family: str, task: str) -> Any:
    """Two layers, 32 wide, in fp32."""
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    narrow = {"hidden_dim": 64} if family == "distilbert" else {"intermediate_size": 64}
    config = AutoConfig.for_model(
        family, vocab_size=50, max_position_embeddings=POSITIONS, pad_token_id=1, num_labels=5, initializer_range=0.2,
        **sizes, **narrow,
    )  # fmt: skip
    heads = dict(zip(TASKS, (AutoModelForSequenceClassification, AutoModelForTokenClassification), strict=True))
    torch.manual_seed(0)
    return heads[task].from_config(config).eval()


def random_batch() -> Batch:
    """Rows of different lengths; one holds the padding id as a text can."""
    chance = np.random.default_rng(0)
    mask = (np.arange(max(LENGTHS)) < np.asarray(LENGTHS)[:, None]).astype(np.int64)
    ids = np.where(mask == 1, chance.integers(5, 50, mask.shape), 1)
    ids[1, 5] = 1
    return Batch(ids, mask)


def plain(model: Any, batch: Batch) -> tuple[Any, Any]:
    """What transformers answers."""
    with torch.inference_mode():
        inputs = {name: torch.from_numpy(array) for name, array in batch.feed.items()}
        logits, features = Headed(copy.deepcopy(model))(**inputs)
    return logits.numpy(), features.numpy()


def unrecorded(call: cuda.Call, inputs: torch.Tensor) -> cuda.Call:
    """Stand for a recorder where there are no graphs."""
    return call


@pytest.mark.parametrize("way", ["small", "packed", "padded"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", cuda.STACKS)
def test_answers_are_the_plain_models(family: str, task: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits and features within 1e-5, for each family, task and way to lay out a batch."""
    model, batch = random_model(family, task), random_batch()
    logits, features = plain(model, batch)
    monkeypatch.setattr(cuda, "GRAPH_TOKENS", 4096 if way == "small" else 0)
    served = cuda.CudaModel(model, per_piece=task == TASKS[1], packs=way == "packed", record=unrecorded)
    with torch.inference_mode():
        outputs = served(batch)

    judged = batch.attention_mask.astype(bool) if task == TASKS[1] else slice(None)
    assert outputs.logits.shape == logits.shape
    assert np.abs(outputs.logits - logits)[judged].max() < 1e-5
    assert np.abs(outputs.features - features).max() < 1e-5


@pytest.mark.parametrize("way", ["small", "packed", "padded"])
def test_token_types_reach_the_model(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pairs: another answer than without them, and that of the plain model."""
    model, batch = random_model("bert", TASKS[0]), random_batch()
    typed = replace(batch, token_type_ids=(np.arange(max(LENGTHS)) > 1) * batch.attention_mask)
    logits, features = plain(model, typed)
    without, _ = plain(model, batch)
    monkeypatch.setattr(cuda, "GRAPH_TOKENS", 4096 if way == "small" else 0)
    served = cuda.CudaModel(model, per_piece=False, packs=way == "packed", record=unrecorded)
    with torch.inference_mode():
        outputs = served(typed)

    assert np.abs(logits - without).max() > 1e-3
    assert np.abs(outputs.logits - logits).max() < 1e-5
    assert np.abs(outputs.features - features).max() < 1e-5


def test_a_shape_is_recorded_once() -> None:
    """Batches that are padded to the same shape share it; none is longer than the model has positions for."""
    shapes: list[tuple[int, ...]] = []

    def record(call: cuda.Call, inputs: torch.Tensor) -> cuda.Call:
        shapes.append(tuple(inputs.shape))
        return call

    served = cuda.CudaModel(random_model("bert", TASKS[0]), per_piece=False, packs=True, record=record)
    with torch.inference_mode():
        for rows, pieces in [(1, 3), (1, 16), (3, 17), (4, 30), (5, 42)]:
            served(Batch(np.full((rows, pieces), 7), np.ones((rows, pieces), dtype=np.int64)))

    assert shapes == [(2, 1, 16), (2, 4, 32), (2, 8, 42)]


def test_what_cannot_be_recorded_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """With a warning; a lack of memory is for the engine to deal with."""

    def refuse(call: cuda.Call, inputs: torch.Tensor) -> cuda.Call:
        raise RuntimeError("operation not permitted when stream is capturing")

    def exhaust(call: cuda.Call, inputs: torch.Tensor) -> cuda.Call:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    model, batch = random_model("bert", TASKS[0]), random_batch()
    logits, _ = plain(model, batch)
    with torch.inference_mode():
        served = cuda.CudaModel(copy.deepcopy(model), per_piece=False, packs=True, record=refuse)
        assert np.abs(served(batch).logits - logits).max() < 1e-5
        with pytest.raises(torch.OutOfMemoryError):
            cuda.CudaModel(model, per_piece=False, packs=True, record=exhaust)(batch)

    assert "bert cannot be recorded" in caplog.text


def test_a_window_without_a_piece_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer without special tokens leaves nothing of an empty text."""
    batch = Batch(np.array([[7, 8], [1, 1]]), np.array([[1, 1], [0, 0]]))
    for small in (4096, 0):
        monkeypatch.setattr(cuda, "GRAPH_TOKENS", small)
        served = cuda.CudaModel(random_model("bert", TASKS[0]), per_piece=False, packs=True, record=unrecorded)
        with torch.inference_mode():
            assert np.isfinite(served(batch).logits).all()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory: you tried to"),
    ],
    ids=["CUDA", "CUDA's runtime", "cuBLAS", "MPS", "CPU"],
)
def test_each_lack_of_memory_halves_the_budget(tiny_classifier: Checkpoint, error: RuntimeError) -> None:
    """However the device says it; all texts are answered."""
    predictor = Predictor(tiny_classifier, device="cpu", dtype="float32", backend="torch", token_budget=256)
    backend: Any = predictor.backend
    run = backend._run

    def narrow(batch: Batch) -> Any:
        if batch.input_ids.size > 100:
            raise error
        return run(batch)

    backend._run = narrow
    answers = predictor.predict(TEXTS * 4)

    assert predictor.token_budget <= 128
    assert [answer.text for answer in answers] == TEXTS * 4


def test_other_failures_are_no_lack_of_memory(tiny_classifier: Checkpoint) -> None:
    """They pass through as they are."""
    backend = TorchBackend(tiny_classifier, device="cpu", dtype="float32")

    def fail(batch: Batch) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    backend._run = fail
    with pytest.raises(RuntimeError, match="illegal"):
        backend.forward(random_batch())


@pytest.mark.parametrize(
    ("asked", "found"), [("auto", "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu"), ("cpu:0", "cpu")]
)
def test_a_device_has_one_name(asked: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two devices, the second of them current: one worker each, whatever they are called by."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)

    assert resolve_device(asked) == found
    with pytest.raises(ConfigError, match="cuda:2"):
        resolve_device("cuda:2")


@pytest.mark.parametrize(("mps", "found"), [(True, "mps"), (False, "cpu")])
def test_without_cuda_auto_takes_mps_then_the_cpu(mps: bool, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    assert resolve_device("auto") == found


# On a CUDA device.


@on_cuda
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("way", ["small", "full"])
def test_cuda_answers_as_the_cpu_does(
    tmp_path: Any, task: Any, dtype: Any, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded, packed (in halves) and padded (in fp32); logits within the precision of the type."""
    monkeypatch.setattr(cuda, "GRAPH_TOKENS", 4096 if way == "small" else 0)
    model, batch = tiny_checkpoint(tmp_path / "c", task=task), random_batch()
    batch = Batch(batch.input_ids[:, :32], batch.attention_mask[:, :32])
    expected = TorchBackend(model, device="cpu", dtype="float32").forward(batch)
    backend = TorchBackend(model, device="cuda", dtype=dtype)

    for _ in range(2):  # recorded, then replayed
        outputs = backend.forward(batch)
        judged = batch.attention_mask.astype(bool) if task == TASKS[1] else slice(None)
        within = {"float32": 1e-4, "bfloat16": 0.25, "float16": 0.03}[dtype]
        assert np.abs(outputs.logits - expected.logits)[judged].max() < within
        assert np.abs(outputs.features - expected.features).max() < within


@on_cuda
def test_cuda_text_alone_and_in_a_batch_gives_the_same(tiny_classifier: Checkpoint) -> None:
    """Scores within 1e-5 in fp32 and within 0.02 in bf16, whose products have eight bits, whichever way each goes."""
    for dtype, within in (("float32", 1e-5), ("bfloat16", 0.02)):
        predictor = Predictor.load(tiny_classifier, device="cuda", dtype=dtype, backend="torch")  # type: ignore[arg-type]
        together = predictor.predict(TEXTS * 200)[: len(TEXTS)]
        alone = [predictor.predict([text])[0] for text in TEXTS]
        for one, other in zip(together, alone, strict=True):
            assert one.scores == pytest.approx(other.scores, abs=within)


@on_cuda
def test_cuda_last_device_serves(tiny_classifier: Checkpoint) -> None:
    """Whichever is current: weights, graphs and copies are all on the device that was named."""
    last = f"cuda:{torch.cuda.device_count() - 1}"
    predictor = Predictor.load(tiny_classifier, device=last, backend="torch")

    assert [answer.text for answer in predictor.predict(TEXTS * 50)] == TEXTS * 50
    assert predictor.device == last


@on_cuda
def test_cuda_lack_of_memory_halves_the_budget(tiny_classifier: Checkpoint) -> None:
    """With a batch of a million tokens where there is room for far fewer."""
    predictor = Predictor(tiny_classifier, device="cuda:0", dtype="float32", backend="torch", token_budget=2**20)
    predictor.predict(TEXTS)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(0) + 2**26) / total, 0)
    try:
        answers = worker.answer(predictor, ["x " * 28] * 2**15)  # as one wave
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)

    assert predictor.token_budget < 2**20
    assert all(isinstance(answer.score, float) for answer in answers)
