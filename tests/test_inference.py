"""The engine: texts in, results out, whatever the way they are called."""

import asyncio
import gc
import json
import queue
import shutil
import threading
import time
import weakref
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lc_finetune import TextClassifier
from lc_finetune.checkpoint import MANIFEST, WEIGHTS, Checkpoint
from lc_finetune.errors import CheckpointError, ConfigError, EngineError, InputError
from lc_finetune.inference import Predictor, plan, worker
from lc_finetune.inference.backends import Batch, OutOfMemory, Outputs, onnx
from lc_finetune.inference.backends.onnx import share_out
from lc_finetune.inference.encode import Encoding, Frame
from lc_finetune.inference.exported import EXPORT_MANIFEST
from lc_finetune.testing import tiny_checkpoint

TEXTS = ["where is my card", "", "I need to top up some cash, please!", "x " * 200, "Ünïcödé 😀 text"]


def logits_of(predictor: Predictor, texts: list[str]) -> np.ndarray[Any, Any]:
    """Log-probabilities, which fix logits up to a constant."""
    return np.log([list(result.scores.values()) for result in predictor.predict(texts)])


def test_a_text_alone_and_in_a_batch_gives_the_same(tiny_classifier: Checkpoint) -> None:
    """An answer never depends on its neighbours: within 1e-5."""
    predictor = Predictor.load(tiny_classifier, device="cpu", backend="torch")
    together = logits_of(predictor, TEXTS * 7)[: len(TEXTS)]
    alone = np.concatenate([logits_of(predictor, [text]) for text in TEXTS])

    assert np.abs(together - alone).max() < 1e-5


def test_the_logits_are_transformers_own(tiny_classifier: Checkpoint) -> None:
    """`from_pretrained` on the same folder gives the same answer: within 1e-5."""
    model = AutoModelForSequenceClassification.from_pretrained(tiny_classifier.path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_classifier.path)
    with torch.inference_mode():
        theirs = model(**tokenizer(TEXTS[0], return_tensors="pt")).logits.log_softmax(-1).numpy()
    ours = logits_of(Predictor.load(tiny_classifier, device="cpu", backend="torch"), TEXTS[:1])

    assert np.abs(theirs - ours).max() < 1e-5


class Recorded:
    """A backend that remembers how many rows each forward had."""

    def __init__(self, backend: Any) -> None:
        self.name, self.precision, self.rows = backend.name, backend.precision, list[int]()
        self._backend = backend

    def forward(self, batch: Batch) -> Outputs:
        """Remember, and run the model."""
        self.rows.append(len(batch.input_ids))
        return self._backend.forward(batch)  # type: ignore[no-any-return]


def test_logits_of_a_batch_are_transformers_own_and_those_of_each_text_alone(tiny_classifier: Checkpoint) -> None:
    """As they leave the model, padded to a batch of 32 rows: within 1e-5."""
    texts = [f"my {'card ' * (i % 7)}cash" for i in range(32)]
    tokenizer = AutoTokenizer.from_pretrained(tiny_classifier.path)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_classifier.path).eval()
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        theirs = model(**inputs).logits.numpy()
        alone = np.concatenate([model(**tokenizer(text, return_tensors="pt")).logits.numpy() for text in texts])
    predictor = Predictor.load(tiny_classifier, device="cpu", backend="torch")
    ours = predictor.forward(Batch(inputs["input_ids"].numpy(), inputs["attention_mask"].numpy())).logits

    assert ours.shape == (32, len(tiny_classifier.labels))
    assert np.abs(ours - theirs).max() < 1e-5
    assert np.abs(ours - alone).max() < 1e-5


def test_thirty_two_short_texts_are_one_forward_and_answer_as_alone(tiny_classifier: Checkpoint) -> None:
    """Their scores differ by rounding alone."""
    texts = [f"my {'card ' * (i % 7)}cash" for i in range(32)]
    predictor = Predictor(tiny_classifier, device="cpu", dtype="auto", backend="torch")
    predictor._backend = recorded = Recorded(predictor.backend)
    together = logits_of(predictor, texts)

    assert recorded.rows == [32]
    assert np.abs(together - np.concatenate([logits_of(predictor, [text]) for text in texts])).max() < 1e-5


