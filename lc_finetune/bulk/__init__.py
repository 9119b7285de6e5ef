"""Files → files with results."""

from lc_finetune.bulk.label import LabelConfig, label_file
from lc_finetune.bulk.predict import PredictConfig, Progress, predict_file

__all__ = ["LabelConfig", "PredictConfig", "Progress", "label_file", "predict_file"]
