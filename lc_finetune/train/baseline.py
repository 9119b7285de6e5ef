"""The frozen encoder with logistic regression on top: what fine-tuning has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray

from lc_finetune.checkpoint import TagUnit
from lc_finetune.data import (
    Example,
    IntentExample,
    MultiLabelExample,
    PairExample,
    RegressionExample,
    RelationExample,
    TaggedExample,
    TextExample,
    gold_of,
)
from lc_finetune.inference.backends.torch import quiet
from lc_finetune.inference.decode import best_path
from lc_finetune.inference.encode import Encoder, Encoding
from lc_finetune.inference.plan import batches
from lc_finetune.inference.units import tag_units, trim
from lc_finetune.labels import LabelSet, Span
from lc_finetune.schemes import TagSet, spans_to_tags
from lc_finetune.train.metrics import (
    Figures,
    classification_figures,
    entity_figures,
    intent_figures,
    multi_label_figures,
    ordinal_figures,
    regression_figures,
    relation_figures,
)
from lc_finetune.train.thresholds import choose_thresholds
from lc_finetune.train.tokenization import align, indicators

ROWS = 10_000
"""Training texts used at most; a classifier's beyond these add little."""
UNITS = 20_000
"""Training words used at most for a tagger."""
AT_ONCE = 500
"""Texts whose states are kept at a time: those of 25,000 long ones would take 10 GB."""


def classification_baseline(base: Path, train: Sequence[Example], test: Sequence[Example], max_length: int) -> Figures:
    """Fit mean-pooled features of the untouched base model to the labels, and score the test rows."""
    model, features = _fitted(base, train, test, max_length)
    return classification_figures(gold_of(test), list(map(str, model.predict(features))))


def ordinal_baseline(
    base: Path, train: Sequence[Example], test: Sequence[Example], labels: LabelSet, max_length: int
) -> Figures:
    """As `classification_baseline`, measured by how far labels are off in their order."""
    model, features = _fitted(base, train, test, max_length)
    expected = model.predict_proba(features) @ labels.ids(list(map(str, model.classes_)))
    return ordinal_figures(gold_of(test), list(map(str, model.predict(features))), expected.tolist(), labels)


def _fitted(
    base: Path, train: Sequence[Example], test: Sequence[Example], max_length: int
) -> tuple[Any, NDArray[np.float32]]:
    """Fit a logistic regression to the labels of the training rows; gives it, and the features of the test rows."""
    rows = cast("Sequence[TextExample]", _some(train))
    features = _both_pooled(base, [*rows, *cast("Sequence[TextExample]", test)], max_length)
    return _regression(features[: len(rows)], [row.label for row in rows]), features[len(rows) :]


def intent_baseline(
    base: Path,
    train: Sequence[IntentExample],
    test: Sequence[IntentExample],
    tags: TagSet,
    max_length: int,
    tag_unit: TagUnit,
) -> Figures:
    """Fit labels as `classification_baseline` does, and tags as `tagging_baseline` does."""
    model, features = _fitted(base, train, test, max_length)
    labels = list(map(str, model.predict(features)))
    spans = _spans(base, [e.tagged for e in train], [e.tagged for e in test], tags, max_length, tag_unit)
    figures = intent_figures([e.label for e in test], labels, [e.spans for e in test], spans)
    entities = {name: value for name, value in figures["entities"].items() if name != "per_label"}
    return {**figures, "entities": entities}


def relation_baseline(
    base: Path, train: Sequence[RelationExample], test: Sequence[RelationExample], max_length: int
) -> Figures:
    """Fit mean-pooled states of the untouched base model, of the text, its head and its tail side by side."""
    rows = cast("Sequence[RelationExample]", _some(train))
    features = _mentions_pooled(base, [*rows, *test], max_length)
    model = _regression(features[: len(rows)], [e.label for e in rows])
    return relation_figures([e.label for e in test], list(map(str, model.predict(features[len(rows) :]))))


