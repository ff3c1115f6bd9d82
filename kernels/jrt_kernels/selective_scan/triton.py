"""The selective scan of Mamba-1 on a GPU, token after token: arXiv 2312.00752, equation 2.

A warp keeps the states of 32 channels in registers, a channel to a thread, and loads a token ahead. Where
there are few rows the tokens are cut into segments: a first launch finds what each adds to a state that it
enters empty, a second carries the states from one to the next, the third is the scan, from these.

Symbols: B rows, S sequences, T tokens, D channels, N states of a channel, K segments.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from jrt_kernels.gpu import check, check_pack, power
from jrt_kernels.registry import Unsupported

CHANNELS = 32
MOST_STATES = 256
SEGMENT = 64
PROGRAMS = 2048
"""Warps that keep a GPU busy (16 on each of 128 processors): with fewer the tokens are cut."""


@triton.jit
def _softplus(x):
    e = tl.exp(-tl.abs(x))
    u = 1 + e
    # log(1 + e) to all digits though 1 + e is rounded (W. Kahan).
    log = tl.where(u == 1, e, tl.log(u) * (e / tl.where(u == 1, 1.0, u - 1)))
    return tl.maximum(x, 0.0) + log


@triton.jit
def _scan(
    x, dt, a, b, c, d, bias, z, state, cu, y, new, sums,
    tokens, channels, states, segment, segments,
    x_b, x_t, x_d, dt_b, dt_t, dt_d, a_d, a_n, b_b, b_t, b_n, c_b, c_t, c_n, z_b, z_t, z_d, s_b, s_d, s_n,
    SKIP: tl.constexpr, BIAS: tl.constexpr, GATE: tl.constexpr, STATE: tl.constexpr, PACKED: tl.constexpr,
    OUTPUT: tl.constexpr, LAST: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One segment of a sequence. y (B, T, D) contiguous. Without OUTPUT: no y, but the sum of its steps
    into sums (S, K, D). LAST: only the last segment's state is written, to new (S, N, D), else each one, to
    new (S, K, N, D)."""
    k = tl.program_id(1).to(tl.int64)
    sequence = tl.program_id(2).to(tl.int64)
    row = sequence
    start = sequence * 0
    count = start + tokens
    if PACKED:
        row = sequence * 0
        start = tl.load(cu + sequence)
        count = tl.load(cu + sequence + 1) - start
    first = k * segment
    end = tl.minimum(first + segment, count)
    i = tl.program_id(0) * BD + tl.arange(0, BD)
    n = tl.arange(0, BN)
    real = i < channels
    some = (n < states)[:, None] & real[None, :]
    x += row * x_b + start * x_t + i * x_d
    dt += row * dt_b + start * dt_t + i * dt_d
    b += row * b_b + start * b_t + n * b_n
    c += row * c_b + start * c_t + n * c_n
    z += row * z_b + start * z_t + i * z_d
    y += (row * tokens + start) * channels + i
    rate = tl.load(a + i[None, :] * a_d + n[:, None] * a_n, mask=some, other=0).to(tl.float32)
    rate *= 1.4426950408889634
    h = tl.zeros((BN, BD), tl.float32)
    if STATE:
        at = sequence * segments + k
        h = tl.load(state + at * s_b + i[None, :] * s_d + n[:, None] * s_n, mask=some, other=0).to(tl.float32)
    shift = tl.zeros((BD,), tl.float32)
    if BIAS:
        shift = tl.load(bias + i, mask=real, other=0).to(tl.float32)
    skip = tl.zeros((BD,), tl.float32)
    if SKIP:
        skip = tl.load(d + i, mask=real, other=0).to(tl.float32)
    sum = tl.zeros((BD,), tl.float32)
    live = real & (first + i * 0 < end)
    lively = (n < states) & (first + n * 0 < end)
    x1 = tl.load(x + first * x_t, mask=live, other=0)
    dt1 = tl.load(dt + first * dt_t, mask=live, other=0)
    b1 = tl.load(b + first * b_t, mask=lively, other=0)
    c1 = tl.load(c + first * c_t, mask=lively, other=0)
    for t in range(first, end):
        xs = x1.to(tl.float32)
        step = dt1.to(tl.float32)
        bs = b1.to(tl.float32)
        cs = c1.to(tl.float32)
        ahead = t + 1
        live = real & (ahead + i * 0 < end)
        lively = (n < states) & (ahead + n * 0 < end)
        x1 = tl.load(x + ahead * x_t, mask=live, other=0)
        dt1 = tl.load(dt + ahead * dt_t, mask=live, other=0)
        b1 = tl.load(b + ahead * b_t, mask=lively, other=0)
        c1 = tl.load(c + ahead * c_t, mask=lively, other=0)
        if BIAS:
            step = _softplus(step + shift)
        h = tl.exp2(step[None, :] * rate) * h + (step * xs)[None, :] * bs[:, None]
        if OUTPUT:
            out = tl.sum(h * cs[:, None], 0) + skip * xs
            if GATE:
                gate = tl.load(z + t * z_t, mask=real, other=0).to(tl.float32)
                out = out * (gate / (1 + tl.exp(-gate)))
            tl.store(y + t * channels, out.to(y.dtype.element_ty), mask=real)
        else:
            sum += step
    if LAST:
        if k == segments - 1:
            tl.store(new + (sequence * states + n[:, None]) * channels + i[None, :], h, mask=some)
    else:
        part = sequence * segments + k
        tl.store(new + (part * states + n[:, None]) * channels + i[None, :], h, mask=some)
        tl.store(sums + part * channels + i, sum, mask=real)


