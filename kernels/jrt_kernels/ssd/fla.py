"""The recurrence of Mamba-2 as gated linear attention by flash-linear-attention: `fla.ops.simple_gla`.

q = C, k = B, v = dt x, g = dt A; it wants q and k for each head, so B and C are copied for all of a group.
Its state is (H, N, P), ours (H, P, N).
"""

from __future__ import annotations

from torch import Tensor

from jrt_kernels.gpu import check, check_pack, require


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `jrt_kernels.ssd.naive.ssd`, differentiable. Raises Unsupported for fp64, a CPU, a missing fla."""
    check("ssd", "fla", x, dt, A, B, C, D, initial_state, backward=True)
    require("ssd", "fla")
    check_pack("ssd", x, cu_seqlens)
    from fla.ops.simple_gla import chunk_simple_gla

    each = x.shape[2] // B.shape[2]
    dt = dt.float()
    y, state = chunk_simple_gla(
        q=C.repeat_interleave(each, 2),
        k=B.repeat_interleave(each, 2),
        v=(x * dt[..., None]).to(x.dtype),
        g=dt * A.float(),
        scale=1.0,
        initial_state=None if initial_state is None else initial_state.float().transpose(2, 3).contiguous(),
        output_final_state=True,
        cu_seqlens=cu_seqlens,
    )
    if D is not None:
        y = y + D.to(y.dtype)[:, None] * x
    return y.to(x.dtype), state.float().transpose(2, 3)
