"""What a run shows while it trains: a bar on a terminal, and one line, or one number, for each epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tqdm.auto import tqdm
from transformers.trainer_callback import ProgressCallback, TrainerCallback


class EpochLines(ProgressCallback):  # type: ignore[misc]  # transformers is not typed
    """Transformers' progress bar, without its raw logs: an epoch's loss and validation metric make one line."""

    def __init__(self, say: Callable[[str], None], *, metric: str) -> None:
        """Say each line; `metric` is the name that the validation metric goes by."""
        super().__init__()
        self._say = say
        self._metric = metric
        self._loss: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar; only a terminal shows it, and only that of the first process."""
        hidden = None if state.is_world_process_zero else True
        self.training_bar = tqdm(total=state.max_steps, dynamic_ncols=True, disable=hidden, leave=False)
        self.training_bar.update(state.global_step)  # a resumed run is under way
        self.current_step = state.global_step

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show nothing: validation is short beside training."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Keep the loss of the epoch that ends, and say its line once the validation metric is there."""
        logs = logs or {}
        self._loss = logs.get("loss", self._loss)
        value = logs.get(f"eval_{self._metric}")
        ends = value is not None or (args.eval_strategy == "no" and "loss" in logs)
        if not ends or not state.is_world_process_zero or self._loss is None:
            return
        measured = "" if value is None else f"  validation {self._metric} {value:.4f}"
        with tqdm.external_write_mode():
            self._say(f"  epoch {round(state.epoch or 0)}/{args.num_train_epochs:g}  loss {self._loss:.4f}{measured}")


class EpochReports(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Hands the validation metric of each epoch on, and stops the training when told to."""

    def __init__(self, report: Callable[[float], bool], *, metric: str) -> None:
        """Report each value of `metric`; training stops once that returns true."""
        self._report = report
        self._metric = metric

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        """Report, and stop or go on."""
        if self._report(float(metrics[f"eval_{self._metric}"])):
            control.should_training_stop = True
