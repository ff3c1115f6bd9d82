"""Prefix linear attention (JRT-RNN) as a recurrence: the specification.

The paper's equations (2) to (4): with phi the Taylor features, the state before the first token is the sum
over the encoder region, S_0 = sum_{j < E} phi(ke_j) ve_j^T and z_0 = sum_{j < E} phi(ke_j), and from there on
everything is the causal recurrence of Taylor linear attention. So every position, those of the encoder region
included, sees all E encoder keys. B batch, T tokens, E encoder tokens, H heads, K key dim, V value dim, F
folded features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jrt_kernels.packed import by_sequence, compute_dtype
from jrt_kernels.taylor_linear_attention.features import feature_count, taylor_features
from jrt_kernels.taylor_linear_attention.naive import taylor_linear_attention


def prefix_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_enc: Tensor,
    v_enc: Tensor,
    *,
    encoder_lengths: Tensor | None = None,
    initial_state: tuple[Tensor, Tensor] | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """q, k (B, T, H, K), v (B, T, H, V), k_enc (B, E, H, K), v_enc (B, E, H, V) -> o (B, T, H, V), (S, z) as
    Taylor's.

    encoder_lengths (B,) <= E: how many encoder tokens of each row count; None: all. Packed: B = 1, k_enc and
    v_enc are packed like k and v (E = T), encoder_lengths (N,) counts from the start of each sequence.
    """

    def dense(
        q: Tensor, k: Tensor, v: Tensor, k_enc: Tensor, v_enc: Tensor, lengths: Tensor, initial_state: object
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        dtype = compute_dtype(q, k, v)
        batch, _, heads, value_dim = v.shape
        features = feature_count(q.shape[-1])
        if initial_state is None:
            kv = v.new_zeros(batch, heads, features, value_dim, dtype=dtype)
            ksum = v.new_zeros(batch, heads, features, dtype=dtype)
        else:
            kv, ksum = (part.to(dtype) for part in initial_state)  # type: ignore[attr-defined]
        for j in range(k_enc.shape[1]):
            counts = (j < lengths).to(dtype)[:, None, None]
            phi = taylor_features(k_enc[:, j].to(dtype)) * counts
            kv = kv + phi[..., None] * v_enc[:, j, :, None, :].to(dtype)
            ksum = ksum + phi
        return taylor_linear_attention(q, k, v, initial_state=(kv, ksum))

    rows = (q.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1,)
    lengths = (
        torch.full(rows, k_enc.shape[1], device=q.device) if encoder_lengths is None else encoder_lengths
    )
    if cu_seqlens is None:
        return dense(q, k, v, k_enc, v_enc, lengths, initial_state)
    remaining = iter(lengths)

    def one(
        q: Tensor, k: Tensor, v: Tensor, k_enc: Tensor, v_enc: Tensor, *, initial_state: object
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return dense(q, k, v, k_enc, v_enc, next(remaining)[None], initial_state)

    return by_sequence(one, [q, k, v, k_enc, v_enc], cu_seqlens, initial_state)
