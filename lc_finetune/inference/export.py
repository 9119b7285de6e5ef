"""Exports: a subfolder of the checkpoint, with a manifest that ties it to the weights it was made from."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lc_finetune.checkpoint import WEIGHTS, Checkpoint, sha256
from lc_finetune.errors import CheckpointError

EXPORT_MANIFEST = "export.json"


def export_onnx(folder: Path) -> Path:
    """Write `onnx/model.onnx` (fp32, batch and length dynamic) beside the weights.

    The inputs are `input_ids` and `attention_mask`, the outputs `logits` and `features`. The subfolder arrives by one
    rename.

    Raises:
        CheckpointError: If the folder is no valid checkpoint.
    """
    import torch

    from lc_finetune.inference.backends.torch import Headed, load_model

    checkpoint = Checkpoint.load(folder)
    headed = Headed(load_model(folder, checkpoint.task))

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = headed._model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return headed(input_ids, attention_mask)

    ids = torch.ones(2, 8, dtype=torch.int64)
    batch, pieces = torch.export.Dim("batch"), torch.export.Dim("pieces", max=_max_positions(checkpoint))
    staging = Path(tempfile.mkdtemp(dir=folder, prefix=".onnx.writing-"))
    try:
        with warnings.catch_warnings(), _quiet_exporter():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                Graph().eval(),
                (ids, torch.ones_like(ids)),
                staging / "model.onnx",
                input_names=["input_ids", "attention_mask"],
                output_names=["logits", "features"],
                dynamic_shapes={"input_ids": {0: batch, 1: pieces}, "attention_mask": {0: batch, 1: pieces}},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        manifest = {
            "format": "onnx",
            "precision": "float32",
            "weights": sha256(folder / WEIGHTS),
            "files": {"model.onnx": sha256(staging / "model.onnx")},
        }
        (staging / EXPORT_MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        staging.chmod(0o755)
        final = folder / "onnx"
        shutil.rmtree(final, ignore_errors=True)
        staging.rename(final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return final / "model.onnx"


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


def check_export(folder: Path) -> None:
    """Check the export against its manifest and the checkpoint's weights.

    Raises:
        CheckpointError: If a file is missing or altered, or the export was made from other weights.
    """
    export = folder / "onnx"
    remedy = f"Export it again: lc_finetune.inference.export.export_onnx({str(folder)!r})."
    try:
        manifest = json.loads((export / EXPORT_MANIFEST).read_text(encoding="utf-8"))
        recorded, weights = manifest["files"]["model.onnx"], manifest["weights"]
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{export}: expected model.onnx with {EXPORT_MANIFEST}, found neither or broken. " + remedy
        ) from None
    if not (export / "model.onnx").is_file() or sha256(export / "model.onnx") != recorded:
        raise CheckpointError(f"{export}: expected the model.onnx named in {EXPORT_MANIFEST}, found another. {remedy}")
    if sha256(folder / WEIGHTS) != weights:
        raise CheckpointError(f"{export}: expected an export of {WEIGHTS}, found one of other weights. {remedy}")


def _max_positions(checkpoint: Checkpoint) -> int:
    return int(checkpoint.config.get("max_position_embeddings") or 8192)
