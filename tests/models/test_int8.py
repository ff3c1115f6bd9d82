"""Weights as int8 with a scale for each row: how far they are from what they stand for, and the laws."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from jrtcli.errors import CheckpointError
from jrtcli.models.base import RecurrentLM
from jrtcli.models.linear import Linear, int8_linear, quantize
from jrtcli.state import State

BACKENDS = pytest.mark.parametrize("backend", ("torch", "numba"))


def error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


def tokens(*shape: int) -> Tensor:
    return torch.randint(40, shape, generator=torch.Generator().manual_seed(5))


def int8(tiny: Any, backend: str) -> RecurrentLM:
    model: RecurrentLM = copy.deepcopy(tiny.model(backend))
    model.quantize()
    return model


def test_each_number_is_within_half_a_step_and_each_row_has_its_own() -> None:
    weight = (
        torch.randn(50, 33, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 50)[:, None]
    )
    weight[7] = 0
    values, scale = quantize(weight)
    exact = values.double() * scale.double()[:, None]
    assert values.dtype == torch.int8 and values.abs().max() == 127
    assert ((exact - weight.double()).abs() <= 0.5001 * scale.double()[:, None]).all()
    assert exact[7].eq(0).all()
    assert scale.isfinite().all()
    half, of_half = quantize(weight.bfloat16())
    assert error(half.double() * of_half[:, None], weight.bfloat16()) < 1e-2


@pytest.mark.parametrize("rows", (1, 3, 16, 40, 100))
@pytest.mark.parametrize("compiled", (False, True))
@pytest.mark.parametrize(("dtype", "tolerance"), ((torch.float32, 3e-7), (torch.bfloat16, 6e-3)))
def test_a_product_is_the_exact_one_of_the_int8_weights(
    rows: int, compiled: bool, dtype: torch.dtype, tolerance: float
) -> None:
    random = torch.Generator().manual_seed(0)
    values, scale = quantize(torch.randn(35, 48, generator=random))
    x, bias = (
        torch.randn(2, rows, 48, generator=random)[:1].to(dtype),
        torch.randn(35, generator=random).to(dtype),
    )
    want = x.double() @ (values.double() * scale.double()[:, None]).t() + bias.double()
    got = int8_linear(x, values, scale, bias, compiled=compiled)
    assert got.shape == want.shape and got.dtype == dtype
    assert error(got, want) < tolerance


@BACKENDS
def test_the_answer_of_every_architecture_moves_by_rounding_only(tiny: Any, backend: str) -> None:
    ids = tokens(2, 24)
    plain, model = tiny.model(backend), int8(tiny, backend)
    options = {"encoder_length": 24} if model.has_encoder else {}
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in plain.parameters())
    large = [m.weight for m in model.modules() if isinstance(m, Linear)]
    assert (
        large and sum(w.dtype == torch.int8 for w in large) >= len(large) - 1
    )  # a head of its own has a copy
    got, want = model.prefill(ids, **options)[0], plain.prefill(ids, **options)[0]
    assert 0 < error(got, want) < 6e-2


@BACKENDS
def test_split_and_together_hold_as_in_fp32(tiny: Any, backend: str) -> None:
    model = int8(tiny, backend)
    options = {"encoder_length": 24} if model.has_encoder else {}
    ids = tokens(3, 60)
    together, states = model.prefill(ids, **options)
    for row in range(3):
        logits, state = model.prefill(ids[row : row + 1, :50], **options)
        for token in ids[row, 50:]:
            logits, state = model.step(token[None], state)
        assert error(logits, together[row : row + 1]) < 1e-5
        same(state, states.select([row]))


def same(got: State, want: State) -> None:
    for a, b in zip(got.layers, want.layers, strict=True):
        for name, x in b.items():
            if x.is_floating_point():
                y = a[name]
                width = min(x.shape[1], y.shape[1])  # a cache of keys has zeros in front of the shorter
                assert error(y[:, -width:], x[:, -width:]) < 1e-5, name


def test_no_file_is_made_of_int8_weights(tiny: Any) -> None:
    model = int8(tiny, "torch")
    with pytest.raises(CheckpointError, match="cannot be saved"):
        model.to_checkpoint()
