"""Prefix linear attention in matrix products: the encoder's sum is the initial state of the causal
operator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jrt_kernels.packed import by_sequence, compute_dtype
from jrt_kernels.taylor_linear_attention.gradient import KeyValueSum
from jrt_kernels.taylor_linear_attention.torch import State, taylor_linear_attention


def prefix_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_enc: Tensor,
    v_enc: Tensor,
    *,
    encoder_lengths: Tensor | None = None,
    initial_state: State | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, State]:
    """As `jrt_kernels.prefix_linear_attention.naive.prefix_linear_attention`; linear in T and E."""
    if cu_seqlens is None:
        state = _encoder_state(k_enc, v_enc, encoder_lengths, initial_state)
        return taylor_linear_attention(q, k, v, initial_state=state)
    remaining = iter([None] * (len(cu_seqlens) - 1) if encoder_lengths is None else encoder_lengths.tolist())

    def one(
        q: Tensor, k: Tensor, v: Tensor, k_enc: Tensor, v_enc: Tensor, *, initial_state: State | None
    ) -> tuple[Tensor, State]:
        length = next(remaining)
        state = _encoder_state(k_enc[:, :length], v_enc[:, :length], None, initial_state)
        return taylor_linear_attention(q, k, v, initial_state=state)

    return by_sequence(one, [q, k, v, k_enc, v_enc], cu_seqlens, initial_state)


def _encoder_state(
    k_enc: Tensor, v_enc: Tensor, lengths: Tensor | None, initial_state: State | None
) -> State:
    """k_enc (B, E, H, K), v_enc (B, E, H, V), lengths (B,) -> S (B, H, F, V), z (B, H, F)."""
    dtype = compute_dtype(k_enc, v_enc)
    with torch.autocast(k_enc.device.type, enabled=False):
        v_enc = v_enc.to(dtype)
        values = torch.cat([v_enc, torch.ones_like(v_enc[..., :1])], dim=-1)
        if lengths is not None:
            live = torch.arange(k_enc.shape[1], device=k_enc.device) < lengths[:, None]
            values = values * live[..., None, None]
        keys = k_enc.to(dtype).permute(0, 2, 3, 1).contiguous()
        state = KeyValueSum.apply(keys, values.transpose(1, 2).contiguous())
    kv, ksum = state[..., :-1], state[..., -1]
    if initial_state is None:
        return kv, ksum
    return kv + initial_state[0].to(dtype), ksum + initial_state[1].to(dtype)
