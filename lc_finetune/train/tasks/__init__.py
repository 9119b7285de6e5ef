"""The tasks that can be trained."""

from __future__ import annotations

from lc_finetune.checkpoint import Task
from lc_finetune.train.tasks.base import TrainingTask
from lc_finetune.train.tasks.intents import IntentAndEntities
from lc_finetune.train.tasks.multi_label import MultiLabelClassification
from lc_finetune.train.tasks.ordinal import OrdinalClassification
from lc_finetune.train.tasks.question_answering import QuestionAnswering
from lc_finetune.train.tasks.regression import NumberRegression
from lc_finetune.train.tasks.relation import RelationClassification
from lc_finetune.train.tasks.tagging import Tagging
from lc_finetune.train.tasks.text_classification import TextClassification
from lc_finetune.train.tasks.text_pair import TextPairClassification

TASKS: dict[Task, type[TrainingTask]] = {
    task.name: task
    for task in (
        TextClassification,
        TextPairClassification,
        MultiLabelClassification,
        OrdinalClassification,
        NumberRegression,
        Tagging,
        RelationClassification,
        QuestionAnswering,
        IntentAndEntities,
    )
}

__all__ = ["TASKS", "TrainingTask"]
