"""An LLM's free answer becomes the models' result types."""

import json
from copy import copy
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import FakeListChatModel
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnablePassthrough, RunnablePick
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from lc_finetune import (
    AnswerError,
    Classification,
    EntitiesOutputParser,
    Entity,
    LabelOutputParser,
    LCFinetuneError,
    Tagging,
)
from lc_finetune.errors import ConfigError

labels = LabelOutputParser(labels=["card", "card_arrival", "refund"])
entities = EntitiesOutputParser(labels=["CITY", "PERSON"])


def found(text: str, *items: dict[str, Any]) -> list[tuple[str, str, int]]:
    """Label, words and start of each entity that an answer with these items gives."""
    result = entities.invoke({"text": text, "answer": json.dumps(items)})
    return [(entity.label, entity.text, entity.start) for entity in result.entities]


@pytest.mark.parametrize(
    "answer",
    [
        "card_arrival",
        " card_arrival\n",
        "Card arrival.",
        "CARD-ARRIVAL!",
        '"card_arrival"',
        "'card_arrival'.",
        "`card_arrival`",
        "**card_arrival**",
        "_card_arrival_",
        r"card\_arrival",
        "Label: card_arrival",
        "**Label:** card_arrival",
        "The answer:\nCategory: card arrival",
        '{"label": "card_arrival"}',
        '{"reason": "no refund", "Intent": "card_arrival"}',
        '[{"class": "card_arrival"}]',
        '["card_arrival"]',
        '{"label": "card_arrival", "category": "Card arrival"}',
        '{"label": "card_arrival", "reason": "two\nlines"}',
        '```json\n{"category": "CARD-ARRIVAL"}\n```',
        '```\n{"answer": "card_arrival"}\n```\nLet me know if a refund is meant [1].',
        "```\ncard_arrival\n```",
        'Sure! {"label": "card_arrival"} is what I would say.',
        "I think this is about card arrival, since the card_arrival is late.",
        "「card_arrival」",
        "《card_arrival》。",
        "分类：card_arrival",
        '{"label": "card_arrival", "confidence": 0.9} // sure',
        "<think>A refund? No, a card.</think>\ncard_arrival",
        '<think>{"label": "refund"}</think>{"label": "card_arrival"}',
        "a refund, hmm</think> card_arrival",
        '<think>refund</think><think>card</think>```json\n{"label": "card_arrival"}\n```',
        '{"name": "classify", "arguments": {"label": "card_arrival"}}',
    ],
)
def test_an_answer_is_read_however_it_is_dressed(answer: str) -> None:
    """JSON, fences, quotes, Markdown, another case, or a sentence that names one label."""
    expected = Classification(text="", label="card_arrival", source="llm")

    assert expected == labels.invoke(answer) == labels.parse(answer)
    assert expected.score is None
    assert not expected.scores


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "   ",
        "no idea",
        "postcard",
        "It is a card-like thing.",
        "card or refund",
        '"card" or "refund"',
        "a refund, not a card",
        "card_arrival; if not, card",
        "Label: card\nLabel: refund",
        '{"label": "cash"}',
        '{"label": null}',
        '{"label": {"of": "card"}}',
        '{"label": "card", "category": "refund"}',
        '{"label": "card"} {"label": "refund"}',
        '["card", "refund"]',
        "[1]",
        '{"a": "card"}',
        "[]",
        '{"label": "card',
        '```json\n{"label": "card_arrival", "reason": ["refu',
        "[" * 100_000,
        "<think>It is a refund",
        "<think>refund</think>",
        "refund <think>or",
    ],
)
def test_an_answer_without_exactly_one_label_is_an_error(answer: str) -> None:
    """None, several, one outside of the set, and JSON that breaks off; the answer is in `llm_output` only."""
    with pytest.raises(AnswerError) as caught:
        labels.invoke(answer)

    assert answer == caught.value.llm_output
    assert not answer.strip() or answer not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "answer", "label"),
    [
        (["1", "-1"], "-1", "-1"),
        (["1", "-1"], "Label: -1", "-1"),
        (["4", "5"], "5", "5"),
        (["4", "5"], '{"label": 5}', "5"),
        (["True", "False"], '{"label": true}', "True"),
        (["US", "us"], "us", "us"),
        (["US", "us"], "It is US.", "US"),
        (["a b", "a-b"], "a-b", "a-b"),
        (["C", "C++", "C#"], "c++", "C++"),
        (["C", "C++", "C#"], "That is C#.", "C#"),
        (["👍", "👎"], "👎", "👎"),
        (["card arrival", "new card"], "NEW CARD", "new card"),
        (["Straße"], "STRASSE", "Straße"),
        (["etc.", "b"], "etc.", "etc."),
        (["x: y", "y"], "x: y", "x: y"),
        (["退款", "交付"], "“退款”。", "退款"),
        (["cafe\u0301", "bar"], "I say café.", "cafe\u0301"),
        (["café", "bar"], "CAFE\u0301", "café"),
    ],
)
def test_the_spelling_of_the_set_comes_first(names: list[str], answer: str, label: str) -> None:
    """Labels may hold any character and differ in as little as their case."""
    assert label == LabelOutputParser(labels=names).invoke(answer).label


