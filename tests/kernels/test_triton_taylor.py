"""What the contract does not ask of the Triton kernels of Taylor and prefix linear attention: all options
together with poisoned memory, segments, gradients, no copies, one token in place, and that they compile.

On a machine with a GPU the same tests run on it, without the interpreter.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jrt_kernels.packed import bounds
from jrt_kernels.prefix_linear_attention import naive as prefix_naive
from jrt_kernels.registry import OPS, Unsupported
from jrt_kernels.taylor_linear_attention import naive, schedule
from jrt_kernels.taylor_linear_attention.features import feature_count

triton = pytest.importorskip("triton")
from jrt_kernels.prefix_linear_attention import triton as prefix  # noqa: E402
from jrt_kernels.taylor_linear_attention import triton as taylor  # noqa: E402
from jrt_kernels.taylor_linear_attention import triton_launch  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FP32 = 1e-5
ROUNDINGS = 1.5  # in bf16: errors over that of rounding the right result
PACK = (17, 0, 69, 1)
H100 = 132  # multiprocessors


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel should have written and did not is not a number."""
    allocate = triton_launch.allocate

    def poison(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return allocate(like, *shape, dtype=dtype).fill_(float("nan"))

    monkeypatch.setattr(triton_launch, "allocate", poison)
    monkeypatch.setattr(taylor, "allocate", poison)


@pytest.fixture(autouse=True)
def large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of fp32 are small, for a compiler's sake: in the interpreter that is only slow."""
    chosen = schedule.forward_blocks

    def blocks(key_dim: int, value_dim: int, dtype: torch.dtype) -> schedule.Blocks:
        sizes = chosen(key_dim, value_dim, dtype)
        return replace(sizes, chunk=max(sizes.chunk, 32), values=max(sizes.values, 32))

    if DEVICE == "cpu":
        monkeypatch.setattr(schedule, "forward_blocks", blocks)


def _error(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    return ((got.double() - want.double()).norm() / want.double().norm().clamp(min=1e-30)).item()


class Problem:
    """Random arguments of one call, dense (two rows of 70 tokens) or packed, with heads a slice of a wider
    tensor.
    """

    def __init__(
        self,
        key_dim: int = 16,
        value_dim: int = 20,
        dtype: torch.dtype = torch.float32,
        *,
        packed: bool = False,
        encoder: bool = False,
        decay: bool = False,
        state: bool = False,
        tokens: int = 70,
        lengths: tuple[int, ...] = PACK,
        seed: int = 0,
    ) -> None:
        g = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g)

        rows, tokens = (1, sum(lengths)) if packed else (2, tokens)
        count, heads = (len(lengths) if packed else rows), 2
        widths = [key_dim, key_dim, value_dim] + ([key_dim, value_dim] if encoder else [])
        wide = normal(rows, tokens, heads * sum(widths)).to(dtype).to(DEVICE)
        parts = wide.split([heads * width for width in widths], dim=-1)
        self.tensors = [x.unflatten(-1, (heads, -1)) for x in parts]
        self.options: dict[str, Any] = {}
        self.prefix = encoder
        if packed:
            self.options["cu_seqlens"] = torch.tensor([0, *itertools.accumulate(lengths)])
        if encoder:
            region = [min(n, 5 + 13 * i) for i, n in enumerate(lengths)] if packed else [min(41, tokens), 9]
            self.options["encoder_lengths"] = torch.tensor(region)
            if not packed:
                self.tensors[3:] = [x[:, :41] for x in self.tensors[3:]]
        if decay:
            self.options["decay"] = torch.tensor([0.9, 0.995])
        if state:
            features = feature_count(key_dim)
            sums = torch.rand(count, heads, features, generator=g)
            sums[..., -1] = 30  # the constant feature counts the tokens: a denominator is never near 0
            self.options["initial_state"] = (normal(count, heads, features, value_dim), sums)
        self.options = {
            name: tuple(x.to(DEVICE) for x in value) if isinstance(value, tuple) else value.to(DEVICE)
            for name, value in self.options.items()
        }

    def run(self) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        op = prefix.prefix_linear_attention if self.prefix else taylor.taylor_linear_attention
        return op(*self.tensors, **self.options)

    def reference(self) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        op = prefix_naive.prefix_linear_attention if self.prefix else naive.taylor_linear_attention
        options = dict(self.options)
        if "initial_state" in options:
            options["initial_state"] = tuple(x.double() for x in options["initial_state"])
        if "decay" in options:
            options["decay"] = options["decay"].double()
        return op(*(x.double() for x in self.tensors), **options)

    def check(self) -> None:
        o, (kv, ksum) = self.run()
        want_o, (want_kv, want_ksum) = self.reference()
        assert o.dtype == self.tensors[2].dtype and kv.dtype == ksum.dtype == torch.float32
        for got, want in ((o, want_o), (kv, want_kv), (ksum, want_ksum)):
            allowed = FP32
            if o.dtype != torch.float32 and got is not ksum:
                allowed = ROUNDINGS * max(_error(want.to(o.dtype), want), FP32)
            assert _error(got, want) < allowed


ALL = dict(encoder=True, state=True)
OPTIONS = [
    dict(),
    dict(packed=True, **ALL),
    dict(packed=True, decay=True, state=True),
    dict(key_dim=8, value_dim=5, tokens=40, **ALL),
    dict(key_dim=5, value_dim=16, packed=True),
    dict(key_dim=24, value_dim=33, tokens=18),
    dict(value_dim=112, dtype=torch.bfloat16, packed=True, **ALL),
    dict(dtype=torch.bfloat16, decay=True),
    dict(key_dim=8, value_dim=64, dtype=torch.bfloat16, tokens=130),
    dict(key_dim=24, dtype=torch.bfloat16, encoder=True, tokens=30),
    dict(dtype=torch.float16, **ALL),
    dict(key_dim=4, dtype=torch.float16, tokens=67),
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()))
def test_equals_naive(options: dict[str, Any]) -> None:
    Problem(**options).check()


