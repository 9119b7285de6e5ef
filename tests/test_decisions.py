"""Checkpoints as LangChain decision models. Needs langchain-core 1.8 and langchain 1.5: `make test-decisions`."""

import copy
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("langchain_core.decisions")

from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain.agents.middleware import AutoModeMiddleware, ModelChoice, ModelRouterMiddleware
from langchain_core.decisions import Box, Choice, ClassifierResponse, Noul, Question, Score
from langchain_core.language_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from test_readme import snippets
from transformers.decision.template_utils import Question as SystemOneQuestion

from benchmarks import decisions as benchmark
from lc_finetune import (
    Checkpoint,
    CheckpointError,
    Classification,
    ConfigError,
    InputError,
    MultiLabelClassifier,
    OrdinalClassifier,
    Scores,
    TextClassifier,
    TextRegressor,
)
from lc_finetune.checkpoint import NumberInterval, NumberScale, write_manifest
from lc_finetune.cli import main
from lc_finetune.decisions import (
    AnsweredBy,
    FineTunedDecisionModel,
    choice_confidence,
    score_confidence,
    state_text,
)
from lc_finetune.inference import predictor as predictors
from lc_finetune.inference.predictor import Predictor
from lc_finetune.serving import create_app
from lc_finetune.testing import SENTENCES, tiny_checkpoint

ALL = {"card": "Cards.", "cash": "Cash machines.", "other": None}
TOPIC = Choice(instructions="What is it about?", criteria=ALL)
RISKY = Noul(instructions="Is it risky?")


@pytest.fixture(scope="module")
def binary(checkpoints: Path) -> Checkpoint:
    """A classifier with the labels risky and safe."""
    return tiny_checkpoint(checkpoints / "binary", labels=("risky", "safe"), seed=1)


@pytest.fixture(scope="module")
def classifier(tiny_classifier: Checkpoint) -> TextClassifier:
    return TextClassifier.from_checkpoint(tiny_classifier, device="cpu")


@pytest.fixture(scope="module")
def decisions(tiny_classifier: Checkpoint, binary: Checkpoint, tiny_multi_label: Checkpoint) -> FineTunedDecisionModel:
    return FineTunedDecisionModel.from_checkpoints(
        {"topic": tiny_classifier, "is_risky": binary, "topics": tiny_multi_label},
        questions={
            "cash": AnsweredBy(classifier="topics"),
            "plastic": AnsweredBy(classifier="topics", labels={"true": "card"}),
            "is_risky": AnsweredBy(labels={"true": "risky"}),
            "group": AnsweredBy(classifier="topic", labels={"bank": ("card", "cash")}),
            "level": AnsweredBy(classifier="topic", labels={0: "other", 1: "cash", 2: "card"}),
        },
        device="cpu",
    )


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[Predictor]:
    """One entry for each run of a model."""
    runs: list[Predictor] = []
    forward = Predictor.forward

    def counted(self: Predictor, batch: Any) -> Any:
        runs.append(self)
        return forward(self, batch)

    monkeypatch.setattr(Predictor, "forward", counted)
    return runs


def asked(state: Any, **questions: Any) -> dict[str, Any]:
    return {"state": state, "questions": questions or {"topic": TOPIC}}


# Questions.


def test_a_choice_gives_the_classifiers_probabilities(
    decisions: FineTunedDecisionModel, classifier: TextClassifier
) -> None:
    """All labels are offered: the answer is the classifier's, score for score."""
    result = classifier.invoke("Where is my card?")
    answer = decisions.invoke(asked("Where is my card?")).choices["topic"]

    assert result.label == answer.choice
    assert dict(result.scores) == pytest.approx(answer.probabilities)
    assert (result.score - 1 / 3) / (1 - 1 / 3) == pytest.approx(answer.confidence)  # type: ignore[operator]


def test_a_subset_is_renormalised(decisions: FineTunedDecisionModel, classifier: TextClassifier) -> None:
    """The probability of each label, given that it is one of those offered, in the order offered."""
    scores = classifier.invoke("my card").scores
    answer = decisions.invoke(asked("my card", topic=Choice(instructions="?", criteria={"other": None, "card": None})))

    assert list(answer.choices["topic"].probabilities) == ["other", "card"]
    assert sum(answer.choices["topic"].probabilities.values()) == pytest.approx(1)
    assert answer.choices["topic"].probabilities["card"] == pytest.approx(
        scores["card"] / (scores["card"] + scores["other"])
    )


def test_the_only_option_is_certain(decisions: FineTunedDecisionModel) -> None:
    """Nothing else can be chosen."""
    answer = decisions.invoke(asked("x", topic=Choice(instructions="?", criteria={"cash": None}))).choices["topic"]

    assert (answer.choice, answer.probabilities, answer.confidence) == ("cash", {"cash": 1.0}, 1.0)


