"""What makes the torch backend fast on CUDA: full batches without padding, small ones with a single launch.

A full batch becomes one row in which its windows follow each other, and FlashAttention's kernel for sequences of varied
length keeps them apart. A small batch is padded to one of a few shapes, each of which is recorded once as a CUDA graph:
to launch an encoder's kernels one by one takes longer than to run them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import scaled_dot_product_attention

from lc_finetune.inference.backends import Batch, Outputs, says_out_of_memory
from lc_finetune.inference.backends.torch import masked_mean

logger = logging.getLogger(__name__)

STACKS = {
    "bert": "encoder",
    "camembert": "encoder",
    "distilbert": "transformer",
    "electra": "encoder",
    "roberta": "encoder",
    "xlm-roberta": "encoder",
}
"""Families whose attention can be replaced and whose heads read the first piece or each alone: where the layers are."""
ATTENTION = "lc_finetune"
"""The name of `attend` in transformers' attention interface."""
GRAPH_TOKENS = 4096
"""Tokens, padding counted, up to which a batch is small."""
GRAPH_PIECES = 16
"""Length of the shortest shape that is recorded; the next ones are twice as long, four times, and so on."""

Call = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Ids, mask and, of pairs, token types, `(2 or 3, rows, pieces)` → logits and features."""


class CudaModel:
    """A model of one of the families in `STACKS`.

    Nothing here but `Recorder` and one branch of `attend` asks for CUDA.
    """

    def __init__(
        self, model: Any, *, per_piece: bool, packs: bool, record: Callable[[Call, torch.Tensor], Call]
    ) -> None:
        """Take over the model's attention.

        Args:
            model: In evaluation mode, on its device.
            per_piece: Whether its head judges each piece, or the first of each window.
            packs: Whether full batches lose their padding.
            record: Turns a call, given an example of its input, into one that does the same with a single launch.
        """
        from transformers import AttentionInterface

        AttentionInterface.register(ATTENTION, attend)
        model.set_attn_implementation(ATTENTION)
        getattr(model.base_model, STACKS[model.config.model_type]).register_forward_hook(self._keep)
        self._model = model
        self._per_piece, self._packs, self._record = per_piece, packs, record
        self._recorded: dict[tuple[int, int], Call] = {}
        self._pad_position: int | None = getattr(model.base_model.embeddings, "padding_idx", None)
        self._mask: torch.Tensor | None = None  # of a padded batch
        self._bounds: torch.Tensor | None = None  # of a packed one
        self._features: torch.Tensor | None = None

    def __call__(self, batch: Batch) -> Outputs:
        """Run the model once; see `Backend`."""
        rows, pieces = batch.input_ids.shape
        shape = _doubled(rows, 1), min(_doubled(pieces, GRAPH_PIECES), self._model.config.max_position_embeddings)
        if shape[0] * shape[1] <= GRAPH_TOKENS:
            return self._small(batch, shape)
        if self._packs:
            return self._packed(batch)
        return Outputs(*to_host(*self._padded(self._staged([*batch.feed.values()]))))

    def _small(self, batch: Batch, shape: tuple[int, int]) -> Outputs:
        rows, pieces = batch.input_ids.shape
        arrays = [*batch.feed.values()]
        filled = np.zeros((len(arrays), *shape), dtype=np.int64)
        filled[0] = self._pad_position or 0  # which such a family counts no position for
        filled[:, :rows, :pieces] = arrays
        filled[1, :, 0] = 1  # a row without a single piece would be NaN
        inputs = self._staged(filled)
        if shape not in self._recorded:
            self._recorded[shape] = self._recording(inputs)
        logits, features = to_host(*self._recorded[shape](inputs))
        return Outputs(logits[:rows, :pieces] if self._per_piece else logits[:rows], features[:rows])

    def _recording(self, inputs: torch.Tensor) -> Call:
        try:
            return self._record(self._padded, inputs)
        except RuntimeError as error:
            if says_out_of_memory(error):
                raise
            logger.warning(
                "Small batches run without a CUDA graph: %s cannot be recorded.", self._model.config.model_type
            )
            return self._padded

    def _packed(self, batch: Batch) -> Outputs:
        present = batch.attention_mask.astype(bool)
        present[:, 0] = True  # of an empty text, a tokenizer without special tokens leaves nothing
        lengths = present.sum(axis=1)
        bounds = self._staged(np.concatenate([[0], lengths.cumsum()]).astype(np.int32))
        positions = self._positions(batch.input_ids)
        types = [] if batch.token_type_ids is None else [batch.token_type_ids]
        inputs = self._staged([array[present][None] for array in (batch.input_ids, positions, *types)])
        self._bounds = bounds
        names = ("input_ids", "position_ids", "token_type_ids")
        logits, features = to_host(
            *self._run(**dict(zip(names, inputs, strict=False)), bounds=bounds, longest=int(lengths.max()))
        )
        if not self._per_piece:
            return Outputs(logits, features)
        padded = np.zeros((*present.shape, logits.shape[-1]), dtype=np.float32)
        padded[present] = logits[0]
        return Outputs(padded, features)

    def _positions(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count as the family does: from 0, or from after the padding id, which has that id's position."""
        if self._pad_position is None:
            return np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        real = ids != self._pad_position
        counted: NDArray[np.int64] = np.cumsum(real, axis=1) * real + self._pad_position
        return counted

    def _padded(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ids, mask, *types = inputs
        self._mask, self._bounds = mask, None
        # A mask of four dimensions is taken as it is. Of one with two, transformers would read the values, which waits
        # for the device and cannot be recorded.
        others = {"token_type_ids": types[0]} if types else {}
        return self._run(input_ids=ids, attention_mask=mask.bool()[:, None, None], **others)

    def _run(self, **inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self._model(**inputs).logits
        features, self._features = self._features, None
        assert features is not None
        return logits, features

    def _keep(self, module: Any, inputs: Any, output: Any) -> Any:
        """Keep the mean over the pieces of each window, and hand a classifier's head no state but the first pieces'."""
        state = output.last_hidden_state
        if self._bounds is None:
            assert self._mask is not None
            first, self._features = state[:, 0], masked_mean(state, self._mask)
        else:
            first, self._features = state[0, self._bounds[:-1].long()], _means(state[0], self._bounds)
        if not self._per_piece:
            output.last_hidden_state = first[:, None]
        return output

    def _staged(self, array: Any) -> torch.Tensor:
        return to_device(np.asarray(array), self._model.device)


def _means(state: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
    """Average over each window of a packed row: `(pieces, hidden)` → `(windows, hidden)`, in fp32."""
    lengths = bounds.diff()
    windows = torch.arange(len(lengths), device=state.device)
    window_of = torch.repeat_interleave(windows, lengths, output_size=len(state))
    sums = state.new_zeros(len(lengths), state.shape[1], dtype=torch.float32)
    return sums.index_add_(0, window_of, state.float()) / lengths[:, None]


class Recorder:
    """Records calls as CUDA graphs that share their memory.

    What a call returns is overwritten by the next call of any of them.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, call: Call, inputs: torch.Tensor) -> Call:
        """Record one call."""
        static, graph = inputs.clone(), torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            call(static)  # libraries set themselves up at a first call, which cannot be recorded
            # Of other threads, which may allocate meanwhile, nothing is recorded and nothing forbidden.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                outputs = call(static)

        def replay(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            static.copy_(inputs)
            graph.replay()
            return outputs

        return replay


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    bounds: torch.Tensor | None = None,
    longest: int = 0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each row or, where bounds are given, within each window of one row.

    Args:
        module: The layer.
        query: Shape `(rows, heads, pieces, width)`; `key` and `value` too. Scaled by the root of the width.
        key: See `query`.
        value: See `query`.
        attention_mask: What may be attended to: boolean, broadcast to `(rows, heads, pieces, pieces)`.
        bounds: Where the windows of the row begin, and the end of the last: `(windows + 1,)`, int32.
        longest: The length of the longest window.

    Returns:
        `(rows, pieces, heads, width)`, and no weights.
    """
    if bounds is not None and query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        queries, keys, values = (states[0].transpose(0, 1) for states in (query, key, value))
        output: Any = varlen_attn(queries, keys, values, bounds, bounds, longest, longest)
        return output[None], None
    if bounds is not None:
        window = torch.bucketize(torch.arange(query.shape[2], device=query.device), bounds, right=True)
        attention_mask = window[:, None] == window
    attended = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
    return attended.transpose(1, 2).contiguous(), None


def can_pack(model: Any) -> bool:
    """Say whether FlashAttention's kernel runs the model: in halves, on compute capability 8.0 (Ampere) or newer."""
    width = model.config.hidden_size // model.config.num_attention_heads
    return (
        torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(model.device) >= (8, 0)
        and model.dtype in (torch.bfloat16, torch.float16)
        and width % 8 == 0
        and width <= 256
    )


def to_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Copy to a device; to CUDA through pinned memory, without waiting for it."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def to_host(*tensors: torch.Tensor) -> list[NDArray[np.float32]]:
    """Copy to the host in fp32; from CUDA into pinned memory, waiting once for all."""
    on_cuda = tensors[0].is_cuda
    copies = [tensor.float().to("cpu", non_blocking=on_cuda) for tensor in tensors]
    if on_cuda:
        torch.cuda.current_stream(tensors[0].device).synchronize()
    return [copy.numpy() for copy in copies]


def _doubled(least: int, start: int) -> int:
    """Double `start` until it is `least` or more."""
    return start << max(0, -(-least // start) - 1).bit_length()
