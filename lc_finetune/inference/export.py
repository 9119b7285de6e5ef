"""Checkpoint → the same model for another runtime, kept only if it gives the same answers."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast, get_args

import numpy as np

from lc_finetune.checkpoint import JOINT, PAIRS, Checkpoint, sha256, staged_folder, write_text_atomically
from lc_finetune.errors import CheckpointError, ConfigError, EngineError, LCFinetuneError
from lc_finetune.inference.backends import Backend, Batch, Outputs, open_backend
from lc_finetune.inference.backends.torch import Headed, load_model
from lc_finetune.inference.encode import Encoder
from lc_finetune.inference.exported import (
    EXPORT_MANIFEST,
    OUTPUTS,
    SHORT,
    ExportManifest,
    Format,
    Precision,
    export_folder,
    is_exported,
    verified_file,
)
from lc_finetune.inference.parity import BelowParity, Gold, measure_parity, sample_texts, shortfall
from lc_finetune.inference.quantize import quantize_onnx
from lc_finetune.inference.saved_model import SavedModel, convert, environment_python
from lc_finetune.remote import refuse_cached, refuse_url
from lc_finetune.schemas import Input

logger = logging.getLogger(__name__)

CALIBRATION_TEXTS = 128
"""Texts that set the scales of an int8 export; of fewer than twice as many, half."""
CONVERTIBLE = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")
"""Families whose every layer attends to the whole window, so that one mask serves all: what `plain` graphs need."""
FEW_TEXTS = 100
"""With fewer, the table says that they show little."""


class NotExportable(CheckpointError):
    """A format has no words for what a model computes."""


@dataclass(frozen=True)
class Export:
    """An export on disk."""

    folder: Path
    manifest: ExportManifest


def export(
    checkpoint: str | os.PathLike[str] | Checkpoint,
    *,
    format: Format = "onnx",
    precision: Precision = "float32",
    texts: Sequence[Input] = (),
    gold: Gold | None = None,
    source: str = "texts given",
    force: bool = False,
) -> Export:
    """Write an export into the checkpoint's folder, in place of one of the same kind, and measure its parity.

    Args:
        checkpoint: The folder.
        format: `"onnx"` and `"openvino"` serve; `"torch"` (a state dict and a `torch.export` program) and
            `"saved-model"` (TensorFlow's) are for other programs.
        precision: `"float16"` halves the file; `"int8"`, for ONNX, is faster on CPU.
        texts: Held-out texts, or pairs, to measure parity on; the bundled samples' if there are none. For int8, some of
            them set the scales and the others measure.
        gold: The right answers to the texts, so that the metric is compared too: labels, or spans for a tagger.
        source: Where the texts come from, for the record.
        force: Whether an export below the least parity is kept.

    Raises:
        BelowParity: If the export misses the least parity (`parity.LEAST`) and is not forced; a `CheckpointError`.
        CheckpointError: If the folder is no valid checkpoint.
        ConfigError: If there is no such format or precision, int8 lacks texts, or the folder is the cached copy of a
            URL.
        MissingDependencyError: If the format's package, or TensorFlow's environment, is not installed.
        NotExportable: If the format has no words for the model; a `CheckpointError`.
    """
    _check_choice(format, precision)
    if not isinstance(checkpoint, Checkpoint):
        refuse_url(checkpoint, "export")
        checkpoint = Checkpoint.load(checkpoint)
    refuse_cached(checkpoint.path, "export")
    texts, gold = _shuffled(texts, gold)
    scales = _share(len(texts)) if precision == "int8" else 0
    calibration, texts, gold = texts[:scales], texts[scales:], None if gold is None else gold[scales:]
    if not texts:
        texts, source = sample_texts(checkpoint.task), "bundled samples"
    final = export_folder(checkpoint.path, format, precision)
    with staged_folder(final, overwrite=True) as staging:
        with (
            _refusing(checkpoint, format, precision),
            _WRITERS[format](checkpoint, staging, precision, calibration) as backend,
        ):
            parity = measure_parity(checkpoint, backend, texts, gold=gold, source=source)
        missed = shortfall(parity, precision)
        if missed and not force:
            raise BelowParity(
                f"{final.name}: expected {missed}, on {parity.texts} texts ({source}). The export was not kept. "
                "Use another precision, give more calibration texts, or keep it with --force."
            )
        manifest = ExportManifest(
            format=format,
            precision=precision,
            weights=checkpoint.weights_digest,
            files={path.relative_to(staging).as_posix(): sha256(path) for path in _files(staging)},
            calibration_texts=scales or None,
            parity=parity,
            forced=missed is not None,
        )
        write_text_atomically(staging / EXPORT_MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    return Export(final, manifest)


@contextmanager
def _refusing(checkpoint: Checkpoint, format: Format, precision: Precision) -> Iterator[None]:
    """Say of a model that cannot be traced, converted or run what can be done; what is said already stays."""
    try:
        yield
    except OSError:  # no room on the disk
        raise
    except Exception as error:  # of many libraries
        if isinstance(error, LCFinetuneError) and not isinstance(error, EngineError):
            raise
        raise NotExportable(
            f"{checkpoint.path}: expected a model that can be exported to {format} in {precision}, found a "
            f"{checkpoint.config.get('model_type')} that cannot ({type(error).__name__}). Serve it with "
            "backend='torch'."
        ) from error


def parity_table(manifest: ExportManifest) -> str:
    """Write the parity of an export for people, a figure a line."""
    parity = manifest.parity
    if parity is None:
        return "Parity was not measured."
    few = f"; fewer than {FEW_TEXTS} show little" if parity.texts < FEW_TEXTS else ""
    lines = [f"Parity with torch in fp32 on {parity.texts} texts ({parity.source}{few})"]
    if manifest.calibration_texts is not None:
        lines.append(f"  scales            set by {manifest.calibration_texts} other texts")
    lines.append(f"  logits            differ by {parity.max_logit_error:.2g} at most")
    lines.append(f"  label agreement   {parity.label_agreement:.2%}")
    if parity.metric is not None:
        lines.append(f"  {parity.metric.replace('_', ' '):<16}  {parity.metric_before:.4f} → {parity.metric_after:.4f}")
    lines.append(
        f"  batch of 32       same label {parity.batch_label_agreement:.2%}, scores differ by "
        f"{parity.batch_score_difference:.2g} at most ({parity.batch_texts} texts)"
    )
    if manifest.forced:
        lines.append("  Below the least parity: kept because forced.")
    return "\n".join(lines)


def _check_choice(format: str, precision: str) -> None:
    if format not in get_args(Format):
        raise ConfigError(f"Expected format 'onnx', 'openvino', 'torch' or 'saved-model', found {format!r}.")
    if precision not in get_args(Precision):
        raise ConfigError(f"Expected precision 'float32', 'float16' or 'int8', found {precision!r}.")
    if format == "saved-model" and precision != "float32":
        found = SHORT[cast(Precision, precision)]
        raise ConfigError(f"Expected precision fp32 for format 'saved-model', found {found}.")
    if precision == "int8" and format != "onnx":
        raise ConfigError(
            f"Expected precision fp32 or fp16 for format {format!r}, found int8. int8 is for format 'onnx', where it "
            "is faster and a text's answer does not depend on its neighbours."
        )


def _share(texts: int) -> int:
    """Say how many of the texts set the scales."""
    if texts < 2:
        raise ConfigError(
            f"Expected texts that set the scales of int8 and others that measure it, found {texts}. "
            "Give some hundred typical texts with --calibration-file."
        )
    return min(CALIBRATION_TEXTS, texts // 2)


def _shuffled(texts: Sequence[Input], gold: Gold | None) -> tuple[list[Input], Gold | None]:
    """Mix the rows, since files are often sorted by label."""
    if gold is not None and len(gold) != len(texts):
        raise ConfigError(f"Expected a right answer for each of {len(texts)} texts, found {len(gold)}.")
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[i] for i in order], None if gold is None else cast(Gold, [gold[i] for i in order])


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# One writer for each format: files into the staging folder, the model open for as long as it is measured.


@contextmanager
def _write_onnx(
    checkpoint: Checkpoint, staging: Path, precision: Precision, calibration: Sequence[Input]
) -> Iterator[Backend]:
    file = staging / "model.onnx"
    if precision == "float32":
        _trace_onnx(checkpoint, file)
    else:
        with _fp32_onnx(checkpoint) as source:
            if precision == "int8":
                quantize_onnx(checkpoint, source, file, calibration)
            else:
                _halve_onnx(source, file)
    yield open_backend("onnx", file, device="cpu", precision=precision)


@contextmanager
def _write_openvino(
    checkpoint: Checkpoint, staging: Path, precision: Precision, _: Sequence[Input]
) -> Iterator[Backend]:
    from lc_finetune.inference.backends.openvino import import_openvino

    openvino = import_openvino()
    file = staging / "model.xml"
    with _fp32_onnx(checkpoint) as source:
        model = openvino.Core().read_model(os.fspath(source))
        openvino.save_model(model, os.fspath(file), compress_to_fp16=precision == "float16")
    yield open_backend("openvino", file, device="cpu", precision=precision)


@contextmanager
def _write_torch(checkpoint: Checkpoint, staging: Path, precision: Precision, _: Sequence[Input]) -> Iterator[Backend]:
    import torch

    model = load_model(checkpoint, getattr(torch, precision))
    graph, inputs, shapes = _traceable(checkpoint, model)
    torch.save(model.state_dict(), staging / "model.pth")
    program = torch.export.export(graph, tuple(inputs.values()), dynamic_shapes=shapes)
    torch.export.save(program, staging / "model.pt2")
    yield _Program(torch.export.load(staging / "model.pt2").module(), precision)


@contextmanager
def _write_saved_model(checkpoint: Checkpoint, staging: Path, _: Precision, __: Sequence[Input]) -> Iterator[Backend]:
    family = checkpoint.config.get("model_type")
    if family not in CONVERTIBLE:
        raise CheckpointError(
            f"{checkpoint.path}: expected a model that converts to a SavedModel ({', '.join(CONVERTIBLE)}), found "
            f"{family!r}. Use another format."
        )
    python = environment_python()
    with TemporaryDirectory(prefix="lc_finetune-") as folder:
        source = Path(folder) / "model.onnx"
        _trace_onnx(checkpoint, source, plain=True)
        convert(python, source, staging)
    with SavedModel(python, staging) as backend:
        try:
            yield backend
        except EngineError as error:
            raise error.__cause__ or error from None  # what TensorFlow said


_WRITERS: dict[Format, Callable[[Checkpoint, Path, Precision, Sequence[Input]], AbstractContextManager[Backend]]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "torch": _write_torch,
    "saved-model": _write_saved_model,
}


class _Program:
    """A `torch.export` program, as long as its parity is measured."""

    name = "torch"

    def __init__(self, module: Any, precision: Precision) -> None:
        self._module = module
        self.precision: str = precision

    def forward(self, batch: Batch) -> Outputs:
        import torch

        with torch.inference_mode():
            found = self._module(*map(torch.from_numpy, batch.feed.values()))
        return Outputs(*(one.float().numpy() for one in found))


def _traceable(checkpoint: Checkpoint, model: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Wrap a model so that it takes plain tensors and gives `OUTPUTS` as a tuple; also inputs, and what may vary."""
    import torch

    headed = Headed(model)

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return headed(input_ids, attention_mask)

    class TypedGraph(Graph):
        def forward(  # type: ignore[override]
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
        ) -> Any:
            return headed(input_ids, attention_mask, token_type_ids=token_type_ids)

    positions = checkpoint.positions or 8192
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("pieces", max=positions)}
    ids = torch.ones(2, 8, dtype=torch.int64)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if checkpoint.task in PAIRS and Encoder(checkpoint.path, offsets=False).token_types:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    graph = TypedGraph() if "token_type_ids" in inputs else Graph()
    return graph.eval(), inputs, dict.fromkeys(inputs, sizes)


