"""The ways to answer texts that are compared: what people write today, raw loops, and ours."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig
from numpy.typing import NDArray

from benchmarks.measure import Forwards, cores
from lc_finetune import EntityTagger, TextClassifier
from lc_finetune.checkpoint import Checkpoint
from lc_finetune.errors import LCFinetuneError
from lc_finetune.inference import plan
from lc_finetune.inference.backends import Backend, Batch, Outputs
from lc_finetune.inference.predictor import TOKEN_BUDGET, Predictor, window_of

ROWS = 32
PIPELINE = f"pipeline(texts, batch_size={ROWS})"

Forward = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.floating]]
"""`(input_ids, attention_mask)`, both `(rows, pieces)` → logits."""


@dataclass(frozen=True)
class Contestant:
    """A way to answer texts.

    Attributes:
        name: As it stands in the tables.
        runtime: What computes; contestants of one runtime are compared with its raw loops.
        raw: Whether this is a raw loop.
        many: Texts → one answer for each: a label, or a tagger's entities.
        one: A text → its answer, as written for a single text; None where that is no way of its own.
        forwards: Counts the model's runs.
        at_once: Texts → an answer for each, each asked for by itself, all at the same time; None where that is no way
            of its own.
        close: Ends what it runs in the background.
    """

    name: str
    runtime: str
    raw: bool
    many: Callable[[Sequence[str]], list[Any]]
    one: Callable[[str], Any] | None
    forwards: Forwards
    at_once: Callable[[Sequence[str]], list[Any]] | None = None
    close: Callable[[], None] = lambda: None


class Unavailable(Exception):
    """A contestant cannot run here; says why."""


class Runs(BaseCallbackHandler):
    """A callback handler as a user has one: counts the runs that ended."""

    def __init__(self) -> None:
        self.ended = 0

    def on_chain_end(self, outputs: Any, **kwargs: Any) -> None:
        """Count one."""
        self.ended += 1


class CountingBackend:
    """A backend that counts its forwards."""

    def __init__(self, backend: Backend) -> None:
        self.name, self.precision = backend.name, backend.precision
        self.forwards = Forwards()
        self._backend = backend

    def forward(self, batch: Batch) -> Outputs:
        """Count, and run the model once."""
        self.forwards.count += 1
        return self._backend.forward(batch)


def counted(model: TextClassifier | EntityTagger) -> Forwards:
    """Count the forwards of a model from now on."""
    predictor = model._loaded()
    if not isinstance(predictor.backend, CountingBackend):
        predictor._backend = CountingBackend(predictor.backend)
    backend: Any = predictor._backend
    forwards: Forwards = backend.forwards
    return forwards


@contextmanager
def replaced(predictor: Predictor, backend: Backend) -> Iterator[None]:
    """Put another backend into a predictor for a while."""
    own, predictor._backend = predictor.backend, backend
    try:
        yield
    finally:
        predictor._backend = own


@contextmanager
def contestants(checkpoint: Checkpoint, device: str) -> Iterator[tuple[list[Contestant], dict[str, str]]]:
    """Load every contestant that can run here, and close them at the end.

    Yields:
        The contestants, and for the others the reason why not.
    """
    folder, tagger = checkpoint.path, checkpoint.task == "token-classification"
    makers: dict[str, Callable[[], list[Contestant]]] = {"pipeline": partial(_pipelines, checkpoint, device)}
    if not tagger:
        makers["CrossEncoder"] = partial(_cross_encoder, checkpoint, device)
        makers["infinity"] = partial(_infinity, checkpoint, device)
    makers["raw torch"] = partial(_raw, checkpoint, "torch", device, partial(_torch_forward, checkpoint, device))
    if device.startswith("cuda"):  # where ours computes in bf16 unless told otherwise
        half = partial(_torch_forward, checkpoint, device, "bfloat16")
        makers["raw torch-bfloat16"] = partial(_raw, checkpoint, "torch-bfloat16", device, half)
    makers["ours, auto"] = partial(_ours, checkpoint, "ours, auto", device)
    makers["ours, torch"] = partial(_ours, checkpoint, "ours, torch", device, backend="torch")
    if device == "cpu":
        onnx, int8, openvino = (
            folder / name for name in ("onnx/model.onnx", "onnx-int8/model.onnx", "openvino/model.xml")
        )
        makers["raw onnx"] = partial(_raw, checkpoint, "onnx", device, partial(_onnx_forward, onnx))
        makers["raw onnx-int8"] = partial(_raw, checkpoint, "onnx-int8", device, partial(_onnx_forward, int8))
        makers["raw openvino"] = partial(_raw, checkpoint, "openvino", device, partial(_openvino_forward, openvino))
        makers["ours, onnx-int8"] = partial(
            _ours, checkpoint, "ours, onnx-int8", device, file=int8, backend="onnx", dtype="int8"
        )
        makers["ours, openvino"] = partial(
            _ours, checkpoint, "ours, openvino", device, file=openvino, backend="openvino"
        )
    found: list[Contestant] = []
    missing: dict[str, str] = {}
    try:
        for name, make in makers.items():
            try:
                found += make()
            except ImportError as error:
                missing[name] = f"{error.name} is not installed"
            except (Unavailable, LCFinetuneError) as error:
                missing[name] = str(error)
            except Exception as error:  # a peer's fault must not end the run
                missing[name] = f"it cannot load or run this folder ({type(error).__name__})"
        yield found, missing
    finally:
        for one in found:
            one.close()


def _pipelines(checkpoint: Checkpoint, device: str) -> list[Contestant]:
    from transformers import pipeline

    make: Any = pipeline
    tagger = checkpoint.task == "token-classification"
    if tagger:
        pipe = make(checkpoint.task, model=str(checkpoint.path), device=device, aggregation_strategy="simple")
        limits: dict[str, Any] = {}
    else:
        pipe = make(checkpoint.task, model=str(checkpoint.path), device=device)
        limits = {"truncation": True, "max_length": window_of(checkpoint)[0]}

    def answer(found: Any) -> Any:
        return [(e["entity_group"], e["start"], e["end"]) for e in found] if tagger else found["label"]

    forwards = Forwards()
    pipe.model.register_forward_hook(forwards.hook)

    def of_rows(rows: int) -> Callable[[Sequence[str]], list[Any]]:
        return lambda texts: [answer(found) for found in pipe(list(texts), batch_size=rows, **limits)]

    def one(text: str) -> Any:
        found = pipe(text, **limits)
        return answer(found if tagger else found[0])

    return [
        Contestant("pipeline(texts)", "pipeline", False, of_rows(1), one, forwards),
        Contestant(PIPELINE, "pipeline", False, of_rows(ROWS), None, forwards),
    ]


def _cross_encoder(checkpoint: Checkpoint, device: str) -> list[Contestant]:
    from sentence_transformers import CrossEncoder

    load: Any = CrossEncoder
    encoder = load(str(checkpoint.path), device=device, max_length=window_of(checkpoint)[0])
    forwards = Forwards()
    encoder.register_forward_hook(forwards.hook)
    labels = checkpoint.labels

    encoder.is_singular_input = lambda inputs: False  # it would take a list of two texts for a pair

    def many(texts: Sequence[str]) -> list[str]:
        logits = encoder.predict(list(texts), batch_size=ROWS, show_progress_bar=False)
        return [labels[int(best)] for best in np.asarray(logits).argmax(axis=1)]

    many(["probe"])
    return [
        Contestant("CrossEncoder.predict", "sentence-transformers", False, many, lambda text: many([text])[0], forwards)
    ]


def _infinity(checkpoint: Checkpoint, device: str) -> list[Contestant]:
    from infinity_emb import AsyncEmbeddingEngine, EngineArgs

    arguments = EngineArgs(
        model_name_or_path=str(checkpoint.path), engine="torch", device=device, batch_size=ROWS, model_warmup=False
    )
    engine = AsyncEmbeddingEngine.from_args(arguments)
    loop = asyncio.new_event_loop()

    async def classify(texts: Sequence[str]) -> list[str]:
        predictions, _ = await engine.classify(sentences=list(texts), raw_scores=False)
        return [max(scores, key=lambda score: score["score"])["label"] for scores in predictions]

    async def each(texts: Sequence[str]) -> list[str]:
        return [label for [label] in await asyncio.gather(*(classify([text]) for text in texts))]

    def many(texts: Sequence[str]) -> list[str]:
        return loop.run_until_complete(classify(texts))

    def close() -> None:  # its threads would keep the process from ending
        loop.run_until_complete(engine.astop())
        loop.close()

    loop.run_until_complete(engine.astart())
    try:
        many(["probe"])
    except BaseException:
        close()
        raise
    return [
        Contestant(
            "infinity", "infinity", False, many, lambda text: many([text])[0], Forwards(),
            at_once=lambda texts: loop.run_until_complete(each(texts)), close=close,
        )
    ]  # fmt: skip


def _ours(
    checkpoint: Checkpoint, name: str, device: str, *, file: Path | None = None, **options: Any
) -> list[Contestant]:
    if file is not None and not file.is_file():
        raise Unavailable(f"the checkpoint holds no {file.parent.name}/{file.name}")
    kind = EntityTagger if checkpoint.task == "token-classification" else TextClassifier
    model = kind.from_checkpoint(checkpoint, device=device, **options)
    forwards = counted(model)
    config: RunnableConfig = {"callbacks": [Runs()]}
    runtime = runtime_of(model._loaded().backend)

    def many(texts: Sequence[str]) -> list[Any]:
        return [_answer(result) for result in model.batch(list(texts), config)]

    return [Contestant(name, runtime, False, many, lambda text: _answer(model.invoke(text, config)), forwards)]


def runtime_of(backend: Backend) -> str:
    """Name what a backend is compared with the raw loops of: a runtime, and its precision unless that is fp32."""
    return backend.name if backend.precision == "float32" else f"{backend.name}-{backend.precision}"


def _answer(result: Any) -> Any:
    if hasattr(result, "label"):
        return result.label
    return [(entity.label, entity.start, entity.end) for entity in result.entities]


# Raw loops: the runtime's own interface, texts sorted by length, nothing else.


def _raw(checkpoint: Checkpoint, runtime: str, device: str, open_forward: Callable[[], Forward]) -> list[Contestant]:
    forward, budget = open_forward(), TOKEN_BUDGET[device.partition(":")[0]]

    def by_rows(lengths: Sequence[int]) -> list[list[int]]:
        order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
        return [order[start : start + ROWS] for start in range(0, len(order), ROWS)]

    def by_budget(lengths: Sequence[int]) -> list[list[int]]:
        return plan.batches(lengths, budget)

    loops = {f"batches of {ROWS}": by_rows, f"batches of {budget} tokens": by_budget}
    made = []
    for i, (kind, cut) in enumerate(loops.items()):
        loop = RawLoop(checkpoint, forward, cut)
        made.append(
            Contestant(
                f"raw {runtime}, sorted, {kind}", runtime, True, loop.many, loop.one if i == 0 else None, loop.forwards
            )
        )
    return made


class RawLoop:
    """Length-sorted batches over a runtime's own interface: the most that one writes by hand.

    Texts longer than the model become windows by the tokenizer's own means; their logits are averaged.
    """

    def __init__(
        self, checkpoint: Checkpoint, forward: Forward, cut: Callable[[Sequence[int]], list[list[int]]]
    ) -> None:
        from transformers import AutoTokenizer

        load: Any = AutoTokenizer
        self._tokenizer = load.from_pretrained(checkpoint.path)
        self._pad = self._tokenizer.pad_token_id or 0
        self._labels = checkpoint.labels
        self._per_piece = checkpoint.task == "token-classification"
        self._max_length, self._stride = window_of(checkpoint)
        self._forward, self._cut = forward, cut
        self.forwards = Forwards()

    def many(self, texts: Sequence[str]) -> list[Any]:
        """Answer each text: its label, or the tags of its pieces."""
        rows, owners = self._encode(list(texts))
        logits: list[Any] = [None] * len(rows)
        for batch in self._cut([len(row) for row in rows]):
            found = self._run([rows[position] for position in batch])
            for row, position in enumerate(batch):
                logits[position] = found[row]
        if self._per_piece:
            return [found[: len(row)].argmax(axis=-1) for row, found in zip(rows, logits, strict=True)]
        totals = np.zeros((len(texts), len(self._labels)))
        np.add.at(totals, owners, np.stack(logits))
        return [self._labels[best] for best in totals.argmax(axis=1).tolist()]

    def one(self, text: str) -> Any:
        """Answer one text, without anything that only many need."""
        rows, _ = self._encode([text])
        found = self._run(rows)
        return found[0].argmax(axis=-1) if self._per_piece else self._labels[int(found.mean(axis=0).argmax())]

    def _encode(self, texts: list[str]) -> tuple[list[list[int]], list[int]]:
        encoded = self._tokenizer(
            texts,
            truncation=True,
            max_length=self._max_length,
            stride=self._stride,
            return_overflowing_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        return encoded["input_ids"], encoded["overflow_to_sample_mapping"]

    def _run(self, rows: Sequence[Sequence[int]]) -> NDArray[np.floating]:
        shape = (len(rows), max(map(len, rows)))
        ids, mask = np.full(shape, self._pad, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        self.forwards.count += 1
        return self._forward(ids, mask)


def _torch_forward(checkpoint: Checkpoint, device: str, dtype: str = "float32") -> Forward:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

    load: Any = (
        AutoModelForTokenClassification
        if checkpoint.task == "token-classification"
        else AutoModelForSequenceClassification
    )
    model = load.from_pretrained(checkpoint.path, dtype=getattr(torch, dtype)).to(device).eval()

    def forward(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.floating]:
        with torch.inference_mode():
            inputs = torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
            logits = model(input_ids=inputs[0], attention_mask=inputs[1]).logits
            found: NDArray[np.floating] = logits.float().cpu().numpy()
            return found

    return forward


def _onnx_forward(file: Path) -> Forward:
    import onnxruntime

    if not file.is_file():
        raise Unavailable(f"the checkpoint holds no {file.parent.name}/{file.name}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(os.fspath(file), options, providers=["CPUExecutionProvider"])

    def forward(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.floating]:
        found: NDArray[np.floating] = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]
        return found

    return forward


def _openvino_forward(file: Path) -> Forward:
    if not file.is_file():
        raise Unavailable(f"the checkpoint holds no {file.parent.name}/{file.name}")
    import openvino

    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(cores()),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request: Any = openvino.Core().compile_model(os.fspath(file), "CPU", options).create_infer_request()

    def forward(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.floating]:
        found: NDArray[np.floating] = request.infer({"input_ids": ids, "attention_mask": mask})["logits"].copy()
        return found

    return forward
