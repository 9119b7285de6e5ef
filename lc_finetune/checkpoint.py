"""The checkpoint folder: written whole or not at all, read only after every file in it has been checked.

A checkpoint is a plain Hugging Face folder (`config.json`, `model.safetensors`, tokenizer files) plus a manifest,
`lc_finetune.json`, which records what `config.json` does not: the task, the lengths used in training, the metrics,
the origin of base model and data, and the SHA-256 of each file that is loaded. A folder without the manifest loads
too, if its weights are safetensors.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lc_finetune.confidence import Calibration
from lc_finetune.errors import CheckpointError, ConfigError
from lc_finetune.labels import LabelSet
from lc_finetune.remote import MARKER, cached, is_url, safe
from lc_finetune.schemas import Probability

logger = logging.getLogger(__name__)

MANIFEST = "lc_finetune.json"
FORMAT_VERSION = 1
"""The manifest's version. A folder of a newer one is refused; this release reads version 1."""

Task = Literal[
    "text-classification",
    "text-pair-classification",
    "multi-label-classification",
    "ordinal-classification",
    "regression",
    "token-classification",
    "relation-classification",
    "question-answering",
    "intent-and-entities",
]
ORDINAL: Task = "ordinal-classification"
"""The task whose labels have an order, which is that of the columns: the lowest first."""
QUESTIONS: Task = "question-answering"
"""The task that is given a question and a context, and answers with a part of the context."""
PAIRS: tuple[Task, ...] = ("text-pair-classification", QUESTIONS)
"""Tasks that are given two texts at a time."""
EXPLAINED: tuple[Task, ...] = ("text-classification", "multi-label-classification")
"""Tasks whose answers can be explained: labels of one text."""
RELATIONS: Task = "relation-classification"
"""The task that is given a text with two marked mentions; see `lc_finetune.markers`."""
JOINT: Task = "intent-and-entities"
"""The task with two heads on one encoder: a label for the text, and its entities."""
TAGGED: tuple[Task, ...] = ("token-classification", JOINT)
"""Tasks whose results have entities."""
RUNNABLES: dict[Task, str] = {
    "text-classification": "TextClassifier",
    "text-pair-classification": "PairClassifier",
    "multi-label-classification": "MultiLabelClassifier",
    "ordinal-classification": "OrdinalClassifier",
    "regression": "TextRegressor",
    "token-classification": "EntityTagger",
    "relation-classification": "RelationClassifier",
    "question-answering": "QuestionAnswerer",
    "intent-and-entities": "IntentAndEntityTagger",
}
"""The public class that serves each task."""
PRETRAINING: Literal["mlm"] = "mlm"
"""Masked-language-model pre-training, whose result is a base model: it has no labels, and no class serves it."""
SEQ2SEQ: Literal["seq2seq"] = "seq2seq"
"""Text for a text, such as its summary or translation: `TextGenerator` serves it, and there are no labels."""
EDGES = ("start", "end")
"""What a question answerer gives each piece two logits for: that the answer begins, or ends, with it."""
MULTI_LABEL = "multi_label_classification"
"""The `problem_type` by which a `config.json` says that labels are independent."""
TagUnit = Literal["piece", "first", "word"]
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack")
# What `from_pretrained` reads from the top of a folder; hashed when present.
LOADED = (
    "config.json",
    WEIGHTS,
    WEIGHTS_INDEX,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "target.spm",
    "target_vocab.json",
    "generation_config.json",
    "chat_template.jinja",
)
EXPORTS = ("onnx", "onnx-fp16", "onnx-int8", "openvino", "openvino-fp16")
"""Subfolders that hold the model for another runtime, each with a manifest of its own; read when a backend asks."""
SCOPE = "scope.safetensors"
"""Statistics of the features, by which a text out of scope is told; see `lc_finetune.inference.scope`."""
REFERENCE = "reference.json"
"""What held-out texts looked like to the model, in numbers; never loaded to serve. See `lc_finetune.inspection`."""
PREFIX = "adapter/adapter_model.safetensors"
"""What a model that was tuned by a prefix attends to before a text: no part of its weights, but loaded with them."""
FETCHED = (*LOADED, MANIFEST, "model-*.safetensors", *(f"{export}/*" for export in EXPORTS), SCOPE, REFERENCE, PREFIX)
"""Names and patterns of what is fetched from the Hub or a URL: all that is ever read."""
MANIFESTS = (MANIFEST, *(f"{export}/export.json" for export in EXPORTS))
"""What identifies the content of a folder; the first is the folder's own, the others those of its exports."""
LIBRARIES = ("lc-finetune", "torch", "transformers", "tokenizers", "onnxruntime", "langchain-core")


