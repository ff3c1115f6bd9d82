"""The selective scan of Mamba-1 by its authors: `mamba_ssm.ops.selective_scan_interface.selective_scan_fn`.

It wants channels before tokens. It starts each row from nothing and gives no gradient of the last state: a
state to go on from, and a gradient, are refused.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jrt_kernels.gpu import check, require
from jrt_kernels.packed import by_sequence
from jrt_kernels.registry import Unsupported

MOST_STATES = 256


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    z: Tensor | None = None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `jrt_kernels.selective_scan.naive.selective_scan`, from nothing.

    Raises Unsupported for an initial state, more than MOST_STATES states, a gradient, fp64, a CPU, a missing
    mamba_ssm.
    """
    if initial_state is not None:
        raise Unsupported("selective_scan: mamba_ssm's kernel starts from nothing, it takes no initial state")
    if A.shape[1] > MOST_STATES:
        raise Unsupported(f"selective_scan: mamba_ssm takes up to {MOST_STATES} states, not {A.shape[1]}")
    check("selective_scan", "mamba_ssm", x, dt, A, B, C, D, dt_bias, z)
    require("selective_scan", "mamba_ssm")
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    def dense(
        x: Tensor, dt: Tensor, B: Tensor, C: Tensor, z: Tensor | None, *, initial_state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if x.shape[1] == 0:
            return torch.empty_like(x), torch.zeros(x.shape[0], *A.shape, device=x.device)

        def by_channel(y: Tensor) -> Tensor:  # (B, T, D) -> (B, D, T), in the dtype of x
            return y.to(x.dtype).transpose(1, 2).contiguous()

        y, state = selective_scan_fn(
            by_channel(x),
            by_channel(dt),
            A.float().contiguous(),
            by_channel(B),
            by_channel(C),
            D=None if D is None else D.float(),
            z=None if z is None else by_channel(z),
            delta_bias=None if dt_bias is None else dt_bias.float(),
            delta_softplus=dt_bias is not None,
            return_last_state=True,
        )
        return y.transpose(1, 2).to(x.dtype), state.float()

    if cu_seqlens is not None:
        return by_sequence(dense, (x, dt, B, C, z), cu_seqlens, None)
    return dense(x, dt, B, C, z, initial_state=None)
