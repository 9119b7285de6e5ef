"""Label sets and tagging schemes."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from lc_finetune.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Span(NamedTuple):
    """A labelled range; `end` is exclusive. Units (characters, words, pieces) are the holder's."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class LabelSet:
    """The labels of a model in the order of its output columns; both maps derive from the one tuple."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise ConfigError("Expected at least one label, found none.")
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ConfigError(f"Expected every label once, found {twice} more than once. Rename or merge them.")

    @classmethod
    def sorted(cls, labels: Iterable[str]) -> LabelSet:
        """Collect the distinct labels in sorted order, so that a label's column never depends on the order of rows."""
        return cls(tuple(sorted(set(labels))))

    @classmethod
    def from_id2label(cls, id2label: Mapping[Any, str]) -> LabelSet:
        """Read the `id2label` of a `config.json`, whose keys are strings on disk.

        Raises:
            CheckpointError: If the ids are not 0 … n-1.
        """
        by_id = {int(key): name for key, name in id2label.items()}
        if sorted(by_id) != list(range(len(by_id))):
            raise CheckpointError(
                f"Expected id2label in config.json to number its labels 0 to {len(by_id) - 1}, found {sorted(by_id)}."
            )
        return cls(tuple(by_id[i] for i in range(len(by_id))))

    def extended(self, labels: Iterable[str]) -> LabelSet:
        """Add columns for labels that are not in the set, sorted, after the others, which keep theirs."""
        return LabelSet((*self.names, *sorted(set(labels) - set(self.names))))

    @cached_property
    def id_of(self) -> Mapping[str, int]:
        """Map each label to its column."""
        return {name: i for i, name in enumerate(self.names)}

    @property
    def label2id(self) -> dict[str, int]:
        """The map as Hugging Face configurations want it."""
        return dict(self.id_of)

    @property
    def id2label(self) -> dict[int, str]:
        """The inverse map as Hugging Face configurations want it."""
        return dict(enumerate(self.names))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> str:
        return self.names[index]

    def ids(self, labels: Sequence[str]) -> list[int]:
        """Look the labels up.

        Raises:
            KeyError: If one of them is not in the set.
        """
        return [self.id_of[label] for label in labels]


LONGEST_NUMBER = 20
"""Characters of a label that is taken for a number, and digits before its point, or noughts behind, at most."""


def number_in(label: str) -> Decimal | None:
    """Read a label that is a number.

    Example:
        >>> number_in("4.50"), number_in("high")
        (Decimal('4.50'), None)
    """
    try:
        number = Decimal(label)
    except InvalidOperation:
        return None
    short = number.is_finite() and max(abs(number.adjusted()), len(label.strip()) - 1) < LONGEST_NUMBER
    return number if short and "_" not in label else None


def micro_f1(gold: Sequence[Collection[Hashable]], predicted: Sequence[Collection[Hashable]]) -> float:
    """F1 of what is in both of two sets, over all pairs; 0 when there is neither a right answer nor a found one."""
    right = sum(len(set(g) & set(p)) for g, p in zip(gold, predicted, strict=True))
    total = sum(map(len, gold)) + sum(map(len, predicted))
    return 2 * right / total if total else 0.0


def entity_f1(gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> float:
    """Micro F1 of exactly matching spans."""
    return micro_f1(gold, predicted)


def quadratic_weighted_kappa(counts: NDArray[np.floating]) -> float:
    """Agreement beyond chance, a disagreement counting by its squared distance: 1 for none, 0 by chance.

    Cohen 1968, "Weighted kappa: Nominal scale agreement with provision for scaled disagreement or partial credit".

    Args:
        counts: Of texts by right label and given label, in their order, shape `(labels, labels)`.

    Returns:
        0 also where both name nothing but one and the same label, so that no agreement is beyond chance.
    """
    import numpy as np

    places = np.arange(len(counts))
    distance = (places[:, None] - places[None, :]) ** 2
    by_chance = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / max(counts.sum(), 1)
    expected = float((distance * by_chance).sum())
    return 1.0 - float((distance * counts).sum()) / expected if expected else 0.0


def r_squared(gold: NDArray[np.floating], predicted: NDArray[np.floating]) -> float:
    """Share of the variance of `gold` that is explained; 0 for its mean, less for worse. Both of shape `(texts,)`."""
    spread = float(((gold - gold.mean()) ** 2).sum())
    return 1.0 - float(((gold - predicted) ** 2).sum()) / spread if spread else 0.0
