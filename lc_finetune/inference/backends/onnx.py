"""ONNX Runtime on CPU or CUDA."""

from __future__ import annotations

import os
from typing import Any

from lc_finetune.checkpoint import Checkpoint
from lc_finetune.errors import CheckpointError, ConfigError
from lc_finetune.inference.backends import Batch, Dtype, OutOfMemory, Outputs, onnx_file
from lc_finetune.inference.export import check_export


def available_cores() -> int:
    """Count the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class OnnxBackend:
    """An exported model in an inference session."""

    name = "onnx"
    precision = "float32"

    def __init__(self, checkpoint: Checkpoint, *, device: str, dtype: Dtype) -> None:
        """Open the session after its file has been checked against the checkpoint.

        Raises:
            CheckpointError: If the export is missing, altered, or of another model.
            ConfigError: If the device or dtype is not one this export serves.
        """
        import onnxruntime

        if dtype not in ("auto", "float32"):
            raise ConfigError(f"Expected dtype 'auto' or 'float32' for backend 'onnx', found {dtype!r}.")
        check_export(checkpoint.path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = available_cores()
        options.inter_op_num_threads = 1
        # Threads that go on spinning after a run would take the cores from the next model and from the caller.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(
                os.fspath(onnx_file(checkpoint.path)), options, providers=_providers(device)
            )
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            raise CheckpointError(
                f"{onnx_file(checkpoint.path)}: ONNX Runtime cannot open it ({type(error).__name__})."
            ) from error

    def forward(self, batch: Batch) -> Outputs:
        """Run the model once; see `Backend`."""
        feed = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        try:
            logits, features = self._session.run(["logits", "features"], feed)
        except Exception as error:
            if "Failed to allocate memory" in str(error):
                raise OutOfMemory from error
            raise
        return Outputs(logits, features)


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
