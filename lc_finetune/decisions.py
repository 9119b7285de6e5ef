"""Fine-tuned classifiers as a LangChain decision model: typed questions in, calibrated probabilities out.

Needs langchain-core 1.8 or newer; nothing else in the package imports this module.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from statistics import NormalDist
from typing import Any, Self

from langchain_core.load.serializable import Serializable
from langchain_core.messages import BaseMessage, HumanMessage, is_data_content_block
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import run_in_executor
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator
from typing_extensions import TypedDict

from lc_finetune.checkpoint import ORDINAL, Task
from lc_finetune.errors import ConfigError, InputError, MissingDependencyError, did_you_mean, shown
from lc_finetune.inference.backends import BackendName, Dtype
from lc_finetune.inference.predictor import Predictor, validated
from lc_finetune.labels import LabelSet, number_in
from lc_finetune.runnables import MultiLabelClassifier, OrdinalClassifier, TextClassifier, TextRegressor
from lc_finetune.runnables.base import source_of
from lc_finetune.schemas import Regression

try:
    from langchain_core.decisions import (
        Answer,
        BaseDecisionModel,
        Choice,
        ChoiceAnswer,
        ClassifierResponse,
        Noul,
        NoulAnswer,
        Question,
        Score,
        ScoreAnswer,
        State,
    )
except ImportError as error:
    raise MissingDependencyError(
        f"Expected langchain-core 1.8 or newer for decision models, found {version('langchain-core')}. "
        "Install it: pip install 'lc-finetune[decisions]'."
    ) from error

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


class DecisionRequest(TypedDict):
    """What is asked: LangChain's `ClassifierRequest`, without media and `Box`."""

    state: str | BaseMessage | list[Any] | dict[str, Any]
    questions: dict[str, Noul | Choice | Score]


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