def test_an_option_may_stand_for_several_labels(decisions: FineTunedDecisionModel, classifier: TextClassifier) -> None:
    """Its probability is the sum of theirs; an option that is not mapped means the label of its own name."""
    scores = classifier.invoke("my card").scores
    question = Choice(instructions="?", criteria={"bank": None, "other": None})

    assert {"bank": scores["card"] + scores["cash"], "other": scores["other"]} == pytest.approx(
        decisions.invoke(asked("my card", group=question)).choices["group"].probabilities
    )


def test_a_noul_is_the_probability_of_the_label_that_means_yes(
    decisions: FineTunedDecisionModel, binary: Checkpoint
) -> None:
    """As the binary model's own score."""
    scores = TextClassifier.from_checkpoint(binary, device="cpu").invoke("rm -rf /").scores

    assert scores["risky"] == pytest.approx(decisions.invoke(asked("rm -rf /", is_risky=RISKY)).nouls["is_risky"].noul)


@pytest.mark.parametrize(("labels", "question"), [(("No", "Yes"), "any"), (("refund", "rest"), "refund")])
def test_a_noul_finds_the_usual_label(labels: tuple[str, str], question: str, tmp_path: Path) -> None:
    """Yes, true or 1 in any case, or the label that is called as the question."""
    checkpoint = tiny_checkpoint(tmp_path / "c", labels=labels)
    model = FineTunedDecisionModel.from_checkpoints({question: checkpoint}, device="cpu")
    yes = "Yes" if "Yes" in labels else question
    scores = TextClassifier.from_checkpoint(checkpoint, device="cpu").invoke("x").scores

    assert scores[yes] == pytest.approx(model.invoke(asked("x", **{question: RISKY})).nouls[question].noul)


def test_a_noul_is_the_probability_of_a_label_of_several(
    decisions: FineTunedDecisionModel, tiny_multi_label: Checkpoint, forwards: list[Predictor]
) -> None:
    """As the label's own score, by its name or by the mapping, whatever its threshold; all in one forward."""
    answers = decisions.invoke(asked("my card", cash=RISKY, plastic=RISKY)).nouls
    ran = len(forwards)
    scores = MultiLabelClassifier.from_checkpoint(tiny_multi_label, device="cpu").invoke("my card").scores

    assert {name: answer.noul for name, answer in answers.items()} == pytest.approx(
        {"cash": scores["cash"], "plastic": scores["card"]}
    )
    assert ran == 1


def test_a_noul_about_one_of_several_labels_is_calibrated(tiny_multi_label: Checkpoint, tmp_path: Path) -> None:
    """By the map of that label, in a model that is made of Runnables and in one that is made of folders."""
    folder = Path(shutil.copytree(tiny_multi_label.path, tmp_path / "c"))
    random = np.random.default_rng(0)
    rows = [{"text": f"{one} {i}", "labels": ["cash"] * int(random.random() < 0.1)}
            for i in range(40) for one in SENTENCES]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["calibrate", str(folder), str(tmp_path / "rows.jsonl")]) == 0
    served = MultiLabelClassifier.from_checkpoint(folder, device="cpu")
    score = served.invoke(SENTENCES[0]).scores["cash"]
    how = {"cash": AnsweredBy(classifier="topics")}
    models = (
        FineTunedDecisionModel(classifiers={"topics": served}, questions=how),
        FineTunedDecisionModel.from_checkpoints({"topics": folder}, questions=how, device="cpu"),
    )

    assert score < 0.2
    for model in models:
        assert score == pytest.approx(model.invoke(asked(SENTENCES[0], cash=RISKY)).nouls["cash"].noul)


def test_a_score_is_the_expected_level(decisions: FineTunedDecisionModel, classifier: TextClassifier) -> None:
    """Levels count from zero in the order of the criteria; the legend holds them as given."""
    scores = classifier.invoke("my card").scores
    criteria = ["calm", {"angry": "a little"}, "Very angry indeed."]
    answer = decisions.invoke(asked("my card", level=Score(instructions="?", criteria=criteria))).scores["level"]

    assert {0: scores["other"], 1: scores["cash"], 2: scores["card"]} == pytest.approx(answer.probabilities)
    assert scores["cash"] + 2 * scores["card"] == pytest.approx(answer.score)
    assert dict(enumerate(criteria)) == answer.legend


def test_criteria_that_are_labels_need_no_mapping(decisions: FineTunedDecisionModel) -> None:
    """Ordered as offered, not as the model numbers them."""
    up, down = (
        decisions.invoke(asked("x", topic=Score(instructions="?", criteria=criteria))).scores["topic"].score
        for criteria in (["card", "cash", "other"], ["other", "cash", "card"])
    )

    assert up + down == pytest.approx(2)


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=9))
def test_confidence_is_that_of_the_system_one_api(masses: list[float]) -> None:
    """The same figures as transformers computes for its own decision models."""
    probabilities = [mass / sum(masses) for mass in masses]
    names = [str(level) for level in range(len(masses))]

    def reference(kind: Any) -> float:
        answer = SystemOneQuestion("q", kind, "?", names, names, names).answer(probabilities)
        return float(answer["confidence"])

    assert reference("choice") == pytest.approx(choice_confidence(probabilities))
    if len(masses) > 1:
        assert reference("score") == pytest.approx(score_confidence(probabilities), abs=1e-12)


