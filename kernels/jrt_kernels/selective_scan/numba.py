"""The selective scan of Mamba-1 in compiled code for a CPU: arXiv 2312.00752, equation 2.

64 channels at a time, one state after another: its 64 values stay in registers while `BLOCK` tokens pass.

Symbols: B batch, T tokens, D channels, N states of a channel, S sequences.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from jrt_kernels.jit.compiler import jit
from jrt_kernels.jit.lanes import (
    add,
    decay,
    each,
    fma,
    least,
    load,
    mul,
    number,
    silu,
    softplus,
    splat,
    store,
)
from jrt_kernels.jit.recurrence import scratch
from jrt_kernels.jit.tensors import alike, check, flat, rows, run, sequences, whole

CHANNELS = 64
BLOCK = 32
LONGEST = 1e6
"""Step beyond which a state is forgotten whatever its rate is."""


@jit
def _scan(  # type: ignore[no-untyped-def]
    first, last, bounds, channels, states, x, x_step, dt, dt_step, rates,
    B, B_step, C, C_step, D, bias, raw, z, z_step, gated, source, target, out,
):  # fmt: skip
    """Units are 64 channels of a sequence; states (S, N, D), rates = A log2(e) (N, D).

    raw: dt is softplus(dt + bias); gated: y is multiplied by silu(z).
    """
    steps, written, y = scratch(BLOCK * CHANNELS), scratch(BLOCK * CHANNELS), scratch(BLOCK * CHANNELS)
    keys, queries, longest = scratch(BLOCK * states), scratch(BLOCK * states), splat(np.float32(LONGEST))
    blocks = channels // CHANNELS
    for unit in range(first, last):
        sequence, column = unit // blocks, unit % blocks * CHANNELS
        start, stop = bounds[sequence], bounds[sequence + 1]
        place = sequence * states * channels + column
        if start == stop:
            for n in range(states):
                for j in range(0, CHANNELS, 16):
                    store(target, place + n * channels + j, load(source, place + n * channels + j))
        for begin in range(start, stop, BLOCK):
            count = min(BLOCK, stop - begin)
            for i in range(count):
                for n in range(states):
                    keys[i * states + n] = number(B, (begin + i) * B_step + n)
                    queries[i * states + n] = number(C, (begin + i) * C_step + n)
                for j in range(0, CHANNELS, 16):
                    step = load(dt, (begin + i) * dt_step + column + j)
                    if raw:
                        step = softplus(add(step, load(bias, column + j)))
                    value = load(x, (begin + i) * x_step + column + j)
                    store(steps, i * CHANNELS + j, least(step, longest))
                    store(written, i * CHANNELS + j, mul(step, value))
                    store(y, i * CHANNELS + j, mul(load(D, column + j), value))
            for n in range(states):
                row = place + n * channels
                origin = source if begin == start else target
                h0, h1 = load(origin, row), load(origin, row + 16)
                h2, h3 = load(origin, row + 32), load(origin, row + 48)
                rate = n * channels + column
                a0, a1 = load(rates, rate), load(rates, rate + 16)
                a2, a3 = load(rates, rate + 32), load(rates, rate + 48)
                for i in range(count):
                    at = i * CHANNELS
                    b, c = each(keys, i * states + n), each(queries, i * states + n)
                    h0 = fma(decay(a0, load(steps, at)), h0, mul(b, load(written, at)))
                    h1 = fma(decay(a1, load(steps, at + 16)), h1, mul(b, load(written, at + 16)))
                    h2 = fma(decay(a2, load(steps, at + 32)), h2, mul(b, load(written, at + 32)))
                    h3 = fma(decay(a3, load(steps, at + 48)), h3, mul(b, load(written, at + 48)))
                    store(y, at, fma(c, h0, load(y, at)))
                    store(y, at + 16, fma(c, h1, load(y, at + 16)))
                    store(y, at + 32, fma(c, h2, load(y, at + 32)))
                    store(y, at + 48, fma(c, h3, load(y, at + 48)))
                store(target, row, h0)
                store(target, row + 16, h1)
                store(target, row + 32, h2)
                store(target, row + 48, h3)
            for i in range(count):
                for j in range(0, CHANNELS, 16):
                    result = load(y, i * CHANNELS + j)
                    if gated:
                        result = mul(result, silu(load(z, (begin + i) * z_step + column + j)))
                    store(out, (begin + i) * channels + column + j, result)


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
    """As `jrt_kernels.selective_scan.naive.selective_scan`; the state (B,D,N) lies in memory as (B,N,D).

    Raises Unsupported for fp64, for tensors on a GPU and where a gradient is wanted.
    """
    check("selective_scan", x, dt, A, B, C, D, dt_bias, z, initial_state)
    batch, tokens, channels = x.shape
    states = A.shape[1]
    marks = sequences(batch, tokens, cu_seqlens)
    wide = -channels % CHANNELS
    rates = A.float().t() * math.log2(math.e)
    skip = torch.zeros(channels) if D is None else D.float()
    if initial_state is None:
        before = torch.zeros(len(marks) - 1, states, channels + wide)
    else:
        given = initial_state.float().transpose(1, 2)
        before = pad(given, (0, wide)) if wide else given.contiguous()
    bias = torch.zeros(channels) if dt_bias is None else dt_bias.float()
    values, dt, B, C, gate = alike(x, dt, B, C, x[..., :0] if z is None else z)
    if wide:
        values, dt, rates, skip, bias = (pad(y, (0, wide)) for y in (values, dt, rates, skip, bias))
        gate = gate if z is None else pad(gate, (0, wide))
    out = torch.empty(batch, tokens, channels + wide, dtype=values.dtype)
    after = torch.empty_like(before)
    if tokens == 0:
        after = before.clone()
    else:
        run(
            _scan, (len(marks) - 1) * ((channels + wide) // CHANNELS), marks, channels + wide, states,
            *rows(values), *rows(dt), whole(rates), *rows(B), *rows(C), whole(skip),
            whole(bias), dt_bias is not None, *(rows(gate) if z is not None else (flat(gate), 0)),
            z is not None, flat(before), flat(after), flat(out), parallel=tokens > 1,
        )  # fmt: skip
    y = out[..., :channels] if wide else out
    return y.to(x.dtype), after[:, :, :channels].transpose(1, 2)