@pytest.mark.parametrize(
    "options",
    [
        dict(value_dim=8, packed=True, **ALL),
        dict(value_dim=8, packed=True, decay=True, lengths=(130, 0, 0), dtype=torch.bfloat16),
        dict(value_dim=8, dtype=torch.bfloat16, tokens=150, encoder=True),
    ],
    ids=lambda o: "-".join(o),
)
def test_segments_equal_one_pass(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "segment_tokens", lambda *_: 64)
    Problem(**options).check()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("key_dim", (8, 16, 24))
@pytest.mark.parametrize("value_dim", (16, 70, 128))
def test_every_size_equals_naive(key_dim: int, value_dim: int, dtype: torch.dtype) -> None:
    Problem(key_dim, value_dim, dtype, packed=True, lengths=(129, 63), seed=value_dim, **ALL).check()


def test_the_rule_for_segments() -> None:
    def segments(batch: int, tokens: int, heads: int = 16) -> int:
        size = schedule.segment_tokens(batch * heads, tokens, H100, 64)
        assert size is None or (size % 64 == 0 and size < tokens)
        return 1 if size is None else -(-tokens // size)

    # One wave of two programs a processor is 264: full at batch 16.
    assert segments(16, 32768) == segments(15, 32768) == segments(64, 16384) == 1
    assert segments(2, 16384) == 8 and segments(1, 16384) == 16 and segments(8, 16384) == 2
    assert segments(17, 16384) > 1  # a second wave for 16 programs would take as long as the first
    assert segments(1, 64) == segments(1, 256) == 1  # nothing to gain
    assert segments(1, 32768, heads=1) == schedule.MOST_SEGMENTS


def test_a_small_batch_is_cut_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_launch, "processors", lambda device: 20)
    taken = []
    rule = schedule.segment_tokens
    monkeypatch.setattr(schedule, "segment_tokens", lambda *args: taken.append(rule(*args)) or taken[-1])
    Problem(8, 8, torch.bfloat16, tokens=520).check()
    assert taken == [rule(4, 520, 20, 64)] and taken[0] is not None and taken[0] < 520


