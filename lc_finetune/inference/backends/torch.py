"""PyTorch on CPU, CUDA or MPS."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lc_finetune.checkpoint import JOINT, QUESTIONS, Checkpoint
from lc_finetune.errors import CheckpointError, ConfigError
from lc_finetune.inference.backends import Batch, Dtype, OutOfMemory, Outputs, says_out_of_memory
from lc_finetune.inference.prefix import put_prefix

if TYPE_CHECKING:
    import torch


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and notices off the terminal; errors are still said, settings are put back."""
    from transformers.utils import logging as verbosity

    enabled, level = verbosity.is_progress_bar_enabled(), verbosity.get_verbosity()
    verbosity.disable_progress_bar()
    verbosity.set_verbosity_error()
    try:
        yield
    finally:
        verbosity.set_verbosity(level)
        if enabled:
            verbosity.enable_progress_bar()


_LOADERS: dict[str, str] = {
    "token-classification": "AutoModelForTokenClassification",
    QUESTIONS: "AutoModelForQuestionAnswering",
}
"""Classes of transformers, of tasks whose head is not a sequence classifier's."""


def load_model(checkpoint: Checkpoint, dtype: torch.dtype | None = None) -> Any:
    """Load a checkpoint's model in evaluation mode, from safetensors only, with its prefix if it has one.

    Raises:
        CheckpointError: If the weights do not fit the configuration.
    """
    folder = checkpoint.path
    loader = _loader_of(checkpoint.task)
    try:
        with quiet():
            model, info = loader.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, trust_remote_code=False, dtype=dtype,
                output_loading_info=True,
            )  # fmt: skip
    except Exception as error:  # safetensors, configuration and shape errors share no base class
        raise CheckpointError(f"{folder}: the model cannot be loaded ({type(error).__name__}).") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{folder}: expected all weights in the checkpoint, found {len(missing)} missing ({missing[0]}, …): "
            "they would be random. Fine-tune the model before you load it."
        )
    set_padding(model, folder)
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False  # no piece follows that a decoder would keep keys and values for
    if checkpoint.prefix:
        put_prefix(model, checkpoint.prefix)
    return model.eval()


def _loader_of(task: str) -> Any:
    if task == JOINT:
        from lc_finetune.inference.two_heads import TwoHeadedModel

        return TwoHeadedModel
    import transformers

    return getattr(transformers, _LOADERS.get(task, "AutoModelForSequenceClassification"))


def set_padding(model: Any, folder: Path) -> None:
    """Tell a decoder what pads its windows, if its configuration does not: else it takes one text at a time."""
    from transformers import AutoTokenizer

    from lc_finetune.inference.encode import padding_id

    padding = getattr(model.config, "pad_token_id", None)
    if padding is None or padding < 0:  # as early configurations of Llama have it
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model.config.pad_token_id = padding_id(folder, tokenizer)


class Headed:
    """Call a model and take, besides the logits of its heads, what its encoder made of the text."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._state: Any = None
        model.base_model.register_forward_hook(self._keep)

    def _keep(self, module: Any, inputs: Any, output: Any) -> None:
        self._state = output[0]

    def __call__(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **others: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return logits, the mean over the pieces of the last hidden state, and the logits of a second head's tags."""
        outputs = self._model(input_ids=input_ids, attention_mask=attention_mask, **others)
        logits = outputs.logits if "logits" in outputs else _edges(outputs)
        state, self._state = self._state, None
        features = masked_mean(state, attention_mask)
        tags = (outputs.tag_logits,) if "tag_logits" in outputs else ()
        return logits, features, *tags


def _edges(outputs: Any) -> torch.Tensor:
    """Put a question answerer's logits of start and end side by side: `(rows, pieces, 2)`."""
    import torch

    return torch.stack((outputs.start_logits, outputs.end_logits), dim=-1)


def masked_mean(state: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average over the pieces that a mask keeps: `(rows, pieces, hidden)` and `(rows, pieces)` → `(rows, hidden)`."""
    kept = mask.unsqueeze(-1).to(state.dtype)
    return (state * kept).sum(dim=1) / kept.sum(dim=1)


class TorchBackend:
    """A Hugging Face model in inference mode."""

    name = "torch"

    def __init__(self, checkpoint: Checkpoint, *, device: str, dtype: Dtype) -> None:
        """Load the weights onto the device: fp32 on CPU and MPS, bf16 on CUDA, unless `dtype` says otherwise."""
        import torch

        from lc_finetune.inference.backends import cuda

        settle_threads()
        self.precision: str = ("bfloat16" if device.startswith("cuda") else "float32") if dtype == "auto" else dtype
        if self.precision not in ("float32", "bfloat16", "float16"):
            raise ConfigError(
                f"Expected dtype 'auto', 'float32', 'bfloat16' or 'float16' for backend 'torch', found {dtype!r}."
            )
        self._device = torch.device(device)
        model = load_model(checkpoint, getattr(torch, self.precision)).to(self._device)
        unpadded = (
            model.config.model_type in cuda.STACKS
            and checkpoint.task not in (QUESTIONS, JOINT)
            and not checkpoint.prefix
        )
        if self._device.type == "cuda" and unpadded:
            self._run: Callable[[Batch], Outputs] = cuda.CudaModel(
                model,
                per_piece=checkpoint.task == "token-classification",
                packs=cuda.can_pack(model),
                record=cuda.Recorder(self._device),
            )
        else:
            self._run = partial(_padded, Headed(model), self._device)

    def forward(self, batch: Batch) -> Outputs:
        """Run the model once; see `Backend`."""
        import torch

        try:
            with torch.inference_mode(), torch.accelerator.device_index(self._device.index):
                return self._run(batch)
        except RuntimeError as error:  # torch's own exceptions are such, and not all of them tell this one apart
            if says_out_of_memory(error):
                raise OutOfMemory from error
            raise


def _padded(call: Headed, device: torch.device, batch: Batch) -> Outputs:
    from lc_finetune.inference.backends import cuda

    inputs = {name: cuda.to_device(array, device) for name, array in batch.feed.items()}
    return Outputs(*cuda.to_host(*call(**inputs)))


def settle_threads() -> None:
    """In a forked process, compute in one thread: OpenMP's pool does not survive a fork."""
    import torch

    from lc_finetune.inference import worker

    if sys.platform == "linux" and worker.forked:
        torch.set_num_threads(1)
