"""An LLM's free answer becomes the models' result types."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models import FakeListChatModel
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage

from lc_finetune import AnswerError, EntitiesOutputParser, LabelOutputParser

labels = LabelOutputParser(labels=("card", "card_arrival", "refund"))
entities = EntitiesOutputParser(labels=("CITY", "PERSON"))


@pytest.mark.parametrize(
    "answer",
    [
        "card_arrival",
        "Card arrival.",
        '"card_arrival"',
        "**card_arrival**",
        "Label: card_arrival",
        '{"label": "card_arrival"}',
        '```json\n{"category": "CARD-ARRIVAL"}\n```',
        'Sure! {"label": "card_arrival"} is what I would say.',
        "I think this is about card arrival",
    ],
)
def test_an_answer_is_read_however_it_is_dressed(answer: str) -> None:
    """JSON, fences, quotes, another case, or a sentence that names one label."""
    result = labels.invoke(answer)

    assert (result.label, result.source, result.score, len(result.scores)) == ("card_arrival", "llm", None, 0)


@pytest.mark.parametrize(
    "answer", ["", "no idea", "card or refund", '{"label": "cash"}', "[1]", '{"a": 1}', "postcard"]
)
def test_an_answer_outside_the_labels_is_an_error_that_keeps_the_answer_to_itself(answer: str) -> None:
    """The message names the labels; the answer is in `llm_output` only."""
    with pytest.raises(AnswerError) as caught:
        labels.invoke(answer)

    assert answer == caught.value.llm_output
    assert not answer or answer not in str(caught.value)


def test_messages_and_mappings_are_answers_too() -> None:
    """A message's text counts; a mapping brings the text along."""
    assert labels.invoke(AIMessage([{"type": "text", "text": "refund"}])).label == "refund"
    assert labels.invoke({"text": "money back", "answer": AIMessage("refund")}).text == "money back"


def test_entities_are_found_again_in_the_text() -> None:
    """Repeated words go to successive occurrences; wrong offsets are corrected; the text's own spelling is kept."""
    text = "Oslo to oslo, Ann"
    items = ['{"label":"city","text":"Oslo"}', '{"label":"CITY","text":"oslo","start":0,"end":4}',
             '{"label":"PERSON","text":"ANN"}']  # fmt: skip
    answer = f"[{','.join(items)}]"

    found = entities.invoke({"text": text, "answer": answer}).entities

    assert [(e.label, e.text, e.start) for e in found] == [
        ("CITY", "Oslo", 0),
        ("CITY", "oslo", 8),
        ("PERSON", "Ann", 14),
    ]


@pytest.mark.parametrize(
    "answer", ["nothing", '[{"label":"CITY","text":"Rome"}]', '[{"label":"DATE","text":"Oslo"}]', '[{"text":"Oslo"}]']
)
def test_entities_not_in_text_or_label_set_are_errors(answer: str) -> None:
    """What cannot be placed is never guessed."""
    with pytest.raises(AnswerError):
        entities.invoke({"text": "To Oslo", "answer": answer})


def test_entities_without_their_text_are_an_error() -> None:
    """Spans need the text; the message says how to give it."""
    with pytest.raises(AnswerError, match='"text"'):
        entities.invoke("[]")


@given(text=st.text(min_size=1), data=st.data())
def test_every_entity_is_a_slice_of_its_text(text: str, data: st.DataObject) -> None:
    """`text[start:end] == entity.text`, whatever the words."""
    import json

    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    answer = json.dumps([{"label": "CITY", "text": text[start:end]}])

    for entity in entities.invoke({"text": text, "answer": answer}).entities:
        assert text[entity.start : entity.end] == entity.text


def test_a_chain_with_a_chat_model_batches_and_keeps_errors_in_their_slots() -> None:
    """`return_exceptions` gives the error of one answer in its own place."""
    chain = FakeListChatModel(responses=["refund"]) | labels
    outcomes = labels.batch(["refund", "?"], return_exceptions=True)

    assert chain.invoke("where is my money").label == "refund"
    assert [type(outcome).__name__ for outcome in outcomes] == ["Classification", "AnswerError"]


def test_format_instructions_name_every_label() -> None:
    """A prompt can be built from the parser alone."""
    assert all(label in labels.get_format_instructions() for label in labels.labels)
    assert "CITY, PERSON" in entities.get_format_instructions()


@pytest.mark.parametrize("parser", [labels, entities], ids=["label", "entities"])
def test_a_parser_survives_serialization(parser: LabelOutputParser) -> None:
    """`dumps` and `loads` give an equal parser."""
    copy = loads(dumps(parser), allowed_objects=[type(parser)], valid_namespaces=["lc_finetune"])

    assert parser == copy
