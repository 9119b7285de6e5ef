"""Customer service: intent and entities of a query → a filled template, an answer out of the FAQ, or a person.

Run `python -m chains.customer_service` after `make demo` has trained `runs/demo/support` and `runs/demo/entities`.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ConfigDict, Field

from lc_finetune import (
    AnswerError,
    Classification,
    ConfigError,
    Entity,
    EntityTagger,
    FanOut,
    InputError,
    LabelRouter,
    LCFinetuneError,
    Tagging,
    TextClassifier,
)
from lc_finetune.runnables.dispatch import Dispatcher, aoutcomes_of, children, outcomes_of
from lc_finetune.runnables.inputs import text_of

logger = logging.getLogger(__name__)

Item = dict[str, Any]
"""A message on its way; see `build_chain` for what it holds."""

TEMPLATES = {
    "track_order": "Let me look up where {ORDER_ID|your order} is.",
    "cancel_order": "I will stop order {ORDER_ID} if it has not left yet.",
    "return_item": "You can send {PRODUCT|the item} back within 30 days; a label is on its way.",
    "refund_status": "I will check on your refund of {MONEY|what you paid}.",
    "damaged_item": "I am sorry that {PRODUCT|the item} arrived damaged. A photo is all we need.",
    "invoice_request": "The invoice for {ORDER_ID|your order} will be in your inbox shortly.",
}
"""Answers by intent. `{TYPE|otherwise}` is filled with an entity of the type, or with what follows the bar; where
`{TYPE}` has no entity, a person answers."""

FAQ = Path(__file__).with_name("customer_service_faq.jsonl")
FAQ_LABELS = ("account_login", "change_address", "change_subscription", "payment_problem", "product_question")
"""Intents that are answered out of the FAQ."""

PATTERNS = {"ORDER_ID": r"(?<![\w#])(?:#\d{5,6}|ORD-\d{4}-[A-Z]|[A-F]\d-\d{5})(?!\w)"}
"""Entity type → regular expression, in any case. What a pattern finds takes the place of all that it overlaps."""

LEAST_SCORE = 0.4
"""Score below which a query of an uncalibrated classifier goes to a person."""
SCOPE_LEVEL = 0.05
"""`in_scope` below which a person is told that the query is about something else."""
EARLIER_TURNS = 4
"""Earlier messages of the customer in which entities are looked for, and that the FAQ is searched with."""

HAND_OVER = "A colleague will be with you in a moment."
UNREADABLE = "I could not find a question in that. Please write in words what you need."

INSTRUCTIONS = """You answer customers of an online shop. Use the numbered passages alone, and at most three sentences.
Put the number of the passage you took it from behind each statement, like this: [1].
If the passages do not answer the question, say NONE and nothing else.

