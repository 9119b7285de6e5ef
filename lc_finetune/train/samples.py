"""The bundled samples as training files."""

from __future__ import annotations

from lc_finetune.checkpoint import SEQ2SEQ
from lc_finetune.data import sample_file
from lc_finetune.errors import ConfigError
from lc_finetune.train.config import TrainConfig


def sample_files(config: TrainConfig) -> TrainConfig:
    """Fill in a bundled sample where no file is given: messages with a subject to write, or else with an intent.

    Raises:
        ConfigError: If there are files to measure on and none to train on.
    """
    if config.train_file is not None:
        return config
    given = next((part for part in ("validation", "test") if getattr(config, f"{part}_file")), None)
    if given is not None:
        raise ConfigError(f"Expected --train-file beside --{given}-file, found none. Name it, or leave both out.")
    name = "subjects" if config.task == SEQ2SEQ else "support"
    parts = {f"{part}_file": str(sample_file(name, part)) for part in ("train", "validation", "test")}
    return config.model_copy(update=parts)