@pytest.mark.parametrize(
    ("names", "answer"),
    [
        (["US", "us"], "Us"),
        (["a b", "a-b"], "a_b"),
        (["a b", "a-b"], "I say a_b."),
        (["1", "0"], "-1."),
        (["food", "drink"], "non-food"),
        (["card arrival", "new card"], "a new card arrival"),
    ],
)
def test_a_variant_that_fits_no_label_or_several_is_an_error(names: list[str], answer: str) -> None:
    """What is not clear is not guessed."""
    with pytest.raises(AnswerError):
        LabelOutputParser(labels=names).invoke(answer)


@given(names=st.lists(st.text().map(str.strip).filter(bool), min_size=1, max_size=8, unique=True))
def test_every_label_is_its_own_answer(names: list[str]) -> None:
    """Bare, and as the JSON that the instructions ask for."""
    parser = LabelOutputParser(labels=names)

    assert names == [parser.invoke(name).label for name in names]
    assert names == [parser.invoke(json.dumps({"label": name})).label for name in names]


@given(answer=st.text() | st.text(alphabet='{}[]":,card_label 1\\'))
def test_any_answer_gives_a_label_or_an_answer_error(answer: str) -> None:
    """Nothing an LLM writes raises anything else."""
    outcome = labels.batch([answer], return_exceptions=True)[0]

    assert isinstance(outcome, Classification | AnswerError)


@given(text=st.text(), answer=st.text() | st.text(alphabet='{}[]":,textlab 1\\'))
def test_any_answer_gives_entities_or_an_answer_error(text: str, answer: str) -> None:
    """Nothing an LLM writes raises anything else."""
    given: list[Any] = [{"text": text, "answer": answer}]
    outcome = entities.batch(given, return_exceptions=True)[0]

    assert isinstance(outcome, Tagging | AnswerError)


def test_messages_and_mappings_are_answers_too() -> None:
    """A message's text counts, also in blocks; a mapping brings the text along, as a str or a message."""
    blocks = AIMessage([{"type": "reasoning", "reasoning": "card?"}, {"type": "text", "text": "refund"}])
    expected = Classification(text="money back", label="refund", source="llm")

    assert labels.invoke(blocks).label == "refund"
    assert expected == labels.invoke({"text": "money back", "answer": blocks})
    assert expected == labels.invoke({"text": AIMessage("money back"), "answer": "refund"})
    assert labels.invoke({"answer": "refund"}).text == ""


def test_a_tool_call_is_an_answer() -> None:
    """Its arguments count where the message has no words; several calls are several entities."""

    def calling(*arguments: dict[str, Any]) -> AIMessage:
        return AIMessage("", tool_calls=[{"name": "f", "args": one, "id": str(i)} for i, one in enumerate(arguments)])

    ann, oslo = {"label": "PERSON", "text": "Ann"}, {"label": "CITY", "text": "Oslo"}
    whole = entities.invoke({"text": "Ann, Oslo", "answer": calling({"entities": [ann, oslo]})})

    assert labels.invoke(calling({"label": "refund"})).label == "refund"
    assert whole == entities.invoke({"text": "Ann, Oslo", "answer": calling(ann, oslo)})
    assert [entity.text for entity in whole.entities] == ["Ann", "Oslo"]


@pytest.mark.parametrize("given", [7, None, ["refund"], {"text": "x"}, {"answer": 7}, {"text": 7, "answer": "refund"}])
def test_what_is_no_answer_is_an_answer_error(given: Any) -> None:
    """The message says what to give instead."""
    with pytest.raises(AnswerError, match='"text": …, "answer": …'):
        labels.invoke(given)


