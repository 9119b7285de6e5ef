"""What a training run is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from lc_finetune.checkpoint import PRETRAINING, SEQ2SEQ, Task
from lc_finetune.errors import ConfigError, DataError, did_you_mean, shown
from lc_finetune.remote import is_url
from lc_finetune.train.fields import check_together
from lc_finetune.train.search_space import SearchSpace, check_space, read_space, space_of

OWNED = {
    "output_dir": "output_dir",
    "num_train_epochs": "epochs",
    "learning_rate": "learning_rate",
    "per_device_train_batch_size": "batch_size",
    "seed": "seed",
    "data_seed": "seed",
    "resume_from_checkpoint": "resume",
    "report_to": "report_to",
    "run_name": "output_dir",
    "push_to_hub": "push_to_hub",
    "hub_model_id": "push_to_hub",
    "label_smoothing_factor": "label_smoothing",
    "gradient_accumulation_steps": "gradient_accumulation",
    "gradient_checkpointing": "gradient_checkpointing",
    "activation_checkpointing": "gradient_checkpointing",
}
"""Fields of TrainingArguments that have a field of ours."""
NOT_OF_THE_RESULT = {
    "resume", "overwrite", "baseline", "accept", "report_to", "push_to_hub", "upload_private", "search",
}  # fmt: skip
"""Fields that a resumed run may have otherwise than the one it continues."""


Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TrainConfig(BaseModel):
    """A training run. Fields that are None are decided by the recipe, from the data and the base model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Literal["auto", "mlm", "seq2seq", Task] = Field(
        default="auto",
        description="What to train; auto goes by the data; mlm is pre-training on unlabelled text; seq2seq writes a "
        "text for a text.",
    )
    train_file: str | None = Field(
        default=None,
        description="CSV, TSV, JSON, JSONL, Parquet or CoNLL file, a pattern of several, or a Hub data set; bundled if "
        "omitted; for mlm also .txt, one text a line.",
    )
    validation_file: str | None = Field(default=None, description="Taken out of the training file if omitted.")
    test_file: str | None = Field(default=None, description="Rows for the final report only.")
    text_column: str | None = Field(
        default=None, description="Column of the text; recognised if omitted; 0, 1, … in a table without a header."
    )
    text_pair_column: str | None = Field(
        default=None, description="Column of the second text of a pair; recognised if unmistakable, or with --task."
    )
    label_column: str | None = Field(default=None, description="Column of the label, likewise.")
    target_column: str | None = Field(
        default=None, description="With --task seq2seq: column of the text to write; recognised if omitted."
    )
    label_names: tuple[str, ...] = Field(
        default=(),
        description="Names of integer labels 0, 1, …, comma-separated, or a file with one a line; labels with an "
        "order, from the lowest up.",
    )
    label_map: dict[str, str] = Field(
        default={},
        description="New names of labels as they are read: a YAML or JSON file of old name: new name; several may have "
        "one.",
    )
    label_delimiter: str | None = Field(
        default=None, min_length=1, description="What stands between the labels of a cell; recognised if omitted."
    )
    out_of_scope_label: str | None = Field(
        default=None, min_length=1, description="Label of rows that no class fits: no class, but examples to reject."
    )
    drop_unlabelled: bool = Field(default=False, description="Drop rows without a label instead of refusing them.")
    base_model: str = Field(default="minilm", description="minilm, a folder, or a Hub id.")
    revision: str | None = Field(default=None, description="Branch, tag or commit of a Hub base model.")
    continue_from: str | None = Field(
        default=None,
        description="Checkpoint to train further: it keeps its labels, and learns the new ones of the training file.",
    )
    earlier_test_file: str | None = Field(
        default=None, description="With --continue-from: rows of the earlier labels, to measure what is forgotten."
    )
    keep_replay: int | None = Field(
        default=None,
        ge=0,
        description="Training rows to keep in private/, balanced by class, so that --continue-from does not forget "
        "them. Default: none; with --continue-from, as many as before.",
    )
    keep_neighbours: int | None = Field(
        default=None,
        ge=0,
        description="Training rows to keep in private/, balanced by class, so that `explain` shows those most like a "
        "text. Default: none.",
    )
    distillation: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="With --continue-from: weight of staying near the earlier answers, 0 for none. Default: 1.",
    )
    output_dir: str = Field(default="runs/support", description="Where the checkpoint goes: a folder, or a URL.")
    overwrite: bool = Field(default=False, description="Replace an output folder that exists.")
    upload_private: bool = Field(default=False, description="Upload private/, which holds texts, to a URL too.")
    push_to_hub: str | None = Field(
        default=None, description="ORG/NAME on the Hugging Face Hub to push the checkpoint to; private if it is new."
    )
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        default=(), description="Experiment trackers, comma-separated: tensorboard, wandb, mlflow."
    )
    epochs: int | None = Field(default=None, ge=1, le=1000, description="Most passes over the training rows.")
    learning_rate: float | None = Field(
        default=None, gt=0, le=1, allow_inf_nan=False, description="Peak learning rate."
    )
    batch_size: int = Field(default=32, ge=1, le=4096, description="Rows of a batch; several processes share them.")
    max_length: int | None = Field(default=None, ge=8, description="Pieces in one window, special tokens included.")
    max_target_length: int | None = Field(
        default=None,
        ge=2,
        description="With --task seq2seq: pieces of a text to write, special tokens included. Default: as many as the "
        "longest target has.",
    )
    num_beams: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="With --task seq2seq: beams by which texts are written, 1 for greedy. Default: the base model's.",
    )
    patience: int = Field(default=3, ge=1, description="Epochs without a better validation metric before it stops.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Of splits, initial weights and order.")
    resume: bool = Field(default=False, description="Continue a run that was interrupted.")
    accept: str = Field(
        default="precision=0.95",
        description="Which answers count as accepted: precision=0.95, coverage=0.9, score=0.8, cost=20 (of a "
        "wrong answer, in referrals) or cost=FILE.csv (of each mistake).",
    )
    baseline: bool = Field(default=True, description="Report the frozen encoder with logistic regression beside.")
    adapter: Literal["lora", "adalora", "ia3", "prefix"] | None = Field(
        default=None, description="Tune a small adapter instead of the whole model: lora, adalora, ia3 or prefix."
    )
    adapter_rank: int | None = Field(
        default=None, ge=1, le=1024, description="Rank of LoRA, mean rank of AdaLoRA. Default: 16."
    )
    adapter_alpha: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Scale of LoRA and AdaLoRA. Default: twice the rank."
    )
    adapter_dropout: float | None = Field(
        default=None, ge=0, lt=1, description="Share of the adapter's inputs left out in training. Default: 0.05."
    )
    adapter_tokens: int | None = Field(
        default=None, ge=1, le=1024, description="Length of a prefix, in pieces that no text has. Default: 16."
    )
    adapter_targets: str = Field(
        default="auto", description="Layers that get an adapter: auto, all-linear, or names, comma-separated."
    )
    class_weights: Literal["balanced"] | dict[str, Weight] | None = Field(
        default=None, description="Weights of the classes in the loss: balanced, or LABEL=WEIGHT,…"
    )
    focal_gamma: float | None = Field(
        default=None, gt=0, le=10, description="Focal loss: how little a row counts that is right already; 2 is usual."
    )
    label_smoothing: float | None = Field(
        default=None, ge=0, lt=1, description="Share of a row's label that is spread over all; decided by the task."
    )
    balanced_sampling: bool = Field(default=False, description="Draw each class equally often.")
    layer_decay: float | None = Field(
        default=None, gt=0, lt=1, description="Learning rate of each layer, in times of the one above it."
    )
    gradient_accumulation: int = Field(default=1, ge=1, le=4096, description="Batches that make one step.")
    gradient_checkpointing: bool = Field(
        default=False, description="Compute activations twice instead of keeping them: less memory, more time."
    )
    few_shot: bool = Field(
        default=False, description="For 8 to 64 rows a class: bring the rows of each together, then fit the head alone."
    )
    search: int | None = Field(
        default=None, ge=1, le=10_000, description="Search for the best settings on the validation rows, in N trials."
    )
    search_space: SearchSpace = Field(
        default={},
        description="What a search varies: a YAML or JSON file of fields with choices, [16, 32], or a range, "
        "{low: 2, high: 8}. Default: learning rate, epochs, batch size and what else suits the task.",
    )
    trainer: dict[str, Any] = Field(default_factory=dict, description="Further fields of TrainingArguments.")

    @field_validator("label_names", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        from lc_finetune.data import read_label_names

        try:
            return read_label_names(value) if isinstance(value, str) else value
        except DataError as error:
            raise ValueError(str(error).rstrip(".")) from None

    @field_validator("label_map", mode="before")
    @classmethod
    def _mapped(cls, value: Any) -> Any:
        from lc_finetune.data.label_map import check_label_map, read_label_map

        try:
            if isinstance(value, str):
                return read_label_map(value)
            named = isinstance(value, Mapping) and all(isinstance(one, str) for pair in value.items() for one in pair)
            return check_label_map(value) if named and value else value
        except DataError as error:
            raise ValueError(str(error).rstrip(".")) from None

    @field_validator("search_space", mode="before")
    @classmethod
    def _searched(cls, value: Any) -> Any:
        try:
            given = read_space(value) if isinstance(value, str) else value
        except DataError as error:
            raise ValueError(str(error).rstrip(".")) from None
        return space_of(given, cls.model_fields) if isinstance(given, Mapping) else given

    @field_validator("report_to", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return tuple(dict.fromkeys(name.strip() for name in value.split(","))) if isinstance(value, str) else value

    @field_validator("output_dir")
    @classmethod
    def _a_place(cls, value: str) -> str:
        scheme, found, _ = value.partition("://")
        if found and not is_url(value):
            from fsspec import available_protocols

            guess = did_you_mean(scheme, available_protocols())
            raise ValueError(
                f"expected a folder, or a URL that fsspec knows, found the scheme {shown([scheme])!r}{guess}"
            )
        return value

    @field_validator("label_names")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(name.strip() for name in value):
            raise ValueError("expected a name for every number, found an empty one; names with commas go into --config")
        if len(set(value)) != len(value):
            raise ValueError("expected every name once, found one twice; two numbers would become one class")
        return value

    @field_validator("class_weights", mode="before")
    @classmethod
    def _weighted(cls, value: Any) -> Any:
        if not isinstance(value, str) or value == "balanced":
            return value
        pairs = [pair.rpartition("=") for pair in value.split(",")]
        try:
            return {label.strip(): float(weight) for label, _, weight in pairs}
        except ValueError:
            raise ValueError("expected balanced, or LABEL=WEIGHT,…; names with commas go into --config") from None

    @field_validator("accept")
    @classmethod
    def _readable(cls, value: str) -> str:
        from lc_finetune.inference.acceptance import Aim

        try:
            Aim.parse(value)
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("accept: ").rstrip(".")) from None
        return value

    @field_validator("trainer")
    @classmethod
    def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
        from transformers import TrainingArguments

        known = get_type_hints(TrainingArguments)
        checked: dict[str, Any] = {}
        for name, given in value.items():
            if name in OWNED:
                raise ValueError(f"{name} is set by the field {OWNED[name]!r}")
            if name not in TrainingArguments.__dataclass_fields__:
                raise ValueError(f"{name!r} is no field of TrainingArguments{did_you_mean(name, known)}")
            try:
                # YAML reads 1e-8 as a text, which becomes the number that is meant here.
                checked[name] = TypeAdapter(known[name]).validate_python(given)
            except ValidationError as error:
                raise ValueError(f"{name}: {error.errors(include_input=False)[0]['msg']}") from None
        return checked

    @model_validator(mode="after")
    def _together(self) -> Self:
        check_together(self)
        check_space(self)
        return self

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Check values from a command line or a file.

        Raises:
            ConfigError: In one line, with a guess for a mistyped name.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(_one_line(error)[1]) from None

    @classmethod
    def from_file(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read a YAML or JSON file of the same fields; `overrides` win.

        Raises:
            ConfigError: If the file cannot be read, or a value not be used.
        """
        import yaml

        path = Path(path)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"{path}: expected a YAML or JSON file, could not read it ({error.strerror}). Check --config."
            ) from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # YAML's dates raise ValueError
            mark = getattr(error, "problem_mark", None)
            where = f"{path}:{mark.line + 1}" if mark else str(path)
            raise ConfigError(f"{where}: expected YAML or JSON in UTF-8, found neither. Correct it.") from None
        if content is not None and not isinstance(content, dict):
            raise ConfigError(
                f"{path}: expected fields of the configuration, found {type(content).__name__}. "
                "Write them as in `epochs: 4`."
            )
        try:
            return cls.model_validate({**(content or {}), **(overrides or {})})
        except ValidationError as error:
            name, message = _one_line(error)
            raise ConfigError(message if name in (overrides or {}) else f"{path}: {message}") from None

    @property
    def label_order(self) -> list[str]:
        """The labels that `label_names` lists, under their new names; those that are merged are one if neighbours."""
        names = [self.label_map.get(name, name) for name in self.label_names]
        return [name for name, _ in groupby(names) if name != self.out_of_scope_label]

    @property
    def task_of_rows(self) -> Task | Literal["auto"]:
        """What labelled rows are for.

        Raises:
            ConfigError: If the task reads none.
        """
        if self.task == SEQ2SEQ:
            raise ConfigError(f"task: expected one of labelled rows, found {SEQ2SEQ}. Call train_generator for it.")
        if self.task == PRETRAINING:
            raise ConfigError(f"task: expected one of labelled rows, found {PRETRAINING}. Call pre_train for it.")
        return self.task

    def fingerprint_fields(self) -> dict[str, Any]:
        """Give the fields that a resumed run must share with the one it continues."""
        fields: dict[str, Any] = json.loads(self.model_dump_json(exclude=NOT_OF_THE_RESULT))
        return {**fields, "search": self.search is not None}  # that there is one, not how long


def _one_line(error: ValidationError) -> tuple[str, str]:
    """Name the field at fault, and say what is wrong with it."""
    first = error.errors(include_input=False, include_url=False)[0]
    if not first["loc"]:  # fields that do not go together, which the message names
        return "", first["msg"].removeprefix("Value error, ") + "."
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        guess = did_you_mean(name, TrainConfig.model_fields)
        return name, f"Expected a field of TrainConfig, found {shown([name])!r}{guess}. See --help for all."
    return name, f"{shown([name])}: {first['msg'].removeprefix('Value error, ')}."