def _make_plain(model: Any) -> None:
    """Have attention computed by matrix products and its mask as one sum, in operators that every converter knows."""
    import torch

    def add_mask(module: Any, inputs: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        rows, pieces = named["attention_mask"].shape
        padding = 1.0 - named["attention_mask"].reshape(rows, 1, 1, pieces).float()
        return inputs, named | {"attention_mask": padding * torch.finfo(torch.float32).min}

    model.set_attn_implementation("eager")
    model.base_model.register_forward_pre_hook(add_mask, with_kwargs=True)


def _trace_onnx(checkpoint: Checkpoint, file: Path, *, plain: bool = False) -> None:
    """Write the fp32 model: `input_ids`, `attention_mask` → `logits`, `features`; batch and length dynamic.

    A model that tells the texts of a pair apart by them takes `token_type_ids` as well; one with two heads gives
    `tag_logits` as well.
    """
    import torch

    model = load_model(checkpoint)
    if plain:
        _make_plain(model)
    graph, inputs, shapes = _traceable(checkpoint, model)
    with warnings.catch_warnings(), _quiet_exporter():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            tuple(inputs.values()),
            file,
            input_names=[*inputs],
            output_names=[*OUTPUTS] if checkpoint.task == JOINT else [*OUTPUTS[:2]],
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextmanager
def _fp32_onnx(checkpoint: Checkpoint) -> Iterator[Path]:
    """Take the fp32 model that the folder holds, or make one that is thrown away afterwards."""
    if is_exported(checkpoint, "onnx", "float32"):
        yield verified_file(checkpoint, "onnx", "float32")
        return
    with TemporaryDirectory(prefix="lc_finetune-") as folder:
        _trace_onnx(checkpoint, Path(folder) / "model.onnx")
        yield Path(folder) / "model.onnx"


def _halve_onnx(source: Path, target: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each weight too small for a half is named otherwise
        model = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    onnx.save(model, target)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hold back the exporter's notes about torchvision operators, which no text model has."""
    exporter = logging.getLogger("torch.onnx._internal.exporter")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        yield
    finally:
        exporter.setLevel(level)
