"""The LangChain edge."""

from lc_finetune.runnables.cascade import Cascade
from lc_finetune.runnables.encoders import (
    EntityTagger,
    IntentAndEntityTagger,
    MultiLabelClassifier,
    OrdinalClassifier,
    PairClassifier,
    TextClassifier,
    TextRegressor,
)
from lc_finetune.runnables.fanout import FanOut, FanOutAssign
from lc_finetune.runnables.generator import TextGenerator
from lc_finetune.runnables.questions import QuestionAnswerer
from lc_finetune.runnables.relations import RelationClassifier
from lc_finetune.runnables.router import LabelRouter

__all__ = [
    "Cascade",
    "EntityTagger",
    "FanOut",
    "FanOutAssign",
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
]
