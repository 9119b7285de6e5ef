"""Random encoder-decoders with tokenizers built offline: what `--task seq2seq` takes as a base model."""

import json
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    T5Config,
    T5ForConditionalGeneration,
)

from lc_finetune.testing import SENTENCES, tiny_tokenizer

Family = Literal["t5", "bart", "marian"]
FAMILIES: tuple[Family, ...] = get_args(Family)
POSITIONS = 64
"""Of BART and Marian; T5's are relative."""


def tiny_generator(folder: Path, family: Family = "bart", *, spread: float = 0.02, seed: int = 0) -> Path:
    """Write one; T5 and BART read bytes, Marian the pieces of a few sentences. Returns the folder.

    With a wide `spread` of the weights, what BART and Marian write depends on the text.
    """
    width = 32
    folder.mkdir(parents=True)
    tokenizer: Any = _marian_tokenizer(folder) if family == "marian" else tiny_tokenizer("bytelevel", max_length=512)
    special = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "d_model": width,
               "eos_token_id": tokenizer.eos_token_id}  # fmt: skip
    torch.manual_seed(seed)
    model: Any
    if family == "t5":
        model = T5ForConditionalGeneration(
            T5Config(**special, d_ff=2 * width, d_kv=16, num_layers=2, num_heads=2,
                     decoder_start_token_id=tokenizer.pad_token_id)
        )  # fmt: skip
    else:
        kind, built = (BartConfig, BartForConditionalGeneration) if family == "bart" else (MarianConfig, MarianMTModel)
        start = tokenizer.eos_token_id if family == "bart" else tokenizer.pad_token_id
        model = built(
            kind(**special, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
                 encoder_ffn_dim=2 * width, decoder_ffn_dim=2 * width, max_position_embeddings=POSITIONS,
                 bos_token_id=tokenizer.bos_token_id, decoder_start_token_id=start, init_std=spread)
        )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _marian_tokenizer(folder: Path) -> MarianTokenizer:
    """Train one vocabulary, for both languages."""
    import sentencepiece

    text = folder / "sentences.txt"
    text.write_text("\n".join(SENTENCES), encoding="utf-8")
    for side in ("source", "target"):
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=str(folder / side), vocab_size=120, minloglevel=2, hard_vocab_limit=False
        )
        (folder / f"{side}.model").rename(folder / f"{side}.spm")
        (folder / f"{side}.vocab").unlink()
    text.unlink()
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    names = ["</s>", "<unk>", *(pieces.id_to_piece(i) for i in range(3, len(pieces))), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}), encoding="utf-8")
    return MarianTokenizer(
        source_spm=str(folder / "source.spm"), target_spm=str(folder / "target.spm"), vocab=str(folder / "vocab.json")
    )
