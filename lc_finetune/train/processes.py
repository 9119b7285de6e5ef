"""One training run in several processes, one for each device, started by `torchrun` or `accelerate launch`.

The first process leads: it reads, decides, says and writes, as a process alone does. The others follow: they wait until
there is something to train, take part in it, and wait until the result is whole. Where each process takes a step, the
Trainer averages the gradients (Li et al. 2020, "PyTorch Distributed").
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lc_finetune.errors import ConfigError, LCFinetuneError, ProcessError

if TYPE_CHECKING:
    from lc_finetune.train.config import TrainConfig

T = TypeVar("T")

SHARDED = ("fsdp", "fsdp_config", "deepspeed", "parallelism_config")
"""Fields of TrainingArguments by which processes hold a part of the model each."""

PATIENCE = timedelta(days=30)
"""How long the others wait for the first one, which may have much to read, to measure and to upload."""
LOST = ("gloo", "NCCL", "Connection ", "Broken pipe")
"""Marks of the errors that torch raises when another process is gone."""


def size_of_run() -> int:
    """Say how many processes the launcher has started for this run; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def follows() -> bool:
    """Say whether this process follows another one, by what the launcher says."""
    return size_of_run() > 1 and int(os.environ.get("RANK") or 0) > 0


@contextmanager
def one_speaker() -> Iterator[None]:
    """Silence a process that follows, but for its errors."""
    if not follows():
        yield
        return
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)


@dataclass(frozen=True)
class Part:
    """What the others need to know to take part in the training.

    Attributes:
        work: The folder of the Trainer's state.
        resume_from: The state to go on from.
        data: A digest of the rows in their order, and of the labels.
    """

    work: str
    resume_from: str | None
    data: str

    def check(self, data: str, rank: int) -> None:
        """Refuse to train on other rows than the first process, for other labels, or without its states.

        Raises:
            ProcessError: If this process has read others, or cannot see what the first one keeps.
        """
        if not Path(self.work).is_dir():
            raise ProcessError(
                f"Process {rank}: expected the folder in which the first process keeps finished epochs, found none at "
                f"{self.work}. Give --output-dir a place on a disk that all machines share."
            )
        if data != self.data:
            raise ProcessError(
                f"Process {rank}: expected the rows and labels that the first process has read, found others. Give "
                "every machine the same files, and let none of them change."
            )


class Processes:
    """The processes of a run, as one of them sees them; a process alone leads none.

    Attributes:
        rank: Of this process, from 0, which is the first.
        size: Their number.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        """Hold the facts; `group` is what messages are sent in, beside the Trainer's own."""
        self.rank = rank
        self.size = size
        self._group = group
        self._all_train = False

    def run(self, lead: Callable[[], T], follow: Callable[[Part], None], result: Callable[[], T]) -> T:
        """Do a run: the first process leads it, and each other one takes part in what there is to train.

        Args:
            lead: The whole run; it calls `train_together`.
            follow: What another process does when there is something to train.
            result: What another process returns once the run is over.

        Raises:
            ProcessError: If another process fails, or is gone.
        """
        if self.rank:
            with self._none_lost(), one_speaker():
                while (part := self._next_part()) is not None:
                    follow(part)
            return result()
        try:
            led = lead()
        except BaseException:
            if not self._all_train:  # else the others do not listen, and see the connection end
                with suppress(ProcessError):
                    self._say({"failed": True})
            raise
        self._say({})
        return led

    def train_together(self, part: Part, train: Callable[[], T]) -> T:
        """Let the others begin, and train with them.

        Raises:
            ProcessError: If one of them fails, or is gone.
        """
        self._say({"part": asdict(part)})
        self._all_train = True
        with self._none_lost():
            trained = train()
        self._all_train = False
        return trained

    def introduce(self, batch_size: int, say: Callable[[str], None]) -> None:
        """Say how many there are, if there are several."""
        if self.size > 1:
            say(f"  processes   {self.size}, each of which takes {batch_size // self.size} rows of a batch")

    def in_one_order(self, rows: Sequence[int]) -> list[int]:
        """Give every process the order in which the first one has the rows."""
        if self._group is None:
            return list(rows)
        import torch

        order = torch.tensor(rows)
        torch.distributed.broadcast(order, src=0, group=self._group)
        return [int(row) for row in order]

    def _say(self, message: dict[str, Any]) -> None:
        """Send a message to all others, who wait for it."""
        if self._group is not None:
            with self._none_lost():
                _broadcast([json.dumps(message)], self._group)

    def _next_part(self) -> Part | None:
        """Wait for the first process; None once its run is over."""
        received: list[Any] = [None]
        _broadcast(received, self._group)
        message = json.loads(received[0])
        if message.get("failed"):
            raise ProcessError(
                f"Process {self.rank} of {self.size}: expected the first process to go on, but it failed. Its own "
                "error says why."
            )
        return Part(**message["part"]) if message else None

    @contextmanager
    def _none_lost(self) -> Iterator[None]:
        """Say in plain words that another process is gone."""
        try:
            yield
        except LCFinetuneError:
            raise
        except Exception as error:
            if self._group is None or not _is_loss(error):
                raise
            raise ProcessError(
                f"Process {self.rank} of {self.size}: expected all processes to train together, but lost another one. "
                "Its own error, if it had time for one, says why. Then go on with the same command and --resume: "
                "finished epochs are kept."
            ) from error