class LabelThresholds(BaseModel):
    """From which score on a multi-label classifier gives a label, and where that comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_label: dict[str, Probability] = Field(
        description="On the model's own score, the sigmoid of its logit, not calibrated."
    )
    method: str
    split: str = Field(description="Which rows they were chosen on.")
    rows: int = Field(ge=0, description="Their number.")


class AdapterRecord(BaseModel):
    """How a model was tuned that was not tuned whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["lora", "adalora", "ia3", "prefix"] = Field(
        description="A prefix is not merged into the weights: it is loaded from `adapter/` beside them."
    )
    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    tokens: int | None = Field(default=None, ge=1, description="Length of a prefix; it takes as many positions.")
    targets: tuple[str, ...] = Field(
        default=(), description="Layers that got an adapter, as endings of their names; of a prefix all, so that none."
    )
    trained_parameters: int = Field(ge=1, description="Of adapter and head.")
    parameters: int = Field(ge=1, description="Of the model that is served.")

    @property
    def share(self) -> float:
        """Trained parameters, as a share of the model's."""
        return self.trained_parameters / self.parameters

    def __str__(self) -> str:
        learns = f"{self.trained_parameters:,} of {self.parameters:,} parameters ({self.share:.1%})"
        return f"{learns}: adapter {self.kind} and head"


class Ancestor(BaseModel):
    """A training that the weights of the base model come from."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str = Field(description="Of its folder.")
    task: Literal["mlm", "seq2seq", Task]
    base_model: str | None = Field(default=None, description="What it started from.")
    base_revision: str | None = None
    data_fingerprint: str | None = None


class ContinuedRecord(BaseModel):
    """How a model went on from the checkpoint that is last in its lineage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    new_labels: tuple[str, ...] = Field(description="Labels that the earlier checkpoint did not have.")
    replayed: int = Field(ge=0, description="Training rows that came from its `private/`.")
    distillation: float = Field(ge=0, description="Weight of staying near its answers; 0 for none.")


class SearchRecord(BaseModel):
    """How the settings of a training were found; the trials are in `search.jsonl`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str = Field(description="Of the validation rows, by which trials were judged: their best epoch.")
    space: dict[str, dict[str, Any]] = Field(description="Field → its range, or its choices.")
    sampler: str = Field(description="What chose the settings of a trial.")
    pruner: str = Field(description="What cut trials short.")
    seed: int
    finished: int = Field(ge=1, description="Trials that ran to their end.")
    pruned: int = Field(ge=0, description="Trials that were cut short.")
    failed: int = Field(ge=0, description="Trials that failed, or were interrupted.")
    best_trial: int = Field(ge=1)
    best_value: float = Field(allow_inf_nan=False, description="Its validation metric.")
    best: dict[str, bool | int | float | str | None] = Field(
        description="Its settings, with which the model is trained."
    )
    importances: dict[str, float] = Field(
        description="Field → share of the differences between finished trials that it explains (functional ANOVA, "
        "Hutter et al. 2014); empty where they do not differ."
    )

    def __str__(self) -> str:
        best = ", ".join(f"{k} {f'{v:.3g}' if isinstance(v, float) else v}" for k, v in self.best.items())
        return (
            f"{best}: trial {self.best_trial} of {self.finished} finished, {self.pruned} pruned and {self.failed} "
            f"failed, with a validation {self.metric} of {self.best_value:.4f}"
        )


class NumberInterval(BaseModel):
    """How far from a regressor's answer the right number lies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    half_width: float = Field(ge=0, allow_inf_nan=False, description="On either side of the answer, in its units.")
    coverage: Probability = Field(description="Share of texts like the held-out rows that it holds for, at least.")
    split: str = Field(description="Which rows it was measured on.")
    rows: int = Field(ge=1, description="Their number.")


