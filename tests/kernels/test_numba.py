"""What only the compiled backend has: its vectors, its views of tensors, its threads, its cache on disk."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextvars import copy_context
from pathlib import Path

import numpy as np
import pytest
import torch

from jrt_kernels import registry
from jrt_kernels.jit.compiler import _NoCache, jit
from jrt_kernels.jit.lanes import decay, exp2, load, silu, store, total
from jrt_kernels.jit.pointwise import add_to, gated, log_sigmoid, rotary
from jrt_kernels.jit.product import few_rows, matvec, serves
from jrt_kernels.jit.tensors import flat, rows, sequences
from jrt_kernels.registry import OPS, Unsupported, choose, resolve
from jrtcli.commands.compiling import say_when_compiling
from jrtcli.console import Console
from jrtcli.machine import EXTRAS, inspect
from jrtcli.models.linear import quantize


@jit
def _exp2(x, y):  # type: ignore[no-untyped-def]
    for i in range(0, len(x), 16):
        store(y, i, exp2(load(x, i)))


@jit
def _silu(x, y):  # type: ignore[no-untyped-def]
    for i in range(0, len(x), 16):
        store(y, i, silu(load(x, i)))


@jit
def _decay(rate, time, y):  # type: ignore[no-untyped-def]
    for i in range(0, len(y), 16):
        store(y, i, decay(load(rate, i), load(time, i)))


@jit
def _total(x):  # type: ignore[no-untyped-def]
    return total(load(x, 0))


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_exp2_is_right_to_a_few_units_of_the_last_place() -> None:
    x = np.linspace(-126, 127, 1 << 18, dtype=np.float32)
    x[:4] = (0, -1e-6, -1e-3, 1)
    y = np.empty_like(x)
    _exp2(x, y)
    want = np.exp2(x.astype(np.float64))
    assert np.abs(y / want - 1).max() < 2.5e-7
    # A decay near 1 is applied at every token: its error must not be of one sign, and 2^0 is exactly 1.
    assert y[0] == 1 and y[3] == 2


def test_exp2_at_its_ends() -> None:
    x = np.zeros(16, np.float32)
    x[:5] = (-np.inf, -1000, 1000, np.inf, np.nan)
    y = np.empty_like(x)
    _exp2(x, y)
    assert (y[:2] == 2.0**-126).all() and (y[2:4] == 2.0**127).all() and np.isnan(y[4])


def test_a_decay_is_right_to_a_few_units_of_the_last_place() -> None:
    rate = -np.exp(np.linspace(-8, 4, 1 << 16, dtype=np.float32))
    time = np.random.default_rng(0).uniform(0, 2, 1 << 16).astype(np.float32)
    time[:2] = (0, 1e-9)
    y = np.empty_like(time)
    _decay(rate, time, y)
    want = np.exp2(rate.astype(np.float64) * time)
    assert y[0] == 1 and np.abs(y / want - 1)[want > 1e-37].max() < 2.5e-7
    assert (y[want < 1e-38] < 2e-38).all()


def test_a_decay_at_its_ends() -> None:
    rate = np.full(16, -1, np.float32)
    time = np.zeros(16, np.float32)
    time[:4] = (200, 1e4, 1e9, np.nan)
    y = np.empty_like(time)
    _decay(rate, time, y)
    assert (y[:3] < 2e-38).all() and (y[:3] >= 0).all() and np.isnan(y[3])


def test_silu_at_its_ends() -> None:
    x = np.zeros(16, np.float32)
    x[:5] = (-np.inf, -1e4, 1e4, np.inf, np.nan)
    y = np.empty_like(x)
    _silu(x, y)
    assert not np.abs(y[1]) > 1e-30 and y[2] == 1e4 and y[3] == np.inf and np.isnan(y[4])


def test_silu() -> None:
    x = np.linspace(-60, 60, 4096, dtype=np.float32)
    y = np.empty_like(x)
    _silu(x, y)
    want = torch.nn.functional.silu(torch.from_numpy(x).double()).numpy()
    assert np.abs(y - want).max() < 1e-5 and np.linalg.norm(y - want) / np.linalg.norm(want) < 3e-7


def test_the_sum_of_the_lanes() -> None:
    assert _total(np.arange(16, dtype=np.float32)) == 120


def test_bf16_is_rounded_as_torch_rounds_it() -> None:
    special = torch.tensor(
        [float("nan"), float("inf"), -float("inf"), 3.4e38, 1e-45, -0.0, 1.00390625, 1.01171875]
    )
    x = torch.cat([special, _normal(4096 - 8) * 1e3])
    y = torch.empty(4096, dtype=torch.bfloat16)
    zero = torch.empty(4096)

    @jit
    def copy(x, y):  # type: ignore[no-untyped-def]
        for i in range(0, len(x), 16):
            store(y, i, load(x, i))

    copy(flat(x), flat(y))
    assert torch.equal(y.nan_to_num(7.5), x.bfloat16().nan_to_num(7.5))
    copy(flat(y), flat(zero))
    assert torch.equal(zero.nan_to_num(7.5), y.float().nan_to_num(7.5))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("batch, tokens", ((1, 37), (3, 5), (2, 1)))
def test_what_stands_between_products(batch: int, tokens: int, dtype: torch.dtype) -> None:
    both = _normal(batch, tokens, 96).to(dtype)
    x, gate = both.chunk(2, dim=-1)
    wide, rate = x.double(), gate.double()
    rounding = 2e-7 if dtype == torch.float32 else 2.5e-3

    def near(got: torch.Tensor, want: torch.Tensor, error: float = rounding) -> bool:
        return bool((got.double() - want).norm() < error * want.norm())

    stream = _normal(batch, tokens, 48)
    want = stream.double() + wide
    assert add_to(stream, x) is stream and near(stream, want, 2e-7)
    assert near(gated(x, gate), wide * torch.nn.functional.silu(rate))
    assert near(gated(x, gate, activated=False), wide * rate)
    assert gated(x, gate).dtype == dtype and log_sigmoid(x).dtype == torch.float32
    assert near(log_sigmoid(x, 1 / 16), torch.nn.functional.logsigmoid(wide) / 16, 3e-7)
    heads = _normal(batch, tokens, 3 * 48).to(dtype).unflatten(-1, (3, 48))
    angles = _normal(batch, tokens, 16) * 3
    a, b, rest = heads.double().split([16, 16, 16], dim=-1)
    cos, sin = (y[:, :, None].double() for y in (angles.cos(), angles.sin()))
    turned = torch.cat([a * cos - b * sin, a * sin + b * cos, rest], dim=-1) * 0.5
    assert near(rotary(heads, angles.cos(), angles.sin(), 0.5), turned)


@pytest.mark.slow
def test_code_for_other_processors() -> None:
    """What is done with AVX-512 here has a way without it: compiled for an AVX2 processor, it agrees."""
    program = """