class Marking:
    """A tagger by the seam of backends: some pieces begin an entity, others go on with it, whatever is around them."""

    name, precision = "torch", "float32"

    def __init__(self, tags: dict[int, int], outside: int, labels: int) -> None:
        self._tags, self._outside, self._labels = tags, outside, labels

    def forward(self, batch: Batch) -> Outputs:
        """Give each piece its tag."""
        tags = np.vectorize(lambda piece: self._tags.get(int(piece), self._outside))(batch.input_ids)
        return Outputs(10 * np.eye(self._labels, dtype=np.float32)[tags], np.zeros((len(tags), 8), dtype=np.float32))


def test_an_entity_at_the_edge_of_a_window_is_whole(tiny_tagger: Checkpoint) -> None:
    """Wherever it lies: found once, with all its words."""
    predictor = Predictor(tiny_tagger, device="cpu", dtype="auto", backend="torch")
    first, second, other = (one.ids for one in predictor.encode(["my", "card", "cash"]) if isinstance(one, Encoding))
    names = tiny_tagger.labels.names
    label = next(name[2:] for name in names if name.startswith("B-"))
    tags = {**dict.fromkeys(second, names.index(f"I-{label}")), first[0]: names.index(f"B-{label}")}
    tags |= dict.fromkeys(first[1:], names.index(f"I-{label}"))
    predictor._backend = Marking(tags, names.index("O"), len(names))
    words = predictor.max_length // len(other)

    for before in range(max(0, words - 12), words + 12):
        (tagging,) = predictor.predict([f"{'cash ' * before}my card{' cash' * words}"])
        assert [(entity.text, entity.start) for entity in tagging.entities] == [("my card", 5 * before)]


def test_a_classifier_reads_a_megabyte(tiny_classifier: Checkpoint) -> None:
    """In windows, whose logits are averaged."""
    (result,) = Predictor.load(tiny_classifier, device="cpu").predict(["card " * 200_000])

    assert sum(result.scores.values()) == pytest.approx(1)


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_the_export_agrees_with_torch(tmp_path: Path, task: Any) -> None:
    """ONNX within 1e-4, long texts too; `auto` on CPU takes it."""
    checkpoint = tiny_checkpoint(tmp_path / "c", task=task, onnx=True)
    exported, torch_one = (Predictor.load(checkpoint, device="cpu", backend=b) for b in ("auto", "torch"))

    assert exported.backend.name == "onnx"
    batch = Batch(np.arange(40).reshape(4, 10).astype(np.int64) % 30, np.ones((4, 10), dtype=np.int64))
    assert np.abs(exported.forward(batch).logits - torch_one.forward(batch).logits).max() < 1e-4
    left, right = exported.predict(TEXTS), torch_one.predict(TEXTS)
    assert [r.model_dump(exclude={"score", "scores", "entities"}) for r in left] == [
        r.model_dump(exclude={"score", "scores", "entities"}) for r in right
    ]


def test_an_export_of_other_weights_is_refused(tmp_path: Path) -> None:
    """The export's manifest names the weights it was made from."""
    shutil.copytree(tiny_checkpoint(tmp_path / "a", onnx=True).path / "onnx", tmp_path / "onnx")
    other = tiny_checkpoint(tmp_path / "b", seed=1)
    shutil.copytree(tmp_path / "onnx", other.path / "onnx")

    with pytest.raises(CheckpointError, match="other weights"):
        Predictor.load(other, device="cpu", backend="onnx")


@given(st.text())
@settings(max_examples=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_entity_is_a_slice_of_its_text(tiny_tagger: Checkpoint, text: str) -> None:
    """`text[start:end] == entity.text`, sorted and disjoint, for any Unicode."""
    (tagging,) = Predictor.load(tiny_tagger, device="cpu").predict([text])
    ends = [0]
    for entity in tagging.entities:
        assert tagging.text[entity.start : entity.end] == entity.text
        assert ends[-1] <= entity.start < entity.end
        ends.append(entity.end)


@pytest.mark.parametrize("text", ["a\r\nb 😀 e\u0301 中文 c", "  padded  ", "\u200dword"])
def test_offsets_hold_for_every_family_of_tokenizer(any_tagger: Checkpoint, text: str) -> None:
    """Emoji, combining marks, CRLF, CJK, and the space that `Ġ` and `▁` pieces include."""
    (tagging,) = Predictor.load(any_tagger, device="cpu").predict([text])

    for entity in tagging.entities:
        assert text[entity.start : entity.end] == entity.text == entity.text.strip()


def test_a_text_that_breaks_the_tokenizer_fails_alone(tiny_classifier: Checkpoint) -> None:
    """A lone surrogate is refused in its own slot."""
    good, bad = Predictor.load(tiny_classifier, device="cpu").predict(["fine", "\ud800"])

    assert good.label
    assert isinstance(bad, InputError)


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_a_text_at_which_the_tokenizer_panics_fails_alone(task: Any, tmp_path: Path) -> None:
    """What a tokenizer's Rust raises is no Exception, and would end the worker and every caller's wait."""
    path = tiny_checkpoint(tmp_path / "checkpoint", task=task).path / "tokenizer.json"
    tokenizer = json.loads(path.read_bytes())
    endless = {"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Isolated", "invert": False}
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [endless, tokenizer["pre_tokenizer"]]}
    path.write_text(json.dumps(tokenizer))
    (path.parent / MANIFEST).unlink()  # which knows the other one
    predictor = Predictor.load(Checkpoint.load(path.parent), device="cpu")

    good, bad, other = predictor.predict(["where is my card", "a" * 100, "no cash"])

    assert isinstance(bad, InputError)
    assert "PanicException" in str(bad)
    assert bad.__cause__ is None, "a panic may quote the text"
    assert (good.text, other.text) == ("where is my card", "no cash")


