"""A checkpoint → what it is; with a file of texts → whether they are still like those that it was measured on."""

from lc_finetune.inspection.against import drift
from lc_finetune.inspection.changes import LEAST_EFFECT, SIGNIFICANCE, Change, Drift, compare_measures, drift_table
from lc_finetune.inspection.description import Description, Export, describe, description_table
from lc_finetune.inspection.files import MOST_ROWS
from lc_finetune.inspection.measures import (
    Measures,
    Reference,
    measure,
    read_reference,
    reference_of,
    write_reference,
)

__all__ = [
    "LEAST_EFFECT",
    "MOST_ROWS",
    "SIGNIFICANCE",
    "Change",
    "Description",
    "Drift",
    "Export",
    "Measures",
    "Reference",
    "compare_measures",
    "describe",
    "description_table",
    "drift",
    "drift_table",
    "measure",
    "read_reference",
    "reference_of",
    "write_reference",
]
