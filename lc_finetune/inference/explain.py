"""A text and a label → what each piece of the text adds to the label's logit.

Integrated gradients (Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks"), as captum computes
them, along the straight line from a baseline to the text in the space of the embeddings. In the baseline a padding
piece stands for each piece of the text, and special pieces stay, so that all that tells the two apart is the text: what
its pieces are given adds up to the difference of the two logits. A long text is read in the windows that serve it, and
its pieces are given what those windows are, each as much as it counts in the text's logit.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from lc_finetune.errors import EngineError, InputError, MissingDependencyError
from lc_finetune.inference import plan, worker
from lc_finetune.inference.backends.torch import Headed, load_model, settle_threads
from lc_finetune.inference.encode import Encoder, Encoding
from lc_finetune.inference.neighbours import Neighbourhood
from lc_finetune.inference.predictor import Predictor
from lc_finetune.inference.units import trim
from lc_finetune.schemas import Attribution, Explanation

if TYPE_CHECKING:
    import torch

STEPS = (32, 64, 128, 256)
"""Points on the line at which gradients are taken: more where fewer leave too large an error."""
TOLERANCE = 0.01
"""The error that is small enough, as a share of the difference of the logits, or of 1 where that is less."""


@dataclass(frozen=True, slots=True)
class _Share:
    """What the windows of a text have found, each as much as it counts.

    Attributes:
        weights: Of each piece, shape `(pieces,)`.
        logit: Of the text.
        baseline: Of the baseline.
    """

    weights: NDArray[np.float64]
    logit: float
    baseline: float


class Explainer:
    """The torch weights of a checkpoint in float32, whatever serves it; use `explainer_of`."""

    def __init__(self, predictor: Predictor) -> None:
        """Load them onto the predictor's device.

        Raises:
            CheckpointError: If they cannot be loaded.
            MissingDependencyError: If captum is not installed.
        """
        import torch

        self._gradients = _captum()
        settle_threads()
        checkpoint = predictor.checkpoint
        self._device = torch.device(predictor.device)
        loaded = load_model(checkpoint, torch.float32)
        self._model = loaded.to(self._device).requires_grad_(False)
        self._headed = Headed(self._model)
        self._encoder = Encoder(checkpoint.path, offsets=True)
        self._columns = checkpoint.labels.id_of
        self._windowing = predictor.max_length - len(self._encoder.frame), predictor.stride
        self._budget = predictor.token_budget
        self._lock = threading.Lock()

    def explain(
        self,
        text: str,
        label: str,
        *,
        score: float | None = None,
        neighbourhood: Neighbourhood | None = None,
        neighbours: int = 5,
    ) -> Explanation:
        """Explain a label of a text.

        Args:
            text: The text.
            label: One of the checkpoint's.
            score: The label's, as it is served.
            neighbourhood: Rows that the checkpoint keeps.
            neighbours: How many of them are given, at most.

        Raises:
            InputError: If the text cannot be read.
            EngineError: If the weights give no finite number.
        """
        import torch

        (encoding,) = self._encoder.encode([text])
        if isinstance(encoding, InputError):
            raise encoding
        ranges = plan.windows(len(encoding.ids), *self._windowing)
        with self._lock, torch.inference_mode(False), torch.enable_grad():
            share = self._attributed(encoding, ranges, self._columns[label])
            found = None
            if neighbourhood is not None:
                found = neighbourhood.nearest(self._features(encoding, ranges), neighbours)
        difference = share.logit - share.baseline
        if not np.isfinite([*share.weights, difference]).all():
            raise EngineError("Expected finite gradients, found NaN or infinity. Train with a lower learning rate.")
        return Explanation(
            text=text,
            label=label,
            score=score,
            logit=share.logit,
            baseline_logit=share.baseline,
            convergence_delta=float(share.weights.sum()) - difference,
            attributions=tuple(attributions(text, encoding.offsets, share.weights)),
            neighbours=found,
        )

    def _attributed(self, encoding: Encoding, ranges: Sequence[tuple[int, int]], column: int) -> _Share:
        weights = np.zeros(len(encoding.ids))
        logit = baseline = 0.0
        for (start, end), counts in zip(ranges, plan.shares(ranges), strict=True):
            window = self._window(encoding.ids[start:end], column)
            weights[start:end] += counts * window.weights
            logit += counts * window.logit
            baseline += counts * window.baseline
        return _Share(weights, logit, baseline)

    def _window(self, ids: Sequence[int], column: int) -> _Share:
        """Integrate the gradients of one window, in as many steps as it takes."""
        import torch

        frame = self._encoder.frame
        both = [frame.around(ids), frame.around([self._encoder.pad_id] * len(ids))]
        text, baseline = self._model.get_input_embeddings()(torch.tensor(both, device=self._device)).split(1)
        with torch.no_grad():
            logits = self._logits(torch.cat((text, baseline)))[:, column].double().tolist()
        within = slice(len(frame.before), len(frame.before) + len(ids))
        weights = np.zeros(len(ids))
        for steps in STEPS if ids else ():
            found = self._gradients(self._logits).attribute(
                text, baseline, column, n_steps=steps, internal_batch_size=max(1, self._budget // len(both[0]))
            )
            weights = found.sum(dim=-1)[0, within].double().cpu().numpy()
            difference = logits[0] - logits[1]
            if abs(weights.sum() - difference) <= TOLERANCE * max(1.0, abs(difference)):
                break
        return _Share(weights, *logits)

    def _logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Run the model on embedded windows of one length: `(rows, pieces, hidden)` → `(rows, labels)`."""
        mask = embeddings.new_ones(embeddings.shape[:2]).long()
        logits: torch.Tensor = self._model(inputs_embeds=embeddings, attention_mask=mask).logits
        return logits

    def _features(self, encoding: Encoding, ranges: Sequence[tuple[int, int]]) -> NDArray[np.floating]:
        """Take what rows are compared by, as training took it: `(hidden,)`."""
        import torch

        logits, features = [], []
        for start, end in ranges:
            ids = torch.tensor([self._encoder.frame.around(encoding.ids[start:end])], device=self._device)
            with torch.no_grad():
                found = self._headed(ids, torch.ones_like(ids))
            logits.append(found[0][0].cpu().numpy())
            features.append(found[1][0].cpu().numpy())
        return worker.merge(ranges, logits, features, per_piece=False)[1]


