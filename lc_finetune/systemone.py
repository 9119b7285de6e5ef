"""Typed questions about a state → probabilities, as the System One API has them.

`POST /v1/systemone` and LangChain's decision models ask the same questions and expect the same answers. Here
fine-tuned classifiers give them; `lc_finetune.decisions` and `lc_finetune.serving` are the two ways to ask.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Annotated, Any, Literal

from langchain_core.load.serializable import Serializable
from langchain_core.messages import BaseMessage, HumanMessage, is_data_content_block
from langchain_core.runnables.config import run_in_executor
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, field_validator
from typing_extensions import TypedDict

from lc_finetune.checkpoint import ORDINAL, Task
from lc_finetune.errors import ConfigError, InputError, did_you_mean, raised, shown
from lc_finetune.inference.predictor import Predictor
from lc_finetune.labels import LabelSet, number_in
from lc_finetune.runnables import MultiLabelClassifier, OrdinalClassifier, TextClassifier, TextRegressor
from lc_finetune.schemas import Regression

Classifier = TextClassifier | OrdinalClassifier | MultiLabelClassifier | TextRegressor
SERVING: dict[Task, type[Classifier]] = {
    "multi-label-classification": MultiLabelClassifier,
    ORDINAL: OrdinalClassifier,
    "regression": TextRegressor,
}
"""What serves a checkpoint; `TextClassifier` serves, or refuses, all others."""
NARROWEST = 1e-9
"""Half width, in the units of the numbers, that an interval is taken to have at least."""

YES = ("yes", "true", "1")
"""Labels of a binary model that mean yes, in any case, where none is named."""
MEDIA = ("image_url", "input_image", "input_audio", "input_file")
"""Providers' own kinds of media blocks, beside LangChain's standard ones."""


class NoulCriteria(BaseModel):
    """What counts as yes and as no."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    true: JsonValue = None
    false: JsonValue = None


class Noul(BaseModel):
    """Ask for the probability of yes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["noul"]
    instructions: JsonValue = Field(default=None, description="What is asked; a fine-tuned model does not read it.")
    criteria: NoulCriteria | None = Field(default=None, description="Not read either.")


class Choice(BaseModel):
    """Ask for one of several options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["choice"]
    criteria: dict[str, JsonValue] = Field(min_length=1, description="Option → its description, which is not read.")
    instructions: JsonValue = Field(default=None, description="What is asked; a fine-tuned model does not read it.")


