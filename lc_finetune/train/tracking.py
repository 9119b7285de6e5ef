"""Experiment trackers: a run in each that was asked for, fed by the Trainer's own callbacks, ended with the run.

What reaches a tracker is numbers, the options, and the model's configuration; never a text. So the console, the code
and the git state, which W&B collects by itself, are switched off.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lc_finetune.errors import ConfigError, MissingDependencyError
from lc_finetune.remote import is_url
from lc_finetune.train.config import TrainConfig

logger = logging.getLogger(__name__)

PROJECT = "lc-finetune"
"""The W&B project, unless WANDB_PROJECT names another."""
LONGEST_VALUE = 500
"""Characters of an option's value that are logged; some MLflow servers take no more."""

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Tracker:
    """An open run in one tracker."""

    callback: Any
    """The Trainer's own callback, which logs the epochs."""
    report: Callable[[Figures, int], None]
    """Logs the final figures, at the last step."""


def check_installed(trackers: Sequence[str]) -> None:
    """Refuse a tracker without its package, before any work.

    Raises:
        MissingDependencyError: Naming the command that installs it.
    """
    missing = [name for name in trackers if not _is_installed(name)]
    if missing:
        raise MissingDependencyError(
            f"report_to: expected the package of {', '.join(missing)}, found none. "
            f"Run `pip install 'lc-finetune[{','.join(missing)}]'`."
        )


def _is_installed(name: str) -> bool:
    spec = find_spec(name)
    return spec is not None and spec.origin is not None  # W&B's own output folder passes for a namespace package


@contextmanager
def tracking(config: TrainConfig, name: str, say: Callable[[str], None]) -> Iterator[list[Tracker]]:
    """Open a run in each tracker, and end it with the block: as failed after an error.

    A W&B or MLflow run that the caller has open already is joined, and left open.

    Args:
        config: Names the trackers; its values are logged.
        name: The run's name: that of the output folder.
        say: Receives a line on where each tracker writes.

    Raises:
        ConfigError: If a tracker cannot be reached, or wants a login.
    """
    options = {f"config.{field}": str(value)[:LONGEST_VALUE] for field, value in config.model_dump().items()}
    with ExitStack() as stack:
        opened = []
        for tracker in config.report_to:
            try:
                opened.append(_OPEN[tracker](stack, config, name, options, say))
            except Exception as error:  # network, login and settings errors share no base class
                raise ConfigError(
                    f"report_to: expected to open a run in {tracker}, could not ({type(error).__name__}). "
                    f"{_REMEDIES[tracker]} Or leave it out."
                ) from error
        yield opened


def report_final(trackers: Sequence[Tracker], metrics: Mapping[str, Any], step: int) -> None:
    """Log the figures of each split as they are in the checkpoint: `test/accuracy`, `validation/confidence/ece`.

    A tracker that fails costs no checkpoint: that is logged as a warning.
    """
    figures = dict(_flat(metrics))
    for tracker in trackers:
        try:
            tracker.report(figures, step)
        except Exception as error:  # whatever its package raises
            logger.warning(
                "The final figures did not reach %s (%s); the checkpoint has them.",
                type(tracker.callback).__name__.removesuffix("Callback"),
                type(error).__name__,
            )


def log_folder(output_dir: str, name: str) -> Path:
    """Name the folder of TensorBoard's files: beside a local output, in the working directory for one at a URL."""
    beside = Path.cwd() if is_url(output_dir) else Path(output_dir).expanduser().absolute().parent
    return beside / f"{name}.logs"


def _flat(figures: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            if name != "per_label":
                yield from _flat(value, f"{path}{name}/")
        elif isinstance(value, int | float):
            yield f"{path}{name}", float(value)


def _at_the_end(stack: ExitStack, end: Callable[[bool], None]) -> None:
    """End a run with the block, told whether that failed; a tracker that fails then is no failure of the training."""

    def close(kind: type[BaseException] | None, *_: object) -> None:
        try:
            end(kind is not None)
        except Exception as error:  # whatever its package raises
            logger.warning("The run could not be ended in its tracker (%s).", type(error).__name__)

    stack.push(close)


def _open_tensorboard(
    stack: ExitStack, config: TrainConfig, name: str, options: Mapping[str, str], say: Callable[[str], None]
) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    callback = TensorBoardCallback()
    if callback.logging_dir is None:  # TENSORBOARD_LOGGING_DIR is not set
        started = datetime.now().strftime("%Y-%m-%dT%H-%M-%S.%f")
        callback.logging_dir = os.fspath(log_folder(config.output_dir, name) / started)
    say(f"  tracking    tensorboard, in {callback.logging_dir}")
    writer = SummaryWriter(log_dir=callback.logging_dir)
    stack.callback(writer.close)
    writer.add_text("config", "\n".join(f"    {field}: {value}" for field, value in options.items()))

    def report(figures: Figures, step: int) -> None:
        for figure, value in figures.items():
            writer.add_scalar(figure, value, step)
        writer.flush()

    return Tracker(callback, report)


def _open_wandb(
    stack: ExitStack, config: TrainConfig, name: str, options: Mapping[str, str], say: Callable[[str], None]
) -> Tracker:
    import wandb
    from transformers.integrations import WandbCallback

    run = wandb.run
    if run is None:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=name,
            settings=wandb.Settings(console="off", disable_code=True, disable_git=True, disable_job_creation=True),
        )  # fmt: skip
        _at_the_end(stack, lambda failed: run.finish(exit_code=int(failed)))
    run.config.update(dict(options), allow_val_change=True)
    say(f"  tracking    wandb, in {run.dir}" + (f" and at {run.url}" if run.url else ""))
    return Tracker(WandbCallback(), lambda figures, step: run.log({**figures, "train/global_step": step}))


def _open_mlflow(
    stack: ExitStack, config: TrainConfig, name: str, options: Mapping[str, str], say: Callable[[str], None]
) -> Tracker:
    import mlflow
    from transformers.integrations import MLflowCallback

    if mlflow.active_run() is None:
        mlflow.start_run(run_name=name)
        _at_the_end(stack, lambda failed: mlflow.end_run("FAILED" if failed else "FINISHED"))
    mlflow.log_params(dict(options))
    say(f"  tracking    mlflow, at {mlflow.get_tracking_uri()}")
    return Tracker(MLflowCallback(), lambda figures, step: mlflow.log_metrics(dict(figures), step=step))


_OPEN = {"tensorboard": _open_tensorboard, "wandb": _open_wandb, "mlflow": _open_mlflow}
_REMEDIES = {
    "tensorboard": "Set TENSORBOARD_LOGGING_DIR to a folder that can be written.",
    "wandb": "Run `wandb login`, or set WANDB_MODE=offline.",
    "mlflow": "Check MLFLOW_TRACKING_URI.",
}