{passages}"""
NO_ANSWER = "NONE"

_FIELD = re.compile(r"\{(\w+)(?:\|([^{}]*))?\}")
_CITATION = re.compile(r"\[(\d+)\]")


def build_chain(
    classifier: Runnable[Any, Classification],
    tagger: Runnable[Any, Tagging],
    *,
    retriever: Runnable[str, list[Document]] | None = None,
    chat: Runnable[Any, BaseMessage] | None = None,
    person: Runnable[Item, str] | None = None,
    templates: Mapping[str, str] = TEMPLATES,
    faq_labels: Sequence[str] = FAQ_LABELS,
    patterns: Mapping[str, str] = PATTERNS,
    least_score: float = LEAST_SCORE,
    scope_level: float = SCOPE_LEVEL,
) -> Runnable[Any, Item]:
    """Compose classifier and tagger with the answers. A batch is one call of each model.

    An input is whatever `TextClassifier` reads; of a conversation the last message of the customer is classified, and
    earlier ones are its context: a missing entity is taken from the latest that has one, the FAQ is searched with them,
    and the chat model sees them. Nothing raises on account of one message: what cannot be read, or answered, goes to
    `person`, and `reason` says why.

    Args:
        classifier: Gives the intent.
        tagger: Gives the entities that fill the templates.
        retriever: A query → passages with `id`, and `metadata["answer"]` for answers without a chat model. Without
            one, a person answers the intents of `faq_labels`.
        chat: Any chat model; give it its own `timeout`. Without one the best passage is the answer. So it is when the
            model raises, times out or answers without citing a passage; `error` then says what happened.
        person: Takes items; for what is unreadable, out of scope, not accepted, less certain than `least_score`, has
            no route, or needs an entity that nobody named.
        templates: Answers by intent, with fields for entities.
        faq_labels: Intents that go to the retriever.
        patterns: Regular expressions by entity type; they overrule the tagger.
        least_score: For classifiers without a calibrated `accepted`. A language model's answers have no score,
            and stand.
        scope_level: Least p-value `in_scope`, where there is one.

    Returns:
        A Runnable from a query to a dict with `text`, `history` (earlier messages), `classification`, `tagging` (of
        the last messages of the customer, a line break between them), `entities` (type → text), `reason` (None unless a
        person answers), `route` (label, `"faq"` or `"person"`), `answer`, `sources` (ids of the passages that the
        answer cites) and `error` (None, or why there is no better answer).

    Raises:
        ConfigError: If a template has a brace that belongs to no field, a label has both a template and the FAQ, or a
            pattern is no regular expression.
    """
    for name, pattern in patterns.items():
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"Expected a regular expression for {name!r}, found a fault in it: {error}.") from None
    for label, template in templates.items():
        if re.search(r"[{}]", _FIELD.sub("", template)):
            raise ConfigError(
                f"Expected fields {{TYPE}} or {{TYPE|otherwise}} in the template of {label!r}, found another brace."
            )
        if label in faq_labels:
            raise ConfigError(f"Expected one route for {label!r}, found a template and the FAQ. Leave one out.")
    handed_over = _routed("person", person or RunnableLambda(hand_over).with_config(run_name="person"))
    routes: dict[str, Runnable[Any, Any]] = {
        label: _routed(label, Each(function=_filler(template))) for label, template in templates.items()
    }
    if retriever is not None:
        answers = FaqAnswer(retriever=retriever, chat=chat, otherwise=handed_over)
        routes |= dict.fromkeys(faq_labels, answers)

    def judged(item: Item) -> Item:
        intent: Classification = item["classification"]
        entities = named_entities(item["tagging"], patterns, len(item["said"]) - len(item["text"]))
        needed = [match[1] for match in _FIELD.finditer(templates.get(intent.label, "")) if match[2] is None]
        missing = [name for name in needed if name not in entities.named]
        reason = None
        if item["error"] is not None:
            reason = "unreadable"
        elif intent.in_scope is not None and intent.in_scope < scope_level:
            reason = "out of scope"
        elif intent.accepted is False or (intent.accepted is None and not _certain(intent, least_score)):
            reason = "not certain"
        elif intent.label not in routes:
            reason = f"no route for {intent.label}"
        elif missing:
            reason = f"no {missing[0]} named"
        if reason is not None:
            intent = intent.model_copy(update={"accepted": False})
        kept = {key: value for key, value in item.items() if key != "said"}
        return {
            **kept,
            "classification": intent,
            "tagging": entities.tagging,
            "entities": entities.named,
            "reason": reason,
        }

    return (
        Each(function=read_conversation)
        | FanOut.assign(classification=classifier, tagging=Each(function=lambda item: item["said"]) | tagger)
        | Each(function=judged)
        | LabelRouter(routes=routes, default=handed_over, key="classification")
    ).with_config(run_name="customer_service")


def _certain(intent: Classification, least_score: float) -> bool:
    """Whether an uncalibrated score is high enough; a language model's answer, as of a cascade, has none to compare."""
    return intent.source == "llm" if intent.score is None else intent.score >= least_score


class Each(Dispatcher):
    """A function of one item; a batch takes no thread for each, and an item whose function raises fails alone."""

    function: Callable[[Any], Any]

    @property
    def _branches(self) -> list[Runnable[Any, Any]]:
        return []

    def _many(self, values: Sequence[Any], run_manager: Any, config: Any, **kwargs: Any) -> list[Any]:
        outcomes: list[Any] = []
        for value in values:
            try:
                outcomes.append(self.function(value))
            except Exception as error:
                outcomes.append(error)
        return outcomes

    async def _amany(self, values: Sequence[Any], run_manager: Any, config: Any, **kwargs: Any) -> list[Any]:
        return self._many(values, run_manager, config)


def _routed(name: str, answer: Runnable[Item, str]) -> Runnable[Item, Item]:
    return Each(function=lambda item: {**item, "route": name, "sources": ()}) | FanOut.assign(answer=answer)


def hand_over(item: Item) -> str:
    """Say that a person takes over, or ask for words where there are none."""
    return UNREADABLE if item["reason"] == "unreadable" else HAND_OVER


# What was said.


def read_conversation(value: Any) -> Item:
    """Read a text or a conversation; what cannot be read is an empty text with an `error`, which holds no content."""
    try:
        text = text_of(value)
        earlier = _earlier(value)
        said = _customer(earlier)
        if not all(map(_encodable, [*said, text])):
            raise InputError("Expected a text of valid Unicode, found one with a lone surrogate.")
    except InputError as error:
        return {"text": "", "said": "", "history": [], "error": str(error)}
    blank = None if text.strip() else "Expected a message with words, found a blank one."
    return {"text": text, "said": "\n".join([*filter(str.strip, said), text]), "history": earlier, "error": blank}