def multi_label_baseline(
    base: Path,
    train: Sequence[Example],
    validation: Sequence[Example],
    test: Sequence[Example],
    labels: LabelSet,
    max_length: int,
) -> Figures:
    """Fit mean-pooled features of the untouched base model to each label, and its threshold as of a fine-tuned one."""
    from sklearn.multiclass import OneVsRestClassifier

    rows = _some(train)
    features = _pooled(base, [example.text for example in (*rows, *validation, *test)], max_length)
    fitted, held_out, tested = np.split(features, [len(rows), len(rows) + len(validation)])
    with catch_warnings():
        simplefilter("ignore")  # a label that all rows have, or none
        model = OneVsRestClassifier(_unfitted()).fit(fitted, indicators(rows, labels))

    def logits(features: NDArray[np.float32]) -> NDArray[np.float64]:
        probabilities = (
            np.clip(model.predict_proba(features), 1e-12, 1.0 - 1e-12) if len(features) else np.zeros((0, 1))
        )
        return np.asarray(np.log(probabilities / (1.0 - probabilities)))

    thresholds = choose_thresholds(indicators(validation, labels), logits(held_out))
    given = logits(tested) >= np.log(thresholds / (1.0 - thresholds))
    found = [tuple(labels[i] for i in np.flatnonzero(row).tolist()) for row in given]
    return multi_label_figures([cast(MultiLabelExample, e).labels for e in test], found)


def regression_baseline(base: Path, train: Sequence[Example], test: Sequence[Example], max_length: int) -> Figures:
    """Fit mean-pooled features of the untouched base model to the numbers by ridge regression."""
    from sklearn.linear_model import RidgeCV

    rows = cast("Sequence[RegressionExample]", _some(train))
    tested = cast("Sequence[RegressionExample]", test)
    features = _pooled(base, [example.text for example in (*rows, *tested)], max_length)
    model = RidgeCV(alphas=np.logspace(-3, 3, 13)).fit(features[: len(rows)], [e.value for e in rows])
    return regression_figures([e.value for e in tested], model.predict(features[len(rows) :]).tolist())


def tagging_baseline(
    base: Path, train: Sequence[Example], test: Sequence[Example], tags: TagSet, max_length: int, tag_unit: TagUnit
) -> Figures:
    """Fit the untouched base model's state of each word to its tag, and score the entities of the test rows."""
    rows, tested = (cast("Sequence[TaggedExample]", part) for part in (train, test))
    return entity_figures([e.spans for e in tested], _spans(base, rows, tested, tags, max_length, tag_unit))


def _spans(
    base: Path, train: Sequence[TaggedExample], tested: Sequence[TaggedExample], tags: TagSet, max_length: int,
    tag_unit: TagUnit,
) -> list[list[Span]]:  # fmt: skip
    features: list[NDArray[np.float32]] = []
    wanted: list[str] = []
    rows = cast("Sequence[TaggedExample]", _some(train))
    for example, (encoding, state) in zip(rows, encoder_states(base, [e.text for e in rows], max_length), strict=True):
        units = [unit for unit in tag_units(example.text, encoding, tag_unit) if unit[0] < len(state)]
        spans = [s for s in align(example, encoding, tag_unit)[0] if s.end <= len(units)]
        features += [state[start] for start, _ in units]
        wanted += spans_to_tags(spans, len(units), tags.scheme)
        if len(features) > UNITS:
            break
    model = _regression(np.stack(features), wanted)
    columns = [tags.labels.id_of[name] for name in model.classes_]
    found = []
    for example, (encoding, state) in zip(
        tested, encoder_states(base, [e.text for e in tested], max_length), strict=True
    ):
        units = [unit for unit in tag_units(example.text, encoding, tag_unit) if unit[0] < len(state)]
        scores = np.full((len(units), len(tags.labels)), -1e9)
        if units:
            scores[:, columns] = model.predict_log_proba(np.stack([state[start] for start, _ in units]))
        edges = [(encoding.offsets[first][0], encoding.offsets[end - 1][1]) for first, end in units]
        spans = tags.spans(best_path(scores, tags))
        found.append([Span(*trim(example.text, edges[s.start][0], edges[s.end - 1][1]), s.label) for s in spans])
    return found


def _some(rows: Sequence[Example]) -> Sequence[Example]:
    """Draw at most `ROWS` rows, in their order: the first ones of a file may all be of one class."""
    if len(rows) <= ROWS:
        return rows
    return [rows[i] for i in sorted(np.random.default_rng(0).permutation(len(rows))[:ROWS].tolist())]


