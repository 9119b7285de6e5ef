"""Exports on disk: subfolders of the checkpoint, each tied by its manifest to the weights it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lc_finetune.checkpoint import Checkpoint, sha256
from lc_finetune.errors import CheckpointError

EXPORT_MANIFEST = "export.json"

Format = Literal["onnx", "openvino", "torch", "saved-model"]
ExportedName = Literal["onnx", "openvino"]
"""Formats that a backend reads; the others are for other programs."""
Precision = Literal["float32", "float16", "int8"]

OUTPUTS = ("logits", "features", "tag_logits")
"""What an exported model gives, in this order; the last only where there is a second head."""
SHORT: dict[Precision, str] = {"float32": "fp32", "float16": "fp16", "int8": "int8"}
"""Precisions as the command line and the folders call them."""
SERVED: tuple[tuple[ExportedName, Precision], ...] = (
    ("onnx", "float32"),
    ("onnx", "float16"),
    ("onnx", "int8"),
    ("openvino", "float32"),
    ("openvino", "float16"),
)
"""Exports that a backend reads."""
_READ: dict[ExportedName, tuple[str, ...]] = {"onnx": ("model.onnx",), "openvino": ("model.xml", "model.bin")}


class Parity(BaseModel):
    """How an export compares with the checkpoint in torch, fp32, on the same texts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    texts: int = Field(ge=1, description="Texts compared; texts longer than a window are read in windows, as served.")
    source: str = Field(description="Where the texts come from.")
    max_logit_error: float = Field(description="Largest difference of a logit.")
    label_agreement: float = Field(
        description="Share of the same label; of the same tag at each piece, for a tagger; of the labels given by "
        "either, the share given by both, for a multi-label classifier; of the same answer, for a question answerer. "
        "Of two heads, that of the one that agrees less."
    )
    metric: Literal["accuracy", "micro_f1", "r2", "entity_f1", "exact_match"] | None = Field(
        default=None, description="None without gold answers."
    )
    metric_before: float | None = Field(default=None, description="Of torch, fp32.")
    metric_after: float | None = Field(default=None, description="Of the export.")
    batch_texts: int = Field(description="Texts answered both alone and in a batch of 32 of mixed lengths.")
    batch_label_agreement: float = Field(description="Share of the same label (tag) alone and in the batch.")
    batch_score_difference: float = Field(description="Largest difference of a probability alone and in the batch.")


class ExportManifest(BaseModel):
    """The content of `export.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Format
    precision: Precision
    weights: str = Field(description="Digest of the weights it was made from; see `Checkpoint.weights_digest`.")
    files: dict[str, str] = Field(description="SHA-256 of each file, by its path in the folder.")
    calibration_texts: int | None = Field(default=None, description="Texts that set the scales of an int8 export.")
    parity: Parity | None = Field(default=None, description="None for exports made before it was measured.")
    forced: bool = Field(default=False, description="Whether it was kept although it is below the least parity.")


def export_folder(folder: Path, format: Format, precision: Precision) -> Path:
    """Say where an export lies: `onnx/`, `onnx-int8/`, `openvino-fp16/` and so on."""
    return folder / (format if precision == "float32" else f"{format}-{SHORT[precision]}")


def export_command(folder: Path, format: Format, precision: Precision) -> str:
    """Write the command that makes an export."""
    chosen = "" if precision == "float32" else f" --precision {SHORT[precision]}"
    texts = " --calibration-file FILE" if precision == "int8" else ""
    return f"lc-finetune export {folder} --format {format}{chosen}{texts}"


def is_exported(checkpoint: Checkpoint, format: Format, precision: Precision) -> bool:
    """Say whether the folder holds an export; whether it is whole is checked when it is loaded."""
    return (export_folder(checkpoint.path, format, precision) / EXPORT_MANIFEST).is_file()


def export_digest(checkpoint: Checkpoint, format: ExportedName, precision: Precision) -> str:
    """Identify the content of an export by its manifest.

    Raises:
        CheckpointError: If there is no such export.
    """
    folder = export_folder(checkpoint.path, format, precision)
    if not is_exported(checkpoint, format, precision):
        raise CheckpointError(
            f"{checkpoint.path}: expected the export {folder.name}, found none. "
            f"Make it: {export_command(checkpoint.path, format, precision)}"
        )
    return sha256(folder / EXPORT_MANIFEST)


def is_forced(checkpoint: Checkpoint, format: ExportedName, precision: Precision) -> bool:
    """Say whether an export was kept although its answers differ too much."""
    manifest = export_folder(checkpoint.path, format, precision) / EXPORT_MANIFEST
    return ExportManifest.model_validate_json(manifest.read_bytes()).forced


def verified_file(checkpoint: Checkpoint, format: ExportedName, precision: Precision) -> Path:
    """Check an export against its manifest and the checkpoint's weights; return the file to open.

    Raises:
        CheckpointError: If the export is missing, a file of it is missing or altered, or it was made from other
            weights.
    """
    export_digest(checkpoint, format, precision)
    folder = export_folder(checkpoint.path, format, precision)
    remedy = f"Export it again: {export_command(checkpoint.path, format, precision)}"
    try:
        manifest = ExportManifest.model_validate_json((folder / EXPORT_MANIFEST).read_bytes())
    except (OSError, ValidationError):
        raise CheckpointError(
            f"{folder / EXPORT_MANIFEST}: expected the manifest of an export, found none. {remedy}"
        ) from None
    if (manifest.format, manifest.precision) != (format, precision):
        raise CheckpointError(
            f"{folder}: expected an export for {format} in {precision}, found one for {manifest.format} in "
            f"{manifest.precision}. {remedy}"
        )
    for name in _READ[format]:
        if not (folder / name).is_file() or sha256(folder / name) != manifest.files.get(name):
            raise CheckpointError(
                f"{folder}: expected the {name} named in {EXPORT_MANIFEST}, found none or another. {remedy}"
            )
    if manifest.weights != checkpoint.weights_digest:
        raise CheckpointError(
            f"{folder}: expected an export of the checkpoint's weights, found one of other weights. {remedy}"
        )
    return folder / _READ[format][0]
