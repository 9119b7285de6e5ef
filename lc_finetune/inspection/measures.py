"""Texts → the numbers by which they are compared with others: never a word of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import tee
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lc_finetune.answers import ANSWERED, UNANSWERED
from lc_finetune.checkpoint import REFERENCE, Checkpoint, write_text_atomically
from lc_finetune.errors import CheckpointError, InputError
from lc_finetune.inference.calibrate import RawPredictor
from lc_finetune.inference.encode import Encoder, Encoding
from lc_finetune.inference.predictor import Predictor
from lc_finetune.schemas import Input, MultiLabelClassification, Probability, QuestionAnswer, Regression, Tagging

FEWEST = 30
"""Texts below which nothing is compared."""
MOST_REFERENCE_ROWS = 2_000
"""Texts that a checkpoint keeps the numbers of, chosen with a seed if there are more: enough to tell any effect that
is worth telling, see `lc_finetune.inspection.changes.LEAST_EFFECT`."""
CHUNK_ROWS = 1024
"""Texts that are answered together."""
DIGITS = 6
"""Decimals of a stored score."""

Count = Annotated[int, Field(ge=0, lt=2**40)]


class Measures(BaseModel):
    """What a model makes of texts, each text a position of the lists.

    Attributes:
        source: Where the texts come from, in words.
        rows: Rows that they were drawn from.
        unread: Texts among those drawn that could not be read, and are in none of the lists.
        pieces: The length of each text, special tokens left out; of a pair, of both texts.
        unknown: Pieces of each that the tokenizer does not know.
        scores: The score of each answer, the model's own, before any map: of the label, of the likeliest label where
            labels are independent, of the least sure entity of a text that has some. None of a regressor.
        numbers: A regressor's answers.
        in_scope: p-value of each, of a model that tells texts out of scope.
        labels: Texts that each label was given to, at least once.
        without: Texts that no label was given to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    rows: Count
    unread: Count = 0
    pieces: tuple[Count, ...]
    unknown: tuple[Count, ...]
    scores: tuple[Probability, ...] = ()
    numbers: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = ()
    in_scope: tuple[Probability, ...] = ()
    labels: dict[str, Count] = Field(default_factory=dict)
    without: Count = 0

    @model_validator(mode="after")
    def _check_lengths(self) -> Measures:
        texts = len(self.pieces)
        whole = (self.numbers, self.in_scope)
        if len(self.unknown) != texts or any(values and len(values) != texts for values in whole):
            raise ValueError("lists of unequal length")
        if len(self.scores) > texts or any(count > texts for count in (*self.labels.values(), self.without)):
            raise ValueError("more scores or labels than texts")
        if any(strange > whole for strange, whole in zip(self.unknown, self.pieces, strict=True)):
            raise ValueError("more unknown pieces than pieces")
        return self

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def unknown_share(self) -> float:
        """Unknown pieces, as a share of all."""
        return sum(self.unknown) / max(1, sum(self.pieces))


class Reference(Measures):
    """The measures that a checkpoint keeps, tied to its weights."""

    weights: str = Field(description="Digest of the weights; see `Checkpoint.weights_digest`.")


def measure(checkpoint: Checkpoint, chunks: Iterable[Sequence[Input]], *, source: str, rows: int) -> Measures:
    """Answer texts as the checkpoint serves, and keep numbers alone: memory grows by some bytes a text.

    Args:
        checkpoint: The folder.
        chunks: Texts, or pairs, some at a time.
        source: Where they come from, for the record.
        rows: Rows that they were drawn from.

    Raises:
        CheckpointError: If the weights or the export cannot be loaded.
        LCFinetuneError: If the model gives no finite answer.
    """
    predictor = RawPredictor(Predictor.load(checkpoint))
    encoder = Encoder(checkpoint.path, offsets=False)
    pieces: list[int] = []
    unknown: list[int] = []
    values: dict[str, list[float]] = {"scores": [], "numbers": [], "in_scope": []}
    labels: Counter[str] = Counter()
    unread = without = 0
    texts, ahead = tee(chunks)
    for chunk, results in zip(texts, predictor.predict_stream(ahead), strict=True):
        for result, (length, strange) in zip(results, _pieces(encoder, chunk), strict=True):
            if isinstance(result, InputError):
                unread += 1
                continue
            if isinstance(result, Exception):
                raise result
            pieces.append(length)
            unknown.append(strange)
            for name, value in _numbers_of(result):
                values[name].append(round(value, DIGITS))
            given = set(_labels_of(result))
            labels.update(given)
            without += not given
    given_at_all = not values["numbers"]
    return Measures(
        source=source, rows=rows, unread=unread, pieces=tuple(pieces), unknown=tuple(unknown),
        labels=dict(sorted(labels.items())), without=without if given_at_all else 0,
        **{name: tuple(numbers) for name, numbers in values.items()},
    )  # fmt: skip


