"""Gated linear attention by flash-linear-attention: `fla.ops.gla.chunk_gla`, from 0.5 on.

It has our layouts, wants its state in fp32, and divides by decays inside a chunk: gates are cut at FORGOTTEN.
"""

from __future__ import annotations

from torch import Tensor

from jrt_kernels.gpu import check, check_pack, require

FORGOTTEN = -100.0  # exp of it is zero beside anything, and a sum of a chunk's gates stays finite


def gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `jrt_kernels.gla.naive.gla`, differentiable. Raises Unsupported for fp64, a CPU, a missing fla."""
    check("gla", "fla", q, k, v, g, initial_state, backward=True)
    require("gla", "fla")
    check_pack("gla", q, cu_seqlens)
    from fla.ops.gla import chunk_gla

    o, state = chunk_gla(
        q=q,
        k=k,
        v=v,
        g=g.float().clamp(min=FORGOTTEN),
        scale=q.shape[-1] ** -0.5 if scale is None else scale,
        initial_state=None if initial_state is None else initial_state.float(),
        output_final_state=True,
        cu_seqlens=cu_seqlens,
    )
    return o.to(v.dtype), state.float()
