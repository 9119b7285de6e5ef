"""An LLM's free answer → the same result types that the models give."""

from __future__ import annotations

import json
import re
import unicodedata
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import BaseOutputParser
from langchain_core.runnables import RunnableConfig
from langchain_core.utils.json import parse_json_markdown
from pydantic import Field, field_validator

from lc_finetune.composition import ResultRunnable
from lc_finetune.errors import ConfigError, LCFinetuneError
from lc_finetune.labels import LabelSet, Span
from lc_finetune.schemas import Classification, Entity, Tagging

R = TypeVar("R", Classification, Tagging)

LABEL_KEYS = ("label", "category", "intent", "class", "answer")

_HINT = "Put get_format_instructions() into the prompt."
# Marks that answers are dressed in. A label that has some itself is still found: its own spelling is tried first.
_DRESSING = " \t\r\n\"'`*_.,;:!?…“”‘’„«»。，、；：！？"
_SEPARATORS = r"[\s_\\-]+"  # Markdown writes card\_arrival
_BETWEEN_WORDS = re.compile(rf"(?<=[^\W_]){_SEPARATORS}(?=[^\W_])")
_KEY = re.compile(rf"^\W*(?:{'|'.join(LABEL_KEYS)})\W*[:=]", re.IGNORECASE | re.MULTILINE)
_THINKING = re.compile(r"<(/?)(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
ARGUMENT_KEYS = ("arguments", "args", "parameters")
# Characters that a model writes for one another when it copies a text.
_ALIKE = ("'‘’ʼ", '"“”„', "-‐‑‒–—")

Place = tuple[int, int]


class AnswerError(LCFinetuneError, OutputParserException):
    """An LLM's answer cannot be read. The answer itself is in `llm_output`, never in the message."""

    def __init__(self, message: object, llm_output: str | None = None) -> None:
        # To a plain str LangChain would append a link to its troubleshooting page.
        OutputParserException.__init__(self, ValueError(message), llm_output=llm_output)


class _AnswerParser(ResultRunnable[R], BaseOutputParser[R]):
    """Reads an answer: a `str`, a message, or a mapping `{"text": …, "answer": …}`.

    Of a message that only calls tools, the arguments are the answer. What stands between thinking tags is none of it.
    """

    labels: Sequence[str] = Field(description="The labels an answer may use.")

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: Sequence[str]) -> tuple[str, ...]:
        if not all(label.strip() for label in labels):
            raise ConfigError("Expected labels that can be seen, found a blank one. Leave it out or name it.")
        return LabelSet(tuple(labels)).names

    @property
    def InputType(self) -> Any:
        """An answer, or a mapping of text and answer."""
        return str | BaseMessage | dict[str, Any]

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> R:
        """Read one answer.

        Raises:
            AnswerError: If it cannot be read; `llm_output` holds it.
        """
        return self._call_with_config(self._read_input, input, config, run_type="parser")

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> R:
        """As `invoke`; nothing here waits."""

        async def read(value: Any) -> R:
            return self._read_input(value)

        return await self._acall_with_config(read, input, config, run_type="parser")

    def parse(self, text: str) -> R:
        """Read an answer without the text it speaks of."""
        return self._read(None, text)

    def _read_input(self, value: Any) -> R:
        return self._read(*_text_and_answer(value))

    @abstractmethod
    def _read(self, text: str | None, answer: str) -> R:
        """Read an answer about a text; None if the text is not known."""

    def _label_of(self, said: str) -> str | None:
        """Find the label as spelled; else the only one that differs just in case, dressing, spaces, `_` and `-`."""
        for spelling in (said.strip(), said.strip(_DRESSING)):
            if spelling in self.labels:
                return spelling
        alike = [label for label in self.labels if _fold(label) == _fold(said)]
        return alike[0] if len(alike) == 1 else None

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """`dumps` writes the labels."""
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Where `loads` finds the class."""
        return ["lc_finetune", "parsers"]


class LabelOutputParser(_AnswerParser[Classification]):
    """Read one label: from JSON, fenced or not, a quoted or bare word, or a sentence that names exactly one.

    A sentence is searched for labels, not understood: "not a refund" names `refund`, and "a refund, not a delivery"
    names two, which is an error.

    Example:
        ```python
        LabelOutputParser(labels=["refund", "delivery"]).invoke("**Refund**").label
        ```
    """

    @property
    def OutputType(self) -> type[Classification]:
        """The result."""
        return Classification

    @property
    def _type(self) -> str:
        return "lc_finetune_label"

    def get_format_instructions(self) -> str:
        """Tell a model how to answer."""
        example = json.dumps({"label": self.labels[0]}, ensure_ascii=False)
        listed = "\n".join(f"- {label}" for label in self.labels)
        return f"Answer with exactly one of these labels and nothing else, as JSON:\n{listed}\nFor example: {example}"

    def _read(self, text: str | None, answer: str) -> Classification:
        return Classification(text=text or "", label=self._label_of(answer) or self._stated(answer), source="llm")

    def _stated(self, answer: str) -> str:
        """Find the one label that JSON states or, where there is no JSON, that the words name."""
        spoken = _spoken(answer)
        values = _json_values(spoken, "{")
        if not values and _breaks_off(spoken):
            raise AnswerError("Expected a complete answer, found JSON that breaks off. Allow more tokens.", answer)
        said = [one for value in values for one in _said(value)] if values else self._mentions(spoken)
        named = {self._label_of(one) for one in said}
        label = named.pop() if len(named) == 1 else None
        if label is None:
            found = f"{len(named)} different ones" if named else "none of them"
            raise AnswerError(
                f"Expected an answer with exactly one of the labels {', '.join(self.labels)}; found {found}. {_HINT}",
                answer,
            )
        return label

    def _mentions(self, answer: str) -> list[str]:
        """List the whole words that spell a label; those inside the mention of a longer label do not count."""
        words = unicodedata.normalize("NFC", _KEY.sub(" ", answer))
        spans = {match.span() for label in self.labels for match in _pattern(label).finditer(words)}
        mentions: list[str] = []
        reach = 0
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            if end > reach:
                mentions.append(words[start:end])
                reach = end
        return mentions


class EntitiesOutputParser(_AnswerParser[Tagging]):
    """Read entities: a JSON list of `{"label", "text"}`, found again in the text.

    Words are looked for as whole words first, and as parts of words only where there are none; the same spelling comes
    before another case, spacing, composition of accents, or kind of quotes and hyphens. The n-th mention of the same
    words is their n-th occurrence. Offsets that the answer gives are used where they fit, and ignored otherwise.

    Entities never overlap: the longest takes its place first, then the earlier in the answer. One that finds its places
    taken, such as a mention too many, is dropped.

    Example:
        ```python
        parser = EntitiesOutputParser(labels=["CITY"])
        parser.invoke({"text": "To Oslo.", "answer": '[{"label": "CITY", "text": "Oslo"}]'})
        ```
    """

    @property
    def OutputType(self) -> type[Tagging]:
        """The result."""
        return Tagging

    @property
    def _type(self) -> str:
        return "lc_finetune_entities"

    def get_format_instructions(self) -> str:
        """Tell a model how to answer."""
        example = json.dumps([{"label": self.labels[0], "text": "…"}], ensure_ascii=False)
        return (
            "List the entities of the text as JSON, in order, each with its label and its exact words copied from "
            f"the text. Labels: {', '.join(self.labels)}.\nFor example: {example}\nIf there are none, answer []."
        )

    def _read(self, text: str | None, answer: str) -> Tagging:
        if text is None:
            raise AnswerError('Expected the text beside the answer: {"text": …, "answer": …}. Spans need it.', answer)
        found: list[tuple[list[Place], str]] = []
        for item in _entity_list(answer):
            if not all(isinstance(item.get(key), str) and item[key].strip() for key in ("label", "text")):
                raise AnswerError(f"Expected entities with 'label' and 'text', found one without. {_HINT}", answer)
            label, places = self._label_of(item["label"]), _places(text, item)
            if label is None:
                raise AnswerError(
                    f"Expected entities with the labels {', '.join(self.labels)}; found another label. {_HINT}", answer
                )
            if not places:
                raise AnswerError(f"Expected entities that are in the text, found one that is not. {_HINT}", answer)
            found.append((places, label))
        entities = (
            Entity(label=span.label, text=text[span.start : span.end], start=span.start, end=span.end)
            for span in _placed(found, len(text))
        )
        return Tagging(text=text, source="llm", entities=tuple(entities))


def _entity_list(answer: str) -> list[Mapping[str, Any]]:
    lists: list[list[Mapping[str, Any]]] = []
    for value in _json_values(_spoken(answer), "{["):
        items = value.get("entities") if isinstance(value, Mapping) else value
        if isinstance(items, list) and all(isinstance(item, Mapping) for item in items):
            lists.append(items)
    if len(lists) != 1:
        raise AnswerError(f"Expected one JSON list of entities, found {len(lists)}. {_HINT}", answer)
    return lists[0]


def _places(text: str, item: Mapping[str, Any]) -> list[Place]:
    """List where the words of an item stand in the text, best first; the stated place alone if that is right."""
    words, start, end = item["text"].strip(), item.get("start"), item.get("end")
    if isinstance(start, int) and isinstance(end, int) and 0 <= start < end and text[start:end] == words:
        return [(start, end)]
    bare = words.strip(_DRESSING)
    for spelling in (words, bare) if bare else (words,):
        loosely = r"\s+".join(map(_loosely, spelling.split()))
        for before, after in ((r"(?<!\w)", r"(?!\w)"), ("", "")):
            exact = re.compile(before + re.escape(spelling) + after)
            alike = re.compile(before + loosely + after, re.IGNORECASE)
            places = dict.fromkeys(match.span() for pattern in (exact, alike) for match in pattern.finditer(text))
            if places:
                return list(places)
    return []


def _loosely(word: str) -> str:
    """Match a word with its accents composed or not, and any kind of quotes and hyphens."""
    return "".join(
        next((f"[{re.escape(alike)}]" for alike in _ALIKE if character in alike), None)
        or f"(?:{re.escape(character)}|{re.escape(unicodedata.normalize('NFD', character))})"
        for character in unicodedata.normalize("NFC", word)
    )


def _placed(found: list[tuple[list[Place], str]], length: int) -> list[Span]:
    """Give each mention its first free place; the longest choose first, and of equals those without a choice."""
    spans: list[Span] = []
    taken = bytearray(length)
    for places, label in sorted(found, key=lambda mention: (mention[0][0][0] - mention[0][0][1], len(mention[0]))):
        place = next(((start, end) for start, end in places if not any(taken[start:end])), None)
        if place:
            spans.append(Span(*place, label))
            taken[slice(*place)] = b"\1" * (place[1] - place[0])
    return sorted(spans)


def _fold(text: str) -> str:
    """Take off the dressing, and whatever may differ between an answer's spelling and the label's."""
    bare = unicodedata.normalize("NFC", text.strip(_DRESSING) or text.strip())
    return _BETWEEN_WORDS.sub(" ", unicodedata.normalize("NFC", bare.casefold()))


def _pattern(label: str) -> re.Pattern[str]:
    """Match the label as whole words; `non-food` and `food-like` do not name `food`, nor does `-1` name `1`."""
    words = _BETWEEN_WORDS.split(unicodedata.normalize("NFC", label))
    spelled = _SEPARATORS.join(map(re.escape, words))
    return re.compile(rf"(?<![\w-]){spelled}(?!\w|-\w)", re.IGNORECASE)


def _spoken(answer: str) -> str:
    """Leave out what a reasoning model thinks aloud: all up to the last closing tag.

    Raises:
        AnswerError: If the thinking breaks off.
    """
    tags = list(_THINKING.finditer(answer))
    if tags and not tags[-1][1]:
        raise AnswerError("Expected an answer after the thinking, found none. Allow more tokens.", answer)
    return answer[tags[-1].end() :] if tags else answer


def _json_values(answer: str, opening: str) -> list[Any]:
    """Read the JSON of an answer: all of it, fenced or not; else each value that opens so among its words.

    Only complete JSON counts; LangChain's partial parser would close what breaks off and cut what follows. Of a tool
    call written out, the arguments count.
    """
    return [_arguments(value) for value in _json_read(answer, opening)]


def _arguments(value: Any) -> Any:
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return next((value[key] for key in ARGUMENT_KEYS if isinstance(value.get(key), Mapping)), value)
    return value


def _json_read(answer: str, opening: str) -> list[Any]:
    try:
        return [parse_json_markdown(answer, parser=partial(json.loads, strict=False))]
    except (ValueError, RecursionError):
        pass
    decoder, opens = json.JSONDecoder(strict=False), re.compile(f"[{re.escape(opening)}]")
    values: list[Any] = []
    position = 0
    while match := opens.search(answer, position):
        try:
            value, position = decoder.raw_decode(answer, match.start())
            values.append(value)
        except ValueError:
            position = match.end()
        except RecursionError:  # of nothing but brackets, each would be read as deep again
            break
    return values


def _breaks_off(answer: str) -> bool:
    return any(answer.count(opening) > answer.count(closing) for opening, closing in ("{}", "[]"))


def _said(value: Any) -> list[str]:
    """List what a JSON value states as labels; empty for what is neither words nor a number."""
    said: list[Any] = []
    for item in value if isinstance(value, list) else [value]:
        said += [item[key] for key in item if key.casefold() in LABEL_KEYS] if isinstance(item, Mapping) else [item]
    return [one if isinstance(one, str) else json.dumps(one) if isinstance(one, int | float) else "" for one in said]


def _text_and_answer(value: Any) -> tuple[str | None, str]:
    if not isinstance(value, Mapping):
        return None, _words(value)
    if "answer" not in value:
        raise AnswerError('Expected a mapping {"text": …, "answer": …}, found one without "answer".')
    text = value.get("text")
    return None if text is None else _words(text), _words(value["answer"])


def _words(value: Any) -> str:
    if isinstance(value, BaseMessage):
        called = [call["args"] for call in value.tool_calls] if isinstance(value, AIMessage) else []
        if called and not value.text.strip():
            return json.dumps(called if len(called) > 1 else called[0], ensure_ascii=False)
        return str(value.text)
    if isinstance(value, str):
        return value
    raise AnswerError(
        f'Expected a str or a message, found {type(value).__name__}. Give the answer, or {{"text": …, "answer": …}}.'
    )
