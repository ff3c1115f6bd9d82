"""Gated linear attention in chunks of matrix products: arXiv 2312.06635, section 4.

Inside a chunk the weight of token s at token t is sum_k q_tk k_sk exp(G_tk - G_sk), G the decay summed from
the chunk's start. While G stays above `SAFE`, exp(G_t) goes into q and exp(-G_s) into k, and one matrix
product does it. Below, exp(-G) could overflow: the exponents are then subtracted pair by pair, in fp64.

Symbols: B batch, T tokens, H heads, K key dim, V value dim, L chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jrt_kernels.packed import by_sequence, compute_dtype

CHUNK = 16
SAFE = -50.0  # exp(50) leaves 16 orders of magnitude for q, k and v, and the rounding of G stays below 1e-5
GONE = -1000.0  # exp of it is zero in fp64 too: a gate below it forgets all, and no difference of sums is nan


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
    """Shapes and meaning as `jrt_kernels.gla.naive.gla`."""
    if cu_seqlens is not None:

        def dense(
            q: Tensor, k: Tensor, v: Tensor, g: Tensor, *, initial_state: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            return gla(q, k, v, g, scale=scale, initial_state=initial_state)

        return by_sequence(dense, (q, k, v, g), cu_seqlens, initial_state)
    real = compute_dtype(v)
    batch, tokens, heads, width = q.shape
    scale = width**-0.5 if scale is None else scale
    if initial_state is None:
        state = torch.zeros(batch, heads, width, v.shape[3], dtype=real, device=v.device)
    else:
        state = initial_state.to(real)
    q_, k_, v_, g_ = (tensor.to(real).transpose(1, 2) for tensor in (q, k, v, g))  # (B,H,T,.)
    q_ = q_ * scale
    if tokens == 0:
        return torch.zeros_like(v), state
    if tokens == 1:
        state = (torch.exp(g_).transpose(2, 3) * state).addcmul_(k_.transpose(2, 3), v_)
        return (q_ @ state).transpose(1, 2).to(v.dtype), state
    g_ = g_.clamp(min=GONE)
    pieces = []
    for start in range(0, tokens, CHUNK):
        cut = slice(start, start + CHUNK)
        o, state = _chunk(q_[:, :, cut], k_[:, :, cut], v_[:, :, cut], g_[:, :, cut], state)
        pieces.append(o)
    return torch.cat(pieces, 2).transpose(1, 2).to(v.dtype), state


def _chunk(q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """q, k, g (B,H,L,K), v (B,H,L,V), state (B,H,K,V) -> o (B,H,L,V), state."""
    length = q.shape[2]
    total = g.cumsum(2)
    if total[:, :, -1].amin() > SAFE:
        to_end = total[:, :, -1:] - total
        from_start = torch.exp(total)
        q = q * from_start
        weights = (q @ (k * torch.exp(-total)).transpose(2, 3)).tril()
    else:
        exact = g.double().cumsum(2)
        to_end = (exact[:, :, -1:] - exact).to(g.dtype)
        from_start = torch.exp(exact.to(g.dtype))
        between = (exact[:, :, :, None] - exact[:, :, None]).to(g.dtype)  # (B,H,L,L,K)
        future = torch.ones(length, length, dtype=torch.bool, device=g.device).triu(1)
        between = between.masked_fill(future[..., None], -torch.inf)
        weights = torch.einsum("bhtk,bhsk,bhtsk->bhts", q, k, torch.exp(between))
        q = q * from_start
    o = weights @ v + q @ state
    left = (k * torch.exp(to_end)).transpose(2, 3) @ v
    return o, from_start[:, :, -1, :, None] * state + left
