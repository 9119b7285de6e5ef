"""A checkpoint folder → what it is: task, labels, origin, figures, confidence, exports, reference."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lc_finetune.checkpoint import EXPORTS, RUNNABLES, Checkpoint, Manifest, Task
from lc_finetune.confidence import calibration_table
from lc_finetune.errors import CheckpointError, shown
from lc_finetune.inference.export import parity_table
from lc_finetune.inference.exported import EXPORT_MANIFEST, ExportManifest
from lc_finetune.inspection.measures import read_reference


class Export(BaseModel):
    """An export of a folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str
    manifest: ExportManifest
    current: bool = Field(description="Whether it was made from the weights that the folder holds.")


class Description(BaseModel):
    """What a checkpoint is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    task: Task
    served_by: str = Field(description="The public class that loads it.")
    labels: tuple[str, ...]
    architecture: str | None
    manifest: Manifest | None = Field(description="What `lc_finetune.json` records; None of a plain folder.")
    exports: tuple[Export, ...]
    reference: str | None = Field(description="Where the texts come from that others are compared with.")
    reference_texts: int = Field(ge=0, description="Their number.")


def describe(checkpoint: Checkpoint) -> Description:
    """Read what a folder says of itself; no weight is loaded.

    Raises:
        CheckpointError: If an export's manifest or the reference cannot be read.
    """
    reference = read_reference(checkpoint)
    architectures: Any = checkpoint.config.get("architectures") or [None]
    return Description(
        path=str(checkpoint.path), task=checkpoint.task, served_by=RUNNABLES[checkpoint.task],
        labels=checkpoint.labels.names, architecture=architectures[0], manifest=checkpoint.manifest,
        exports=tuple(_export(checkpoint, name) for name in EXPORTS
                      if (checkpoint.path / name / EXPORT_MANIFEST).is_file()),
        reference=reference.source if reference else None, reference_texts=len(reference) if reference else 0,
    )  # fmt: skip


def _export(checkpoint: Checkpoint, name: str) -> Export:
    path = checkpoint.path / name / EXPORT_MANIFEST
    try:
        manifest = ExportManifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(
            f"{path}: expected the manifest of an export, found none ({type(error).__name__}). Export it again, or "
            "remove its folder."
        ) from None
    return Export(folder=name, manifest=manifest, current=manifest.weights == checkpoint.weights_digest)


def description_table(description: Description) -> str:
    """Write a description for people."""
    about = description.manifest
    lines = [
        f"{description.path}",
        f"  task         {description.task}, load it with {description.served_by}",
        f"  labels       {len(description.labels)}: {shown(description.labels)}",
        f"  model        {description.architecture or 'unknown'}{_origin(about)}",
    ]
    if about is None:
        lines.append("  manifest     none: a plain Hugging Face folder, uncalibrated")
    else:
        unit = f", tags carried by {about.tag_unit}" if about.tag_unit else ""
        lines.append(f"  windows      of {about.max_length} pieces, {about.stride} shared{unit}")
        lines += [f"  adapter      {about.adapter}"] if about.adapter else []
        lines += [f"  continued    with {len(about.continued.new_labels)} new labels"] if about.continued else []
        lines += [f"  search       {about.search}"] if about.search else []
        lines += [f"  data         {about.data_fingerprint[:16]}…"] if about.data_fingerprint else []
        lines.append("  made with    " + ", ".join(f"{name} {version}" for name, version in about.versions.items()))
    lines.append(f"  reference    {_reference(description)}")
    sections = ["\n".join(lines), *_figures(description)]
    sections += [calibration_table(one, diagram=False) for one in about.calibration] if about else []
    for export in description.exports:
        stale = "" if export.current else " (of other weights: it is not served; export it again)"
        sections.append(f"Export {export.folder}{stale}\n{parity_table(export.manifest)}")
    return "\n\n".join(sections)


def _origin(manifest: Manifest | None) -> str:
    if manifest is None or manifest.base_model is None:
        return ""
    revision = f" at {manifest.base_revision[:12]}" if manifest.base_revision else ""
    before = "".join(f", after {one.task} ({shown([one.name])})" for one in manifest.lineage)
    return f", from {manifest.base_model}{revision}{before}"


def _reference(description: Description) -> str:
    if description.reference is None:
        return "none: --against needs one, or --reference FILE"
    return f"{description.reference_texts:,} {description.reference}"


def _figures(description: Description) -> list[str]:
    """Write the figures of each split, those of single labels left out."""
    from lc_finetune.train.report import report_table
    from lc_finetune.train.tasks import TASKS

    metrics = description.manifest.metrics if description.manifest else {}
    if not metrics:
        return []
    try:
        brief = {split: {k: v for k, v in of.items() if k != "per_label"} for split, of in metrics.items()}
        return [report_table(TASKS[description.task], brief)]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{description.path}: expected the figures of training in the manifest, found others "
            f"({type(error).__name__}). The manifest was altered."
        ) from error
