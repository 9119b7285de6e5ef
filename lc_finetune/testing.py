"""Public doubles for tests of code that uses this package: a tiny checkpoint, and Runnables that know the truth.

Examples:
    >>> checkpoint = tiny_checkpoint(tmp_path / "tiny", labels=("card", "cash"))  # doctest: +SKIP
    >>> TextClassifier.from_checkpoint(checkpoint.path).invoke("Where is my card?")  # doctest: +SKIP
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from langchain_core.runnables import RunnableConfig, RunnableSerializable
from pydantic import ConfigDict, Field

from lc_finetune.checkpoint import (
    EDGES,
    JOINT,
    MULTI_LABEL,
    ORDINAL,
    QUESTIONS,
    RELATIONS,
    TAGGED,
    Checkpoint,
    LabelThresholds,
    Manifest,
    TagUnit,
    Task,
    staged_folder,
    write_manifest,
)
from lc_finetune.composition import ResultRunnable
from lc_finetune.inference.marked import add_markers
from lc_finetune.labels import LabelSet
from lc_finetune.runnables.inputs import text_of
from lc_finetune.schemas import Classification, Entity, Scores, Tagging

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

TokenizerKind = Literal["wordpiece", "bytelevel", "metaspace"]
"""BERT's (uncased, `##`), RoBERTa's (byte-level BPE, `Ġ`), and XLM-RoBERTa's (unigram, `▁`)."""

EncoderName = Literal["bert", "roberta", "xlm-roberta", "distilbert", "electra", "deberta", "deberta-v2", "modernbert"]
DecoderName = Literal["gpt2", "llama", "qwen2"]
Architecture = EncoderName | DecoderName
"""Families of models, as transformers calls them."""
ENCODERS: tuple[EncoderName, ...] = get_args(EncoderName)
DECODERS: tuple[DecoderName, ...] = get_args(DecoderName)
"""Families whose pieces see only what is before them; a text is judged by the last one."""
TOKENIZER_OF: dict[Architecture, TokenizerKind] = {
    "bert": "wordpiece",
    "roberta": "bytelevel",
    "xlm-roberta": "metaspace",
    "distilbert": "wordpiece",
    "electra": "wordpiece",
    "deberta": "bytelevel",
    "deberta-v2": "metaspace",
    "modernbert": "bytelevel",
    "gpt2": "bytelevel",
    "llama": "metaspace",
    "qwen2": "bytelevel",
}
"""The kind of tokenizer that each comes with; that of a decoder puts nothing behind a text, see `tiny_base_model`."""

TOKENIZER_KINDS: tuple[TokenizerKind, ...] = ("wordpiece", "bytelevel", "metaspace")
LABELS = ("card", "cash", "other")
TYPES = ("LOC", "PER")
RANKS = ("low", "medium", "high")
"""Labels with an order."""
SENTENCES = (
    "Where is my card? It has not arrived, and I ordered it two weeks ago.",
    "The cash machine kept my card and gave me no money.",
    "Angela Merkel flew from Berlin to Paris on Monday with Barack Obama.",
    "Please send order AB-1234 to Jean-Luc Müller, 5 Rue de l'Église, 75001 Paris.",
    "I was charged $12.50 twice on 3 May 2024; refund one of them!",
    "Zoë doesn't like the naïve café's crème brûlée, she said: \"unbelievable\".",
    "The quick brown fox jumps over the lazy dog. Sphinx of black quartz, judge my vow.",
    "Can you help me to reset the password of my account (e-mail: someone@example.com)?",
)


