"""The losses against values worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jrtcli.errors import UsageError
from jrtcli.train.loss import (
    Inputs,
    Objective,
    Sums,
    answer_masks,
    balanced_binary_loss,
    batch_totals,
    find_tag_layer,
)


def test_balanced_binary_loss_by_hand() -> None:
    logits = torch.tensor([0.0, math.log(3.0), math.log(3.0), math.log(3.0)])
    bits = torch.tensor([1.0, 0.0, 0.0, 0.0])
    # the one: -log(1/2); each zero: -log(1 - 3/4)
    expected = 0.5 * math.log(2) + 0.5 * math.log(4)
    loss = balanced_binary_loss(logits, bits, torch.tensor(1.0), torch.tensor(3.0))
    assert loss.item() == pytest.approx(expected)


def test_balanced_binary_loss_of_one_kind_or_none() -> None:
    loss = balanced_binary_loss(torch.zeros(2), torch.ones(2), torch.tensor(2.0), torch.tensor(0.0))
    assert loss.item() == pytest.approx(0.5 * math.log(2))
    empty = torch.zeros(0)
    assert balanced_binary_loss(empty, empty, torch.tensor(0.0), torch.tensor(0.0)).item() == 0.0


def test_answer_masks_find_beginnings() -> None:
    weights = torch.tensor([[0.0, 3.0, 1.0, 0.1, 3.0, 0.0]])
    answer, first = answer_masks(weights)
    assert answer.tolist() == [[False, True, True, False, True, False]]
    assert first.tolist() == [[False, True, False, False, True, False]]


class Layer(nn.Module):
    def forward(self, x: Tensor, state: Any, span: Any) -> tuple[Tensor, Any]:
        return x, state


class Fixed(nn.Module):
    """Hidden states are one-hot tokens, logits twice that: it predicts a repetition."""

    def __init__(self, vocab: int = 4) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.vocab = vocab
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.heads_asked = 0
        self.encoder: Tensor | None = None

    def hidden(self, tokens: Tensor, encoder_length: Tensor | None = None) -> Tensor:
        self.encoder = encoder_length
        x = nn.functional.one_hot(tokens, self.vocab).float()
        for layer in self.layers:
            x, _ = layer(x, None, None)
        return x

    def head(self, hidden: Tensor) -> Tensor:
        self.heads_asked += hidden.shape[0]
        return self.scale * hidden


TOKENS = torch.tensor([[1, 1, 2, 2], [3, 3, 3, 1]])
WEIGHTS = torch.tensor([[0.0, 3.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
TAGS = torch.tensor([[1, 0, -1, -1], [-1, 0, -1, -1]], dtype=torch.int8)


def test_objective_by_hand_and_logits_only_where_needed() -> None:
    model = Fixed()
    objective = Objective(model, tag_layer=None, tag_weight=0.0, width=4)
    loss, sums = objective(Inputs(TOKENS, WEIGHTS, torch.tensor([2, 2]), TAGS, batch_totals(WEIGHTS, TAGS)))
    z = math.exp(2) + 3
    # each token is predicted from the one before: repeated (weight 3), changed (1), changed (1)
    expected = (3 * math.log(z / math.exp(2)) + math.log(z) + math.log(z)) / 5
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert model.heads_asked == 3 and model.encoder is not None
    means = sums.means()
    assert means["ce"] == pytest.approx((math.log(z / math.exp(2)) + 2 * math.log(z)) / 3, rel=1e-5)
    assert means["answer"] == pytest.approx(1 / 3) and means["first"] == pytest.approx(1 / 2)
    assert "tag" not in means


def test_match_bit_head_reads_the_tapped_layer() -> None:
    objective = Objective(Fixed(), tag_layer=0, tag_weight=2.0, width=4)
    assert objective.tag_head is not None
    with torch.no_grad():
        objective.tag_head.weight.copy_(torch.tensor([[0.0, math.log(3.0) / 2, 0.0, -math.log(3.0) / 2]]))
        objective.tag_head.bias.zero_()
    totals = batch_totals(WEIGHTS, TAGS)
    assert totals.tolist() == [5.0, 1.0, 2.0, 0.0]
    loss, sums = objective(Inputs(TOKENS, WEIGHTS, None, TAGS, totals))
    # The head reads the state divided by its root mean square, 1/2 for a one-hot of 4.
    # a one at token 1 (p = 3/4), a zero at token 1 (p = 3/4), a zero at token 3 (p = 1/4)
    tag = 0.5 * -math.log(3 / 4) + 0.5 * (-math.log(1 / 4) - math.log(3 / 4)) / 2
    assert sums.means()["tag_loss"] == pytest.approx(tag, rel=1e-5)
    assert sums.means()["tag"] == pytest.approx(0.5 * (1 + 0.5))
    without, _ = Objective(Fixed(), tag_layer=None, tag_weight=0.0, width=4)(
        Inputs(TOKENS, WEIGHTS, None, TAGS, totals)
    )
    assert loss.item() == pytest.approx(without.item() + 2 * tag, rel=1e-5)
    loss.backward()
    assert objective.tag_head.weight.grad is not None


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    """Each device gets some rows and the totals of all: their losses add up to that of the whole."""
    torch.manual_seed(0)
    objective = Objective(Fixed(), tag_layer=0, tag_weight=1.0, width=4)
    totals = batch_totals(WEIGHTS, TAGS)
    whole, all_sums = objective(Inputs(TOKENS, WEIGHTS, None, TAGS, totals))
    added = Sums()
    parts = []
    for row in (0, 1):
        loss, sums = objective(Inputs(TOKENS[row::2], WEIGHTS[row::2], None, TAGS[row::2], totals))
        parts.append(loss)
        added.add(sums)
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)  # type: ignore[union-attr]
    assert added.numbers()["answers"] == all_sums.numbers()["answers"] == 3
    assert Sums(**added.numbers()).means() == added.means()


def test_find_tag_layer() -> None:
    class PrefixLinearAttention(Layer):
        pass

    model = Fixed()
    with pytest.raises(UsageError, match="tag_layer"):
        find_tag_layer(model, -1)
    with pytest.raises(UsageError, match="2 layers"):
        find_tag_layer(model, 7)
    model.layers.append(PrefixLinearAttention())
    assert find_tag_layer(model, -1) == 2 and find_tag_layer(model, 0) == 0
