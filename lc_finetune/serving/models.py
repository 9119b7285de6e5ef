"""Checkpoints loaded to be served, and exchanged for newer ones while they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from lc_finetune import runnables
from lc_finetune.checkpoint import RUNNABLES, Checkpoint, Task
from lc_finetune.errors import ConfigError, did_you_mean, shown
from lc_finetune.inference.backends import BackendName, Dtype
from lc_finetune.runnables.base import EncoderRunnable
from lc_finetune.systemone import AnsweredBy, Answerer, Classifier


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where and how models run; see `TextClassifier.from_checkpoint`."""

    device: str = "auto"
    dtype: Dtype = "auto"
    backend: BackendName = "auto"


@dataclass(frozen=True, slots=True)
class Served:
    """A checkpoint that is loaded."""

    checkpoint: Checkpoint
    runnable: EncoderRunnable[Any]

    @classmethod
    def load(cls, source: Any, runtime: Runtime) -> Self:
        """Validate and load with the class of its task; what a URL or a folder holds now, whatever was loaded before.

        Raises:
            CheckpointError: If it cannot be served.
        """
        checkpoint = source if isinstance(source, Checkpoint) else Checkpoint.load(source)
        kind: type[EncoderRunnable[Any]] = getattr(runnables, RUNNABLES[checkpoint.task])
        runnable = kind.from_checkpoint(checkpoint, device=runtime.device, dtype=runtime.dtype, backend=runtime.backend)
        return cls(checkpoint, runnable)

    @property
    def task(self) -> Task:
        """What it is for."""
        return self.checkpoint.task


@dataclass(frozen=True, slots=True)
class Models:
    """All that is served. A request holds on to the one that it began with, so nothing is exchanged under it."""

    sources: Mapping[str, Any]
    questions: Mapping[str, AnsweredBy]
    runtime: Runtime
    served: Mapping[str, Served]

    @classmethod
    def load(cls, sources: Mapping[str, Any], questions: Mapping[str, AnsweredBy], runtime: Runtime) -> Self:
        """Load all.

        Args:
            sources: Name → folder, URL, Hub id, or `Checkpoint`.
            questions: Id of a question → how it is answered, where its id alone does not say.
            runtime: Where and how they run.

        Raises:
            CheckpointError: If one of them cannot be served.
            ConfigError: If there is none, or `questions` names a classifier or a label that is not there.
        """
        if not sources:
            raise ConfigError("Expected at least one checkpoint to serve, found none.")
        models = cls(
            sources, questions, runtime, {name: Served.load(source, runtime) for name, source in sources.items()}
        )
        models.answerer.check_names()
        models.answerer.check_labels()
        return models

    def renewed(self) -> Self:
        """Load what the same sources hold now; what has not changed is shared with what is loaded.

        Raises:
            CheckpointError: If one of them cannot be served.
            ConfigError: If one is for another task now, or lacks a label that `questions` names.
        """
        paths = {
            name: source.path if isinstance(source, Checkpoint) else source for name, source in self.sources.items()
        }
        models = self.load(paths, self.questions, self.runtime)
        for name, one in models.served.items():
            if one.task != self.served[name].task:
                raise ConfigError(
                    f"{name}: expected a checkpoint for {self.served[name].task}, as it is served, found one for "
                    f"{one.task}. Start the server again to serve another task."
                )
        return models

    @property
    def answerer(self) -> Answerer:
        """The classifiers among them; where there is but one, it answers whatever the question is called."""
        classifiers = {name: one.runnable for name, one in self.served.items() if isinstance(one.runnable, Classifier)}
        return Answerer(classifiers, self.questions, next(iter(classifiers)) if len(classifiers) == 1 else None)

    def answerer_of(self, name: str | None) -> Answerer:
        """Let the classifier of a name answer what `questions` leaves open.

        Raises:
            ConfigError: If none has the name.
        """
        answerer = self.answerer
        if name is None:
            return answerer
        return replace(answerer, usual=self._known(name, answerer.classifiers, "a text classifier"))

    def named(self, name: str | None) -> tuple[str, Served]:
        """Find a model; the only one if no name is given.

        Raises:
            ConfigError: If none has the name, or it is needed and not given.
        """
        if name is None and len(self.served) > 1:
            raise ConfigError(f"Expected the name of a model ({shown(self.served)}), found none.")
        known = next(iter(self.served)) if name is None else self._known(name, self.served, "a model")
        return known, self.served[known]

    @staticmethod
    def _known(name: str, served: Mapping[str, Any], what: str) -> str:
        if name not in served:
            raise ConfigError(
                f"Expected the name of {what} that is served ({shown(served) or 'none is'}), found "
                f"{shown([name])!r}{did_you_mean(name, served)}."
            )
        return name
