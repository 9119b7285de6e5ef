"""Entities on the way to the chat model and back: through real agents, with a tagger that knows the truth."""

import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.outputs import LLMResult
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pydantic import BaseModel

from lc_finetune import Checkpoint, ConfigError, EntityTagger, Tagging
from lc_finetune.agents import EntityRedactionMiddleware
from lc_finetune.agents.masking import Markers
from lc_finetune.agents.redaction import BLOCKED
from lc_finetune.agents.restoring import StreamedAnswer
from lc_finetune.labels import Span
from lc_finetune.testing import FakeTagger
from tests.agents.chat_models import AllOrNothing, PlannedModel, WholeModel, failing, saying

PEOPLE = ("Ann Lee", "Ann Lee-Smith", 'Jörg "Jo" Müller', "Seán O'Neil", "张伟", "Zoë 🎉 Blanc", "Back\\slash Bob")
CITIES = ("Oslo", "Île-de-France", "São Paulo", "北京")
ORDERS = ("#48213", "AB-1234", "AB-12345")
TYPE_OF = {
    **dict.fromkeys(PEOPLE, "PERSON"),
    **dict.fromkeys(CITIES, "CITY"),
    **dict.fromkeys(ORDERS, "ORDER_ID"),
}
TAGGER = FakeTagger(type_of=TYPE_OF)
TEMPLATES = (
    "{} wants {} sent to {}.",
    "Is {} the one who lost {}? {} says [PERSON_1] on the label [, [PER and [[CITY_2]].",
    "{},{}:{}",
    "我叫{}，住在{}。{}",
    "{0}{0} and {1}\n\n“{2}” <Kim Doe>",
    "Nothing new.",
)
PSEUDONYMS = {"PERSON": ["Kim Doe", "Sam Roe"]}


@tool
def look_up(queries: dict[str, list[str]]) -> str:
    """Find out more."""
    (query,) = queries["exact"]
    return f"{PEOPLE[len(query) % len(PEOPLE)]} of {CITIES[len(query) % len(CITIES)]} for {query[-9:]}"


def look_up_and_tell(messages: list[BaseMessage]) -> AIMessage:
    """Call the tool with what the user said; tell what it answered."""
    asked = next(message for message in reversed(messages) if isinstance(message, HumanMessage))
    if isinstance(messages[-1], ToolMessage):
        return AIMessage(f"“{asked.content}”: {messages[-1].content} [PERSON_99, [")
    call = {"name": "look_up", "args": {"queries": {"exact": [asked.content]}}, "id": "1"}
    return AIMessage("Wait.", tool_calls=[call])


def conversation(seed: int) -> list[str]:
    """What a user says in two turns."""
    random = Random(seed)
    return [
        random.choice(TEMPLATES).format(random.choice(PEOPLE), random.choice(ORDERS), random.choice(CITIES))
        for _ in range(2)
    ]


def texts(messages: list[Any]) -> list[str]:
    """All strings a model is sent in these messages."""
    return [
        text for message in messages for text in (*leaves(message.content), *leaves(getattr(message, "tool_calls", [])))
    ]


def leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for one in pair for text in leaves(one))
    elif isinstance(value, list):
        yield from (text for one in value for text in leaves(one))


def told_of(message: Any) -> tuple[Any, Any]:
    """What users read of a message, and tools receive."""
    return message.content, getattr(message, "tool_calls", None)


def joined(chunks: Iterable[Any]) -> list[Any]:
    """The answers that a stream's chunks make up, in order."""
    of_id: dict[str, list[AIMessageChunk]] = {}
    for chunk in chunks:
        if isinstance(chunk, AIMessageChunk):
            of_id.setdefault(str(chunk.id), []).append(chunk)
    return [add_ai_message_chunks(*of_answer) for of_answer in of_id.values()]