def test_an_answer_error_belongs_to_both_trees_and_can_be_copied() -> None:
    """LangChain's fallbacks and fixing parsers catch it, and a copy is whole."""
    error = AnswerError("Expected this.", "that")
    twin = copy(error)

    assert isinstance(error, LCFinetuneError)
    assert isinstance(error, OutputParserException)
    assert (str(twin), twin.llm_output) == ("Expected this.", "that")


@pytest.mark.parametrize("names", [[], ["a", "a"], ["a", " "]])
def test_labels_that_cannot_be_told_apart_are_refused(names: list[str]) -> None:
    """Also no labels at all, and blank ones."""
    with pytest.raises(ConfigError):
        LabelOutputParser(labels=names)


@pytest.mark.parametrize(
    "answer",
    [
        '[{"label": "CITY", "text": "Oslo"}]',
        '{"entities": [{"label": "city", "text": "Oslo"}]}',
        '```json\n[{"label": "CITY", "text": "Oslo"}]\n```',
        'I found [1]: [{"label": "CITY", "text": "Oslo"}]. No {others}.',
        '[{"label": "CITY", "text": "Oslo", "start": 3, "end": 7}]',
        '[{"label": "CITY", "text": "Oslo", "start": 0, "end": 4}]',
        '[{"label": "CITY", "text": "Oslo", "start": "3", "end": null}]',
        '[{"label": "CITY", "text": " OSLO "}]',
    ],
)
def test_entities_are_read_however_they_are_dressed(answer: str) -> None:
    """A list, or an object with one, fenced or among words; offsets are checked; the text's own spelling is kept."""
    expected = Tagging(
        text="To Oslo.", entities=(Entity(label="CITY", text="Oslo", start=3, end=7, score=None),), source="llm"
    )

    assert expected == entities.invoke({"text": "To Oslo.", "answer": answer})


@pytest.mark.parametrize("answer", ["[]", '{"entities": []}', "```json\n[]\n```"])
def test_an_empty_list_is_a_text_without_entities(answer: str) -> None:
    """Not an error."""
    assert Tagging(text="To Oslo", source="llm") == entities.invoke({"text": "To Oslo", "answer": answer})


def test_repeated_mentions_are_successive_occurrences() -> None:
    """Equal spelling comes first, then another case; entities come by position, whatever the answer's order."""
    ann, oslo = {"label": "PERSON", "text": "Ann"}, {"label": "CITY", "text": "oslo"}

    assert found("Oslo to oslo, Ann", ann, oslo, oslo) == [
        ("CITY", "Oslo", 0),
        ("CITY", "oslo", 8),
        ("PERSON", "Ann", 14),
    ]
    assert found("Oslo to oslo", oslo) == [("CITY", "oslo", 8)]
    assert found("Ann Ann", ann, {"label": "CITY", "text": "Ann"}) == [("PERSON", "Ann", 0), ("CITY", "Ann", 4)]


def test_a_mention_too_many_is_dropped() -> None:
    """There is no place left for it."""
    assert found("To Oslo", *[{"label": "CITY", "text": "Oslo"}] * 3) == [("CITY", "Oslo", 3)]


def test_right_offsets_win_over_the_order_of_mentions() -> None:
    """A mention that says where it is stays there, and leaves the other places to the others."""
    stated = {"label": "PERSON", "text": "Oslo", "start": 0, "end": 4}

    assert found("Oslo Oslo", {"label": "CITY", "text": "Oslo"}, stated) == [("PERSON", "Oslo", 0), ("CITY", "Oslo", 5)]


def test_spacing_may_differ() -> None:
    """The entity keeps the line break that the answer lost."""
    assert found("to New \n York", {"label": "CITY", "text": "new york"}) == [("CITY", "New \n York", 3)]


@pytest.mark.parametrize(
    ("text", "said", "entity"),
    [
        ("Dear Zoe\u0308!", "Zoë", "Zoe\u0308"),
        ("Dear Zoë!", "Zoe\u0308", "Zoë"),
        ("Dear Jean‑Luc O’Hara!", "Jean-Luc O'Hara", "Jean‑Luc O’Hara"),
        ("Dear New\u00a0York!", "new york", "New\u00a0York"),
        ("Dear Ann!", '"Ann."', "Ann"),
        ("Dear Ann!", "Ann!", "Ann!"),
    ],
)
def test_a_copy_may_differ_as_models_copy(text: str, said: str, entity: str) -> None:
    """Accents composed or not, other quotes, hyphens, spaces, dressing: the text's own spelling is kept."""
    assert [("PERSON", entity, 5)] == found(text, {"label": "PERSON", "text": said})


