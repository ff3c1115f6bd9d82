"""Taylor linear attention in chunks of matrix products.

Within a chunk the weights come from the polynomial 1 + s + s^2/2 of the scores (no features needed); what
came before the chunk, from the folded features and the running state.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from jrt_kernels.packed import by_sequence, compute_dtype, join
from jrt_kernels.taylor_linear_attention.features import feature_count, taylor_features
from jrt_kernels.taylor_linear_attention.gradient import CausalChunks

CHUNK_TOKENS = 64
BLOCK_TOKENS = 2048
"""Rows are worked on in blocks of about this many tokens: their features then stay in a CPU's cache."""
State = tuple[Tensor, Tensor]


def taylor_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    decay: Tensor | None = None,
    initial_state: State | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, State]:
    """As `jrt_kernels.taylor_linear_attention.naive.taylor_linear_attention`; linear in T."""

    def dense(q: Tensor, k: Tensor, v: Tensor, *, initial_state: State | None) -> tuple[Tensor, State]:
        dtype = compute_dtype(q, k, v)
        batch, tokens, heads, value_dim = v.shape
        if initial_state is None:
            features = feature_count(q.shape[-1])
            kv = v.new_zeros(batch, heads, features, value_dim, dtype=dtype)
            ksum = v.new_zeros(batch, heads, features, dtype=dtype)
        else:
            kv, ksum = (part.to(dtype) for part in initial_state)
        if tokens == 0:
            return v, (kv, ksum)
        gate = None if decay is None else decay.to(dtype)
        with torch.autocast(v.device.type, enabled=False):
            if tokens == 1:
                o, state = _one(q.to(dtype), k.to(dtype), v.to(dtype), gate, kv, ksum)
            else:
                rows = max(1, BLOCK_TOKENS // tokens)
                blocks = zip(*(x.to(dtype).split(rows) for x in (q, k, v, kv, ksum)), strict=True)
                done = [_chunks(q_, k_, v_, gate, kv_, ksum_) for q_, k_, v_, kv_, ksum_ in blocks]
                o = torch.cat([o for o, _ in done])
                state = join([state for _, state in done])
        return o.to(v.dtype), state

    if cu_seqlens is not None:
        return by_sequence(dense, [q, k, v], cu_seqlens, initial_state)
    return dense(q, k, v, initial_state=initial_state)


def _one(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor | None, kv: Tensor, ksum: Tensor
) -> tuple[Tensor, State]:
    """One token: T = 1."""
    phi_q, phi_k = taylor_features(torch.stack([q[:, 0], k[:, 0]]))
    if decay is not None:
        kv = kv * decay[:, None, None]
    kv = torch.addcmul(kv, phi_k[..., None], v[:, 0, :, None, :])
    ksum = ksum + phi_k
    numerator = torch.matmul(phi_q[..., None, :], kv)[..., 0, :]
    return (numerator / (phi_q * ksum).sum(-1, keepdim=True))[:, None], (kv, ksum)


def _chunks(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor | None, kv: Tensor, ksum: Tensor
) -> tuple[Tensor, State]:
    _batch, tokens, _heads, _value_dim = v.shape
    size = min(CHUNK_TOKENS, tokens)
    count = -(-tokens // size)
    tail = count * size - tokens

    # (B, T, H, X) -> (B, H, chunks, size, X), zero-filled at the end
    def chunked(x: Tensor, order: tuple[int, ...] = (0, 3, 1, 2, 4)) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 0, tail)).unflatten(1, (count, size)).permute(order).contiguous()

    if decay is None:
        # Padded tokens have values, and a one beside them, of 0: they add nothing to numerator, denominator
        # or state.
        values = chunked(torch.cat([v, torch.ones_like(v[..., :1])], dim=-1))
        state = torch.cat([kv, ksum[..., None]], dim=-1)
        rows = (chunked(x, (0, 3, 1, 4, 2)) for x in (q, k))
        sums, state = CausalChunks.apply(*rows, values, state)
        o = sums[..., :-1] / sums[..., -1:]
        return o.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :tokens], (state[..., :-1], state[..., -1])

    q, k, v = chunked(q), chunked(k), chunked(v)
    phi_q, phi_k = taylor_features(q), taylor_features(k)
    if tail:  # a padded key has features too (the constant); it must not enter the state
        live = (torch.arange(count * size, device=q.device) < tokens).view(count, size, 1)
        phi_k = phi_k * live

    sums = torch.cat([ksum[:, :, None], phi_k.sum(-2)], dim=2).cumsum(
        2
    )  # state before each chunk, and at the end
    scores = torch.matmul(q, k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    weights = (1 + scores + 0.5 * scores * scores).tril()
    denominator = weights.sum(-1, keepdim=True) + torch.matmul(phi_q, sums[:, :, :-1, :, None])
    numerator, after = _decayed(phi_q, phi_k, weights, v, decay, kv, tokens - (count - 1) * size)
    o = (numerator / denominator).permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :tokens]
    return o, (after, sums[:, :, -1])


def _decayed(
    phi_q: Tensor, phi_k: Tensor, weights: Tensor, v: Tensor, decay: Tensor, kv: Tensor, last: int
) -> tuple[Tensor, Tensor]:
    """Numerator and final state where S is multiplied by decay (H,) at each token; `last`: tokens in the
    last chunk.
    """
    count, size = v.shape[2:4]
    steps = torch.arange(size, device=v.device)
    distance = (steps[:, None] - steps[None, :]).clamp(min=0)
    weights = weights * (decay[:, None, None] ** distance)[:, None]
    lead = (decay[:, None] ** (steps + 1))[..., None]  # (H, size, 1): decay of the state seen by token i
    numerator = torch.matmul(weights, v)
    seen = []
    for c in range(count):
        length = last if c == count - 1 else size
        seen.append(torch.matmul(phi_q[:, :, c] * lead, kv))
        trail = (decay[:, None] ** (length - 1 - steps).clamp(min=0))[..., None]
        added = torch.matmul((phi_k[:, :, c] * trail).transpose(-1, -2), v[:, :, c])
        kv = kv * (decay**length)[:, None, None] + added
    return numerator + torch.stack(seen, dim=2), kv
