"""OpenVINO on CPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lc_finetune.errors import CheckpointError, ConfigError, MissingDependencyError
from lc_finetune.inference.backends import Batch, Outputs, available_cores
from lc_finetune.inference.exported import Precision


class OpenVinoBackend:
    """An exported model, compiled for the CPU.

    Products are computed in fp32 whatever the CPU offers: OpenVINO's own default is bf16 where there is hardware for
    it, which would change the answers from one machine to the next. A float16 export stores its weights in halves.
    """

    name = "openvino"

    def __init__(self, file: Path, *, device: str, precision: Precision) -> None:
        """Read and compile the model.

        Raises:
            CheckpointError: If OpenVINO cannot read the file.
            ConfigError: If the device is not the CPU.
            MissingDependencyError: If openvino is not installed.
        """
        if device != "cpu":
            raise ConfigError(f"Expected device 'cpu' for backend 'openvino', found {device!r}.")
        openvino = import_openvino()
        self.precision: str = precision
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(available_cores()),
            "ENABLE_CPU_PINNING": "NO",  # two processes would pin their threads to the same cores
        }
        try:
            compiled = openvino.Core().compile_model(os.fspath(file), "CPU", options)
        except RuntimeError as error:
            raise CheckpointError(f"{file}: OpenVINO cannot open it. Export the checkpoint again.") from error
        self._request: Any = compiled.create_infer_request()

    def forward(self, batch: Batch) -> Outputs:
        """Run the model once; see `Backend`."""
        found = self._request.infer(batch.feed)
        return Outputs(found["logits"], found["features"])


def import_openvino() -> Any:
    """Import the package, without the report that it would send to its makers when imported.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        with _without_telemetry():
            import openvino
    except ImportError as error:
        raise MissingDependencyError(
            "Expected the package openvino for this backend, found none. "
            "Install it: pip install 'lc-finetune[openvino]'."
        ) from error
    return openvino


@contextmanager
def _without_telemetry() -> Iterator[None]:
    # openvino falls back to a stub where openvino_telemetry cannot be imported; None says that it cannot.
    hidden = "openvino_telemetry" not in sys.modules
    if hidden:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["openvino_telemetry"]