def attributions(text: str, offsets: Sequence[tuple[int, int]], weights: NDArray[np.floating]) -> Iterator[Attribution]:
    """Give the weights of pieces to their characters, each character to one part of the text.

    Pieces that share a character, as the bytes of an emoji do, are one part; a piece of nothing but blanks, or of no
    character, counts for the part before it, the first ones for the part after.

    Args:
        text: The text.
        offsets: Character range of each piece, in order.
        weights: Of each piece, shape `(pieces,)`.
    """
    parts: list[tuple[int, int, float]] = []
    ahead = 0.0
    for (first, last), weight in zip(offsets, weights.tolist(), strict=True):
        start, end = trim(text, first, last)
        if parts and (start == end or start < parts[-1][1]):
            begin, until, before = parts.pop()
            parts.append((begin, until if start == end else max(until, end), before + weight))
        elif start == end:
            ahead += weight
        else:
            parts.append((start, end, ahead + weight))
            ahead = 0.0
    if not parts and len(offsets):
        parts.append((0, len(text), ahead))  # blanks are all there is
    for start, end, weight in parts:
        yield Attribution(text=text[start:end], start=start, end=end, weight=weight)


_explainers: WeakKeyDictionary[Predictor, Explainer] = WeakKeyDictionary()
_loading = threading.Lock()


def explainer_of(predictor: Predictor) -> Explainer:
    """Load what explains a predictor's answers, once for as long as the predictor is in memory."""
    with _loading:
        explainer = _explainers.get(predictor)
        if explainer is None:
            explainer = _explainers[predictor] = Explainer(predictor)
        return explainer


def _captum() -> Any:
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise MissingDependencyError(
            "Expected the package captum to explain answers, found none. "
            "Install it: pip install 'lc-finetune[explain]'."
        ) from error
    return IntegratedGradients


_left_behind: list[Explainer] = []


def _start_over() -> None:
    global _loading
    _loading = threading.Lock()
    _left_behind.extend(_explainers.values())  # kept, not freed: what they hold may be the parent's alone to free
    _explainers.clear()


worker.after_fork.append(_start_over)
