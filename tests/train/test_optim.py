"""Which optimiser takes what, Muon's step, the schedule's factor and the average of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jrtcli.train.config import OptimizerRecipe
from jrtcli.train.optim import WeightAverage, build_optimizers, set_lr, split_parameters


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(20, 16)
        self.proj = nn.Linear(16, 32)
        self.conv = nn.Conv1d(16, 16, 3, groups=16)
        self.filters = nn.Parameter(torch.ones(16, 3))
        self.lm_head = nn.Linear(16, 20, bias=False)
        self.lm_head.weight = self.embeddings.weight
        self.frozen = nn.Parameter(torch.ones(16, 16), requires_grad=False)


def test_only_hidden_matrices_go_to_muon() -> None:
    model = Small()
    hidden, rest = split_parameters(model.named_parameters())
    assert [id(p) for p in hidden] == [id(model.proj.weight)]
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for p in hidden + rest} == trained and len(hidden + rest) == len(trained)


def test_adamw_alone_takes_everything() -> None:
    (optimizer,) = build_optimizers(Small(), OptimizerRecipe(muon=False))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert len(optimizer.param_groups[0]["params"]) == 6


def test_muon_step_is_orthogonal_and_scaled() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 64, bias=False)
    before = layer.weight.detach().clone()
    (optimizer,) = build_optimizers(layer, OptimizerRecipe(muon_lr=0.1, muon_momentum=0.0))
    layer(torch.randn(8, 16)).pow(2).sum().backward()
    optimizer.step()
    singular = torch.linalg.svdvals((before - layer.weight.detach()) / 0.1)
    large = singular[:8]  # eight samples give a gradient of rank 8
    # 5 Newton-Schulz steps leave the singular values near 1, times sqrt(64 / 16)
    assert bool(((large > 2 * 0.6) & (large < 2 * 1.3)).all())


def test_rates_follow_the_factor() -> None:
    optimizers = build_optimizers(Small(), OptimizerRecipe(muon_lr=0.02, adamw_lr=0.004))
    set_lr(optimizers, 0.5)
    set_lr(optimizers, 0.25)
    assert [group["lr"] for o in optimizers for group in o.param_groups] == pytest.approx([0.005, 0.001])


def test_average_starts_short_swaps_and_reloads() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 0.0)
    average = WeightAverage(layer, decay=0.99)
    nn.init.constant_(layer.weight, 10.0)
    average.update(0)  # decay min(0.99, 1 / 10): nine tenths of the way
    assert average.average[0].item() == pytest.approx(9.0)
    average.swap()
    assert layer.weight.item() == pytest.approx(9.0)
    average.swap()
    assert layer.weight.item() == 10.0
    other = WeightAverage(layer, decay=0.99)
    other.load_state_dict(average.state_dict())
    assert other.average[0].item() == pytest.approx(9.0)
