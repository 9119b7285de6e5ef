"""Files → files with results."""

from lc_finetune.bulk.predict import PredictConfig, Progress, predict_file

__all__ = ["PredictConfig", "Progress", "predict_file"]
