"""The defaults, in one place: what nobody should need to tune."""

from __future__ import annotations

WEIGHT_DECAY = 0.01
HEAD_RATE = 10.0
"""Learning rate of the new head, in times of the encoder's."""
WARMUP = 0.1
"""Share of the steps over which the learning rate rises."""
LABEL_SMOOTHING = {"text-classification": 0.1, "text-pair-classification": 0.1, "relation-classification": 0.1}
"""Of tasks with one right answer whose scores are softened in training; 0 for the others."""
ENCODER_SHARES = (1.0, 0.9, 0.8, 0.7)
"""Shares of a fine-tuned tagger's encoder, the rest from the base model, that are tried on the validation rows."""
OUTSIDE_BIASES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""What is taken off a tagger's logit of `O`, as tried on the validation rows."""
MAX_LENGTH = 256
"""Pieces in one window, unless the model has fewer positions; longer texts are read in windows."""
STEPS = {
    "text-classification": 1_400,
    "text-pair-classification": 1_400,
    "multi-label-classification": 1_400,
    "regression": 1_400,
    "token-classification": 430,
    "relation-classification": 1_400,
}
"""Steps that a fine-tuning wants, whatever the size of the data; taggers learn from every word and overfit sooner."""
EPOCHS = (4, 20)
"""Fewest and most passes over the data."""


def learning_rate(hidden_size: int) -> float:
    """Choose the encoder's peak learning rate: 2e-4 at 384 wide, falling with the square of the width (5e-5 at 768)."""
    return float(min(5e-4, max(1e-5, 2e-4 * (384 / hidden_size) ** 2)))


def epochs(task: str, rows: int, batch_size: int) -> int:
    """Choose the passes over the data that make about `STEPS` steps, within `EPOCHS`."""
    steps = -(-rows // batch_size)
    return min(EPOCHS[1], max(EPOCHS[0], round(STEPS[task] / steps)))
