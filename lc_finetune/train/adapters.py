"""Parameter-efficient tuning: small adapters and the head learn, the encoder stays as it is (through peft).

LoRA: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models". AdaLoRA: Zhang et al. 2023, "Adaptive
Budget Allocation for Parameter-Efficient Fine-Tuning". IA3: Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning
is Better and Cheaper than In-Context Learning". Prefix tuning: see `lc_finetune.inference.prefix`.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers import TrainerCallback

from lc_finetune.checkpoint import PREFIX, AdapterRecord, Task, sha256, write_text_atomically
from lc_finetune.errors import CheckpointError, ConfigError, MissingDependencyError, did_you_mean, shown
from lc_finetune.inference.prefix import PREFIXED, put_prefix
from lc_finetune.labels import LabelSet
from lc_finetune.train import recipe
from lc_finetune.train.base_model import BaseModel as Base
from lc_finetune.train.base_model import resolve_base_model
from lc_finetune.train.config import TrainConfig
from lc_finetune.train.optimizer import head_parameters
from lc_finetune.train.tasks import TrainingTask

ADAPTER_FOLDER = "adapter"
ADAPTER_MANIFEST = "adapter.json"
NAME = "default"
"""What peft calls the only adapter of a model."""
IMPORTANCE, UNCERTAINTY = "importance", "importance_uncertainty"


class AdapterManifest(BaseModel):
    """The content of `adapter/adapter.json`: what the adapter was made from, and for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task
    architecture: str = Field(description="Class of transformers that base model and head make.")
    labels: tuple[str, ...] = Field(description="Of the head, in the order of its outputs.")
    adapter: AdapterRecord
    base_model: str
    base_revision: str | None = None
    base_weights: dict[str, str] = Field(description="SHA-256 of each file of weights of the base model.")
    files: dict[str, str] = Field(description="SHA-256 of each file of the adapter.")


@dataclass(frozen=True)
class Adapted:
    """A model as it is trained, and what the manifest says of its adapter.

    Attributes:
        model: A `peft.PeftModel`; or a plain model, if all of it is tuned.
        record: None for a plain model.
    """

    model: Any
    record: AdapterRecord | None