async def check_conversation(agent: Any, plain: Any, model: PlannedModel, seed: int) -> None:
    """Compare a conversation through redaction, streamed, with the same one without."""
    thread: Any = {"configurable": {"thread_id": str(seed)}}
    expected: list[Any] = []
    for said in conversation(seed):
        model.seen.clear()
        asked = {"messages": [HumanMessage(said)]}
        streamed = joined([chunk async for chunk, _ in agent.astream(asked, thread, stream_mode="messages")])
        expected = (await plain.ainvoke({"messages": [*expected, HumanMessage(said)]}))["messages"]
        state = (await agent.aget_state(thread)).values["messages"]
        sent = [text for messages in model.seen for text in texts(messages)]

        assert [entity for entity in TYPE_OF if any(entity in text for text in sent)] == []
        assert [told_of(message) for message in expected] == [told_of(message) for message in state]
        assert [told_of(message) for message in expected[-3:] if message.type == "ai"] == [*map(told_of, streamed)]


@pytest.mark.parametrize("pseudonyms", [None, PSEUDONYMS], ids=["markers", "pseudonyms"])
@pytest.mark.parametrize("seeds", [range(50), pytest.param(range(50, 500), marks=pytest.mark.slow)], ids=len)
async def test_no_entity_reaches_the_model_and_every_answer_is_as_without(seeds: range, pseudonyms: Any) -> None:
    """Over 500 conversations each way, with tool calls, and answers split at every character."""
    model = PlannedModel(plan=look_up_and_tell)
    agent = create_agent(model, [look_up], middleware=[redaction(pseudonyms=pseudonyms)], checkpointer=InMemorySaver())
    plain = create_agent(WholeModel(plan=look_up_and_tell), [look_up])
    for seed in seeds:
        await check_conversation(agent, plain, model, seed)


def redaction(**options: Any) -> EntityRedactionMiddleware:
    return EntityRedactionMiddleware(
        options.pop("tagger", TAGGER), on_error=options.pop("on_error", "block"), **options
    )


def sent_for(messages: list[Any], *, system: str | None = None, **options: Any) -> list[BaseMessage]:
    """What the model is sent for these messages."""
    model = saying("Fine.")
    create_agent(model, system_prompt=system, middleware=[redaction(**options)]).invoke({"messages": messages})
    return model.seen[0]


def answer_to(said: str, plan: Any, **options: Any) -> str:
    agent = create_agent(WholeModel(plan=plan), middleware=[redaction(**options)])
    return str(agent.invoke({"messages": [HumanMessage(said)]})["messages"][-1].content)


def echo(messages: list[BaseMessage]) -> AIMessage:
    return AIMessage(messages[-1].content)


def test_a_stream_of_protocol_events_is_restored() -> None:
    """LangGraph's third version of streaming, too."""
    agent = create_agent(PlannedModel(plan=look_up_and_tell), [look_up], middleware=[redaction()])
    plain = create_agent(WholeModel(plan=look_up_and_tell), [look_up])
    asked: Any = {"messages": [HumanMessage("Ann Lee of Oslo, not [PERSON_1]")]}
    run = agent.stream_events(asked, version="v3")
    *_, told = ["".join(map(str, message.text)) for message in run.messages]
    expected = plain.invoke(asked)["messages"]

    assert told == expected[-1].content
    assert [message.text for message in expected] == [message.text for message in run.output["messages"]]
    assert expected[1].tool_calls == run.output["messages"][1].tool_calls


async def test_events_show_restored_pieces_only() -> None:
    """Of one chat model, whose tool calls are whole at the end."""
    agent = create_agent(PlannedModel(plan=look_up_and_tell), [look_up], middleware=[redaction()])
    events = [event async for event in agent.astream_events({"messages": [HumanMessage("Ann Lee")]}, version="v2")]
    pieces = [event["data"]["chunk"] for event in events if event["event"] == "on_chat_model_stream"]
    called, told = joined(pieces)

    assert called.tool_calls[0]["args"] == {"queries": {"exact": ["Ann Lee"]}}
    assert told.content.startswith("“Ann Lee”: ")


