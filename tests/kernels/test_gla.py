"""Gated linear attention: chunks of matrix products against the recurrence."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from jrt_kernels.gla.naive import gla as naive
from jrt_kernels.gla.torch import gla as chunked


def rms(value: Tensor, reference: Tensor) -> float:
    """Relative RMS error."""
    reference = reference.double()
    return float((value.double() - reference).norm() / reference.norm().clamp(min=1e-30))


def inputs(batch: int, tokens: int, strength: float = 0.1) -> list[Tensor]:
    make = torch.Generator().manual_seed(batch * 1000 + tokens)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make)

    q, k, v = normal(batch, tokens, 3, 7), normal(batch, tokens, 3, 7), normal(batch, tokens, 3, 5)
    return [q, k, v, -strength * torch.rand(batch, tokens, 3, 7, generator=make)]


def double(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.double() for tensor in tensors]


def states(rows: int) -> Tensor:
    return torch.randn(rows, 3, 7, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 100])
def test_equals_the_recurrence(batch: int, tokens: int) -> None:
    given = inputs(batch, tokens)
    start = states(batch)
    o, state = chunked(*given, initial_state=start)
    want_o, want_state = naive(*double(given), initial_state=start.double())
    assert o.dtype == state.dtype == torch.float32
    assert rms(o, want_o) < 2e-6
    assert rms(state, want_state) < 2e-6
    o, state = chunked(*given, scale=1.0)
    want_o, want_state = naive(*double(given), scale=1.0)
    assert rms(o, want_o) < 2e-6
    assert rms(state, want_state) < 2e-6


@pytest.mark.parametrize("strength", [0.0, 1e-4, 1.0, 3.0, 6.0, 20.0, 1e3, 1e6])
def test_any_gate(strength: float) -> None:
    given = inputs(2, 70, strength)
    o, state = chunked(*given)
    want_o, want_state = naive(*double(given))
    assert rms(o, want_o) < 1e-5
    assert rms(state, want_state) < 1e-5


@pytest.mark.parametrize("gate", [-30.0, -200.0, -1e4, -torch.inf])
def test_a_strong_gate_between_weak_ones(gate: float) -> None:
    given = inputs(2, 70, 1e-3)
    given[3][:, 5] = gate
    given[3][:, 33, 1, 2:4] = gate
    o, state = chunked(*given)
    want_o, want_state = naive(*double(given))
    assert rms(o, want_o) < 1e-5
    assert rms(o[:, 5:16], want_o[:, 5:16]) < 1e-5
    assert rms(state, want_state) < 1e-5


def test_splits_anywhere() -> None:
    given = inputs(2, 100)
    want_o, want_state = chunked(*given)
    for cuts in ([1], [16], [37, 38, 90]):
        state, pieces = None, []
        for start, stop in zip([0, *cuts], [*cuts, 100], strict=True):
            o, state = chunked(*(t[:, start:stop] for t in given), initial_state=state)
            pieces.append(o)
        assert state is not None
        assert rms(torch.cat(pieces, 1), want_o) < 2e-6
        assert rms(state, want_state) < 2e-6


@pytest.mark.parametrize("op", [naive, chunked])
def test_packed_equals_alone(op) -> None:  # type: ignore[no-untyped-def]
    marks = [0, 20, 20, 21, 60]
    given = inputs(1, 60)
    start = states(4)
    o, state = op(*given, scale=0.5, initial_state=start, cu_seqlens=torch.tensor(marks))
    assert state.shape == start.shape
    assert torch.equal(state[1], start[1])  # an empty sequence
    for row, (a, b) in enumerate(pairwise(marks)):
        want_o, want_state = op(*(t[:, a:b] for t in given), scale=0.5, initial_state=start[row : row + 1])
        assert torch.allclose(o[:, a:b], want_o, atol=1e-6)
        assert torch.allclose(state[row], want_state[0], atol=1e-6)


@pytest.mark.parametrize("strength", [0.1, 9.0])
def test_gradients_equal_the_recurrence(strength: float) -> None:
    for tokens in (1, 40):
        given = double(inputs(2, tokens, strength))
        grads = []
        for op in (naive, chunked):
            leaves = [t.clone().requires_grad_() for t in (*given, states(2).double())]
            o, state = op(*leaves[:4], initial_state=leaves[4])
            (o.square().sum() + state.sin().sum()).backward()
            grads.append([leaf.grad for leaf in leaves])
        for want, got in zip(*grads, strict=True):
            assert want is not None and got is not None
            assert rms(got, want) < 1e-9


def test_does_not_touch_its_inputs() -> None:
    given = [*inputs(1, 40), states(1)]
    before = [t.clone() for t in given]
    chunked(*given[:4], initial_state=given[4])
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


def test_half_precision_inputs_keep_a_full_state() -> None:
    given = [t.bfloat16() for t in inputs(2, 50)]
    o, state = chunked(*given)
    want_o, want_state = naive(*double(given))
    assert o.dtype == torch.bfloat16 and state.dtype == torch.float32
    assert rms(state, want_state) < 1e-5
    assert rms(o, want_o) < 5e-3
