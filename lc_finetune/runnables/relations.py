"""Two mentions in a text → the relation between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any, ClassVar

from langchain_core.runnables.config import run_in_executor
from langchain_core.tools import BaseTool
from pydantic import BaseModel, Field, create_model

from lc_finetune.checkpoint import RELATIONS, Task
from lc_finetune.errors import InputError
from lc_finetune.inference.marked import TooFarApart
from lc_finetune.markers import INVERSE, Range, mark, unmark
from lc_finetune.runnables.base import EncoderRunnable
from lc_finetune.schemas import (
    Classification,
    Entity,
    Input,
    Mention,
    Relation,
    RelationClassification,
    Relations,
    Tagging,
)

Couple = tuple[Mention, Mention]
"""Head and tail."""


@dataclass(frozen=True, slots=True)
class _Question:
    """What one input asks: a text, the couples in it, each as the model reads it, and whether it is a text's all."""

    text: str
    couples: Sequence[Couple]
    marked: Sequence[str]
    every: bool

    def answered(self, outcomes: Iterator[Any]) -> RelationClassification | Relations | Exception:
        """Take as many outcomes as there are couples."""
        own = [next(outcomes) for _ in self.couples]
        failed = next((one for one in own if isinstance(one, Exception) and not self._is_told(one)), None)
        if failed is not None:
            return failed
        found = [
            _relation(couple, one)
            for couple, one in zip(self.couples, own, strict=True)
            if isinstance(one, Classification)
        ]
        if self.every:
            return Relations(text=self.text, relations=tuple(found), too_far_apart=len(own) - len(found))
        return RelationClassification(text=self.text, **dict(found[0]))

    def _is_told(self, error: Exception) -> bool:
        """Say whether the result itself tells what a couple lacks."""
        return self.every and isinstance(error, TooFarApart)


def _relation(couple: Couple, found: Classification) -> Relation:
    head, tail = couple
    return Relation(
        head=head, tail=tail, label=found.label, score=found.score, scores=found.scores, accepted=found.accepted
    )


class RelationClassifier(EncoderRunnable[RelationClassification | Relations]):
    """Say in which relation two mentions of a text stand: one label, with the probability of each.

    An input is `{"text": …, "head": (start, end), "tail": (start, end)}`, whose spans may also be
    `{"start": …, "end": …}`, an `Entity`, or words that the text has once; or a text with `<e1>…</e1>` around the head
    and `<e2>…</e2>` around the tail. The result is a `RelationClassification`.

    The `Tagging` of an `EntityTagger` asks about all couples of its entities at once; the result is `Relations`. Where
    labels say themselves which mention comes first, as `Cause-Effect(e2,e1)` does, each couple is asked about once, in
    order of position; otherwise both ways.

    Of a text longer than a window, what stands around the two mentions is read. Mentions too far apart for one window
    are an `InputError`; of a `Tagging`, such couples are counted in `too_far_apart`.

    Example:
        ```python
        relations = RelationClassifier.from_checkpoint("runs/relations")
        relations.invoke("<e1>Ann</e1> works for <e2>Acme</e2>.").label
        [(r.head.text, r.label, r.tail.text) for r in (tagger | relations).invoke("Ann works for Acme.").relations]
        ```
    """

    _task: ClassVar[Task] = RELATIONS
    _example: ClassVar[Input] = mark("a b", (0, 1), (2, 3))

    @property
    def InputType(self) -> Any:
        """A text with marks, or a mapping with a text and two spans; a `Tagging` is read too."""
        return str | dict[str, Any]

    @property
    def OutputType(self) -> Any:
        """The result: of one couple, or of all in a text."""
        return RelationClassification | Relations

    def _many(self, values: Sequence[Any]) -> list[Any]:
        predictor = self._loaded()
        questions = self._questions(values)
        return _answers(questions, self._judged(predictor.predict(_texts(questions))))

    async def _amany(self, values: Sequence[Any]) -> list[Any]:
        predictor = self._predictor
        if predictor is None:
            predictor = await run_in_executor(None, self._loaded)
        questions = self._questions(values)
        return _answers(questions, self._judged(await predictor.apredict(_texts(questions))))

    def _questions(self, values: Sequence[Any]) -> list[_Question | Exception]:
        questions: list[_Question | Exception] = []
        for value in values:
            try:
                questions.append(self._question(value))
            except Exception as error:
                questions.append(error)
        return questions

    def _question(self, value: Any) -> _Question:
        if isinstance(value, Tagging):
            text, couples = value.text, self._couples(value)
        else:
            text, *spans = _given(value, self.input_key)
            couples = [(_mention(text, spans[0], "head"), _mention(text, spans[1], "tail"))]
        marked = [mark(text, (head.start, head.end), (tail.start, tail.end)) for head, tail in couples]
        return _Question(text, couples, marked, every=isinstance(value, Tagging))

    def _couples(self, tagging: Tagging) -> list[Couple]:
        mentions = [_of_entity(entity) for entity in tagging.entities]
        told = any(label.endswith(INVERSE) for label in self.labels)
        return list((combinations if told else permutations)(mentions, 2))

    def as_tool(
        self,
        args_schema: type[BaseModel] | None = None,
        *,
        name: str | None = None,
        description: str | None = None,
        arg_types: Mapping[str, type] | None = None,
    ) -> BaseTool:
        """Make a tool that takes a text and the words of head and tail in it, and answers JSON."""
        words: Any = (str, Field(description="Words of the text, which has them once."))
        text: Any = (str, Field(description="The text, unchanged."))
        schema = args_schema or create_model("RelationInput", **{self.input_key: text, "head": words, "tail": words})
        return super().as_tool(schema, name=name, description=description, arg_types=arg_types)


