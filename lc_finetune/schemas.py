"""The typed results: frozen Pydantic models that are hashable, comparable and JSON-ready."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

Input = str | tuple[str, str]
"""What is answered: a text, or a pair of texts."""
Source = Literal["model", "llm"]


class _Shown:
    """What shows itself: as HTML in a notebook, through rich in a terminal."""

    def _repr_html_(self) -> str:
        from lc_finetune.rendering import to_html

        return to_html(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from lc_finetune.rendering import to_terminal

        return to_terminal(self, console, options)


class Scores(Mapping[str, float]):
    """A read-only, hashable mapping label → probability.

    Labels are shared between the results of one model, so a result over 77 classes holds one tuple of floats
    and no dictionary of its own.
    """

    __slots__ = ("_index", "_values")

    _repr_html_ = _Shown._repr_html_  # a base class without slots would give each a dictionary
    __rich_console__ = _Shown.__rich_console__

    def __init__(self, index: Mapping[str, int], values: Sequence[float]) -> None:
        """Pair an index label → position with the values in that order.

        Raises:
            ValueError: If the two differ in length.
        """
        if len(index) != len(values):
            raise ValueError(f"Expected one value for each of {len(index)} labels, found {len(values)}.")
        self._index = index
        self._values = tuple(values)

    @classmethod
    def of(cls, mapping: Mapping[str, float]) -> Scores:
        """Copy a plain mapping."""
        return cls({label: i for i, label in enumerate(mapping)}, [float(v) for v in mapping.values()])

    def __getitem__(self, label: str) -> float:
        return self._values[self._index[label]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self.items()))

    def __repr__(self) -> str:
        top = sorted(self.items(), key=lambda item: -item[1])[:3]
        shown = ", ".join(f"{label!r}: {value:.4f}" for label, value in top)
        return f"Scores({{{shown}{', …' if len(self) > len(top) else ''}}})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Scores.of, (dict(self),))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from_mapping = core_schema.no_info_after_validator_function(
            cls.of, core_schema.dict_schema(core_schema.str_schema(), core_schema.float_schema())
        )
        return core_schema.json_or_python_schema(
            json_schema=from_mapping,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), from_mapping]),
            serialization=core_schema.plain_serializer_function_ser_schema(
                dict, return_schema=core_schema.dict_schema(core_schema.str_schema(), core_schema.float_schema())
            ),
        )


Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Result(_Shown, BaseModel):
    """What every result has: the text it speaks of and where the answer came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = Field(repr=False, description="The text as given, unchanged.")
    source: Source = Field(default="model", description="Who answered: the fine-tuned model or an LLM.")

    def __str__(self) -> str:
        return repr(self)


class Classification(Result):
    """One label for a text."""

    label: str = Field(description="The most probable label.")
    score: Probability | None = Field(default=None, description="Probability of `label`; None from an LLM.")
    scores: Scores = Field(
        default_factory=lambda: Scores({}, ()),
        repr=False,
        description="Probability of each label, summing to 1; empty from an LLM.",
    )
    accepted: bool | None = Field(
        default=None,
        description="Whether the score reaches the threshold and the text is in scope; None if uncalibrated.",
    )
    in_scope: Probability | None = Field(
        default=None, description="p-value of the text against the calibration texts; None without one."
    )
    prediction_set: tuple[str, ...] | None = Field(
        default=None,
        description="Labels among which the right one is as often as asked, the likeliest first; None if not asked.",
    )


class PairClassification(Classification):
    """One label for a pair of texts."""

    text: str = Field(repr=False, description="The first text as given, unchanged.")
    text_pair: str = Field(repr=False, description="The second text as given, unchanged.")


class OrdinalClassification(Classification):
    """One of several labels that have an order, for a text; `scores` are in that order, the lowest first."""

    expected_rank: float = Field(
        ge=0,
        description="Mean rank of the labels, each as often as its score says: 0 for the lowest, counted in labels.",
    )

    def at_least(self, label: str) -> float:
        """Give the probability that the right label is this one or a higher one.

        Raises:
            KeyError: If there is no such label.
        """
        names = list(self.scores)
        if label not in self.scores:
            raise KeyError(label)
        return min(1.0, sum(self.scores[name] for name in names[names.index(label) :]))


class MultiLabelClassification(Result):
    """Any number of labels for a text."""

    labels: tuple[str, ...] = Field(
        default=(), description="Labels whose own score reaches their threshold, in the order of the label set."
    )
    scores: Scores = Field(
        default_factory=lambda: Scores({}, ()), repr=False, description="Probability of each label, independently."
    )
    accepted: bool | None = Field(
        default=None, description="Whether there are labels, each with a score that is accepted; None if uncalibrated."
    )
    in_scope: Probability | None = Field(default=None, description="As in `Classification`.")


class Regression(Result):
    """A number for a text."""

    value: float = Field(description="The number, in the units of the training rows.")
    low: float | None = Field(default=None, description="Where the interval begins; None without one.")
    high: float | None = Field(default=None, description="Where the interval ends; None without one.")
    coverage: Probability | None = Field(
        default=None, repr=False, description="Share of texts whose number lies in its interval, at least."
    )