def test_entities_named_while_thinking_do_not_count() -> None:
    """Only what is said after it."""
    thought = '<think>[{"label": "PERSON", "text": "Oslo"}]</think>[{"label": "CITY", "text": "Oslo"}]'

    assert [e.label for e in entities.invoke({"text": "To Oslo", "answer": thought}).entities] == ["CITY"]


def test_whole_words_come_before_parts_of_words() -> None:
    """Ann is not in Annual while there is an Ann; but a text without spaces has its entities too."""
    assert found("Annual: Ann", {"label": "PERSON", "text": "Ann"}) == [("PERSON", "Ann", 8)]
    assert found("京都駅", {"label": "CITY", "text": "京都"}) == [("CITY", "京都", 0)]


@pytest.mark.parametrize("order", [1, -1])
def test_entities_do_not_overlap(order: int) -> None:
    """The longest takes its place first, and the shorter looks for another; without one it is dropped."""
    york, new_york = {"label": "PERSON", "text": "York"}, {"label": "CITY", "text": "New York"}

    assert found("New York and York", *[york, new_york][::order]) == [("CITY", "New York", 0), ("PERSON", "York", 13)]
    assert found("New York", *[york, new_york][::order]) == [("CITY", "New York", 0)]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "nothing",
        "[1]",
        "7",
        "null",
        '{"entities": null}',
        '{"label": "CITY", "text": "Oslo"}',
        '[{"label": "CITY", "text": "Oslo"}',
        '[{"label": "CITY", "text": "Oslo"}] or [{"label": "PERSON", "text": "Oslo"}]',
        '[{"label": "CITY", "text": "Rome"}]',
        '[{"label": "CITY", "text": "To", "start": 0, "end": 2}, {"label": "CITY", "text": "Rome"}]',
        '[{"label": "DATE", "text": "Oslo"}]',
        '[{"label": "CITY", "text": ""}]',
        '[{"label": "CITY", "text": " "}]',
        '[{"label": "CITY", "text": 7}]',
        '[{"label": ["CITY"], "text": "Oslo"}]',
        '[{"text": "Oslo"}]',
        '[{"label": "CITY"}]',
        "[" * 100_000,
    ],
)
def test_entities_that_cannot_be_placed_or_labelled_are_errors(answer: str) -> None:
    """What is not in the text or the label set is never guessed; neither text nor answer is in the message."""
    with pytest.raises(AnswerError) as caught:
        entities.invoke({"text": "To Oslo", "answer": answer})

    assert answer == caught.value.llm_output
    assert not {"Oslo", "Rome", "DATE"} & set(str(caught.value).replace("'", " ").split())


@pytest.mark.parametrize("given", ["[]", AIMessage("[]"), {"answer": "[]"}, {"text": None, "answer": "[]"}])
def test_entities_without_their_text_are_an_error(given: Any) -> None:
    """Spans need the text; the message says how to give it."""
    with pytest.raises(AnswerError, match='"text": …, "answer": …'):
        entities.invoke(given)


@given(text=st.text(alphabet="aAbßİ \n.") | st.text(), data=st.data())
def test_every_entity_is_a_slice_of_its_text(text: str, data: st.DataObject) -> None:
    """In order, disjoint and `text[start:end] == entity.text`, whatever the words and offsets."""
    edges = st.integers(0, len(text))
    ranges = data.draw(st.lists(st.tuples(edges, edges).map(sorted), max_size=5))
    items = [
        {"label": data.draw(st.sampled_from(["CITY", "person"])), "text": text[start:end], "start": at, "end": at + 2}
        for start, end in ranges
        if text[start:end].strip()
        for at in [data.draw(edges)]
    ]

    result = entities.invoke({"text": text, "answer": json.dumps(items)}).entities

    assert bool(items) == bool(result)
    assert all(text[entity.start : entity.end] == entity.text for entity in result)
    assert all(left.end <= right.start for left, right in pairwise(result))


