"""Products on AMX's tiles, where the processor has them: Mamba-2's recurrence in bf16."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jrt_kernels.registry import numba_problem
from jrt_kernels.ssd.naive import ssd as naive

if (problem := numba_problem()) is not None:
    pytest.skip(f"numba cannot be imported: {problem}", allow_module_level=True)

from jrt_kernels.jit import tiles
from jrt_kernels.jit.compiler import jit
from jrt_kernels.jit.lanes import load
from jrt_kernels.jit.tensors import flat
from jrt_kernels.jit.tiles import clear, configure, fetch, multiply_bf16, put, set_up, store_paired
from jrt_kernels.ssd import numba as compiled

needs_tiles = pytest.mark.skipif(not tiles.present(), reason="this processor has no AMX tiles of bf16")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rms(value: Tensor, reference: Tensor) -> float:
    """Relative RMS error."""
    return float((value.double() - reference.double()).norm() / reference.double().norm())


@needs_tiles
def test_a_product_of_tiles() -> None:
    @jit
    def product(configuration, a, b, paired, c):  # type: ignore[no-untyped-def]
        for i in range(0, 32, 2):
            store_paired(paired, i * 16, load(b, i * 16), load(b, (i + 1) * 16))
        set_up(configuration)
        configure(configuration)
        clear(0)
        fetch(1, a, 0, 64)
        fetch(2, paired, 0, 64)
        multiply_bf16(0, 1, 2)
        multiply_bf16(0, 1, 2)
        put(0, c, 0, 64)
        configuration[:] = np.int8(0)
        configure(configuration)

    a, b, c = normal(16, 32).bfloat16(), normal(32, 16, seed=1), torch.empty(16, 16)
    product(np.zeros(64, np.int8), flat(a), flat(b), np.zeros(512, np.int16), flat(c))
    assert rms(c, 2 * a.double() @ b.bfloat16().double()) < 1e-6


def _inputs(batch: int, tokens: int, groups: int, shift: float) -> dict[str, Any]:
    wide = normal(batch, tokens, 6 * 64 + 2 * groups * 32 + 6).bfloat16()  # slices, as a model gives them
    x, B, C, raw = wide.split([6 * 64, groups * 32, groups * 32, 6], dim=-1)
    return {
        "x": x.unflatten(-1, (6, 64)),
        "dt": torch.nn.functional.softplus(raw.float() + shift),
        "A": -torch.exp(normal(6, seed=1)),
        "B": B.unflatten(-1, (groups, 32)),
        "C": C.unflatten(-1, (groups, 32)),
        "D": normal(6, seed=2),
    }


def _reference(inputs: dict[str, Any], **more: Any) -> tuple[Tensor, Tensor]:
    return naive(**{name: x.double() for name, x in inputs.items()}, **more)


@needs_tiles
@pytest.mark.parametrize("shift", (-6.0, -1.0, 6.0), ids=("keeps", "fades", "forgets"))
@pytest.mark.parametrize("batch, tokens, groups", ((1, 200, 1), (2, 64, 2), (1, 33, 3)))
def test_mamba2_in_tiles(
    batch: int, tokens: int, groups: int, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, state = _inputs(batch, tokens, groups, shift), normal(batch, 6, 64, 32, seed=3)
    given = state.clone()
    # Were the tiles not taken, the test would hold for what it is not about.
    monkeypatch.setattr(compiled, "_ssd", None)
    y, after = compiled.ssd(**inputs, initial_state=state)
    want, end_state = _reference(inputs, initial_state=state.double())
    assert rms(y, want) < 2.5e-3 and rms(after, end_state) < 1e-5
    assert torch.equal(state, given)


@needs_tiles
def test_a_pack_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = _inputs(1, 300, 1, -2.0)
    bounds = torch.tensor([0, 70, 70, 71, 300])
    state = normal(4, 6, 64, 32, seed=3)
    monkeypatch.setattr(compiled, "_ssd", None)
    y, after = compiled.ssd(**inputs, initial_state=state, cu_seqlens=bounds)
    for row, (a, b) in enumerate(pairwise(bounds.tolist())):
        if a == b:
            assert torch.equal(after[row], state[row])
            continue
        part = {name: x if name in "AD" else x[:, a:b] for name, x in inputs.items()}
        want, end_state = _reference(part, initial_state=state[row : row + 1].double())
        assert rms(y[:, a:b], want) < 2.5e-3 and rms(after[row : row + 1], end_state) < 1e-5


@needs_tiles
def test_each_thread_has_its_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = _inputs(3, 128, 2, -2.0)
    one = compiled.ssd(**inputs)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for y, want in zip(compiled.ssd(**inputs), one, strict=True):
        assert torch.equal(y, want)


def test_fp32_and_few_tokens_take_no_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "ssd_tiles", None)
    inputs = _inputs(2, 100, 1, -1.0)
    full = {name: x.float() for name, x in inputs.items()}
    assert rms(compiled.ssd(**full)[0], _reference(full)[0]) < 1e-6
    few = {name: x if name in "AD" else x[:, :8] for name, x in inputs.items()}
    assert rms(compiled.ssd(**few)[0], _reference(few)[0]) < 2.5e-3


@needs_tiles
def test_tiles_are_left_as_they_were_found() -> None:
    """Another library may have set them up once for all."""
    mine = np.zeros(64, np.int8)
    mine[0], mine[16], mine[48] = 1, 32, 8
    before = tiles.remembered()
    try:
        tiles.restore(mine)
        compiled.ssd(**_inputs(1, 64, 1, -1.0))
        assert (tiles.remembered() == mine).all()
    finally:
        tiles.restore(before)
