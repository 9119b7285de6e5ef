"""Examples → train, validation, calibration and test; duplicates stay on one side."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from lc_finetune.answers import ANSWERED, UNANSWERED
from lc_finetune.data.duplicates import LIMIT, fold, groups
from lc_finetune.data.examples import (
    Example,
    IntentExample,
    MultiLabelExample,
    PairExample,
    QuestionExample,
    RegressionExample,
    TaggedExample,
    TextExample,
)
from lc_finetune.errors import DataError, shown

T = TypeVar("T")

LARGE = 5_000
"""Rows from which calibration gets rows of its own."""
FREQUENT = 40
"""Groups from which a combination of labels is a stratum of its own; it then has two for a part of 5 %."""


@dataclass(frozen=True)
class Splits:
    """The parts of a data set, and what was noticed about them.

    Attributes:
        duplicates: Given training rows that repeat another, near ones included.
        out_of_scope: Rows of no class, of the training and the validation file.
        out_of_scope_test: Rows of no class, of the test file.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    calibration: tuple[Example, ...] = ()
    test: tuple[Example, ...] = ()
    duplicates: int = 0
    notes: tuple[str, ...] = ()
    out_of_scope: tuple[Example, ...] = ()
    out_of_scope_test: tuple[Example, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        """Rows by part."""
        return {part: len(getattr(self, part)) for part in ("train", "validation", "calibration", "test")}


def split_examples(
    train: Sequence[Example],
    *,
    validation: Sequence[Example] | None = None,
    test: Sequence[Example] | None = None,
    seed: int,
    known: Sequence[str] = (),
) -> Splits:
    """Take what is missing from the training rows: stratified, seeded, near duplicates on one side.

    From 5,000 rows up, 5 % go to validation and 5 % to calibration; below, 10 % to validation. Given parts are kept
    as they are; with a given validation part, calibration still takes its 5 % of a large set that is no tagger's.
    Multi-label data is stratified by combination of labels, rare combinations by their rarest label (as in Sechidis et
    al. 2011, "On the Stratification of Multi-label Data").

    Args:
        train: The rows to take from.
        validation: Given, or None.
        test: Likewise.
        seed: Of the draw.
        known: Classes or labels that a model has already, which count as held by the training rows.

    Raises:
        DataError: If the training rows hold fewer than two classes or labels, or no entity.
    """
    _check_trainable(train, known)
    large = len(train) >= LARGE
    shares: dict[str, float] = {}
    if validation is None:
        shares["validation"] = 0.05 if large else 0.1
    if large and (validation is None or not isinstance(train[0], TaggedExample)):
        shares["calibration"] = 0.05
    group_of = _groups(train)
    parts = _deal(train, group_of, shares, seed)
    splits = {
        "train": tuple(parts["train"]),
        "validation": tuple(validation if validation is not None else parts["validation"]),
        "calibration": tuple(parts.get("calibration", ())),
        "test": tuple(test or ()),
    }
    notes = _notes(splits, known)
    if len(train) > LIMIT:
        notes.append(f"near duplicates are not looked for above {LIMIT:,} rows, only equal texts.")
    return Splits(**splits, duplicates=_duplicates(train, group_of), notes=tuple(notes))


def hold_out(rows: Sequence[T], group_of: Sequence[int], *, seed: int) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """Take 10 % of the rows, 5 % from 5,000 up, for validation; returns what is left, and what was taken.

    Args:
        rows: Of whatever kind.
        group_of: The group of each row, whose rows stay on one side; of at least two.
        seed: Of the draw.
    """
    members: dict[int, int] = defaultdict(int)
    for group in group_of:
        members[group] += 1
    order = list(members)
    random.Random(seed).shuffle(order)
    wanted = len(rows) * (0.05 if len(rows) >= LARGE else 0.1)
    held: set[int] = set()
    taken = 0
    for group in order[:-1]:  # one stays in training
        if taken and taken + members[group] > wanted:
            continue
        held.add(group)
        taken += members[group]
        if taken >= wanted:
            break
    pairs = list(zip(rows, group_of, strict=True))
    return tuple(row for row, group in pairs if group not in held), tuple(row for row, group in pairs if group in held)


def _duplicates(train: Sequence[Example], group_of: Sequence[int]) -> int:
    """Count the rows that repeat another; of questions, those about the same context."""
    questions = [fold(example.question) for example in train if isinstance(example, QuestionExample)]
    return len(train) - len(set(zip(group_of, questions, strict=True) if questions else group_of))


def _groups(examples: Sequence[Example]) -> list[int]:
    """Give each example the number of its group of near duplicates; of pairs, both texts must be near.

    Questions about one context, or near ones, are a group: other parts of the data show contexts that are new.
    """
    texts = [example.text for example in examples]
    pairs = [example.text_pair for example in examples if isinstance(example, PairExample)]
    if not pairs:
        return groups(texts)
    numbers: dict[tuple[int, int], int] = {}
    return [numbers.setdefault(both, i) for i, both in enumerate(zip(groups(texts), groups(pairs), strict=True))]


def set_apart(examples: Sequence[Example], label: str) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Take the rows with one label out of classification data: the others, and those."""
    inside = tuple(example for example in examples if not _labelled(example, label))
    return inside, tuple(example for example in examples if _labelled(example, label))


def _labelled(example: Example, label: str) -> bool:
    return isinstance(example, TextExample) and example.label == label


def classes(example: Example) -> tuple[str, ...]:
    """Name what an example shows: its label or labels, entity types, or whether it has an answer; a number none."""
    if isinstance(example, RegressionExample):
        return ()
    if isinstance(example, IntentExample):
        return (example.label, *sorted({span.label for span in example.spans}))
    if isinstance(example, TextExample):
        return (example.label,)
    if isinstance(example, QuestionExample):
        return (ANSWERED if example.answers else UNANSWERED,)
    return example.labels if isinstance(example, MultiLabelExample) else tuple(sorted({s.label for s in example.spans}))


def _check_trainable(train: Sequence[Example], known: Sequence[str]) -> None:
    numbers = {example.value for example in train if isinstance(example, RegressionExample)}
    if len(numbers) == 1:
        raise DataError("Expected different numbers in the training rows, found one. Is this the right label column?")
    if numbers:
        return
    found = sorted({name for example in train for name in classes(example)}.union(known))
    if isinstance(train[0], QuestionExample):
        if ANSWERED not in found:
            raise DataError("Expected questions with an answer in the training rows, found none. Mark some answers.")
        return
    if isinstance(train[0], IntentExample):
        if not any(cast(IntentExample, example).spans for example in train):
            raise DataError(
                "Expected entities in the training rows, found none. Annotate some, or train on labels alone."
            )
        found = sorted({cast(IntentExample, example).label for example in train}.union(known))
    if not isinstance(train[0], TaggedExample) and len(found) < 2:
        raise DataError(
            f"Expected at least two classes in the training rows, found {f'one: {shown(found)}' if found else 'none'}. "
            "Is this the right label column?"
        )
    if not found:
        raise DataError("Expected entities in the training rows, found none. Annotate some.")


def _deal(
    train: Sequence[Example], group_of: Sequence[int], shares: dict[str, float], seed: int
) -> dict[str, list[Example]]:
    """Deal groups of near duplicates to the parts, class by class, the rarest first."""
    frequency = Counter(name for example in train for name in classes(example))
    members: dict[int, list[int]] = defaultdict(list)
    for i, group in enumerate(group_of):
        members[group].append(i)
    combinations = Counter(classes(train[rows[0]]) for rows in members.values())
    strata: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for group, rows in members.items():
        names = classes(train[rows[0]])
        whole = isinstance(train[rows[0]], MultiLabelExample) and combinations[names] >= FREQUENT
        rarest = sorted(names, key=lambda name: (frequency[name], name))[:1]
        strata[names if whole else tuple(rarest)].append(group)
    generator = random.Random(seed)
    part_of: dict[int, str] = {}
    owed = dict.fromkeys(shares, 0.0)  # carried from class to class, so that the shares come out right in sum
    for name in sorted(strata, key=lambda name: (len(strata[name]), name)):
        queue = strata[name]
        generator.shuffle(queue)
        total = sum(len(members[group]) for group in queue)
        for part, share in shares.items():
            owed[part] += share * total
            for group in queue[:0:-1]:  # the first stays in training
                if owed[part] >= len(members[group]) * 0.5:
                    queue.remove(group)
                    part_of[group] = part
                    owed[part] -= len(members[group])
                if owed[part] < 0.5:
                    break
    _fill(shares, strata, members, part_of)
    _keep_every_class(train, members, part_of)
    parts: dict[str, list[Example]] = {"train": [], **{part: [] for part in shares}}
    for example, group in zip(train, group_of, strict=True):
        parts[part_of.get(group, "train")].append(example)
    return parts


def _fill(
    shares: dict[str, float],
    strata: dict[tuple[str, ...], list[int]],
    members: dict[int, list[int]],
    part_of: dict[int, str],
) -> None:
    """Give a part that got nothing the smallest group of the class with most groups to spare."""
    for part in shares:
        spare = max(strata.values(), key=len)
        if part not in part_of.values() and len(spare) > 1:
            group = min(spare[1:], key=lambda group: len(members[group]))
            spare.remove(group)
            part_of[group] = part


def _keep_every_class(train: Sequence[Example], members: dict[int, list[int]], part_of: dict[int, str]) -> None:
    """Take groups back into training that hold the only rows of a class, as near duplicates of another class may."""
    shown_by = {group: {name for row in rows for name in classes(train[row])} for group, rows in members.items()}
    kept = {name for group, names in shown_by.items() if group not in part_of for name in names}
    for group in [group for group in part_of if not shown_by[group] <= kept]:
        if not shown_by[group] <= kept:
            del part_of[group]
            kept |= shown_by[group]


def _notes(splits: dict[str, tuple[Example, ...]], known: Sequence[str]) -> list[str]:
    notes: list[str] = []
    trained = Counter(name for example in splits["train"] for name in classes(example))
    once = sorted(name for name, count in trained.items() if count == 1)
    if once:
        notes.append(f"{len(once)} label(s) with a single training row: {shown(once, most=5)}.")
    if len(trained) > max(20, len(splits["train"]) / 2):
        notes.append(f"{len(trained)} labels for {len(splits['train'])} training rows: is this the label column?")
    if not splits["validation"]:
        notes.append("validation: no rows to spare, so that nothing is measured and the last epoch is kept.")
    seen = {_folded(example) for example in splits["train"]}
    learnt = {*trained, *known}
    for part in ("validation", "test"):
        unseen = Counter(name for example in splits[part] for name in classes(example) if name not in learnt)
        if unseen:
            notes.append(
                f"{part}: {sum(unseen.values())} rows with labels that training never saw "
                f"({shown(sorted(unseen), most=5)}): they count as errors."
            )
        shared = sum(_folded(example) in seen for example in splits[part])
        if shared:
            notes.append(f"{part}: {shared} of {len(splits[part])} texts also occur in the training rows.")
    return notes


def _folded(example: Example) -> tuple[str, ...]:
    """Fold the text, both texts of a pair, or question and context, for comparison only."""
    texts: tuple[str, ...] = (example.text,)
    if isinstance(example, PairExample):
        texts = example.text, example.text_pair
    elif isinstance(example, QuestionExample):
        texts = example.question, example.context
    return tuple(map(fold, texts))
