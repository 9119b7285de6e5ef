"""The defaults, in one place: what nobody should need to tune."""

from __future__ import annotations

WEIGHT_DECAY = 0.01
HEAD_RATE = 10.0
"""Learning rate of the new head, in times of the encoder's."""
NOT_IN_BF16 = ("deberta",)
"""Families whose code in transformers fails under autocast to bf16: DeBERTa masks with the least number of float32."""
WARMUP = 0.1
"""Share of the steps over which the learning rate rises."""
LABEL_SMOOTHING = {"text-classification": 0.1, "text-pair-classification": 0.1, "relation-classification": 0.1}
"""Of tasks with one right answer whose scores are softened in training; 0 for the others."""
ENCODER_SHARES = (1.0, 0.9, 0.8, 0.7)
"""Shares of a fine-tuned tagger's encoder, the rest from the base model, that are tried on the validation rows."""
OUTSIDE_BIASES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""What is taken off a tagger's logit of `O`, as tried on the validation rows."""
ADAPTER_RANK = 16
ADAPTER_DROPOUT = 0.05
ADAPTER_TOKENS = 16
"""Length of a prefix."""
ADAPTER_RATES = {"lora": 10.0, "adalora": 10.0, "ia3": 25.0, "prefix": 25.0}
"""Learning rate of an adapter, and of the head beside it, in times of the encoder's when all of it is tuned."""
UNKNOWN_STEPS = 1_000_000
"""Stands for the steps of a training, which AdaLoRA's schedule wants, until they are known."""
FEW_ROWS = (8, 64)
"""Rows a class, from and to, for which the contrastive warm-up is recommended."""
LONGEST_ANSWER = 30
"""Pieces that an answer may have, or as many as the longest of the training rows has."""
WARM_UP_STEPS = 60
WARM_UP_BATCH = 64
"""Texts, two of a class."""
WARM_UP_RATE = 0.5
"""Learning rate of the warm-up, in times of the encoder's."""
WARM_UP_TEMPERATURE = 0.1
DISTILLATION = 1.0
"""Weight of staying near the answers of the checkpoint that is trained further, beside the loss of the labels."""
DISTILLATION_TEMPERATURE = 2.0
PASSED_ON = 1e-3
"""What the layers before the last one multiply a state by, where a regression reads it."""
REGRESSION_C = 10.0
"""Inverse of the penalty of a regression on states of length 1."""
REGRESSION_ITERATIONS = 300
MEAN_SCALE = 10.0
"""How much more the mean of the states counts than a state itself, in the layer that averages."""
MAX_LENGTH = 256
"""Pieces in one window, unless the model has fewer positions; longer texts are read in windows."""
STEPS = {
    "text-classification": 1_400,
    "text-pair-classification": 1_400,
    "multi-label-classification": 1_400,
    "ordinal-classification": 1_400,
    "regression": 1_400,
    "token-classification": 430,
    "question-answering": 1_400,
    "mlm": 2_000,
    "seq2seq": 1_400,
    "relation-classification": 1_400,
    "intent-and-entities": 1_400,
}
"""Steps that a training wants, whatever the size of the data; taggers learn from every word and overfit sooner."""
EPOCHS = (4, 20)
"""Fewest and most passes over the data."""
SEARCH_STARTUP = 5
"""Trials of a search that are drawn at random, and finished trials before any is pruned."""
SEARCH_WARMUP = 1
"""Epochs after which no trial is pruned yet."""
SEARCH_FACTOR = 4.0
"""How far a search looks from the learning rate above, up and down."""
SEARCH_SMOOTHING = 0.2
"""Label smoothing that a search tries at most."""


def learning_rate(hidden_size: int, adapter: str | None = None) -> float:
    """Choose the encoder's peak learning rate: 2e-4 at 384 wide, falling with the square of the width (5e-5 at 768).

    An adapter's is `ADAPTER_RATES` times that.
    """
    rate = float(min(5e-4, max(1e-5, 2e-4 * (384 / hidden_size) ** 2)))
    return rate * ADAPTER_RATES[adapter] if adapter else rate


def epochs(task: str, rows: int, batch_size: int) -> int:
    """Choose the passes over the data that make about `STEPS` steps, within `EPOCHS`."""
    steps = -(-rows // batch_size)
    return min(EPOCHS[1], max(EPOCHS[0], round(STEPS[task] / steps)))
