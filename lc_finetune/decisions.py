"""Fine-tuned classifiers as a LangChain decision model: typed questions in, calibrated probabilities out.

Needs langchain-core 1.8 or newer; nothing else in the package imports this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Self

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from pydantic import ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from lc_finetune.errors import MissingDependencyError, raised
from lc_finetune.inference.backends import BackendName, Dtype
from lc_finetune.inference.predictor import validated
from lc_finetune.runnables import TextClassifier
from lc_finetune.runnables.base import source_of
from lc_finetune.systemone import (
    SERVING,
    AnsweredBy,
    Answerer,
    Classifier,
    choice_confidence,
    score_confidence,
    state_text,
)

try:
    from langchain_core.decisions import (
        BaseDecisionModel,
        Choice,
        ClassifierResponse,
        Noul,
        Question,
        Score,
        State,
    )
except ImportError as error:
    raise MissingDependencyError(
        f"Expected langchain-core 1.8 or newer for decision models, found {version('langchain-core')}. "
        "Install it: pip install 'lc-finetune[decisions]'."
    ) from error

__all__ = [
    "AnsweredBy",
    "DecisionRequest",
    "FineTunedDecisionModel",
    "choice_confidence",
    "score_confidence",
    "state_text",
]


class DecisionRequest(TypedDict):
    """What is asked: LangChain's `ClassifierRequest`, without media and `Box`."""

    state: str | BaseMessage | list[Any] | dict[str, Any]
    questions: dict[str, Noul | Choice | Score]


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
        self._answerer.check_names()
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
        self._answerer.check_labels()
        return self

    @property
    def _answerer(self) -> Answerer:
        return Answerer(self.classifiers, self.questions)

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
        return raised(self._many([request])[0])

    async def _aone(self, request: Any) -> ClassifierResponse:
        return raised((await self._amany([request]))[0])

    def _many(self, requests: Sequence[Any]) -> list[ClassifierResponse | Exception]:
        answerer = self._answerer
        return self._responses(answerer.answer(answerer.read(requests)))

    async def _amany(self, requests: Sequence[Any]) -> list[ClassifierResponse | Exception]:
        answerer = self._answerer
        await answerer.aload()
        return self._responses(await answerer.aanswer(answerer.read(requests)))

    def _responses(self, outcomes: Sequence[Any]) -> list[ClassifierResponse | Exception]:
        return [
            one if isinstance(one, Exception) else ClassifierResponse(model=self.model, answers=one) for one in outcomes
        ]


def _serving(checkpoint: Any) -> type[Classifier]:
    """Name the class that serves a checkpoint; that of one label where none does, which says so."""
    return SERVING.get(validated(source_of(checkpoint), None).task, TextClassifier)
