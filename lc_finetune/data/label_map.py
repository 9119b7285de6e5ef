"""Labels under other names: renamed, merged or translated when rows are read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lc_finetune.checkpoint import QUESTIONS
from lc_finetune.data.examples import Example, IntentExample, Loaded, MultiLabelExample, TaggedExample, TextExample
from lc_finetune.data.rows import check_file, read_text
from lc_finetune.errors import DataError, did_you_mean, shown
from lc_finetune.labels import Span


def read_label_map(path: str | Path) -> dict[str, str]:
    """Read a YAML or JSON file of old name → new name; numbers and words like `yes` are names like any other.

    Raises:
        DataError: If it is no such file, or names a label twice.
    """
    import yaml

    path = Path(path).expanduser()
    check_file(path)
    text = read_text(path)
    try:
        if path.suffix.lower() == ".json":
            pairs = json.loads(text, object_pairs_hook=list)
        else:
            node: Any = yaml.compose(text, Loader=yaml.BaseLoader)  # builds nothing
            pairs = [(key.value, value.value) for key, value in node.value] if _is_mapping(node) else None
    except (ValueError, RecursionError, yaml.YAMLError):
        raise DataError(
            f"{path}: expected YAML or JSON, found neither. Write lines such as `old name: new name`."
        ) from None
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) and _are_names(pair) for pair in pairs):
        raise DataError(
            f"{path}: expected a new name for each old one, as in `old name: new name`, found something else. Quote "
            "names in JSON; put no list or mapping under a name."
        )
    twice = [name for name, count in Counter(old for old, _ in pairs).items() if count > 1]
    if twice:
        raise DataError(f"{path}: expected every old name once, found {shown(twice)} more than once. Remove one.")
    return check_label_map(dict(pairs))


def check_label_map(mapping: Mapping[str, str]) -> dict[str, str]:
    """Refuse a mapping that maps nothing, or to no name.

    Raises:
        DataError: It says which.
    """
    if not mapping:
        raise DataError("Expected a mapping from old label names to new ones, found none in it. Leave it out.")
    if empty := [old for old, new in mapping.items() if not old.strip() or not new.strip()]:
        raise DataError(f"Expected names on both sides of the label map, found none for {shown(empty)}. Name them.")
    return dict(mapping)


def _is_mapping(node: Any) -> bool:
    import yaml

    return isinstance(node, yaml.MappingNode) and all(
        isinstance(one, yaml.ScalarNode) for pair in node.value for one in pair
    )


def _are_names(pair: tuple[Any, ...]) -> bool:
    return len(pair) == 2 and all(isinstance(one, str) for one in pair)


def with_label_map(source: str, loaded: Loaded, mapping: Mapping[str, str], *, every: bool) -> Loaded:
    """Give labels, or types of entities, their new names; each label once, so that two can swap names.

    Args:
        source: For messages.
        loaded: What was read.
        mapping: Old name → new name; labels that are not in it keep theirs.
        every: Whether each old name must occur.

    Raises:
        DataError: If there are no labels, or an old name does not occur; with the nearest that does.
    """
    if loaded.task in ("regression", QUESTIONS):
        raise DataError(f"{source}: expected rows with labels for the label map, found those of {loaded.task}.")
    counts = Counter(label for example in loaded.examples for label in _labels(example))
    unknown = [old for old in mapping if old not in counts]
    if unknown and every:
        raise DataError(
            f"{source}: expected labels of the file in the label map, found {shown(unknown)}"
            f"{did_you_mean(unknown[0], counts)}. Its labels are {shown(sorted(counts))}."
        )
    examples = tuple(_renamed(example, mapping) for example in loaded.examples)
    return replace(loaded, examples=examples, notes=(*loaded.notes, *_notes(source, mapping, counts)))


def _labels(example: Example) -> Sequence[str]:
    if isinstance(example, IntentExample):
        return (example.label, *(span.label for span in example.spans))
    if isinstance(example, TextExample):
        return (example.label,)
    if isinstance(example, MultiLabelExample):
        return example.labels
    return [span.label for span in example.spans] if isinstance(example, TaggedExample) else ()


def _renamed(example: Example, mapping: Mapping[str, str]) -> Example:
    if isinstance(example, IntentExample):
        label = mapping.get(example.label, example.label)
        return replace(example, label=label, spans=_renamed_spans(example.spans, mapping))
    if isinstance(example, TextExample):
        return replace(example, label=mapping.get(example.label, example.label))
    if isinstance(example, MultiLabelExample):
        return replace(example, labels=tuple(sorted({mapping.get(label, label) for label in example.labels})))
    if isinstance(example, TaggedExample):
        return replace(example, spans=_renamed_spans(example.spans, mapping))
    return example


def _renamed_spans(spans: Sequence[Span], mapping: Mapping[str, str]) -> tuple[Span, ...]:
    return tuple(span._replace(label=mapping.get(span.label, span.label)) for span in spans)


def _notes(source: str, mapping: Mapping[str, str], counts: Counter[str]) -> list[str]:
    """Say what became of the labels: merged where several have one name now, else renamed."""
    became: dict[str, list[str]] = {}
    for label in sorted(counts):
        became.setdefault(mapping.get(label, label), []).append(label)
    merged = [(new, old) for new, old in became.items() if len(old) > 1]
    renamed = [f"{shown([old[0]])} → {shown([new])}" for new, old in became.items() if len(old) == 1 and old[0] != new]
    notes = [
        f"{source}: labels merged into {shown([new])}: "
        + ", ".join(f"{shown([label])} ({counts[label]:,})" for label in old)
        + "."
        for new, old in merged
    ]
    more = f", … ({len(renamed)} in all)" if len(renamed) > 8 else ""
    return [*notes, f"{source}: labels renamed: {', '.join(renamed[:8])}{more}."] if renamed else notes