def test_format_instructions_name_every_label_and_the_json_that_is_read() -> None:
    """A prompt can be built from the parser alone: its example is an answer."""
    example = labels.get_format_instructions().rpartition("For example: ")[2]

    assert all(f"- {label}\n" in labels.get_format_instructions() for label in labels.labels)
    assert labels.invoke(example).label == "card"
    assert "CITY, PERSON" in entities.get_format_instructions()
    assert '[{"label": "CITY", "text": "…"}]' in entities.get_format_instructions()


@pytest.mark.parametrize("parser", [labels, entities], ids=["label", "entities"])
@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
def test_a_parser_survives_serialization(parser: LabelOutputParser | EntitiesOutputParser) -> None:
    """`dumps` and `loads` give an equal parser."""
    twin = loads(dumps(parser), allowed_objects=[type(parser)], valid_namespaces=["lc_finetune"])

    assert type(parser) is type(twin)
    assert parser == twin


@pytest.mark.parametrize(("parser", "result"), [(labels, Classification), (entities, Tagging)])
def test_the_schema_of_a_chain_is_that_of_the_result(
    parser: LabelOutputParser | EntitiesOutputParser, result: type[Classification] | type[Tagging]
) -> None:
    """Alone and behind a model."""
    chain = FakeListChatModel(responses=[""]) | parser

    assert result is parser.OutputType
    assert set(result.model_fields) == set(parser.get_output_jsonschema()["properties"])
    assert set(result.model_fields) == set(chain.get_output_jsonschema()["properties"])
    assert "anyOf" in parser.get_input_jsonschema()


async def test_a_chain_with_a_chat_model_works_in_every_way_of_calling() -> None:
    """Called, batched, awaited and streamed, it gives the same result."""
    chain = FakeListChatModel(responses=["refund"]) | labels
    expected = Classification(text="", label="refund", source="llm")

    assert expected == chain.invoke("?") == await chain.ainvoke("?")
    assert [expected] * 2 == chain.batch(["?", "!"]) == await chain.abatch(["?", "!"])
    assert [expected] == list(chain.stream("?"))
    assert [expected] == [result async for result in chain.astream("?")]
    assert [expected] == list(chain.transform(iter(["?"])))


def test_the_text_goes_beside_the_model() -> None:
    """One mapping carries both to the parser, streamed in pieces or whole."""
    llm = FakeListChatModel(responses=['[{"label": "CITY", "text": "Oslo"}]'])
    chain = {"text": RunnablePassthrough(), "answer": llm} | entities
    expected = Tagging(text="To Oslo", entities=(Entity(label="CITY", text="Oslo", start=3, end=7),), source="llm")

    assert expected == chain.invoke("To Oslo")
    assert [expected] == list(chain.stream("To Oslo"))


def test_fields_can_be_picked_and_assigned() -> None:
    """As of the models' results, with their schema."""
    extended = labels | RunnablePassthrough.assign(size=lambda fields: len(fields["label"]))

    assert labels.pick("label").invoke("refund") == "refund"
    assert (labels | RunnablePick(["label", "source"])).batch(["refund"]) == [{"label": "refund", "source": "llm"}]
    assert extended.invoke("refund")["size"] == 6
    assert {"label", "size"} <= set(extended.get_output_jsonschema()["properties"])
    assert labels.pick("label").get_output_jsonschema()["type"] == "string"


async def test_errors_stay_in_their_slots() -> None:
    """`return_exceptions` gives the error of one answer in its own place."""
    expected = [Classification, AnswerError, AnswerError]
    answers: list[Any] = ["refund", "?", 7]

    assert expected == [type(outcome) for outcome in labels.batch(answers, return_exceptions=True)]
    assert expected == [type(outcome) for outcome in await labels.abatch(answers, return_exceptions=True)]


@pytest.mark.parametrize("given", ["refund", {"text": "money back", "answer": "refund"}])
async def test_a_call_is_one_run_of_a_parser(given: Any) -> None:
    """Traces show what parsers show."""
    sync, awaited = RunCollectorCallbackHandler(), RunCollectorCallbackHandler()
    labels.invoke(given, {"callbacks": [sync]})
    await labels.ainvoke(given, {"callbacks": [awaited]})

    for collector in (sync, awaited):
        assert [(run.run_type, run.name, run.child_runs) for run in collector.traced_runs] == [
            ("parser", "LabelOutputParser", [])
        ]