def test_blocks_stream_as_providers_stream_them() -> None:
    """Text, thoughts and arguments in blocks of their own; what is held goes out before the next block begins."""
    markers = Markers()
    markers.learn({'Jörg "Jo" Müller': [Span(0, 16, "PERSON")]})
    answer = StreamedAnswer(markers)
    written = [
        *({"type": "thinking", "thinking": piece, "index": 0} for piece in "[PERSON_1]"),
        *({"type": "text", "text": piece, "index": 1} for piece in "It is [PERSON_1], not [PERSON"),
        {"type": "tool_use", "id": "1", "name": "look_up", "input": {}, "index": 2},
        *({"type": "input_json_delta", "partial_json": piece, "index": 2} for piece in '{"who": "[PERSON_1]"}'),
        {"type": "tool_use", "id": "2", "name": "look_up", "input": {"who": "[PERSON_1]"}, "index": 3},
    ]
    chunks = [AIMessageChunk([block]) for block in written] + [AIMessageChunk([], chunk_position="last")]
    given = [one for chunk in chunks for one in answer.feed(chunk)]
    thought, text, call, other = add_ai_message_chunks(*given).content
    order = [block["index"] for chunk in given for block in chunk.content]

    assert thought["thinking"] == "[PERSON_1]"
    assert text["text"] == 'It is Jörg "Jo" Müller, not [PERSON'
    assert json.loads(call["partial_json"]) == {"who": 'Jörg "Jo" Müller'}
    assert other["input"] == {"who": 'Jörg "Jo" Müller'}
    assert order == sorted(order)


def test_what_remains_is_given_with_the_last_chunk_or_without_one() -> None:
    """A marker that has only begun is text."""
    for position in ("last", None):
        markers = Markers()
        markers.learn({"Oslo": [Span(0, 4, "CITY")]})
        answer = StreamedAnswer(markers)
        given = answer.feed(AIMessageChunk("[CITY_1] [CITY_", chunk_position=position)) + answer.rest()

        assert "".join(str(chunk.content) for chunk in given) == "Oslo [CITY_"
        assert [chunk.chunk_position for chunk in given][-1] == position


def test_a_model_without_streaming_streams_whole_answers() -> None:
    """Restored like any other."""
    agent = create_agent(WholeModel(plan=look_up_and_tell), [look_up], middleware=[redaction()])
    chunks = list(agent.stream({"messages": [HumanMessage("Ann Lee")]}, stream_mode="messages"))

    assert any(chunk.content.startswith("“Ann Lee”: ") for chunk, _ in chunks)
    assert not any("PERSON_1" in text for chunk, _ in chunks for text in texts([chunk]))


def test_a_streamed_run_is_reported_once() -> None:
    """Callbacks see one model run for one call, restored."""
    agent = create_agent(PlannedModel(plan=look_up_and_tell), [look_up], middleware=[redaction()])
    usage = RunCounter()
    agent.invoke({"messages": [HumanMessage("Ann Lee")]}, {"callbacks": [usage]})

    assert len(usage.answers) == 2
    assert "Ann Lee" in usage.answers[-1]


class RunCounter(BaseCallbackHandler):
    """Collects the answers of chat models."""

    def __init__(self) -> None:
        self.answers: list[str] = []

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        self.answers.append(response.generations[0][0].text)


def test_an_entity_keeps_its_marker_across_turns_and_restarts() -> None:
    """The markers are in the checkpoint, so another process goes on with them."""
    saver = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None))
    thread: Any = {"configurable": {"thread_id": "1"}}
    for turn, said in enumerate(["Ann Lee", "To Oslo, says Seán O'Neil", "Ann Lee again"]):
        model = saying(f"Answer {turn}")
        agent = create_agent(model, middleware=[redaction()], checkpointer=saver)
        agent.invoke({"messages": [HumanMessage(said)]}, thread)

    assert [m.content for m in model.seen[0] if m.type == "human"] == [
        "[PERSON_1]",
        "To [CITY_1], says [PERSON_2]",
        "[PERSON_1] again",
    ]
    kept = agent.get_state(thread).values["redacted_entities"]
    assert kept["[PERSON_1]"] == {"label": "PERSON", "text": "Ann Lee"}


