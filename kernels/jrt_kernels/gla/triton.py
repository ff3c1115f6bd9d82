"""Gated linear attention on a GPU, in chunks of 16 tokens: arXiv 2312.06635, section 4.

A first launch writes the weights between the tokens of each chunk, all chunks at once; a second walks each
sequence and keeps the state in registers. Decays are only ever sums of log gates between two tokens, never
differences of longer sums: nothing overflows and nothing cancels, whatever the gates.

Symbols: B rows, N sequences, T tokens, H heads, K key dim, V value dim.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from jrt_kernels.gpu import blocks, check, check_pack, power
from jrt_kernels.gpu.triton import dot
from jrt_kernels.registry import Unsupported

CHUNK = 16
MOST_KEYS = 256


@triton.jit
def _weights(
    q, k, g, cu, block_row, block_first, w,
    rows, tokens, heads, keys, scale,
    q_b, q_t, q_h, q_k, k_b, k_t, k_h, k_k, g_b, g_t, g_h, g_k,
    PACKED: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """w (B, T, H, C) fp32: what token i of a chunk takes of the value of its token j <= i, scale included."""
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(2).to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * C
    start = first * 0
    count = start + tokens
    if PACKED:
        sequence = tl.load(block_row + tl.program_id(0))
        first = tl.load(block_first + tl.program_id(0))
        if sequence >= rows:
            return
        start = tl.load(cu + sequence)
        count = tl.load(cu + sequence + 1) - start
    i = tl.arange(0, C)
    n = tl.arange(0, BK)
    t = first + i.to(tl.int64)
    q += row * q_b + start * q_t + head * q_h
    k += row * k_b + start * k_t + head * k_h + n * k_k
    g += row * g_b + start * g_t + head * g_h + n * g_k
    some = (t < count)[:, None] & (n < keys)[None, :]
    queries = tl.load(q + t[:, None] * q_t + n[None, :] * q_k, mask=some, other=0).to(tl.float32) * scale
    between = tl.zeros((C, BK), tl.float32)  # log2 decay from token j, exclusive, to token i
    weight = tl.zeros((C, C), tl.float32)
    for back in range(C):
        j = C - 1 - back
        real = (n < keys) & (first + j + n * 0 < count)
        key = tl.load(k + (first + j) * k_t, mask=real, other=0).to(tl.float32)
        taken = tl.sum(queries * key[None, :] * tl.exp2(between), 1)
        weight = tl.where((i[:, None] >= j) & (i[None, :] == j), taken[:, None], weight)
        gate = tl.load(g + (first + j) * g_t, mask=real, other=0).to(tl.float32) * 1.4426950408889634
        between += tl.where(i[:, None] >= j, gate[None, :], 0.0)
    tl.store(
        w + ((row * tokens + start + t[:, None]) * heads + head) * C + i[None, :],
        weight,
        mask=(t < count)[:, None] & (i >= 0)[None, :],
    )


@triton.jit
def _walk(
    q, k, v, g, w, state, cu, o, new,
    tokens, heads, keys, values, scale,
    q_b, q_t, q_h, q_k, k_b, k_t, k_h, k_k, v_b, v_t, v_h, v_v, g_b, g_t, g_h, g_k, s_n, s_h, s_k, s_v,
    STATE: tl.constexpr, PACKED: tl.constexpr, PRECISION: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """o (B, T, H, V) and new (N, H, K, V) contiguous."""
    head = tl.program_id(1).to(tl.int64)
    sequence = tl.program_id(2).to(tl.int64)
    row = sequence
    start = sequence * 0
    count = start + tokens
    if PACKED:
        row = sequence * 0
        start = tl.load(cu + sequence)
        count = tl.load(cu + sequence + 1) - start
    i = tl.arange(0, C)
    n = tl.arange(0, BK)
    d = tl.program_id(0) * BV + tl.arange(0, BV)
    q += row * q_b + start * q_t + head * q_h
    k += row * k_b + start * k_t + head * k_h
    v += row * v_b + start * v_t + head * v_h
    g += row * g_b + start * g_t + head * g_h
    first = (row * tokens + start) * heads + head
    some = (n < keys)[:, None] & (d < values)[None, :]
    s = tl.zeros((BK, BV), tl.float32)
    if STATE:
        s = tl.load(
            state + sequence * s_n + head * s_h + n[:, None] * s_k + d[None, :] * s_v, mask=some, other=0
        ).to(tl.float32)
    for at in range(0, count, C):
        t = at + i.to(tl.int64)
        real = t < count
        wide = real[:, None] & (n < keys)[None, :]
        tall = (n < keys)[:, None] & real[None, :]
        queries = tl.load(q + t[:, None] * q_t + n[None, :] * q_k, mask=wide, other=0).to(tl.float32)
        gates = tl.load(g + t[:, None] * g_t + n[None, :] * g_k, mask=wide, other=0).to(tl.float32)
        gates *= 1.4426950408889634
        read = queries * scale * tl.exp2(tl.cumsum(gates, 0))
        value = tl.load(
            v + t[:, None] * v_t + d[None, :] * v_v, mask=real[:, None] & (d < values)[None, :], other=0
        )
        weight = tl.load(
            w + (first + t[:, None] * heads) * C + i[None, :],
            mask=real[:, None] & (i >= 0)[None, :],
            other=0,
        )
        out = dot(weight, value) + tl.dot(read, s, input_precision=PRECISION)
        tl.store(
            o + (first + t[:, None] * heads) * values + d[None, :],
            out.to(o.dtype.element_ty),
            mask=real[:, None] & (d < values)[None, :],
        )
        # From a token, exclusive, to the end of the chunk: the gates of the tokens after it.
        after = tl.load(
            g + (t + 1)[None, :] * g_t + n[:, None] * g_k,
            mask=(n < keys)[:, None] & ((t + 1 < count) & (i < C - 1))[None, :],
            other=0,
        ).to(tl.float32)
        left = tl.exp2(tl.cumsum(after * 1.4426950408889634, 1, reverse=True))
        key = tl.load(k + t[None, :] * k_t + n[:, None] * k_k, mask=tall, other=0).to(tl.float32)
        all_gates = tl.load(g + t[None, :] * g_t + n[:, None] * g_k, mask=tall, other=0).to(tl.float32)
        whole = tl.exp2(tl.sum(all_gates, 1) * 1.4426950408889634)
        s = s * whole[:, None] + dot(key * left, value)
    tl.store(new + ((sequence * heads + head) * keys + n[:, None]) * values + d[None, :], s, mask=some)


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
    """Shapes and meaning as `jrt_kernels.gla.naive.gla`.

    Raises Unsupported for fp64, a CPU, a gradient, more than MOST_KEYS keys.
    """
    check("gla", "triton", q, k, v, g, initial_state)
    check_pack("gla", q, cu_seqlens)
    batch, tokens, heads, keys = q.shape
    values = v.shape[3]
    if keys > MOST_KEYS:
        raise Unsupported(f"gla: triton takes up to {MOST_KEYS} key dimensions, not {keys}")
    rows = batch if cu_seqlens is None else len(cu_seqlens) - 1
    o = torch.empty(batch, tokens, heads, values, dtype=v.dtype, device=v.device)
    new = torch.empty(rows, heads, keys, values, dtype=torch.float32, device=v.device)
    weight = torch.empty(batch, tokens, heads, CHUNK, dtype=torch.float32, device=v.device)
    scale = keys**-0.5 if scale is None else scale
    cu = block_row = block_first = q if cu_seqlens is None else cu_seqlens
    count = triton.cdiv(tokens, CHUNK)
    if cu_seqlens is not None:
        block_row, block_first = blocks(cu_seqlens, tokens, CHUNK)
        count = len(block_row)
    packed = cu_seqlens is not None
    wide = power(keys, 16)
    if count:
        _weights[(count, heads, batch)](
            q, k, g, cu, block_row, block_first, weight, rows, tokens, heads, keys, scale,
            *q.stride(), *k.stride(), *g.stride(), PACKED=packed, C=CHUNK, BK=wide,
        )  # fmt: skip
    small = v.dtype == torch.float32
    block = min(power(values, 16), 32 if small or wide > 128 else 64)
    state = q if initial_state is None else initial_state
    _walk[(triton.cdiv(values, block), heads, rows)](
        q, k, v, g, weight, state, cu, o, new, tokens, heads, keys, values, scale,
        *q.stride(), *k.stride(), *v.stride(), *g.stride(), *state.stride(),
        STATE=initial_state is not None, PACKED=packed, PRECISION="ieee" if small else "tf32x3",
        C=CHUNK, BK=wide, BV=block, num_stages=1 if wide > 128 else 2,
    )  # fmt: skip
    return o, new