def test_blocks_cover_all_features() -> None:
    for key_dim in range(1, schedule.LARGEST_KEYS + 1):
        blocks = schedule.feature_blocks(key_dim)
        assert sum(blocks) >= feature_count(key_dim)
        assert all(size >= 16 and size & (size - 1) == 0 for size in blocks)


def test_a_fused_projection_is_read_where_it_lies() -> None:
    q, k, v = Problem().tensors
    assert not q.is_contiguous()
    assert all(triton_launch.rows(x, torch.float32) is x for x in (q, k, v))
    assert triton_launch.rows(torch.zeros(1, 2, 3, 8)[..., ::2], torch.float32).is_contiguous()


def test_zeroed_keys_keep_their_weight() -> None:
    problem = Problem(encoder=True)
    for i in (1, 3):
        problem.tensors[i] = problem.tensors[i].clone()
        problem.tensors[i][:, :9] = 0
    problem.check()


def test_no_tokens() -> None:
    state = Problem(state=True).options["initial_state"]
    q, k, v = (x[:, :0] for x in Problem().tensors)
    o, (kv, ksum) = taylor.taylor_linear_attention(q, k, v, initial_state=state)
    assert o.shape == v.shape
    assert _error(kv, state[0]) < 1e-6 and _error(ksum, state[1]) < 1e-6


@pytest.mark.parametrize("options", [dict(), dict(decay=True, dtype=torch.bfloat16)], ids=("plain", "decay"))
def test_one_token_writes_the_state_in_place(options: dict[str, Any]) -> None:
    problem = Problem(state=True, tokens=1, **options)
    want_o, want = problem.reference()
    state = problem.options["initial_state"]
    o, new = taylor.step(*problem.tensors, state, decay=problem.options.get("decay"), into=state)
    assert new is state
    assert _error(o, want_o) < (FP32 if o.dtype == torch.float32 else 4e-3)
    assert _error(state[0], want[0]) < FP32 and _error(state[1], want[1]) < FP32
    with pytest.raises(ValueError, match="fp32 and contiguous"):
        taylor.step(*problem.tensors, state, into=(state[0].mT, state[1]))


@pytest.mark.parametrize(
    "options",
    [
        dict(packed=True, lengths=(17, 0, 2), **ALL),
        dict(tokens=17, decay=True),
        dict(key_dim=8, tokens=35, state=True, dtype=torch.bfloat16),
    ],
    ids=lambda o: "-".join(o),
)
def test_gradients_equal_those_of_naive(options: dict[str, Any]) -> None:
    problem = Problem(value_dim=12, **options)

    def gradients(run: Any, dtype: torch.dtype | None) -> list[Tensor]:
        leaves = [x.detach().to(dtype or x.dtype).requires_grad_() for x in problem.tensors]
        state = [x.detach().to(dtype or x.dtype) for x in problem.options.get("initial_state", ())]
        problem.tensors = leaves
        if state:
            problem.options["initial_state"] = tuple(x.requires_grad_() for x in state)
        o, end = run()
        g = torch.Generator().manual_seed(1)
        loss = sum(
            (x.double() * torch.randn(x.shape, generator=g).double().to(DEVICE)).sum() for x in (o, *end)
        )
        return list(torch.autograd.grad(loss, leaves + state))  # type: ignore[arg-type]

    got = gradients(problem.run, None)
    want = gradients(problem.reference, torch.float64)
    tolerance = FP32 if problem.tensors[0].dtype != torch.bfloat16 and "dtype" not in options else 1e-2
    for i, (one, other) in enumerate(zip(got, want, strict=True)):
        assert _error(one, other) < tolerance, f"gradient of input {i}"


