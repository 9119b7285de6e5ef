"""A small model in front of a large one: what the small one is sure of stays, the rest is asked again."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.runnables import Runnable, RunnableConfig, RunnableSerializable
from langchain_core.runnables.base import RunnableLike
from langchain_core.runnables.config import run_in_executor
from pydantic import ConfigDict, Field

from lc_finetune.composition import ResultRunnable
from lc_finetune.errors import ConfigError, InputError
from lc_finetune.inference.scope import SIGNIFICANCE
from lc_finetune.labels import LabelSet
from lc_finetune.records import append_rows
from lc_finetune.runnables.dispatch import Dispatcher, child, children, one_of, schema_of
from lc_finetune.runnables.fanout import FanOut, as_branch, shape_of
from lc_finetune.runnables.large import LargeModel
from lc_finetune.schemas import Classification, PairClassification

if TYPE_CHECKING:
    from langchain_core.runnables.graph import Graph

logger = logging.getLogger(__name__)

OnError = Literal["small", "raise"]


class Cascade(ResultRunnable[Classification], Dispatcher):
    """Answer with the small model where it is sure, and ask the large one about the rest.

    What stays: a result that is accepted or, if there is a `threshold`, one in scope whose score reaches it; and a
    blank text, of which nobody can say more. The rest is asked of the large model in one batch, the lowest scores first
    if there is a budget; what the budget has no room for stays too. A result says who gave it in `source`, and a small
    model's answer that nobody stood in for is still not `accepted`.

    `large` is a chat model, which is asked with the labels, or any Runnable that answers one: see `LargeModel`. It gets
    keyword arguments, and is paced by LangChain's own means: its `rate_limiter`, its `timeout`, and `max_concurrency`.

    Where the large model fails on an item (it raises, times out, or answers none of the labels), `on_error` says what
    becomes of that item: `"small"` keeps the small model's answer, `"raise"` raises, and a Runnable gets the small
    model's result and answers in its place, all such items of a batch in one batch.

    Example:
        ```python
        careful = Cascade(small=classifier, large=chat_model, threshold=0.8, max_share=0.1)
        ```
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    small: Runnable[Any, Any] = Field(description="Answers a Classification of every input.")
    large: Runnable[Any, Any] = Field(description="Asked about what is not accepted.")
    labels: Sequence[str] | None = Field(default=None, description="What the large model may answer.")
    threshold: float | None = Field(default=None, description="Least score that stays, in place of `accepted`.")
    max_escalations: int | None = Field(default=None, description="Items of one call that may be asked again, at most.")
    max_share: float | None = Field(default=None, description="Their share of the call's items, rounded up, at most.")
    on_error: OnError | Runnable[Any, Any] = Field(default="small", description="What becomes of failed items.")
    record: str | None = Field(default=None, description="JSONL file that every answered escalation is added to.")

    def __init__(
        self,
        *,
        small: RunnableLike[Any, Any],
        large: RunnableLike[Any, Any],
        labels: Sequence[str] | None = None,
        threshold: float | None = None,
        max_escalations: int | None = None,
        max_share: float | None = None,
        on_error: OnError | RunnableLike[Any, Any] = "small",
        record: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Take Runnables or functions as models.

        Args:
            small: The small model, such as a `TextClassifier`.
            large: The large model.
            labels: What the large model may answer; those of `small` if None.
            threshold: Least score that stays, from 0 to 1, in place of the one that `accepted` goes by; needed for
                checkpoints without calibration. What is out of scope does not stay.
            max_escalations: Budget of one call, in items.
            max_share: Budget of one call, as a share of its items from 0 to 1.
            on_error: `"small"`, `"raise"`, or a Runnable.
            record: JSONL file to which the text and both answers of each answered escalation are added; its rows are
                what `--train-file` reads, with the large model's answer as `label`. Made for its owner alone.
            kwargs: LangChain's own, such as `name`.

        Raises:
            ConfigError: If an option is out of its range, or there are no labels.
        """
        for name, share in (("threshold", threshold), ("max_share", max_share)):
            if share is not None and not (isinstance(share, Real) and 0 <= share <= 1):
                raise ConfigError(f"Expected {name} from 0 to 1, found {share!r}.")
        if max_escalations is not None and not (isinstance(max_escalations, int) and max_escalations >= 0):
            raise ConfigError(f"Expected max_escalations, a whole number of 0 or more, found {max_escalations!r}.")
        if isinstance(on_error, str) and on_error not in ("small", "raise"):
            raise ConfigError(f"Expected on_error 'small', 'raise' or a Runnable, found {on_error!r}.")
        model = as_branch(small)
        if labels is None and not _has_labels(model):
            raise ConfigError("Expected labels=, or a small model with labels, found neither. Name the labels.")
        super().__init__(  # type: ignore[call-arg]  # LangChain types its constructor by its own fields
            small=model,
            large=as_branch(large),
            labels=None if labels is None else _names(labels),
            threshold=threshold,
            max_escalations=max_escalations,
            max_share=max_share,
            on_error=on_error if isinstance(on_error, str) else as_branch(on_error),
            record=None if record is None else os.fspath(record),
            **kwargs,
        )

    @property
    def InputType(self) -> Any:
        """What the small model takes."""
        return self.small.InputType

    @property
    def OutputType(self) -> Any:
        """A result, or what the Runnable for failed items gives."""
        return one_of([Classification, *(route.OutputType for route in self._route)])

    def get_input_schema(self, config: RunnableConfig | None = None) -> Any:
        """The small model's."""
        return self.small.get_input_schema(config)

    def get_output_schema(self, config: RunnableConfig | None = None) -> Any:
        """A result's, or either."""
        routed = [shape_of(route.get_output_schema(config)) for route in self._route]
        return schema_of(one_of([Classification, *routed]), self.get_name("Output"))

    def get_graph(self, config: RunnableConfig | None = None) -> Graph:
        """Draw who is asked when."""
        from langchain_core.runnables.graph import Graph

        graph = Graph()
        first, small, large = (graph.add_node(one) for one in (self.get_input_schema(config), self.small, self.large))
        last = graph.add_node(self.get_output_schema(config))
        graph.add_edge(first, small)
        graph.add_edge(small, last, data="accepted", conditional=True)
        graph.add_edge(small, large, data="not accepted", conditional=True)
        graph.add_edge(large, last)
        for route in self._route:
            failed = graph.add_node(route)
            graph.add_edge(large, failed, data="failed", conditional=True)
            graph.add_edge(failed, last)
        return graph

    @property
    def _route(self) -> list[Runnable[Any, Any]]:
        return [] if isinstance(self.on_error, str) else [self.on_error]

    @property
    def _branches(self) -> list[Runnable[Any, Any]]:
        return [self.small, self.large, *self._route]

    def assign(self, **kwargs: Any) -> RunnableSerializable[Any, Any]:
        """Continue with a dict of the result's fields and more, computed from it; see `FanOut.assign`."""
        return self | FanOut.assign(**kwargs)

    def _many(
        self, values: Sequence[Any], run_manager: Sequence[Any], config: Sequence[RunnableConfig], **kwargs: Any
    ) -> list[Any]:
        inner = children(config, run_manager, "cascade:small")
        outcomes = self._judged(self.small.batch(list(values), inner, return_exceptions=True))
        if chosen := self._chosen(outcomes):
            self._check_record()
            inner = _of(chosen, config, run_manager, "cascade:large")
            doubtful = [outcomes[i] for i in chosen]
            answers = self._model().ask([values[i] for i in chosen], _texts(doubtful), inner, **kwargs)
            self._write_record(doubtful, answers)
            failed = self._settle(outcomes, chosen, answers)
            for route in self._route if failed else []:
                inner = _of(failed, config, run_manager, "cascade:error")
                routed = route.batch([outcomes[i] for i in failed], inner, return_exceptions=True)
                _put(outcomes, failed, routed)
        return outcomes

    async def _amany(
        self, values: Sequence[Any], run_manager: Sequence[Any], config: Sequence[RunnableConfig], **kwargs: Any
    ) -> list[Any]:
        inner = children(config, run_manager, "cascade:small")
        outcomes = self._judged(await self.small.abatch(list(values), inner, return_exceptions=True))
        if chosen := self._chosen(outcomes):
            await run_in_executor(None, self._check_record)
            inner = _of(chosen, config, run_manager, "cascade:large")
            doubtful = [outcomes[i] for i in chosen]
            answers = await self._model().aask([values[i] for i in chosen], _texts(doubtful), inner, **kwargs)
            await run_in_executor(None, self._write_record, doubtful, answers)
            failed = self._settle(outcomes, chosen, answers)
            for route in self._route if failed else []:
                inner = _of(failed, config, run_manager, "cascade:error")
                routed = await route.abatch([outcomes[i] for i in failed], inner, return_exceptions=True)
                _put(outcomes, failed, routed)
        return outcomes

    # Who is asked.

    def _model(self) -> LargeModel:
        """The large model and its labels; the small one, whose labels they may be, has answered and so is loaded."""
        labels: Any = self.labels if self.labels is not None else getattr(self.small, "labels", ())
        return LargeModel(self.large, tuple(labels))

    def _judged(self, outcomes: Sequence[Any]) -> list[Any]:
        """Put an exception in the place of what cannot be judged."""
        return [self._fault(outcome) or outcome for outcome in outcomes]

    def _fault(self, outcome: Any) -> Exception | None:
        if isinstance(outcome, Exception):
            return outcome
        if not isinstance(outcome, Classification):
            return InputError(f"Expected a Classification from the small model, found {type(outcome).__name__}.")
        if isinstance(outcome, PairClassification):  # the large model would be told half of it
            return InputError("Expected a Classification of one text from the small model, found one of a pair.")
        if outcome.accepted is None and self.threshold is None:
            return ConfigError(
                "Expected a calibrated checkpoint, whose results are accepted or not, or threshold=, found neither. "
                "Give the cascade a threshold, the least score that stays."
            )
        return None

    def _chosen(self, outcomes: Sequence[Any]) -> list[int]:
        """Choose what the large model is asked about, in order; the lowest scores if there is no room for all."""
        doubtful = [i for i, outcome in enumerate(outcomes) if self._is_doubtful(outcome)]
        room = len(doubtful) if self.max_escalations is None else self.max_escalations
        if self.max_share is not None:
            room = min(room, math.ceil(self.max_share * len(outcomes)))
        return sorted(sorted(doubtful, key=lambda i: outcomes[i].score or 0.0)[:room])

    def _is_doubtful(self, outcome: Any) -> bool:
        if not isinstance(outcome, Classification) or not outcome.text.strip():
            return False
        if self.threshold is None:
            return not outcome.accepted
        outside = outcome.in_scope is not None and outcome.in_scope < SIGNIFICANCE
        return outside or outcome.score is None or outcome.score < self.threshold

    def _settle(
        self, outcomes: list[Any], chosen: Sequence[int], answers: Sequence[Classification | Exception]
    ) -> list[int]:
        """Put the answers in their places; returns the positions of failures, whose results stay unless raised."""
        failures = {i: answer for i, answer in zip(chosen, answers, strict=True) if isinstance(answer, Exception)}
        if self.on_error == "small" and failures:
            kinds = Counter(type(failure).__name__ for failure in failures.values())
            logger.warning(
                "%d of %d escalations failed (%s): the small model's answers stay.",
                len(failures),
                len(chosen),
                ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
            )
        for i, answer in zip(chosen, answers, strict=True):
            if self.on_error == "raise" or i not in failures:
                outcomes[i] = answer
        return list(failures)

    # The record.

    def _check_record(self) -> None:
        """Find a file that cannot be written before anything is asked, and paid for."""
        if self.record is not None:
            try:
                append_rows(self.record, ())
            except OSError as error:
                raise ConfigError(
                    f"{self.record}: expected a file that can be written, found: {error.strerror}. Name another record."
                ) from error

    def _write_record(self, results: Sequence[Classification], answers: Sequence[Classification | Exception]) -> None:
        if self.record is None:
            return
        rows = [
            {
                "text": small.text,
                "label": large.label,
                "score": large.score,
                "source": large.source,
                "small_label": small.label,
                "small_score": small.score,
                "small_accepted": small.accepted,
            }
            for small, large in zip(results, answers, strict=True)
            if isinstance(large, Classification)
        ]
        try:
            append_rows(self.record, rows)
        except OSError as error:  # the answers are there, and paid for
            logger.error("%s: %d escalations could not be recorded: %s.", self.record, len(rows), error.strerror)


def _names(labels: Sequence[str]) -> tuple[str, ...]:
    if isinstance(labels, str) or not all(isinstance(label, str) and label.strip() for label in labels):
        raise ConfigError("Expected labels as a list of names, found another, or a blank name. Write ['a', 'b'].")
    return LabelSet(tuple(labels)).names


def _has_labels(runnable: Runnable[Any, Any]) -> bool:
    return "labels" in vars(runnable) or hasattr(type(runnable), "labels")  # of the type: a model would be loaded


def _of(
    positions: Sequence[int], configs: Sequence[RunnableConfig], run_managers: Sequence[Any], tag: str
) -> list[RunnableConfig]:
    return [child(configs[i], run_managers[i], tag) for i in positions]


def _texts(results: Sequence[Classification]) -> list[str]:
    return [result.text for result in results]


def _put(outcomes: list[Any], positions: Sequence[int], others: Sequence[Any]) -> None:
    for i, other in zip(positions, others, strict=True):
        outcomes[i] = other
