"""Requests and responses as they travel: what `/openapi.json` describes."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from lc_finetune.checkpoint import QUESTIONS, RELATIONS, Task
from lc_finetune.schemas import (
    Classification,
    IntentAndEntities,
    MultiLabelClassification,
    OrdinalClassification,
    PairClassification,
    QuestionAnswer,
    Regression,
    RelationClassification,
    Tagging,
)
from lc_finetune.systemone import Answer, Question


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


# Errors.


class Fault(_Body):
    """One thing that is wrong with a request; never a part of its texts."""

    loc: list[str | int] = Field(description="Where, from `body` inwards.")
    msg: str = Field(description="What was expected, what was found, and what to do.")
    type: str = Field(description="Kind of fault.")


class Problem(_Body):
    """Why a request was not answered."""

    detail: list[Fault]


# POST /v1/systemone


class SystemOneRequest(_Body):
    """A state, and typed questions about it."""

    state: str | dict[str, JsonValue] | list[JsonValue] = Field(description="Text, messages, or other JSON.")
    questions: dict[str, Question] = Field(min_length=1, description="Id → question.")
    model: str | None = Field(
        default=None, description="Who answers; the classifier that has the question's id as its name if left out."
    )
    assets: dict[str, JsonValue] = Field(
        default_factory=dict, max_length=0, description="Images, which no text classifier reads: none."
    )

    @field_validator("questions")
    @classmethod
    def _repeatable(cls, questions: dict[str, Question]) -> dict[str, Question]:
        """Refuse what no answer could repeat: NaN, infinity, and halves of characters."""
        try:
            plain = {name: question.model_dump() for name, question in questions.items()}
            json.dumps(plain, ensure_ascii=False, allow_nan=False).encode()
        except ValueError:
            raise ValueError("expected questions of JSON and whole characters, found others") from None
        return questions


class Usage(_Body):
    """What was read and written."""

    input_tokens: int = Field(ge=0, description="Of the texts that were read, special tokens included.")
    output_tokens: int = Field(default=0, description="None is generated.")


class SystemOneResponse(_Body):
    """The answers, by the questions' ids."""

    model: str = Field(description="Who answered; of several, their names.")
    answers: dict[str, Answer]
    usage: Usage


# POST /predict


class TextPair(_Body):
    """What a classifier of text pairs is given."""

    text: str
    text_pair: str


class ContextQuestion(_Body):
    """What a question answerer is given."""

    question: str
    context: str


class TextWithMentions(_Body):
    """What a classifier of relations is given; offsets count characters, the end is exclusive."""

    text: str
    head: tuple[int, int] | str = Field(description="Offsets, or words that the text has once.")
    tail: tuple[int, int] | str = Field(description="Likewise.")


Given = str | TextPair | ContextQuestion | TextWithMentions

TAKES: dict[Task, tuple[type, ...]] = {
    "text-pair-classification": (TextPair,),
    QUESTIONS: (ContextQuestion,),
    RELATIONS: (TextWithMentions, str),
}
"""What models of some tasks are given, in place of a text; a relation's text has marks around head and tail."""


class PredictRequest(_Body):
    """Inputs for one model: texts, or for some tasks mappings."""

    inputs: list[Given] = Field(min_length=1)
    model: str | None = Field(default=None, description="Who answers; needed where several models are served.")


class Failure(_Body):
    """Why one input has no result."""

    error: str
    type: str = Field(description="Name of the exception.")


class PredictResponse(_Body):
    """One result for each input, in their order."""

    model: str
    results: list[
        OrdinalClassification
        | IntentAndEntities
        | Classification
        | PairClassification
        | MultiLabelClassification
        | Regression
        | Tagging
        | QuestionAnswer
        | RelationClassification
        | Failure
    ]


# The rest.


class Health(_Body):
    """Whether requests are answered."""

    status: str = "ok"


class ModelCard(_Body):
    """A model that is served."""

    name: str
    task: Task
    labels: list[str]
    digest: str = Field(description="Identifies the content of its checkpoint.")


class ModelCards(_Body):
    """The models that are served."""

    models: list[ModelCard]


def given(value: Given) -> Any:
    """Write an input as a Runnable takes it."""
    return value if isinstance(value, str) else value.model_dump()


def texts_of(value: Given) -> list[str]:
    """List the strings of an input."""
    return [value] if isinstance(value, str) else [one for one in value.model_dump().values() if isinstance(one, str)]
