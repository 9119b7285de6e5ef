"""A checkpoint and a file of texts → how they differ from the checkpoint's reference."""

from __future__ import annotations

from pathlib import Path

from lc_finetune.checkpoint import Checkpoint
from lc_finetune.errors import CheckpointError, ConfigError
from lc_finetune.inference.served import check_served
from lc_finetune.inspection.changes import LEAST_EFFECT, SIGNIFICANCE, Drift, compare_measures
from lc_finetune.inspection.files import MOST_ROWS, draw
from lc_finetune.inspection.measures import FEWEST, Measures, measure, read_reference


def drift(
    checkpoint: Checkpoint,
    file: Path,
    *,
    reference: Path | None = None,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    rows: int = MOST_ROWS,
    significance: float = SIGNIFICANCE,
    least_effect: float = LEAST_EFFECT,
) -> Drift:
    """Compare the texts of a file, of any size, with those that a checkpoint was measured on.

    Args:
        checkpoint: The folder.
        file: Texts, with labels, which are not read, or without.
        reference: Texts to compare with, in place of the checkpoint's.
        text_column: Column of the text, in both files; recognised by name if None.
        text_pair_column: Column of the second text of a pair, likewise.
        rows: Texts that are drawn from a file, at most.
        significance: Probability of any false alarm, at most.
        least_effect: Effect size below which a difference is none.

    Raises:
        CheckpointError: If the checkpoint cannot be served, or has no reference and none is given.
        ConfigError: If an option cannot be used.
        DataError: If a file cannot be used, or has too few texts.
    """
    if rows < FEWEST:
        raise ConfigError(f"rows: expected at least {FEWEST} texts to compare, found {rows}.")
    if not 0 < significance < 1:
        raise ConfigError(f"significance: expected a probability between 0 and 1, found {significance}.")
    if not 0 <= least_effect < float("inf"):
        raise ConfigError(f"least-effect: expected an effect size from 0 up, found {least_effect}.")
    check_served(checkpoint, checkpoint.task)

    def measured(path: Path) -> Measures:
        columns = {"text_column": text_column, "text_pair_column": text_pair_column}
        drawn = draw(path, checkpoint.task, most=rows, **columns)
        without = f", {drawn.blank:,} rows without a text left out" if drawn.blank else ""
        return measure(checkpoint, drawn.chunks, source=f"{path.name}{without}", rows=drawn.rows)

    before = read_reference(checkpoint) if reference is None else measured(reference)
    if before is None:
        record = f", or record some: lc-finetune calibrate {checkpoint.path} FILE"
        raise CheckpointError(
            f"{checkpoint.path}: expected a reference to compare with, found none: it was made without one, or "
            f"from too few rows. Name texts: --reference FILE{'' if checkpoint.task == 'regression' else record}"
        )
    return compare_measures(
        before, measured(file), task=checkpoint.task, significance=significance, least_effect=least_effect
    )