class NumberScale(BaseModel):
    """What a regressor's logit means: `centre + unit * logit`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    centre: float = Field(allow_inf_nan=False, description="Mean of the training rows.")
    unit: float = Field(gt=0, allow_inf_nan=False, description="Their standard deviation.")
    interval: NumberInterval | None = Field(default=None, description="None if there were too few held-out rows.")


class AnswerRule(BaseModel):
    """How a span is chosen from a question answerer's scores, and when there is no answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    longest: int = Field(ge=1, description="Pieces of an answer, at most.")
    null_margin: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="There is no answer if the log-probability of that exceeds the best span's by more; None: there "
        "always is one.",
    )
    split: str = Field(description="Which rows the margin was chosen on.")
    rows: int = Field(ge=0, description="Their number.")


class Manifest(BaseModel):
    """The content of `lc_finetune.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format_version: int = FORMAT_VERSION
    task: Literal["mlm", "seq2seq", Task]
    max_length: int = Field(gt=2, description="Pieces in one window, special tokens included, as in training.")
    stride: int = Field(ge=0, description="Pieces shared by neighbouring windows of a longer text.")
    tag_unit: TagUnit | None = Field(
        default=None, description="Pieces that carry tags, see `tag_units`; None if nothing is tagged."
    )
    thresholds: LabelThresholds | None = Field(default=None, description="Of a multi-label classifier.")
    scale: NumberScale | None = Field(default=None, description="Of a regressor.")
    answering: AnswerRule | None = Field(default=None, description="Of a question answerer.")
    metrics: dict[str, Any] = Field(default_factory=dict, description="Per split: its size and figures.")
    adapter: AdapterRecord | None = Field(default=None, description="None if the whole model was tuned.")
    base_model: str | None = None
    base_revision: str | None = None
    lineage: tuple[Ancestor, ...] = Field(default=(), description="What the base model went through, earliest first.")
    continued: ContinuedRecord | None = Field(default=None, description="None if it was not trained further.")
    search: SearchRecord | None = Field(default=None, description="None if its settings were not searched for.")
    data_fingerprint: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict, description="SHA-256 of each file that is loaded.")
    calibration: tuple[Calibration, ...] = Field(default=(), description="At most one per backend and precision.")

    @property
    def prefixed(self) -> bool:
        """Whether the weights serve with a prefix, and not without."""
        return self.adapter is not None and self.adapter.kind == "prefix"


@dataclass(frozen=True)
class Checkpoint:
    """A validated folder.

    Attributes:
        path: The folder.
        manifest: None for a plain Hugging Face folder.
        config: The content of `config.json`.
        task: What it is for.
        labels: Columns of the head.
        tags: Columns of the second head, if there is one.
    """

    path: Path
    manifest: Manifest | None
    config: Mapping[str, Any]
    task: Task
    labels: LabelSet
    tags: LabelSet | None = None

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics recorded in training: split → figures."""
        return dict(self.manifest.metrics) if self.manifest else {}

    @property
    def prefix(self) -> Path | None:
        """The file with what the model attends to before a text; None for most."""
        return self.path / PREFIX if self.manifest and self.manifest.prefixed else None

    @property
    def positions(self) -> int | None:
        """Pieces that a window may have at most, its special tokens counted; None if the configuration does not say."""
        positions = self.config.get("max_position_embeddings") or self.config.get("n_positions")  # as GPT-2 calls them
        if not isinstance(positions, int) or positions < 1:
            return None
        taken = self.manifest.adapter.tokens if self.manifest and self.manifest.adapter else None
        return positions - before_first(self.config.get("model_type")) - (taken or 0)

    @cached_property
    def digest(self) -> str:
        """Identify the content, so that a folder trained anew is never taken for the old one."""
        content = hashlib.sha256()
        for name, sha in sorted(self._loaded_digests().items()):
            content.update(f"{name}={sha}\n".encode())
        return content.hexdigest()

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 of the weights: of the file, or of the names and digests of the files when there are several."""
        digests = self._loaded_digests()
        if WEIGHTS in digests and PREFIX not in digests:
            return digests[WEIGHTS]
        parts = sorted(name for name in digests if name.endswith(".safetensors") and name != SCOPE)
        shards = "".join(f"{name}={digests[name]}\n" for name in parts)
        return hashlib.sha256(shards.encode()).hexdigest()

    def _loaded_digests(self) -> Mapping[str, str]:
        if self.manifest and self.manifest.files:
            return {**self.manifest.files, MANIFEST: sha256(self.path / MANIFEST)}
        return {name: sha256(self.path / name) for name in _loaded_files(self.path, None)}

    @classmethod
    def load(cls, source: str | os.PathLike[str], *, revision: str | None = None) -> Checkpoint:
        """Validate a folder, or fetch one from a URL or the Hugging Face Hub and validate that.

        No weight is read into a model; each file named in the manifest is checked against its SHA-256.

        Args:
            source: A folder, a URL that fsspec reads such as `"s3://models/support"`, or a Hub id such as
                `"organisation/model"`.
            revision: Branch, tag or commit, for a Hub id only.

        Raises:
            CheckpointError: If the folder is missing, incomplete, altered, half-written, pickled, or for a task
                that this package does not serve.
            MissingDependencyError: If the package that reads the URL is not installed.
        """
        if is_url(source):
            if revision is not None:
                raise CheckpointError(f"Expected no revision for the URL {safe(source)}, found one. Leave it out.")
            return cached(os.fspath(source), cls.load, wanted=FETCHED, keys=MANIFESTS)
        folder, manifest, config = opened(source, revision)
        _check_tokenizer(folder)
        task = _served_task(manifest, folder) if manifest else _task_of(config, folder)
        if manifest:
            check_files(folder, manifest)
        else:
            _say_plain_once(folder)
        labels = LabelSet(EDGES) if task == QUESTIONS else _labels(config.get("id2label"), folder)
        if manifest:
            _check_per_label(folder, manifest, labels)
        tags = _tags(config.get("tag_names"), folder) if task == JOINT else None
        return cls(folder, manifest, config, task, labels, tags)


def opened(source: str | os.PathLike[str], revision: str | None = None) -> tuple[Path, Manifest | None, dict[str, Any]]:
    """Find a folder, or fetch one from the Hub; returns it with its manifest and the content of its `config.json`.

    Its files are not yet checked against their digests.

    Raises:
        CheckpointError: If there is none, it is half-written, or holds no safetensors.
    """
    folder = _local_folder(source, revision)
    _check_whole(folder)
    manifest = read_manifest(folder)
    config = _read_json(folder / "config.json", folder)
    _check_weights(folder)
    return folder, manifest, config


def before_first(model_type: str | None) -> int:
    """Say how many positions a family leaves free before its first piece: RoBERTa's start after the padding id."""
    return 2 if model_type in ("roberta", "xlm-roberta", "camembert") else 0


