"""Labelled texts and a checkpoint → what it gets right and wrong: a page, a file to correct, a comparison."""

from lc_finetune.evaluation.answering import Evaluation, evaluate
from lc_finetune.evaluation.comparison import Comparison, compare, comparison_table
from lc_finetune.evaluation.page import evaluation_page, write_report

__all__ = ["Comparison", "Evaluation", "compare", "comparison_table", "evaluate", "evaluation_page", "write_report"]
