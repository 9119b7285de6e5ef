"""One label a pair of texts."""

from __future__ import annotations

from lc_finetune.train.tasks.text_classification import TextClassification


class TextPairClassification(TextClassification):
    """A softmax over the labels, of two texts that the encoder reads together.

    All that sets it apart is in its examples, `PairExample`: what is read of them follows from `inputs_of`.
    """

    name = "text-pair-classification"
    continues = False
