"""Where a search looks: a range or choices for fields of a configuration, each checked as a configuration would be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, product
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Self, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo

from lc_finetune.errors import DataError, did_you_mean, shown

if TYPE_CHECKING:
    from lc_finetune.train.config import TrainConfig

SEARCHABLE = (
    "learning_rate", "epochs", "batch_size", "gradient_accumulation", "patience", "label_smoothing", "focal_gamma",
    "class_weights", "balanced_sampling", "layer_decay", "adapter_rank", "adapter_alpha", "adapter_dropout",
    "adapter_targets",
)  # fmt: skip
"""Fields that say how a model learns; the others say what it learns from, or where the result goes."""
Scalar = bool | int | float | str | None
MOST_CHOICES = 50


class Range(BaseModel):
    """All numbers from `low` to `high`, whole ones for a field of whole numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: int | float = Field(allow_inf_nan=False)
    high: int | float = Field(allow_inf_nan=False)
    log: bool = Field(default=False, description="Whether each doubling is as likely as another.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError("expected low to be less than high, found otherwise")
        if self.log and self.low <= 0:
            raise ValueError("expected a low above 0 beside log, found otherwise")
        return self

    @property
    def tried(self) -> tuple[Scalar, ...]:
        """What is checked of it: its ends."""
        return self.low, self.high

    def __contains__(self, value: object) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high  # type: ignore[operator]


class Choices(BaseModel):
    """One of some values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    choices: tuple[Scalar, ...] = Field(min_length=2, max_length=MOST_CHOICES)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.choices)) != len(self.choices):
            raise ValueError("expected each choice once, found one twice")
        return self

    @property
    def tried(self) -> tuple[Scalar, ...]:
        """What is checked of it: all."""
        return self.choices

    def __contains__(self, value: object) -> bool:
        return value in self.choices


Dimension = Range | Choices
SearchSpace = dict[str, Dimension]


def read_space(path: str | Path) -> dict[str, Any]:
    """Read a YAML or JSON file of field: range or choices, as it stands there.

    Raises:
        DataError: If it is no such file.
    """
    import yaml

    path = Path(path).expanduser()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: expected a YAML or JSON file, could not read it ({error.strerror}).") from None
    except (yaml.YAMLError, ValueError, RecursionError):  # YAML's dates raise ValueError
        raise DataError(f"{path}: expected YAML or JSON in UTF-8, found neither.") from None
    if not isinstance(content, dict) or not content:
        raise DataError(
            f"{path}: expected fields with a range or choices, found {'none' if content is None else 'something else'}."
            " Write lines such as `batch_size: [16, 32]` or `epochs: {low: 2, high: 8}`."
        )
    return content


def space_of(given: Mapping[Any, Any], fields: Mapping[str, FieldInfo]) -> SearchSpace:
    """Check what a file or a configuration says, each field by itself; values are read as the field reads them.

    Args:
        given: Field → a list of choices, or a mapping with low, high and perhaps log.
        fields: Those of TrainConfig.

    Raises:
        ValueError: In the words of a field's own error.
    """
    return {_known(name, fields): _dimension(name, one, fields[name]) for name, one in given.items()}


def _known(name: Any, fields: Mapping[str, FieldInfo]) -> str:
    if name not in fields:
        raise ValueError(
            f"expected a field of TrainConfig, found {shown([str(name)])!r}{did_you_mean(str(name), SEARCHABLE)}"
        )
    if name not in SEARCHABLE:
        raise ValueError(
            f"expected fields that say how a model learns ({', '.join(SEARCHABLE)}), found {name!r}. Set it as an "
            "option"
        )
    return str(name)


def _dimension(name: str, given: Any, field: FieldInfo) -> Dimension:
    if isinstance(given, Range | Choices):
        return given
    try:
        if isinstance(given, list | tuple):
            return Choices(choices=_read(field, given))
        if isinstance(given, Mapping) and "choices" in given:
            made = Choices.model_validate(dict(given))
            return Choices(choices=_read(field, made.choices))
        if isinstance(given, Mapping):
            made_range = Range.model_validate(dict(given))
            if not _is_number(field):
                raise ValueError("expected choices, as a list, found a range: the field is no number")
            low, high = _read(field, (made_range.low, made_range.high))
            return Range(low=low, high=high, log=made_range.log)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = "".join(f"{part}: " for part in first["loc"] if isinstance(part, str) and part in _PARTS)
        raise ValueError(f"{name}: {where}{first['msg'].removeprefix('Value error, ')}") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    raise ValueError(
        f"{name}: expected a list of choices, or low and high, found neither. Write [16, 32] or {{low: 2, high: 8}}"
    )


_PARTS = ("low", "high", "log", "choices")


def _read(field: FieldInfo, values: Iterable[Any]) -> tuple[Any, ...]:
    """Read values as the field does: YAML takes 1e-5 for a text, which becomes the number that is meant."""
    adapter: TypeAdapter[Any] = TypeAdapter(cast(Any, Annotated[field.annotation, field]))
    read = tuple(adapter.validate_python(value) for value in values)
    if not all(isinstance(value, Scalar) for value in read):
        raise ValueError("expected choices that are numbers, words, true, false or null, found others")
    return read


def _is_number(field: FieldInfo) -> bool:
    kinds = {kind for kind in get_args(field.annotation) or (field.annotation,) if kind is not NoneType}
    return kinds in ({int}, {float})


def check_space(config: TrainConfig) -> None:
    """Refuse a search that contradicts the other fields, and values that do not go with them or with each other.

    Raises:
        ValueError: In the words of a field's own error.
    """
    if config.search is None:
        if config.search_space:
            raise ValueError(
                "search_space: expected it beside search, found none. Say how many trials, or leave it out"
            )
        return
    if config.few_shot:
        raise ValueError(
            "search and few_shot: expected one of them, found both; nothing that a search varies is left after the "
            "warm-up"
        )
    if both := [name for name in config.search_space if is_set(config, name)]:
        raise ValueError(
            f"search_space: expected fields that are not set otherwise, found {both[0]}. Leave it out of one of them"
        )
    for values in trials_to_check(config.search_space):
        try:
            varied(config, values)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            raise ValueError(f"search_space: {_said(first['msg'], values)}") from None


def _said(message: str, values: Mapping[str, Scalar]) -> str:
    tried = ", ".join(f"{name} {value}" for name, value in values.items())
    return f"{message.removeprefix('Value error, ')} (with {tried})"


def is_set(config: TrainConfig, name: str) -> bool:
    """Say whether a field was given a value, so that nothing is left to decide."""
    return name in config.model_fields_set and getattr(config, name) is not None


def trials_to_check(space: Mapping[str, Dimension]) -> Iterator[dict[str, Scalar]]:
    """List ends and choices of each field, and of each two together: rules are about one field, or two."""
    for name, one in space.items():
        yield from ({name: value} for value in one.tried)
    for first, second in combinations(space, 2):
        for pair in product(space[first].tried, space[second].tried):
            yield dict(zip((first, second), pair, strict=True))


def varied(config: TrainConfig, values: Mapping[str, Scalar]) -> TrainConfig:
    """Give the configuration of a trial, which is no search itself.

    Raises:
        ValidationError: If the values do not go together.
    """
    kept = {name: getattr(config, name) for name in config.model_fields_set - {"search", "search_space"}}
    return type(config).model_validate({**kept, **values})
