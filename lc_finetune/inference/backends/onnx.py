"""ONNX Runtime on CPU or CUDA."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lc_finetune.errors import CheckpointError, ConfigError
from lc_finetune.inference.backends import Batch, OutOfMemory, Outputs, available_cores, says_out_of_memory
from lc_finetune.inference.exported import Precision


class OnnxBackend:
    """An exported model in an inference session."""

    name = "onnx"

    def __init__(self, file: Path, *, device: str, precision: Precision) -> None:
        """Open the session.

        Raises:
            CheckpointError: If ONNX Runtime cannot open the file.
            ConfigError: If the device is not one it serves.
        """
        import onnxruntime

        self.precision: str = precision
        providers = _providers(device)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = available_cores()
        options.inter_op_num_threads = 1
        # Threads that go on spinning after a run would take the cores from the next model and from the caller.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(os.fspath(file), options, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            raise CheckpointError(
                f"{file}: ONNX Runtime cannot open it ({type(error).__name__}). Export the checkpoint again."
            ) from error

    def forward(self, batch: Batch) -> Outputs:
        """Run the model once; see `Backend`."""
        feed = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        try:
            logits, features = self._session.run(["logits", "features"], feed)
        except Exception as error:
            if says_out_of_memory(error):
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
