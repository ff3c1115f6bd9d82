"""Causal softmax attention to the last few tokens, in blocks of queries; full attention through torch's
own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from jrt_kernels.packed import by_sequence, compute_dtype
from jrt_kernels.sliding_window.naive import State, end_state, join_right_aligned, start_state


def sliding_window(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int | None,
    initial_state: State | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, State]:
    """As `jrt_kernels.sliding_window.naive.sliding_window`; linear in T where a window is given."""

    def dense(q: Tensor, k: Tensor, v: Tensor, *, initial_state: State | None) -> tuple[Tensor, State]:
        dtype = compute_dtype(q, k, v)
        keys, values, length = start_state(k, v, window, initial_state, dtype)
        tokens, kept = q.shape[1], keys.shape[1]
        with torch.autocast(v.device.type, enabled=False):
            all_keys = torch.cat([keys, k.to(dtype)], dim=1)
            all_values = torch.cat([values, v.to(dtype)], dim=1)
            if tokens == 0:
                o = v
            elif window is None or tokens == 1:
                o = _all(q.to(dtype), all_keys, all_values, length, kept)
            else:
                o = _blocks(q.to(dtype), all_keys, all_values, length, window)
        return o.to(v.dtype), end_state(all_keys, all_values, length + tokens, window)

    if cu_seqlens is not None:
        return by_sequence(dense, [q, k, v], cu_seqlens, initial_state, join_states=join_right_aligned)
    return dense(q, k, v, initial_state=initial_state)


def _all(q: Tensor, k: Tensor, v: Tensor, length: Tensor, kept: int) -> Tensor:
    """q (B, T, H, P) against all of k, v (B, kept + T, H, P), causally; of the kept, the last `length` are
    real.
    """
    tokens = q.shape[1]
    place = torch.arange(kept + tokens, device=q.device)
    seen = (place <= torch.arange(tokens, device=q.device)[:, None] + kept) & (
        place >= kept - length[:, None, None]
    )  # (B, T, kept + T)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None]).transpose(1, 2)


def _blocks(q: Tensor, k: Tensor, v: Tensor, length: Tensor, window: int) -> Tensor:
    """q (B, T, H, P); k, v (B, window + T, H, P), of whose first `window` the last `length` are real.

    Blocks of as many queries as the window is wide see their own block and the one before.
    """
    batch, tokens, _heads, dim = q.shape
    size = max(window, 16)
    count = -(-tokens // size)
    tail = count * size - tokens

    def blocks(x: Tensor, front: int) -> Tensor:  # (B, ., H, P) -> (B, ., size, H, P)
        return F.pad(x, (0, 0, 0, 0, front, tail)).unflatten(1, (-1, size))

    keys, values = blocks(k, size - window), blocks(v, size - window)
    keys = torch.cat([keys[:, :-1], keys[:, 1:]], dim=2).transpose(2, 3)  # (B, count, H, 2 size, P)
    values = torch.cat([values[:, :-1], values[:, 1:]], dim=2).transpose(2, 3)
    queries = blocks(q, 0).transpose(2, 3)

    here = torch.arange(size, device=q.device)[:, None]
    place = torch.arange(-size, size, device=q.device)
    band = (place <= here) & (place >= here - window)  # (size, 2 size)
    # Before the first block there are only `length` real keys; padded queries at the end see what they like.
    first = band & (place >= -length[:, None, None])  # (B, size, 2 size)
    seen = torch.cat([first[:, None], band.expand(batch, count - 1, size, 2 * size)], dim=1)[:, :, None]
    scores = torch.matmul(queries, keys.transpose(-1, -2)) * dim**-0.5
    weights = torch.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1)
    return torch.matmul(weights, values).transpose(2, 3).flatten(1, 2)[:, :tokens]
