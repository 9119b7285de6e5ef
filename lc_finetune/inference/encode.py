"""Texts, and pairs of texts → pieces, without truncation."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lc_finetune.errors import CheckpointError, InputError
from lc_finetune.inference import plan


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around a window of a text: special tokens and, of a pair, pieces of the other text.

    Attributes:
        before: Vocabulary ids.
        after: Vocabulary ids.
        types: Token type of each piece before, of all pieces of the window, and of each piece after; of a pair only.
        share: How much of the pair this frame shows, of 1 in all its frames.
    """

    before: Sequence[int]
    after: Sequence[int]
    types: tuple[Sequence[int], int, Sequence[int]] = ((), 0, ())
    share: float = 1.0

    def __len__(self) -> int:
        return len(self.before) + len(self.after)

    def around(self, ids: Sequence[int]) -> list[int]:
        """Frame the pieces of a window."""
        return [*self.before, *ids, *self.after]

    def types_around(self, pieces: int) -> list[int]:
        """Give the token types of a framed window of so many pieces; of a pair only."""
        before, within, after = self.types
        return [*before, *[within] * pieces, *after]


@dataclass(frozen=True, slots=True)
class Encoding:
    """The pieces of one text, special tokens left out; of a pair, those of the text that is read in windows.

    Attributes:
        ids: Vocabulary ids.
        offsets: Character range of each piece in the text; empty unless offsets were asked for.
        words: Index of the tokenizer's word that each piece belongs to; empty unless offsets were asked for.
        frames: What stands around the windows: each window is read in each of them. All are equally long. Empty for a
            text alone, whose frame is the encoder's.
    """

    ids: Sequence[int]
    offsets: Sequence[tuple[int, int]] = ()
    words: Sequence[int | None] = ()
    frames: Sequence[Frame] = ()


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
        self._folder = folder
        self._inputs: Sequence[str] = loaded.model_input_names
        # A copy: truncation and padding are state on the shared object, and both must stay off here.
        self._tokenizer = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._offsets = offsets
        self._lock = threading.Lock()
        self.pad_id = padding_id(folder, loaded)
        self.unknown_id: int | None = loaded.unk_token_id
        self.frame = self._probed()

    def _probed(self) -> Frame:
        """Find the special tokens before and after a text by encoding a probe with and without them."""
        bare = self._tokenizer.encode("a", add_special_tokens=False).ids
        framed = self._tokenizer.encode("a", add_special_tokens=True).ids
        for start in range(len(framed) - len(bare) + 1):
            if framed[start : start + len(bare)] == bare:
                return Frame(framed[:start], framed[start + len(bare) :])
        return Frame((), ())

    @cached_property
    def token_types(self) -> bool:
        """Whether the folder's model is told by token types which text of a pair a piece belongs to.

        It is if it has some, and its tokenizer gives them.
        """
        config = json.loads((self._folder / "config.json").read_text(encoding="utf-8"))
        return "token_type_ids" in self._inputs and (config.get("type_vocab_size") or 0) > 1

    @cached_property
    def _template(self) -> _Template:
        """Find the special tokens before, between and after the texts of a pair, and all token types, by a probe."""
        with self._lock:
            probe = self._tokenizer.encode("a", "a", add_special_tokens=True)
        texts = probe.sequence_ids
        first, second = texts.index(0), texts.index(1)
        cuts = slice(0, first), slice(first + texts.count(0), second), slice(second + texts.count(1), None)
        return _Template(
            tuple(probe.ids[cut] for cut in cuts),
            tuple(probe.type_ids[cut] for cut in cuts),
            (probe.type_ids[first], probe.type_ids[second]),
        )

    def id_of(self, piece: str) -> int | None:
        """Look a piece up in the vocabulary; None if it is not there."""
        found: int | None = self._tokenizer.token_to_id(piece)
        return found

    def encode(self, texts: Sequence[str]) -> list[Encoding | InputError]:
        """Encode each text whole; one that the tokenizer cannot read gets an `InputError` in its place."""
        with self._lock:
            try:
                return list(self._encode_batch(texts))
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:  # one text broke the call, and a panic in Rust is no Exception: find out which
                return [self._encode_alone(text) for text in texts]

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], *, max_length: int, stride: int
    ) -> list[Encoding | InputError]:
        """Encode each pair whole; one with a text that the tokenizer cannot read gets an `InputError` in its place.

        A pair that is longer than a window is read in windows over its longer text, each with the whole shorter one;
        where that would take more than half of the room, over both, every window of the one with every window of the
        other.

        Args:
            pairs: The pairs.
            max_length: Pieces in one window, special tokens and both texts included.
            stride: Pieces shared by neighbouring windows of a text.
        """
        firsts, seconds = (self.encode([pair[text] for pair in pairs]) for text in (0, 1))
        encodings: list[Encoding | InputError] = []
        for first, second in zip(firsts, seconds, strict=True):
            if isinstance(first, Encoding) and isinstance(second, Encoding):
                encodings.append(self._template.filled(first, second, max_length=max_length, stride=stride))
            else:
                encodings.append(first if isinstance(first, InputError) else second)
        return encodings

    def encode_questions(self, pairs: Sequence[tuple[str, str]], *, max_length: int) -> list[Encoding | InputError]:
        """Encode each pair of a question and a context; one that cannot be read gets an `InputError` in its place.

        The question is whole in every window, the context is what is read in windows, however long either is.

        Args:
            pairs: The pairs.
            max_length: Pieces in one window, special tokens and question included.
        """
        questions, contexts = (self.encode([pair[text] for pair in pairs]) for text in (0, 1))
        encodings: list[Encoding | InputError] = []
        for question, context in zip(questions, contexts, strict=True):
            if isinstance(question, Encoding) and isinstance(context, Encoding):
                encodings.append(self._template.asked(question, context, max_length=max_length))
            else:
                encodings.append(question if isinstance(question, InputError) else context)
        return encodings

    def _encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        if not self._offsets:
            encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            return [self._present(Encoding(e.ids)) for e in encoded]
        encoded = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return [self._present(Encoding(e.ids, e.offsets, e.word_ids)) for e in encoded]

    def _present(self, encoding: Encoding) -> Encoding:
        """Give a text without pieces one of padding, if nothing else would stand in its window."""
        if encoding.ids or len(self.frame):
            return encoding
        return Encoding([self.pad_id], *([(0, 0)], [None]) if self._offsets else ())

    def _encode_alone(self, text: str) -> Encoding | InputError:
        try:
            return self._encode_batch([text])[0]
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            refusal = InputError(
                "Expected a text of valid Unicode, found one that the tokenizer cannot read "
                f"({type(error).__name__}; lone surrogates are the usual cause). Clean it before the call."
            )
            quotes = isinstance(error, UnicodeError) or not isinstance(error, Exception)  # the text, or a part of it
            refusal.__cause__ = None if quotes else error
            return refusal