def test_the_server_speaks_of_the_same_questions_and_answers(
    decisions: FineTunedDecisionModel, tiny_classifier: Checkpoint, binary: Checkpoint
) -> None:
    """LangChain's questions, as JSON, are its requests; its responses are LangChain's."""
    questions = {"topic": TOPIC, "is_risky": RISKY, "level": Score(instructions="?", criteria=["a", "b", {"c": 1}])}
    app = create_app(
        {"topic": tiny_classifier, "is_risky": binary}, device="cpu",
        questions={name: how for name, how in decisions.questions.items() if name in ("is_risky", "level")},
    )  # fmt: skip
    body = {"state": "my card", "questions": {name: one.model_dump() for name, one in questions.items()}}
    answered = TestClient(app).post("/v1/systemone", json=body).raise_for_status().json()
    read, expected = ClassifierResponse.model_validate(answered), decisions.invoke(asked("my card", **questions))

    assert read.answers.keys() == expected.answers.keys()
    assert read.scores["level"].legend == expected.scores["level"].legend
    assert read.scores["level"].score == pytest.approx(expected.scores["level"].score, abs=1e-5)
    assert read.choices["topic"].confidence == pytest.approx(expected.choices["topic"].confidence, abs=1e-5)
    assert read.nouls["is_risky"].noul == pytest.approx(expected.nouls["is_risky"].noul, abs=1e-5)
    assert read.usage is not None
    assert read.usage["total_tokens"] > 0


# Scores of models whose answers have an order.


@pytest.fixture(scope="module")
def ordered(checkpoints: Path) -> Checkpoint:
    """A classifier with the labels low, medium and high, in this order."""
    return tiny_checkpoint(checkpoints / "ordered", task="ordinal-classification")


@pytest.fixture(scope="module")
def numbers(checkpoints: Path) -> Checkpoint:
    """A regressor that answers about 5, within 2 for 90 % of the texts."""
    interval = NumberInterval(half_width=2.0, coverage=0.9, split="given", rows=100)
    return regressor(checkpoints / "numbers", NumberScale(centre=5.0, unit=0.1, interval=interval))


def regressor(folder: Path, scale: NumberScale) -> Checkpoint:
    """A tiny one with a scale."""
    made = tiny_checkpoint(folder, task="regression")
    assert made.manifest is not None
    write_manifest(folder, made.manifest.model_copy(update={"scale": scale}))
    return Checkpoint.load(folder)


def score_of(model: FineTunedDecisionModel, criteria: list[Any]) -> Any:
    """The answer to a Score of a text."""
    return model.invoke(asked("my card", q=Score(instructions="?", criteria=criteria))).scores["q"]


def test_ordered_labels_answer_a_score(ordered: Checkpoint) -> None:
    """The expected level is the expected rank, or counts down from it."""
    model = FineTunedDecisionModel.from_checkpoints({"q": ordered}, device="cpu")
    result = OrdinalClassifier.from_checkpoint(ordered, device="cpu").invoke("my card")

    assert isinstance(model.classifiers["q"], OrdinalClassifier)
    assert score_of(model, ["low", "medium", "high"]).score == pytest.approx(result.expected_rank)
    assert score_of(model, ["high", "medium", "low"]).score == pytest.approx(2 - result.expected_rank)


def test_a_level_may_stand_for_neighbouring_labels(ordered: Checkpoint) -> None:
    """Its probability is theirs together; a Choice is answered as by any classifier."""
    how = {"q": AnsweredBy(labels={"0": ("medium", "low"), "1": "high"})}
    model = FineTunedDecisionModel.from_checkpoints({"q": ordered}, questions=how, device="cpu")
    result = OrdinalClassifier.from_checkpoint(ordered, device="cpu").invoke("my card")
    choice = Choice(instructions="?", criteria={"low": None, "high": None})
    chosen = FineTunedDecisionModel.from_checkpoints({"q": ordered}, device="cpu").invoke(asked("my card", q=choice))

    assert score_of(model, ["Can wait.", "Cannot."]).score == pytest.approx(result.at_least("high"))
    assert chosen.choices["q"].choice in ("low", "high")


@pytest.mark.parametrize(
    "labels",
    [{"0": "low", "1": "high", "2": "medium"}, {"0": ("low", "high"), "1": "medium"}],
    ids=["levels", "groups"],
)
def test_levels_that_go_up_and_down_are_refused(labels: dict[str, Any], ordered: Checkpoint) -> None:
    """Nothing would mean the score between them."""
    how = {"q": AnsweredBy(labels=labels)}
    model = FineTunedDecisionModel.from_checkpoints({"q": ordered}, questions=how, device="cpu")

    with pytest.raises(InputError, match=r"in the order of the model's labels \(low, medium, high\)"):
        score_of(model, ["a", "b", "c"][: len(labels)])