@triton.jit
def _carry(
    a, state, parts, sums,
    channels, states, segments, a_d, a_n, s_b, s_d, s_n,
    STATE: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """parts (S, K, N, D): what each segment adds -> the state that it is entered with."""
    sequence = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BD + tl.arange(0, BD)
    n = tl.arange(0, BN)
    some = (n < states)[:, None] & (i < channels)[None, :]
    rate = tl.load(a + i[None, :] * a_d + n[:, None] * a_n, mask=some, other=0).to(tl.float32)
    rate *= 1.4426950408889634
    h = tl.zeros((BN, BD), tl.float32)
    if STATE:
        h = tl.load(state + sequence * s_b + i[None, :] * s_d + n[:, None] * s_n, mask=some, other=0).to(
            tl.float32
        )
    for k in range(0, segments):
        part = sequence * segments + k
        where = parts + (part * states + n[:, None]) * channels + i[None, :]
        added = tl.load(where, mask=some, other=0)
        sum = tl.load(sums + part * channels + i, mask=i < channels, other=0)
        tl.store(where, h, mask=some)
        h = tl.exp2(sum[None, :] * rate) * h + added


def segment_count(tokens: int, programs: int) -> int:
    """Into how many segments the tokens of each sequence are cut, where one segment of all is `programs`."""
    return max(1, min(tokens // SEGMENT, PROGRAMS // programs))


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    z: Tensor | None = None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Shapes and meaning as `jrt_kernels.selective_scan.naive.selective_scan`.

    Raises Unsupported for fp64, a CPU, a gradient, more than MOST_STATES states.
    """
    check("selective_scan", "triton", x, dt, A, B, C, D, dt_bias, z, initial_state)
    check_pack("selective_scan", x, cu_seqlens)
    batch, tokens, channels = x.shape
    states = A.shape[1]
    if states > MOST_STATES:
        raise Unsupported(f"selective_scan: triton takes up to {MOST_STATES} states, not {states}")
    rows = len(cu_seqlens) - 1 if cu_seqlens is not None else batch
    y = torch.empty(batch, tokens, channels, dtype=x.dtype, device=x.device)
    new = torch.empty(rows, states, channels, dtype=torch.float32, device=x.device)
    blocks = triton.cdiv(channels, CHANNELS)
    segments = segment_count(tokens, blocks * rows) if cu_seqlens is None else 1
    sizes = {"BD": min(CHANNELS, power(channels)), "BN": power(states), "num_warps": 1}
    gate = x if z is None else z
    skip, bias = (x if each is None else each.contiguous() for each in (D, dt_bias))
    given = (x, dt, A, B, C, skip, bias, gate)
    strides = (*x.stride(), *dt.stride(), *A.stride(), *B.stride(), *C.stride(), *gate.stride())
    flags = {"SKIP": D is not None, "BIAS": dt_bias is not None, "PACKED": cu_seqlens is not None}
    cu = x if cu_seqlens is None else cu_seqlens
    state, at = (x, (0, 0, 0)) if initial_state is None else (initial_state, initial_state.stride())
    started = initial_state is not None
    segment = triton.cdiv(tokens, segments)
    if segments > 1:
        parts = torch.empty(rows * segments, states, channels, dtype=torch.float32, device=x.device)
        sums = torch.empty(rows * segments, channels, dtype=torch.float32, device=x.device)
        _scan[(blocks, segments, rows)](
            *given, x, cu, y, parts, sums, tokens, channels, states, segment, segments, *strides, 0, 0, 0,
            GATE=False, STATE=False, OUTPUT=False, LAST=False, **flags, **sizes,
        )  # fmt: skip
        _carry[(blocks, rows)](
            A, state, parts, sums, channels, states, segments, *A.stride(), *at, STATE=started, **sizes
        )
        state, at, started = parts, (parts.stride(0), parts.stride(2), parts.stride(1)), True
    _scan[(blocks, segments, rows)](
        *given, state, cu, y, new, new, tokens, channels, states, segment, segments, *strides, *at,
        GATE=z is not None, STATE=started, OUTPUT=True, LAST=True, **flags, **sizes,
    )  # fmt: skip
    return y, new.transpose(1, 2)
