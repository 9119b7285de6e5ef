"""The one seam between the engine and a runtime: `forward(batch) -> Outputs`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from lc_finetune.checkpoint import Checkpoint
from lc_finetune.errors import ConfigError
from lc_finetune.inference.exported import ExportedName, Precision, export_digest, is_exported, verified_file

BackendName = Literal["auto", "torch", "onnx", "openvino"]
RuntimeName = Literal["torch", "onnx", "openvino"]
Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded windows.

    Attributes:
        input_ids: Shape `(rows, pieces)`, int64.
        attention_mask: Shape `(rows, pieces)`, int64; 0 marks padding.
        token_type_ids: Shape `(rows, pieces)`, int64: which text of a pair each piece belongs to. None unless the model
            tells the texts of a pair apart by it.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64] | None = None

    @property
    def feed(self) -> dict[str, NDArray[np.int64]]:
        """The arrays by the names of a model's inputs."""
        feed = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        return feed if self.token_type_ids is None else {**feed, "token_type_ids": self.token_type_ids}


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a forward gives.

    Attributes:
        logits: `(rows, labels)` for a classifier, `(rows, pieces, tags)` for a tagger, `(rows, pieces, 2)` of start and
            end for a question answerer; float32.
        features: `(rows, hidden)`, the mean over the pieces of the encoder's last state; float32.
    """

    logits: NDArray[np.float32]
    features: NDArray[np.float32]


class OutOfMemory(Exception):
    """The device had no room for a batch; the engine halves its budget and goes on."""


def says_out_of_memory(error: Exception) -> bool:
    """Tell a lack of memory from other failures: runtimes have no exception of its own for all its causes."""
    return any(phrase in str(error) for phrase in _OUT_OF_MEMORY)


_OUT_OF_MEMORY = (
    "out of memory",  # CUDA and MPS, in torch and in ONNX Runtime
    "not enough memory",  # torch on the CPU
    "ALLOC_FAILED",  # cuBLAS, for its workspace
    "Failed to allocate memory",  # ONNX Runtime
)


class Backend(Protocol):
    """A model on a device."""

    name: str
    precision: str

    def forward(self, batch: Batch) -> Outputs:
        """Run the model once."""


def resolve_device(device: str) -> str:
    """Turn `auto` into CUDA, then MPS, then CPU, and check any other name.

    Returns:
        `"cpu"`, `"mps"`, or `"cuda:N"`: one name for each device, as each has one worker.

    Raises:
        ConfigError: If the device is not on this machine.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        kind = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"Expected device 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', found {device!r}.") from None
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (kind.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(kind.type, False):
        raise ConfigError(f"Expected a device of this machine, found {device!r}. Use device='auto'.")
    if kind.type != "cuda":
        return kind.type
    return f"cuda:{torch.cuda.current_device() if kind.index is None else kind.index}"


def resolve_backend(checkpoint: Checkpoint, backend: BackendName, device: str, dtype: Dtype) -> RuntimeName:
    """Choose the fastest backend that the folder holds for the device and precision.

    On CPU in fp32 that is ONNX Runtime, then OpenVINO where it is installed, then torch. int8 is ONNX Runtime's. All
    else is torch's.
    """
    if backend not in get_args(BackendName):
        raise ConfigError(f"Expected backend {_either(get_args(BackendName))}, found {backend!r}.")
    if backend != "auto":
        return backend
    if dtype == "int8":
        return "onnx"
    if device == "cpu" and dtype in ("auto", "float32"):
        if is_exported(checkpoint, "onnx", "float32"):
            return "onnx"
        if is_exported(checkpoint, "openvino", "float32") and find_spec("openvino"):
            return "openvino"
    return "torch"


def export_identity(checkpoint: Checkpoint, name: RuntimeName, dtype: Dtype) -> str:
    """Tell one export from the next one under the same name: the digest of its manifest, empty for torch.

    Raises:
        CheckpointError: If the folder holds no such export.
        ConfigError: If the backend has no such dtype.
    """
    return "" if name == "torch" else export_digest(checkpoint, name, _export_precision(name, dtype))


def load_backend(checkpoint: Checkpoint, *, name: RuntimeName, device: str, dtype: Dtype) -> Backend:
    """Load the weights.

    Raises:
        CheckpointError: If the export is missing, altered, or does not belong to the checkpoint.
        ConfigError: If the backend has no such dtype, or does not run on the device.
        MissingDependencyError: If the backend's package is not installed.
    """
    if name == "torch":
        from lc_finetune.inference.backends.torch import TorchBackend

        return TorchBackend(checkpoint, device=device, dtype=dtype)
    precision = _export_precision(name, dtype)
    return open_backend(name, verified_file(checkpoint, name, precision), device=device, precision=precision)


def open_backend(name: ExportedName, file: Path, *, device: str, precision: Precision) -> Backend:
    """Open an exported model, whose file the caller has checked."""
    if name == "onnx":
        from lc_finetune.inference.backends.onnx import OnnxBackend

        return OnnxBackend(file, device=device, precision=precision)
    from lc_finetune.inference.backends.openvino import OpenVinoBackend

    return OpenVinoBackend(file, device=device, precision=precision)


def available_cores() -> int:
    """Count the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _export_precision(name: ExportedName, dtype: Dtype) -> Precision:
    if dtype == "auto":
        return "float32"
    if dtype == "bfloat16" or dtype not in get_args(Dtype) or (name == "openvino" and dtype == "int8"):
        raise ConfigError(
            f"Expected dtype 'auto', 'float32', 'float16' or, for backend 'onnx', 'int8', found {dtype!r} for backend "
            f"{name!r}."
        )
    return dtype


def _either(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:-1])) + f" or {names[-1]!r}"