def test_numbers_answer_a_score(numbers: Checkpoint) -> None:
    """Each level has what a normal error, as wide as the interval, gives to the numbers nearest to its own."""
    from scipy.stats import norm

    model = FineTunedDecisionModel.from_checkpoints({"q": numbers}, device="cpu")
    value = TextRegressor.from_checkpoint(numbers, device="cpu").invoke("my card").value
    answer = score_of(model, ["0", "5", "10"])
    up, down = score_of(model, ["4.5", "5.5"]), score_of(model, ["5.5", "4.5"])

    spread = 2.0 / norm.ppf(0.95)
    cuts = norm.cdf([2.5, 7.5], loc=value, scale=spread)
    assert [cuts[0], cuts[1] - cuts[0], 1 - cuts[1]] == pytest.approx(list(answer.probabilities.values()))
    assert answer.score == pytest.approx(1.0, abs=0.2)
    assert up.score + down.score == pytest.approx(1.0)


def test_levels_may_be_mapped_to_numbers(numbers: Checkpoint) -> None:
    """Where their criteria are words; what is no number is refused when the mapping is made."""
    how = {"q": AnsweredBy(labels={"0": "0", "1": "5", "2": "10"})}
    mapped = FineTunedDecisionModel.from_checkpoints({"q": numbers}, questions=how, device="cpu")
    plain = FineTunedDecisionModel.from_checkpoints({"q": numbers}, device="cpu")

    assert score_of(mapped, ["calm", "so-so", "angry"]).score == pytest.approx(score_of(plain, ["0", "5", "10"]).score)
    with pytest.raises(ConfigError, match="expected a number of the regressor"):
        FineTunedDecisionModel.from_checkpoints({"q": numbers}, questions={"q": AnsweredBy(labels={"0": "calm"})})


def test_an_interval_without_width_gives_the_nearest_level(tmp_path: Path) -> None:
    """A model that was always right on the held-out rows."""
    interval = NumberInterval(half_width=0.0, coverage=0.9, split="given", rows=100)
    sure = regressor(tmp_path / "sure", NumberScale(centre=5.0, unit=0.1, interval=interval))

    answer = score_of(FineTunedDecisionModel.from_checkpoints({"q": sure}, device="cpu"), ["0", "5", "10"])
    assert list(answer.probabilities.values()) == pytest.approx([0, 1, 0])


@pytest.mark.parametrize(
    ("question", "says"),
    [
        (Score(instructions="?", criteria=["0", "10", "5"]), "numbers go up, or down"),
        (Score(instructions="?", criteria=["5", "5.0"]), "numbers go up, or down"),
        (Score(instructions="?", criteria=["0", "very"]), "found none for 1"),
        (Score(instructions="?", criteria=["0", {"a": 1}]), "found none for 1"),
        (TOPIC, "Ask it a Score"),
        (RISKY, "Ask it a Score"),
    ],
)
def test_what_a_number_cannot_answer_is_refused(
    question: Any, says: str, numbers: Checkpoint, forwards: list[Predictor]
) -> None:
    """Before inference."""
    model = FineTunedDecisionModel.from_checkpoints({"q": numbers}, device="cpu")
    forwards.clear()

    with pytest.raises(InputError, match=says):
        model.invoke(asked("my card", q=question))
    assert not forwards


def test_numbers_without_an_interval_have_no_levels(tmp_path: Path) -> None:
    """Nothing tells how likely each is."""
    unknown = regressor(tmp_path / "unknown", NumberScale(centre=5.0, unit=0.1))

    with pytest.raises(InputError, match="expected a regressor with an interval"):
        score_of(FineTunedDecisionModel.from_checkpoints({"q": unknown}, device="cpu"), ["0", "5"])


# What is refused, each item alone.

BAD_QUESTIONS: dict[str, tuple[str, Any, str]] = {
    "a label that the model lacks": ("topic", Choice(instructions="?", criteria={"crad": None, "cash": None}),
                                     "did you mean 'card'"),
    "a level that the model lacks": ("topic", Score(instructions="?", criteria=["card", {"a": 1}]), "levels"),
    "a label offered twice": ("group", Choice(instructions="?", criteria={"bank": None, "card": None}), "several"),
    "yes or no of three labels": ("topic", RISKY, "two labels"),
    "a choice of labels that may all be right": ("topics", TOPIC, "Ask a Noul"),
    "a level of labels that may all be right": ("topics", Score(instructions="?", criteria=["card", "cash"]), "Noul"),
    "yes or no about a label that is not there": ("topics", RISKY, "means yes"),
    "an id that nothing answers": ("topik", TOPIC, "did you mean 'topic'"),
    "a place in an image": ("topic", Box(instructions="?"), "Choice, a Noul or a Score"),
    "a malformed question": ("topic", {"type": "choice", "instructions": "my secret text"}, "choice.criteria"),
    "no question at all": ("topic", None, "NoneType"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "question", "says"), BAD_QUESTIONS.values(), ids=BAD_QUESTIONS)
