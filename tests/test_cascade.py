"""The cascade: what the small model is sure of stays, the rest is asked of the large one."""

import asyncio
import json
import logging
import stat
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler, CallbackManagerForLLMRun
from langchain_core.language_models import FakeListChatModel, SimpleChatModel
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import ConfigurableField, Runnable, RunnableConfig, RunnableLambda
from pydantic import BaseModel, Field

from lc_finetune import (
    Cascade,
    Checkpoint,
    Classification,
    ConfigError,
    InputError,
    LabelOutputParser,
    LabelRouter,
    TextClassifier,
)
from lc_finetune.data import read_examples
from lc_finetune.parsers import AnswerError

LABELS = ("card", "cash", "other")


class Answering(Runnable[Any, Any]):
    """Answers by a function of one input; records how many items each call had."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.calls: list[int] = []
        self.asked: list[Any] = []

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        raise AssertionError("expected one batch, found a call of one")

    def batch(self, inputs: list[Any], config: Any = None, *, return_exceptions: bool = False, **kwargs: Any) -> Any:
        self.calls.append(len(inputs))
        self.asked += inputs
        return self._batch_with_config(self._many, inputs, config, return_exceptions=return_exceptions)

    async def abatch(
        self, inputs: list[Any], config: Any = None, *, return_exceptions: bool = False, **kwargs: Any
    ) -> Any:
        return self.batch(inputs, config, return_exceptions=return_exceptions, **kwargs)

    def _many(self, values: list[Any]) -> list[Any]:
        outcomes: list[Any] = []
        for value in values:
            try:
                outcomes.append(self.function(value))
            except Exception as error:
                outcomes.append(error)
        return outcomes


class Chat(SimpleChatModel):
    """A chat model that answers by a function of the last message, and keeps what it was asked."""

    answer: Any = "card"
    seen: list[Any] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "chat"

    def _call(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> str:
        self.seen.append((messages, stop))
        return str(self.answer(messages[-1].text) if callable(self.answer) else self.answer)


def judged(text: str) -> Classification:
    """A small model for texts such as `card 0.9 yes`: label, score, accepted."""
    label, score, accepted = text.split()
    known = {"yes": True, "no": False, "?": None}
    return Classification(text=text, label=label, score=float(score), accepted=known[accepted])


def cascade(large: Any, **options: Any) -> Cascade:
    return Cascade(small=Answering(judged), large=large, labels=LABELS, **options)


async def each_way(runnable: Runnable[Any, Any], texts: Sequence[Any], **options: Any) -> Any:
    """What `batch` and `abatch` answer, which must be the same."""
    answers = runnable.batch(list(texts), **options)
    awaited = await runnable.abatch(list(texts), **options)

    assert list(map(repr, answers)) == list(map(repr, awaited))
    return answers


TEXTS = ("card 0.9 yes", "card 0.3 no", "cash 0.8 yes", "cash 0.2 no")


# Who answers.


async def test_what_is_accepted_stays_and_the_rest_is_asked_in_one_batch() -> None:
    """In order, one call of each model for the whole batch; `source` says who answered."""
    large = Answering(lambda text: "other")
    careful = cascade(large)
    answers = await each_way(careful, TEXTS)

    assert [answer.label for answer in answers] == ["card", "other", "cash", "other"]
    assert [answer.source for answer in answers] == ["model", "llm", "model", "llm"]
    assert list(TEXTS) == [answer.text for answer in answers]
    assert (answers[1].score, answers[1].accepted) == (None, None)
    assert large.calls == [2, 2]
    assert careful.small.calls == [4, 4]  # type: ignore[attr-defined]


async def test_the_large_model_is_not_called_when_all_is_accepted() -> None:
    """Not even with an empty batch."""
    large = Answering(lambda text: "other")
    await each_way(cascade(large), TEXTS[::2])

    assert large.calls == []


def test_a_chat_model_is_asked_with_the_labels() -> None:
    """The labels and how to answer in a message of ours, the text unchanged in one of the user's."""
    chat = Chat(answer='```json\n{"label": "Cash"}\n```')
    (answer,) = cascade(chat).batch(["card 0.3 no"])
    ((system, human), _) = chat.seen[0]

    assert answer == Classification(text="card 0.3 no", label="cash", source="llm")
    assert LabelOutputParser(labels=LABELS).get_format_instructions() in system.text
    assert human.text == "card 0.3 no"
    assert (system.type, human.type) == ("system", "human")


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda chat: chat.bind(stop=["."]),
        lambda chat: chat.with_config(max_concurrency=1),
        lambda chat: chat.with_retry(),
        lambda chat: chat.with_fallbacks([FakeListChatModel(responses=["other"])]),
        lambda chat: chat | RunnableLambda(lambda message: message.text),
    ],
)
def test_a_chat_model_in_a_wrapper_is_asked_alike(wrapped: Callable[[Any], Any]) -> None:
    """Whatever takes prompts is given one."""
    chat = Chat(answer="cash")

    assert cascade(wrapped(chat)).invoke("card 0.3 no").label == "cash"
    assert "- other" in chat.seen[0][0][0].text