def test_a_megabyte_is_read_whole(tiny_tagger: Checkpoint) -> None:
    """In windows, none cut off: the last word can be an entity as well as the first."""
    text = "card " * 200_000
    (tagging,) = Predictor.load(tiny_tagger, device="cpu").predict([text])

    assert text == tagging.text
    if tagging.entities:
        assert tagging.entities[-1].end <= len(text)


@given(st.integers(0, 500), st.integers(1, 40), st.integers(0, 60))
def test_windows_cover_a_text_and_their_cores_share_it_out(length: int, capacity: int, stride: int) -> None:
    """No piece is lost, none is owned twice, no window is longer than the model."""
    ranges = plan.windows(length, capacity, stride)

    assert all(0 < end - start <= capacity for start, end in ranges) or ranges == [(0, 0)]
    assert list(range(length)) == [piece for start, end in plan.cores(ranges) for piece in range(start, end)]
    assert all(r[0] <= c[0] and c[1] <= r[1] for r, c in zip(ranges, plan.cores(ranges), strict=True))


def test_windows_are_merged_before_anything_is_decided() -> None:
    """A classifier's logits are averaged by the pieces that are each window's own; a tagger's are of the whole text."""
    ranges = plan.windows(10, 6, 2)
    pieces = [np.arange(start, end, dtype=np.float32)[:, None] for start, end in ranges]
    logits, features = [np.array([1.0, 0.0]), np.array([0.0, 2.0])], [np.zeros(3)] * 2

    assert ranges == [(0, 6), (4, 10)]
    assert worker.merge(ranges, logits, features, per_piece=False)[0].tolist() == [0.5, 1.0]
    assert worker.merge(ranges, pieces, features, per_piece=True)[0][:, 0].tolist() == list(range(10))


@given(st.lists(st.integers(1, 100), max_size=60), st.integers(1, 400))
def test_batches_hold_every_window_within_the_budget(lengths: list[int], budget: int) -> None:
    """Padding counted; only a single window may be longer than the budget."""
    cut = plan.batches(lengths, budget)

    assert list(range(len(lengths))) == sorted(position for batch in cut for position in batch)
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget for b in cut)


class SlowModel:
    """A fake at the worker's seam: each forward takes a fixed time; the answer is the text's length."""

    max_length, stride, per_piece, keeps_first, token_types = 16, 4, False, False, False
    frame, pad_id = Frame([1], [2]), 0

    def __init__(self, seconds: float = 0.05, budget: int = 10_000) -> None:
        self.seconds, self.token_budget, self.rows = seconds, budget, list[int]()
        self.fail: Any = lambda batch: None

    def encode(self, texts: Any) -> list[Encoding]:
        return [Encoding([3] * len(text)) for text in texts]

    def forward(self, batch: Batch) -> Outputs:
        self.rows.append(len(batch.input_ids))
        time.sleep(self.seconds)
        self.fail(batch)
        sizes = batch.attention_mask.sum(axis=1, keepdims=True).astype(np.float32)
        return Outputs(sizes, sizes)

    def decode(self, text: str, encoding: Encoding, logits: Any, features: Any) -> int:
        return len(text)