def adapt(model: Any, config: TrainConfig, base: Base) -> Adapted:
    """Wrap a model with a new head so that only an adapter and the head learn.

    Args:
        model: Base model and head; changed in place.
        config: With an `adapter`.
        base: Where the model comes from.

    Raises:
        ConfigError: If no layer of the model goes by the names that are asked for, or it takes no prefix.
        MissingDependencyError: If peft is not installed.
    """
    peft = _peft()
    kind = config.adapter
    assert kind is not None, "asked for"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    described: dict[str, Any]
    if kind == "prefix":
        described = {"tokens": prefix_tokens(config)}
        settings = _prefix_settings(peft, model, base, **described)
    else:
        settings, described = _layer_settings(peft, model, config, base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of settings that peft corrects by itself
        model = peft.get_peft_model(model, settings)
    record = AdapterRecord(
        kind=kind,
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        parameters=parameters,
        **described,
    )
    return Adapted(model, record)


def _layer_settings(peft: Any, model: Any, config: TrainConfig, base: Base) -> tuple[Any, dict[str, Any]]:
    """Decide on an adapter beside layers; returns peft's settings, and what the record says of it."""
    kind, targets = config.adapter, _targets(model, config)
    # No task_type: with one, peft wraps a whole head, which IA3 then cannot merge, around what is named here.
    values: dict[str, Any] = {
        "target_modules": targets.names,
        "modules_to_save": head_modules(model),
        "fan_in_fan_out": targets.transposed,
        "base_model_name_or_path": str(base.folder),  # peft looks for its config.json, and on a hub if there is none
    }
    described: dict[str, Any] = {
        "targets": (targets.names,) if isinstance(targets.names, str) else tuple(targets.names)
    }
    if kind == "ia3":
        return peft.IA3Config(feedforward_modules=targets.feed_forward, **values), described
    rank, alpha, dropout = low_rank_settings(config)
    described |= {"rank": rank, "alpha": alpha, "dropout": dropout}
    low_rank = {"lora_alpha": alpha, "lora_dropout": dropout}
    if kind == "lora":
        return peft.LoraConfig(r=rank, **low_rank, **values), described
    settings = peft.AdaLoraConfig(
        target_r=rank, init_r=-(-rank * 3 // 2), total_step=recipe.UNKNOWN_STEPS, **low_rank, **values
    )
    return settings, described


def low_rank_settings(config: TrainConfig) -> tuple[int, float, float]:
    """Say what rank, alpha and dropout LoRA or AdaLoRA will have."""
    rank = config.adapter_rank or recipe.ADAPTER_RANK
    dropout = recipe.ADAPTER_DROPOUT if config.adapter_dropout is None else config.adapter_dropout
    return rank, config.adapter_alpha or 2.0 * rank, dropout


def prefix_tokens(config: TrainConfig) -> int:
    """Say how many positions a prefix takes; 0 without one."""
    return (config.adapter_tokens or recipe.ADAPTER_TOKENS) if config.adapter == "prefix" else 0


def _prefix_settings(peft: Any, model: Any, base: Base, *, tokens: int) -> Any:
    family = model.config.model_type
    if family not in PREFIXED:
        raise ConfigError(
            f"adapter: expected a base model whose layers take a prefix ({', '.join(PREFIXED)}), found {family}, whose "
            "layers take none from outside or are not tested with one. Use --adapter lora, or another base model."
        )
    head = type(model).__name__.partition("For")[2]
    kinds = {"TokenClassification": "TOKEN_CLS", "QuestionAnswering": "QUESTION_ANS"}
    poolers = [name for name in head_modules(model) if name.startswith(f"{model.base_model_prefix}.")]
    return peft.PrefixTuningConfig(
        task_type=kinds.get(head, "SEQ_CLS"),  # by which peft knows the head, and that it learns
        num_virtual_tokens=tokens,
        modules_to_save=poolers,
        init_weights="zero",
        base_model_name_or_path=str(base.folder),
    )


def head_modules(model: Any) -> list[str]:
    """Name the innermost modules with parameters of the head; those of a pooler are among them."""
    head = head_parameters(model)
    return [
        name
        for name, module in model.named_modules()
        if any(id(parameter) in head for parameter in module.parameters(recurse=False))
    ]


@dataclass(frozen=True)
class _Targets:
    """The layers that get an adapter, as names or endings of names.

    Attributes:
        names: Of the layers; or peft's word for all linear ones.
        feed_forward: Those of them whose input IA3 rescales, not their output.
        transposed: Whether their weights are stored as GPT-2's are, `(inputs, outputs)`.
    """

    names: list[str] | str
    feed_forward: list[str]
    transposed: bool


def _targets(model: Any, config: TrainConfig) -> _Targets:
    from transformers.pytorch_utils import Conv1D

    linear = _linear_layers(model)
    transposed = any(isinstance(layer, Conv1D) for layer in linear.values())
    asked = config.adapter_targets
    if asked == "all-linear":
        feed_forward = [] if config.adapter != "ia3" else _feed_forward(linear)
        return _Targets(asked, feed_forward, transposed)
    if asked != "auto":
        names = [name.strip() for name in asked.split(",") if name.strip()]
        unknown = [name for name in names if not any(_ends(layer, name) for layer in linear)]
        if unknown or not names:
            known = sorted({layer.rpartition(".")[2] for layer in linear})
            raise ConfigError(
                f"adapter_targets: expected auto, all-linear, or names of linear layers of the base model "
                f"({shown(known, most=12)}), found {shown(unknown)!r}{did_you_mean(shown(unknown), known)}."
            )
        return _Targets(names, [name for name in _feed_forward(linear) if name in names], transposed)
    return _by_architecture(model, str(config.adapter), linear, transposed)


def _by_architecture(model: Any, kind: str, linear: dict[str, Any], transposed: bool) -> _Targets:
    """Take peft's choice for the architecture; where it has none, the linear layers of the attention."""
    from peft.utils import constants

    known: dict[str, dict[str, list[str]]] = {
        "lora": constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
        "adalora": constants.TRANSFORMERS_MODELS_TO_ADALORA_TARGET_MODULES_MAPPING,
        "ia3": constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
    }
    feed_forwards = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
    architecture = model.config.model_type
    if architecture in known[kind]:
        chosen = known[kind][architecture]
        return _Targets(chosen, feed_forwards.get(architecture, []) if kind == "ia3" else [], transposed)
    attention = [name for name in linear if re.search(r"attn|attention", name)]
    if kind != "ia3":
        return _Targets(_endings(attention or list(linear)), [], transposed)
    feed_forward = _feed_forward(linear)
    return _Targets([*_endings(attention), *feed_forward], feed_forward, transposed)


def _linear_layers(model: Any) -> dict[str, Any]:
    """Name the linear layers of the encoder's blocks, which are numbered; the head's are not among them."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = head_parameters(model)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and id(module.weight) not in head and _NUMBERED.search(name)
    }


_NUMBERED = re.compile(r"\.\d+\.")


def _endings(names: list[str]) -> list[str]:
    """Cut names after the number of their block: `transformer.layer.0.attention.q_lin` → `attention.q_lin`."""
    return list(dict.fromkeys(_NUMBERED.split(name)[-1] for name in names))


def _ends(layer: str, name: str) -> bool:
    return layer == name or layer.endswith(f".{name}")


def _feed_forward(linear: dict[str, Any]) -> list[str]:
    """Name the layer at the end of each block's feed-forward part: the last that is not of the attention."""
    outside = _endings([name for name in linear if not re.search(r"attn|attention", name)])
    return outside[-1:]


class RankBudget(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Takes rank away where it matters least while AdaLoRA trains.

    The first tenth of the steps leaves the ranks alone, the last three tenths train with those that are left. What
    peft's allocator knows of each parameter is kept in the optimizer's state, which the Trainer saves: a resumed run
    allocates as the whole one does. Ranks that are taken away are zeros, so that the shapes stay for the optimizer.
    """

    def __init__(self) -> None:
        self._pattern: dict[str, list[bool]] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the schedule, now that the number of steps is known; take up what an earlier run has learnt."""
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        settings, allocator = model.peft_config[NAME], model.base_model.rankallocator
        settings.total_step = state.max_steps
        settings.tinit, settings.tfinal = state.max_steps // 10, state.max_steps * 3 // 10
        settings.deltaT = max(1, state.max_steps // 100)
        for name, parameter in _low_rank(model):
            known = optimizer.state.get(parameter, {})
            if IMPORTANCE in known:
                allocator.ipt[name] = known[IMPORTANCE]
                allocator.exp_avg_ipt[name], allocator.exp_avg_unc[name] = known[IMPORTANCE], known[UNCERTAINTY]
        if state.global_step >= settings.total_step - settings.tfinal:
            self._pattern = {n: (p != 0).view(-1).tolist() for n, p in _low_rank(model) if "lora_E" in n}

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Allocate after a step, while its gradients are there."""
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        settings, allocator = model.peft_config[NAME], model.base_model.rankallocator
        settings.rank_pattern = self._pattern
        model.base_model.update_and_allocate(state.global_step + 1)
        # With a pattern, peft saves smaller matrices, which neither training nor its optimizer's state could take up.
        self._pattern, settings.rank_pattern = settings.rank_pattern, None
        for name, parameter in _low_rank(model):
            if name in allocator.exp_avg_ipt:
                optimizer.state[parameter][IMPORTANCE] = allocator.exp_avg_ipt[name]
                optimizer.state[parameter][UNCERTAINTY] = allocator.exp_avg_unc[name]


def _low_rank(model: Any) -> list[tuple[str, Any]]:
    return [(name, p) for name, p in model.base_model.model.named_parameters() if "lora_" in name]


def orthogonality(model: Any) -> Any:
    """Measure how far AdaLoRA's matrices are from orthogonal, weighted as peft does; a scalar to add to the loss.

    Zhang et al. 2023, equation 4: `||PᵀP − I||` and `||QQᵀ − I||`, averaged over the matrices. Peft adds it to the
    loss of the model alone.
    """
    import torch

    gaps = []
    for name, parameter in _low_rank(model):
        if "lora_A" in name or "lora_B" in name:
            product = parameter @ parameter.T if "lora_A" in name else parameter.T @ parameter
            gaps.append(torch.linalg.matrix_norm(product - torch.eye(len(product), device=product.device)))
    return model.peft_config[NAME].orth_reg_weight * torch.stack(gaps).mean()


def write_adapter(folder: Path, adapted: Adapted, task: TrainingTask, base: Base) -> None:
    """Leave the adapter, with the head, in `folder`: what peft loads onto the base model, and a manifest."""
    assert adapted.record is not None
    settings = adapted.model.peft_config[NAME]
    settings.base_model_name_or_path, settings.revision = base.name, base.revision
    adapted.model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # a card to be filled in
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for path in files:
        path.chmod(0o644)
    manifest = AdapterManifest(
        task=task.name,
        architecture=type(adapted.model.get_base_model()).__name__,
        labels=task.labels.names,
        adapter=adapted.record,
        base_model=base.name,
        base_revision=base.revision,
        base_weights=_weights(base.folder),
        files={path.name: sha256(path) for path in files},
    )
    write_text_atomically(folder / ADAPTER_MANIFEST, manifest.model_dump_json(indent=2) + "\n")


def merged(adapted: Adapted) -> Any:
    """Add the adapter to the weights of the encoder, if there is one; returns a plain model, on CPU in fp32.

    Of a prefix, which cannot be added to them, the head alone is taken over.
    """
    model = adapted.model.to("cpu").float()
    if adapted.record is None:
        return model
    return _without_prefix(model) if adapted.record.kind == "prefix" else model.merge_and_unload()


def _without_prefix(model: Any) -> Any:
    from peft.utils import ModulesToSaveWrapper

    plain = model.get_base_model()
    for name, module in list(plain.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            plain.set_submodule(name, module.modules_to_save[NAME])
    return plain


def load_adapted(folder: str | Path, *, base_model: str | None = None) -> Any:
    """Put an adapter that training left onto its base model, and merge the two, or let the model attend to a prefix.

    Args:
        folder: The subfolder `adapter/` of a checkpoint, or a copy of it.
        base_model: `"minilm"`, a folder or a Hub id; by default the one that the manifest names.

    Returns:
        The model of the checkpoint, in evaluation mode.

    Raises:
        CheckpointError: If the folder holds no whole adapter, or the base model is missing or another.
        MissingDependencyError: If peft is not installed.
    """
    from lc_finetune.inference.backends.torch import quiet

    peft = _peft()
    folder = Path(folder)
    manifest = _read_manifest(folder)
    try:
        base = resolve_base_model(base_model or manifest.base_model, None if base_model else manifest.base_revision)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder}: expected the base model {manifest.base_model!r} that the adapter was made for, could not get "
            "it. Name a folder that holds it."
        ) from error
    if _weights(base.folder) != manifest.base_weights:
        raise CheckpointError(
            f"{folder}: expected the weights of the base model {manifest.base_model!r} that the adapter was made for, "
            f"found others in {base.folder}. Give that model, at its revision."
        )
    labels = LabelSet(manifest.labels)
    with quiet():
        model = _architecture(manifest.architecture, folder).from_pretrained(
            base.folder, use_safetensors=True, trust_remote_code=False, dtype="float32", ignore_mismatched_sizes=True,
            id2label=labels.id2label, label2id=labels.label2id,
        )  # fmt: skip
        adapted = merged(Adapted(peft.PeftModel.from_pretrained(model, folder), manifest.adapter))
    if manifest.adapter.kind == "prefix":
        put_prefix(adapted, folder / Path(PREFIX).name)
    return adapted.eval()


def _architecture(name: str, folder: Path) -> Any:
    import transformers

    found = getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise CheckpointError(
            f"{folder / ADAPTER_MANIFEST}: expected an architecture that transformers has, found {shown([name])!r}. "
            "Upgrade transformers."
        )
    return found


def _read_manifest(folder: Path) -> AdapterManifest:
    try:
        manifest = AdapterManifest.model_validate_json((folder / ADAPTER_MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(
            f"{folder}: expected an adapter with its {ADAPTER_MANIFEST}, found none that can be read. Give the "
            f"subfolder {ADAPTER_FOLDER}/ of a checkpoint that was trained with --adapter."
        ) from error
    for name, digest in manifest.files.items():
        if Path(name).name != name or not (folder / name).is_file() or sha256(folder / name) != digest:
            raise CheckpointError(
                f"{folder}: expected the {name} named in {ADAPTER_MANIFEST}, found none or another. Copy it again."
            )
    return manifest


def _weights(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(folder.glob("*.safetensors"))}


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingDependencyError(
            "Expected the package peft for adapters, found none. Run `pip install 'lc-finetune[peft]'`."
        ) from error
    return peft