def _customer(messages: Sequence[BaseMessage]) -> list[str]:
    """Give the texts of the customer's latest messages."""
    return [str(message.text) for message in messages if isinstance(message, HumanMessage)][-EARLIER_TURNS:]


def _encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _earlier(value: Any) -> list[BaseMessage]:
    """Give the messages before the last human one; `text_of` has read the input already, so that there is one."""
    if isinstance(value, Mapping):
        return _earlier(value.get("text", value.get("messages")))
    if isinstance(value, PromptValue):
        value = value.to_messages()
    if not isinstance(value, list | tuple):
        return []
    try:
        messages = convert_to_messages(value)
    except Exception:  # of several kinds, which quote what they found
        raise InputError("Expected messages before the last one too, found something else among them.") from None
    last = max(position for position, message in enumerate(messages) if isinstance(message, HumanMessage))
    return messages[:last]


class Named(NamedTuple):
    """Entities with those of patterns, and for each type the text that fills templates."""

    tagging: Tagging
    named: dict[str, str]


def named_entities(tagging: Tagging, patterns: Mapping[str, str] = PATTERNS, start: int = 0) -> Named:
    """Merge what patterns find with what the tagger found, and choose one entity of each type.

    A match of a pattern takes the place of every entity of the tagger that it overlaps; of patterns that overlap, the
    one that is named first wins. The first entity of the last message, which begins at `start`, is chosen, else the
    last one before it.

    Example:
        >>> named_entities(Tagging(text="Cancel #48213, not #48214.")).named
        {'ORDER_ID': '#48213'}
    """
    merged: list[Entity] = []
    for label, pattern in patterns.items():
        for match in re.finditer(pattern, tagging.text, re.IGNORECASE):
            entity = Entity(label=label, text=match[0], start=match.start(), end=match.end())
            if match[0] and not any(_overlap(entity, other) for other in merged):
                merged.append(entity)
    merged += [entity for entity in tagging.entities if not any(_overlap(entity, other) for other in merged)]
    merged.sort(key=lambda entity: entity.start)
    named: dict[str, str] = {entity.label: entity.text for entity in merged if entity.start < start}
    named |= {entity.label: entity.text for entity in reversed(merged) if entity.start >= start}
    return Named(tagging.model_copy(update={"entities": tuple(merged)}), named)


def _overlap(one: Entity, other: Entity) -> bool:
    return one.start < other.end and other.start < one.end


def fill_template(template: str, entities: Mapping[str, str]) -> str:
    """Fill each `{TYPE|otherwise}` with the entity of the type, or with `otherwise`.

    Raises:
        InputError: If there is neither.

    Example:
        >>> fill_template("Order {ORDER_ID|of yours}.", {})
        'Order of yours.'
    """

    def filled(match: re.Match[str]) -> str:
        text = entities.get(match[1], match[2])
        if text is None:
            raise InputError(f"Expected an entity {match[1]} for the template, found none. Write {{{match[1]}|…}}.")
        return text

    return _FIELD.sub(filled, template)


def _filler(template: str) -> Callable[[Item], str]:
    return lambda item: fill_template(template, item["entities"])


# The FAQ.


