"""Texts → pieces, without truncation."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lc_finetune.errors import CheckpointError, InputError


@dataclass(frozen=True, slots=True)
class Encoding:
    """The pieces of one text, special tokens left out.

    Attributes:
        ids: Vocabulary ids.
        offsets: Character range of each piece in the text; empty unless offsets were asked for.
        words: Index of the tokenizer's word that each piece belongs to; empty unless offsets were asked for.
    """

    ids: Sequence[int]
    offsets: Sequence[tuple[int, int]] = ()
    words: Sequence[int | None] = ()


class Encoder:
    """A tokenizer of its own, with the special tokens that frame each window."""

    def __init__(self, folder: Path, *, offsets: bool) -> None:
        """Load the tokenizer of a checkpoint folder.

        Args:
            folder: The checkpoint.
            offsets: Whether encodings carry character offsets and words, which taggers need.

        Raises:
            CheckpointError: If the folder's tokenizer cannot be loaded.
        """
        from tokenizers import Tokenizer
        from transformers import AutoTokenizer

        try:
            loaded: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{folder}: the tokenizer cannot be loaded ({type(error).__name__}).") from error
        # A copy: truncation and padding are state on the shared object, and both must stay off here.
        self._tokenizer = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._offsets = offsets
        self._lock = threading.Lock()
        self.pad_id: int = loaded.pad_token_id or 0
        self.prefix, self.suffix = self._frame()

    def _frame(self) -> tuple[list[int], list[int]]:
        """Find the special tokens before and after a text by encoding a probe with and without them."""
        bare = self._tokenizer.encode("a", add_special_tokens=False).ids
        framed = self._tokenizer.encode("a", add_special_tokens=True).ids
        for start in range(len(framed) - len(bare) + 1):
            if framed[start : start + len(bare)] == bare:
                return framed[:start], framed[start + len(bare) :]
        return [], []

    def encode(self, texts: Sequence[str]) -> list[Encoding | InputError]:
        """Encode each text whole; one that the tokenizer cannot read gets an `InputError` in its place."""
        with self._lock:
            try:
                return list(self._encode_batch(texts))
            except Exception:  # one text broke the call: find out which
                return [self._encode_alone(text) for text in texts]

    def _encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        if not self._offsets:
            return [Encoding(e.ids) for e in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        encoded = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return [Encoding(e.ids, e.offsets, e.word_ids) for e in encoded]

    def _encode_alone(self, text: str) -> Encoding | InputError:
        try:
            return self._encode_batch([text])[0]
        except Exception as error:
            refusal = InputError(
                "Expected a text of valid Unicode, found one that the tokenizer cannot read "
                f"({type(error).__name__}; lone surrogates are the usual cause). Clean it before the call."
            )
            refusal.__cause__ = None if isinstance(error, UnicodeError) else error
            return refusal
