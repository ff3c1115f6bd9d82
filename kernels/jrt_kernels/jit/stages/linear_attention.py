"""One token of linear attention for a few rows: S <- decay S + k v, o = q S; Mamba-2's, GLA's and Taylor's.

States are bound by memory: each is asked for ahead, and written past the caches to where the new state lies.
"""

from __future__ import annotations

import math

import numpy as np

from jrt_kernels.jit.compiler import jit, piece
from jrt_kernels.jit.lanes import (
    each,
    exp2,
    fma,
    load,
    mul,
    prefetch,
    softplus,
    splat,
    store,
    stream,
)
from jrt_kernels.jit.recurrence import scratch
from jrt_kernels.jit.stage import floats, words
from jrt_kernels.jit.together import share
from jrt_kernels.taylor_linear_attention.numba import write_features

AHEAD = 2048
LOG2_E = np.float32(math.log2(math.e))


@piece
def _update(keys, width, k, q, decay, before, after, at, v, v_at, o, o_at):  # type: ignore[no-untyped-def]
    """A state (keys, width) at `at`, width a multiple of 64; k, q, decay (keys,); o gets q times the new
    one.
    """
    for c in range(0, width, 64):
        v0, v1, v2, v3 = (
            load(v, v_at + c),
            load(v, v_at + c + 16),
            load(v, v_at + c + 32),
            load(v, v_at + c + 48),
        )
        zero = splat(np.float32(0))
        o0, o1, o2, o3 = zero, zero, zero, zero
        place = at + c
        for s in range(keys):
            ahead = place + AHEAD
            prefetch(before, ahead)
            prefetch(before, ahead + 16)
            prefetch(before, ahead + 32)
            prefetch(before, ahead + 48)
            kept, x = each(decay, s), each(k, s)
            s0 = fma(kept, load(before, place), mul(x, v0))
            s1 = fma(kept, load(before, place + 16), mul(x, v1))
            s2 = fma(kept, load(before, place + 32), mul(x, v2))
            s3 = fma(kept, load(before, place + 48), mul(x, v3))
            stream(after, place, s0)
            stream(after, place + 16, s1)
            stream(after, place + 32, s2)
            stream(after, place + 48, s3)
            x = each(q, s)
            o0, o1, o2, o3 = fma(x, s0, o0), fma(x, s1, o1), fma(x, s2, o2), fma(x, s3, o3)
            place += width
        store(o, o_at + c, o0)
        store(o, o_at + c + 16, o1)
        store(o, o_at + c + 32, o2)
        store(o, o_at + c + 48, o3)


@jit
def ssd(part, parts, at):  # type: ignore[no-untyped-def]
    """Mamba-2 (arXiv 2405.21060): one decay per head, its step size from `raw`; o = C S + skip v.

    Numbers: rows, heads H, width P, states N, groups G, step of raw's rows; addresses of mixed (rows, H P +
    2 G N) with values, B and C, raw (H of each row), bias, rates, log2 of a decay per unit of the step size,
    skip (H,), limit (2,) of the step size, before and after (rows, H, N, P), out (rows, H P).
    """
    a = words(at)
    rows, heads, width, states, groups, raw_step = a[0], a[1], a[2], a[3], a[4], a[5]
    mixed, raw, bias, rates, skip = floats(a[6]), floats(a[7]), floats(a[8]), floats(a[9]), floats(a[10])
    limit, before, after, out = floats(a[11]), floats(a[12]), floats(a[13]), floats(a[14])
    low, high = limit[0], limit[1]
    inner = heads * width
    wide = inner + 2 * groups * states
    one, k, q, decay = scratch(16), scratch(states + 16), scratch(states + 16), scratch(states + 16)
    first, last = share(part, parts, rows * heads, 1)
    for unit in range(first, last):
        r, head = unit // heads, unit % heads
        store(one, 0, softplus(splat(raw[r * raw_step + head] + bias[head])))
        step = min(max(one[0], low), high)
        kept, written = exp2(splat(step * rates[head])), splat(step)
        key = r * wide + inner + head * groups // heads * states
        for n in range(0, states, 16):  # of the last, only some count
            store(decay, n, kept)
            store(k, n, mul(written, load(mixed, key + n)))
            store(q, n, load(mixed, key + groups * states + n))
        value, to = r * wide + head * width, r * inner + head * width
        _update(states, width, k, q, decay, before, after, unit * states * width, mixed, value, out, to)
        through = splat(skip[head])
        for c in range(0, width, 16):
            store(out, to + c, fma(through, load(mixed, value + c), load(out, to + c)))


