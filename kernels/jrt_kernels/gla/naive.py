"""Gated linear attention as its recurrence: arXiv 2312.06635, equation 3.

Symbols: B batch, T tokens, H heads, K key dim, V value dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jrt_kernels.packed import by_sequence, compute_dtype


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
    """S_t = diag(exp g_t) S_{t-1} + k_t (outer) v_t;  o_t = (scale q_t) S_t.

    q, k (B,T,H,K); v (B,T,H,V); g (B,T,H,K) log decay <= 0, -inf forgets all; scale defaults to K^-0.5.
    initial_state (B,H,K,V), zero when None; packed: B = 1, cu_seqlens (N+1,), states (N,H,K,V).
    Returns o (B,T,H,V) in the dtype of v, and the state after the last token, fp32 (fp64 for fp64 inputs).
    """
    if cu_seqlens is not None:

        def dense(
            q: Tensor, k: Tensor, v: Tensor, g: Tensor, *, initial_state: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            return gla(q, k, v, g, scale=scale, initial_state=initial_state)

        return by_sequence(dense, (q, k, v, g), cu_seqlens, initial_state)
    real = compute_dtype(v)
    batch, tokens, heads, width = q.shape
    state = torch.zeros(batch, heads, width, v.shape[3], dtype=real, device=q.device)
    if initial_state is not None:
        state = initial_state.to(real)
    q_, k_, v_, g_ = (tensor.to(real) for tensor in (q, k, v, g))
    q_ = q_ * (width**-0.5 if scale is None else scale)
    o = torch.empty_like(v_)
    for t in range(tokens):
        written = k_[:, t, :, :, None] * v_[:, t, :, None, :]
        state = torch.exp(g_[:, t])[..., None] * state + written
        o[:, t] = (q_[:, t, :, :, None] * state).sum(2)
    return o.to(v.dtype), state
