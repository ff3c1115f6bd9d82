"""The recurrence of Mamba-2 on a GPU, in chunks of matrix products: arXiv 2405.21060, section 6.

A program walks one sequence of one head, a block of its values, chunk after chunk; the state stays in
registers, and nothing but the output and the last state is written. Sums of log decays are taken in fp64 and
kept in two fp32 parts: where steps are large, a difference of two sums must still be right for the tokens
between which little is forgotten.

Symbols: B rows, S sequences, T tokens, H heads, P head dim, G groups, N state dim, L chunk.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from jrt_kernels.gpu import check, check_pack, power
from jrt_kernels.gpu.triton import dot, dot_of_given, dot_state
from jrt_kernels.registry import Unsupported

CHUNK = 64
MOST_STATES = 256


@triton.jit
def _kernel(
    x, dt, a, b, c, d, state, cu, y, new,
    tokens, heads, each, width, states,
    x_b, x_t, x_h, x_p, dt_b, dt_t, dt_h, b_b, b_t, b_g, b_n, c_b, c_t, c_g, c_n, s_b, s_h, s_p, s_n,
    SKIP: tl.constexpr, STATE: tl.constexpr, PACKED: tl.constexpr,
    BL: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """a (H,) and d (H,) fp32; y (B, T, H, P) and new (S, H, P, N) contiguous. each: heads of a group."""
    head = tl.program_id(1).to(tl.int64)
    sequence = tl.program_id(2).to(tl.int64)
    row = sequence
    start = sequence * 0
    count = start + tokens
    if PACKED:
        row = sequence * 0
        start = tl.load(cu + sequence)
        count = tl.load(cu + sequence + 1) - start
    group = head // each
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    n = tl.arange(0, BN)
    i = tl.arange(0, BL)
    some = (n < states)[:, None] & (p < width)[None, :]
    x += row * x_b + start * x_t + head * x_h
    dt += row * dt_b + start * dt_t + head * dt_h
    b += row * b_b + start * b_t + group * b_g
    c += row * c_b + start * c_t + group * c_g
    y += ((row * tokens + start) * heads + head) * width
    log2_decay = tl.load(a + head) * 1.4426950408889634
    h = tl.zeros((BN, BP), tl.float32)
    if STATE:
        h = tl.load(
            state + sequence * s_b + head * s_h + n[:, None] * s_n + p[None, :] * s_p, mask=some, other=0
        ).to(tl.float32)
    for at in range(0, count, BL):
        t = at + i.to(tl.int64)
        real = t < count
        xs = tl.load(
            x + t[:, None] * x_t + p[None, :] * x_p, mask=real[:, None] & (p < width)[None, :], other=0
        )
        bt = tl.load(
            b + t[None, :] * b_t + n[:, None] * b_n, mask=real[None, :] & (n < states)[:, None], other=0
        )
        cs = tl.load(
            c + t[:, None] * c_t + n[None, :] * c_n, mask=real[:, None] & (n < states)[None, :], other=0
        )
        step = tl.load(dt + t * dt_t, mask=real, other=0).to(tl.float32)
        total = tl.cumsum((step * log2_decay).to(tl.float64), 0)
        whole = tl.sum(tl.where(i == BL - 1, total, 0.0), 0)
        high = total.to(tl.float32)
        low = (total - high.to(tl.float64)).to(tl.float32)
        between = (high[:, None] - high[None, :]) + (low[:, None] - low[None, :])
        between = tl.where(i[:, None] >= i[None, :], between, float("-inf"))
        weight = dot_of_given(cs, bt) * tl.exp2(between) * step[None, :]
        out = dot(weight, xs) + dot_state(cs, h) * tl.exp2(high)[:, None]
        if SKIP:
            out += tl.load(d + head) * xs.to(tl.float32)
        tl.store(
            y + t[:, None] * (heads * width) + p[None, :],
            out.to(y.dtype.element_ty),
            mask=real[:, None] & (p < width)[None, :],
        )
        left = step * tl.exp2((whole - total).to(tl.float32))
        h = h * tl.exp2(whole.to(tl.float32)) + dot_state(bt, xs.to(tl.float32) * left[:, None])
    tl.store(new + ((sequence * heads + head) * width + p[None, :]) * states + n[:, None], h, mask=some)


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
    """Shapes and meaning as `jrt_kernels.ssd.naive.ssd`.

    Raises Unsupported for fp64, a CPU, a gradient, more than MOST_STATES states.
    """
    check("ssd", "triton", x, dt, A, B, C, D, initial_state)
    check_pack("ssd", x, cu_seqlens)
    batch, tokens, heads, width = x.shape
    groups, states = B.shape[2:]
    if states > MOST_STATES:
        raise Unsupported(f"ssd: triton takes up to {MOST_STATES} states, not {states}")
    packed = cu_seqlens is not None
    rows = len(cu_seqlens) - 1 if cu_seqlens is not None else batch
    y = torch.empty(batch, tokens, heads, width, dtype=x.dtype, device=x.device)
    new = torch.empty(rows, heads, width, states, dtype=torch.float32, device=x.device)
    wide = power(states, 16)
    # fp32 products are multiply-adds, unrolled: small blocks, or they take half a minute to compile.
    small = x.dtype == torch.float32
    block = min(power(width, 16), 32 if small or wide > 128 else 64)
    state = x if initial_state is None else initial_state
    _kernel[(triton.cdiv(width, block), heads, rows)](
        x, dt, A.float(), B, C, x if D is None else D.float(), state,
        cu_seqlens if cu_seqlens is not None else x, y, new,
        tokens, heads, heads // groups, width, states,
        *x.stride(), *dt.stride(), *B.stride(), *C.stride(), *state.stride(),
        SKIP=D is not None, STATE=initial_state is not None, PACKED=packed,
        BL=16 if small or tokens <= 16 else CHUNK, BP=block, BN=wide,
        num_stages=2,
    )  # fmt: skip
    return y, new
