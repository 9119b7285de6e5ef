"""fp32 ONNX → int8 ONNX whose answers do not depend on the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lc_finetune.checkpoint import Checkpoint
from lc_finetune.inference import plan
from lc_finetune.inference.backends import Batch
from lc_finetune.inference.encode import Encoding
from lc_finetune.inference.predictor import Predictor
from lc_finetune.schemas import Input


def quantize_onnx(checkpoint: Checkpoint, source: Path, target: Path, texts: Sequence[Input]) -> None:
    """Quantize the encoder's matrix products with scales that the texts set once and for all.

    Static scales, since a scale taken from the batch at hand would let a text's neighbours change its answer. Weights
    are int8, a scale for each column, in seven bits, so that CPUs without VNNI cannot overflow their 16-bit sums;
    activations are uint8. Softmax, normalisation, attention between activations, and the head stay in fp32.

    Args:
        checkpoint: Gives tokenizer and windows.
        source: The fp32 model.
        target: Where the int8 model goes.
        texts: Typical texts; each window of them is run once.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model = onnx.load(source)
    add_pre_process_metadata(model)  # constants are folded and shapes known; else ONNX Runtime asks for it in the log
    quantize_static(
        model,
        target,
        _windows(checkpoint, texts),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul"],
        nodes_to_exclude=_kept(model.graph),
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        # Products go straight on in fp32: only the inputs of products are rounded.
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )


def _kept(graph: Any) -> list[str]:
    """Name the products that stay in fp32: those of two activations, and the one that makes a tagger's logits."""
    weights = {tensor.name for tensor in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    head = made_by["logits"]
    while head.op_type not in ("MatMul", "Gemm"):
        head = next(made_by[name] for name in head.input if name in made_by)
    products = [node for node in graph.node if node.op_type == "MatMul"]
    return [node.name for node in products if node is head or node.input[1] not in weights]


class _windows:
    """The windows of the texts as ONNX Runtime's calibration reads them: one at a time, without padding."""

    def __init__(self, checkpoint: Checkpoint, texts: Sequence[Input]) -> None:
        self._feeds = self._read(Predictor(checkpoint, device="cpu", dtype="float32", backend="torch"), texts)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)

    @staticmethod
    def _read(predictor: Predictor, texts: Sequence[Input]) -> Iterator[dict[str, Any]]:
        for encoding in predictor.encode(texts):
            if isinstance(encoding, Encoding):
                for frame in encoding.frames or (predictor.frame,):
                    capacity = predictor.max_length - len(frame)
                    for start, end in plan.windows(len(encoding.ids), capacity, predictor.stride):
                        ids = np.array([frame.around(encoding.ids[start:end])])
                        types = np.array([frame.types_around(end - start)]) if predictor.token_types else None
                        yield Batch(ids, np.ones_like(ids), types).feed
