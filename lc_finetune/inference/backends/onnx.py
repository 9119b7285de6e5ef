"""ONNX Runtime on CPU or CUDA."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

from lc_finetune.errors import CheckpointError, ConfigError
from lc_finetune.inference.backends import Batch, OutOfMemory, Outputs, available_cores, says_out_of_memory
from lc_finetune.inference.exported import Precision


class OnnxBackend:
    """An exported model in inference sessions.

    On CPU the rows of a batch are shared out over the cores, one thread and one part of the batch each: threads within
    an operator wait for each other at its end, and a part has less padding than the whole. A single row, and rows that
    cannot be shared out evenly, take all cores together, in a session of their own.
    """

    name = "onnx"

    def __init__(self, file: Path, *, device: str, precision: Precision) -> None:
        """Open the session of single rows; the other is opened by the first batch that needs it.

        Raises:
            CheckpointError: If ONNX Runtime cannot open the file.
            ConfigError: If the device is not one it serves.
        """
        self.precision: str = precision
        self._file, self._device = file, device
        self._cores = available_cores() if device == "cpu" else 1
        self._together = self._open(threads=available_cores())
        self._apart: tuple[Any, ThreadPoolExecutor] | None = None

    def _open(self, *, threads: int) -> Any:
        import onnxruntime

        providers = _providers(self._device)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that go on spinning after a run would take the cores from the next model and from the caller.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(os.fspath(self._file), options, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            raise CheckpointError(
                f"{self._file}: ONNX Runtime cannot open it ({type(error).__name__}). Export the checkpoint again."
            ) from error

    def forward(self, batch: Batch) -> Outputs:
        """Run the model once; see `Backend`."""
        parts = share_out(batch.attention_mask.sum(axis=1).tolist(), self._cores)
        if len(parts) < 2:
            return _run(self._together, batch)
        if self._apart is None:
            self._apart = self._open(threads=1), ThreadPoolExecutor(self._cores - 1, "lc_finetune-onnx")
        session, pool = self._apart
        cut = [_rows(batch, start, end) for start, end in parts]
        others = [pool.submit(_run, session, part) for part in cut[1:]]
        try:
            first = _run(session, cut[0])
        finally:
            wait(others)
        return _joined([first, *(other.result() for other in others)], batch.input_ids.shape[1])


def share_out(lengths: Sequence[int], parts: int) -> list[tuple[int, int]]:
    """Cut rows into ranges that run at the same time, one thread each, so that the slowest is as fast as can be.

    Args:
        lengths: Pieces of each row, longest first.
        parts: The most ranges.

    Returns:
        The ranges; a single one if each of `parts` threads would have less to do by working at every row.

    Example:
        >>> share_out([40, 20, 16, 12, 10, 8], 2)
        [(0, 2), (2, 6)]
    """
    longest = max(lengths, default=0)
    most = len(lengths) * longest // parts  # padded pieces of each thread, if all work at every row
    sizes = range(longest, most + 1)
    least = bisect_left(sizes, True, key=lambda size: _filled(lengths, size, parts) is not None)
    ranges = _filled(lengths, sizes[least], parts) if parts > 1 and least < len(sizes) else None
    return ranges or [(0, len(lengths))]


def _filled(lengths: Sequence[int], size: int, parts: int) -> list[tuple[int, int]] | None:
    """Fill ranges with rows, each padded to its first and `size` pieces at most; None if `parts` are too few."""
    ranges: list[tuple[int, int]] = []
    start = 0
    while start < len(lengths) and len(ranges) < parts:
        end = min(len(lengths), start + size // lengths[start])
        ranges.append((start, end))
        start = end
    return ranges if start == len(lengths) else None


def _rows(batch: Batch, start: int, end: int) -> Batch:
    longest = int(batch.attention_mask[start:end].sum(axis=1).max())
    return Batch(**{name: np.ascontiguousarray(array[start:end, :longest]) for name, array in batch.feed.items()})


def _run(session: Any, batch: Batch) -> Outputs:
    try:
        return Outputs(*session.run(["logits", "features"], batch.feed))
    except Exception as error:
        if says_out_of_memory(error):
            raise OutOfMemory from error
        raise


def _joined(parts: Sequence[Outputs], pieces: int) -> Outputs:
    """Put parts together; a tagger's logits have a place for each piece of the whole batch."""
    logits = [part.logits for part in parts]
    if logits[0].ndim == 3:
        logits = [np.pad(one, ((0, 0), (0, pieces - one.shape[1]), (0, 0))) for one in logits]
    return Outputs(np.concatenate(logits), np.concatenate([part.features for part in parts]))


def _providers(device: str) -> list[Any]:
    import onnxruntime

    if device == "cpu":
        return ["CPUExecutionProvider"]
    if device.startswith("cuda") and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return [("CUDAExecutionProvider", {"device_id": int(device.partition(":")[2] or 0)}), "CPUExecutionProvider"]
    raise ConfigError(
        f"Expected device 'cpu' for backend 'onnx', found {device!r}. "
        "For CUDA install onnxruntime-gpu, or use backend='torch'."
    )