class FakeClassifier(ResultRunnable[Classification], RunnableSerializable[Any, Classification]):
    """A classifier that knows each text's label; any other text has the first label.

    Examples:
        >>> FakeClassifier(labels=("other", "card"), label_of={"Where is it?": "card"}).invoke("Where is it?").label
        'card'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: tuple[str, ...]
    label_of: Mapping[str, str] = Field(default_factory=dict, description="Text → label.")
    score: float = Field(default=1.0, description="Of the label; the others share the rest.")
    accepted: bool | None = None
    in_scope: float | None = None

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Classification:
        """Classify one input, read as `TextClassifier` reads it."""
        return self._call_with_config(self._classify, input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Classification:
        """As `invoke`."""

        async def classify(value: Any) -> Classification:
            return self._classify(value)

        return await self._acall_with_config(classify, input, config, **kwargs)

    def _classify(self, value: Any) -> Classification:
        text = text_of(value)
        label = self.label_of.get(text, self.labels[0])
        rest = (1 - self.score) / max(len(self.labels) - 1, 1)
        return Classification(
            text=text,
            label=label,
            score=self.score,
            scores=Scores.of({name: self.score if name == label else rest for name in self.labels}),
            accepted=self.accepted,
            in_scope=self.in_scope,
        )


class FakeTagger(ResultRunnable[Tagging], RunnableSerializable[Any, Tagging]):
    """A tagger that knows all entities there are: text → type; of those that overlap, the first and longest.

    Examples:
        >>> FakeTagger(type_of={"Oslo": "CITY"}).invoke("Ship it to Oslo.").entities[0].start
        11
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type_of: Mapping[str, str] = Field(description="Entity → type.")

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Tagging:
        """Tag one input, read as `EntityTagger` reads it."""
        return self._call_with_config(self._tag, input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Tagging:
        """As `invoke`."""

        async def tag(value: Any) -> Tagging:
            return self._tag(value)

        return await self._acall_with_config(tag, input, config, **kwargs)

    def _tag(self, value: Any) -> Tagging:
        text = text_of(value)
        known = "|".join(map(re.escape, sorted(self.type_of, key=len, reverse=True)))
        return Tagging(
            text=text,
            entities=tuple(
                Entity(label=self.type_of[found[0]], text=found[0], start=found.start(), end=found.end(), score=1.0)
                for found in re.finditer(known or r"(?!)", text)
            ),
        )


def tiny_checkpoint(
    folder: str | os.PathLike[str],
    *,
    task: Task = "text-classification",
    labels: Sequence[str] | None = None,
    types: Sequence[str] = TYPES,
    tokenizer: TokenizerKind = "wordpiece",
    architecture: Architecture | None = None,
    max_length: int = 32,
    stride: int = 8,
    tag_unit: TagUnit = "piece",
    thresholds: Mapping[str, float] | None = None,
    onnx: bool = False,
    seed: int = 0,
) -> Checkpoint:
    """Write a checkpoint with a random two-layer encoder, 32 wide, and a tokenizer built in memory.

    Its answers mean nothing but depend on the text, and are the same for the same arguments.

    Args:
        folder: Where the checkpoint goes; must not exist or be empty.
        task: What the checkpoint is for.
        labels: Labels of a classifier, in their order if they have one, or entity types of a tagger.
        types: Entity types of a classifier that tags as well.
        tokenizer: The family of tokenizer, and of the model around it.
        architecture: Another family of the model, which brings its tokenizer.
        max_length: Pieces in one window, special tokens included; also all that the model has positions for.
        stride: Pieces shared by neighbouring windows.
        tag_unit: Which pieces of a word carry a tag; for a tagger, or a classifier that tags as well.
        thresholds: From which score on each label is given, for a multi-label classifier; 0.5 if omitted.
        onnx: Whether to export the model as training does.
        seed: Of the weights.
    """
    final = Path(folder)
    tagger = task == "token-classification"
    names = _tags(labels or TYPES) if tagger else LabelSet.sorted(labels or LABELS)
    if task == ORDINAL:
        names = LabelSet(tuple(labels or RANKS))
    if task == "regression":
        names = LabelSet(("value",))
    wrapped = tiny_tokenizer(TOKENIZER_OF[architecture] if architecture else tokenizer, max_length=max_length)
    if task == QUESTIONS:
        names = LabelSet(EDGES)
    if task == RELATIONS:
        add_markers(wrapped)
    with staged_folder(final) as staging:
        tags = _tags(types) if task == JOINT else None
        model = tiny_model(
            wrapped, task=task, labels=names, tags=tags, architecture=architecture, max_length=max_length, seed=seed
        )
        model.save_pretrained(staging)
        wrapped.save_pretrained(staging)
        write_manifest(
            staging,
            Manifest(
                task=task,
                max_length=max_length,
                stride=stride,
                tag_unit=tag_unit if task in TAGGED else None,
                thresholds=LabelThresholds(per_label=dict(thresholds), method="given", split="none", rows=0)
                if thresholds
                else None,
            ),
        )
        if onnx:
            from lc_finetune.inference.export import export

            export(staging)
    return Checkpoint.load(final)


def tiny_base_model(
    folder: str | os.PathLike[str],
    *,
    tokenizer: TokenizerKind = "wordpiece",
    architecture: Architecture | None = None,
    max_length: int = 64,
    seed: int = 0,
) -> Path:
    """Write a random model without a head, to fine-tune: what `--base-model` takes. Returns the folder.

    The tokenizer is that of the architecture, if one is given; else the architecture is that of the tokenizer. As those
    that decoders come with, GPT-2's puts no special tokens around a text, Llama's one before it, and neither has a
    padding piece; Qwen's has one, and no other.
    """
    from transformers import AutoModel

    final = Path(folder)
    kind = TOKENIZER_OF[architecture] if architecture else tokenizer
    wrapped = tiny_tokenizer(kind, max_length=max_length)
    if architecture in DECODERS:
        _as_of_decoder(wrapped, architecture)
    model = _random(AutoModel, _config(wrapped, max_length=max_length, architecture=architecture), seed)
    with staged_folder(final) as staging:
        model.save_pretrained(staging)
        wrapped.save_pretrained(staging)
    return final


def tiny_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    task: Task,
    labels: LabelSet,
    tags: LabelSet | None = None,
    architecture: Architecture | None = None,
    max_length: int,
    seed: int = 0,
) -> PreTrainedModel:
    """Build a random model with a head for the task, and a second one if there are tags beside labels."""
    from transformers import (
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
    )

    from lc_finetune.inference.two_heads import TwoHeadedModel

    config = _config(tokenizer, max_length=max_length, architecture=architecture)
    config.id2label, config.label2id = labels.id2label, labels.label2id
    if task == "multi-label-classification":
        config.problem_type = MULTI_LABEL
    if tags is not None:
        config.tag_names = [*tags.names]
    heads: dict[Task, Any] = {
        JOINT: TwoHeadedModel,
        "token-classification": AutoModelForTokenClassification,
        QUESTIONS: AutoModelForQuestionAnswering,
    }
    head = heads.get(task, AutoModelForSequenceClassification)
    return _random(head, config, seed)


