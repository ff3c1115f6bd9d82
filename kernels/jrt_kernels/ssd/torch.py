"""The recurrence of Mamba-2 in chunks of matrix products: arXiv 2405.21060, section 6.

Symbols: B batch, T tokens, H heads, P head dim, N state dim, G groups, J heads of a group, L chunk.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jrt_kernels.packed import by_sequence, compute_dtype

CHUNK = 64


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
    """Shapes and meaning as `jrt_kernels.ssd.naive.ssd`."""
    if cu_seqlens is not None:

        def dense(
            x: Tensor, dt: Tensor, B: Tensor, C: Tensor, *, initial_state: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            return ssd(x, dt, A, B, C, D, initial_state=initial_state)

        return by_sequence(dense, (x, dt, B, C), cu_seqlens, initial_state)
    real = compute_dtype(x)
    batch, tokens, heads, width = x.shape
    groups, states = B.shape[2:]
    each = heads // groups
    x_, dt_, A_, B_, C_ = (tensor.to(real) for tensor in (x, dt, A, B, C))
    if initial_state is None:
        state = x_.new_zeros(batch, groups, each * width, states)
    else:
        state = initial_state.to(real).reshape(batch, groups, each * width, states)
    # exp2 is more than twice as fast as exp in PyTorch on a CPU.
    decay = dt_ * (A_ * math.log2(math.e))
    written = dt_[..., None] * x_
    if tokens == 1:
        kept = torch.exp2(decay).view(batch, groups, each, 1, 1)
        state = (state.unflatten(2, (each, width)) * kept).flatten(2, 3)
        state.addcmul_(written.view(batch, groups, each * width, 1), B_[:, 0, :, None])  # of the product
        y = (state @ C_[:, 0, :, :, None]).view(batch, 1, heads, width)
    elif tokens == 0:
        y = torch.zeros_like(x_)
    else:
        pieces = []
        for start in range(0, tokens, CHUNK):
            cut = slice(start, start + CHUNK)
            y, state = _chunk(written[:, cut], decay[:, cut], B_[:, cut], C_[:, cut], state)
            pieces.append(y)
        y = torch.cat(pieces, 1)
    if D is not None:
        y = torch.addcmul(y, x_, D.to(real)[:, None])
    return y.to(x.dtype), state.reshape(batch, heads, width, states)


def _chunk(written: Tensor, decay: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """written = dt x (B,L,H,P), decay = dt A / ln 2 (B,L,H), B, C (B,L,G,N), state (B,G,JP,N) -> y, state."""
    batch, length, heads, width = written.shape
    groups = B.shape[2]
    each = heads // groups
    B, C = B.transpose(1, 2), C.transpose(1, 2)  # (B,G,L,N)
    # In fp64: the difference of two long sums must be right where the tokens between decay little.
    total = decay.double().cumsum(1).view(batch, length, groups, each).permute(0, 2, 3, 1)  # (B,G,J,L)
    since_start = total.to(decay.dtype)
    to_end = (total[..., -1:] - total).to(decay.dtype)
    between = (total[..., :, None] - total[..., None, :]).to(decay.dtype)  # (B,G,J,L,L)
    future = torch.ones(length, length, dtype=torch.bool, device=decay.device).triu(1)
    weights = between.masked_fill_(future, -torch.inf).exp2_() * (C @ B.transpose(2, 3))[:, :, None]
    values = written.view(batch, length, groups, each, width).permute(0, 2, 3, 1, 4)  # (B,G,J,L,P)
    inside = weights @ values
    # (B,G,L,J,P): one product for all heads of a group
    before = (C @ state.transpose(2, 3)).unflatten(3, (each, width))
    scale = since_start.exp2().permute(0, 3, 1, 2)[..., None]  # (B,L,G,J,1)
    y = torch.addcmul(inside.permute(0, 3, 1, 2, 4), before.transpose(1, 2), scale)
    kept = since_start[..., -1].exp2()[..., None, None]
    left = (values * to_end.exp2()[..., None]).transpose(3, 4).reshape(batch, groups, each * width, length)
    state = (state.unflatten(2, (each, width)) * kept).flatten(2, 3) + left @ B
    return y.reshape(batch, length, heads, width), state
