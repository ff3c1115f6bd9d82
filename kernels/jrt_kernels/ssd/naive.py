"""The recurrence of Mamba-2: arXiv 2405.21060, section 6 (scalar decay per head).

Symbols: B batch, T tokens, H heads, P head dim, N state dim, G groups of heads that share B and C.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jrt_kernels.packed import by_sequence, compute_dtype


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
    """h_t = exp(dt_t A) h_{t-1} + dt_t x_t (outer) B_t;  y_t = h_t C_t + D x_t; head j uses group j // (H/G).

    x (B,T,H,P); dt (B,T,H) >= 0; A (H,) negative; B, C (B,T,G,N), G divides H; D (H,) or None.
    initial_state (B,H,P,N), zero when None; packed: B = 1, cu_seqlens (S+1,), states (S,H,P,N).
    Returns y (B,T,H,P) in the dtype of x, and the state after the last token, fp32 (fp64 for fp64 inputs).
    """
    if cu_seqlens is not None:

        def dense(
            x: Tensor, dt: Tensor, B: Tensor, C: Tensor, *, initial_state: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            return ssd(x, dt, A, B, C, D, initial_state=initial_state)

        return by_sequence(dense, (x, dt, B, C), cu_seqlens, initial_state)
    real = compute_dtype(x)
    batch, tokens, heads, width = x.shape
    state = torch.zeros(batch, heads, width, B.shape[3], dtype=real, device=x.device)
    if initial_state is not None:
        state = initial_state.to(real)
    x_, dt_, A_ = (tensor.to(real) for tensor in (x, dt, A))
    B_, C_ = (tensor.to(real).repeat_interleave(heads // B.shape[2], 2) for tensor in (B, C))
    y = torch.empty_like(x_)
    for t in range(tokens):
        decay = torch.exp(dt_[:, t] * A_)[..., None, None]  # (B,H,1,1)
        written = (dt_[:, t, :, None] * x_[:, t])[..., None] * B_[:, t, :, None, :]
        state = decay * state + written
        y[:, t] = (state * C_[:, t, :, None, :]).sum(-1)
    if D is not None:
        y = y + D.to(real)[:, None] * x_
    return y.to(x.dtype), state