def example_of(task: Task) -> str:
    """Write, as Python, what a Runnable of the task is given."""
    if task == RELATIONS:
        return '{"text": "…", "head": (0, 3), "tail": (9, 11)}'
    if task == QUESTIONS:
        return '{"question": "…", "context": "…"}'
    return '{"text": "…", "text_pair": "…"}' if task in PAIRS else '"…"'


def _labels(id2label: Any, folder: Path) -> LabelSet:
    numbered = isinstance(id2label, dict) and all(
        str(key).isdecimal() and isinstance(name, str) for key, name in id2label.items()
    )
    if not numbered or not id2label:
        raise CheckpointError(
            f"{folder}: expected id2label in config.json, a name for each number, found none. "
            "Save the model with its label names."
        )
    try:
        return LabelSet.from_id2label(id2label)
    except ConfigError as error:  # a name twice
        raise CheckpointError(f"{folder}/config.json: {error}") from error


def _tags(names: Any, folder: Path) -> LabelSet:
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(
            f"{folder}: expected tag_names in config.json, the names of the tags, found none. Copy the checkpoint "
            "again."
        )
    try:
        return LabelSet(tuple(names))
    except ConfigError as error:  # a name twice
        raise CheckpointError(f"{folder}/config.json: {error}") from error


def sha256(path: Path) -> str:
    """Hash a file without reading it into memory at once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def library_versions() -> dict[str, str]:
    """Name the versions of the libraries that shape a checkpoint's behaviour."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def loaded_signature(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Take sizes and times of the files that are loaded: equal signatures mean that nothing was written meanwhile."""
    exported = [f"{export}/{path.name}" for export in EXPORTS for path in sorted((folder / export).glob("*"))]
    names = [*_loaded_files(folder, None), MANIFEST, PREFIX, *exported]
    stats = [(name, os.stat(folder / name)) for name in names if (folder / name).is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats)


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write `lc_finetune.json` with the present digests of the files and versions of the libraries."""
    complete = manifest.model_copy(
        update={
            "files": {name: sha256(folder / name) for name in _loaded_files(folder, manifest)},
            "versions": manifest.versions or library_versions(),
        }
    )
    write_text_atomically(folder / MANIFEST, complete.model_dump_json(indent=2) + "\n")
    return complete


def write_text_atomically(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a file through a sibling and a rename, so that no reader ever sees half of it; line ends stay."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def refuse_existing(final: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that holds something.

    Raises:
        ConfigError: If `final` is a file, a mount point, or a folder with content and `overwrite` is False.
    """
    if os.path.lexists(final) and not final.is_dir():
        raise ConfigError(f"Expected an output folder, found the file {final}. Name another one.")
    if os.path.ismount(final):
        raise ConfigError(
            f"Expected an output folder that can be renamed, found the mount point {final}. Name a folder in it."
        )
    if final.is_dir() and any(final.iterdir()) and not overwrite:
        raise ConfigError(
            f"Expected a new or empty output folder, found {final} with content. "
            "Name another one, or pass --overwrite to replace it."
        )