def _texts(questions: Sequence[_Question | Exception]) -> list[str]:
    return [text for one in questions if isinstance(one, _Question) for text in one.marked]


def _answers(questions: Sequence[_Question | Exception], outcomes: Sequence[Any]) -> list[Any]:
    left = iter(outcomes)
    return [one.answered(left) if isinstance(one, _Question) else one for one in questions]


def _given(value: Any, key: str) -> tuple[str, Any, Any]:
    """Read a text and two spans."""
    if isinstance(value, str):
        try:
            return unmark(value)
        except ValueError as error:
            raise InputError(
                f"Expected a text with <e1>…</e1> around its head and <e2>…</e2> around its tail, found {error}. "
                "Mark both, or give a mapping with 'text', 'head' and 'tail'."
            ) from None
    if not isinstance(value, Mapping):
        raise InputError(
            f"Expected a mapping with {key!r}, 'head' and 'tail', a text with marks, or a Tagging, found "
            f"{type(value).__name__}."
        )
    missing = [name for name in (key, "head", "tail") if value.get(name) is None]
    if missing or not isinstance(value[key], str):
        found = f"no {' and no '.join(map(repr, missing))}" if missing else f"{type(value[key]).__name__} as {key!r}"
        raise InputError(f"Expected a mapping with a text under {key!r}, and 'head' and 'tail' in it, found {found}.")
    return value[key], value["head"], value["tail"]


def _mention(text: str, span: Any, name: str) -> Mention:
    if isinstance(span, Entity | Mention):
        return _of_entity(span, text, name)
    start, end = _range(text, span, name)
    return Mention(text=text[start:end], start=start, end=end)


def _of_entity(entity: Entity | Mention, text: str | None = None, name: str = "") -> Mention:
    if text is not None and text[entity.start : entity.end] != entity.text:
        raise InputError(f"Expected {name} to be an entity of the text, found one of another text.")
    return Mention(text=entity.text, start=entity.start, end=entity.end, label=entity.label)


def _range(text: str, span: Any, name: str) -> Range:
    if isinstance(span, str):
        times = text.count(span) if span else 0
        if times != 1:
            raise InputError(
                f"Expected the words of {name} once in the text, found them {times} times. Give (start, end)."
            )
        start = text.index(span)
        return start, start + len(span)
    offsets = (span.get("start"), span.get("end")) if isinstance(span, Mapping) else span
    if not isinstance(offsets, list | tuple) or len(offsets) != 2 or not all(type(one) is int for one in offsets):
        raise InputError(f"Expected {name} as (start, end) in characters, found {type(span).__name__}.")
    start, end = offsets
    if not 0 <= start < end <= len(text):
        raise InputError(f"Expected {name} within the text (0 to {len(text)}), found {start} to {end}.")
    return start, end
