"""The recurrence of Mamba-2 by its authors: `mamba_ssm.ops.triton.ssd_combined.mamba_chunk_scan_combined`.

It has our layouts. It takes one initial state for a row, not for each sequence of a pack: a pack is read one
sequence after the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jrt_kernels.gpu import check, require
from jrt_kernels.packed import by_sequence

CHUNK = 256


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
    """As `jrt_kernels.ssd.naive.ssd`, differentiable. Raises Unsupported for fp64, a CPU, no mamba_ssm."""
    check("ssd", "mamba_ssm", x, dt, A, B, C, D, initial_state, backward=True)
    require("ssd", "mamba_ssm")
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    def dense(
        x: Tensor, dt: Tensor, B: Tensor, C: Tensor, *, initial_state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        batch, tokens, heads, width = x.shape
        if tokens == 0:
            nothing = torch.zeros(batch, heads, width, B.shape[3], device=x.device)
            return torch.empty_like(x), nothing if initial_state is None else initial_state.float()
        y, state = mamba_chunk_scan_combined(
            x,
            dt.float(),
            A.float(),
            B,
            C,
            chunk_size=CHUNK,
            D=D,
            initial_states=None if initial_state is None else initial_state.float(),
            return_final_states=True,
        )
        return y.to(x.dtype), state.float()

    if cu_seqlens is not None:
        return by_sequence(dense, (x, dt, B, C), cu_seqlens, initial_state)
    return dense(x, dt, B, C, initial_state=initial_state)
