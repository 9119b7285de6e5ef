"""Files → examples → splits."""

from lc_finetune.data.bundled import sample_file
from lc_finetune.data.examples import (
    Example,
    IntentExample,
    Loaded,
    MultiLabelExample,
    PairExample,
    QuestionExample,
    RegressionExample,
    RelationExample,
    TaggedExample,
    TextExample,
    gold_of,
    inputs_of,
)
from lc_finetune.data.label_map import read_label_map
from lc_finetune.data.readers import ReadOptions, read_examples, read_label_names
from lc_finetune.data.split import Splits, set_apart, split_examples
from lc_finetune.data.summary import Summary, fingerprint, summarize
from lc_finetune.data.texts import Texts, read_texts

__all__ = [
    "Example",
    "IntentExample",
    "Loaded",
    "MultiLabelExample",
    "PairExample",
    "QuestionExample",
    "ReadOptions",
    "RegressionExample",
    "RelationExample",
    "Splits",
    "Summary",
    "TaggedExample",
    "TextExample",
    "Texts",
    "fingerprint",
    "gold_of",
    "inputs_of",
    "read_examples",
    "read_label_map",
    "read_label_names",
    "read_texts",
    "sample_file",
    "set_apart",
    "split_examples",
    "summarize",
]
