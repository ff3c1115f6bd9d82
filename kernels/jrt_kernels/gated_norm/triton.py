"""RMSNorm with a gate on a GPU: x and the gate are read once, the result is written once.

A program takes several groups of channels, whole. Symbols: B batch, T tokens, D channels, G groups.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from jrt_kernels.gpu import check, power
from jrt_kernels.registry import Unsupported

ELEMENTS = 2048
MOST_CHANNELS = 1 << 16


@triton.jit
def _kernel(
    x, weight, z, o,
    rows, tokens, groups, size, weight_groups, eps,
    x_b, x_t, x_d, z_b, z_t, z_d,
    WEIGHT: tl.constexpr, GATE: tl.constexpr, NORM_FIRST: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """rows = B T G groups of `size` channels; o is contiguous."""
    r = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    group = r % groups
    t = (r // groups) % tokens
    b = r // (groups * tokens)
    c = tl.arange(0, BD)
    real = (r < rows)[:, None] & (c < size)[None, :]
    d = group[:, None] * size + c[None, :]
    y = tl.load(x + (b * x_b + t * x_t)[:, None] + d * x_d, mask=real, other=0).to(tl.float32)
    gate = y * 0 + 1
    if GATE:
        raw = tl.load(z + (b * z_b + t * z_t)[:, None] + d * z_d, mask=real, other=0).to(tl.float32)
        gate = raw / (1 + tl.exp(-raw))
    if not NORM_FIRST:
        y *= gate
    y = y / tl.sqrt(tl.sum(y * y, 1) / size + eps)[:, None]
    if WEIGHT:
        at = (group % weight_groups)[:, None] * size + c[None, :]
        y *= tl.load(weight + at, mask=real, other=0).to(tl.float32)
    if NORM_FIRST:
        y *= gate
    tl.store(o + r[:, None] * size + c[None, :], y.to(o.dtype.element_ty), mask=real)


def gated_norm(
    x: Tensor,
    weight: Tensor | None = None,
    *,
    eps: float,
    z: Tensor | None = None,
    group: int | None = None,
    norm_first: bool = False,
    dtype: torch.dtype | None = None,
    initial_state: tuple[()] = (),
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, tuple[()]]:
    """As `jrt_kernels.gated_norm.naive.gated_norm`. Raises Unsupported for fp64, a CPU, a gradient, and for
    groups of more than MOST_CHANNELS channels."""
    check("gated_norm", "triton", x, weight, z)
    batch, tokens, channels = x.shape
    size = channels if group is None else group
    if size > MOST_CHANNELS:
        raise Unsupported(f"gated_norm: triton takes up to {MOST_CHANNELS} channels in a group, not {size}")
    o = torch.empty(batch, tokens, channels, dtype=x.dtype if dtype is None else dtype, device=x.device)
    groups = channels // size
    rows = batch * tokens * groups
    if rows == 0:
        return o, ()
    wide = power(size)
    each = max(1, ELEMENTS // wide)
    gate = x if z is None else z
    _kernel[(triton.cdiv(rows, each),)](
        x, x if weight is None else weight.contiguous(), gate, o,
        rows, tokens, groups, size, 1 if weight is None else weight.numel() // size, eps,
        *x.stride(), *gate.stride(),
        WEIGHT=weight is not None, GATE=z is not None, NORM_FIRST=norm_first, BR=each, BD=wide,
        num_warps=min(16, max(1, wide * each // 512)),
    )  # fmt: skip
    return o, ()
