"""The selective scan: PyTorch tiles against the recurrence."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from jrt_kernels.selective_scan.naive import selective_scan as naive
from jrt_kernels.selective_scan.torch import selective_scan as tiled


def rms(value: Tensor, reference: Tensor) -> float:
    """Relative RMS error."""
    reference = reference.double()
    return float((value.double() - reference).norm() / reference.norm().clamp(min=1e-30))


def inputs(
    batch: int, tokens: int, channels: int = 7, states: int = 5, shift: float = -1.0
) -> dict[str, Tensor]:
    make = torch.Generator().manual_seed(batch * 1000 + tokens)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make)

    return {
        "x": normal(batch, tokens, channels),
        "dt": torch.nn.functional.softplus(normal(batch, tokens, channels) + shift),
        "A": -torch.exp(normal(channels, states)),
        "B": normal(batch, tokens, states),
        "C": normal(batch, tokens, states),
        "D": normal(channels),
    }


def double(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in tensors.items()}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 63, 64, 65, 200])
def test_equals_the_recurrence(batch: int, tokens: int) -> None:
    given = inputs(batch, tokens)
    start = torch.randn(batch, 7, 5, generator=torch.Generator().manual_seed(0))
    y, state = tiled(**given, initial_state=start)
    want_y, want_state = naive(**double(given), initial_state=start.double())
    assert y.dtype == state.dtype == torch.float32
    assert rms(y, want_y) < 1e-6
    assert rms(state, want_state) < 1e-6
    y, state = tiled(**{**given, "D": None})
    want_y, want_state = naive(**{**double(given), "D": None})
    assert rms(y, want_y) < 1e-6
    assert rms(state, want_state) < 1e-6


@pytest.mark.parametrize("shift", [-12.0, 8.0, 40.0])
def test_any_step_size(shift: float) -> None:
    given = inputs(2, 90, shift=shift)
    y, state = tiled(**given)
    want_y, want_state = naive(**double(given))
    assert rms(y, want_y) < 1e-5
    assert rms(state, want_state) < 1e-5


def test_splits_anywhere() -> None:
    given = inputs(2, 100)
    timed = ("x", "dt", "B", "C")
    want_y, want_state = tiled(**given)
    for cuts in ([1], [16], [37, 38, 90], [64]):
        state, pieces = None, []
        for start, stop in zip([0, *cuts], [*cuts, 100], strict=True):
            piece = {name: t[:, start:stop] if name in timed else t for name, t in given.items()}
            y, state = tiled(**piece, initial_state=state)
            pieces.append(y)
        assert state is not None
        assert rms(torch.cat(pieces, 1), want_y) < 1e-6
        assert rms(state, want_state) < 1e-6


@pytest.mark.parametrize("op", [naive, tiled])
def test_packed_equals_alone(op) -> None:  # type: ignore[no-untyped-def]
    marks = [0, 20, 20, 21, 86]
    given = inputs(1, 86)
    start = torch.randn(4, 7, 5, generator=torch.Generator().manual_seed(0))
    y, state = op(**given, initial_state=start, cu_seqlens=torch.tensor(marks))
    assert state.shape == (4, 7, 5)
    assert torch.equal(state[1], start[1])  # an empty sequence
    for row, (a, b) in enumerate(pairwise(marks)):
        alone = {name: t[:, a:b] if name in ("x", "dt", "B", "C") else t for name, t in given.items()}
        want_y, want_state = op(**alone, initial_state=start[row : row + 1])
        assert torch.allclose(y[:, a:b], want_y, atol=1e-6)
        assert torch.allclose(state[row], want_state[0], atol=1e-6)


def test_gradients_equal_the_recurrence() -> None:
    for tokens in (1, 40, 70):
        given = double(inputs(2, tokens))
        start = torch.randn(2, 7, 5, dtype=torch.double, generator=torch.Generator().manual_seed(0))
        grads = []
        for op in (naive, tiled):
            leaves = {name: t.clone().requires_grad_() for name, t in given.items()}
            first = start.clone().requires_grad_()
            y, state = op(**leaves, initial_state=first)
            (y.square().sum() + state.sin().sum()).backward()
            grads.append([leaf.grad for leaf in (*leaves.values(), first)])
        for want, got in zip(*grads, strict=True):
            assert want is not None and got is not None
            assert rms(got, want) < 1e-10


def test_does_not_touch_its_inputs() -> None:
    given = inputs(1, 70)
    start = torch.randn(1, 7, 5)
    before = {name: t.clone() for name, t in given.items()} | {"start": start.clone()}
    tiled(**given, initial_state=start)
    assert all(torch.equal(t, before[name]) for name, t in (given | {"start": start}).items())


def test_half_precision_inputs_keep_a_full_state() -> None:
    given = {name: t.bfloat16() for name, t in inputs(2, 50).items()}
    y, state = tiled(**given)
    want_y, want_state = naive(**double(given))
    assert y.dtype == torch.bfloat16 and state.dtype == torch.float32
    assert rms(state, want_state) < 1e-5
    assert rms(y, want_y) < 5e-3
