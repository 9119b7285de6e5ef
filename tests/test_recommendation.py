"""The recommendation recipe: order, one call for all, features, and what happens where something is missing."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import Runnable, RunnableLambda
from sklearn.metrics import average_precision_score, ndcg_score

from chains import recommendation
from chains.recommendation import average_precision, build_chain, compare, ndcg, sample_requests, similarities
from lc_finetune import Checkpoint, InputError, PairClassification, PairClassifier
from lc_finetune.schemas import Scores
from lc_finetune.testing import tiny_checkpoint
from tests.agents.chat_models import AllOrNothing

LIKED = {"rye flour": 0.9, "a bread knife": 0.7, "a shaver": 0.1}


class Knowing(RunnableLambda):
    """A classifier that knows how much is liked, and counts its batches; it fails on poison."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        super().__init__(self._answer)

    def _answer(self, pair: dict[str, str]) -> PairClassification:
        if pair["text_pair"] == "poison":
            raise ValueError("poison")
        score = LIKED[pair["text_pair"]]
        scores = Scores.of({"interested": score, "not_interested": 1 - score})
        return PairClassification(**pair, label="interested", score=score, scores=scores)

    def batch(self, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Count, and answer."""
        self.batches.append(len(inputs))
        return super().batch(inputs, *args, **kwargs)

    async def abatch(self, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Count, and answer."""
        self.batches.append(len(inputs))
        return await super().abatch(inputs, *args, **kwargs)


@pytest.fixture
def knowing() -> Knowing:
    return Knowing()


def texts(answer: dict[str, Any]) -> list[Any]:
    """The ranked items' texts."""
    return [one.item["text"] if isinstance(one.item, dict) else one.item for one in answer["ranking"]]


async def test_items_of_most_interest_come_first_and_people_share_one_call(knowing: Knowing) -> None:
    """However many people there are; what the request held besides stays."""
    chain = build_chain(knowing)
    requests = [{"history": "bakes", "items": list(reversed(LIKED)), "id": i} for i in range(4)]
    answers = chain.batch(requests)

    assert all(texts(answer) == list(LIKED) for answer in answers)
    assert [answer["id"] for answer in answers] == [0, 1, 2, 3]
    assert [one.interest for one in answers[0]["ranking"]] == [0.9, 0.7, 0.1]
    assert answers == await chain.abatch(requests)
    assert texts(await chain.ainvoke(requests[0])) == texts(chain.invoke(requests[0])) == list(LIKED)
    assert knowing.batches == [12, 12, 3, 3]


def test_features_weigh_in_log_odds(knowing: Knowing) -> None:
    """A weight of 1 moves the odds by e for each unit; a feature that is missing counts 0."""
    items = [{"text": "rye flour"}, {"text": "a bread knife", "features": {"popularity": 2, "colour": 9}}]
    plain, weighed = (build_chain(knowing, weights=w).invoke({"history": "bakes", "items": items}) for w in
                      (None, {"popularity": 1.0}))  # fmt: skip

    assert texts(plain) == ["rye flour", "a bread knife"]
    assert texts(weighed) == ["a bread knife", "rye flour"]
    assert weighed["ranking"][0].score == pytest.approx(math.log(0.7 / 0.3) + 2)


def test_features_may_be_numbers_of_numpy(knowing: Knowing) -> None:
    """As they come out of a table."""
    items = [{"text": "a shaver", "features": {"popularity": np.float32(9)}}, "rye flour"]

    assert texts(build_chain(knowing, weights={"popularity": 1.0}).invoke({"history": "bakes", "items": items})) == [
        "a shaver",
        "rye flour",
    ]


def test_without_a_history_the_other_features_rank(knowing: Knowing) -> None:
    """And nothing is asked."""
    items = [{"text": text, "features": {"popularity": i}} for i, text in enumerate(LIKED)]
    answer = build_chain(knowing, weights={"popularity": 1.0}).invoke({"history": " ", "items": items})

    assert texts(answer) == list(reversed(LIKED))
    assert {one.interest for one in answer["ranking"]} == {None}
    assert knowing.batches == []


@pytest.mark.parametrize(
    ("item", "error"),
    [
        ({"features": {}}, "Expected an item with a text, found NoneType."),
        ("  ", "found a blank one"),
        (3, "found int"),
        ({"text": "rye flour", "features": {"popularity": "high"}}, "Expected 'features' as names with finite numbers"),
        ({"text": "rye flour", "features": {"popularity": math.nan}}, "finite numbers"),
        ({"text": "rye flour", "features": {"popularity": 10**400}}, "finite numbers"),
        ({"text": "rye flour", "features": {"popularity": 1e308}}, "whose weighted sum is finite"),
        ({"text": "rye flour", "features": None}, "finite numbers"),
        ("poison", "ValueError"),
    ],
)
def test_an_item_that_cannot_be_judged_comes_last_and_says_why(knowing: Knowing, item: Any, error: str) -> None:
    """The others are ranked as if it were not there."""
    chain = build_chain(knowing, weights={"popularity": 10.0})
    (*others, last) = chain.invoke({"history": "bakes", "items": [item, "a shaver", "rye flour"]})["ranking"]

    assert [one.item for one in others] == ["rye flour", "a shaver"]
    assert last.error is not None
    assert error in last.error
    assert "poison" not in last.error
    assert (last.item, last.interest) == (item, None)


async def test_a_classifier_that_fails_as_a_whole_fails_items_only() -> None:
    """Each says why, without what the exception says."""

    def fail(pair: Any) -> Any:
        raise OSError("secret")

    chain = build_chain(AllOrNothing(fail))
    answer = chain.invoke({"history": "bakes", "items": ["a shaver", "rye flour"]})

    assert [(one.item, one.error) for one in answer["ranking"]] == [("a shaver", "OSError"), ("rye flour", "OSError")]
    assert answer == await chain.ainvoke({"history": "bakes", "items": ["a shaver", "rye flour"]})


@pytest.mark.parametrize(
    "request_", ["secret", {"history": "secret"}, {"history": None, "items": []}, {"items": ["secret"]}]
)
def test_a_request_that_is_none_fails_alone(knowing: Knowing, request_: Any) -> None:
    """By its type, without what it holds."""
    good, bad = build_chain(knowing).batch([{"history": "bakes", "items": []}, request_], return_exceptions=True)

    assert good["ranking"] == ()
    assert isinstance(bad, InputError)
    assert "secret" not in str(bad)


def test_a_language_models_bare_label_counts_as_certain() -> None:
    """It has no probability."""
    judge: Runnable[Any, Any] = RunnableLambda(
        lambda pair: PairClassification(**pair, label="interested" if "rye" in pair["text_pair"] else "not_interested",
                                        source="llm")
    )  # fmt: skip
    answer = build_chain(judge).invoke({"history": "bakes", "items": ["a shaver", "rye flour"]})

    assert [one.interest for one in answer["ranking"]] == [1.0, 0.0]
    assert texts(answer) == ["rye flour", "a shaver"]


@given(st.lists(st.booleans(), min_size=2, max_size=12), st.integers(1, 12))
def test_the_figures_are_those_of_scikit_learn(relevant: list[bool], at: int) -> None:
    """NDCG with logarithmic discount, and average precision."""
    descending = [list(range(len(relevant), 0, -1))]

    if any(relevant):
        assert ndcg(relevant, at) == pytest.approx(ndcg_score([relevant], descending, k=at))
        assert average_precision(relevant) == pytest.approx(average_precision_score(relevant, descending[0]))
    else:
        assert ndcg(relevant, at) == average_precision(relevant) == 0.0


def test_rankings_are_compared_over_people() -> None:
    """Each figure is a mean."""
    rankings: dict[str, Sequence[Sequence[str]]] = {"right": [["a", "b"], ["c", "d"]], "half": [["a", "b"], ["d", "c"]]}
    found = compare(rankings, [{"a"}, {"c"}])

    assert found["right"] == {"ndcg@3": 1.0, "map": 1.0}
    assert found["half"]["map"] == 0.75


def test_similarity_is_a_cosine() -> None:
    """Of a text with itself, 1."""
    same, other = similarities(DeterministicFakeEmbedding(size=16), "bakes", ["bakes", "a shaver"])

    assert same == pytest.approx(1.0)
    assert -1 <= other < 1


def test_the_sample_has_people_with_items_of_both_kinds() -> None:
    """Six, whom the model was not trained on."""
    requests, wanted = sample_requests()

    assert len(requests) == 6
    for request, liked in zip(requests, wanted, strict=True):
        assert 0 < len(liked) < len(request["items"]) == 5


def test_a_checkpoint_ranks(tmp_path: Any) -> None:
    """A pair classifier as it is."""
    checkpoint: Checkpoint = tiny_checkpoint(
        tmp_path / "c", task="text-pair-classification", labels=("interested", "not_interested")
    )
    classifier = PairClassifier.from_checkpoint(checkpoint, device="cpu")
    ranking = build_chain(classifier).invoke({"history": "bakes", "items": list(LIKED)})["ranking"]

    assert {one.item for one in ranking} == set(LIKED)
    assert [one.interest for one in ranking] == sorted((one.interest for one in ranking), reverse=True)


def test_the_demonstration_runs(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the model that `make demo` trains; without it, one line says so."""
    monkeypatch.chdir(tmp_path)
    assert recommendation.main(DeterministicFakeEmbedding(size=16)) == 2
    assert "make demo" in capsys.readouterr().err
    tiny_checkpoint(tmp_path / "runs" / "demo" / "interest", task="text-pair-classification",
                    labels=("interested", "not_interested"))  # fmt: skip

    assert recommendation.main(DeterministicFakeEmbedding(size=16)) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("popularity", "similarity of embeddings", "pair classifier", "ndcg@3"))
