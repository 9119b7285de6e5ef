"""Where the bundled samples are."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

SUFFIX = {
    "support": "csv",
    "sentiment": "csv",
    "entities": "jsonl",
    "multilabel": "jsonl",
    "pairs": "csv",
    "stars": "csv",
    "urgency": "csv",
    "relations": "jsonl",
    "questions": "json",
    "intents": "jsonl",
    "subjects": "jsonl",
}


def sample_file(name: str, part: str = "train") -> Path:
    """Locate a part (`train`, `validation`, `test`) of a bundled sample, one of `SUFFIX`."""
    return Path(str(files("lc_finetune.data") / "samples" / name / f"{part}.{SUFFIX[name]}"))