def tiny_tokenizer(kind: TokenizerKind, *, max_length: int) -> PreTrainedTokenizerFast:
    """Build a tokenizer of the given family from a few sentences.

    The byte-level one reads any text. The others know the characters of a few alphabets, emoji and ideographs, and
    answer the unknown piece for the rest.
    """
    from transformers import PreTrainedTokenizerFast

    wrap: Any = PreTrainedTokenizerFast
    build = {"wordpiece": _wordpiece, "bytelevel": _bytelevel, "metaspace": _metaspace}[kind]
    bert = kind == "wordpiece"
    wrapped: PreTrainedTokenizerFast = wrap(
        tokenizer_object=build(),
        model_max_length=max_length,
        pad_token="[PAD]" if bert else "<pad>",
        unk_token="[UNK]" if bert else "<unk>",
        cls_token="[CLS]" if bert else "<s>",
        sep_token="[SEP]" if bert else "</s>",
        mask_token="[MASK]" if bert else "<mask>",
        bos_token=None if bert else "<s>",
        eos_token=None if bert else "</s>",
        model_input_names=["input_ids", *(["token_type_ids"] if bert else []), "attention_mask"],
    )
    return wrapped


def _as_of_decoder(tokenizer: PreTrainedTokenizerFast, architecture: DecoderName) -> None:
    """Take away the special tokens that the tokenizer of a decoder has not."""
    from tokenizers import processors

    wrapped: Any = tokenizer
    wrapped.backend_tokenizer.post_processor = (
        processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
        if architecture == "llama"
        else processors.ByteLevel(trim_offsets=False)
    )
    if architecture != "llama":
        wrapped.bos_token = None
    if architecture != "qwen2":
        wrapped.pad_token = None
    wrapped.cls_token = wrapped.sep_token = wrapped.mask_token = None


