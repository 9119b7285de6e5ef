"""Training computes no more than its rows need, and gives the same model."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from lc_finetune.train.sampling import LengthSampler, SortedSampler
from lc_finetune.train.vocabulary import PartOfEmbedding, seen_rows

ROWS = [{"input_ids": [2, 7, 9, 3]}, {"input_ids": [2, 9, 11, 3]}]


def test_a_step_has_rows_of_like_length() -> None:
    """Each row once, in another order in each epoch, the same for the same seed; no step is short but the last."""
    lengths = [5 + row * 7919 % 90 for row in range(1010)]
    sampler, other = (LengthSampler(lengths, rows_per_step=20, seed=3) for _ in range(2))
    first = list(sampler)
    steps = [[lengths[row] for row in first[i : i + 20]] for i in range(0, 1000, 20)]
    padding = 1 - sum(map(sum, steps)) / sum(20 * max(step) for step in steps)

    assert sorted(first) == list(range(1010))
    assert padding < 0.04
    assert [max(step) for step in steps] != sorted(max(step) for step in steps)
    assert first == list(other)
    other.set_epoch(1)
    assert first != list(other)


def test_fewer_rows_than_a_step_are_one_step() -> None:
    """Each of them once."""
    assert sorted(LengthSampler([3, 9, 4], rows_per_step=32, seed=0)) == [0, 1, 2]


def test_rows_that_are_measured_are_sorted() -> None:
    """The shortest first, others in their order."""
    assert list(SortedSampler([9, 3, 9, 1])) == [3, 1, 0, 2]


def test_only_the_rows_of_the_data_s_pieces_are_trained(base_model: Path) -> None:
    """A step changes them as it does in the whole model; the others come out as they went in."""

    def stepped(part: bool) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(base_model, num_labels=2).eval()
        before = model.get_input_embeddings().weight.detach().clone()

        def step() -> None:
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
            ids = torch.tensor([row["input_ids"] for row in ROWS])
            model(input_ids=ids, labels=torch.tensor([0, 1])).loss.backward()
            optimizer.step()

        if part:
            with seen_rows(model, ROWS, 0):
                assert list(model.get_input_embeddings().weight.shape) == [6, before.shape[1]]
                step()
        else:
            step()
        return before, model.get_input_embeddings().weight.detach()

    before, whole = stepped(part=False)
    _, part = stepped(part=True)

    assert len(before) > 12
    torch.testing.assert_close(part, whole, rtol=0, atol=1e-5)
    changed = [row for row in range(len(before)) if not torch.equal(before[row], part[row])]
    assert changed == [2, 3, 7, 9, 11]


def test_a_piece_that_the_data_lacks_is_an_error(base_model: Path) -> None:
    """And never the state of another piece."""
    model = AutoModelForSequenceClassification.from_pretrained(base_model, num_labels=2)
    with seen_rows(model, ROWS, 0), pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.tensor([[2, 8, 3]]))
    assert type(model.get_input_embeddings()) is torch.nn.Embedding


def test_frozen_embeddings_are_left_whole(base_model: Path) -> None:
    """As beside an adapter."""
    model = AutoModelForSequenceClassification.from_pretrained(base_model, num_labels=2)
    model.get_input_embeddings().weight.requires_grad_(False)
    with seen_rows(model, ROWS, 0):
        assert not isinstance(model.get_input_embeddings(), PartOfEmbedding)