def join(config: TrainConfig) -> Processes:
    """Meet the other processes of the run, if a launcher has started several.

    Raises:
        ConfigError: If the configuration cannot be trained by several, or they cannot meet.
    """
    size = size_of_run()
    check_shared(config, size)
    if size == 1:
        return Processes()
    from accelerate import PartialState
    from torch import distributed

    given = config.trainer
    timeout = {"timeout": timedelta(seconds=given["ddp_timeout"])} if "ddp_timeout" in given else {}
    try:
        # The Trainer's own arguments make the same state later, in the group that this call opens.
        PartialState(cpu=given.get("use_cpu", on_cpu()), backend=given.get("ddp_backend"), **timeout)
        group = distributed.new_group(backend="gloo", timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"Expected {size} processes that meet, as WORLD_SIZE says, could not ({type(error).__name__}). Start them "
            "with torchrun or accelerate launch; alone, run without WORLD_SIZE."
        ) from error
    return Processes(distributed.get_rank(), distributed.get_world_size(), group)


def part_ways() -> None:
    """Leave the others in good order, once all is done."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def on_cpu() -> bool:
    """Say whether this machine has no device but its CPU."""
    import torch

    return not torch.cuda.is_available() and not torch.backends.mps.is_available()


def check_shared(config: TrainConfig, size: int) -> None:
    """Refuse what several processes cannot share.

    Raises:
        ConfigError: With the field at fault and what to do.
    """
    if config.batch_size % size:
        lower = config.batch_size // size * size
        raise ConfigError(
            f"batch_size: expected a multiple of the {size} processes, which share the rows of a step, found "
            f"{config.batch_size}. Give {f'{lower} or ' if lower else ''}{lower + size}."
        )
    if config.few_shot and size > 1:
        raise ConfigError(
            f"few_shot: expected one process, found {size}. So few rows are soon learnt, and each is compared with all "
            "others of its batch. Run without the launcher."
        )
    if config.search is not None and size > 1:
        raise ConfigError(
            f"search: expected one process, found {size}. Search without the launcher, then train with what was found."
        )
    launched = [
        name for name in ("FSDP", "DEEPSPEED") if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true"
    ]
    sharded = [*(name for name in SHARDED if config.trainer.get(name)), *launched]
    if sharded:
        raise ConfigError(
            f"trainer: expected processes that each hold the whole model, found {sharded[0]}, which shares it out. "
            "Leave it out, of the options of accelerate launch too."
        )


def _broadcast(messages: list[Any], group: Any) -> None:
    import torch

    torch.distributed.broadcast_object_list(messages, src=0, group=group, device=torch.device("cpu"))


def _is_loss(error: Exception) -> bool:
    from torch import distributed

    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and any(mark in str(error) for mark in LOST)
    )
