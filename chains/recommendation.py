"""Recommendation: what is known of a person and candidate items → the items, those of most interest first.

Run `python -m chains.recommendation` after `make demo` has trained `runs/demo/interest`.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import ConfigDict, Field

from lc_finetune import Classification, InputError, LCFinetuneError, PairClassifier
from lc_finetune.errors import reason
from lc_finetune.runnables.dispatch import Dispatcher, aoutcomes_of, child, outcomes_of

Request = Mapping[str, Any]
"""`history`, a text, and `items`: texts, or mappings with a `text` and, if there are any, `features`: name → number."""

SURE = 1e-6
"""How near to 0 or 1 an interest may come before its odds are taken."""


@dataclass(frozen=True)
class Ranked:
    """An item in its place.

    Attributes:
        item: As it was given.
        interest: Probability that it is of interest; None where there is no history to go by, or an error.
        score: What it is ranked by: the log-odds of the interest, and each feature times its weight.
        error: Why it could not be judged; such items come last, in the order given.
    """

    item: Any
    interest: float | None = None
    score: float = -math.inf
    error: str | None = None


def build_chain(
    classifier: Runnable[Any, Classification],
    *,
    interested: str = "interested",
    weights: Mapping[str, float] | None = None,
) -> Runnable[Request, dict[str, Any]]:
    """Rank items for people. A batch of any number of people is one call of the classifier.

    An input is a `Request`, and the output the same mapping with `ranking`, a tuple of `Ranked`. A blank history is no
    fault: the other features alone rank the items. An item without a text, or one that the classifier fails on, comes
    last and says why.

    Args:
        classifier: Takes `{"text": history, "text_pair": item}`; a `PairClassifier`, for instance.
        interested: The label whose probability is the interest.
        weights: Feature → weight, in log-odds for each unit of the feature; a feature that an item lacks counts 0.
    """
    return Recommender(classifier=classifier, interested=interested, weights=dict(weights or {}))


class Recommender(Dispatcher):
    """See `build_chain`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    classifier: Runnable[Any, Any]
    interested: str = "interested"
    weights: dict[str, float] = Field(default_factory=dict)

    @property
    def _branches(self) -> list[Runnable[Any, Any]]:
        return [self.classifier]

    def _many(
        self, values: list[Any], run_manager: Sequence[Any], config: Sequence[RunnableConfig], **kwargs: Any
    ) -> list[Any]:
        requests = [_read(value) for value in values]
        pairs, configs = _asked(requests, config, run_manager)
        return self._ranked(values, requests, outcomes_of(self.classifier, pairs, configs))

    async def _amany(
        self, values: list[Any], run_manager: Sequence[Any], config: Sequence[RunnableConfig], **kwargs: Any
    ) -> list[Any]:
        requests = [_read(value) for value in values]
        pairs, configs = _asked(requests, config, run_manager)
        return self._ranked(values, requests, await aoutcomes_of(self.classifier, pairs, configs))

    def _ranked(
        self, values: Sequence[Any], requests: Sequence[_Read | InputError], answers: Sequence[Any]
    ) -> list[Any]:
        given = iter(answers)
        outcomes: list[Any] = []
        for value, request in zip(values, requests, strict=True):
            if isinstance(request, InputError):
                outcomes.append(request)
                continue
            judged = [self._judged(candidate, request, given) for candidate in request.candidates]
            ranking = sorted(judged, key=lambda one: -one.score)  # which keeps the order of those that are equal
            outcomes.append({**value, "ranking": tuple(ranking)})
        return outcomes

    def _judged(self, candidate: _Candidate, request: _Read, answers: Iterator[Any]) -> Ranked:
        if candidate.error is not None:
            return Ranked(candidate.item, error=candidate.error)
        others = sum(weight * candidate.features.get(name, 0.0) for name, weight in self.weights.items())
        answer = next(answers) if request.asks else None
        if not math.isfinite(others):
            return Ranked(candidate.item, error="Expected features whose weighted sum is finite, found others.")
        if answer is None:
            return Ranked(candidate.item, score=others)
        if isinstance(answer, Exception):
            return Ranked(candidate.item, error=reason(answer))
        interest = _interest(answer, self.interested)
        if interest is None:
            return Ranked(candidate.item, error=f"Expected a probability of {self.interested!r}, found none.")
        likely = min(max(interest, SURE), 1.0 - SURE)
        return Ranked(candidate.item, interest, math.log(likely / (1.0 - likely)) + others)