def test_conversations_do_not_share_markers() -> None:
    """One agent, many threads at once."""
    agent = create_agent(WholeModel(plan=echo), middleware=[redaction()], checkpointer=InMemorySaver())

    def talk(number: int) -> list[str]:
        thread: Any = {"configurable": {"thread_id": str(number)}}
        said = [f"{PEOPLE[(number + i) % len(PEOPLE)]} number {number}" for i in range(3)]
        return [agent.invoke({"messages": [HumanMessage(s)]}, thread)["messages"][-1].content == s for s in said]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(talk, range(24))) == [[True] * 3] * 24


def test_every_place_that_holds_text_is_masked() -> None:
    """System prompt, blocks, tool calls, tools' results, a person's name, what the model has thought."""
    call = {"name": "look_up", "args": {"who": ["Ann Lee"], "Oslo": 1}, "id": "1"}
    thought = {"type": "reasoning", "reasoning": "Ann Lee again"}
    sent = sent_for(
        [
            HumanMessage(
                [{"type": "text", "text": "Ann Lee"}, {"type": "image", "base64": "Oslo", "mime_type": "x/y"}]
            ),
            AIMessage(
                [thought, {"type": "tool_use", "id": "1", "name": "look_up", "input": {"name": "Ann Lee"}}],
                tool_calls=[call],
                additional_kwargs={"note": "AB-1234"},
            ),
            ToolMessage("Ann Lee of Oslo", tool_call_id="1"),
            HumanMessage("Well?", name="Oslo"),
        ],
        system="You serve Ann Lee.",
    )

    assert [message.content for message in sent[1:]] == [
        [{"type": "text", "text": "[PERSON_1]"}, {"type": "image", "base64": "Oslo", "mime_type": "x/y"}],
        [
            {"type": "reasoning", "reasoning": "[PERSON_1] again"},
            {"type": "tool_use", "id": "1", "name": "look_up", "input": {"name": "[PERSON_1]"}},
        ],
        "[PERSON_1] of [CITY_1]",
        "Well?",
    ]
    assert sent[2].tool_calls[0]["args"] == {"who": ["[PERSON_1]"], "[CITY_1]": 1}  # type: ignore[attr-defined]
    assert sent[2].additional_kwargs == {"note": "[ORDER_ID_1]"}
    assert sent[-1].name is None
    assert str(sent[0].content).startswith("You serve [PERSON_1].\n\n")


def test_what_the_tagger_misses_elsewhere_is_masked_too() -> None:
    """An entity that was found once is known, as JSON writes it too; but not within a word."""
    first_only = RunnableLambda(lambda text: TAGGER.invoke(text) if text.startswith("I am") else Tagging(text=text))
    sent = sent_for(
        [
            HumanMessage('I am Jörg "Jo" Müller of Oslo'),
            AIMessage("Hello"),
            HumanMessage(json.dumps({"name": 'Jörg "Jo" Müller', "city": "Oslo", "word": "Oslove"})),
        ],
        tagger=first_only,
    )

    assert sent[-1].content == '{"name": "[PERSON_1]", "city": "[CITY_1]", "word": "Oslove"}'


def test_signed_thoughts_go_back_as_they_came() -> None:
    """Their provider would refuse a changed one; the model wrote it with markers only."""
    signed = {"type": "thinking", "thinking": "[PERSON_1] is in Oslo", "signature": "abc"}
    agent = create_agent(
        WholeModel(plan=lambda m: AIMessage([signed, {"type": "text", "text": "[PERSON_1]"}])), middleware=[redaction()]
    )
    answer = agent.invoke({"messages": [HumanMessage("Ann Lee")]})["messages"][-1]
    sent = sent_for([HumanMessage("Ann Lee"), answer, HumanMessage("And?")])

    assert [signed, {"type": "text", "text": "Ann Lee"}] == answer.content
    assert [signed, {"type": "text", "text": "[PERSON_1]"}] == sent[2].content


