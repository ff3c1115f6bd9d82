"""Causal softmax attention to the last few tokens, in blocks of queries; full attention through torch's
own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from jrt_kernels.packed import by_sequence, compute_dtype
from jrt_kernels.sliding_window.naive import State, end_state, join_right_aligned, start_state

BLOCK = 64
"""Queries that are done at once: on a CPU the fastest of 64 to 512, with 128 keys before."""


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
                # Products of bf16 with sums in fp32, where the inputs are that: the state stays fp32.
                taken = v.dtype if q.dtype == k.dtype == v.dtype else dtype
                o = _blocks(q.to(taken), all_keys.to(taken), all_values.to(taken), length, window)
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

    A block of queries sees its own keys and `window` before them: small blocks waste few products.
    """
    batch, tokens, heads, dim = q.shape
    size = min(BLOCK, tokens)
    count = -(-tokens // size)
    tail = count * size - tokens

    def blocks(x: Tensor, width: int) -> Tensor:  # (B, ., H, P) -> (B count, H, width, P), overlapping
        x = F.pad(x, (0, 0, 0, 0, 0, tail)) if tail else x
        return x.unfold(1, width, size).transpose(3, 4).flatten(0, 1)

    here = torch.arange(size, device=q.device)[:, None]
    place = torch.arange(-window, size, device=q.device)
    band = (place <= here) & (place >= here - window)  # (size, window + size)
    start = torch.arange(count, device=q.device)[:, None] * size  # of each block
    # Before the first token there are only `length` real keys; padded queries at the end see what they like.
    real = start + place >= -length[:, None, None]  # (B, count, window + size)
    bias = torch.zeros(batch, count, size, window + size, dtype=q.dtype, device=q.device)
    bias.masked_fill_(~(band & real[:, :, None]), -torch.inf)
    o = F.scaled_dot_product_attention(
        blocks(q, size),
        blocks(k, window + size),
        blocks(v, window + size),
        attn_mask=bias.flatten(0, 1)[:, None],
    )  # (B count, H, size, P)
    return o.transpose(1, 2).reshape(batch, count * size, heads, dim)[:, :tokens]
