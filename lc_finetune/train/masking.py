"""Blocks → features: whole words hidden, for the model to find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import DataCollatorForLanguageModeling

from lc_finetune.train.packing import NO_WORD, Block
from lc_finetune.train.tokenization import Feature

SHARE = 0.15
"""Of the words; Devlin et al. 2019, "BERT", section 3.1, as are the shares of what they become."""


class WordMasking:
    """Hides 15 % of the words of a block, each of them whole, at random.

    What becomes of a hidden word's pieces is left to transformers' own collator: 80 % become the mask token, 10 % any
    piece, and 10 % stay. Its choice of words is not taken: it sees a new word only where offsets leave a gap, so that
    Chinese text is one word, as is all text of byte-level tokenizers whose offsets count the space; and it makes every
    piece of a whole word the mask token. Unknown pieces are never hidden, since there is nothing to find.
    """

    def __init__(self, tokenizer: Any) -> None:
        # All that is not given as special is hidden.
        self._unknown = -1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id
        self._collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=1.0)

    def __call__(self, block: Block) -> Feature:
        """Hide words, drawn by torch's generator: at least one, if there is any."""
        kept = (block.words == NO_WORD) | (block.ids == self._unknown)
        known = np.unique(block.words[~kept])
        chosen = known[torch.randperm(len(known)).numpy()][: max(1, round(SHARE * len(known)))]
        kept |= ~np.isin(block.words, chosen)
        ids = torch.from_numpy(block.ids).long()
        masked, labels = self._collator.torch_mask_tokens(ids[None], special_tokens_mask=torch.from_numpy(kept)[None])
        return {"input_ids": masked[0].tolist(), "attention_mask": [1] * len(ids), "labels": labels[0].tolist()}


class MaskedBlocks(Dataset[Feature]):
    """Blocks whose words are hidden anew whenever they are read (Liu et al. 2019, "RoBERTa", dynamic masking)."""

    def __init__(self, blocks: Sequence[Block], masking: WordMasking) -> None:
        self._blocks = blocks
        self._masking = masking

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> Feature:
        return self._masking(self._blocks[index])


def masked_once(blocks: Sequence[Block], masking: WordMasking, seed: int) -> list[Feature]:
    """Hide the same words for the same seed, so that two models are measured on one thing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [masking(block) for block in blocks]