class Intent(BaseModel):
    label: str
    reason: str = ""


@pytest.mark.parametrize(
    "answer",
    [
        "cash",
        AIMessage("The label is **cash**."),
        {"label": "cash", "reason": "card is mentioned"},
        Intent(label="cash"),
        Classification(text="", label="cash", source="llm"),
    ],
)
def test_any_runnable_that_answers_a_label_is_large(answer: Any) -> None:
    """It gets the input as it is; the answer is a word, a message, structured output or a result."""
    large = Answering(lambda text: answer)
    result = cascade(large).invoke("card 0.3 no")

    assert result == Classification(text="card 0.3 no", label="cash", source="llm")
    assert large.asked == ["card 0.3 no"]


def test_a_chain_of_ones_own_sees_the_whole_input() -> None:
    """Such as a mapping with more than the text."""
    chat = Chat(answer="cash")
    prompt = ChatPromptTemplate.from_template("{customer} says {text}. Which label?")
    small = RunnableLambda(lambda item: judged(item["text"]))
    careful = Cascade(small=small, large=prompt | chat, labels=LABELS)

    assert careful.invoke({"text": "card 0.3 no", "customer": "Ann"}).label == "cash"
    assert chat.seen[0][0][0].text == "Ann says card 0.3 no. Which label?"


def test_a_larger_classifier_keeps_its_score() -> None:
    """Two fine-tuned models make a cascade too."""
    large = Answering(lambda text: Classification(text=text, label="cash", score=0.7, accepted=True))
    result = cascade(large).invoke("card 0.3 no")

    assert (result.label, result.score, result.accepted, result.source) == ("cash", 0.7, True, "model")


async def test_a_blank_text_is_nobodys_question() -> None:
    """The small model's answer stays, and is not accepted."""
    small = Answering(lambda text: Classification(text=text, label="card", score=0.4, accepted=False))
    large = Answering(lambda text: "cash")
    answers = await each_way(Cascade(small=small, large=large, labels=LABELS), [" \n", "x"])

    assert [(answer.label, answer.accepted) for answer in answers] == [("card", False), ("cash", None)]
    assert large.asked == ["x", "x"]


# Without calibration.


def test_without_calibration_a_threshold_decides() -> None:
    """A score that reaches it stays."""
    answers = cascade(Answering(lambda text: "other"), threshold=0.8).batch(["card 0.8 ?", "card 0.79 ?"])

    assert [answer.label for answer in answers] == ["card", "other"]


async def test_without_calibration_or_threshold_there_is_no_deciding() -> None:
    """An error for that item alone, which says what is missing."""
    outcomes = await each_way(
        cascade(Answering(lambda text: "other")), ["card 0.9 yes", "card 0.9 ?"], return_exceptions=True
    )

    assert outcomes[0].label == "card"
    assert isinstance(outcomes[1], ConfigError)
    assert "threshold" in str(outcomes[1])


def test_a_real_checkpoint_stands_in_front_of_a_chat_model(tiny_classifier: Checkpoint) -> None:
    """Its labels are the cascade's; nothing is loaded before the first call."""
    classifier = TextClassifier(checkpoint=str(tiny_classifier.path), device="cpu")
    chat = Chat(answer=lambda text: "cash")
    careful = Cascade(small=classifier, large=chat, threshold=1.0, max_share=0.5)
    assert classifier._predictor is None
    texts = [f"where is my card {i}" for i in range(8)]
    answers = careful.batch([{"text": text} for text in texts])
    scores = [result.score or 0.0 for result in classifier.batch(texts)]
    lowest = sorted(sorted(range(8), key=lambda i: scores[i])[:4])

    assert lowest == [i for i, answer in enumerate(answers) if answer.source == "llm"]
    assert {texts[i] for i in lowest} == {messages[1].text for messages, _ in chat.seen}
    assert {"label"} <= set(careful.assign(size=len).invoke("hello"))
    assert careful.pick("label").invoke("hello") in LABELS