def ask(owner: worker.Worker, model: Any, texts: list[str]) -> Any:
    """Submit as a caller does."""
    if (turn := owner.gate.enter(len(texts))) is not None:
        turn.result(10)
    job = worker.Job(model, texts)
    owner.submit(job)
    return job.future


def test_concurrent_calls_share_forwards() -> None:
    """256 calls of one text: the first starts at once, the others fill one forward."""
    owner, model = worker.Worker("fake"), SlowModel()
    futures = [ask(owner, model, ["ab"]) for _ in range(256)]

    assert [future.result(10) for future in futures] == [[2]] * 256
    assert len(model.rows) <= 3


def test_threads_that_come_back_are_waited_for() -> None:
    """Six threads, ten calls each: forwards are full but for the first few, not half empty."""
    owner, model = worker.Worker("fake"), SlowModel(seconds=0.02)

    def caller() -> None:
        for _ in range(10):
            ask(owner, model, ["ab"]).result(10)

    threads = [threading.Thread(target=caller) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(model.rows) == 60
    assert len(model.rows) <= 16


def test_a_lone_text_does_not_wait_for_the_end_of_a_large_job() -> None:
    """Waves take turns."""
    owner, model = worker.Worker("fake"), SlowModel(seconds=0.01, budget=4)
    large = ask(owner, model, ["ab"] * 50)
    small = ask(owner, model, ["abc"])

    assert small.result(10) == [3]
    assert not large.done()
    assert large.result(10) == [2] * 50


def test_a_poisoned_text_fails_alone() -> None:
    """A batch that fails is tried again window by window."""

    def poison(batch: Batch) -> None:
        if (batch.attention_mask.sum(axis=1) == 5).any():
            raise ValueError("poison")

    owner, model = worker.Worker("fake"), SlowModel(seconds=0)
    model.fail = poison
    good, bad, also_good = ask(owner, model, ["a", "abc", "ab"]).result(10)

    assert (good, also_good) == (1, 2)
    assert isinstance(bad, EngineError)


def test_out_of_memory_halves_the_budget_and_goes_on() -> None:
    """Until the batches fit."""

    def small_only(batch: Batch) -> None:
        if batch.input_ids.size > 40:
            raise OutOfMemory

    owner, model = worker.Worker("fake"), SlowModel(seconds=0)
    model.fail = small_only

    assert ask(owner, model, ["ab"] * 64).result(10) == [2] * 64
    assert model.token_budget <= 128


def test_a_cancelled_call_is_not_computed() -> None:
    """A caller that left while it waited costs nothing."""
    owner, model = worker.Worker("fake"), SlowModel()
    first = ask(owner, model, ["a"])
    gone = ask(owner, model, ["abc"] * 3)
    gone.cancel()
    first.result(10)
    ask(owner, model, ["a"]).result(10)

    assert sum(model.rows) == 2


def test_a_closed_worker_fails_its_callers_clearly() -> None:
    """No caller waits for ever."""
    owner, model = worker.Worker("fake"), SlowModel()
    ask(owner, model, ["a"])
    waiting = ask(owner, model, ["b"])
    owner.close()

    with pytest.raises(EngineError, match="closed"):
        waiting.result(10)


def test_a_worker_that_dies_fails_its_callers_and_is_replaced() -> None:
    """The next call starts a new thread."""
    owner, model = worker.Worker("fake"), SlowModel()
    broken = SlowModel()
    broken.encode = lambda texts: 1 / 0  # type: ignore[assignment]

    with pytest.raises(EngineError, match="died"):
        ask(owner, broken, ["a"]).result(10)
    assert ask(owner, model, ["a"]).result(10) == [1]


def test_a_call_made_while_a_worker_dies_is_served() -> None:
    """Whoever calls again at once, as a retry does, finds a new worker, not the dying one."""
    owner, model = worker.Worker("fake"), SlowModel()
    broken = SlowModel()
    broken.encode = lambda texts: 1 / 0  # type: ignore[assignment]
    again: queue.Queue[Any] = queue.Queue()
    job = worker.Job(broken, ["a"])
    job.future.add_done_callback(lambda _: again.put(ask(owner, model, ["a"])))
    owner.gate.enter(1)
    owner.submit(job)

    assert again.get(timeout=10).result(10) == [1]


def test_a_worker_that_dies_amid_a_job_fails_its_caller() -> None:
    """Outputs that no text fits end the worker; whoever waits is told, after any number of forwards."""
    owner, model = worker.Worker("fake"), SlowModel(seconds=0, budget=4)
    whole = model.forward

    def halved(batch: Batch) -> Outputs:
        outputs = whole(batch)
        return outputs if len(model.rows) < 3 else Outputs(outputs.logits[:0], outputs.features[:0])

    model.forward = halved  # type: ignore[method-assign]

    with pytest.raises(EngineError, match="died"):
        ask(owner, model, ["ab"] * 8).result(10)


def test_callers_beyond_the_bound_wait_outside() -> None:
    """The queue holds at most its bound; everybody is served in the end."""
    owner, model = worker.Worker("fake", pending=4), SlowModel(seconds=0.001)
    done: list[Any] = []
    threads = [threading.Thread(target=lambda: done.append(ask(owner, model, ["ab"]).result(10))) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert done == [[2]] * 40
    assert max(model.rows) <= 4


def test_an_interrupted_caller_gives_up_its_place(tiny_classifier: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C while it waits for room, the room goes to those who come later."""
    predictor = Predictor.load(tiny_classifier, device="cpu")
    owner = worker.Worker("fake", pending=1)
    owner.gate.enter(1)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(worker, "worker_of", lambda _: owner)
        patch.setattr(Future, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            predictor.predict(["a"])
    owner.gate.leave(1)

    assert owner.gate.enter(1) is None


async def test_cancelling_a_coroutine_leaves_the_engine_whole(tiny_classifier: Checkpoint) -> None:
    """`wait_for` may give up; the next call is served."""
    predictor = Predictor.load(tiny_classifier, device="cpu")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(predictor.apredict(["x " * 5000] * 64), 0.0001)

    assert len(await predictor.apredict(["again"])) == 1


def test_weights_leave_memory_once_nobody_uses_them(tmp_path: Path) -> None:
    """The worker, which lives on, keeps nothing of the model that it served last."""
    classifier = TextClassifier.from_checkpoint(tiny_checkpoint(tmp_path / "c", seed=358).path, device="cpu")
    classifier.invoke("Where is my card?")
    kept = weakref.ref(classifier._loaded())

    classifier.close()
    until = time.monotonic() + 10
    while kept() is not None and time.monotonic() < until:
        gc.collect()
        time.sleep(0.01)
    assert kept() is None


def test_an_accelerators_caller_encodes_while_the_device_computes(
    tiny_classifier: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forward of a call's first texts ends only once the next ones are encoded: both happen at the same time."""
    predictor = Predictor(tiny_classifier, device="cpu", dtype="float32", backend="torch")
    monkeypatch.setattr("lc_finetune.inference.predictor.CHUNK", 2)
    predictor._encodes_ahead = True  # as on CUDA
    encode, forward = predictor._encoder.encode, predictor.backend.forward
    encoded: list[list[str]] = []
    second = threading.Event()

    def counted(texts: Any) -> Any:
        encoded.append(list(texts))
        if len([texts for texts in encoded if texts]) == 2:
            second.set()
        return encode(texts)

    def held(batch: Batch) -> Outputs:
        assert second.wait(30)
        return forward(batch)

    monkeypatch.setattr(predictor._encoder, "encode", counted)
    monkeypatch.setattr(predictor._backend, "forward", held)
    answers = predictor.predict(TEXTS[:4])

    assert [answer.text for answer in answers] == TEXTS[:4]
    assert [texts for texts in encoded if texts] == [TEXTS[:2], TEXTS[2:4]]


def test_the_same_content_is_loaded_once(tiny_classifier: Checkpoint) -> None:
    """Weights are shared by digest, device, dtype and backend."""
    one, two = (Predictor.load(Checkpoint.load(tiny_classifier.path), device="cpu") for _ in range(2))

    assert one is two


def test_equal_folders_are_loaded_once(tiny_classifier: Checkpoint, tmp_path: Path) -> None:
    """A copy of the folder elsewhere shares the weights."""
    copied = shutil.copytree(tiny_classifier.path, tmp_path / "copy")
    one, two = (Predictor.load(Checkpoint.load(path), device="cpu") for path in (tiny_classifier.path, copied))

    assert one is two


def test_equal_weights_with_another_export_are_loaded_apart(tmp_path: Path) -> None:
    """Exports are subfolders with manifests of their own, which the checkpoint's digest does not cover."""
    original = tiny_checkpoint(tmp_path / "c", onnx=True)
    copied = Checkpoint.load(shutil.copytree(original.path, tmp_path / "copy"))
    exported = copied.path / "onnx" / EXPORT_MANIFEST
    exported.write_text(exported.read_text().replace('"forced": false', '"forced": true'))
    one, two = (Predictor.load(checkpoint, device="cpu", backend="onnx") for checkpoint in (original, copied))
    torch_one, torch_two = (Predictor.load(each, device="cpu", backend="torch") for each in (original, copied))

    assert one.export != two.export
    assert one is not two
    assert torch_one is torch_two


def altered(tmp_path: Path) -> Path:
    """A copy to spoil."""
    return tiny_checkpoint(tmp_path / "c").path


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "tokenizer.json"])
@pytest.mark.parametrize("fault", ["missing", "truncated", "altered"])
def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path, name: str, fault: str) -> None:
    """Before any weight is read; the message names the file."""
    path = altered(tmp_path) / name
    content = path.read_bytes()
    if fault == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-9] if fault == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))

    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        Checkpoint.load(path.parent)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    """Nothing is ever unpickled."""
    folder = altered(tmp_path)
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")

    with pytest.raises(CheckpointError, match="pickled"):
        Checkpoint.load(folder)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """With the advice to upgrade."""
    folder = altered(tmp_path)
    path = folder / MANIFEST
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 99'))

    with pytest.raises(CheckpointError, match="Upgrade"):
        Checkpoint.load(folder)


