"""The recipe for customer service: routes, answers, conversations, and what goes wrong."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import Field

from chains.customer_service import (
    EARLIER_TURNS,
    FAQ_LABELS,
    HAND_OVER,
    QUERIES,
    TEMPLATES,
    UNREADABLE,
    FaqRetriever,
    build_chain,
    faq_retriever,
    fill_template,
    named_entities,
    read_answer,
    read_faq,
)
from lc_finetune import (
    AnswerError,
    Checkpoint,
    Classification,
    ConfigError,
    DataError,
    Entity,
    EntityTagger,
    InputError,
    Tagging,
    TextClassifier,
)
from lc_finetune.inference import Predictor
from lc_finetune.testing import FakeClassifier, FakeTagger, tiny_base_model, tiny_checkpoint
from lc_finetune.train.base_model import BaseModel
from tests.agents.chat_models import AllOrNothing

LABELS = ("small_talk", *TEMPLATES, *FAQ_LABELS)
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
LABEL_OF = {
    "Where is #48213?": "track_order",
    "Where is it?": "track_order",
    "Stop #48213": "cancel_order",
    "Stop my order": "cancel_order",
    "The kettle is broken": "damaged_item",
    "bulb?": "product_question",
    "password?": "account_login",
    "weather?": "product_question",
}
TYPES = {"kettle": "PRODUCT", "#48213": "PRODUCT", "£5": "MONEY"}


class Words(Embeddings):
    """Texts about bulbs, passwords and all else are at right angles; counts its calls."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.calls.append(len(texts))
        return [[float("bulb" in text), float("password" in text), 1e-3] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


class Chat(BaseChatModel):
    """Answers by the last message, raises what is no text; notes its prompts."""

    answer_of: dict[str, Any] = Field(default_factory=dict)
    prompts: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "by-text"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        self.prompts.append(messages)
        answer = self.answer_of.get(messages[-1].text, "As it says [1].")
        if isinstance(answer, Exception):
            raise answer
        return ChatResult(generations=[ChatGeneration(message=AIMessage(answer))])


@pytest.fixture
def words() -> Words:
    return Words()


@pytest.fixture
def retriever(words: Words) -> FaqRetriever:
    store = InMemoryVectorStore(words)
    store.add_documents(
        [
            Document(id="bulbs", page_content="bulb Included.", metadata={"answer": "Included."}),
            Document(id="reset", page_content="password Ask for a link.", metadata={"answer": "Ask for a link."}),
        ]
    )
    words.calls.clear()
    return FaqRetriever(store=store)


def chain_of(**options: Any) -> Runnable[Any, dict[str, Any]]:
    classifier = options.pop("classifier", FakeClassifier(labels=LABELS, label_of=LABEL_OF))
    return build_chain(classifier, FakeTagger(type_of=TYPES), **options)


def test_the_label_decides_who_answers(retriever: FaqRetriever) -> None:
    """Templates, FAQ and people, in the order of the queries."""
    texts = ["bulb?", "Where is #48213?", "nice day", "password?", "The kettle is broken"]
    items = chain_of(retriever=retriever).batch(texts)

    assert texts == [item["text"] for item in items]
    assert [item["route"] for item in items] == ["faq", "track_order", "person", "faq", "damaged_item"]
    assert items[0]["answer"] == "Included."
    assert items[0]["sources"] == ("bulbs",)
    assert items[1]["answer"] == "Let me look up where #48213 is."
    assert items[2]["answer"] == HAND_OVER
    assert items[4]["answer"] == "I am sorry that kettle arrived damaged. A photo is all we need."


async def test_all_ways_to_call_give_the_same(retriever: FaqRetriever) -> None:
    """One or many, synchronous or not, streamed or whole."""
    chain = chain_of(retriever=retriever, chat=Chat())
    texts = [*LABEL_OF, "nice day"]
    items = chain.batch(texts)

    assert items == [chain.invoke(text) for text in texts]
    assert items == await chain.abatch(texts)
    assert items == [await chain.ainvoke(text) for text in texts]
    assert {"faq", "person", "track_order"} < {item["route"] for item in items}
    for item in items:
        streamed: dict[str, Any] = {}
        async for chunk in chain.astream(item["text"]):
            streamed |= chunk
        assert item == streamed


def test_a_batch_is_one_call_of_each_model(
    tiny_classifier: Checkpoint,
    tiny_tagger: Checkpoint,
    retriever: FaqRetriever,
    words: Words,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Classifier and tagger run once over all messages, the embedding model once over those for the FAQ."""
    classifier = TextClassifier.from_checkpoint(tiny_classifier, device="cpu")
    tagger = EntityTagger.from_checkpoint(tiny_tagger, device="cpu")
    texts = [f"where is card {i}, the bulb?" for i in range(12)]
    found = {result.label for result in classifier.batch(texts)}
    chain = build_chain(classifier, tagger, retriever=retriever, templates={}, faq_labels=tuple(found), least_score=0)
    predict, calls = Predictor.predict, []

    def counted(self: Predictor, given: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        calls.append((self.checkpoint.manifest.task, len(given)))
        return predict(self, given, *args, **kwargs)

    monkeypatch.setattr(Predictor, "predict", counted)
    items = chain.batch(texts)

    assert {"faq"} == {item["route"] for item in items}
    assert sorted(calls) == [("text-classification", 12), ("token-classification", 12)]
    assert words.calls == [12]


def test_a_batch_is_one_batch_of_the_chat_model(retriever: FaqRetriever) -> None:
    """Over the messages that have passages, and over no others."""
    batches: list[int] = []

    class Batched(Chat):
        def batch(self, inputs: list[Any], *args: Any, **kwargs: Any) -> Any:
            batches.append(len(inputs))
            return super().batch(inputs, *args, **kwargs)

    chain_of(retriever=retriever, chat=Batched()).batch(["bulb?", "nice day", "password?", "Where is it?", "weather?"])

    assert batches == [2]


def test_the_chat_model_answers_out_of_the_passages(retriever: FaqRetriever) -> None:
    """It sees numbered passages and earlier turns; what it cites are the sources."""
    chat = Chat(answer_of={"bulb?": "A bulb is included [1]."})
    turns = [("human", "I want a lamp"), ("ai", "Good choice."), ("human", "bulb?")]
    item = chain_of(retriever=retriever, chat=chat).invoke(turns)

    assert item["answer"] == "A bulb is included [1]."
    assert item["sources"] == ("bulbs",)
    assert "[1] bulb Included." in chat.prompts[0][0].text
    assert [message.text for message in chat.prompts[0][1:]] == ["I want a lamp", "Good choice.", "bulb?"]


def test_the_chat_model_sees_words_alone(retriever: FaqRetriever) -> None:
    """Earlier images and calls of tools, which many models would refuse, stay out."""
    chat = Chat()
    call = {"name": "find", "args": {}, "id": "1"}
    turns = [
        HumanMessage([IMAGE]),
        AIMessage("", tool_calls=[call]),
        ToolMessage("found", tool_call_id="1"),
        AIMessage("One moment.", tool_calls=[call]),
        HumanMessage([{"type": "text", "text": "This lamp"}, IMAGE]),
        HumanMessage("bulb?"),
    ]
    chain_of(retriever=retriever, chat=chat).invoke(turns)

    assert chat.prompts[0][1:] == [AIMessage("One moment."), HumanMessage("This lamp"), HumanMessage("bulb?")]


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (RuntimeError("secret"), "The chat model raised RuntimeError."),
        (TimeoutError("secret"), "The chat model raised TimeoutError."),
        ("", "Expected an answer in words"),
        ("Surely.", "Expected citations from [1] to [1], found none."),
        ("Surely [4].", "Expected citations from [1] to [1], found [4]."),
        (f"Surely [{'9' * 5000}].", "Expected citations from [1] to [1], found [999999999]."),
    ],
)
async def test_where_the_chat_model_fails_the_faq_answers(retriever: FaqRetriever, failure: Any, error: str) -> None:
    """For that item alone; `error` says why, without what was said."""
    chain = chain_of(retriever=retriever, chat=Chat(answer_of={"bulb?": failure}))
    failed, fine = chain.batch(["bulb?", "password?"])

    assert failed["answer"] == "Included."
    assert failed["sources"] == ("bulbs",)
    assert failed["error"].startswith(error)
    assert fine["answer"] == "As it says [1]."
    assert [failed, fine] == await chain.abatch(["bulb?", "password?"])


async def test_a_chat_model_whose_batch_fails_as_a_whole_fails_no_message(retriever: FaqRetriever) -> None:
    """Each has its passage."""
    chain = chain_of(retriever=retriever, chat=AllOrNothing(fail))
    items = chain.batch(["bulb?", "password?", "Where is it?"])

    assert [item["answer"] for item in items[:2]] == ["Included.", "Ask for a link."]
    assert [item["error"] for item in items] == ["The chat model raised OSError."] * 2 + [None]
    assert items == await chain.abatch(["bulb?", "password?", "Where is it?"])


@pytest.mark.parametrize("answer", ["NONE.", "None", "**none**", "NONE [1]."])
def test_what_the_faq_does_not_answer_goes_to_a_person(retriever: FaqRetriever, answer: str) -> None:
    """No passage is near enough, or the chat model says so."""
    chain = chain_of(retriever=retriever, chat=Chat(answer_of={"bulb?": answer}))
    items = chain.batch(["weather?", "bulb?"])

    assert [item["route"] for item in items] == ["person", "person"]
    assert [item["reason"] for item in items] == ["not in the FAQ"] * 2


def fail(query: Any) -> Any:
    raise OSError("secret")


@pytest.mark.parametrize("kind", [RunnableLambda, AllOrNothing])
async def test_a_retriever_that_fails_hands_over(kind: type[Any]) -> None:
    """The name of the exception is all that is told."""
    chain = chain_of(retriever=kind(fail))
    item = chain.invoke("bulb?")

    assert (item["route"], item["reason"], item["error"]) == ("person", "the FAQ failed", "OSError")
    assert item == await chain.ainvoke("bulb?")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"accepted": False}, "not certain"),
        ({"score": 0.2}, "not certain"),
        ({"accepted": False, "in_scope": 0.01}, "out of scope"),
        ({"in_scope": 0.01}, "out of scope"),
    ],
)
def test_what_is_doubtful_goes_to_a_person(options: dict[str, Any], reason: str) -> None:
    """Not accepted, too low a score without calibration, or out of scope."""
    classifier = FakeClassifier(labels=LABELS, label_of=LABEL_OF, **options)
    item = chain_of(classifier=classifier).invoke("Where is it?")

    assert ("person", reason) == (item["route"], item["reason"])
    assert item["classification"].accepted is False


def test_an_accepted_answer_needs_no_score() -> None:
    """The calibration has the say where there is one."""
    classifier = FakeClassifier(labels=LABELS, label_of=LABEL_OF, score=0.2, accepted=True, in_scope=0.5)

    assert chain_of(classifier=classifier).invoke("Where is it?")["route"] == "track_order"


def test_an_answer_of_a_language_model_has_no_score_to_compare() -> None:
    """So it stands, as behind a cascade."""
    large = RunnableLambda(lambda item: Classification(text=item["text"], label="track_order", source="llm"))

    assert chain_of(classifier=large).invoke("Where is it?")["route"] == "track_order"


@pytest.mark.parametrize(
    ("unreadable", "error"),
    [
        ([], "found list"),
        ({"messages": []}, "found none among 0 messages"),
        ([("human", [IMAGE])], "no text block"),
        ([("human", "Where is it?"), ("human", [IMAGE])], "no text block"),
        ([("ai", "Hello")], "Expected a human message"),
        ("  ", "found a blank one"),
        ({"other": 1}, "Expected a str"),
        ([3, ("human", "Where is it?")], "Expected messages before the last one too"),
        (None, "found NoneType"),
        ("Where is \ud800?", "found one with a lone surrogate"),
        ([("human", "It \udfff"), ("human", "Where is it?")], "found one with a lone surrogate"),
    ],
)
def test_what_cannot_be_read_is_asked_again(unreadable: Any, error: str) -> None:
    """It fails alone, and raises nothing."""
    bad, good = chain_of().batch([unreadable, "Where is it?"])

    assert (bad["route"], bad["reason"], bad["answer"]) == ("person", "unreadable", UNREADABLE)
    assert error in bad["error"]
    assert good["route"] == "track_order"


def test_a_label_without_a_route_goes_to_the_person_given() -> None:
    """Who gets the item with all that is known."""
    person = RunnableLambda(lambda item: f"{item['text']}: {item['reason']}")
    item = chain_of(person=person).invoke("bulb?")

    assert item["answer"] == "bulb?: no route for product_question"


def test_a_template_without_its_entity_goes_to_a_person() -> None:
    """Unless it says what to write otherwise."""
    bare, named, otherwise = chain_of().batch(["Stop my order", "Stop #48213", "Where is it?"])

    assert (bare["route"], bare["reason"]) == ("person", "no ORDER_ID named")
    assert named["answer"] == "I will stop order #48213 if it has not left yet."
    assert otherwise["answer"] == "Let me look up where your order is."


def test_entities_come_from_earlier_turns_too() -> None:
    """The first of the last message, else the latest before it."""
    earlier = [("human", "#11111 and #22222"), ("ai", "About #33333?")]
    follow_up, own = chain_of().batch(
        [{"messages": [*earlier, ("human", "Where is it?")]}, [*earlier, ("human", "Where is #48213?")]]
    )

    assert follow_up["answer"] == "Let me look up where #22222 is."
    assert own["answer"] == "Let me look up where #48213 is."
    assert [message.type for message in follow_up["history"]] == ["human", "ai"]


def test_few_earlier_turns_are_read() -> None:
    """So that long conversations cost no more."""
    turns: list[Any] = [
        HumanMessage("Stop #48213"),
        *[HumanMessage("hm")] * EARLIER_TURNS,
        HumanMessage("Where is it?"),
    ]

    assert chain_of().invoke(turns)["entities"] == {}
    assert chain_of().invoke(turns[1:-1] + turns[:1])["entities"] == {"ORDER_ID": "#48213"}


def test_patterns_overrule_the_tagger() -> None:
    """A match takes the place of all it overlaps; the pattern named first wins."""
    tagged = FakeTagger(type_of={"#48213 for": "PRODUCT", "Ann": "PERSON"}).invoke("order #48213 for Ann")
    merged = named_entities(tagged, {"ORDER_ID": r"#\d+", "NUMBER": r"\d+", "NOTHING": r"x*"})

    assert [(e.label, e.text) for e in merged.tagging.entities] == [("ORDER_ID", "#48213"), ("PERSON", "Ann")]
    assert all(tagged.text[e.start : e.end] == e.text for e in merged.tagging.entities)
    assert merged.named == {"ORDER_ID": "#48213", "PERSON": "Ann"}


def test_the_first_entity_of_a_type_is_chosen() -> None:
    """Of those in one message."""
    entities = tuple(Entity(label="ORDER_ID", text=text, start=i, end=i + 2) for i, text in ((0, "#1"), (2, "#2")))

    assert named_entities(Tagging(text="#1#2", entities=entities)).named == {"ORDER_ID": "#1"}


def test_a_template_is_filled_with_entities_or_otherwise() -> None:
    """It raises where it says no otherwise."""
    assert fill_template("Find {ORDER_ID|it}.", {"ORDER_ID": "#1"}) == "Find #1."
    assert fill_template("Find {ORDER_ID|it}.", {}) == "Find it."
    with pytest.raises(InputError, match="Expected an entity ORDER_ID"):
        fill_template("Find {ORDER_ID}.", {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"templates": {"track_order": "Find {ORDER ID}."}}, "found another brace"),
        ({"templates": {"account_login": "Hello."}}, "found a template and the FAQ"),
        ({"patterns": {"ORDER_ID": "(#"}}, "Expected a regular expression for 'ORDER_ID'"),
    ],
)
def test_faulty_templates_and_patterns_are_found_at_once(options: dict[str, Any], message: str) -> None:
    """When the chain is built."""
    with pytest.raises(ConfigError, match=message):
        chain_of(**options)


def test_an_answer_is_read_with_its_citations() -> None:
    """Each once, in order; the answer itself is in no message."""
    assert read_answer(AIMessage(" Yes [2], [1] [2].\n"), 2) == ("Yes [2], [1] [2].", [2, 1])
    assert read_answer("NONE", 2)[1] == []
    with pytest.raises(AnswerError) as caught:
        read_answer("secret [3]", 2)
    assert "secret" not in str(caught.value)


def test_the_bundled_faq_is_read() -> None:
    """Ids are distinct; intents of the FAQ have no template."""
    passages = read_faq()

    assert len(passages) == len({passage.id for passage in passages}) > 10
    assert not set(FAQ_LABELS) & set(TEMPLATES)


def test_a_faulty_faq_names_its_line(tmp_path: Path) -> None:
    """And nothing of what it says."""
    file = tmp_path / "faq.jsonl"
    file.write_text(json.dumps({"id": 1, "question": "q", "answer": "a"}) + '\n{"id": 2, "question": "secret"}\n')

    with pytest.raises(DataError, match=r"faq\.jsonl:2: expected JSON with id, question and answer") as caught:
        read_faq(file)
    assert "secret" not in str(caught.value)


def test_the_faq_is_embedded_by_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With sentence-transformers, offline; a question finds its own passage."""
    folder = tiny_base_model(tmp_path / "base")
    monkeypatch.setattr("lc_finetune.train.base_model.resolve_base_model", lambda _: BaseModel(folder, "tiny"))
    passage = read_faq()[3]

    assert passage.id == faq_retriever().invoke(passage.page_content)[0].id


def test_the_demonstration_answers_each_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retriever: FaqRetriever, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints a table, also with a chat model; without checkpoints it says what to do."""
    from chains import customer_service

    monkeypatch.chdir(tmp_path)
    assert customer_service.main() == 2
    assert "make demo" in capsys.readouterr().err
    tiny_checkpoint(tmp_path / "runs" / "demo" / "support", labels=LABELS)
    tiny_checkpoint(tmp_path / "runs" / "demo" / "entities", task="token-classification")
    monkeypatch.setattr(customer_service, "faq_retriever", lambda: retriever)

    assert customer_service.main(FakeListChatModel(responses=["As it says [1]."])) == 0
    assert len(QUERIES) <= capsys.readouterr().out.count("├") + 1
