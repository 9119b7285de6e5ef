"""Texts → results."""

from lc_finetune.inference.predictor import Predictor, validated

__all__ = ["Predictor", "validated"]