# What is asked.


@dataclass(frozen=True)
class _Candidate:
    item: Any
    text: str = ""
    features: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class _Read:
    history: str
    candidates: Sequence[_Candidate]

    @property
    def asks(self) -> bool:
        """Whether there is anything for a classifier to go by."""
        return bool(self.history.strip())


def _read(value: Any) -> _Read | InputError:
    """Read a request, item by item; a refusal names types, never what a person wrote."""
    if not isinstance(value, Mapping) or not isinstance(value.get("items"), list | tuple):
        return InputError(f"Expected a mapping with 'history' and a list of 'items', found {type(value).__name__}.")
    history = value.get("history")
    if not isinstance(history, str):
        return InputError(f"Expected a text under 'history', found {type(history).__name__}.")
    return _Read(history, [_candidate(item) for item in value["items"]])


def _candidate(item: Any) -> _Candidate:
    text = item.get("text") if isinstance(item, Mapping) else item
    features = item.get("features", {}) if isinstance(item, Mapping) else {}
    if not isinstance(text, str) or not text.strip():
        found = "a blank one" if isinstance(text, str) else type(text).__name__
        return _Candidate(item, error=f"Expected an item with a text, found {found}.")
    if not isinstance(features, Mapping) or not all(map(_finite, features.values())):
        return _Candidate(item, error="Expected 'features' as names with finite numbers, found others.")
    return _Candidate(item, text, {name: float(number) for name, number in features.items()})


def _finite(number: Any) -> bool:
    try:
        return isinstance(number, Real) and math.isfinite(number)
    except OverflowError:  # of an integer that no float holds
        return False


def _asked(
    requests: Sequence[_Read | InputError], configs: Sequence[RunnableConfig], run_managers: Sequence[Any]
) -> tuple[list[dict[str, str]], list[RunnableConfig]]:
    """Make the classifier's batch: each pair is a run within the run of its person."""
    pairs: list[dict[str, str]] = []
    within: list[RunnableConfig] = []
    for request, config, manager in zip(requests, configs, run_managers, strict=True):
        if isinstance(request, _Read) and request.asks:
            for candidate in request.candidates:
                if candidate.error is None:
                    pairs.append({"text": request.history, "text_pair": candidate.text})
                    within.append(child(config, manager, "classifier"))
    return pairs, within


def _interest(answer: Any, label: str) -> float | None:
    """Give the probability of the label; of a bare answer, as a language model gives it, 1 or 0."""
    if not isinstance(answer, Classification):
        return None
    return answer.scores.get(label) if answer.scores else float(answer.label == label)


# How good a ranking is.


def ndcg(relevant: Sequence[bool], at: int | None = None) -> float:
    """Normalised discounted cumulative gain: Järvelin and Kekäläinen 2002.

    Args:
        relevant: Whether each item of a ranking is of interest, the first item first.
        at: How many places count; all if None.

    Returns:
        1 where all that is of interest comes first; 0 where nothing is.

    Example:
        >>> ndcg([True, False, True]) < ndcg([True, True, False])
        True
    """
    discounts = 1.0 / np.log2(np.arange(2, len(relevant) + 2))[:at]
    best = float(discounts[: sum(relevant)].sum())
    return float((discounts * np.array(relevant[:at], dtype=float)).sum()) / best if best else 0.0


def average_precision(relevant: Sequence[bool]) -> float:
    """Mean of the precision at the place of each item of interest; 0 where there is none.

    Example:
        >>> average_precision([False, True])
        0.5
    """
    places = np.flatnonzero(relevant) + 1
    return float(np.mean(np.arange(1, len(places) + 1) / places)) if len(places) else 0.0


def figures(rankings: Sequence[Sequence[bool]], *, at: int = 3) -> dict[str, float]:
    """Average NDCG and average precision over people: `ndcg@3` and `map`."""
    return {
        f"ndcg@{at}": float(np.mean([ndcg(one, at) for one in rankings])),
        "map": float(np.mean([average_precision(one) for one in rankings])),
    }


def similarities(embeddings: Embeddings, history: str, items: Sequence[str]) -> list[float]:
    """Say how like a history each item is, by the cosine of their embeddings: the baseline that needs no training."""
    vectors = np.array(embeddings.embed_documents([history, *items]))
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return [float(one) for one in vectors[1:] @ vectors[0]]