# Budget and pace.


@pytest.mark.parametrize(
    ("budget", "asked"),
    [
        ({"max_escalations": 2}, [1, 4]),
        ({"max_escalations": 0}, []),
        ({"max_share": 0.2}, [4]),
        ({"max_share": 0.21}, [1, 4]),
        ({"max_share": 1.0, "max_escalations": 1}, [4]),
        ({}, [0, 1, 2, 4]),
    ],
)
async def test_a_budget_goes_to_the_lowest_scores(budget: dict[str, Any], asked: list[int]) -> None:
    """The small model's answers to the others stay, and stay not accepted."""
    texts = ["card 0.4 no", "card 0.2 no", "card 0.3 no", "card 0.9 yes", "card 0.1 no"]
    answers = await each_way(cascade(Answering(lambda text: "other"), **budget), texts)

    assert asked == [i for i, answer in enumerate(answers) if answer.source == "llm"]
    assert {False} >= {answer.accepted for answer in answers if answer.source == "model" and answer.score < 0.9}


async def test_langchains_rate_limiter_paces_the_large_model() -> None:
    """It is asked for each escalation, and for nothing else."""

    class Counting(BaseRateLimiter):
        def __init__(self) -> None:
            self.count = 0

        def acquire(self, *, blocking: bool = True) -> bool:
            self.count += 1
            return True

        async def aacquire(self, *, blocking: bool = True) -> bool:
            return self.acquire()

    limiter = Counting()
    await each_way(cascade(Chat(rate_limiter=limiter)), TEXTS)

    assert limiter.count == 4


def test_max_concurrency_bounds_the_questions_in_flight() -> None:
    """Two meet at a barrier; with a limit of one they never do."""
    texts = ["card 0.3 no"] * 2
    for limit, expected in ((2, "llm"), (1, "model")):
        barrier = threading.Barrier(2, timeout=60 if limit == 2 else 0.2)
        large: Any = RunnableLambda(lambda text, meet=barrier: LABELS[meet.wait()])
        answers = cascade(large).batch(texts, {"max_concurrency": limit})

        assert {answer.source for answer in answers} == {expected}


# When the large model fails.


def failing(text: str) -> str:
    """Fails in every way that a text asks for."""
    if "0.1" in text:
        raise TimeoutError("too late")
    if "0.2" in text:
        return "neither of them"
    return "other"


FAILING = ["card 0.3 no", "card 0.1 no", "card 0.9 yes", "card 0.2 no"]


