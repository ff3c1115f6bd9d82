"""Softmax attention to a window of keys, for one token of a few rows, with rotary positions."""

from __future__ import annotations

import math

import numpy as np

from jrt_kernels.jit.compiler import jit, piece
from jrt_kernels.jit.lanes import exp2, fma, load, mul, splat, store, total
from jrt_kernels.jit.recurrence import scratch
from jrt_kernels.jit.stage import floats, words
from jrt_kernels.jit.together import share

LOG2_E = np.float32(math.log2(math.e))


@piece
def _turned(dim, half, x, at, turn, turn_at, out):  # type: ignore[no-untyped-def]
    """out (dim,) = x[at:] turned by angles whose `half` cosines, then sines, stand at turn[turn_at:]."""
    for i in range(0, dim, 16):
        store(out, i, load(x, at + i))
    for i in range(half):
        a, b = x[at + i], x[at + half + i]
        cos, sin = turn[turn_at + i], turn[turn_at + half + i]
        out[i] = a * cos - b * sin
        out[half + i] = a * sin + b * cos


@jit
def window(part, parts, at):  # type: ignore[no-untyped-def]
    """A query sees the keys that are kept, as many as are real, and its own.

    Numbers: rows, heads H, dim P, slots S, half of the dimensions that turn; addresses of qkv (rows, 3 H P),
    turn (rows, 2 half), lengths (rows,) int64, scale (1,), before and after (rows, S, H, P) of keys and of
    values, out (rows, H P).
    """
    a = words(at)
    rows, heads, dim, slots, half = a[0], a[1], a[2], a[3], a[4]
    qkv, turn, lengths, scale = floats(a[5]), floats(a[6]), words(a[7]), floats(a[8])[0]
    before_k, after_k, before_v, after_v = floats(a[9]), floats(a[10]), floats(a[11]), floats(a[12])
    out = floats(a[13])
    width = heads * dim
    score, query, key, o = scratch(slots + 17), scratch(dim), scratch(dim), scratch(dim)
    first, last = share(part, parts, rows * heads, 1)
    for unit in range(first, last):
        r, head = unit // heads, unit % heads
        place, new, state = 3 * r * width + head * dim, r * width + head * dim, r * slots * width + head * dim
        _turned(dim, half, qkv, place, turn, r * 2 * half, query)
        _turned(dim, half, qkv, place + width, turn, r * 2 * half, key)
        for i in range(0, dim, 16):
            store(query, i, mul(load(query, i), splat(scale * LOG2_E)))
        unseen = slots - lengths[r]
        top = np.float32(-math.inf)
        for s in range(slots + 1):
            sum_s, from_s = splat(np.float32(0)), state + s * width
            for i in range(0, dim, 16):
                x = load(before_k, from_s + i) if s < slots else load(key, i)
                sum_s = fma(x, load(query, i), sum_s)
                if s > 0:
                    store(after_k, from_s - width + i, x)
            value = total(sum_s)
            score[s] = value
            if s >= unseen:
                top = max(top, value)
        shift = splat(-top)
        one = splat(np.float32(1))
        for s in range(0, slots + 1, 16):
            store(score, s, exp2(fma(one, load(score, s), shift)))
        sum_all = np.float32(0)
        for s in range(slots + 1):
            if s < unseen:
                score[s] = np.float32(0)
            sum_all += score[s]
        for i in range(0, dim, 16):
            store(o, i, splat(np.float32(0)))
        by = np.float32(1) / sum_all
        for s in range(slots + 1):
            weight, from_s = splat(score[s] * by), state + s * width
            for i in range(0, dim, 16):
                x = load(before_v, from_s + i) if s < slots else load(qkv, place + 2 * width + i)
                store(o, i, fma(weight, x, load(o, i)))
                if s > 0:
                    store(after_v, from_s - width + i, x)
        for i in range(0, dim, 16):
            store(out, new + i, load(o, i))