import torch
from jrt_kernels.registry import resolve
g = torch.Generator().manual_seed(0)
normal = lambda *shape: torch.randn(*shape, generator=g)
x, dt, z = normal(1, 40, 64), normal(1, 40, 64) - 2, normal(1, 40, 64)
rates, key = -torch.rand(64, 16, generator=g), normal(1, 40, 32)
for dtype in (torch.float32, torch.bfloat16):
    results = []
    for backend, kind in (("numba", dtype), ("naive", torch.float64)):
        scan, conv, norm = (resolve(op, backend) for op in ("selective_scan", "short_conv", "gated_norm"))
        y, *rest = (u.to(dtype).to(kind) for u in (x, dt, z, *key.chunk(2, -1)))
        u, _ = conv(y, torch.ones(64, 4), activation="silu")
        u, state = scan(y, rest[0], rates, *rest[2:], z=rest[1], dt_bias=torch.zeros(64))
        o, _ = norm(y, torch.ones(64), eps=1e-5, z=rest[1])
        results.append((conv(y, torch.ones(64, 4), activation="silu")[0], u, state, o))
    print(*(float((a - b).norm() / b.norm()) for a, b in zip(*((t.double() for t in r) for r in results))))
"""
    told = {**os.environ, "NUMBA_CPU_NAME": "haswell", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=told, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    full, half = ([float(x) for x in line.split()] for line in done.stdout.splitlines())
    assert max(full) < 1e-6 and max(half) < 4e-3 and half[2] < 1e-6, done.stdout


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("batch", (1, 3))
@pytest.mark.parametrize("tokens", (1, 5))
def test_rows_of_a_slice_are_those_of_the_tensor(batch: int, tokens: int, dtype: torch.dtype) -> None:
    wide = _normal(batch, tokens, 24).to(dtype)
    forms = {
        "whole": wide,
        "columns": wide[..., 8:16],
        "heads": wide[..., 4:].unflatten(-1, (5, 4)),
        "every second value": wide[..., ::2],
        "every second token": _normal(batch, 2 * tokens, 24).to(dtype)[:, ::2],
        "tokens last": _normal(batch, 24, tokens).to(dtype).transpose(1, 2),
        "the first row again": wide[:1].expand(batch, tokens, 24),
    }
    for name, x in forms.items():
        array, step = rows(x)
        inner = x[0, 0].numel()
        got = np.stack([array[r * step : r * step + inner] for r in range(batch * tokens)])
        want = x if dtype != torch.float16 else x.float()
        assert np.array_equal(got, np.stack([flat(y) for y in want.reshape(-1, inner)])), name


def test_columns_of_a_projection_are_not_copied() -> None:
    x = _normal(2, 7, 48)
    array, step = rows(x[..., 16:32])
    assert step == 48 and array.__array_interface__["data"][0] == x.data_ptr() + 16 * 4


def test_sequences() -> None:
    assert sequences(3, 4, None).tolist() == [0, 4, 8, 12]
    assert sequences(1, 4, torch.tensor([0, 1, 1, 4])).tolist() == [0, 1, 1, 4]
    with pytest.raises(ValueError, match="cu_seqlens"):
        sequences(1, 4, torch.tensor([0, 3]))


def test_what_it_cannot_do_is_refused() -> None:
    x, weight = _normal(1, 4, 8), _normal(8, 4)
    conv = resolve("short_conv", "numba")
    with pytest.raises(Unsupported, match="no gradient; take the backend torch"):
        conv(x, weight.requires_grad_())
    with torch.no_grad():
        conv(x, weight)
    with pytest.raises(Unsupported, match="fp64"):
        conv(x.double(), weight)
    with pytest.raises(Unsupported, match="run on a CPU"):
        conv(x.to("meta"), weight.detach())


def test_a_slow_decay_is_not_lost_over_many_tokens() -> None:
    tokens, heads = 60_000, 2
    ones = torch.ones(1, tokens, heads, 16)
    x = torch.zeros(1, tokens, heads, 32)
    x[:, 0] = 1
    dt = torch.full((1, tokens, heads), 1e-5)
    _, state = resolve("ssd", "numba")(x, dt, torch.tensor([-1.0, -2.0]), ones, ones)
    want = 1e-5 * torch.exp(-torch.tensor([1.0, 2.0]) * 1e-5 * (tokens - 1))
    assert torch.allclose(state[0, :, 0, 0], want, rtol=2e-3)


@pytest.mark.parametrize("op", ("selective_scan", "ssd", "gla", "taylor_linear_attention", "short_conv"))
def test_several_threads_compute_the_same(op: str) -> None:
    def inputs(*shape: int) -> torch.Tensor:
        return _normal(2, 70, *shape)

    A = -torch.ones(192, 4) if op == "selective_scan" else -torch.ones(3)
    given = {
        "selective_scan": lambda: (inputs(192), inputs(192).abs(), A, inputs(4), inputs(4)),
        "ssd": lambda: (inputs(3, 8), inputs(3).abs(), A, inputs(1, 16), inputs(1, 16)),
        "gla": lambda: (inputs(3, 8), inputs(3, 8), inputs(3, 8), -inputs(3, 8).abs()),
        "taylor_linear_attention": lambda: (inputs(3, 16), inputs(3, 16), inputs(3, 8)),
        "short_conv": lambda: (inputs(192), _normal(192, 4)),
    }[op]()
    function, before = resolve(op, "numba"), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            output, state = function(*given)
            results.append((output, *(state if isinstance(state, tuple) else (state,))))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, four) for one, four in zip(*results, strict=True))


def test_auto_without_numba_is_torch_and_doctor_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(choose(op, "cpu") == "numba" for op in OPS if op != "sliding_window")
    assert not any("cannot be imported" in backend.reason for backend in inspect().backends)
    original = registry.import_module

    def without(name: str) -> object:
        if name == "numba":
            raise ImportError("Numba needs NumPy 2.4 or less")
        return original(name)

    monkeypatch.setattr(registry, "import_module", without)
    registry.numba_problem.cache_clear()
    try:
        assert all(choose(op, "cpu") == "torch" for op in OPS)
        said = {backend.architecture: backend for backend in inspect().backends}
        assert said["mamba2"].backend == "torch"
        assert "numba, which is faster, cannot be imported: Numba needs NumPy 2.4" in said["mamba2"].reason
    finally:
        registry.numba_problem.cache_clear()
    assert "numba" not in EXTRAS  # an ordinary dependency


CODE = """
import sys, torch
from jrt_kernels.jit.folder import on_compile
from jrt_kernels.registry import resolve
on_compile.set(lambda: print("compiling"))
y, _ = resolve("short_conv", "numba")(torch.ones(1, 4, 8), torch.ones(8, 4))
print(y[0, :, 0].tolist())
"""


@pytest.mark.slow
def test_code_is_compiled_once_and_kept_in_the_users_cache(tmp_path: Path, root: Path) -> None:
    def run(cache: Path) -> list[str]:
        path = os.pathsep.join(str(root / name) for name in ("", "kernels"))
        environment = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(cache)}
        done = subprocess.run(
            [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    result = "[1.0, 2.0, 3.0, 4.0]"
    assert run(tmp_path / "cache") == ["compiling", result]
    assert list((tmp_path / "cache" / "jrt" / "numba").rglob("*.nbc"))
    assert run(tmp_path / "cache") == [result]
    (tmp_path / "file").write_text("where the cache cannot be")
    assert run(tmp_path / "file") == ["compiling", result]


PRODUCTS = {"fp32": (torch.float32, 3e-7), "bf16": (torch.bfloat16, 4e-3), "int8": (torch.float32, 3e-7)}
"""Kind of weights -> dtype of the vectors, and how far one rounding of the result may lie from fp64."""


def _weights(kind: str, outputs: int, size: int) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Weights, their scale, and what they stand for in fp64."""
    weight = _normal(outputs, size).to(PRODUCTS[kind][0])
    if kind != "int8":
        return weight, None, weight.double()
    values, scale = quantize(weight)
    return values, scale, values.double() * scale.double()[:, None]