def padding_id(folder: Path, tokenizer: Any) -> int:
    """Say what pads the windows of a folder's model.

    A decoder judges a text by its last piece that is not the padding of its configuration, so that this comes first,
    then the tokenizer's. Without either, as for GPT-2 and Llama, it is what ends a text.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for found in (config.get("pad_token_id"), tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(found, int) and 0 <= found < len(tokenizer):
            return found
    return 0


@dataclass(frozen=True)
class _Template:
    """How a tokenizer puts the texts of a pair together.

    Attributes:
        ids: Special tokens before, between and after the texts.
        types: Their token types.
        of_texts: Token type of the pieces of the first text, and of the second.
    """

    ids: tuple[Sequence[int], ...]
    types: tuple[Sequence[int], ...]
    of_texts: tuple[int, int]

    def filled(self, first: Encoding, second: Encoding, *, max_length: int, stride: int) -> Encoding:
        """Take the pieces of the longer text, and make frames of all that stands around them."""
        rooms = plan.rooms(len(first.ids), len(second.ids), max_length - sum(map(len, self.ids)))
        longer = int(len(first.ids) <= len(second.ids))
        text, other = ((first, second), (second, first))[longer]
        ranges = plan.windows(len(other.ids), rooms[1 - longer], stride)
        owned = [end - start for start, end in plan.cores(ranges)]
        frames = [
            self._frame(longer, other.ids[start:end], pieces / len(other.ids) if other.ids else 1.0)
            for (start, end), pieces in zip(ranges, owned, strict=True)
        ]
        return replace(text, frames=frames)

    def asked(self, question: Encoding, context: Encoding, *, max_length: int) -> Encoding | InputError:
        """Take the pieces of the context, and make one frame of the question and all else that stands around them."""
        room = max_length - sum(map(len, self.ids))
        if len(question.ids) > room // 2 and len(question.ids) + len(context.ids) > room:
            return InputError(
                f"Expected a question of at most {room // 2} pieces, half of the room of a window, found one of "
                f"{len(question.ids)}. Ask a shorter one, or train with a greater max_length."
            )
        return replace(context, frames=[self._frame(1, question.ids, 1.0)])

    def _frame(self, text: int, other: Sequence[int], share: float) -> Frame:
        """Frame windows of the first text (0) or of the second (1) with pieces of the other."""
        opening, between, closing = self.ids
        of_opening, of_between, of_closing = self.types
        of_other = [self.of_texts[1 - text]] * len(other)
        if text == 0:
            after = [*of_between, *of_other, *of_closing]
            return Frame(opening, [*between, *other, *closing], (of_opening, self.of_texts[0], after), share)
        before = [*of_opening, *of_other, *of_between]
        return Frame([*opening, *other, *between], closing, (before, self.of_texts[1], of_closing), share)
