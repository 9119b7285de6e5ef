"""An LLM's free answer → the same result types that the models give."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import BaseOutputParser
from langchain_core.runnables import RunnableConfig
from langchain_core.utils.json import parse_json_markdown
from pydantic import Field, field_validator

from lc_finetune.errors import ConfigError, LCFinetuneError
from lc_finetune.labels import Span
from lc_finetune.schemas import Classification, Entity, Tagging

R = TypeVar("R", Classification, Tagging)

LABEL_KEYS = ("label", "category", "intent", "class", "answer")


class AnswerError(LCFinetuneError, OutputParserException):
    """An LLM's answer cannot be read. The answer itself is in `llm_output`, never in the message."""

    def __init__(self, message: str, llm_output: str) -> None:
        OutputParserException.__init__(self, ValueError(message), llm_output=llm_output)

    def __str__(self) -> str:
        return str(self.args[0])


class _AnswerParser(BaseOutputParser[R]):
    """Reads an answer: a `str`, a message, or a mapping `{"text": …, "answer": …}`."""

    labels: tuple[str, ...] = Field(description="The labels an answer may use.")

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if not labels or len({_fold(label) for label in labels}) != len(labels):
            raise ConfigError("Expected distinct labels (case, spaces, '_' and '-' do not count), at least one.")
        return labels

    @property
    def InputType(self) -> Any:
        """An answer, or a mapping of text and answer."""
        return str | BaseMessage | dict[str, Any]

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> R:
        """Read one answer.

        Raises:
            AnswerError: If it cannot be read; `llm_output` holds it.
        """
        return self._call_with_config(lambda value: self._read(*_text_and_answer(value)), input, config,
                                      run_type="parser")  # fmt: skip

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> R:
        """As `invoke`; nothing here waits."""

        async def read(value: Any) -> R:
            return self._read(*_text_and_answer(value))

        return await self._acall_with_config(read, input, config, run_type="parser")

    def parse(self, text: str) -> R:
        """Read an answer without the text it speaks of."""
        return self._read(None, text)

    @abstractmethod
    def _read(self, text: str | None, answer: str) -> R:
        """Read an answer about a text; None if the text is not known."""

    def _label(self, said: str, answer: str) -> str:
        """Find the label that was meant: as spelled, or but for case, spaces, `_` and `-`."""
        by_fold = {_fold(label): label for label in self.labels}
        label = by_fold.get(_fold(said))
        if label is None:
            raise AnswerError(f"Expected one of the labels {', '.join(self.labels)}, found another.", answer)
        return label

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
        return (
            "Answer with exactly one of these labels and nothing else, as JSON:\n"
            + "\n".join(f"- {label}" for label in self.labels)
            + '\nFor example: {"label": ' + json.dumps(self.labels[0], ensure_ascii=False) + "}"
        )  # fmt: skip

    def _read(self, text: str | None, answer: str) -> Classification:
        return Classification(text=text or "", label=self._answered(answer), source="llm")

    def _answered(self, answer: str) -> str:
        content = _json(answer)
        if isinstance(content, Mapping):
            said = [content[key] for key in content if str(key).casefold() in LABEL_KEYS]
            if len(said) == 1 and isinstance(said[0], str):
                return self._label(said[0], answer)
            raise AnswerError("Expected a JSON object with one 'label', found none or several.", answer)
        if isinstance(content, str):
            return self._label(content, answer)
        if isinstance(content, list):
            raise AnswerError(f"Expected one label, found a list of {len(content)}.", answer)
        named = self._named(answer)
        if len(named) != 1:
            raise AnswerError(
                f"Expected an answer that names one of the labels {', '.join(self.labels)}, found {len(named)} named.",
                answer,
            )
        return named[0]

    def _named(self, answer: str) -> list[str]:
        """List the labels that occur as whole words; the longest match wins where labels contain each other."""
        folded = f" {_fold(answer)} "
        found: list[str] = []
        for label in sorted(self.labels, key=lambda label: -len(_fold(label))):
            needle = f" {_fold(label)} "
            if needle.strip() and needle in folded:
                found.append(label)
                folded = folded.replace(needle, "  ")
        return found


class EntitiesOutputParser(_AnswerParser[Tagging]):
    """Read entities: a JSON list of `{"label", "text"}`, found again in the text.

    Offsets that the answer gives are checked, not trusted. The n-th mention of the same words is their n-th
    occurrence. Of overlapping mentions the longest is kept.

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
        content = _json(answer)
        if isinstance(content, Mapping):
            content = content.get("entities")
        if not isinstance(content, list):
            raise AnswerError("Expected a JSON list of entities, found none.", answer)
        spans: list[Span] = []
        for item in content:
            if not isinstance(item, Mapping) or not isinstance(item.get("label"), str) or not item.get("text"):
                raise AnswerError("Expected entities with 'label' and 'text', found one without.", answer)
            label = self._label(item["label"], answer)
            spans.append(Span(*self._find(text, item, spans, answer), label))
        kept = _disjoint(spans)
        return Tagging(
            text=text,
            source="llm",
            entities=tuple(Entity(label=s.label, text=text[s.start : s.end], start=s.start, end=s.end) for s in kept),
        )

    def _find(self, text: str, item: Mapping[str, Any], before: Sequence[Span], answer: str) -> tuple[int, int]:
        """Find the next occurrence of the words: exactly, else but for case and spacing."""
        words = str(item["text"])
        start, end = item.get("start"), item.get("end")
        if isinstance(start, int) and isinstance(end, int) and 0 <= start < end and text[start:end] == words:
            return start, end
        taken = {(span.start, span.end) for span in before}
        loose = r"\s+".join(map(re.escape, words.split()))
        for pattern in (re.compile(re.escape(words)), re.compile(loose or r"(?!)", re.IGNORECASE)):
            places = [match.span() for match in pattern.finditer(text)]
            if places:
                free = [place for place in places if place not in taken]
                return (free or places)[0]
        raise AnswerError("Expected entities whose words are in the text, found one that is not.", answer)


def _disjoint(spans: Iterable[Span]) -> list[Span]:
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start - span.end, span)):
        if all(span.end <= other.start or other.end <= span.start for other in kept):
            kept.append(span)
    return sorted(kept)


def _fold(text: str) -> str:
    """Fold case, and everything that is no letter or digit to single spaces."""
    return " ".join(re.sub(r"[\W_]+", " ", text.casefold()).split())


def _json(answer: str) -> Any:
    """Read JSON out of an answer, fenced or among words; None if there is none."""
    if not any(mark in answer for mark in '{["'):
        return None
    try:
        return parse_json_markdown(answer)
    except (ValueError, OutputParserException):
        pass
    block = re.search(r"\{.*\}|\[.*\]", answer, re.DOTALL)
    try:
        return json.loads(block.group()) if block else None
    except ValueError:
        return None


def _text_and_answer(value: Any) -> tuple[str | None, str]:
    if isinstance(value, Mapping):
        if "answer" not in value:
            raise AnswerError(f"Expected a mapping with 'answer', found the keys {', '.join(map(str, value))}.", "")
        text = value.get("text")
        return (text if isinstance(text, str) else None), _text_and_answer(value["answer"])[1]
    if isinstance(value, BaseMessage):
        return None, str(value.text)
    if isinstance(value, str):
        return None, value
    raise AnswerError(f"Expected an answer as str, message or mapping, found {type(value).__name__}.", "")
