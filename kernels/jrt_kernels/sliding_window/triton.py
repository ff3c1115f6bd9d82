"""Causal softmax attention to the last few tokens on a GPU, with the running maximum of FlashAttention
(arXiv 2205.14135, algorithm 1): no scores in memory.

A program takes a block of queries of one head. It reads first the cached keys it sees, then the new ones; of
neither any that no query of the block sees. A second launch writes the new state. B rows, N sequences, T
tokens, S cached keys.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from jrt_kernels.gpu import blocks, check, check_pack, power
from jrt_kernels.gpu.triton import dot, dot_of_given, dot_state
from jrt_kernels.registry import Unsupported
from jrt_kernels.sliding_window.naive import State

MOST_DIM = 256


@triton.jit
def _softmax_step(q, k, v, seen, scale, top, norm, sum):
    """One block of keys: q (M, P), k (P, K), v (K, V), seen (M, K) -> the new top, norm, sum.

    k and v are of q's dtype, or fp32.
    """
    if k.dtype == q.dtype:
        score = dot_of_given(q, k)
    else:
        score = dot_state(q, k)
    score = tl.where(seen, score * scale, float("-inf"))
    new = tl.maximum(top, tl.max(score, 1))
    safe = tl.where(new == float("-inf"), 0.0, new)
    weight = tl.exp2(score - safe[:, None])
    kept = tl.exp2(top - safe)
    sum *= kept[:, None]
    if v.dtype == q.dtype:
        sum += dot(weight, v)
    else:  # a state is fp32: its parts one after the other
        high = v.to(q.dtype)
        sum += dot(weight, high) + dot(weight, (v - high.to(tl.float32)).to(q.dtype))
    return new, norm * kept + tl.sum(weight, 1), sum


@triton.jit
def _attend(
    q, k, v, old_k, old_v, length, cu, block_row, block_first, o,
    rows, tokens, slots, window, scale, dim, v_dim,
    q_b, q_t, q_h, q_p, k_b, k_t, k_h, k_p, v_b, v_t, v_h, v_p, o_b, o_t, o_h,
    ck_b, ck_t, ck_h, ck_p, cv_b, cv_t, cv_h, cv_p,
    STATE: tl.constexpr, ALL: tl.constexpr, PACKED: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BP: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """Token 0 is the first new one of a sequence; the cached keys have the negative places."""
    head = tl.program_id(1).to(tl.int64)
    n = tl.program_id(2).to(tl.int64)
    b = n
    first = tl.program_id(0).to(tl.int64) * BM
    start = first * 0
    count = start + tokens
    if PACKED:
        n = tl.load(block_row + tl.program_id(0))
        first = tl.load(block_first + tl.program_id(0))
        if n >= rows:
            return
        start = tl.load(cu + n)
        count = tl.load(cu + n + 1) - start
    p = tl.arange(0, BP)
    d = tl.arange(0, BV)
    m = first + tl.arange(0, BM).to(tl.int64)
    q += b * q_b + start * q_t + head * q_h
    k += b * k_b + start * k_t + head * k_h
    v += b * v_b + start * v_t + head * v_h
    queries = tl.load(
        q + m[:, None] * q_t + p[None, :] * q_p, mask=(m < count)[:, None] & (p < dim)[None, :], other=0
    )
    top = tl.full((BM,), float("-inf"), tl.float32)
    norm = tl.zeros((BM,), tl.float32)
    sum = tl.zeros((BM, BV), tl.float32)
    if STATE:
        low = -tl.minimum(tl.load(length + n).to(tl.int64), slots)
        if not ALL:
            low = tl.maximum(low, first - window)
        old_k += n * ck_b + head * ck_h
        old_v += n * cv_b + head * cv_h
        for at in range(low, 0, BN):
            j = at + tl.arange(0, BN)
            key = tl.load(
                old_k + (slots + j)[None, :] * ck_t + p[:, None] * ck_p,
                mask=(j < 0)[None, :] & (p < dim)[:, None],
                other=0,
            )
            value = tl.load(
                old_v + (slots + j)[:, None] * cv_t + d[None, :] * cv_p,
                mask=(j < 0)[:, None] & (d < v_dim)[None, :],
                other=0,
            )
            seen = (j < 0)[None, :] & (m < count)[:, None]
            if not ALL:
                seen = seen & (j[None, :] >= (m - window)[:, None])
            top, norm, sum = _softmax_step(queries, key, value, seen, scale, top, norm, sum)
    low = first * 0
    if not ALL:
        low = tl.maximum(first - window, 0)
    high = tl.minimum(first + BM, count)
    for at in range(low, high, BN):
        j = at + tl.arange(0, BN)
        key = tl.load(
            k + j[None, :] * k_t + p[:, None] * k_p, mask=(j < high)[None, :] & (p < dim)[:, None], other=0
        )
        value = tl.load(
            v + j[:, None] * v_t + d[None, :] * v_p, mask=(j < high)[:, None] & (d < v_dim)[None, :], other=0
        )
        seen = (j[None, :] <= m[:, None]) & (m < count)[:, None]
        if not ALL:
            seen = seen & (j[None, :] >= (m - window)[:, None])
        top, norm, sum = _softmax_step(queries, key, value, seen, scale, top, norm, sum)
    result = sum / tl.where(norm == 0, 1.0, norm)[:, None]
    tl.store(
        o + b * o_b + (start + m)[:, None] * o_t + head * o_h + d[None, :],
        result.to(o.dtype.element_ty),
        mask=(m < count)[:, None] & (d < v_dim)[None, :],
    )


@triton.jit
def _keep(
    x, old, cu, new,
    tokens, slots, kept, dim,
    x_b, x_t, x_h, x_p, c_b, c_t, c_h, c_p, n_b, n_t, n_h,
    STATE: tl.constexpr, PACKED: tl.constexpr, BS: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """The last `kept` of the cached and the new tokens of a sequence, zeros in front of too few."""
    head = tl.program_id(1).to(tl.int64)
    n = tl.program_id(2).to(tl.int64)
    b = n
    start = n * 0
    count = start + tokens
    if PACKED:
        b = n * 0
        start = tl.load(cu + n)
        count = tl.load(cu + n + 1) - start
    s = tl.program_id(0).to(tl.int64) * BS + tl.arange(0, BS)
    p = tl.arange(0, BP)
    at = count - kept + s
    real = (s < kept)[:, None] & (p < dim)[None, :]
    value = tl.load(
        x + b * x_b + (start + at)[:, None] * x_t + head * x_h + p[None, :] * x_p,
        mask=real & (at >= 0)[:, None],
        other=0,
    ).to(tl.float32)
    if STATE:
        value += tl.load(
            old + n * c_b + (slots + at)[:, None] * c_t + head * c_h + p[None, :] * c_p,
            mask=real & ((at < 0) & (at >= -slots))[:, None],
            other=0,
        ).to(tl.float32)
    tl.store(new + n * n_b + s[:, None] * n_t + head * n_h + p[None, :], value, mask=real)


def sliding_window(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int | None,
    initial_state: State | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, State]:
    """As `jrt_kernels.sliding_window.naive.sliding_window`; work linear in T where a window is given.

    Raises Unsupported for fp64, a CPU, a gradient, and heads wider than MOST_DIM.
    """
    old_k, old_v, length = (None, None, None) if initial_state is None else initial_state
    check("sliding_window", "triton", q, k, v, old_k, old_v)
    check_pack("sliding_window", q, cu_seqlens)
    batch, tokens, heads, dim = q.shape
    v_dim = v.shape[3]
    if max(dim, v_dim) > MOST_DIM:
        raise Unsupported(f"sliding_window: triton takes heads of up to {MOST_DIM}, not {max(dim, v_dim)}")
    if not q.dtype == k.dtype == v.dtype:
        raise Unsupported(f"sliding_window: triton wants one dtype, not {q.dtype}, {k.dtype}, {v.dtype}")
    packed = cu_seqlens is not None
    rows = len(cu_seqlens) - 1 if cu_seqlens is not None else batch
    slots = 0 if old_k is None else old_k.shape[1]
    o = torch.empty(batch, tokens, heads, v_dim, dtype=v.dtype, device=v.device)
    # fp32 products are of scalars: small blocks keep their operands in registers.
    wide = v.dtype == torch.float32
    size = 16 if tokens == 1 else 32 if wide else 64
    cu = cu_seqlens if cu_seqlens is not None else q  # not read
    block_row = block_first = cu
    count = triton.cdiv(tokens, size)
    if cu_seqlens is not None:
        block_row, block_first = blocks(cu_seqlens, tokens, size)
        count = len(block_row)
    cached = (q, q, q) if initial_state is None else initial_state
    scale = dim**-0.5 * 1.4426950408889634  # exponentials of 2
    if count and heads:
        _attend[(count, heads, 1 if packed else batch)](
            q, k, v, *cached, cu, block_row, block_first, o,
            rows, tokens, slots, 0 if window is None else window, scale, dim, v_dim,
            *q.stride(), *k.stride(), *v.stride(), *o.stride()[:3], *cached[0].stride(), *cached[1].stride(),
            STATE=initial_state is not None, ALL=window is None, PACKED=packed,
            BM=size, BN=32, BP=power(dim, 16), BV=power(v_dim, 16), num_stages=2,
        )  # fmt: skip
    longest = tokens
    if cu_seqlens is None:
        total = torch.full((batch,), tokens, dtype=torch.int64, device=q.device)
    else:
        total = cu_seqlens.diff()
        if window is None:  # the state grows by the longest sequence: the host has to know this number
            longest = int(total.max())
    if length is not None:
        total = length + total
    kept = slots + longest if window is None else window
    new = []
    for x, old in ((k, cached[0]), (v, cached[1])):
        width = x.shape[3]
        made = torch.empty(rows, kept, heads, width, dtype=torch.float32, device=x.device)
        if made.numel():
            _keep[(triton.cdiv(kept, 16), heads, rows)](
                x, old, cu, made,
                tokens, slots, kept, width,
                *x.stride(), *old.stride(), *made.stride()[:3],
                STATE=initial_state is not None, PACKED=packed, BS=16, BP=power(width),
            )  # fmt: skip
        new.append(made)
    return o, (new[0], new[1], total if window is None else total.clamp(max=window))
