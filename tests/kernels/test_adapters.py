"""Other projects' kernels under our signature, without a GPU: fakes that have the real functions' signatures,
check what the real ones check, and compute with `naive`. The contract is then kept through them.

Signatures: fla-org/flash-linear-attention bc3b101d (fla/ops/gla/chunk.py, fla/ops/simple_gla/chunk.py,
fla/modules/conv/causal_conv1d.py), state-spaces/mamba e9594ce1 (mamba_ssm/ops/selective_scan_interface.py,
mamba_ssm/ops/triton/ssd_combined.py).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from jrt_kernels import gpu
from jrt_kernels.registry import FROM_NOTHING, OPS, Unsupported, resolve

HAVE_GPU = torch.cuda.is_available()
pytestmark = pytest.mark.skipif(HAVE_GPU, reason="the real packages are tested there, by the contract")


def _contract() -> ModuleType:
    spec = importlib.util.spec_from_file_location("contract", Path(__file__).with_name("test_contract.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["contract"] = module  # its dataclasses look for themselves
    spec.loader.exec_module(module)
    return module


contract = _contract()
ADAPTERS = [
    (op, backend) for op, backends in OPS.items() for backend in ("fla", "mamba_ssm") if backend in backends
]
CASES = [
    pytest.param(case, backend, id=f"{op}-{case.name}-{backend}")
    for op, backend in ADAPTERS
    for case in contract.CASES
    if case.op == op
]


def _naive(op: str) -> Any:
    return resolve(op, "naive")


def chunk_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    scale: int | None = None,
    initial_state: Tensor = None,  # type: ignore[assignment]
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    if cu_seqlens is not None:
        assert q.shape[0] == 1
        assert initial_state is None or initial_state.shape[0] == len(cu_seqlens) - 1
    assert initial_state is None or initial_state.dtype == torch.float32
    assert q.shape == k.shape == g.shape and v.shape == (*q.shape[:3], v.shape[-1])
    assert torch.isfinite(g).all(), "differences of infinite sums are not numbers"
    o, state = _naive("gla")(q, k, v, g, scale=scale, initial_state=initial_state, cu_seqlens=cu_seqlens)
    return o.to(q.dtype), state if output_final_state else None


def chunk_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    assert not kwargs and g is not None and g.shape == q.shape[:3]
    assert q.shape == k.shape and v.shape == (*q.shape[:3], v.shape[-1])
    gates = g[..., None].expand(q.shape)
    return chunk_gla(q, k, v, gates, scale, initial_state, output_final_state, cu_seqlens=cu_seqlens)  # type: ignore[arg-type]


def causal_conv1d(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool | None = False,
    activation: str | None = None,
    backend: str | None = "triton",
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    chunk_indices: Tensor | None = None,
    cp_context: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Its states are (N, D, W), in x's dtype when they come out."""
    assert weight is not None and weight.shape[0] == x.shape[2] and backend == "triton" and not kwargs
    rows = x.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    width = weight.shape[1]
    assert initial_state is None or initial_state.shape == (rows, x.shape[2], width)
    before = torch.zeros(rows, x.shape[2], width) if initial_state is None else initial_state
    y, short = _naive("short_conv")(
        x, weight, bias, activation=activation, initial_state=before[..., 1:], cu_seqlens=cu_seqlens
    )
    # The input before the last W - 1: any number, nobody may use it.
    state = torch.cat([torch.full_like(short[..., :1], 1e4), short], -1).to(x.dtype)
    return y, state if output_final_state else None


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    return_varlen_states: bool = False,
) -> Any:
    batch, tokens, heads, width = x.shape
    assert B.shape == C.shape == (batch, tokens, *B.shape[2:]) and heads % B.shape[2] == 0
    assert dt.shape == x.shape[:3] and A.shape == (heads,) and tokens > 0
    assert D is None or D.shape in ((heads, width), (heads,))
    assert initial_states is None or initial_states.shape == (batch, heads, width, B.shape[3])
    assert chunk_size & (chunk_size - 1) == 0 and not return_varlen_states
    y, state = _naive("ssd")(x, dt, A, B, C, D, initial_state=initial_states)
    return (y, state) if return_final_states else y


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Any:
    """Channels before tokens; the compiled kernel wants one dtype for what has tokens, fp32 for the rest."""
    batch, channels, tokens = u.shape
    assert delta.shape == u.shape and (z is None or z.shape == u.shape) and A.shape[0] == channels
    assert B.shape == C.shape == (batch, A.shape[1], tokens) and tokens > 0
    assert all(x is None or x.dtype == u.dtype for x in (u, delta, B, C, z))
    assert all(x is None or tokens == 1 or x.stride(-1) == 1 for x in (u, delta, B, C, z))
    assert all(x is None or x.dtype == torch.float32 for x in (A, D, delta_bias))
    assert delta_softplus == (delta_bias is not None)
    by_token = [x.transpose(1, 2) for x in (u, delta, B, C)]
    y, state = _naive("selective_scan")(
        by_token[0], by_token[1], A, by_token[2], by_token[3], D,
        dt_bias=delta_bias, z=None if z is None else z.transpose(1, 2),
    )  # fmt: skip
    return (y.transpose(1, 2), state) if return_last_state else y.transpose(1, 2)