class FaqRetriever(Dispatcher):
    """A query → the passages most like it. A batch is embedded in one call."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    store: InMemoryVectorStore
    most: int = Field(default=3, gt=0, description="Passages for each query.")
    least_similarity: float = Field(default=0.3, description="Cosine below which a passage is none.")

    @property
    def _branches(self) -> list[Runnable[Any, Any]]:
        return []

    def _many(self, values: Sequence[str], run_manager: Any, config: Any, **kwargs: Any) -> list[list[Document]]:
        return self._found(self.store.embedding.embed_documents(list(values)))

    async def _amany(self, values: Sequence[str], run_manager: Any, config: Any, **kwargs: Any) -> list[list[Document]]:
        return self._found(await self.store.embedding.aembed_documents(list(values)))

    def _found(self, vectors: list[list[float]]) -> list[list[Document]]:
        return [
            [
                passage
                for passage, similarity in self.store.similarity_search_with_score_by_vector(vector, k=self.most)
                if similarity >= self.least_similarity
            ]
            for vector in vectors
        ]


def faq_retriever(file: str | Path = FAQ) -> FaqRetriever:
    """Embed a FAQ with the bundled MiniLM, on the CPU and offline.

    Args:
        file: JSONL; each line has `id`, `question` and `answer`.

    Raises:
        DataError: If a line lacks one of them.
        CheckpointError: If the base model is not installed.
    """
    from langchain_huggingface import HuggingFaceEmbeddings

    from lc_finetune.train.base_model import resolve_base_model

    embeddings = HuggingFaceEmbeddings(
        model_name=str(resolve_base_model("minilm").folder), model_kwargs={"device": "cpu", "local_files_only": True}
    )
    store = InMemoryVectorStore(embeddings)
    store.add_documents(read_faq(file))
    return FaqRetriever(store=store)


def read_faq(file: str | Path = FAQ) -> list[Document]:
    """Read a FAQ: one passage a line, found by its question and answer together."""
    from lc_finetune import DataError

    passages = []
    for number, line in enumerate(Path(file).read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            name, question, answer = (str(row[key]) for key in ("id", "question", "answer"))
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{file}:{number}: expected JSON with id, question and answer, found otherwise.") from None
        passages.append(Document(id=name, page_content=f"{question} {answer}", metadata={"answer": answer}))
    return passages


class FaqAnswer(Dispatcher):
    """Passages, and what the chat model makes of them. A batch is one batch of the retriever, and one of the model."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    retriever: Runnable[Any, Any]
    chat: Runnable[Any, Any] | None = None
    otherwise: Runnable[Any, Any] = Field(description="Takes the items that the FAQ does not answer.")

    @property
    def _branches(self) -> list[Runnable[Any, Any]]:
        return [self.retriever, *([] if self.chat is None else [self.chat]), self.otherwise]

    def _many(
        self, values: Sequence[Item], run_manager: Sequence[Any], config: Sequence[RunnableConfig], **kwargs: Any
    ) -> list[Any]:
        configs = children(config, run_manager)
        found = outcomes_of(self.retriever, [_query(item) for item in values], configs)
        asked = self._asked(found)
        said = (
            []
            if self.chat is None
            else outcomes_of(self.chat, [_prompt(values[i], found[i]) for i in asked], [configs[i] for i in asked])
        )
        answered = _answered(values, found, dict(zip(asked, said, strict=False)))
        left = [i for i, item in enumerate(answered) if item["reason"] is not None]
        others = outcomes_of(self.otherwise, [answered[i] for i in left], [configs[i] for i in left])
        return _replaced(answered, dict(zip(left, others, strict=True)))

    async def _amany(
        self, values: Sequence[Item], run_manager: Sequence[Any], config: Sequence[RunnableConfig], **kwargs: Any
    ) -> list[Any]:
        configs = children(config, run_manager)
        found = await aoutcomes_of(self.retriever, [_query(item) for item in values], configs)
        asked = self._asked(found)
        said = (
            []
            if self.chat is None
            else await aoutcomes_of(
                self.chat, [_prompt(values[i], found[i]) for i in asked], [configs[i] for i in asked]
            )
        )
        answered = _answered(values, found, dict(zip(asked, said, strict=False)))
        left = [i for i, item in enumerate(answered) if item["reason"] is not None]
        others = await aoutcomes_of(self.otherwise, [answered[i] for i in left], [configs[i] for i in left])
        return _replaced(answered, dict(zip(left, others, strict=True)))

    @staticmethod
    def _asked(found: Sequence[Any]) -> list[int]:
        return [i for i, passages in enumerate(found) if not isinstance(passages, Exception) and passages]


def _replaced(answered: Sequence[Any], others: Mapping[int, Any]) -> list[Any]:
    return [others.get(i, item) for i, item in enumerate(answered)]


def _query(item: Item) -> str:
    """Give what the FAQ is searched with: short messages mean little without the ones before."""
    return "\n".join([*_customer(item["history"]), item["text"]])


def _prompt(item: Item, passages: Sequence[Document]) -> list[BaseMessage]:
    numbered = "\n".join(f"[{number}] {passage.page_content}" for number, passage in enumerate(passages, 1))
    # Their words alone: providers refuse calls of tools without their results, and many models images.
    earlier = [
        type(message)(message.text)
        for message in item["history"]
        if isinstance(message, HumanMessage | AIMessage) and message.text.strip()
    ]
    return [SystemMessage(INSTRUCTIONS.format(passages=numbered)), *earlier, HumanMessage(item["text"])]