def test_a_plain_folder_loads_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A safetensors classifier without our manifest is served, uncalibrated."""
    folder = altered(tmp_path)
    (folder / MANIFEST).unlink()

    assert Predictor.load(Checkpoint.load(folder), device="cpu").predict(["hi"])[0].accepted is None
    assert "uncalibrated" in caplog.text


def test_nothing_at_the_path_is_a_clear_error(tmp_path: Path) -> None:
    """It names the path and how to get a checkpoint."""
    with pytest.raises(CheckpointError, match=r"lc_finetune\.train"):
        Checkpoint.load(tmp_path / "nowhere")


@pytest.mark.parametrize(("option", "value"), [("dtype", "fp16"), ("backend", "onx")])
def test_a_dtype_or_backend_that_there_is_not_is_one_clear_line(option: str, value: str) -> None:
    """As every other option: a `ConfigError` with what there is, before anything is read."""
    with pytest.raises(ConfigError, match=f"Expected {option} 'auto', .*, found '{value}'"):
        TextClassifier.from_checkpoint("nowhere", **{option: value})  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=24), st.integers(1, 6))
def test_rows_are_shared_out_whole_and_evenly(lengths: list[int], parts: int) -> None:
    """In order, none lost; the slowest part has no more to do than each thread would have with all rows together."""
    lengths.sort(reverse=True)
    ranges = share_out(lengths, parts)
    work = [(end - start) * lengths[start] for start, end in ranges]

    assert [row for start, end in ranges for row in range(start, end)] == list(range(len(lengths)))
    assert len(ranges) <= parts
    assert len(ranges) == 1 or max(work) <= len(lengths) * lengths[0] / parts
    if parts == 2 and len(lengths) > 1:
        best = min(max(lengths[0] * cut, lengths[cut] * (len(lengths) - cut)) for cut in range(1, len(lengths)))
        assert best > len(lengths) * lengths[0] // 2 or max(work) == best


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_rows_that_are_shared_out_answer_as_together(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits and features are those of one session that takes the batch whole, whatever the cores."""
    checkpoint = tiny_checkpoint(tmp_path / "c", task=task, onnx=True)
    lengths = [9, 7, 7, 4, 3]
    ids, mask = np.zeros((5, 9), dtype=np.int64), np.zeros((5, 9), dtype=np.int64)
    for row, length in enumerate(lengths):
        ids[row, :length], mask[row, :length] = range(5, 5 + length), 1

    def outputs(cores: int) -> Outputs:
        monkeypatch.setattr(onnx, "available_cores", lambda: cores)
        backend = onnx.OnnxBackend(checkpoint.path / "onnx" / "model.onnx", device="cpu", precision="float32")
        return backend.forward(Batch(ids, mask))

    together, apart = outputs(1), outputs(3)

    assert together.logits.shape == apart.logits.shape
    np.testing.assert_allclose(together.features, apart.features, atol=1e-5)
    for row, length in enumerate(lengths):
        of_row = (row, slice(length)) if task == "token-classification" else (row,)
        np.testing.assert_allclose(together.logits[of_row], apart.logits[of_row], atol=1e-5)