def test_a_bad_question_is_refused_before_inference(
    name: str, question: Any, says: str, decisions: FineTunedDecisionModel, forwards: list[Predictor]
) -> None:
    """No model runs for it, and its neighbour in the batch is answered."""
    with pytest.raises(InputError, match=says) as refused:
        decisions.invoke(asked("my secret text", **{name: question}))
    assert not forwards
    assert "secret" not in str(refused.value)

    first, second = decisions.batch([asked("x", **{name: question}), asked("x")], return_exceptions=True)
    assert isinstance(first, InputError)
    assert second.choices["topic"].choice in ALL


BAD_STATES: dict[str, tuple[Any, str]] = {
    "nothing": ("", "empty"),
    "blanks": (" \n", "empty"),
    "an empty message": (HumanMessage(""), "empty"),
    "no messages": ([], "empty"),
    "a state without messages": ({"messages": []}, "empty"),
    "an empty object": ({}, "empty"),
    "no human message": ([SystemMessage("my secret text"), AIMessage("my secret text")], "human message"),
    "bytes": (b"my secret text", "bytes"),
    "no state": (None, "NoneType"),
    "a number": (3, "int"),
    "what is no JSON": ({"my secret text, of five words": {1, 2}}, "set"),
    "NaN": ({"value": float("nan")}, "NaN"),
    "a message of numbers": ([{"role": "user", "content": [1, 2]}], "list of blocks"),
    "an image": ([{"type": "image", "url": "https://example.com/secret.png"}], "media"),
    "a message with an image": (
        HumanMessage([{"type": "text", "text": "my secret text"}, {"type": "image_url", "image_url": {"url": "x"}}]),
        "media",
    ),
}


@pytest.mark.parametrize(("state", "says"), BAD_STATES.values(), ids=BAD_STATES)
async def test_a_bad_state_fails_its_item_alone(state: Any, says: str, decisions: FineTunedDecisionModel) -> None:
    """By a message that says what is wrong and quotes nothing."""
    for outcomes in (
        decisions.batch([asked("x"), asked(state)], return_exceptions=True),
        await decisions.abatch([asked("x"), asked(state)], return_exceptions=True),
    ):
        assert outcomes[0].choices["topic"].choice in ALL
        assert isinstance(outcomes[1], InputError)
        assert says in str(outcomes[1])
        assert "secret" not in str(outcomes[1])


@pytest.mark.parametrize(
    "request_", ["x", {"state": "x"}, {"state": "x", "questions": {}}, {"questions": {"a": TOPIC}}]
)
def test_a_request_has_a_state_and_questions(request_: Any, decisions: FineTunedDecisionModel) -> None:
    """A text alone asks nothing."""
    with pytest.raises(InputError, match=r"Expected (a mapping with 'state'|questions by their ids)"):
        decisions.invoke(request_)