class FineTunedDecisionModel(BaseDecisionModel):
    """Answer a `Choice`, `Noul` or `Score` about a state with fine-tuned classifiers.

    A classifier of one label answers all three, one of several labels a `Noul` about each of its labels, a regressor
    with an interval a `Score`. A question is answered by the classifier that has its id as a name, or by the one that
    `questions` names for it. What it offers is checked against the model's labels before any inference. All questions
    over one checkpoint, and all requests of a batch, share the model's forwards. Probabilities are the classifier's
    own, normalised over what is offered; a regressor's follow from its interval. `state_text` says what is read of a
    state.

    Example:
        ```python
        decisions = FineTunedDecisionModel.from_checkpoints({"intent": "runs/support"})
        offered = Choice(instructions="What is it about?", criteria={"track_order": None, "other": None})
        decisions.invoke({"state": "Where is my parcel?", "questions": {"intent": offered}}).choices["intent"]
        ```
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: str = Field(default="", description="Name in traces and responses; the checkpoints' names if left out.")
    classifiers: Mapping[str, Classifier] = Field(min_length=1, description="Name → classifier.")
    questions: Mapping[str, AnsweredBy] = Field(
        default_factory=dict, description="Id of a question → how it is answered, where its id alone does not say."
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "model" in values or not isinstance(values.get("classifiers"), Mapping):
            return values
        names = dict.fromkeys(getattr(one, "checkpoint", "") for one in values["classifiers"].values())
        return {**values, "model": ", ".join(names)}

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name, how in self.questions.items():
            self._classifier_of(name, how, ConfigError)
        return self

    @classmethod
    def from_checkpoints(
        cls,
        checkpoints: Mapping[str, Any],
        *,
        questions: Mapping[str, AnsweredBy] | None = None,
        device: str = "auto",
        dtype: Dtype = "auto",
        backend: BackendName = "auto",
    ) -> Self:
        """Validate and load at once.

        Args:
            checkpoints: Name → a folder, a Hub id, or the `Checkpoint` that training returned.
            questions: Id of a question → how it is answered, where its id alone does not say.
            device: As for `TextClassifier.from_checkpoint`, for all of them.
            dtype: Likewise.
            backend: Likewise.

        Raises:
            CheckpointError: If a folder is unusable or no classifier.
            ConfigError: If `questions` names a classifier or a label that is not there.
        """
        classifiers = {
            name: _serving(one).from_checkpoint(one, device=device, dtype=dtype, backend=backend)
            for name, one in checkpoints.items()
        }
        return cls(classifiers=classifiers, questions=questions or {}).warm_up()

    def warm_up(self) -> Self:
        """Load now, run each model once, and check the labels that `questions` names.

        Raises:
            ConfigError: If a model does not have one of them.
        """
        for classifier in self.classifiers.values():
            classifier.warm_up()
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
        return self

    @property
    def _provider(self) -> str:
        return "lc_finetune"

    # Types and serialization. The schema of LangChain's own request cannot be built.

    @property
    def InputType(self) -> Any:
        """A state and the questions about it."""
        return DecisionRequest

    @property
    def OutputType(self) -> type[ClassifierResponse]:
        """The answers, by the questions' ids."""
        return ClassifierResponse

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """`dumps` writes the fields; no weight is written."""
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Where `loads` finds the class."""
        return ["lc_finetune", "decisions"]

    # One call.

    def invoke(self, input: Any, config: RunnableConfig | None = None, **_: Any) -> ClassifierResponse:
        """Answer the questions about one state."""
        return self._call_with_config(self._one, input, self._traced_config(config), run_type="llm")

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **_: Any) -> ClassifierResponse:
        """Answer the questions about one state without blocking the event loop."""
        return await self._acall_with_config(self._aone, input, self._traced_config(config), run_type="llm")

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **_: Any,
    ) -> list[ClassifierResponse]:
        """Answer many requests, in their order, in as few forwards of each model as its token budget allows."""
        traced = self._each_traced(config)
        return self._batch_with_config(self._many, inputs, traced, return_exceptions=return_exceptions, run_type="llm")

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **_: Any,
    ) -> list[ClassifierResponse]:
        """As `batch`, without blocking the event loop."""
        traced = self._each_traced(config)
        return await self._abatch_with_config(
            self._amany, inputs, traced, return_exceptions=return_exceptions, run_type="llm"
        )

    def _each_traced(self, config: RunnableConfig | list[RunnableConfig] | None) -> Any:
        return [self._traced_config(one) for one in config] if isinstance(config, list) else self._traced_config(config)

    def _classify(self, state: State, questions: dict[str, Question]) -> ClassifierResponse:
        return self._one({"state": state, "questions": questions})

    async def _aclassify(self, state: State, questions: dict[str, Question]) -> ClassifierResponse:
        return await self._aone({"state": state, "questions": questions})

    def _one(self, request: Any) -> ClassifierResponse:
        return _raised(self._many([request])[0])

    async def _aone(self, request: Any) -> ClassifierResponse:
        return _raised((await self._amany([request]))[0])

    # Check all, run each model once, answer all.

    def _many(self, requests: Sequence[Any]) -> list[ClassifierResponse | Exception]:
        checked, texts = self._checked(requests)
        results = {predictor: predictor.predict(list(its)) for predictor, its in texts.items()}
        return self._answered(checked, texts, results)

    async def _amany(self, requests: Sequence[Any]) -> list[ClassifierResponse | Exception]:
        await self._aload()
        checked, texts = self._checked(requests)
        results = {predictor: await predictor.apredict(list(its)) for predictor, its in texts.items()}
        return self._answered(checked, texts, results)

    async def _aload(self) -> None:
        for classifier in self.classifiers.values():
            if classifier._predictor is None:
                await run_in_executor(None, classifier._loaded)

    def _checked(self, requests: Sequence[Any]) -> tuple[list[_Asked | Exception], dict[Predictor, dict[str, None]]]:
        """Check each request, and collect for each model the distinct texts that it has to read."""
        checked: list[_Asked | Exception] = []
        texts: dict[Predictor, dict[str, None]] = {}
        plans: _Plans = {}
        for request in requests:
            try:
                asked = self._asked(request, plans)
            except Exception as error:
                checked.append(error)
                continue
            checked.append(asked)
            for plan, text in asked.values():
                texts.setdefault(plan.predictor, {})[text] = None
        return checked, texts

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
        wanted = how.classifier if how.classifier is not None else name
        if wanted not in self.classifiers:
            raise error(
                f"Question {shown([name])!r}: expected the name of a classifier ({shown(self.classifiers)}), found "
                f"{shown([wanted])!r}{did_you_mean(wanted, self.classifiers)}. Give the question the name of its "
                "classifier as its id, or map it: questions={id: AnsweredBy(classifier=name)}."
            )
        return self.classifiers[wanted]

    def _answered(
        self,
        checked: Sequence[_Asked | Exception],
        texts: Mapping[Predictor, Mapping[str, None]],
        results: Mapping[Predictor, Sequence[Any]],
    ) -> list[ClassifierResponse | Exception]:
        found = {predictor: dict(zip(its, results[predictor], strict=True)) for predictor, its in texts.items()}
        answered: list[ClassifierResponse | Exception] = []
        for asked in checked:
            try:
                answers = {
                    name: _answer(name, plan, _raised(found[plan.predictor][text]))
                    for name, (plan, text) in _raised(asked).items()
                }
                answered.append(ClassifierResponse(model=self.model, answers=answers))
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


def _raised(outcome: Any) -> Any:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _serving(checkpoint: Any) -> type[Classifier]:
    """Name the class that serves a checkpoint; that of one label where none does, which says so."""
    return SERVING.get(validated(source_of(checkpoint), None).task, TextClassifier)


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
    if isinstance(question, Mapping):
        question = _validated(name, question)
    if not isinstance(question, Noul | Choice | Score):
        raise InputError(
            f"Question {shown([name])!r}: expected a Choice, a Noul or a Score, found {type(question).__name__}. "
            "A text classifier answers no other."
        )
    return question


def _validated(name: str, question: Mapping[str, Any]) -> Any:
    try:
        return _QUESTION.validate_python(question)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where, what = ".".join(map(str, first["loc"])), first["type"]
    raise InputError(
        f"Question {shown([name])!r}: expected the fields of a Choice, a Noul or a Score, found a mapping that is none "
        f"({where or 'type'}: {what})."
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
            probabilities=by_label,
            confidence=choice_confidence(probabilities),
        )
    return ScoreAnswer(
        type="score",
        score=sum(level * probability for level, probability in enumerate(probabilities)),
        legend=dict(enumerate(question.criteria)),
        probabilities=dict(enumerate(probabilities)),
        confidence=score_confidence(probabilities),
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