class Score(BaseModel):
    """Ask for a level."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["score"]
    criteria: list[JsonValue] = Field(min_length=2, description="The levels from 0 on, in their order.")
    instructions: JsonValue = Field(default=None, description="What is asked; a fine-tuned model does not read it.")


Question = Annotated[Noul | Choice | Score, Field(discriminator="type")]


class NoulAnswer(TypedDict):
    """The probability of yes."""

    type: Literal["noul"]
    noul: float


class ChoiceAnswer(TypedDict):
    """The most probable option, how far it lies above chance, and the probability of each."""

    type: Literal["choice"]
    choice: str
    confidence: float
    probabilities: dict[str, float]


class ScoreAnswer(TypedDict):
    """The expected level, how close the levels are to the most probable one, and what they mean; keys are levels."""

    type: Literal["score"]
    score: float
    legend: dict[str, JsonValue]
    confidence: float
    probabilities: dict[str, float]


Answer = NoulAnswer | ChoiceAnswer | ScoreAnswer


class AnsweredBy(Serializable):
    """How a question is answered: by which classifier, which of its labels, and from which part of the state.

    Example:
        ```python
        AnsweredBy(classifier="intent", labels={"fast": ("greeting", "track_order"), "powerful": "complaint"})
        AnsweredBy(labels={"true": "risky"}, reads=("tool_call.name", "tool_call.args"))
        ```
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    classifier: str | None = Field(default=None, description="Name of the classifier; that of the question if None.")
    labels: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="What is offered → the model's label, or labels, that mean it; of a regressor, the number. Keys "
        "are the labels of a Choice, the levels '0', '1', … of a Score, 'true' for a Noul. What is not named means the "
        "label, or the number, of its own name.",
    )
    reads: tuple[str, ...] = Field(
        default=(), description="Keys of a JSON state to read, 'outer.inner' for nested ones; all of it if empty."
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _several(cls, labels: Any) -> Any:
        if not isinstance(labels, Mapping):
            return labels
        several = {str(offered): (meant,) if isinstance(meant, str) else meant for offered, meant in labels.items()}
        if not all(several.values()):
            raise ConfigError("Expected at least one label for everything that is mapped, found none.")
        return several

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """`dumps` writes it within a decision model."""
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Where `loads` finds the class."""
        return ["lc_finetune", "decisions"]


@dataclass(frozen=True, slots=True)
class _Plan:
    """A question that passed the checks: who answers it, what is read, and the labels that mean each option."""

    question: Noul | Choice | Score
    predictor: Predictor
    key: str
    reads: tuple[str, ...]
    meanings: tuple[tuple[str, ...], ...]


_Asked = dict[str, tuple[_Plan, str]]
"""What one request asks: id of the question → its plan, and the text that it is about."""
_Plans = dict[tuple[str, int], tuple[Any, _Plan]]
"""The plans of one batch, which mostly asks the same of every state; questions are held, so that no id comes twice."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Requests that were checked.

    Attributes:
        asked: What each asks, or why it is refused.
        texts: The distinct texts that each model has to read, in order.
    """

    asked: Sequence[_Asked | Exception]
    texts: Mapping[Predictor, Mapping[str, None]]


@dataclass(frozen=True, slots=True)
class Answerer:
    """Classifiers that answer questions: check all, run each model once, answer all.

    Attributes:
        classifiers: Name → classifier.
        questions: Id of a question → how it is answered, where its id alone does not say.
        usual: Name of the classifier that answers where `questions` names none; None for that of the question's id.
    """

    classifiers: Mapping[str, Classifier]
    questions: Mapping[str, AnsweredBy]
    usual: str | None = None

    def check_names(self) -> None:
        """Refuse questions that are mapped to a classifier that is not there.

        Raises:
            ConfigError: Names the question.
        """
        for name, how in self.questions.items():
            self._classifier_of(name, how, ConfigError)

    def check_labels(self) -> None:
        """Load, and refuse questions that are mapped to a label that their model does not have.

        Raises:
            ConfigError: Names the question and the first such label.
        """
        for name, how in self.questions.items():
            classifier = self._classifier_of(name, how, ConfigError)
            lacking = [label for meant in how.labels.values() for label in meant if label not in classifier.labels]
            if isinstance(classifier, TextRegressor):
                _check_numbers(name, [label for label in lacking if number_in(label) is None], ConfigError)
            elif lacking:
                raise ConfigError(
                    f"Question {shown([name])!r}: expected labels of the model ({shown(classifier.labels)}), "
                    f"found {shown(lacking)}{did_you_mean(lacking[0], classifier.labels)}."
                )

    async def aload(self) -> None:
        """Load what is not loaded, without blocking the event loop."""
        for classifier in self.classifiers.values():
            if classifier._predictor is None:
                await run_in_executor(None, classifier._loaded)

    def read(self, requests: Sequence[Any]) -> Reading:
        """Check each request before any inference, and collect the texts.

        Args:
            requests: Each a mapping with `state`, which `state_text` reads, and `questions` by their ids.
        """
        asked: list[_Asked | Exception] = []
        texts: dict[Predictor, dict[str, None]] = {}
        plans: _Plans = {}
        for request in requests:
            try:
                one = self._asked(request, plans)
            except Exception as error:
                asked.append(error)
                continue
            asked.append(one)
            for plan, text in one.values():
                texts.setdefault(plan.predictor, {})[text] = None
        return Reading(asked, texts)

    def answer(self, reading: Reading) -> list[dict[str, Answer] | Exception]:
        """Answer each request, in order: its answers by the questions' ids, or what it alone caused."""
        return _answered(reading, {one: one.predict(list(its)) for one, its in reading.texts.items()})

    async def aanswer(self, reading: Reading) -> list[dict[str, Answer] | Exception]:
        """As `answer`, without blocking the event loop."""
        return _answered(reading, {one: await one.apredict(list(its)) for one, its in reading.texts.items()})

    def _asked(self, request: Any, plans: _Plans) -> _Asked:
        state, questions = _parts(request)
        asked = {}
        for name, question in questions.items():
            if (name, id(question)) not in plans:
                plans[name, id(question)] = question, self._plan(name, question)
            _, plan = plans[name, id(question)]
            asked[name] = plan, state_text(state, reads=plan.reads, key=plan.key)
        return asked

    def _plan(self, name: str, question: Any) -> _Plan:
        how = self.questions.get(name, AnsweredBy())
        classifier = self._classifier_of(name, how, InputError)
        predictor = classifier._loaded()
        typed = _typed(name, question)
        meanings = _meanings(name, typed, how, predictor)
        return _Plan(typed, predictor, classifier.input_key, how.reads, meanings)

    def _classifier_of(self, name: str, how: AnsweredBy, error: type[Exception]) -> Classifier:
        wanted = next(one for one in (how.classifier, self.usual, name) if one is not None)
        if wanted not in self.classifiers:
            raise error(
                f"Question {shown([name])!r}: expected the name of a classifier ({shown(self.classifiers) or 'none'}), "
                f"found {shown([wanted])!r}{did_you_mean(wanted, self.classifiers)}. Give the question the name of its "
                "classifier as its id, or map it: questions={id: AnsweredBy(classifier=name)}."
            )
        return self.classifiers[wanted]


def _answered(reading: Reading, results: Mapping[Predictor, Sequence[Any]]) -> list[dict[str, Answer] | Exception]:
    found = {one: dict(zip(its, results[one], strict=True)) for one, its in reading.texts.items()}
    answered: list[dict[str, Answer] | Exception] = []
    for asked in reading.asked:
        try:
            answered.append(
                {
                    name: _answer(name, plan, raised(found[plan.predictor][text]))
                    for name, (plan, text) in raised(asked).items()
                }
            )
        except Exception as error:
            answered.append(error)
    return answered


def state_text(state: Any, *, reads: Sequence[str] = (), key: str = "text") -> str:
    """Read the text of a state: what a model sees, in training as in serving.

    - A string is the text, unchanged. Of a message its text counts, of a list of messages the last human one.
    - Of a mapping with a string under `key`, that string counts; of one that holds `messages` and nothing else, the
      last human message.
    - All other JSON is read whole, written as JSON on one line in the order given; messages within it become objects
      with `role`, `content` and `tool_calls`.
    - `reads` picks parts of a JSON state, each read by these rules; they are joined by line breaks.

    Args:
        state: What LangChain's decision models take, without media.
        reads: Keys to read, `"outer.inner"` for nested ones.
        key: Where a mapping keeps its text.

    Raises:
        InputError: If there is no text, a key is missing, or the state holds media or what is neither JSON nor a
            message.
    """
    if not isinstance(state, str | BaseMessage | Mapping | Sequence) or isinstance(state, bytes | bytearray):
        raise InputError(f"Expected a state of text, messages or JSON, found {type(state).__name__}.")
    text = "\n".join(_part(_at(state, path), key) for path in reads) if reads else _part(state, key)
    if not text or text.isspace():
        raise InputError("Expected a state with text, found an empty one. Leave empty states out.")
    return text


def choice_confidence(probabilities: Sequence[float]) -> float:
    """How far the most probable option lies above chance: 0 if all are equal, 1 if it is certain or the only one.

    `(p - 1/n) / (1 - 1/n)`, as the System One API defines it, and transformers after it.
    """
    chance = 1 / len(probabilities)
    return 1.0 if len(probabilities) == 1 else _within((max(probabilities) - chance) / (1 - chance))


def score_confidence(probabilities: Sequence[float]) -> float:
    """How close the levels' distribution is to its most probable level: 1 if it is certain, 0 from chance on.

    One minus the mean distance from that level, in units of a uniform distribution's mean distance from the middle, as
    the System One API defines it, and transformers after it.
    """
    count = len(probabilities)
    best = max(range(count), key=probabilities.__getitem__)
    distance = sum(p * abs(level - best) for level, p in enumerate(probabilities))
    chance = sum(abs(level - (count - 1) / 2) for level in range(count)) / count
    return _within(1 - distance / chance)


def _within(value: float) -> float:
    return min(1.0, max(0.0, value))


# Requests and questions.


def _parts(request: Any) -> tuple[Any, Mapping[str, Any]]:
    if not isinstance(request, Mapping) or not {"state", "questions"} <= request.keys():
        raise InputError(f"Expected a mapping with 'state' and 'questions', found {_kind(request)}.")
    questions = request["questions"]
    if not isinstance(questions, Mapping) or not questions:
        raise InputError(f"Expected questions by their ids, at least one, found {_kind(questions)}.")
    return request["state"], questions


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a mapping with {shown(map(str, value)) or 'no keys'}"
    return type(value).__name__


_QUESTION: TypeAdapter[Any] = TypeAdapter(Question)


def _typed(name: str, question: Any) -> Noul | Choice | Score:
    if not isinstance(question, BaseModel | Mapping):
        raise InputError(
            f"Question {shown([name])!r}: expected a Choice, a Noul or a Score, found {type(question).__name__}. "
            "A text classifier answers no other."
        )
    try:  # LangChain's questions have the same fields
        typed: Noul | Choice | Score = _QUESTION.validate_python(
            question.model_dump() if isinstance(question, BaseModel) else question
        )
        return typed
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where, what = ".".join(shown([str(part)]) for part in first["loc"]), first["type"]
    raise InputError(
        f"Question {shown([name])!r}: expected the fields of a Choice, a Noul or a Score, which a text classifier "
        f"answers, found others ({where or 'type'}: {what})."
    )


def _meanings(
    name: str, question: Noul | Choice | Score, how: AnsweredBy, predictor: Predictor
) -> tuple[tuple[str, ...], ...]:
    """Say which labels of the model, or which number, mean each option; a Noul has one option, yes."""
    labels, task = predictor.checkpoint.labels, predictor.checkpoint.task
    several = task == "multi-label-classification"
    if task == "regression":
        return _numbers(name, question, how, predictor)
    if isinstance(question, Noul):
        return (_yes(name, how, labels, several=several),)
    if several:
        raise InputError(
            f"Question {shown([name])!r}: expected a model of one label a text for a {type(question).__name__}, found "
            "one of several labels, none of which excludes another. Ask a Noul about each of them."
        )
    options = dict(_options(question))
    meanings = {option: how.labels.get(option, own) for option, own in options.items()}
    lacking = [option for option, meant in meanings.items() if not meant or not labels.id_of.keys() >= set(meant)]
    if lacking:
        kind = "levels" if isinstance(question, Score) else "options"
        raise InputError(
            f"Question {shown([name])!r}: expected {kind} that are labels of the model ({shown(labels.names)}), found "
            f"{shown(lacking)}{did_you_mean(lacking[0], labels.names)}. Map them to its labels: "
            "questions={id: AnsweredBy(labels={offered: label})}."
        )
    meant = [label for group in meanings.values() for label in group]
    if len(set(meant)) < len(meant):
        twice = sorted({label for label in meant if meant.count(label) > 1})
        raise InputError(
            f"Question {shown([name])!r}: expected every label to mean one option, found {shown(twice)} under several."
        )
    if task == ORDINAL and isinstance(question, Score):
        _check_order(name, [sorted(map(labels.id_of.__getitem__, group)) for group in meanings.values()], labels)
    return tuple(meanings.values())


def _check_order(name: str, ranks: Sequence[Sequence[int]], labels: LabelSet) -> None:
    """Refuse levels that go up and down among labels that have an order."""
    up = all(low[-1] < high[0] for low, high in pairwise(ranks))
    down = all(high[0] > low[-1] for high, low in pairwise(ranks))
    if not up and not down:
        raise InputError(
            f"Question {shown([name])!r}: expected levels in the order of the model's labels ({shown(labels.names)}), "
            "or in its reverse, found another. Offer them in order."
        )


def _numbers(
    name: str, question: Noul | Choice | Score, how: AnsweredBy, predictor: Predictor
) -> tuple[tuple[str, ...], ...]:
    """Say which number of a regressor means each level."""
    if not isinstance(question, Score):
        raise InputError(
            f"Question {shown([name])!r}: expected a model of labels for a {type(question).__name__}, found a "
            "regressor. Ask it a Score."
        )
    if predictor.scale.interval is None:
        raise InputError(
            f"Question {shown([name])!r}: expected a regressor with an interval, from which the probability of a level "
            "follows, found one without. Train it with more held-out rows."
        )
    meanings = {level: how.labels.get(level, own) for level, own in _options(question)}
    _check_numbers(
        name, [level for level, meant in meanings.items() if len(meant) != 1 or number_in(meant[0]) is None], InputError
    )
    numbers = [float(meant[0]) for meant in meanings.values()]
    if sorted(set(numbers)) not in (numbers, numbers[::-1]):
        raise InputError(
            f"Question {shown([name])!r}: expected levels whose numbers go up, or down, found others. Offer them in "
            "order."
        )
    return tuple(meanings.values())


def _check_numbers(name: str, lacking: Sequence[str], error: type[Exception]) -> None:
    if lacking:
        raise error(
            f"Question {shown([name])!r}: expected a number of the regressor for each level, found none for "
            f"{shown(lacking)}. Map the levels to its numbers: questions={{id: AnsweredBy(labels={{'0': '2.5'}})}}."
        )


def _options(question: Choice | Score) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Name each option, and the label that means it if nothing else is said."""
    if isinstance(question, Choice):
        yield from ((label, (label,)) for label in question.criteria)
    else:
        for level, criterion in enumerate(question.criteria):
            yield str(level), (criterion,) if isinstance(criterion, str) else ()


def _yes(name: str, how: AnsweredBy, labels: LabelSet, *, several: bool) -> tuple[str, ...]:
    if len(labels) != 2 and not several:
        raise InputError(
            f"Question {shown([name])!r}: expected a model with two labels for a Noul, found one with {len(labels)}, "
            "whose labels exclude each other. Ask a Choice, or train a model on this question."
        )
    stated = how.labels.get("true")
    words = () if several else YES
    usual = tuple(label for label in labels.names if label == name or label.casefold() in words)
    yes = stated if stated is not None else usual
    if len(yes) != 1 or yes[0] not in labels.id_of or how.labels.keys() - {"true"}:
        raise InputError(
            f"Question {shown([name])!r}: expected one label of the model ({shown(labels.names)}) that means yes, "
            f"found {shown(yes) or 'none'}. Name it, and no other: "
            "questions={id: AnsweredBy(labels={'true': label})}."
        )
    return yes


def _masses(plan: _Plan, result: Any) -> list[float]:
    """Give the probability of each option."""
    if isinstance(result, Regression):
        return _level_probabilities(result, [float(meant[0]) for meant in plan.meanings])
    scores = result.scores
    return [scores[meant[0]] if len(meant) == 1 else sum(map(scores.__getitem__, meant)) for meant in plan.meanings]


def _level_probabilities(result: Regression, numbers: Sequence[float]) -> list[float]:
    """Say how likely the right number is nearest to each of some numbers.

    Errors are taken for normal, and as wide as the interval says.

    Args:
        result: Of a regressor with an interval.
        numbers: In ascending or descending order.
    """
    assert result.high is not None, "checked before it was asked"
    assert result.coverage is not None
    half_width = max(result.high - result.value, NARROWEST)
    normal = NormalDist(result.value, half_width / NormalDist().inv_cdf((1 + result.coverage) / 2))
    ascending = sorted(numbers)
    below = [0.0, *(normal.cdf((low + high) / 2) for low, high in pairwise(ascending)), 1.0]
    masses = [high - low for low, high in pairwise(below)]
    return masses if list(numbers) == ascending else masses[::-1]


def _answer(name: str, plan: _Plan, result: Any) -> Answer:
    masses = _masses(plan, result)
    question = plan.question
    if isinstance(question, Noul):
        return NoulAnswer(type="noul", noul=_within(masses[0]))
    total = sum(masses)
    if total <= 0:  # a calibrated score may be exactly 1, and then all others are 0
        raise InputError(
            f"Question {shown([name])!r}: expected a text that may have one of the labels offered, found one to which "
            "the model gives none of them any probability. Offer more of its labels."
        )
    probabilities = [mass / total for mass in masses]
    if isinstance(question, Choice):
        by_label = dict(zip(question.criteria, probabilities, strict=True))
        return ChoiceAnswer(
            type="choice",
            choice=max(by_label, key=by_label.__getitem__),
            confidence=choice_confidence(probabilities),
            probabilities=by_label,
        )
    return ScoreAnswer(
        type="score",
        score=sum(level * probability for level, probability in enumerate(probabilities)),
        legend={str(level): criterion for level, criterion in enumerate(question.criteria)},
        confidence=score_confidence(probabilities),
        probabilities={str(level): probability for level, probability in enumerate(probabilities)},
    )


# States.


def _at(state: Any, path: str) -> Any:
    for step in path.split("."):
        if not isinstance(state, Mapping) or step not in state:
            raise InputError(f"Expected the key {path!r} in the state, found {_kind(state)} where {step!r} should be.")
        state = state[step]
    return state


def _part(value: Any, key: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, BaseMessage):
        return _said(value.content)
    if isinstance(value, Mapping) and isinstance(value.get(key), str):
        return str(value[key])
    messages = value["messages"] if isinstance(value, Mapping) and value.keys() == {"messages"} else value
    if _are_messages(messages):
        return _said(_last_human(messages))
    if isinstance(messages, Mapping | Sequence) and not messages:
        return ""
    try:
        return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        pass
    raise InputError("Expected a state that is JSON, found one with NaN, infinity or too many levels.")


def _are_messages(value: Any) -> bool:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray) or not value:
        return False
    return all(
        isinstance(one, BaseMessage) or (isinstance(one, Mapping) and {"role", "content"} <= one.keys())
        for one in value
    )


def _last_human(messages: Sequence[Any]) -> Any:
    """Find the content of the last human message."""
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            return message.content
        if isinstance(message, Mapping) and message["role"] in ("human", "user"):
            return message["content"]
    raise InputError(f"Expected a human message in the state, found none among {len(messages)} messages.")


def _said(content: Any) -> str:
    """Read the text of a message's content: none if the message only calls tools."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or not all(isinstance(block, str | Mapping) for block in content):
        raise InputError("Expected a message whose content is a text or a list of blocks, found another.")
    blocks = [{"text": block} if isinstance(block, str) else block for block in content]
    for block in blocks:
        _refuse_media(block)
    return "\n".join(block["text"] for block in blocks if isinstance(block.get("text"), str))


def _plain(value: Any) -> Any:
    """Write messages as objects, whatever JSON they are in."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, BaseMessage):
        calls = [{"name": call["name"], "args": _plain(call["args"])} for call in getattr(value, "tool_calls", ())]
        return {"role": value.type, "content": _said(value.content), **({"tool_calls": calls} if calls else {})}
    if isinstance(value, Mapping):
        _refuse_media(value)
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(one) for one in value]
    raise InputError(f"Expected a state of JSON and messages, found {type(value).__name__} within it.")


def _refuse_media(block: Mapping[str, Any]) -> None:
    if is_data_content_block(dict(block)) or block.get("type") in MEDIA:
        raise InputError(f"Expected a state without media, found a block of type {block['type']!r}. Leave it out.")