# The demonstration.

WEIGHTS = {"popularity": 0.5}


def sample_requests() -> tuple[list[dict[str, Any]], list[set[str]]]:
    """Read the people of the bundled test rows, and the items that are of interest to each.

    The sample knows no popularity: a seeded number from -1 to 1 stands for it, which tells nothing of interest.
    """
    from lc_finetune.data import PairExample, read_examples, sample_file

    chance = random.Random(0)
    requests: dict[str, dict[str, Any]] = {}
    wanted: dict[str, set[str]] = {}
    for example in read_examples(sample_file("pairs", "test")).examples:
        assert isinstance(example, PairExample)
        request = requests.setdefault(example.text, {"history": example.text, "items": []})
        popularity = round(chance.uniform(-1, 1), 2)
        request["items"].append({"text": example.text_pair, "features": {"popularity": popularity}})
        liked = wanted.setdefault(example.text, set())
        if example.label == "interested":
            liked.add(example.text_pair)
    return list(requests.values()), list(wanted.values())


def compare(
    rankings: Mapping[str, Sequence[Sequence[str]]], wanted: Sequence[set[str]], *, at: int = 3
) -> dict[str, dict[str, float]]:
    """Measure several ways to rank the same items for the same people."""
    return {
        name: figures(
            [[item in liked for item in ranking] for ranking, liked in zip(people, wanted, strict=True)], at=at
        )
        for name, people in rankings.items()
    }


def by(scores: Sequence[float], items: Sequence[str]) -> list[str]:
    """Order items by descending score."""
    return [item for _, item in sorted(zip(scores, items, strict=True), key=lambda pair: -pair[0])]


def main(embeddings: Embeddings | None = None) -> int:
    """Rank the items of the bundled test rows, and compare the ranking with simpler ones.

    Args:
        embeddings: For the baseline; the bundled MiniLM if None.
    """
    from rich.console import Console
    from rich.table import Table

    try:
        classifier = PairClassifier.from_checkpoint("runs/demo/interest")
        embedded = embeddings or _minilm()
    except LCFinetuneError as error:
        print(f"{error}\nRun `make demo` first: it trains the model.", file=sys.stderr)
        return 2
    requests, wanted = sample_requests()
    ranked = build_chain(classifier, weights=WEIGHTS).batch(list(requests))
    alone = build_chain(classifier).batch(list(requests))
    items = [[item["text"] for item in request["items"]] for request in requests]
    popularity = [[item["features"]["popularity"] for item in request["items"]] for request in requests]
    rankings = {
        "popularity": [by(*pair) for pair in zip(popularity, items, strict=True)],
        "similarity of embeddings": [
            by(similarities(embedded, request["history"], texts), texts)
            for request, texts in zip(requests, items, strict=True)
        ],
        "pair classifier": [[one.item["text"] for one in answer["ranking"]] for answer in alone],
        "pair classifier and popularity": [[one.item["text"] for one in answer["ranking"]] for answer in ranked],
    }
    console = Console()
    table = Table(title="Recommendation", show_lines=True, title_justify="left")
    for name in ("person", "item", "interest", "score", "wanted"):
        table.add_column(name, overflow="fold")
    for answer, liked in zip(ranked, wanted, strict=True):
        for place, one in enumerate(answer["ranking"]):
            table.add_row(
                answer["history"] if not place else "", one.item["text"], f"{one.interest:.2f}", f"{one.score:+.2f}",
                "yes" if one.item["text"] in liked else "",
            )  # fmt: skip
    console.print(table)
    compared = Table(title="Six people, five items each", title_justify="left")
    for name in ("ranked by", "ndcg@3", "map"):
        compared.add_column(name)
    for name, row in compare(rankings, wanted).items():
        compared.add_row(name, *(f"{value:.2f}" for value in row.values()))
    console.print(compared)
    console.print(
        "The sample is too small to say which is better, and its popularity is made up: it shows how it works."
    )
    return 0


def _minilm() -> Embeddings:
    from langchain_huggingface import HuggingFaceEmbeddings

    from lc_finetune.train.base_model import resolve_base_model

    folder = str(resolve_base_model("minilm").folder)
    return HuggingFaceEmbeddings(model_name=folder, model_kwargs={"device": "cpu", "local_files_only": True})


if __name__ == "__main__":
    sys.exit(main())
