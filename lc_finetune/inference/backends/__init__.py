"""The one seam between the engine and a runtime: `forward(batch) -> Outputs`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lc_finetune.checkpoint import Checkpoint
from lc_finetune.errors import ConfigError

BackendName = Literal["auto", "torch", "onnx"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded windows.

    Attributes:
        input_ids: Shape `(rows, pieces)`, int64.
        attention_mask: Shape `(rows, pieces)`, int64; 0 marks padding.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a forward gives.

    Attributes:
        logits: `(rows, labels)` for a classifier, `(rows, pieces, tags)` for a tagger; float32.
        features: `(rows, hidden)`, the encoder's last state at the first piece; float32.
    """

    logits: NDArray[np.float32]
    features: NDArray[np.float32]


class OutOfMemory(Exception):
    """The device had no room for a batch; the engine halves its budget and goes on."""


class Backend(Protocol):
    """A model on a device."""

    name: str
    precision: str

    def forward(self, batch: Batch) -> Outputs:
        """Run the model once."""


def resolve_device(device: str) -> str:
    """Turn `auto` into CUDA, then MPS, then CPU, and check any other name.

    Raises:
        ConfigError: If the device is not on this machine.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
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
    return device


def onnx_file(folder: Path) -> Path:
    """Say where an export of fp32 weights lies."""
    return folder / "onnx" / "model.onnx"


def resolve_backend(checkpoint: Checkpoint, backend: BackendName, device: str) -> Literal["torch", "onnx"]:
    """Choose the fastest backend that the folder holds for the device: ONNX Runtime on CPU, torch elsewhere."""
    if backend == "auto":
        return "onnx" if device == "cpu" and onnx_file(checkpoint.path).is_file() else "torch"
    if backend not in ("torch", "onnx"):
        raise ConfigError(f"Expected backend 'auto', 'torch' or 'onnx', found {backend!r}.")
    return backend


def load_backend(checkpoint: Checkpoint, *, name: Literal["torch", "onnx"], device: str, dtype: Dtype) -> Backend:
    """Load the weights.

    Raises:
        CheckpointError: If the export is missing or does not belong to the checkpoint.
        ConfigError: If the dtype is not one the backend has.
    """
    if name == "onnx":
        from lc_finetune.inference.backends.onnx import OnnxBackend

        return OnnxBackend(checkpoint, device=device, dtype=dtype)
    from lc_finetune.inference.backends.torch import TorchBackend

    return TorchBackend(checkpoint, device=device, dtype=dtype)