@pytest.mark.parametrize("said", ["Ann Lee says [PERSON_1] and [PERSON_2]", "[TEXT_1], [PERSON_1]: Ann Lee", "Kim Doe"])
def test_a_text_that_looks_like_a_marker_comes_back(said: str) -> None:
    """In the turn in which it is said, and in later ones, when the marker is taken."""
    for options in ({}, {"pseudonyms": PSEUDONYMS}):
        agent = create_agent(WholeModel(plan=echo), middleware=[redaction(**options)], checkpointer=InMemorySaver())
        thread: Any = {"configurable": {"thread_id": "1"}}
        for turn in ("Ann Lee and Seán O'Neil", said, said):
            answer = agent.invoke({"messages": [HumanMessage(turn)]}, thread)["messages"][-1]
            assert turn == answer.content


def test_pseudonyms_come_first_then_markers() -> None:
    """In the order given."""
    sent = sent_for([HumanMessage("Ann Lee, Seán O'Neil, 张伟 in Oslo")], pseudonyms=PSEUDONYMS)

    assert sent[-1].content == "Kim Doe, Sam Roe, [PERSON_1] in [CITY_1]"


def test_only_the_chosen_types_are_masked() -> None:
    """The others are the model's to know."""
    sent = sent_for([HumanMessage("Ann Lee in Oslo")], labels=["PERSON"], instructions=None)

    assert [message.content for message in sent] == ["[PERSON_1] in Oslo"]


def test_answers_are_not_cached_across_users() -> None:
    """The same masked question has an answer of its own for each; the model may cache what it sees."""
    set_llm_cache(InMemoryCache())
    try:
        model = WholeModel(plan=echo)
        agent = create_agent(model, middleware=[redaction()])
        answers = [agent.invoke({"messages": [HumanMessage(f"I am {who}")]})["messages"][-1].content for who in PEOPLE]
    finally:
        set_llm_cache(None)

    assert [f"I am {who}" for who in PEOPLE] == answers


def test_structured_answers_are_restored() -> None:
    """As a tool call, and as JSON in the content, whose strings are escaped."""

    class Person(BaseModel):
        name: str

    def call(messages: list[BaseMessage]) -> AIMessage:
        return AIMessage("", tool_calls=[{"name": "Person", "args": {"name": messages[-1].content}, "id": "1"}])

    def write(messages: list[BaseMessage]) -> AIMessage:
        return AIMessage(f'{{"name": "{messages[-1].content}"}}')

    for plan, strategy in ((call, ToolStrategy(Person)), (write, ProviderStrategy(Person))):
        for model in (PlannedModel(plan=plan), WholeModel(plan=plan)):
            agent: Any = create_agent(model, middleware=[redaction()], response_format=strategy)
            asked = {"messages": [HumanMessage('Jörg "Jo" Müller')]}
            *_, last = agent.stream(asked, stream_mode=["messages", "values"])

            assert Person(name='Jörg "Jo" Müller') == last[1]["structured_response"]


def test_a_fallback_that_replaces_the_model_is_restored() -> None:
    """Though it stands next to the model, where redaction should."""
    agent = create_agent(failing(), middleware=[redaction(), ModelFallbackMiddleware(WholeModel(plan=echo))])

    assert agent.invoke({"messages": [HumanMessage("Ann Lee")]})["messages"][-1].content == "Ann Lee"


def broken(text: str) -> Tagging:
    raise RuntimeError(f"cannot tag {text}")


