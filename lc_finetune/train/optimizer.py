"""A Trainer whose new head learns faster than the encoder below it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from lc_finetune.train.processes import Processes


def head_parameters(model: Any) -> set[int]:
    """Find what the task added: the ids of the parameters outside the encoder, and of its pooler.

    A pooler counts as head because pre-training often leaves it as good as random. Of a model with an adapter, the
    head is the copy of it that learns.
    """
    if getattr(model, "peft_config", None):
        return {id(p) for name, p in model.named_parameters() if ".modules_to_save." in name}
    encoder = {id(p) for name, p in model.base_model.named_parameters() if not name.startswith("pooler.")}
    return {id(p) for p in model.parameters() if id(p) not in encoder}


def start_at_shares(model: Any, shares: NDArray[np.floating]) -> None:
    """Let a new multi-label head begin with the share of texts that have each label, shape `(labels,)`.

    Most labels apply to few texts. A head that begins at one half spends its first steps on pushing every logit down,
    through features that all texts have in common, and pooler and head may never recover from that (Lin et al. 2017,
    "Focal Loss for Dense Object Detection", section 3.3). A head without a bias is left alone.
    """
    outputs = [one for one in model.modules() if isinstance(one, torch.nn.Linear) and one.out_features == len(shares)]
    if outputs and outputs[-1].bias is not None:
        kept = torch.as_tensor(shares, dtype=torch.float32).clamp(1e-3, 1.0 - 1e-3)
        with torch.no_grad():
            outputs[-1].bias.copy_(kept.logit())


def grow_embeddings(model: Any, words: Mapping[int, Sequence[int]]) -> None:
    """Add rows to a model's embeddings for new pieces; each begins as the mean of the pieces it is made of.

    Gee et al. 2022, "Fast Vocabulary Transfer for Language Model Compression". Pieces that have a row keep it.

    Args:
        model: The model.
        words: New pieces, the last of the vocabulary, each with older ones.
    """
    rows = len(model.get_input_embeddings().weight)
    if max(words) < rows:
        return
    model.resize_token_embeddings(max(words) + 1, mean_resizing=False)
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        for piece, made_of in words.items():
            if piece >= rows:
                weight[piece] = weight[list(made_of)].mean(dim=0)


def depths(model: Any) -> dict[str, int]:
    """Say how far each parameter of the encoder is from its input.

    Embeddings are 0, the first block 1, and so on; what follows the last block goes with it, the head is left out.
    """
    head = head_parameters(model)
    of: dict[str, int] = {}
    deepest = 0
    for name, parameter in model.named_parameters():  # in the order of the forward pass
        if id(parameter) not in head:
            block = re.search(r"\.(\d+)\.", name)
            of[name] = int(block[1]) + 1 if block else deepest
            deepest = max(deepest, of[name])
    return of


class FasterHeadTrainer(Trainer):  # type: ignore[misc]  # transformers is not typed
    """Trains the head at `head_rate` times the learning rate of the encoder.

    A random head needs large steps, a pre-trained encoder small ones: discriminative fine-tuning with two groups
    (Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification"). With `layer_decay`, each
    block of the encoder learns that much slower than the one above it. With `balanced_sampling`, rows are drawn so that
    each class comes equally often. A `penalty` of its inputs and outputs
    is added to the loss of each step. Several `processes` share each batch, in the order that one alone would take.
    """

    def __init__(
        self,
        *,
        head_rate: float,
        layer_decay: float | None = None,
        balanced_sampling: bool = False,
        penalty: Callable[[Any, Any], Any] | None = None,
        processes: Processes | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if self.compute_loss_func is None and self.label_smoother is None:
            # Most heads take the number of items of the whole step as an argument, and do not look at it.
            self.model_accepts_loss_kwargs = False
        self._processes = processes or Processes()
        self._penalty = penalty
        self._head_rate = head_rate
        self._layer_decay = layer_decay
        self._balanced_sampling = balanced_sampling

    def create_optimizer(self, model: Any = None) -> Any:
        """Make the Trainer's optimizer, each of its groups divided by learning rate."""
        optimizer = super().create_optimizer(model)
        factors = self._rate_factors()
        for group in list(optimizer.param_groups):
            if "lr" not in group:
                continue
            slices: dict[float, list[Any]] = {}
            for parameter in group["params"]:
                slices.setdefault(factors[id(parameter)], []).append(parameter)
            whole = {name: value for name, value in group.items() if name != "params"}
            for i, (factor, parameters) in enumerate(sorted(slices.items())):
                if i == 0:
                    group["params"], group["lr"] = parameters, whole["lr"] * factor
                else:
                    optimizer.add_param_group({**whole, "params": parameters, "lr": whole["lr"] * factor})
        return optimizer

    def _rate_factors(self) -> dict[int, float]:
        """Give the learning rate of each parameter, by its id, in times of the encoder's."""
        depth_of = depths(self.model)
        top, decay = max(depth_of.values(), default=0), self._layer_decay or 1.0
        return {
            id(parameter): decay ** (top - depth_of[name]) if name in depth_of else self._head_rate
            for name, parameter in self.model.named_parameters()
        }

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the Trainer's loss, with the penalty in training."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self._penalty is not None and model.training:
            # The Trainer divides by the number of micro-batches only where the loss is not divided already.
            divided = self.compute_loss_func is not None or (
                self.model_accepts_loss_kwargs and num_items_in_batch is not None
            )
            loss = loss + self._penalty(inputs, outputs) / (self.current_gradient_accumulation_steps if divided else 1)
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = self.train_dataset if train_dataset is None else train_dataset
        if self._balanced_sampling:
            sampler = BalancedSampler(
                [int(row["labels"]) for row in rows],
                [len(row["input_ids"]) for row in rows],
                batch_size=self.args.train_batch_size * self.args.gradient_accumulation_steps,
            )
        else:
            sampler = super()._get_train_sampler(train_dataset)
        if self._processes.size > 1 and isinstance(sampler, BalancedSampler | LengthGroupedSampler):
            sampler.batch_size *= self._processes.size
            return SharedOrder(sampler, self._processes)
        return sampler


class SharedOrder(Sampler[int]):
    """Draws rows as another sampler does in the first process.

    Samplers draw from torch's own generator, which processes on CPUs leave in different states: dropout draws from it
    too, for batches of different lengths.
    """

    def __init__(self, sampler: Sampler[int], processes: Processes) -> None:
        self._sampler = sampler
        self._processes = processes

    def __len__(self) -> int:
        return len(self._sampler)  # type: ignore[arg-type]  # both kinds have a length

    def __iter__(self) -> Iterator[int]:
        return iter(self._processes.in_one_order(list(self._sampler)))


class BalancedSampler(Sampler[int]):
    """Draws as many rows as there are, with replacement and each class as likely as another, grouped by length.

    From torch's own generator, whose state the Trainer saves: a resumed run draws as the whole one does.
    """

    def __init__(self, classes: Sequence[int], lengths: Sequence[int], *, batch_size: int) -> None:
        counts = Counter(classes)
        self._weights = [1.0 / counts[one] for one in classes]
        self._lengths = lengths
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self._weights)

    def __iter__(self) -> Iterator[int]:
        drawn = torch.multinomial(torch.tensor(self._weights), len(self._weights), replacement=True).tolist()
        grouped = LengthGroupedSampler(self.batch_size, lengths=[self._lengths[row] for row in drawn])
        return iter([drawn[place] for place in grouped])
