"""In which order rows are trained on: those of a step alike in length, so that there is little padding."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

SPREAD = 0.05
"""Share of a row's length by which it may move among others, so that long rows meet not always the same ones."""


def steps_by_length(lengths: Sequence[int], rows_per_step: int, generator: torch.Generator) -> list[int]:
    """Put rows into a random order in which each slice of `rows_per_step` has rows of like length.

    Rows are sorted by length, blurred by up to `SPREAD`, and cut into steps, which are shuffled. Where the last step is
    not full, its rows are drawn from all.

    Args:
        lengths: Of the rows, in pieces.
        rows_per_step: Rows of a step of the optimizer, on all devices.
        generator: What chance comes from.
    """
    order = torch.randperm(len(lengths), generator=generator)
    blur = 1.0 + SPREAD * torch.rand(len(lengths), generator=generator)
    blurred = torch.tensor(lengths, dtype=torch.float32) * blur
    full = len(order) - len(order) % rows_per_step
    steps = order[:full][blurred[order[:full]].argsort(stable=True)].view(-1, rows_per_step)
    shuffled = steps[torch.randperm(len(steps), generator=generator)]
    return [*shuffled.flatten().tolist(), *order[full:].tolist()]


class EpochSampler(Sampler[int]):
    """Draws each epoch's order from its seed and the number of the epoch, and from nothing else.

    So every process draws the same, and a resumed run as the whole one does.
    """

    def __init__(self, lengths: Sequence[int], *, rows_per_step: int, seed: int) -> None:
        self._lengths = lengths
        self._rows_per_step = rows_per_step
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; the Trainer's data loader does it."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(self.draw(torch.Generator().manual_seed(self._seed + self._epoch)))

    @abstractmethod
    def draw(self, generator: torch.Generator) -> list[int]:
        """Draw an epoch's rows."""


class LengthSampler(EpochSampler):
    """Gives each row once, grouped by length."""

    def draw(self, generator: torch.Generator) -> list[int]:
        """Draw all rows."""
        return steps_by_length(self._lengths, self._rows_per_step, generator)


class BalancedSampler(EpochSampler):
    """Draws as many rows as there are, with replacement and each class as likely as another, grouped by length."""

    def __init__(self, classes: Sequence[int], lengths: Sequence[int], *, rows_per_step: int, seed: int) -> None:
        super().__init__(lengths, rows_per_step=rows_per_step, seed=seed)
        counts = Counter(classes)
        self._weights = torch.tensor([1.0 / counts[one] for one in classes])

    def draw(self, generator: torch.Generator) -> list[int]:
        """Draw by class."""
        drawn = torch.multinomial(self._weights, len(self._weights), replacement=True, generator=generator).tolist()
        lengths = [self._lengths[row] for row in drawn]
        return [drawn[place] for place in steps_by_length(lengths, self._rows_per_step, generator)]


class SortedSampler(Sampler[int]):
    """Gives each row once, the shortest first: for rows that are only measured."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._order = sorted(range(len(lengths)), key=lengths.__getitem__)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)