@pytest.mark.parametrize("large", [Answering(failing), Chat(answer=failing), RunnableLambda(failing)])
async def test_by_default_the_small_models_answer_stays(large: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Not accepted still, and it is said how often, without a text."""
    answers = await each_way(cascade(large), FAILING)

    assert [(answer.label, answer.accepted) for answer in answers] == [
        ("other", None),
        ("card", False),
        ("card", True),
        ("card", False),
    ]
    assert "2 of 3 escalations failed (1 TimeoutError, 1 AnswerError)" in caplog.text
    assert "0.1" not in caplog.text


@pytest.mark.parametrize("large", [Answering(failing), Chat(answer=failing)])
async def test_failures_are_raised_if_wanted(large: Any) -> None:
    """Each in its own slot."""
    careful = cascade(large, on_error="raise")
    outcomes = await each_way(careful, FAILING, return_exceptions=True)

    assert [Classification, TimeoutError, Classification, AnswerError] == list(map(type, outcomes))
    with pytest.raises(TimeoutError):
        careful.batch(FAILING)
    with pytest.raises(AnswerError):
        await careful.ainvoke(FAILING[3])


async def test_failures_go_to_a_route() -> None:
    """All of them in one batch, as the small model's results; what it answers stands in their places."""
    person = Answering(lambda result: f"a colleague reads {result.text}")
    answers = await each_way(cascade(Answering(failing), on_error=person), FAILING)

    assert [answers[1], answers[3]] == [f"a colleague reads {FAILING[i]}" for i in (1, 3)]
    assert [answers[0].label, answers[2].label] == ["other", "card"]
    assert person.calls == [2, 2]


async def test_a_route_that_fails_fails_its_item_alone() -> None:
    """The others keep their answers."""
    outcomes = await each_way(
        cascade(Answering(failing), on_error=Answering(lambda result: 1 / 0)), FAILING, return_exceptions=True
    )

    assert [Classification, ZeroDivisionError, Classification, ZeroDivisionError] == list(map(type, outcomes))


@pytest.mark.parametrize("broken", [RuntimeError("down"), ["only one"]])
async def test_a_large_model_that_breaks_the_contract_fails_its_items_alone(broken: Any) -> None:
    """It raises for the whole batch, or leaves answers out: what is accepted has its answer all the same."""

    class Broken(Answering):
        def batch(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(broken, Exception):
                raise broken
            return broken

    outcomes = await each_way(cascade(Broken(len), on_error="raise"), TEXTS, return_exceptions=True)

    assert [isinstance(outcome, Exception) for outcome in outcomes] == [False, True, False, True]


def test_an_answer_of_another_type_or_label_is_no_answer() -> None:
    """The error holds no text."""
    for answer in (3, None, "refund", Classification(text="secret", label="refund"), {"label": "refund"}):
        with pytest.raises(AnswerError) as caught:
            cascade(Answering(lambda _, answer=answer: answer), on_error="raise").invoke("card 0.3 no")
        assert "secret" not in str(caught.value)


async def test_an_input_that_the_small_model_refuses_fails_alone() -> None:
    """As does what is no classification; whatever the policy, nobody is asked about it."""

    def small(text: str) -> Any:
        if text == "bad":
            raise InputError("Expected a text.")
        return "card" if text == "odd" else judged(text)

    large = Answering(lambda text: "other")
    careful = Cascade(small=Answering(small), large=large, labels=LABELS)
    outcomes = await each_way(careful, ["bad", "card 0.3 no", "odd"], return_exceptions=True)

    assert [InputError, Classification, InputError] == list(map(type, outcomes))
    assert large.asked == ["card 0.3 no"] * 2


async def test_the_event_loop_is_not_blocked_and_a_deadline_is_kept() -> None:
    """Other tasks run while the large model is waited for; cancelling reaches it."""
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def slow(text: str) -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "card"

    waiting = asyncio.create_task(cascade(RunnableLambda(slow)).abatch(list(TEXTS)))
    await started.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert cancelled.is_set()


# In LangChain.


async def test_each_model_is_a_run_of_its_own_for_each_item() -> None:
    """Children of the cascade's run, with their tags and the item's own configuration."""

    class Runs(BaseCallbackHandler):
        def __init__(self) -> None:
            self.seen: list[tuple[str, tuple[str, ...], Any]] = []
            self.top: set[Any] = set()
            self.parents: set[Any] = set()

        def on_chain_start(self, serialized: Any, inputs: Any, *, run_id: Any, **kwargs: Any) -> None:
            if kwargs.get("parent_run_id") is None:
                self.top.add(run_id)
            else:
                self.parents.add(kwargs["parent_run_id"])
            self.seen.append((kwargs["name"], tuple(sorted(kwargs["tags"])), kwargs["metadata"].get("n")))

    for call in ("batch", "abatch"):
        runs = Runs()
        configs: list[Any] = [{"callbacks": [runs], "metadata": {"n": n}, "tags": ["t"]} for n in range(2)]
        careful = Cascade(
            small=RunnableLambda(judged, name="small"),
            large=RunnableLambda(failing, name="large"),
            on_error=RunnableLambda(repr, name="route"),
            labels=LABELS,
        )
        if call == "batch":
            careful.batch(["card 0.9 yes", "card 0.1 no"], configs)
        else:
            await careful.abatch(["card 0.9 yes", "card 0.1 no"], configs)

        assert sorted(runs.seen) == [
            ("Cascade", ("t",), 0),
            ("Cascade", ("t",), 1),
            ("large", ("cascade:large", "t"), 1),
            ("route", ("cascade:error", "t"), 1),
            ("small", ("cascade:small", "t"), 0),
            ("small", ("cascade:small", "t"), 1),
        ]
        assert runs.parents == runs.top


async def test_keyword_arguments_reach_the_large_model() -> None:
    """In every way of calling; a classifier takes none."""
    chat = Chat(answer="cash")
    careful, text = cascade(chat), "card 0.3 no"
    careful.invoke(text, stop=["."])
    await careful.ainvoke(text, stop=["."])
    careful.bind(stop=["."]).batch([text])
    await careful.abatch([text], stop=["."])
    list(careful.stream(text, stop=["."]))

    assert [stop for _, stop in chat.seen] == [["."]] * 5


async def test_texts_of_an_iterator_are_answered_as_they_arrive() -> None:
    """One by one."""
    careful = cascade(Answering(lambda text: "other"))

    async def arriving() -> Any:
        for text in TEXTS:
            yield text

    expected = ["card", "other", "cash", "other"]
    assert expected == [answer.label for answer in careful.transform(iter(TEXTS))]
    assert expected == [answer.label async for answer in careful.atransform(arriving())]


def test_a_router_goes_on_with_either_answer() -> None:
    """A large model's answer has a route like any other; what nobody is sure of goes to the default."""
    router = LabelRouter(routes={"card": lambda r: "card!", "other": lambda r: "other!"}, default=lambda r: "person")

    assert (cascade(Answering(failing)) | router).batch(FAILING) == ["other!", "person", "card!", "person"]


def test_schemas_graph_and_fields_are_those_of_its_models() -> None:
    """A result, or what the route gives."""
    parser: Any = LabelOutputParser(labels=LABELS)
    configured = parser.configurable_fields(labels=ConfigurableField(id="labels"))
    plain = Cascade(small=configured, large=RunnableLambda(failing, name="large"), labels=LABELS, threshold=0.5)
    routed = Cascade(small=parser, large=parser, threshold=0.5, on_error=RunnableLambda(len, name="person"))
    edges = routed.get_graph().edges

    assert plain.OutputType is Classification
    assert plain.get_output_jsonschema()["title"] == "Classification"
    assert plain.get_input_jsonschema() == parser.get_input_jsonschema()
    assert [spec.id for spec in plain.config_specs] == ["labels"]
    assert len(routed.get_output_jsonschema()["anyOf"]) == 2
    assert {"accepted", "not accepted", "failed"} == {edge.data for edge in edges if edge.conditional}


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
def test_a_cascade_survives_serialization_with_all_its_options(tmp_path: Path) -> None:
    """Models, budget, policy and record."""
    parser = LabelOutputParser(labels=LABELS)
    one = Cascade(
        small=parser, large=parser, labels=LABELS, threshold=0.5, max_escalations=3, max_share=0.25, on_error=parser,
        record=tmp_path / "r.jsonl",
    )  # fmt: skip
    twin = loads(dumps(one), allowed_objects=[Cascade, LabelOutputParser], valid_namespaces=["lc_finetune"])

    assert one == twin
    assert (twin.max_escalations, twin.labels, twin.record) == (3, LABELS, str(tmp_path / "r.jsonl"))


def test_options_can_be_configured_at_a_call() -> None:
    """Such as the threshold."""
    careful: Any = cascade(Answering(lambda text: "other"), threshold=0.5).configurable_fields(
        threshold=ConfigurableField(id="threshold")
    )

    assert careful.invoke("card 0.6 ?").label == "card"
    assert careful.with_config(configurable={"threshold": 0.7}).invoke("card 0.6 ?").label == "other"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"threshold": 1.1}, "threshold"),
        ({"max_share": -0.1}, "max_share"),
        ({"max_escalations": -1}, "max_escalations"),
        ({"max_escalations": 1.5}, "whole number"),
        ({"threshold": "0.8"}, "threshold"),
        ({"on_error": "smal"}, "'small', 'raise'"),
        ({"labels": None}, "labels="),
        ({"labels": []}, "label"),
        ({"labels": ["a", "a"]}, "once"),
        ({"labels": "card"}, "list of names"),
        ({"labels": ["card", " "]}, "blank"),
    ],
)
def test_options_out_of_range_are_refused_at_once(options: dict[str, Any], expected: str) -> None:
    """Before any call."""
    with pytest.raises(ConfigError, match=expected):
        Cascade(**{"small": judged, "large": judged, "labels": LABELS, **options})


