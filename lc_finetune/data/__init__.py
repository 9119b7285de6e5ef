"""Files → examples → splits."""

from lc_finetune.data.bundled import sample_file
from lc_finetune.data.examples import (
    Example,
    MultiLabelExample,
    PairExample,
    RegressionExample,
    RelationExample,
    TaggedExample,
    TextExample,
    gold_of,
    inputs_of,
)
from lc_finetune.data.readers import Loaded, ReadOptions, read_examples, read_label_names
from lc_finetune.data.split import Splits, set_apart, split_examples
from lc_finetune.data.summary import Summary, fingerprint, summarize

__all__ = [
    "Example",
    "Loaded",
    "MultiLabelExample",
    "PairExample",
    "ReadOptions",
    "RegressionExample",
    "RelationExample",
    "Splits",
    "Summary",
    "TaggedExample",
    "TextExample",
    "fingerprint",
    "gold_of",
    "inputs_of",
    "read_examples",
    "read_label_names",
    "sample_file",
    "set_apart",
    "split_examples",
    "summarize",
]
