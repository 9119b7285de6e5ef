"""Fine-tuned encoders as LangChain Runnables.

Public names are resolved when they are first used, so that importing the package loads neither torch nor LangChain.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lc_finetune.checkpoint import Checkpoint
    from lc_finetune.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        EngineError,
        InputError,
        LCFinetuneError,
        MissingDependencyError,
        ProcessError,
    )
    from lc_finetune.parsers import AnswerError, EntitiesOutputParser, LabelOutputParser
    from lc_finetune.runnables import (
        Cascade,
        EntityTagger,
        FanOut,
        IntentAndEntityTagger,
        LabelRouter,
        MultiLabelClassifier,
        OrdinalClassifier,
        PairClassifier,
        QuestionAnswerer,
        RelationClassifier,
        TextClassifier,
        TextGenerator,
        TextRegressor,
    )
    from lc_finetune.schemas import (
        Attribution,
        Classification,
        Entity,
        Explanation,
        Generation,
        IntentAndEntities,
        Mention,
        MultiLabelClassification,
        Neighbour,
        OrdinalClassification,
        PairClassification,
        QuestionAnswer,
        Regression,
        Relation,
        RelationClassification,
        Relations,
        Scores,
        Tagging,
    )

_HOMES = {
    "runnables": (
        "Cascade",
        "EntityTagger",
        "FanOut",
        "IntentAndEntityTagger",
        "LabelRouter",
        "MultiLabelClassifier",
        "OrdinalClassifier",
        "PairClassifier",
        "QuestionAnswerer",
        "RelationClassifier",
        "TextClassifier",
        "TextGenerator",
        "TextRegressor",
    ),
    "schemas": (
        "Attribution",
        "Classification",
        "Entity",
        "Explanation",
        "Generation",
        "IntentAndEntities",
        "Mention",
        "MultiLabelClassification",
        "Neighbour",
        "OrdinalClassification",
        "PairClassification",
        "QuestionAnswer",
        "Regression",
        "Relation",
        "RelationClassification",
        "Relations",
        "Scores",
        "Tagging",
    ),
    "parsers": ("AnswerError", "EntitiesOutputParser", "LabelOutputParser"),
    "checkpoint": ("Checkpoint",),
    "errors": (
        "CheckpointError",
        "ConfigError",
        "DataError",
        "EngineError",
        "InputError",
        "LCFinetuneError",
        "MissingDependencyError",
        "ProcessError",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AnswerError",
    "Attribution",
    "Cascade",
    "Checkpoint",
    "CheckpointError",
    "Classification",
    "ConfigError",
    "DataError",
    "EngineError",
    "EntitiesOutputParser",
    "Entity",
    "EntityTagger",
    "Explanation",
    "FanOut",
    "Generation",
    "InputError",
    "IntentAndEntities",
    "IntentAndEntityTagger",
    "LCFinetuneError",
    "LabelOutputParser",
    "LabelRouter",
    "Mention",
    "MissingDependencyError",
    "MultiLabelClassification",
    "MultiLabelClassifier",
    "Neighbour",
    "OrdinalClassification",
    "OrdinalClassifier",
    "PairClassification",
    "PairClassifier",
    "ProcessError",
    "QuestionAnswer",
    "QuestionAnswerer",
    "Regression",
    "Relation",
    "RelationClassification",
    "RelationClassifier",
    "Relations",
    "Scores",
    "Tagging",
    "TextClassifier",
    "TextGenerator",
    "TextRegressor",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("lc-finetune")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'lc_finetune' has no attribute {name!r}")
    return getattr(import_module(f"lc_finetune.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
