"""The part of a context that answers a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from lc_finetune.answers import ANSWERS, answer_f1, exact_match
from lc_finetune.checkpoint import EDGES, QUESTIONS, AnswerRule, Checkpoint
from lc_finetune.data import Example, QuestionExample, Splits, gold_of, inputs_of
from lc_finetune.inference import Predictor
from lc_finetune.inference.encode import Encoder
from lc_finetune.inference.outputs import spans_of
from lc_finetune.labels import LabelSet
from lc_finetune.train import recipe
from lc_finetune.train.metrics import Figures, answer_figures, window_f1
from lc_finetune.train.tasks.base import Judged, TrainingTask
from lc_finetune.train.thresholds import choose_null_margin
from lc_finetune.train.tokenization import Feature, Windowing, longest_answer, question_features


class QuestionAnswering(TrainingTask):
    """A softmax over the pieces for the start of the answer, and one for its end: Devlin et al. 2019, "BERT".

    There is no frozen baseline: what a piece of a context has to do with a question is not in states that know nothing
    of the question but what attention brings them.
    """

    name = QUESTIONS
    metric = "window_f1"
    headline = ("f1", "F1")
    judges = "Answers"
    offsets = True

    def __init__(self, rule: AnswerRule) -> None:
        super().__init__(LabelSet(EDGES))
        self.rule = rule

    @classmethod
    def of(cls, train: Sequence[Example], base: Path) -> Self:
        """See how long answers are, and whether there are questions without one."""
        asked = cast("Sequence[QuestionExample]", train)
        longest = max(recipe.LONGEST_ANSWER, longest_answer(asked, Encoder(base, offsets=True)))
        margin = None if all(example.answers for example in asked) else 0.0
        return cls(AnswerRule(longest=longest, null_margin=margin, split="none", rows=0))

    @property
    def answers(self) -> Sequence[str]:
        """Give an answer, and none."""
        return ANSWERS

    @property
    def recorded(self) -> Mapping[str, Any]:
        """Give the rule, as long as no row has decided its margin."""
        return {"answering": self.rule}

    def model_class(self) -> Any:
        """Give the question answerer of transformers."""
        from transformers import AutoModelForQuestionAnswering

        return AutoModelForQuestionAnswering

    def features(
        self, examples: Sequence[Example], encoder: Encoder, windowing: Windowing
    ) -> tuple[list[Feature], int]:
        """Give each window the first and the last piece of the answer."""
        return question_features(cast("Sequence[QuestionExample]", examples), encoder, windowing)

    def validate(self, predictions: Any, gold: Any) -> float:
        """Measure windows; logits of start and end, each `(rows, pieces)`, and positions, each `(rows,)`."""
        return window_f1(predictions[:2], gold)

    def choose_served(self, checkpoint: Checkpoint, splits: Splits) -> Mapping[str, Any]:
        """Choose from which margin on there is no answer, if the training rows have questions without one."""
        if self.rule.null_margin is None or not splits.validation:
            return {}
        spans = spans_of(Predictor.load(checkpoint), inputs_of(splits.validation))
        margins = np.array([span.null_margin for span in spans])
        gold = gold_of(splits.validation)
        contexts = [cast(QuestionExample, example).context for example in splits.validation]
        found = [context[span.start : span.end] for context, span in zip(contexts, spans, strict=True)]
        margin = choose_null_margin(
            margins,
            np.array([answer_f1(one, wanted) for one, wanted in zip(found, gold, strict=True)]),
            np.array([answer_f1(None, wanted) for wanted in gold]),
        )
        chosen = {"null_margin": margin, "split": "validation", "rows": len(spans)}
        return {"answering": self.rule.model_copy(update=chosen)}

    @staticmethod
    def figures(results: Sequence[Any], examples: Sequence[Example]) -> tuple[Figures, list[Judged]]:
        """Measure answers, and judge each, no answer too."""
        gold = gold_of(examples)
        judged = [(result, exact_match(result.answer, wanted)) for result, wanted in zip(results, gold, strict=True)]
        return answer_figures(gold, [result.answer for result in results]), judged

    @staticmethod
    def first_line(figures: Mapping[str, Any]) -> str:
        """Give exact match and F1, as SQuAD has them, and apart where some questions have no answer."""
        line = f"answers    exact match {figures['exact_match']:.4f}  F1 {figures['f1']:.4f}"
        if "answered_f1" not in figures:
            return line
        return (
            f"{line}; where there is one {figures['answered_exact_match']:.4f} and {figures['answered_f1']:.4f}, "
            f"where there is none {figures['unanswered_accuracy']:.4f} left unanswered"
        )
