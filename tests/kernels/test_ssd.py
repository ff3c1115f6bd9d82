"""Mamba-2's recurrence: chunks of matrix products against the recurrence."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from jrt_kernels.ssd.naive import ssd as naive
from jrt_kernels.ssd.torch import ssd as chunked

TIMED = ("x", "dt", "B", "C")


def rms(value: Tensor, reference: Tensor) -> float:
    """Relative RMS error."""
    reference = reference.double()
    return float((value.double() - reference).norm() / reference.norm().clamp(min=1e-30))


def inputs(batch: int, tokens: int, groups: int = 1, shift: float = -1.0) -> dict[str, Tensor]:
    make = torch.Generator().manual_seed(batch * 1000 + tokens)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make)

    return {
        "x": normal(batch, tokens, 6, 5),
        "dt": torch.nn.functional.softplus(normal(batch, tokens, 6) + shift),
        "A": -torch.exp(normal(6)),
        "B": normal(batch, tokens, groups, 9),
        "C": normal(batch, tokens, groups, 9),
        "D": normal(6),
    }


def double(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in tensors.items()}


def states(rows: int) -> Tensor:
    return torch.randn(rows, 6, 5, 9, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("batch", "groups"), [(1, 1), (3, 2), (2, 3), (1, 6)])
@pytest.mark.parametrize("tokens", [1, 2, 63, 64, 65, 200])
def test_equals_the_recurrence(batch: int, groups: int, tokens: int) -> None:
    given = inputs(batch, tokens, groups)
    start = states(batch)
    y, state = chunked(**given, initial_state=start)
    want_y, want_state = naive(**double(given), initial_state=start.double())
    assert y.dtype == state.dtype == torch.float32
    assert rms(y, want_y) < 2e-6
    assert rms(state, want_state) < 2e-6
    y, state = chunked(**{**given, "D": None})
    want_y, want_state = naive(**{**double(given), "D": None})
    assert rms(y, want_y) < 2e-6
    assert rms(state, want_state) < 2e-6


@pytest.mark.parametrize("shift", [-12.0, 8.0, 40.0])
def test_any_step_size(shift: float) -> None:
    given = inputs(2, 150, shift=shift)
    y, state = chunked(**given)
    want_y, want_state = naive(**double(given))
    assert rms(y, want_y) < 1e-5
    assert rms(state, want_state) < 1e-5


def test_a_huge_step_between_small_ones() -> None:
    given = inputs(1, 64)
    given["dt"] = torch.full_like(given["dt"], 1e-3)
    given["dt"][:, 10] = 1e5  # forgets all before; what comes after must not lose its precision
    y, state = chunked(**given)
    want_y, want_state = naive(**double(given))
    assert rms(y[:, 11:], want_y[:, 11:]) < 1e-5
    assert rms(state, want_state) < 1e-5


def test_splits_anywhere() -> None:
    given = inputs(2, 150, 2)
    want_y, want_state = chunked(**given)
    for cuts in ([1], [64], [37, 38, 120]):
        state, pieces = None, []
        for start, stop in zip([0, *cuts], [*cuts, 150], strict=True):
            piece = {name: t[:, start:stop] if name in TIMED else t for name, t in given.items()}
            y, state = chunked(**piece, initial_state=state)
            pieces.append(y)
        assert state is not None
        assert rms(torch.cat(pieces, 1), want_y) < 2e-6
        assert rms(state, want_state) < 2e-6


@pytest.mark.parametrize("op", [naive, chunked])
def test_packed_equals_alone(op) -> None:  # type: ignore[no-untyped-def]
    marks = [0, 20, 20, 21, 96]
    given = inputs(1, 96, 2)
    start = states(4)
    y, state = op(**given, initial_state=start, cu_seqlens=torch.tensor(marks))
    assert state.shape == start.shape
    assert torch.equal(state[1], start[1])  # an empty sequence
    for row, (a, b) in enumerate(pairwise(marks)):
        alone = {name: t[:, a:b] if name in TIMED else t for name, t in given.items()}
        want_y, want_state = op(**alone, initial_state=start[row : row + 1])
        assert torch.allclose(y[:, a:b], want_y, atol=1e-6)
        assert torch.allclose(state[row], want_state[0], atol=1e-6)


def test_gradients_equal_the_recurrence() -> None:
    for tokens in (1, 40, 70):
        given = double(inputs(2, tokens, 2))
        start = states(2).double()
        grads = []
        for op in (naive, chunked):
            leaves = {name: t.clone().requires_grad_() for name, t in given.items()}
            first = start.clone().requires_grad_()
            y, state = op(**leaves, initial_state=first)
            (y.square().sum() + state.sin().sum()).backward()
            grads.append([leaf.grad for leaf in (*leaves.values(), first)])
        for want, got in zip(*grads, strict=True):
            assert want is not None and got is not None
            assert rms(got, want) < 1e-10


def test_does_not_touch_its_inputs() -> None:
    given = inputs(1, 70) | {"initial_state": states(1)}
    before = {name: t.clone() for name, t in given.items()}
    chunked(**given)
    assert all(torch.equal(t, before[name]) for name, t in given.items())


def test_half_precision_inputs_keep_a_full_state() -> None:
    given = {name: t.bfloat16() for name, t in inputs(2, 70).items()}
    y, state = chunked(**given)
    want_y, want_state = naive(**double(given))
    assert y.dtype == torch.bfloat16 and state.dtype == torch.float32
    assert rms(state, want_state) < 1e-5
    assert rms(y, want_y) < 5e-3