def _regression(features: NDArray[np.float32], wanted: Sequence[Any]) -> Any:
    """Fit features of shape `(rows, hidden)` to classes; where all rows are of one, that is the answer."""
    from sklearn.dummy import DummyClassifier

    model = _unfitted() if len(set(wanted)) > 1 else DummyClassifier()
    return model.fit(features, wanted)


def _unfitted() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=10.0, max_iter=300)


def _both_pooled(base: Path, examples: Sequence[TextExample], max_length: int) -> NDArray[np.float32]:
    """Pool each text; of pairs, set side by side both texts, what they differ by, and what they have in common.

    Conneau et al. 2017, "Supervised Learning of Universal Sentence Representations": shape `(pairs, 4 * hidden)`.
    """
    first = _pooled(base, [example.text for example in examples], max_length)
    pairs = [example.text_pair for example in examples if isinstance(example, PairExample)]
    if not pairs:
        return first
    second = _pooled(base, pairs, max_length)
    return np.concatenate([first, second, np.abs(first - second), first * second], axis=1)


def _mentions_pooled(base: Path, examples: Sequence[RelationExample], max_length: int) -> NDArray[np.float32]:
    """Average the states of the text, of the head and of the tail: shape `(texts, 3 * hidden)`.

    A mention beyond the first window is left at zero.
    """
    features = []
    states = encoder_states(base, [example.text for example in examples], max_length)
    for example, (encoding, state) in zip(examples, states, strict=True):
        parts = [state.mean(axis=0)]
        for start, end in (example.head, example.tail):
            pieces = [
                piece
                for piece, (first, last) in enumerate(encoding.offsets[: len(state)])
                if first < end and start < last
            ]
            parts.append(state[pieces].mean(axis=0) if pieces else np.zeros_like(parts[0]))
        features.append(np.concatenate(parts))
    pooled = np.stack(features)
    return np.asarray(pooled / np.linalg.norm(pooled, axis=1, keepdims=True))


def _pooled(base: Path, texts: Sequence[str], max_length: int) -> NDArray[np.float32]:
    """Average the states of each text, at length 1: shape `(texts, hidden)`."""
    states = encoder_states(base, texts, max_length)
    features = np.stack([state.mean(axis=0) for _, state in states])
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True))


def encoder_states(base: Path, texts: Sequence[str], max_length: int) -> Iterator[tuple[Encoding, NDArray[np.float32]]]:
    """Run the untouched encoder: for each text its encoding and states `(pieces, hidden)`, cut at one window."""
    import torch
    from transformers import AutoModel

    with quiet():
        model: Any = AutoModel.from_pretrained(
            base, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        ).eval()
    encoder = Encoder(base, offsets=True)
    for start in range(0, len(texts), AT_ONCE):
        yield from _states_of(model, encoder, texts[start : start + AT_ONCE], max_length)


def _states_of(
    model: Any, encoder: Encoder, texts: Sequence[str], max_length: int
) -> Iterator[tuple[Encoding, NDArray[np.float32]]]:
    """Give what `encoder_states` does, of texts whose states have room in memory together."""
    import torch

    frame = encoder.frame
    room = max_length - len(frame)
    encodings = [encoding if isinstance(encoding, Encoding) else Encoding(()) for encoding in encoder.encode(texts)]
    rows = [frame.around(encoding.ids[:room]) for encoding in encodings]
    states: list[Any] = [None] * len(rows)
    for batch in batches([len(row) for row in rows], 1024):
        longest = max(len(rows[i]) for i in batch)
        ids = torch.tensor([rows[i] + [encoder.pad_id] * (longest - len(rows[i])) for i in batch])
        mask = torch.tensor([[1] * len(rows[i]) + [0] * (longest - len(rows[i])) for i in batch])
        with torch.inference_mode():
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()
        for row, i in enumerate(batch):
            inside = slice(len(frame.before), len(rows[i]) - len(frame.after)) if encodings[i].ids else slice(0, 1)
            states[i] = hidden[row, inside]
    return zip(encodings, states, strict=True)