def test_no_probability_at_all_is_no_answer(decisions: FineTunedDecisionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibrated score may be exactly 1: then nothing can be said of the other labels."""
    certain = Classification(text="x", label="card", score=1.0, scores=Scores.of({"card": 1.0, "cash": 0, "other": 0}))
    monkeypatch.setattr(Predictor, "predict", lambda self, texts: [certain for _ in texts])

    with pytest.raises(InputError, match="none of them any probability"):
        decisions.invoke(asked("x", topic=Choice(instructions="?", criteria={"cash": None, "other": None})))


def test_a_mapping_is_checked_when_it_is_made(tiny_classifier: Checkpoint, tiny_tagger: Checkpoint) -> None:
    """Names of classifiers at once, labels when the model is loaded."""
    one = {"topic": TextClassifier(checkpoint=str(tiny_classifier.path), device="cpu")}
    with pytest.raises(ConfigError, match="did you mean 'topic'"):
        FineTunedDecisionModel(classifiers=one, questions={"q": AnsweredBy(classifier="topics")})
    with pytest.raises(ConfigError, match="did you mean 'card'"):
        FineTunedDecisionModel(classifiers=one, questions={"topic": AnsweredBy(labels={"a": "cards"})}).warm_up()
    with pytest.raises(ConfigError, match="at least one label"):
        AnsweredBy(labels={"a": ()})
    with pytest.raises(CheckpointError, match="text classifier"):
        FineTunedDecisionModel.from_checkpoints({"topic": tiny_tagger}, device="cpu")


@pytest.mark.parametrize("labels", [{}, {"true": "dangerous"}, {"true": ("risky", "safe")}, {"false": "safe"}])
def test_which_label_means_yes_is_never_guessed(labels: dict[str, Any], binary: Checkpoint) -> None:
    """One label of the two is named, by its own name or by the mapping."""
    classifiers = {"q": TextClassifier(checkpoint=str(binary.path), device="cpu")}
    model = FineTunedDecisionModel(classifiers=classifiers, questions={"q": AnsweredBy(labels=labels)})

    with pytest.raises(InputError, match="means yes"):
        model.invoke(asked("x", q=RISKY))


# States.

CALLING = AIMessage("", tool_calls=[{"name": "delete", "args": {"path": "/tmp"}, "id": "1"}])
STATES: dict[str, tuple[Any, str]] = {
    "a string": (" As it is.\n", " As it is.\n"),
    "a message": (AIMessage("hello"), "hello"),
    "blocks of text": (HumanMessage(["a", {"type": "text", "text": "b"}]), "a\nb"),
    "messages": ([HumanMessage("first"), HumanMessage("last"), AIMessage("answer")], "last"),
    "messages as mappings": ([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}], "hi"),
    "an agent's state": ({"messages": [HumanMessage("hi"), ToolMessage("42", tool_call_id="1")]}, "hi"),
    "a row": ({"text": "hi", "id": 3}, "hi"),
    "an object": ({"b": "Zoë", "a": [1, None, True]}, '{"b": "Zoë", "a": [1, null, true]}'),
    "an array": (["a", "b"], '["a", "b"]'),
    "messages among other things": (
        {"messages": [HumanMessage("hi"), CALLING], "tool": "delete"},
        '{"messages": [{"role": "human", "content": "hi"}, {"role": "ai", "content": "", "tool_calls": '
        '[{"name": "delete", "args": {"path": "/tmp"}}]}], "tool": "delete"}',
    ),
}


@pytest.mark.parametrize(("state", "text"), STATES.values(), ids=STATES)
def test_what_is_read_of_a_state(
    state: Any, text: str, decisions: FineTunedDecisionModel, classifier: TextClassifier
) -> None:
    """One rule for each shape, and the model answers that text."""
    assert text == state_text(state)
    assert dict(classifier.invoke(text).scores) == pytest.approx(
        decisions.invoke(asked(state)).choices["topic"].probabilities, abs=1e-5
    )


def test_parts_of_a_state_are_read() -> None:
    """Each by the same rules, one under the other."""
    state = {"messages": [HumanMessage("hi")], "tool_call": {"id": "c1", "name": "delete", "args": {"path": "/"}}}

    assert state_text(state, reads=("tool_call.name", "tool_call.args", "messages")) == 'delete\n{"path": "/"}\nhi'
    with pytest.raises(InputError, match=r"key 'tool_call.nmae'"):
        state_text(state, reads=("tool_call.nmae",))


def test_deep_json_is_refused() -> None:
    """Not a crash."""
    state: list[Any] = [1]
    for _ in range(100_000):
        state = [state]

    with pytest.raises(InputError, match="levels"):
        state_text(state)


# Batches.


async def test_every_way_to_call_gives_the_same(decisions: FineTunedDecisionModel) -> None:
    """invoke, ainvoke, batch and abatch agree, in order."""
    requests = [asked(text) for text in SENTENCES]
    alone = [decisions.invoke(request) for request in requests]
    ways = [
        [await decisions.ainvoke(request) for request in requests],
        decisions.batch(requests),
        await decisions.abatch(requests),
    ]

    for answers in ways:
        assert [one.choices["topic"].choice for one in alone] == [one.choices["topic"].choice for one in answers]
        for one, other in zip(alone, answers, strict=True):
            assert one.choices["topic"].probabilities == pytest.approx(other.choices["topic"].probabilities, abs=1e-5)
    assert decisions.batch([]) == await decisions.abatch([]) == []


async def test_questions_over_one_checkpoint_cost_no_further_forwards(
    decisions: FineTunedDecisionModel,
    classifier: TextClassifier,
    tiny_classifier: Checkpoint,
    forwards: list[Predictor],
) -> None:
    """As many forwards as the classifier needs for the texts, whatever is asked of them, and under any name."""
    texts = [f"{sentence} {number}" for number in range(8) for sentence in SENTENCES]
    questions: dict[str, Question] = {
        "topic": TOPIC,
        "group": Choice(instructions="?", criteria={"bank": None, "other": None}),
        "level": Score(instructions="?", criteria=["a", "b", "c"]),
    }
    classifier.batch(texts)
    alone = len(forwards)
    decisions.batch([asked(text, **questions) for text in texts])
    in_batch = len(forwards) - alone
    await decisions.abatch([asked(text, **questions) for text in texts])
    in_abatch = len(forwards) - alone - in_batch
    decisions.invoke(asked("one", **questions))
    in_one = len(forwards) - alone - in_batch - in_abatch
    named_twice = FineTunedDecisionModel(classifiers={"topic": classifier, "level": classifier})
    named_twice.invoke(asked("two", topic=TOPIC, level=Score(instructions="?", criteria=["card", "cash"])))

    assert alone == in_batch == in_abatch
    assert in_one == 1
    assert len(forwards) == 3 * alone + 2


def test_several_checkpoints_answer_one_request(decisions: FineTunedDecisionModel, forwards: list[Predictor]) -> None:
    """One forward each; answers under the questions' ids, in their order."""
    response = decisions.invoke(asked("delete my card", is_risky=RISKY, topic=TOPIC))

    assert len(forwards) == 2
    assert list(response.answers) == ["is_risky", "topic"]


def test_each_item_is_a_run(decisions: FineTunedDecisionModel) -> None:
    """Of the type that LangChain gives to decision models, with the names of provider and model."""
    collector = RunCollectorCallbackHandler()
    config = {"callbacks": [collector], "tags": ["mine"]}
    decisions.invoke(asked("x"), config)  # type: ignore[arg-type]
    decisions.batch([asked("x"), asked("")], config, return_exceptions=True)  # type: ignore[arg-type]

    assert [run.run_type for run in collector.traced_runs] == ["llm"] * 3
    assert [run.error is not None for run in collector.traced_runs] == [False, False, True]
    assert all(run.metadata["ls_provider"] == "lc_finetune" for run in collector.traced_runs)
    assert all(run.metadata["ls_model_name"] == decisions.model for run in collector.traced_runs)
    assert all("mine" in (run.tags or []) for run in collector.traced_runs)


def test_a_batch_takes_a_config_for_each_item(decisions: FineTunedDecisionModel) -> None:
    """One too few is an error, as everywhere in LangChain."""
    collector = RunCollectorCallbackHandler()
    decisions.batch([asked("x")] * 2, [{"callbacks": [collector]}, {}])

    assert len(collector.traced_runs) == 1
    with pytest.raises(ValueError, match="length"):
        decisions.batch([asked("x")] * 2, [{}])


# Types and copies.


class Support(FineTunedDecisionModel):
    """A user's own."""


@pytest.mark.parametrize("kind", [FineTunedDecisionModel, Support])
def test_schemas_are_built_in_subclasses_too(kind: type[FineTunedDecisionModel], classifier: TextClassifier) -> None:
    """JSON schemas of request and response; the request's validates what is answered."""
    model = kind(classifiers={"topic": classifier})
    request = model.get_input_schema().model_validate(asked([HumanMessage("hi")], topic=TOPIC.model_dump()))

    assert {"state", "questions"} == set(model.get_input_jsonschema()["$defs"]["DecisionRequest"]["properties"])
    assert {"model", "answers"} <= set(model.get_output_jsonschema()["properties"])
    assert model.invoke(request.root).choices["topic"].choice in ALL  # type: ignore[attr-defined]
    json.dumps(model.get_config_jsonschema())


def test_it_is_written_and_read(decisions: FineTunedDecisionModel) -> None:
    """`dumps` and `loads`, a copy, a pickle: the same answers, and no weights written."""
    written = dumps(decisions)
    read = loads(
        written,
        allowed_objects=[FineTunedDecisionModel, TextClassifier, MultiLabelClassifier, AnsweredBy],
        valid_namespaces=["lc_finetune"],
    )
    request = asked("my card", group=Choice(instructions="?", criteria={"bank": None, "other": None}))
    expected = decisions.invoke(request)

    assert len(written) < 5000
    for other in (read, copy.deepcopy(decisions), pickle.loads(pickle.dumps(decisions))):
        assert expected.model == other.model
        assert expected.choices["group"].probabilities == pytest.approx(
            other.invoke(request).choices["group"].probabilities, abs=1e-5
        )


# In agents.


def answering(text: str) -> FakeListChatModel:
    """A chat model that always says the same."""
    return FakeListChatModel(responses=[text])


def routed(classifier: Any, routes: tuple[str, ...] = ("bank", "other")) -> Any:
    """An agent whose model is chosen by the classifier; each model answers its own name."""
    router = ModelRouterMiddleware(
        choices={route: ModelChoice(model=answering(route), criteria=f"All about {route}.") for route in routes},
        instructions="Which model should answer?",
        classifier=classifier,
    )
    return create_agent(answering("none"), middleware=[router])


@pytest.fixture
def router(tiny_classifier: Checkpoint) -> FineTunedDecisionModel:
    return FineTunedDecisionModel.from_checkpoints(
        {"intent": tiny_classifier},
        questions={"model_route": AnsweredBy(classifier="intent", labels={"bank": ("card", "cash")})},
        device="cpu",
    )


async def test_an_agent_is_routed(router: FineTunedDecisionModel) -> None:
    """By the last human message, to the model that the classifier chooses."""
    agent = routed(router)
    question = Choice(instructions="?", criteria={"bank": None, "other": None})
    for text in SENTENCES:
        expected = router.invoke(asked(text, model_route=question)).choices["model_route"]
        state = {"messages": [HumanMessage("before"), AIMessage("answer"), HumanMessage(text)]}
        for answered in (agent.invoke(state), await agent.ainvoke(state)):
            assert expected.choice == answered["messages"][-1].content
            assert expected == answered["model_route"]


def test_a_route_without_a_label_ends_the_run(router: FineTunedDecisionModel) -> None:
    """Nothing is routed by chance."""
    with pytest.raises(InputError, match="refund"):
        routed(router, ("bank", "refund")).invoke({"messages": [HumanMessage("hi")]})


def test_a_thousand_texts_load_the_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across all the runs of an agent, over a checkpoint that nothing has loaded before."""
    loads_: list[str] = []
    load_backend = predictors.load_backend

    def counted(checkpoint: Checkpoint, **options: Any) -> Any:
        loads_.append(str(checkpoint.path))
        return load_backend(checkpoint, **options)

    monkeypatch.setattr(predictors, "load_backend", counted)
    checkpoint = tiny_checkpoint(tmp_path / "c", seed=7)
    model = FineTunedDecisionModel(
        classifiers={"model_route": TextClassifier(checkpoint=str(checkpoint.path), device="cpu")}
    )
    texts = [f"{SENTENCES[number % len(SENTENCES)]} {number}" for number in range(1000)]
    states = [{"messages": [HumanMessage(text)]} for text in texts]
    answered = routed(model, ("card", "cash", "other")).batch(states, {"max_concurrency": 8})

    expected = TextClassifier.from_checkpoint(checkpoint, device="cpu").batch(texts)
    assert [result.label for result in expected] == [state["messages"][-1].content for state in answered]
    assert [str(checkpoint.path)] == loads_


class Caller(GenericFakeChatModel):
    """A chat model that calls the tool once, then answers."""

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self


@pytest.mark.parametrize("reads", [(), ("tool_call.name", "tool_call.args", "messages")])
async def test_risky_tool_calls_are_blocked(reads: tuple[str, ...], binary: Checkpoint) -> None:
    """From a probability of 0.5 on the tool does not run. The two labels are complementary: one way blocks."""
    deleted: list[str] = []

    @tool
    def delete(path: str) -> str:
        """Delete a file."""
        deleted.append(path)
        return "gone"

    def calls() -> Iterator[AIMessage]:
        yield AIMessage("", tool_calls=[{"name": "delete", "args": {"path": "/tmp/x"}, "id": "1"}])
        yield AIMessage("done")

    statuses = []
    for yes in ("risky", "safe"):
        model = FineTunedDecisionModel.from_checkpoints(
            {"risk": binary},
            questions={"is_risky": AnsweredBy(classifier="risk", labels={"true": yes}, reads=reads)},
            device="cpu",
        )
        middleware = AutoModeMiddleware(tools=[delete], classifier=model)
        for way in ("invoke", "ainvoke"):
            agent: Any = create_agent(Caller(messages=calls()), tools=[delete], middleware=[middleware])
            state = {"messages": [HumanMessage("Delete it, please.")]}
            answered = agent.invoke(state) if way == "invoke" else await agent.ainvoke(state)
            statuses.append(next(m.status for m in answered["messages"] if isinstance(m, ToolMessage)))

    assert sorted([statuses[:2], statuses[2:]]) == [["error", "error"], ["success", "success"]]
    assert deleted == ["/tmp/x", "/tmp/x"]


# The page and the measurement.


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "runs" / "support", labels=("other", "refund_request", "track_order"))
    tiny_checkpoint(tmp_path / "runs" / "urgent", labels=("no", "yes"))
    tiny_checkpoint(tmp_path / "runs" / "mood", labels=("angry", "calm", "concerned"))
    interval = NumberInterval(half_width=2.0, coverage=0.9, split="given", rows=100)
    regressor(tmp_path / "runs" / "ratings", NumberScale(centre=5.0, unit=0.1, interval=interval))
    namespace: dict[str, Any] = {}
    tiny_checkpoint(tmp_path / "runs" / "topics", task="multi-label-classification", labels=("delivery", "payment"))
    for snippet in snippets("docs/decisions.md"):
        exec(snippet, namespace)

    assert list(namespace["response"].answers) == ["intent", "urgent", "mood"]
    assert namespace["rated"].scores["urgency"].score == pytest.approx(1.0, abs=0.2)
    assert namespace["routed"]["messages"][-1].content in ("From the small model.", "From the large model.")


def test_the_benchmark_runs(tiny_classifier: Checkpoint, tmp_path: Path) -> None:
    """Every way is measured, and none of ours needs a forward more than the classifier."""
    output = tmp_path / "results.json"
    samples = Path(__file__).parent.parent / "lc_finetune" / "data" / "samples" / "support" / "test.csv"
    status = benchmark.main(f"{tiny_classifier.path} --texts {samples} --rounds 1 --items 16 --output {output}".split())
    (table,) = json.loads(output.read_text())["tables"]

    assert status == 0
    assert list(table["rows"]) == ["classifier.batch", "decisions.batch", "decisions.batch, 3 questions"]
    assert len({row["forwards"] for row in table["rows"].values()}) == 1