def _tags(types: Sequence[str]) -> LabelSet:
    return LabelSet(("O", *(f"{prefix}-{name}" for name in sorted(set(types)) for prefix in "BI")))


def _random(loader: Any, config: Any, seed: int) -> PreTrainedModel:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = loader.from_config(config)
    built: PreTrainedModel = model.eval()
    return built


def _config(tokenizer: PreTrainedTokenizerFast, *, max_length: int, architecture: Architecture | None = None) -> Any:
    from transformers import AutoConfig

    subword: Architecture = "xlm-roberta" if "▁" in tokenizer.get_vocab() else "roberta"
    family = architecture or ("bert" if tokenizer.cls_token == "[CLS]" else subword)
    special: dict[str, dict[str, Any]] = {
        # Positions of this family start after the padding id.
        "roberta": {"max_position_embeddings": max_length + 2, "type_vocab_size": 1},
        "xlm-roberta": {"max_position_embeddings": max_length + 2, "type_vocab_size": 1},
        "electra": {"embedding_size": 16},
        "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
                    "type_vocab_size": 0},
        "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "sinusoidal_pos_embds": False},
        "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
                       "type_vocab_size": 0},
        "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": tokenizer.cls_token_id,
                       "sep_token_id": tokenizer.sep_token_id, "initializer_cutoff_factor": 2.0},
    }  # fmt: skip
    values: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": max_length,
        "initializer_range": 0.2,  # wide enough for the answers to depend on the text
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **special.get(family, {}),
    }
    if family in ("llama", "qwen2"):
        values["num_key_value_heads"] = 1
    if family == "distilbert":
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
            del values[name]  # it has names of its own
    return AutoConfig.for_model(family, **values)


def _alphabet() -> list[str]:
    blocks = ((0x21, 0x7F), (0xC0, 0x180), (0x391, 0x3CA), (0x410, 0x450), (0x3041, 0x3097), (0x4E00, 0x4E80))
    return [chr(code) for first, last in blocks for code in range(first, last)] + list("€£¥“”’…–—👍😀🎉🏽👩🇫🇷")


def _wordpiece() -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    normalizer, pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    characters = sorted({normalizer.normalize_str(character).strip() for character in _alphabet()} - {""})
    pieces = _pieces(word for s in SENTENCES for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(s)))
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters)]
    vocabulary += [start for start, _ in pieces] + [f"##{end}" for _, end in pieces if end]
    tokenizer = Tokenizer(models.WordPiece(_numbered(vocabulary), unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def _bytelevel() -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    # As RoBERTa's own: offsets keep the leading space, so that readers of offsets have to deal with it.
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    return tokenizer


def _metaspace() -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pieces = _pieces(word for s in SENTENCES for word in s.split())
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "▁", *_alphabet()]
    vocabulary += [f"▁{start}" for start, _ in pieces] + [end for _, end in pieces if end]
    scored = [(piece, -10.0 if len(piece) == 1 else -5.0) for piece in _numbered(vocabulary)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def _pieces(words: Iterable[str]) -> list[tuple[str, str]]:
    """Cut each word after four letters, so that longer ones are several pieces."""
    return [(word[:4], word[4:]) for word in sorted(set(words))]


def _numbered(pieces: Iterable[str]) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
