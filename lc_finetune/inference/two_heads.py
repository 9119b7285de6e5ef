"""One encoder with two heads: a sequence classifier of transformers, and a layer that gives each piece its tags.

Chen, Zhuo and Wang 2019, "BERT for Joint Intent Classification and Slot Filling". What `save_pretrained` writes is the
folder of the sequence classifier, with its architecture and its names of weights, as transformers' automatic class
loads it; beside them the weights have `tagger.weight` and `tagger.bias`, and `config.json` has `tag_names`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
from transformers.utils.generic import ModelOutput

DROPOUT = 0.1
"""Share of the states that the second head does not see in training, as in the paper."""
OF_CONFIG = ("id2label", "label2id", "problem_type")
"""Options of `from_pretrained` that belong to the configuration."""


@dataclass
class TwoHeadedOutput(ModelOutput):  # type: ignore[misc]  # transformers is not typed
    """What a forward gives.

    Attributes:
        loss: The sum of the two mean cross-entropies, of labels and of tags; None without labels.
        logits: Of the labels, shape `(rows, labels)`.
        tag_logits: Of the tags, shape `(rows, pieces, tags)`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    tag_logits: torch.Tensor | None = None


class TwoHeadedModel:
    """Makes such models, as the `AutoModelFor…` classes of transformers make theirs."""

    @staticmethod
    def from_pretrained(folder: Path, *, tag_names: Sequence[str] | None = None, **options: Any) -> Any:
        """Load a folder; `options` are those of transformers.

        Args:
            folder: Of such a model, or of an encoder, whose heads then begin at random.
            tag_names: Columns of the second head; those of `config.json` if None.
            options: As `PreTrainedModel.from_pretrained` takes them.
        """
        of_config = {name: options.pop(name) for name in OF_CONFIG if name in options}
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False, **of_config)
        if tag_names is not None:
            config.tag_names = list(tag_names)
        options.pop("trust_remote_code", None)  # which a class that is at hand does not ask for
        return _class_of(config).from_pretrained(folder, config=config, **options)

    @staticmethod
    def from_config(config: Any) -> Any:
        """Make a random model of a configuration with `tag_names`."""
        return _class_of(config)(config)


def _class_of(config: Any) -> Any:
    return _with_tagger(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)])


@cache
def _with_tagger(classifier: type[Any]) -> type[Any]:
    # By the name of the classifier, since that is what config.json calls the architecture.
    return type(classifier.__name__, (_Tagging, classifier), {"__module__": classifier.__module__})


class _LastState:
    """Keeps what the encoder made of the batch at hand; no module, whose state a tracer would watch."""

    def __init__(self, encoder: Any) -> None:
        self._state: Any = None
        encoder.register_forward_hook(self._keep)

    def _keep(self, module: Any, inputs: Any, output: Any) -> None:
        self._state = output[0]

    def take(self) -> Any:
        state, self._state = self._state, None
        return state


class _Tagging:
    """What a sequence classifier is mixed with."""

    accepts_loss_kwargs = False  # the loss is a mean: the Trainer divides it by the micro-batches of a step

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        model: Any = self
        model.tagger_dropout = torch.nn.Dropout(DROPOUT)
        model.tagger = torch.nn.Linear(config.hidden_size, len(config.tag_names))
        model.last_state = _LastState(model.base_model)
        model.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        tag_labels: torch.Tensor | None = None,
        **others: Any,
    ) -> TwoHeadedOutput:
        model: Any = self
        found = super().forward(input_ids=input_ids, attention_mask=attention_mask, **others)  # type: ignore[misc]
        tag_logits = model.tagger(model.tagger_dropout(model.last_state.take()))
        loss = None
        if labels is not None and tag_labels is not None:
            loss = cross_entropy(found.logits.float(), labels) + _mean_of_tags(tag_logits.float(), tag_labels)
        return TwoHeadedOutput(loss=loss, logits=found.logits, tag_logits=tag_logits)


def _mean_of_tags(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Average over the pieces that carry a tag; 0 if none does."""
    total = cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum")
    return total / (wanted >= 0).sum().clamp(min=1)
