"""A number a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from lc_finetune.checkpoint import Checkpoint, NumberInterval, NumberScale
from lc_finetune.data import Example, RegressionExample, Splits
from lc_finetune.errors import ConfigError
from lc_finetune.inference import Predictor
from lc_finetune.inference.calibrate import answer
from lc_finetune.inference.encode import Encoder
from lc_finetune.labels import LabelSet, r_squared
from lc_finetune.train.baseline import regression_baseline
from lc_finetune.train.metrics import Figures, regression_figures
from lc_finetune.train.tasks.base import Judged, TrainingTask
from lc_finetune.train.tokenization import Feature, Windowing, regression_features

if TYPE_CHECKING:
    from lc_finetune.train.config import TrainConfig

COVERAGE = 0.9
"""How often the right number lies in its interval."""


class NumberRegression(TrainingTask):
    """One logit, in standard deviations of the training rows from their mean: whatever the units, the loss is alike."""

    name = "regression"
    metric = "r2"
    headline = ("r2", "R²")
    judges = "Numbers"
    frozen_head = "ridge regression"
    calibrates = False  # its interval is

    def __init__(self, scale: NumberScale) -> None:
        super().__init__(LabelSet(("value",)))
        self.scale = scale

    @classmethod
    def of(cls, train: Sequence[Example], base: Path) -> Self:
        """Take the mean and the standard deviation of the training rows."""
        numbers = np.array([cast(RegressionExample, example).value for example in train])
        return cls(NumberScale(centre=float(numbers.mean()), unit=float(numbers.std())))

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        """Refuse what takes labels."""
        if "accept" in config.model_fields_set:
            raise ConfigError("accept: expected labels or entities, found numbers, which have intervals. Leave it out.")

    @property
    def recorded(self) -> Mapping[str, Any]:
        """Give what a logit means."""
        return {"scale": self.scale}

    def model_class(self) -> Any:
        """Give the sequence classifier of transformers, with one output."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def model_options(self) -> Mapping[str, Any]:
        """Ask for the squared error."""
        return {"problem_type": "regression"}

    def features(
        self, examples: Sequence[Example], encoder: Encoder, windowing: Windowing
    ) -> tuple[list[Feature], int]:
        """Give every window its text's number, as a logit."""
        numbered = cast("Sequence[RegressionExample]", examples)
        return regression_features(numbered, encoder, self.scale, windowing), 0

    def validate(self, predictions: Any, gold: Any) -> float:
        """Measure R²; logits of shape `(rows, 1)` or `(rows,)`, numbers as logits of shape `(rows,)`."""
        return r_squared(np.asarray(gold, float), np.asarray(predictions, float).reshape(-1))

    def choose_served(self, checkpoint: Checkpoint, splits: Splits) -> Mapping[str, Any]:
        """Measure the interval.

        The half width is the ceil((n + 1) * coverage)-th smallest error of n held-out rows, which holds for a new text
        of the same distribution with at least that probability: split conformal prediction (Lei et al. 2018,
        "Distribution-Free Predictive Inference for Regression").
        """
        held_out = splits.calibration or splits.validation
        split = "calibration" if splits.calibration else "validation, which also chose the epoch"
        results = answer(Predictor.load(checkpoint), [example.text for example in held_out])
        wanted = [cast(RegressionExample, example).value for example in held_out]
        errors = sorted(abs(result.value - value) for result, value in zip(results, wanted, strict=True))
        rank = int(np.ceil((len(errors) + 1) * COVERAGE - 1e-9))
        if rank > len(errors):
            return {}
        interval = NumberInterval(half_width=errors[rank - 1], coverage=COVERAGE, split=split, rows=len(errors))
        return {"scale": self.scale.model_copy(update={"interval": interval})}

    @staticmethod
    def figures(results: Sequence[Any], examples: Sequence[Example]) -> tuple[Figures, list[Judged]]:
        """Measure numbers, and how many lie in their interval; none is right or wrong."""
        wanted = [cast(RegressionExample, example).value for example in examples]
        figures = regression_figures(wanted, [result.value for result in results])
        if results[0].coverage is not None:
            inside = [result.low <= value <= result.high for result, value in zip(results, wanted, strict=True)]
            figures["interval"] = {"coverage": float(np.mean(inside)), "stated": results[0].coverage}
        return figures, []

    def baseline(self, base: Path, splits: Splits, examples: Sequence[Example], max_length: int) -> Figures:
        """Fit mean-pooled features by ridge regression."""
        return regression_baseline(base, splits.train, examples, max_length)

    @staticmethod
    def first_line(figures: Mapping[str, Any]) -> str:
        """Give the errors and the correlations."""
        line = (
            f"MAE {figures['mae']:.4g}  RMSE {figures['rmse']:.4g}  R² {figures['r2']:.4f}  "
            f"Pearson {figures['pearson']:.4f}  Spearman {figures['spearman']:.4f}"
        )
        if interval := figures.get("interval"):
            line += f"\n  {interval['coverage']:.1%} lie in their interval, which says {interval['stated']:.0%}"
        return line