class Entity(_Shown, BaseModel):
    """A labelled span: `tagging.text[start:end] == text`, always."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str = Field(description="Entity type.")
    text: str = Field(description="The characters of the span, unchanged.")
    start: int = Field(ge=0, description="Offset of the first character.")
    end: int = Field(ge=0, description="Offset after the last character.")
    score: Probability | None = Field(default=None, description="Probability of the whole span; None from an LLM.")
    accepted: bool | None = Field(
        default=None, description="Whether the score reaches the threshold; None if uncalibrated."
    )


class Tagging(Result):
    """The entities of a text, by position; they never overlap when they come from a tagger."""

    entities: tuple[Entity, ...] = Field(default=(), description="Entities in order of position.")


class IntentAndEntities(Classification):
    """One label for a text, its intent, and the entities that fill it in."""

    entities: tuple[Entity, ...] = Field(default=(), description="Entities in order of position.")

    @property
    def classification(self) -> Classification:
        """The label alone."""
        return Classification(
            text=self.text, source=self.source, label=self.label, score=self.score, scores=self.scores,
            accepted=self.accepted, in_scope=self.in_scope, prediction_set=self.prediction_set,
        )  # fmt: skip

    @property
    def tagging(self) -> Tagging:
        """The entities alone."""
        return Tagging(text=self.text, source=self.source, entities=self.entities)


class QuestionAnswer(Result):
    """A part of a context that answers a question: `result.context[start:end] == answer`, always."""

    text: str = Field(repr=False, description="The context as given, unchanged.")
    question: str = Field(repr=False, description="The question as given, unchanged.")
    answer: str | None = Field(description="The characters of the answer, unchanged; None if the context has none.")
    start: int | None = Field(default=None, ge=0, description="Offset of its first character; None without an answer.")
    end: int | None = Field(default=None, ge=0, description="Offset after its last character; None without an answer.")
    score: Probability | None = Field(
        default=None, description="Probability that this is exactly right; that there is no answer, if there is none."
    )
    accepted: bool | None = Field(
        default=None, description="Whether the score reaches the threshold; None if uncalibrated."
    )

    @property
    def context(self) -> str:
        """The text that was asked about."""
        return self.text


class Generation(Result):
    """A text that a model wrote for another one, such as a summary or a translation."""

    text: str = Field(repr=False, description="The text that was generated; empty if the input is blank.")
    input: str = Field(repr=False, description="The text as given, unchanged.")
    complete: bool = Field(description="Whether the model ended the text; False if the limit on its length did.")


class Mention(_Shown, BaseModel):
    """A part of a text that stands in a relation: `result.text[start:end] == text`, always."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = Field(description="The characters of the mention, unchanged.")
    start: int = Field(ge=0, description="Offset of the first character.")
    end: int = Field(ge=0, description="Offset after the last character.")
    label: str | None = Field(default=None, description="Its entity type, where a tagger found it.")


class Relation(_Shown, BaseModel):
    """One label for two mentions of a text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: Mention = Field(description="`e1` in labels that tell a direction.")
    tail: Mention = Field(description="`e2` in labels that tell a direction.")
    label: str = Field(description="The most probable label.")
    score: Probability | None = Field(default=None, description="Probability of `label`.")
    scores: Scores = Field(
        default_factory=lambda: Scores({}, ()), repr=False, description="Probability of each label, summing to 1."
    )
    accepted: bool | None = Field(
        default=None, description="Whether the score reaches the threshold; None if uncalibrated."
    )


class RelationClassification(Relation, Result):
    """One label for two mentions of a text, with the text."""


class Relations(Result):
    """What is said of all couples of entities of a text, in order of position."""

    relations: tuple[Relation, ...] = Field(default=(), description="One of each couple asked about.")
    too_far_apart: int = Field(
        default=0, ge=0, description="Couples that are not among them, because no window holds both mentions."
    )


class Attribution(_Shown, BaseModel):
    """What a part of a text adds to a label's logit: `explanation.text[start:end] == text`, always."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = Field(repr=False, description="The characters of a piece, or of pieces that share a character.")
    start: int = Field(ge=0, description="Offset of the first character.")
    end: int = Field(ge=0, description="Offset after the last character.")
    weight: float = Field(description="What it adds to the logit; below 0, it speaks against the label.")


class Neighbour(_Shown, BaseModel):
    """A training row that the model takes for similar."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = Field(repr=False, description="The text of the row.")
    label: str | None = Field(default=None, description="Its label; None of a row with several.")
    labels: tuple[str, ...] | None = Field(default=None, description="Its labels; None of a row with one.")
    similarity: float = Field(description="Cosine of the angle between the encoder's features, from -1 to 1.")


class Explanation(Result):
    """What in a text speaks for a label, and which training rows are most like it.

    `logit` = `baseline_logit` + the sum of all weights - `convergence_delta`, where the baseline is the same text with
    a padding piece in place of each piece.
    """

    label: str = Field(description="The label that is explained: the most probable one unless another was asked for.")
    score: Probability | None = Field(default=None, description="Probability of `label`, as it is served.")
    logit: float = Field(description="Of `label`, from the torch weights in float32.")
    baseline_logit: float = Field(description="Of `label`, when nothing is known of the text but its length.")
    convergence_delta: float = Field(
        description="What the weights add up to beyond the difference of the logits: the error of the integral."
    )
    attributions: tuple[Attribution, ...] = Field(
        repr=False, description="By position, without overlap; characters that are in no piece are in none."
    )
    neighbours: tuple[Neighbour, ...] | None = Field(
        default=None, repr=False, description="The most similar first; None if the checkpoint keeps no rows for it."
    )