FAKES = {
    "fla.ops.gla": chunk_gla,
    "fla.ops.simple_gla": chunk_simple_gla,
    "fla.modules.convolution": causal_conv1d,
    "mamba_ssm.ops.triton.ssd_combined": mamba_chunk_scan_combined,
    "mamba_ssm.ops.selective_scan_interface": selective_scan_fn,
}


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, function in FAKES.items():
        parts = name.split(".")
        for end in range(1, len(parts)):
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(".".join(parts[:end])))
        module = ModuleType(name)
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(gpu, "problem", lambda backend: None)
    return


each_case = pytest.mark.parametrize(("case", "backend"), CASES)


@each_case
@pytest.mark.parametrize("length", (1, 17))
def test_dense(case: Any, backend: str, length: int, fakes: None) -> None:
    contract.test_dense_equals_naive(case, backend, length)


@each_case
def test_strided(case: Any, backend: str, fakes: None) -> None:
    contract.test_strided_inputs(case, backend)


@each_case
def test_half_precision(case: Any, backend: str, fakes: None) -> None:
    """The kernels of others keep what they keep: outputs are asked for, states only to be fp32."""
    tokens, parameters = contract._inputs(case, 2, 2, 40)
    if "dt" in tokens:  # a step in bf16 is another step
        tokens["dt"] = tokens["dt"].bfloat16().float()
    half = {n: x if n in ("dt", "g") else x.bfloat16() for n, x in tokens.items()}
    got = contract._call(case, backend, half, parameters)
    assert got[0].dtype == torch.bfloat16
    assert all(x.dtype == torch.float32 for x in contract._flatten(got[1]))
    # dt x is rounded to bf16 once more where v has to be: each adds the error of one rounding.
    want = contract._reference(case, half, parameters)
    assert contract._error(got[0], want[0]) < 2 * contract.BF16_OUTPUT_TOLERANCE


@each_case
@pytest.mark.parametrize("from_state", (False, True), ids=("fresh", "from_state"))
def test_packed(case: Any, backend: str, from_state: bool, fakes: None) -> None:
    if from_state and (case.op, backend) in FROM_NOTHING:
        tokens, parameters = contract._inputs(case, 0, 1, 5)
        state = contract._reference(case, tokens, parameters)[1].float()
        with pytest.raises(Unsupported, match="starts from nothing, it takes no initial state"):
            resolve(case.op, backend)(**tokens, **parameters, **dict(case.options), initial_state=state)
        return
    contract._packed(case, backend, (12, 1, 0, 5), from_state=from_state)


@pytest.mark.parametrize(("op", "backend"), ADAPTERS)
def test_without_the_package_the_extra_is_named(op: str, backend: str) -> None:
    case = next(case for case in contract.CASES if case.op == op)
    tokens, parameters = contract._inputs(case, 0, 1, 5)
    extra = {"fla": "gpu", "mamba_ssm": "mamba-ssm"}[backend]
    with pytest.raises(Unsupported, match=rf"{op}: {backend} is not installed: pip install 'jrt\[{extra}\]'"):
        resolve(op, backend)(**tokens, **parameters, **dict(case.options))


def test_what_mamba_ssm_cannot_do_is_refused(fakes: None) -> None:
    case = next(case for case in contract.CASES if case.op == "selective_scan")
    tokens, parameters = contract._inputs(case, 0, 1, 5)
    tokens["x"].requires_grad_()
    with pytest.raises(Unsupported, match="mamba_ssm has no backward"):
        resolve("selective_scan", "mamba_ssm")(**tokens, **parameters)
    with pytest.raises(Unsupported, match="up to 256 states, not 300"):
        resolve("selective_scan", "mamba_ssm")(**{**tokens, **parameters, "A": torch.zeros(12, 300)})


@pytest.mark.parametrize(("op", "backend"), [pair for pair in ADAPTERS if pair not in FROM_NOTHING])
def test_gradients_pass_through(op: str, backend: str, fakes: None) -> None:
    case = next(case for case in contract.CASES if case.op == op)
    tokens, parameters = contract._inputs(case, 0, 2, 9)
    before, _ = contract._inputs(case, 1, 2, 4)
    state = contract._call(case, "naive", before, parameters)[1]
    leaves = [x.requires_grad_() for x in (*tokens.values(), state)]
    made = []
    for name in (backend, "naive"):
        output, final = contract._call(case, name, tokens, parameters, initial_state=state)
        made.append(torch.autograd.grad(output.square().sum() + final.square().sum(), leaves))
    for got, want in zip(*made, strict=True):
        assert contract._error(got, want) < 1e-5