@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize("outputs", (1, 17, 300))
@pytest.mark.parametrize("size", (16, 48, 64, 208))
@pytest.mark.parametrize("bias", (False, True))
def test_one_row_and_few_rows_times_weights(kind: str, outputs: int, size: int, bias: bool) -> None:
    dtype, tolerance = PRODUCTS[kind]
    weight, scale, exact = _weights(kind, outputs, size)
    offset = _normal(outputs).to(dtype) if bias else None
    add = 0 if offset is None else offset.double()
    for count in (1, 2, 4, 7, 8, 13, 16):
        x = _normal(count, size).to(dtype)
        assert serves(x, weight)
        product = matvec if count == 1 else few_rows
        got, want = product(x, weight, offset, scale), x.double() @ exact.t() + add
        assert got.dtype == dtype and got.shape == want.shape
        assert (got - want).norm() / want.norm() < tolerance


def test_a_row_is_multiplied_alike_whatever_rows_are_beside_it() -> None:
    weight, scale, _ = _weights("int8", 33, 80)
    x = _normal(13, 80)
    together = few_rows(x, weight, None, scale)
    for count in (2, 3, 5, 12):
        assert few_rows(x[:count], weight, None, scale).equal(together[:count])


def test_other_products_are_left_to_torch() -> None:
    x, weight = _normal(1, 32).bfloat16(), _normal(8, 32).bfloat16()
    assert serves(x, weight)
    assert not serves(x.float(), weight)
    assert not serves(x.half(), weight.half())
    assert not serves(x[:, :20], weight[:, :20])


def test_compiling_is_announced_once_on_a_terminal_only() -> None:
    def said(*, terminal: bool) -> str:
        stderr = io.StringIO()
        stderr.isatty = lambda: terminal  # type: ignore[method-assign]

        def announce() -> None:
            say_when_compiling(Console(stderr=stderr))
            for _ in range(2):

                @jit
                def fresh(x):  # type: ignore[no-untyped-def]
                    return len(x)

                fresh._dispatcher._cache = _NoCache()
                fresh.__dict__["compiled"] = fresh._dispatcher
                assert fresh(np.zeros(16, np.float32)) == 16

        copy_context().run(announce)
        return stderr.getvalue()

    assert said(terminal=True).count("compiling kernels (once)") == 1
    assert said(terminal=False) == ""