@pytest.mark.parametrize("kind", [RunnableLambda, AllOrNothing])
async def test_a_failing_tagger_blocks_the_turn(kind: type[Any], caplog: pytest.LogCaptureFixture) -> None:
    """The model is not called, the agent lives, and the log holds no text."""
    model = saying("Fine.")
    agent = create_agent(model, middleware=[redaction(tagger=kind(broken))])
    asked = {"messages": [HumanMessage("Ann Lee")]}

    assert agent.invoke(asked)["messages"][-1].content == BLOCKED
    assert (await agent.ainvoke(asked))["messages"][-1].content == BLOCKED
    assert model.seen == []
    assert "Ann Lee" not in caplog.text
    assert "RuntimeError" in caplog.text


def test_a_failing_tagger_may_let_the_turn_pass() -> None:
    """If that was asked for; what is known from before is masked still."""
    agent_model = saying("Fine.")
    saver = InMemorySaver()
    thread: Any = {"configurable": {"thread_id": "1"}}
    for tagger, said in ((TAGGER, "Ann Lee"), (RunnableLambda(broken), "Ann Lee in Oslo")):
        agent = create_agent(agent_model, middleware=[redaction(tagger=tagger, on_error="pass")], checkpointer=saver)
        agent.invoke({"messages": [HumanMessage(said)]}, thread)

    assert agent_model.seen[-1][-1].content == "[PERSON_1] in Oslo"


def test_a_model_that_raises_leaves_a_conversation_that_goes_on() -> None:
    """The error is the caller's, as without redaction; the next call answers."""
    agent = create_agent(failing(times=1), middleware=[redaction()], checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}
    with pytest.raises(TimeoutError, match="the provider is away"):
        agent.invoke({"messages": [HumanMessage("Ann Lee")]}, thread)

    assert agent.invoke({"messages": [HumanMessage("Ann Lee?")]}, thread)["messages"][-1].content == "Here I am."


@pytest.mark.parametrize(
    "messages",
    [[], [HumanMessage("")], [HumanMessage([{"type": "image", "base64": "aGk=", "mime_type": "image/png"}])]],
)
def test_a_conversation_without_text_passes(messages: list[Any]) -> None:
    """There is nothing to mask; images go to the model as they are."""
    sent = sent_for(messages, system="Be kind.")

    assert ["Be kind.", *(message.content for message in messages)] == [message.content for message in sent]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on_error": "ignore"}, "Expected on_error 'block' or 'pass', found 'ignore'"),
        ({"pseudonyms": {"PERSON": ["Kim", "Kim Doe"]}}, "none is a part of another, found 'Kim' and 'Kim Doe'"),
        ({"pseudonyms": {"PERSON": ["[X]"]}}, "without brackets"),
        ({"pseudonyms": {"PERSON": [" "]}}, "found ' '"),
    ],
)
def test_what_cannot_be_configured_is_said(options: Any, said: str) -> None:
    """When the middleware is made."""
    with pytest.raises(ConfigError, match=re.escape(said)):
        redaction(**options)


def test_a_mistyped_entity_type_gets_a_guess(tiny_tagger: Checkpoint) -> None:
    """The tagger tells which there are."""
    tagger = EntityTagger.from_checkpoint(tiny_tagger, device="cpu", backend="torch")
    with pytest.raises(ConfigError, match=r"found 'PRE' \(did you mean 'PER'\?\)\. Its types are LOC, PER"):
        redaction(tagger=tagger, labels=["PRE"])


def test_a_real_tagger_masks_what_it_finds(tiny_tagger: Checkpoint) -> None:
    """Whatever that is: what comes back is what was said."""
    tagger = EntityTagger.from_checkpoint(tiny_tagger, device="cpu", backend="torch")
    said = "Angela Merkel flew from Berlin to Paris on Monday with Barack Obama."

    assert tagger.invoke(said).entities
    assert said == answer_to(said, echo, tagger=tagger)
    assert sent_for([HumanMessage(said)], tagger=tagger)[-1].content != said