@contextmanager
def staged_folder(final: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a private temporary sibling of `final` that takes its name when the block ends without an error.

    A folder already there is replaced only with `overwrite`, by two renames: the old one stays whole until the new
    one is whole.

    Raises:
        ConfigError: As `refuse_existing`.
    """
    refuse_existing(final, overwrite=overwrite)
    final.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.writing-"))
    try:
        yield staging
        os.chmod(staging, 0o755)
        _replace_folder(staging, final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _replace_folder(staging: Path, final: Path) -> None:
    if not final.exists():
        os.rename(staging, final)
        return
    retired = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.old-"))
    os.rename(final, retired / final.name)
    try:
        os.rename(staging, final)
    except BaseException:
        os.rename(retired / final.name, final)
        raise
    finally:
        shutil.rmtree(retired, ignore_errors=True)


def _local_folder(source: str | os.PathLike[str], revision: str | None) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(f"Expected no revision for the folder {folder}, found {revision!r}. Leave it out.")
        return folder
    name = os.fspath(source)
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise CheckpointError(
            f"Expected a checkpoint folder, found nothing usable at {name}. "
            "Train one with `python -m lc_finetune.train --output-dir …`, or give a Hub id (organisation/model)."
        )
    return _from_hub(name, revision)


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FETCHED)))
    except (OSError, ValueError) as error:  # hub errors descend from OSError, a malformed id is a ValueError
        at = f" at revision {revision!r}" if revision else ""
        raise CheckpointError(
            f"Expected a checkpoint folder or a model on the Hugging Face Hub, could not get {name!r}{at} "
            f"({type(error).__name__}). Check the name, your network and, for a private model, HF_TOKEN."
        ) from error


def _check_whole(folder: Path) -> None:
    if (folder / MARKER).exists():
        raise CheckpointError(
            f"{folder}: expected a whole checkpoint, found {MARKER}: its upload has not ended, or had not "
            "when the folder was copied. Copy it again."
        )


def _read_json(path: Path, folder: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: expected {path.name}, found no such file. Is this a checkpoint?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: expected JSON, found a file that cannot be read as such. Copy the checkpoint again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}.")
    return content


def _loaded_files(folder: Path, manifest: Manifest | None) -> list[str]:
    shards = sorted(path.name for path in folder.glob("model-*-of-*.safetensors"))
    prefix = [PREFIX] if manifest and manifest.prefixed else []
    return [name for name in (*LOADED, SCOPE, *shards, *prefix) if (folder / name).is_file()]


def _check_weights(folder: Path) -> None:
    if (folder / WEIGHTS).is_file() or (folder / WEIGHTS_INDEX).is_file():
        return
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        raise CheckpointError(
            f"{folder}: expected {WEIGHTS}, found pickled weights ({', '.join(pickled)}), which are never loaded "
            "because unpickling can run code. Save the model again with `save_pretrained` (safetensors)."
        )
    raise CheckpointError(f"{folder}: expected {WEIGHTS}, found no such file. Copy the checkpoint again.")


def _check_tokenizer(folder: Path) -> None:
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{folder}: expected tokenizer.json, found no such file. Load the tokenizer with AutoTokenizer and "
            "save it into the folder with `save_pretrained`."
        )


def _served_task(manifest: Manifest, folder: Path) -> Task:
    if manifest.task == PRETRAINING:
        raise CheckpointError(
            f"{folder}: expected a checkpoint that answers, found a base model, pre-trained on unlabelled "
            f"text. Fine-tune it: python -m lc_finetune.train --base-model {folder} --train-file …"
        )
    if manifest.task == SEQ2SEQ:
        raise CheckpointError(
            f"{folder}: expected a checkpoint of an encoder that answers, found one that generates text. Load it with "
            "TextGenerator."
        )
    return manifest.task


def read_manifest(folder: Path) -> Manifest | None:
    """Read `lc_finetune.json`; None if the folder has none.

    Raises:
        CheckpointError: If it was altered, or is of a newer format.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    content = _read_json(path, folder)
    found = content.get("format_version")
    if not isinstance(found, int) or not 1 <= found <= FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: expected a format version from 1 to {FORMAT_VERSION}, found {found!r}. "
            "Upgrade lc-finetune to read newer checkpoints."
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{path}: field {field!r}: {first['msg']}. The manifest was altered.") from error


def check_files(folder: Path, manifest: Manifest) -> None:
    """Refuse files that are missing, altered or not recorded.

    Raises:
        CheckpointError: Names the first.
    """
    for name, expected in manifest.files.items():
        if Path(name).name != name and not (manifest.prefixed and name == PREFIX):
            raise CheckpointError(f"{folder / MANIFEST}: expected plain file names, found the path {name!r}.")
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{folder}: expected {name}, found no such file. Copy the checkpoint again.")
        if sha256(path) != expected:
            raise CheckpointError(
                f"{path}: expected the SHA-256 recorded in {MANIFEST}, found another: the file was truncated or "
                "altered. Copy the checkpoint again, or train it anew."
            )
    if manifest.prefixed and PREFIX not in manifest.files:
        raise CheckpointError(
            f"{folder}: expected {PREFIX}, the prefix without which the weights do not serve, found none named in "
            f"{MANIFEST}. Copy the checkpoint again."
        )
    unlisted = [name for name in _loaded_files(folder, manifest) if name not in manifest.files]
    if unlisted:
        raise CheckpointError(
            f"{folder}: expected only the files named in {MANIFEST}, found {', '.join(unlisted)} as well, "
            "which would be loaded unchecked. Remove them."
        )


def _check_per_label(folder: Path, manifest: Manifest, labels: LabelSet) -> None:
    wanted = set(labels.names) if manifest.task == "multi-label-classification" else set()
    if manifest.thresholds is not None and set(manifest.thresholds.per_label) != wanted:
        raise CheckpointError(
            f"{folder / MANIFEST}: expected a threshold for each of {len(wanted)} labels, found "
            f"{len(manifest.thresholds.per_label)}, or for others. The manifest was altered."
        )
    names = labels.names if manifest.task == "multi-label-classification" else ()
    if any(tuple(one.map.per_label) not in ((), names) for one in manifest.calibration):
        raise CheckpointError(
            f"{folder / MANIFEST}: expected calibrations with a map for each of {len(names)} labels in their order, "
            "found another. The manifest was altered."
        )


def _task_of(config: Mapping[str, Any], folder: Path) -> Task:
    architectures = config.get("architectures") or []
    if any(str(name).endswith("ForTokenClassification") for name in architectures):
        return "token-classification"
    if any(str(name).endswith("ForQuestionAnswering") for name in architectures):
        return QUESTIONS
    if any(str(name).endswith("ForSequenceClassification") for name in architectures):
        if config.get("problem_type") == MULTI_LABEL:
            return "multi-label-classification"
        if "tag_names" in config:
            return JOINT
        return "regression" if len(config.get("id2label") or {}) == 1 else "text-classification"
    hint = " Load it with TextGenerator if it generates text." if config.get("is_encoder_decoder") else ""
    raise CheckpointError(
        f"{folder}: expected a model for sequence or token classification, or question answering, found "
        f"{architectures or 'no architecture'}.{hint}"
    )


_plain_said: set[Path] = set()


def _say_plain_once(folder: Path) -> None:
    if folder not in _plain_said:
        _plain_said.add(folder)
        logger.warning("%s has no %s: loaded as a plain Hugging Face checkpoint, uncalibrated.", folder, MANIFEST)
