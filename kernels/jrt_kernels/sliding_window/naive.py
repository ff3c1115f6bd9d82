"""Causal softmax attention to the last few tokens, token by token: the specification.

B batch, T tokens, H heads, P head dim, S keys kept. Query i sees the keys i - window .. i, scaled by
P^(-1/2). Positions are the caller's business: rotary embedding is applied before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jrt_kernels.packed import by_sequence, compute_dtype

State = tuple[Tensor, Tensor, Tensor]


def sliding_window(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int | None,
    initial_state: State | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, State]:
    """q, k, v (B, T, H, P) -> o (B, T, H, P) in v's dtype, (k (B, S, H, P), v (B, S, H, P), length (B,)).

    window: how many earlier keys a query sees beside its own; None: all. The state holds the last keys and
    values, right-aligned and zero-filled at the front; length counts the real ones. S = window, or with None
    the longest row. Packed: B = 1, cu_seqlens (N + 1,), states (N, ...).
    """

    def dense(q: Tensor, k: Tensor, v: Tensor, *, initial_state: State | None) -> tuple[Tensor, State]:
        dtype = compute_dtype(q, k, v)
        keys, values, length = start_state(k, v, window, initial_state, dtype)
        kept, tokens = keys.shape[1], q.shape[1]
        keys, values = torch.cat([keys, k.to(dtype)], dim=1), torch.cat([values, v.to(dtype)], dim=1)
        outputs = []
        for t in range(tokens):
            place = torch.arange(kept + t + 1, device=q.device)
            seen = place >= kept - length[:, None]
            if window is not None:
                seen = seen & (place >= kept + t - window)
            scores = (
                torch.einsum("bhp,bshp->bhs", q[:, t].to(dtype), keys[:, : kept + t + 1])
                * q.shape[-1] ** -0.5
            )
            weights = torch.softmax(scores.masked_fill(~seen[:, None], -torch.inf), dim=-1)
            outputs.append(torch.einsum("bhs,bshp->bhp", weights, values[:, : kept + t + 1]))
        o = torch.stack(outputs, dim=1) if outputs else v
        return o.to(v.dtype), end_state(keys, values, length + tokens, window)

    if cu_seqlens is not None:
        return by_sequence(dense, [q, k, v], cu_seqlens, initial_state, join_states=join_right_aligned)
    return dense(q, k, v, initial_state=initial_state)


def start_state(k: Tensor, v: Tensor, window: int | None, state: State | None, dtype: torch.dtype) -> State:
    """The given state in `dtype`, or that of nothing read."""
    if state is not None:
        return state[0].to(dtype), state[1].to(dtype), state[2]
    shape = (k.shape[0], window or 0, k.shape[2])
    length = torch.zeros(k.shape[0], dtype=torch.int64, device=k.device)
    return k.new_zeros(*shape, k.shape[3], dtype=dtype), v.new_zeros(*shape, v.shape[3], dtype=dtype), length


def end_state(keys: Tensor, values: Tensor, length: Tensor, window: int | None) -> State:
    """The last `window` of all keys and values (all of them for None)."""
    if window is None:
        return keys, values, length
    start = keys.shape[1] - window
    # Copies: views would keep the whole chunk alive in the state.
    return keys[:, start:].clone(), values[:, start:].clone(), length.clamp(max=window)


def join_right_aligned(states: Sequence[State]) -> State:
    """States of single sequences, of different S, as one: zeros are put in front of the shorter ones."""
    longest = max(state[0].shape[1] for state in states)

    def widen(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 0, 0, 0, longest - x.shape[1], 0))

    return (
        torch.cat([widen(state[0]) for state in states]),
        torch.cat([widen(state[1]) for state in states]),
        torch.cat([state[2] for state in states]),
    )