def _answered(values: Sequence[Item], found: Sequence[Any], said: Mapping[int, Any]) -> list[Any]:
    """Put answers into the items; where there is none, a reason."""
    answered: list[Any] = []
    for i, (item, passages) in enumerate(zip(values, found, strict=True)):
        if isinstance(passages, Exception):
            answered.append({**item, "reason": "the FAQ failed", "error": type(passages).__name__})
        elif not passages:
            answered.append({**item, "reason": "not in the FAQ"})
        elif i in said:
            answered.append(_cited(item, passages, said[i]))
        else:
            answered.append(_best(item, passages))
    return answered


def _cited(item: Item, passages: Sequence[Document], said: Any) -> Item:
    """Take the chat model's answer if it cites, else the best passage as it stands."""
    if isinstance(said, Exception):
        logger.warning("The chat model raised %s; the FAQ answers as it stands.", type(said).__name__)
        return {**_best(item, passages), "error": f"The chat model raised {type(said).__name__}."}
    try:
        answer, numbers = read_answer(said, len(passages))
    except AnswerError as error:
        return {**_best(item, passages), "error": str(error)}
    if not numbers:
        return {**item, "reason": "not in the FAQ"}
    return {**item, "route": "faq", "answer": answer, "sources": tuple(passages[n - 1].id for n in numbers)}


def _best(item: Item, passages: Sequence[Document]) -> Item:
    best = passages[0]
    answer = best.metadata.get("answer", best.page_content)
    return {**item, "route": "faq", "answer": answer, "sources": (best.id,)}


def read_answer(said: Any, passages: int) -> tuple[str, list[int]]:
    """Read a chat model's answer and the numbers of the passages it cites, in order; none if it says NONE.

    Raises:
        AnswerError: If it is no text, or cites no passage, or one that there is not.

    Example:
        >>> read_answer("Yes, within 30 days [2].", 3)
        ('Yes, within 30 days [2].', [2])
    """
    text = said.text if isinstance(said, BaseMessage) else said
    if not isinstance(text, str) or not text.strip():
        raise AnswerError("Expected an answer in words, found none. The best passage answers.")
    if _CITATION.sub("", text).strip(" .\"'*\n").upper() == NO_ANSWER:
        return text, []
    # Python refuses to read very long numbers, and nine digits of one are more than there are passages.
    numbers = list(dict.fromkeys(int(number[:9]) for number in _CITATION.findall(text)))
    if not numbers or not all(1 <= number <= passages for number in numbers):
        raise AnswerError(f"Expected citations from [1] to [{passages}], found {numbers or 'none'}.", llm_output=text)
    return text.strip(), numbers


# The demonstration.

QUERIES: tuple[Any, ...] = (
    "Where is order #48213? It was due on Monday.",
    "please cancel ORD-2291-X, I ordered it twice",
    "Please cancel my order before it ships",
    "The blue ceramic kettle came with a crack in the lid.",
    "Could you send me the invoice for #55120?",
    "Still no sign of the £39.90 you owe me back",
    "How do I send these boots back? They pinch.",
    [
        ("human", "My parcel C4-80031 hasn't moved for days."),
        ("ai", "It left our warehouse on Monday."),
        ("human", "Never mind, please cancel that order."),
    ],
    "I can't log in, it says my password is wrong",
    "My card was declined twice at checkout",
    "I moved to Gdańsk, please ship to my new address",
    "Does the desk lamp come with a bulb?",
    "How do I pause my coffee subscription?",
    "Can I talk to a human being please",
    "What is the capital of Australia?",
    [("human", [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}])],
    [],
)


def main(chat: BaseChatModel | None = None) -> int:
    """Answer some queries and print a table; with a chat model, it words the answers from the FAQ."""
    from rich.console import Console
    from rich.table import Table

    try:
        chain = build_chain(
            TextClassifier.from_checkpoint("runs/demo/support"),
            EntityTagger.from_checkpoint("runs/demo/entities"),
            retriever=faq_retriever(),
            chat=chat,
        )
    except LCFinetuneError as error:
        print(f"{error}\nRun `make demo` first: it trains both models.", file=sys.stderr)
        return 2
    console = Console()
    table = Table(title="Customer service", show_lines=True, title_justify="left")
    for name in ("message", "intent", "entities", "route", "answer"):
        table.add_column(name, overflow="fold")
    for item in chain.batch(list(QUERIES)):
        intent = item["classification"]
        turns = f"({len(item['history'])} earlier) " if item["history"] else ""
        table.add_row(
            f"{turns}{item['text']}" or "–",
            f"{intent.label}\n{intent.score:.2f}" if item["text"] else "–",
            "\n".join(f"{label} {text}" for label, text in item["entities"].items()),
            item["route"] if item["reason"] is None else f"{item['route']}:\n{item['reason']}",
            item["answer"] + "".join(f" \\[{source}]" for source in item["sources"]),
        )
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
