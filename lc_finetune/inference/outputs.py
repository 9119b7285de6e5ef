"""Texts → what results are made of: a classifier's merged logits and features, a question answerer's best spans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lc_finetune.inference import worker
from lc_finetune.inference.backends import Outputs
from lc_finetune.inference.calibrate import RawPredictor
from lc_finetune.inference.decode import SpanChoice, best_span
from lc_finetune.inference.encode import Encoding
from lc_finetune.inference.predictor import Predictor
from lc_finetune.schemas import Input


def outputs_of(predictor: Predictor, texts: Sequence[Input]) -> Outputs:
    """Read texts as a classifier serves them: through windows, merging, backend and precision.

    Args:
        predictor: A loaded classifier.
        texts: At least one.

    Returns:
        Logits of shape `(texts, labels)` and features of shape `(texts, hidden)`.

    Raises:
        LCFinetuneError: If a text cannot be read or answered.
    """
    found = worker.answer(_Undecoded(predictor), texts)
    for one in found:
        if isinstance(one, Exception):
            raise one
    logits, features = zip(*found, strict=True)
    return Outputs(np.stack(logits).astype(np.float32), np.stack(features).astype(np.float32))


def spans_of(predictor: Predictor, questions: Sequence[Input]) -> list[SpanChoice]:
    """Find the best span of each context for its question, as it is served, whether it is then given or not.

    Raises:
        LCFinetuneError: If a question or a context cannot be read or answered.
    """
    found = worker.answer(_Spans(predictor), questions)
    for one in found:
        if isinstance(one, Exception):
            raise one
    return found


class _Spans(RawPredictor):
    def decode(  # type: ignore[override]
        self, text: Input, encoding: Encoding, logits: NDArray[np.floating], features: NDArray[np.floating]
    ) -> SpanChoice:
        return best_span(text[1], encoding, logits, longest=self.answer_rule.longest)


class _Undecoded(RawPredictor):
    def decode(  # type: ignore[override]
        self, text: Input, encoding: Encoding, logits: NDArray[np.floating], features: NDArray[np.floating]
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        return logits, features