def test_what_is_not_served_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = Problem(tokens=3).tensors

    def refused(match: str, *tensors: Tensor, **options: Any) -> None:
        with pytest.raises(Unsupported, match=match):
            taylor.taylor_linear_attention(*tensors, **options)

    refused("fp64", q.double(), k, v)
    refused("24 keys and 128 values, not 25", torch.zeros(1, 2, 1, 25), torch.zeros(1, 2, 1, 25), v)
    refused("not 16 and 129", q, k, torch.zeros(2, 3, 2, 129))
    refused("gradient of the decay", q, k, v, decay=torch.ones(2, requires_grad=True))
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    refused("run on a GPU", q.cpu(), k.cpu(), v.cpu())


def test_bounds_that_do_not_fit_are_refused() -> None:
    q, k, v = (x[:1] for x in Problem(tokens=6).tensors)
    wrong = torch.tensor([0, 7])
    with pytest.raises(ValueError) as expected:
        bounds(wrong, 6)
    with pytest.raises(ValueError) as raised:
        taylor.taylor_linear_attention(q, k, v, cu_seqlens=wrong)
    assert str(raised.value) == str(expected.value)


def test_both_ops_are_in_the_table() -> None:
    assert all("triton" in OPS[op] for op in ("taylor_linear_attention", "prefix_linear_attention"))


def _compiled(root: Path, *names: str) -> list[dict[str, Any]]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "examples/triton_ahead_of_time.py", "--json", *names]
    environment["PYTHONPATH"] = "kernels"
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", ("forward-bf16-16-64", "encoder-bf16-16-64", "segments-bf16-16-64"))
def test_the_flagship_compiles_to_warp_group_products(root: Path, name: str) -> None:
    (row,) = _compiled(root, name)
    assert row["wgmma"] >= 10
    # Two programs share a processor's 64 Ki registers and 227 KiB of shared memory.
    assert row["registers"] * row["warps"] * 32 * schedule.CTAS <= 65536
    assert row["shared_bytes"] * schedule.CTAS <= 227 * 1024


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ("forward-bf16-8-64", "forward-bf16-24-64", "forward-fp16-16-64", "forward-fp32-16-64")
    + ("forward-bf16-16-16", "queries-bf16-16-64", "keys-bf16-16-64")
    + ("decay-bf16-16-64", "packed-bf16-16-64", "starts-bf16-16-64", "step-bf16-16-64")
    + ("queries_encoder-bf16-16-64", "keys_encoder-bf16-16-64", "keys_decay-bf16-16-64")
    + ("queries-bf16-16-128", "keys-bf16-16-128"),
)
def test_all_that_is_shipped_compiles(root: Path, name: str) -> None:
    (row,) = _compiled(root, name)
    assert row["shared_bytes"] <= 227 * 1024


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("batch", (1, 16), ids=("segments", "one_pass"))
@pytest.mark.parametrize("encoder", (False, True), ids=("taylor", "prefix"))
def test_flagship_shapes_on_a_gpu(batch: int, encoder: bool, dtype: torch.dtype) -> None:
    from jrt_kernels.prefix_linear_attention.torch import prefix_linear_attention
    from jrt_kernels.taylor_linear_attention.torch import taylor_linear_attention

    heads, tokens = 16, 4096
    widths = (16, 16, 64, 16, 64) if encoder else (16, 16, 64)
    wide = torch.randn(batch, tokens, heads * sum(widths), device=DEVICE, dtype=dtype)
    parts = wide.split([heads * w for w in widths], dim=-1)
    tensors = [x.unflatten(-1, (heads, -1)) for x in parts]
    ours = prefix.prefix_linear_attention if encoder else taylor.taylor_linear_attention
    o, (kv, ksum) = ours(*tensors)
    # torch's backend in fp64 equals naive's to 1e-10 (the contract) and does not loop over tokens.
    other = prefix_linear_attention if encoder else taylor_linear_attention
    for row in range(0, batch, 5):
        want_o, (want_kv, want_ksum) = other(*(x[row : row + 1].double() for x in tensors))
        for got, want in ((o, want_o), (kv, want_kv), (ksum, want_ksum)):
            allowed = FP32
            if dtype != torch.float32 and got is not ksum:
                allowed = ROUNDINGS * _error(want.to(dtype), want)
            assert _error(got[row : row + 1], want) < allowed