@jit
def gla(part, parts, at):  # type: ignore[no-untyped-def]
    """Gated linear attention (arXiv 2312.06635): a decay per key, sigmoid(raw)^(1 / 16).

    Numbers: rows, heads H, keys K, width V, heads that share keys and values; addresses of q (rows, H K), k
    and raw (rows, H K / shared), v (rows, H V / shared), least (1,) log2 of a decay, before and after (rows,
    H, K, V), out (rows, H V).
    """
    a = words(at)
    rows, heads, keys, width, shared = a[0], a[1], a[2], a[3], a[4]
    q, k, raw, v, lowest = floats(a[5]), floats(a[6]), floats(a[7]), floats(a[8]), floats(a[9])[0]
    before, after, out = floats(a[10]), floats(a[11]), floats(a[12])
    query, decay = scratch(keys), scratch(keys)
    factor = splat(np.float32(np.float64(keys) ** -0.5))
    own = heads // shared
    first, last = share(part, parts, rows * heads, 1)
    for unit in range(first, last):
        r, head = unit // heads, unit % heads
        place = (r * own + head // shared) * keys
        for s in range(0, keys, 16):
            store(query, s, mul(factor, load(q, unit * keys + s)))
            # logsigmoid(x) = -softplus(-x)
            soft = softplus(mul(splat(np.float32(-1)), load(raw, place + s)))
            store(decay, s, mul(splat(np.float32(-LOG2_E / 16)), soft))
        for s in range(keys):
            decay[s] = max(decay[s], lowest)
        for s in range(0, keys, 16):
            store(decay, s, exp2(load(decay, s)))
        _update(
            keys, width, k[place:], query, decay, before, after, unit * keys * width,
            v, (r * own + head // shared) * width, out, unit * width,
        )  # fmt: skip


@jit
def taylor(part, parts, at):  # type: ignore[no-untyped-def]
    """Taylor linear attention on folded features: q S over q z, with z the sum of keys, times a weight.

    Numbers: rows, heads H, key dim K, width P; addresses of q, k (rows, H K), v (rows, H P), weight (rows,
    H) or 0, rates (H,), log2 of a head's decay, before and after (rows, H, F, P) of S and (rows, H, F) of z,
    out (rows, H P).
    """
    a = words(at)
    rows, heads, dim, width = a[0], a[1], a[2], a[3]
    q, k, v, weight, rates = floats(a[4]), floats(a[5]), floats(a[6]), floats(a[7]), floats(a[8])
    before, after, before_z, after_z, out = (
        floats(a[9]),
        floats(a[10]),
        floats(a[11]),
        floats(a[12]),
        floats(a[13]),
    )
    features = dim * (dim + 1) // 2 + dim + 1
    pitch = features + -features % 16
    shrink = np.float32(np.float64(dim) ** -0.25)
    key, query, decay, y = scratch(pitch), scratch(pitch), scratch(pitch), scratch(2 * dim + 16)
    first, last = share(part, parts, rows * heads, 1)
    for unit in range(first, last):
        write_features(k, unit * dim, dim, shrink, y, key, 0)
        write_features(q, unit * dim, dim, shrink, y, query, 0)
        kept = exp2(splat(rates[unit % heads]))
        for s in range(0, pitch, 16):
            store(decay, s, kept)
        sum_qz = np.float32(0)
        for s in range(features):
            z = before_z[unit * features + s] + key[s]
            after_z[unit * features + s] = z
            sum_qz += z * query[s]
        by = np.float32(1) / sum_qz
        if a[7] != 0:
            by *= weight[unit]
        at_v = unit * width
        _update(
            features, width, key, query, decay, before, after, unit * features * width, v, at_v, out, at_v
        )
        for c in range(at_v, at_v + width, 16):
            store(out, c, mul(splat(by), load(out, c)))
