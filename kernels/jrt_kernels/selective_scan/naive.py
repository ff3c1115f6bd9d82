"""The selective scan of Mamba-1 as its recurrence: arXiv 2312.00752, equation 2 with algorithm 2.

Symbols: B batch, T tokens, D channels, N states of a channel.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from jrt_kernels.packed import by_sequence, compute_dtype


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
    """h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t;  y_t = C_t . h_t + D x_t.

    x, dt (B,T,D), dt >= 0 (softplus already taken); A (D,N) negative; B, C (B,T,N); D (D,) or None.
    dt_bias (D,): dt is softplus(dt + dt_bias). z (B,T,D): a gate, y is multiplied by silu(z).
    initial_state (B,D,N), zero when None; packed: B = 1, cu_seqlens (S+1,), states (S,D,N).
    Returns y (B,T,D) in the dtype of x, and the state after the last token, fp32 (fp64 for fp64 inputs).
    """
    if cu_seqlens is not None:

        def dense(
            x: Tensor, dt: Tensor, B: Tensor, C: Tensor, z: Tensor | None, *, initial_state: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            return selective_scan(x, dt, A, B, C, D, dt_bias=dt_bias, z=z, initial_state=initial_state)

        return by_sequence(dense, (x, dt, B, C, z), cu_seqlens, initial_state)
    real = compute_dtype(x)
    batch, tokens, channels = x.shape
    state = torch.zeros(batch, channels, A.shape[1], dtype=real, device=x.device)
    if initial_state is not None:
        state = initial_state.to(real)
    x_, dt_, A_, B_, C_ = (tensor.to(real) for tensor in (x, dt, A, B, C))
    if dt_bias is not None:
        dt_ = softplus(dt_ + dt_bias.to(real))
    y = torch.empty_like(x_)
    for t in range(tokens):
        step = dt_[:, t, :, None]  # (B,D,1)
        state = torch.exp(step * A_) * state + step * x_[:, t, :, None] * B_[:, t, None, :]
        y[:, t] = (state * C_[:, t, None, :]).sum(-1)
    if D is not None:
        y = y + D.to(real) * x_
    if z is not None:
        y = y * silu(z.to(real))
    return y.to(x.dtype), state
