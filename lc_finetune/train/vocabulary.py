"""Which rows of the embeddings are trained: those of pieces that the data has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lc_finetune.train.tokenization import Feature


class PartOfEmbedding(torch.nn.Embedding):
    """Some rows of an embedding, asked for by the pieces' numbers in the whole one.

    Attributes:
        pieces: The rows that it has, in rising order, shape `(rows,)`.
    """

    _places: torch.Tensor

    def __init__(self, whole: torch.nn.Embedding, pieces: torch.Tensor) -> None:
        padding = None if whole.padding_idx is None else int(torch.searchsorted(pieces, whole.padding_idx))
        rows = whole.weight.detach()[pieces]
        super().__init__(len(pieces), whole.embedding_dim, padding_idx=padding, _weight=rows)
        self.pieces = pieces
        places = torch.full((whole.num_embeddings,), -1, device=pieces.device)
        places[pieces] = torch.arange(len(pieces), device=pieces.device)
        self.register_buffer("_places", places, persistent=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Look pieces up; fails for one that it does not have."""
        return super().forward(self._places[input])


@contextmanager
def seen_rows(model: Any, features: Sequence[Feature], pad_id: int) -> Iterator[None]:
    """Leave, within the block, only those rows of a model's embeddings that its features need.

    The others get no gradient, but would take part in each step of the optimizer, in the norm of the gradients and in
    each saved state; of a small encoder the embeddings are half of the parameters. They come out as they went in,
    without the weight decay that the optimizer would take off them. A model whose embeddings are frozen, tied to other
    weights, or of a kind of their own is left alone.

    Args:
        model: The model; it has its whole embeddings again, the rows trained, when the block ends.
        features: All rows that it sees within the block.
        pad_id: The piece that batches are padded with.
    """
    whole = model.get_input_embeddings()
    holders = [name for name, one in model.named_parameters(remove_duplicate=False) if one is whole.weight]
    if type(whole) is not torch.nn.Embedding or not whole.weight.requires_grad or len(holders) > 1:
        yield
        return
    ids = {pad_id, *(piece for feature in features for piece in feature["input_ids"])}
    if whole.padding_idx is not None:
        ids.add(whole.padding_idx)
    part = PartOfEmbedding(whole, torch.tensor(sorted(ids), device=whole.weight.device))
    model.set_input_embeddings(part)
    try:
        yield
    finally:
        whole.to(part.weight.device)
        with torch.no_grad():
            whole.weight[part.pieces.to(part.weight.device)] = part.weight
        model.set_input_embeddings(whole)
