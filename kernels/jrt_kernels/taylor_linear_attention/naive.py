"""Taylor linear attention as a recurrence: the specification.

B batch, T tokens, H heads, K key dim (the feature dimension of the checkpoints), V value dim, F folded
features. S_t = S_{t-1} + phi(k_t) v_t^T,  z_t = z_{t-1} + phi(k_t),  o_t = S_t^T phi(q_t) / (z_t . phi(q_t)).
The decay variant of Based multiplies S (not z) by g_h = decay[h] at each step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jrt_kernels.packed import by_sequence, compute_dtype
from jrt_kernels.taylor_linear_attention.features import feature_count, taylor_features


def taylor_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    decay: Tensor | None = None,
    initial_state: tuple[Tensor, Tensor] | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """q, k (B, T, H, K), v (B, T, H, V), decay (H,) -> o (B, T, H, V) in v's dtype, (S (B, H, F, V), z (B, H,
    F)).

    Packed: B = 1, cu_seqlens (N + 1,), states (N, ...). The weight 1 + s + s^2/2 is at least 1/2, so the
    published eps of 1e-12 in the denominator is immaterial and left out.
    """

    def dense(
        q: Tensor, k: Tensor, v: Tensor, *, initial_state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        dtype = compute_dtype(q, k, v)
        batch, tokens, heads, value_dim = v.shape
        features = feature_count(q.shape[-1])
        if initial_state is None:
            kv = v.new_zeros(batch, heads, features, value_dim, dtype=dtype)
            ksum = v.new_zeros(batch, heads, features, dtype=dtype)
        else:
            kv, ksum = (part.to(dtype) for part in initial_state)
        outputs = []
        for t in range(tokens):
            phi_q, phi_k = taylor_features(q[:, t].to(dtype)), taylor_features(k[:, t].to(dtype))
            if decay is not None:
                kv = kv * decay.to(dtype)[:, None, None]
            kv = kv + phi_k[..., None] * v[:, t, :, None, :].to(dtype)
            ksum = ksum + phi_k
            numerator = (phi_q[..., None] * kv).sum(-2)
            outputs.append(numerator / (phi_q * ksum).sum(-1, keepdim=True))
        o = torch.stack(outputs, dim=1) if outputs else v.to(dtype)
        return o.to(v.dtype), (kv, ksum)

    if cu_seqlens is not None:
        return by_sequence(dense, [q, k, v], cu_seqlens, initial_state)
    return dense(q, k, v, initial_state=initial_state)