def _pieces(encoder: Encoder, texts: Sequence[Input]) -> Iterator[tuple[int, int]]:
    """Count the pieces of each text, or pair, and the unknown ones among them."""
    parts = [(text,) if isinstance(text, str) else text for text in texts]
    encodings = iter(encoder.encode([part for text in parts for part in text]))
    for text in parts:
        own = [one for one in (next(encodings) for _ in text) if isinstance(one, Encoding)]
        strange = sum(list(one.ids).count(encoder.unknown_id) for one in own) if encoder.unknown_id is not None else 0
        yield sum(len(one.ids) for one in own), strange


def _numbers_of(result: Any) -> Iterator[tuple[str, float]]:
    if isinstance(result, Regression):
        yield "numbers", result.value
    elif isinstance(result, Tagging):
        if result.entities:
            yield "scores", min(entity.score or 0.0 for entity in result.entities)
    else:
        several = isinstance(result, MultiLabelClassification)
        yield "scores", max(result.scores.values()) if several else result.score
        if getattr(result, "in_scope", None) is not None:
            yield "in_scope", result.in_scope


def _labels_of(result: Any) -> Sequence[str]:
    if isinstance(result, Regression):
        return ()
    if isinstance(result, Tagging):
        return [entity.label for entity in result.entities]
    if isinstance(result, QuestionAnswer):
        return (UNANSWERED if result.answer is None else ANSWERED,)
    return result.labels if isinstance(result, MultiLabelClassification) else (result.label,)


# The folder.


def reference_of(checkpoint: Checkpoint, texts: Sequence[Input], *, source: str) -> Reference | None:
    """Measure texts that the model has not learnt from, to compare others with; None if there are too few.

    Raises:
        LCFinetuneError: As `measure`.
    """
    chosen = sorted(np.random.default_rng(0).permutation(len(texts))[:MOST_REFERENCE_ROWS].tolist())
    parts = ([texts[row] for row in chosen[i : i + CHUNK_ROWS]] for i in range(0, len(chosen), CHUNK_ROWS))
    if len(texts) < FEWEST:
        return None
    measures = measure(checkpoint, parts, source=source, rows=len(texts))
    if len(measures) < FEWEST:
        return None
    return Reference(**dict(measures), weights=checkpoint.weights_digest)


def write_reference(folder: Path, reference: Reference) -> None:
    """Write `reference.json`: numbers and names of labels."""
    write_text_atomically(folder / REFERENCE, reference.model_dump_json() + "\n")


def read_reference(checkpoint: Checkpoint) -> Reference | None:
    """Read `reference.json`; None if the folder has none.

    Raises:
        CheckpointError: If it cannot be read as such, or is of other weights.
    """
    path = checkpoint.path / REFERENCE
    remedy = f"Make it anew: lc-finetune calibrate {checkpoint.path} FILE"
    try:
        reference = Reference.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise CheckpointError(
            f"{path}: expected the numbers of reference texts, found others ({type(error).__name__}). {remedy}"
        ) from None
    if reference.weights != checkpoint.weights_digest:
        raise CheckpointError(f"{path}: expected a reference for the checkpoint's weights, found another's. {remedy}")
    return reference
