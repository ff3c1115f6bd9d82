"""RMSNorm with a gate in compiled code for a CPU: each token is read twice and written once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from jrt_kernels.jit.compiler import jit
from jrt_kernels.jit.lanes import each, fma, load, mul, silu, splat, store, total
from jrt_kernels.jit.recurrence import scratch
from jrt_kernels.jit.tensors import alike, check, flat, rows, run, whole

TOKENS = 16
HALF = (torch.float32, torch.bfloat16)


@jit
def _norm(  # type: ignore[no-untyped-def]
    first, last, tokens, channels, group, size, x, x_step, z, z_step, gate, weight, period, eps, out
):  # fmt: skip
    """Units are 16 tokens; gate 0: none, 1: before, 2: after the norm; `size` of a group's channels count."""
    y, scale = scratch(channels), scratch(16)
    for t in range(first * TOKENS, min(last * TOKENS, tokens)):
        for start in range(0, channels, group):
            squares = splat(np.float32(0))
            for c in range(start, start + group, 16):
                value = load(x, t * x_step + c)
                if gate == 1:
                    value = mul(value, silu(load(z, t * z_step + c)))
                store(y, c, value)
                squares = fma(value, value, squares)
            scale[0] = np.float32(1) / np.sqrt(total(squares) / np.float32(size) + eps)
            by, shift = each(scale, 0), start % period - start
            for c in range(start, start + group, 16):
                value = mul(mul(load(y, c), by), load(weight, shift + c))
                if gate == 2:
                    value = mul(value, silu(load(z, t * z_step + c)))
                store(out, t * channels + c, value)


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
    """As `jrt_kernels.gated_norm.naive.gated_norm`.

    Raises Unsupported for fp64, for tensors on a GPU and where a gradient is wanted.
    """
    check("gated_norm", x, weight, z)
    batch, tokens, channels = x.shape
    size = channels if group is None else group
    wanted = x.dtype if dtype is None else dtype
    scale = torch.ones(size) if weight is None else weight
    wide = -size % 16

    def widened(y: Tensor) -> Tensor:  # (..., D), each group filled up by zeros to a multiple of 16 channels
        return pad(y.unflatten(-1, (-1, size)), (0, wide)).flatten(-2) if wide else y

    x, scale = widened(x), widened(scale)
    out = torch.empty(x.shape, dtype=wanted if wanted in HALF else torch.float32)
    if tokens and batch:
        gate = 0 if z is None else 2 if norm_first else 1
        x, z = alike(x, x[..., :0] if z is None else widened(z))
        values, x_step = rows(x)
        gates, z_step = rows(z) if gate else (flat(z), 0)
        run(
            _norm, -(-batch * tokens // TOKENS), batch * tokens, x.shape[-1], size + wide, size,
            values, x_step, gates, z_step, gate, whole(scale), scale.shape[0], np.float32(eps), flat(out),
            parallel=tokens > 1,
        )  # fmt: skip
    o = out.unflatten(-1, (-1, size + wide))[..., :size].flatten(-2) if wide else out
    return o.to(wanted), ()