# The record.


async def test_answered_escalations_are_recorded_for_training(tmp_path: Path) -> None:
    """Text, both answers and scores, for its owner alone; `--train-file` reads it. Failures are no labels."""
    record = tmp_path / "escalations.jsonl"
    await each_way(cascade(Answering(failing), record=record), [*FAILING, "cash 0.4 no"])
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    examples = read_examples(record).examples

    assert rows[0] == {
        "text": "card 0.3 no", "label": "other", "score": None, "source": "llm",
        "small_label": "card", "small_score": 0.3, "small_accepted": False,
    }  # fmt: skip
    assert [row["text"] for row in rows] == ["card 0.3 no", "cash 0.4 no"] * 2
    assert [(e.text, e.label) for e in examples] == [("card 0.3 no", "other"), ("cash 0.4 no", "other")] * 2  # type: ignore[union-attr]
    assert stat.S_IMODE(record.stat().st_mode) == 0o600


def test_nothing_is_recorded_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a file made when nothing is escalated."""
    monkeypatch.chdir(tmp_path)
    cascade(Answering(failing)).batch(FAILING)
    cascade(Answering(failing), record="r.jsonl").batch(["card 0.9 yes"])

    assert list(tmp_path.iterdir()) == []


def test_a_last_line_without_an_end_stays_apart(tmp_path: Path) -> None:
    """As editors leave it in a file of rows that is added to."""
    record = tmp_path / "rows.jsonl"
    record.write_text('{"text": "mine", "label": "card"}')
    for text in ("cash 0.3 no", "cash 0.4 no"):
        cascade(RunnableLambda(lambda _: "card"), record=record).invoke(text)

    assert [json.loads(line)["label"] for line in record.read_text().splitlines()] == ["card"] * 3


def test_threads_never_cut_into_each_others_rows(tmp_path: Path) -> None:
    """Every line is whole, and none is lost."""
    record = tmp_path / "r.jsonl"
    careful = Cascade(
        small=Answering(lambda text: Classification(text=text, label="card", score=0.1, accepted=False)),
        large=Answering(lambda text: "cash"),
        labels=LABELS,
        record=record,
    )
    texts = [f"ü\n\ud800 {i} " + 1000 * "x" for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda start: careful.batch(texts[start : start + 5]), range(0, 40, 5)))

    assert sorted(texts) == sorted(json.loads(line)["text"] for line in record.read_bytes().decode().splitlines())


def test_a_record_that_cannot_be_written_is_found_before_anything_is_asked(tmp_path: Path) -> None:
    """No answer is paid for in vain; a link is not followed."""
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    large = Answering(lambda text: "other")
    for path in (tmp_path, tmp_path / "none" / "r.jsonl", tmp_path / "link"):
        with pytest.raises(ConfigError, match="can be written"):
            cascade(large, record=path).invoke("card 0.3 no")

    assert large.calls == []


def test_answers_outlive_a_record_that_fails_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said, without a text."""
    record = tmp_path / "r.jsonl"

    def answer(text: str) -> str:
        record.unlink()
        record.mkdir()
        return "other"

    with caplog.at_level(logging.ERROR):
        assert cascade(Answering(answer), record=record).invoke("card 0.3 no").label == "other"
    assert "1 escalations could not be recorded" in caplog.text
    assert "0.3" not in caplog.text


def test_a_threshold_of_ones_own_stands_in_place_of_accepted() -> None:
    """The score decides, not the checkpoint's threshold; what is out of scope is asked about all the same."""
    kept = Classification(text="a", label="x", score=0.6, accepted=False, in_scope=0.5)
    asked = Classification(text="b", label="x", score=0.4, accepted=True, in_scope=0.5)
    outside = Classification(text="c", label="x", score=0.9, accepted=True, in_scope=0.01)
    results = {result.text: result for result in (kept, asked, outside)}
    cascade = Cascade(
        small=RunnableLambda(lambda text: results[text]), large=RunnableLambda(lambda text: "y"), labels=("x", "y"),
        threshold=0.5,
    )  # fmt: skip

    assert [result.label for result in cascade.batch(["a", "b", "c"])] == ["x", "y", "y"]
