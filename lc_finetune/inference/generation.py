"""Texts → texts, by an encoder-decoder such as T5, BART or Marian."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast
from weakref import WeakValueDictionary

from lc_finetune.checkpoint import FETCHED, MANIFESTS, SEQ2SEQ, Manifest, check_files, loaded_signature, opened
from lc_finetune.errors import CheckpointError, ConfigError, InputError, MissingDependencyError, shown
from lc_finetune.inference.backends import resolve_device, says_out_of_memory
from lc_finetune.inference.plan import batches
from lc_finetune.remote import cached, is_url

if TYPE_CHECKING:
    from transformers import GenerationConfig

TOKEN_BUDGET = {"cpu": 2048, "mps": 4096, "cuda": 16384}
"""Pieces of the texts of one batch, padding counted, each as often as there are beams, by kind of device."""
PLAIN_LENGTH = 512
"""Pieces of a text, or of what is generated, where neither configuration nor checkpoint names a limit."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What was written for one text.

    Attributes:
        text: Without special tokens.
        complete: Whether the model ended it; False if the limit on its length did.
    """

    text: str
    complete: bool


NOTHING = Generated("", complete=True)
"""For a blank text."""


class Generator:
    """A model with its tokenizer, on the device that the model is on."""

    _shared: ClassVar[WeakValueDictionary[tuple[Any, ...], Generator]] = WeakValueDictionary()
    _loading: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, model: Any, tokenizer: Any, *, max_length: int) -> None:
        """Take a model whose `generation_config` says how it writes; texts have at most `max_length` pieces."""
        self._model = model
        self._tokenizer = tokenizer
        self.max_length = max_length
        # A tokenizer keeps state while it encodes; and two forwards at a time would fight for the device.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, source: str, *, revision: str | None = None, device: str = "auto") -> Generator:
        """Load a folder, or return the generator that already holds it on this device.

        Args:
            source: A checkpoint of `--task seq2seq`, or any safetensors encoder-decoder: a folder, a URL, or a Hub id.
            revision: Branch, tag or commit, for a Hub id only.
            device: `"auto"` (CUDA, then MPS, then CPU), `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`. fp32, on CUDA bf16.

        Raises:
            CheckpointError: If the folder is incomplete, altered, unsafe, or for another task.
            ConfigError: If the device is not to be had.
            MissingDependencyError: If the tokenizer needs sentencepiece, and it is not installed.
        """
        device = resolve_device(device)
        if is_url(source):
            if revision is not None:
                raise CheckpointError("Expected no revision for a URL, found one. Leave it out.")
            return cached(source, lambda folder: cls._of(folder, None, device), wanted=FETCHED, keys=MANIFESTS)
        return cls._of(source, revision, device)

    @classmethod
    def _of(cls, source: str | os.PathLike[str], revision: str | None, device: str) -> Generator:
        folder, manifest, config = opened(source, revision)
        if manifest is not None and manifest.task != SEQ2SEQ:
            raise CheckpointError(
                f"{folder}: expected a checkpoint that generates text, found one for {manifest.task}. Train one with "
                f"--task {SEQ2SEQ}."
            )
        check_writes(folder, config)
        key = (folder.resolve(), loaded_signature(folder), device)
        with cls._loading:
            shared = cls._shared.get(key)
            if shared is None:
                shared = cls._shared[key] = cls._loaded(folder, manifest, device)
        return shared

    @classmethod
    def _loaded(cls, folder: Path, manifest: Manifest | None, device: str) -> Generator:
        import torch

        if manifest is not None:
            check_files(folder, manifest)
        tokenizer = load_tokenizer(folder)
        model = load_model(folder, torch.bfloat16 if device.startswith("cuda") else torch.float32)
        model.generation_config = deterministic(
            model.generation_config, limit=lengths_of(model.config)[1] or PLAIN_LENGTH
        )
        longest = manifest.max_length if manifest else text_limit(model.config)
        return cls(model.to(device).eval(), tokenizer, max_length=longest)

    def check(self, *, max_new_tokens: int | None) -> None:
        """Refuse to write more pieces than the decoder has positions for.

        Raises:
            ConfigError: If that is asked.
        """
        positions = lengths_of(self._model.config)[1]
        if max_new_tokens is not None and positions is not None and max_new_tokens > positions:
            raise ConfigError(
                f"max_new_tokens: expected at most {positions}, the positions of the model's decoder, found "
                f"{max_new_tokens}."
            )

    def answer(
        self, texts: Sequence[str], *, num_beams: int | None = None, max_new_tokens: int | None = None
    ) -> list[Generated | InputError]:
        """Write something for each text; one that cannot be read gets an `InputError` in its place.

        Nothing is written for a blank text, without asking the model.

        Args:
            texts: Whole; one that is longer than the model's limit is refused, not cut.
            num_beams: In place of the model's own.
            max_new_tokens: Pieces that may be written, likewise.
        """
        asked = [row for row, text in enumerate(texts) if text.strip()]
        with self._lock:
            encoded = encode(self._tokenizer, [texts[row] for row in asked])
            read = {row: self._whole(ids) for row, ids in zip(asked, encoded, strict=True)}
            whole = {row: ids for row, ids in read.items() if not isinstance(ids, InputError)}
            written = self.generate(list(whole.values()), num_beams=num_beams, max_new_tokens=max_new_tokens)
        outcomes = {**read, **dict(zip(whole, written, strict=True))}
        return [cast("Generated | InputError", outcomes.get(row, NOTHING)) for row in range(len(texts))]

    def generate(
        self, rows: Sequence[Sequence[int]], *, num_beams: int | None = None, max_new_tokens: int | None = None
    ) -> list[Generated]:
        """Write something for each row of pieces, in batches of like length by a token budget; not thread-safe."""
        own = self._model.generation_config
        beams, longest = num_beams or own.num_beams, max_new_tokens or own.max_new_tokens
        budget = TOKEN_BUDGET[self._model.device.type] // beams
        written: list[Any] = [None] * len(rows)
        for chosen in batches([len(row) for row in rows], budget):
            found = self._batch([rows[row] for row in chosen], num_beams=beams, max_new_tokens=longest)
            for row, one in zip(chosen, found, strict=True):
                written[row] = one
        return written

    def _batch(self, rows: Sequence[Sequence[int]], **options: int) -> list[Generated]:
        import torch

        inputs = self._tokenizer.pad({"input_ids": rows}, return_tensors="pt", padding_side="right", verbose=False)
        try:
            with torch.inference_mode():
                sequences = self._model.generate(
                    input_ids=inputs["input_ids"].to(self._model.device),
                    attention_mask=inputs["attention_mask"].to(self._model.device),
                    **options,
                )
        except RuntimeError as error:  # torch's own exceptions are such, and not all of them tell this one apart
            if len(rows) == 1 or not says_out_of_memory(error):
                raise
            half = len(rows) // 2
            return [*self._batch(rows[:half], **options), *self._batch(rows[half:], **options)]
        texts = self._tokenizer.batch_decode(sequences, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        ends = torch.as_tensor(self._model.generation_config.eos_token_id, device=sequences.device)
        ended = torch.isin(sequences[:, 1:], ends).any(dim=1)  # the first piece starts the decoder
        return [Generated(text, bool(end)) for text, end in zip(texts, ended, strict=True)]

    def _whole(self, ids: list[int] | InputError) -> list[int] | InputError:
        """Refuse pieces beyond the limit."""
        if isinstance(ids, InputError) or len(ids) <= self.max_length:
            return ids
        return InputError(
            f"Expected a text of at most {self.max_length} pieces, found one of {len(ids)}, and nothing is cut "
            "unasked. Split it and generate for each part, or train with a greater --max-length."
        )


def encode(tokenizer: Any, texts: Sequence[str], *, targets: bool = False) -> list[list[int] | InputError]:
    """Turn texts into pieces, special tokens included and nothing cut; not thread-safe.

    Args:
        tokenizer: An encoder-decoder's.
        texts: One that cannot be read gets an `InputError` in its place.
        targets: Whether they are what is to be written, for which Marian's tokenizer has pieces of its own.
    """
    if not texts:
        return []
    try:
        encoded = tokenizer(**{"text_target" if targets else "text": list(texts)}, verbose=False)
    except Exception as error:  # one text broke the call: find out which
        if len(texts) > 1:
            return [encode(tokenizer, [text], targets=targets)[0] for text in texts]
        refusal = InputError(
            "Expected a text of valid Unicode, found one that the tokenizer cannot read "
            f"({type(error).__name__}; lone surrogates are the usual cause). Clean it before the call."
        )
        refusal.__cause__ = None if isinstance(error, UnicodeError) else error
        return [refusal]
    return list(encoded["input_ids"])


def check_writes(folder: Path, config: Any) -> None:
    """Refuse a model that is no encoder-decoder.

    Args:
        folder: For messages.
        config: The content of its `config.json`.

    Raises:
        CheckpointError: If it is refused.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

    kind = str(config.get("model_type"))
    if kind not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        raise CheckpointError(
            f"{folder}: expected an encoder-decoder that generates text, such as T5, BART or Marian, found "
            f"{shown([kind])}. Take such a model."
        )


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of an encoder-decoder.

    Raises:
        CheckpointError: If it cannot be loaded, or must be told the languages at each call.
        MissingDependencyError: If it needs sentencepiece, and that is not installed.
    """
    from importlib.util import find_spec

    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers check themselves, each in its own way
        if find_spec("sentencepiece") is None and [*folder.glob("*.spm"), *folder.glob("*.model")]:
            raise MissingDependencyError(
                f"{folder}: expected the package sentencepiece, which this tokenizer needs, found none. "
                "Install it: pip install 'lc-finetune[generation]'."
            ) from error
        raise CheckpointError(f"{folder}: the tokenizer cannot be loaded ({type(error).__name__}).") from error
    if hasattr(tokenizer, "src_lang"):
        raise CheckpointError(
            f"{folder}: expected a model of one pair of languages, found one whose tokenizer is told the languages at "
            "each call (such as mBART, M2M100 or NLLB). Take T5, BART, Pegasus or Marian."
        )
    return tokenizer


def load_model(folder: Path, dtype: Any) -> Any:
    """Load the weights of an encoder-decoder, from safetensors only.

    Raises:
        CheckpointError: If they do not fit the configuration.
    """
    from transformers import AutoModelForSeq2SeqLM

    from lc_finetune.inference.backends.torch import quiet

    try:
        with quiet():
            model, info = AutoModelForSeq2SeqLM.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, trust_remote_code=False, dtype=dtype,
                output_loading_info=True,
            )  # fmt: skip
    except Exception as error:  # safetensors, configuration and shape errors share no base class
        raise CheckpointError(f"{folder}: the model cannot be loaded ({type(error).__name__}).") from error
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(
            f"{folder}: expected all weights of the model, found {len(missing)} missing ({missing[0]}, …): they would "
            "be random. Copy the model again, with its own config.json."
        )
    return model


def lengths_of(config: Any) -> tuple[int | None, int | None]:
    """Say how many positions encoder and decoder have; None where positions are relative, as in T5."""
    shared = getattr(config, "max_position_embeddings", None)
    return (
        getattr(config, "max_encoder_position_embeddings", None) or shared,
        getattr(config, "max_decoder_position_embeddings", None) or shared,
    )


def text_limit(config: Any) -> int:
    """Say how long a text may be, unless told: the encoder's positions, or what T5 was trained on, or 512 pieces."""
    limit: int = lengths_of(config)[0] or getattr(config, "n_positions", None) or PLAIN_LENGTH
    return limit


def deterministic(given: GenerationConfig, *, limit: int) -> GenerationConfig:
    """Take sampling out of a model's way to generate, and the default limit on length, which is 20 pieces.

    An end that is forced at the limit is taken out too, so that there is no mistaking a text that was cut off.

    Args:
        given: The model's own.
        limit: Pieces that may be written if it names no number.
    """
    own = deepcopy(given)
    if own.max_new_tokens is None:
        own.max_new_tokens = own.max_length - 1 if own.max_length else limit  # the length counts the decoder's start
    own.max_length = None
    own.num_beams = own.num_beams or 1
    own.do_sample = False
    for sampling in ("temperature", "top_k", "top_p", "min_p", "typical_p", "forced_eos_token_id"):
        setattr(own, sampling, None)
    return own
