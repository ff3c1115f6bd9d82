"""The recurrence of Mamba-2 in bf16 on a CPU with AMX: arXiv 2405.21060, section 6, in chunks of 64 tokens.

Inside a chunk a token reads those before it by their products with it, what came before from the state.
Values that are not bf16 to begin with (weights, the state) go in as two of bf16: the error of the state stays
below 1e-5. Symbols: B batch, T tokens, H heads, P head dim, N state dim, G groups, S sequences.
"""

from __future__ import annotations

import numpy as np

from jrt_kernels.jit.compiler import jit, piece
from jrt_kernels.jit.lanes import add, each, exp2, fma, least, load, mul, splat, store
from jrt_kernels.jit.recurrence import scratch
from jrt_kernels.jit.tiles import (
    clear,
    configure,
    configured,
    fetch,
    multiply_bf16,
    put,
    rounded,
    set_up,
    store_paired,
)

CHUNK = 64
LEAST = 32
"""Tokens of a sequence, on average, from which a chunk is not mostly empty."""


@piece
def _short(size):  # type: ignore[no-untyped-def]
    """(size,) of bf16's bits, zeros, from an address that a cache line starts at."""
    x = np.zeros(size + 32, np.int16)
    first = -(x.ctypes.data // 2) % 32
    return x[first : first + size]


@piece
def _split_pairs(high, low, at, a, b):  # type: ignore[no-untyped-def]
    """16 columns of two rows of a right operand, and of what rounding leaves of them."""
    minus, first, second = splat(np.float32(-1)), rounded(a), rounded(b)
    store_paired(high, at, first, second)
    store_paired(low, at, fma(first, minus, a), fma(second, minus, b))


@piece
def _group(begins, count, states, B, B_at, B_step, C, C_at, C_step, left, turned, right, scores):  # type: ignore[no-untyped-def]
    """What heads that share B and C share: C (64, N), B turned (N, 64) and paired, scores C B (64, 64) below
    the diagonal."""
    zero = splat(np.float32(0))
    for i in range(CHUNK):
        for s in range(0, states, 16):
            value = load(C, (begins + i) * C_step + C_at + s) if i < count else zero
            store(left, i * states + s, value)
        for s in range(states):
            turned[s * CHUNK + i] = B[(begins + i) * B_step + B_at + s] if i < count else np.int16(0)
    for s in range(0, states, 2):
        for i in range(0, CHUNK, 16):
            first, second = load(turned, s * CHUNK + i), load(turned, (s + 1) * CHUNK + i)
            store_paired(right, s * CHUNK + 2 * i, first, second)
    for i in range(0, CHUNK, 16):
        for j in range(0, i + 16, 16):
            clear(0)
            for s in range(0, states, 32):
                fetch(1, left, i * states + s, 2 * states)
                fetch(2, right, s * CHUNK + 2 * j, 4 * CHUNK)
                multiply_bf16(0, 1, 2)
            put(0, scores, i * CHUNK + j, 4 * CHUNK)


@piece
def _weigh(scores, steps, sums, rest, below, high, low):  # type: ignore[no-untyped-def]
    """Of token i on what token j <= i wrote: scores dt_j 2^(sums_i - sums_j), as two of bf16 (64, 64).

    sums and rest: the log decays summed, what rounding leaves of them; below (16, 16): 1 on and below the
    diagonal.
    """
    zero, minus = splat(np.float32(0)), splat(np.float32(-1))
    for i in range(CHUNK):
        here, left = each(sums, i), each(rest, i)
        for j in range(0, i + 1, 16):
            since = add(fma(load(sums, j), minus, here), fma(load(rest, j), minus, left))
            value = mul(load(scores, i * CHUNK + j), mul(load(steps, j), exp2(least(since, zero))))
            if j + 16 > i:
                value = mul(value, load(below, i % 16 * 16))
            first = rounded(value)
            store(high, i * CHUNK + j, first)
            store(low, i * CHUNK + j, fma(first, minus, value))


@piece
def _fetch_sums(y, at, width):  # type: ignore[no-untyped-def]
    """Tiles 0 to 3: 32 x 32 values at y[at:] of rows of `width`."""
    fetch(0, y, at, 4 * width)
    fetch(1, y, at + 16, 4 * width)
    fetch(2, y, at + 16 * width, 4 * width)
    fetch(3, y, at + 16 * width + 16, 4 * width)


@piece
def _put_sums(y, at, width):  # type: ignore[no-untyped-def]
    """The other way round."""
    put(0, y, at, 4 * width)
    put(1, y, at + 16, 4 * width)
    put(2, y, at + 16 * width, 4 * width)
    put(3, y, at + 16 * width + 16, 4 * width)


@piece
def _fetch_left(left, at, step):  # type: ignore[no-untyped-def]
    """Tiles 4 and 5: 32 rows of 32 at left[at:], `step` apart."""
    fetch(4, left, at, 2 * step)
    fetch(5, left, at + 16 * step, 2 * step)


@piece
def _fetch_right(right, at, width):  # type: ignore[no-untyped-def]
    """Tiles 6 and 7: 32 paired rows of 32 columns at right[at:], of `width` columns."""
    fetch(6, right, at, 4 * width)
    fetch(7, right, at + 32, 4 * width)


@piece
def _multiply():  # type: ignore[no-untyped-def]
    """Tiles 0 to 3 += tiles 4 and 5 times tiles 6 and 7."""
    multiply_bf16(0, 4, 6)
    multiply_bf16(1, 4, 7)
    multiply_bf16(2, 5, 6)
    multiply_bf16(3, 5, 7)


@piece
def _read_state(states, width, left, high, low, y):  # type: ignore[no-untyped-def]
    """y (64, P) = C S, S (N, P) paired in two parts."""
    for i in range(0, CHUNK, 32):
        for p in range(0, width, 32):
            clear(0)
            clear(1)
            clear(2)
            clear(3)
            for s in range(0, states, 32):
                _fetch_left(left, i * states + s, states)
                _fetch_right(high, s * width + 2 * p, width)
                _multiply()
                _fetch_right(low, s * width + 2 * p, width)
                _multiply()
            _put_sums(y, i * width + p, width)


@piece
def _read_chunk(width, high, low, values, y):  # type: ignore[no-untyped-def]
    """y (64, P) += weights values: weights (64, 64) in two parts, zero above the diagonal; values paired."""
    for i in range(0, CHUNK, 32):
        for p in range(0, width, 32):
            _fetch_sums(y, i * width + p, width)
            for k in range(0, i + 32, 32):
                _fetch_right(values, k * width + 2 * p, width)
                _fetch_left(high, i * CHUNK + k, CHUNK)
                _multiply()
                _fetch_left(low, i * CHUNK + k, CHUNK)
                _multiply()
            _put_sums(y, i * width + p, width)


@piece
def _write_state(states, width, turned, high, low, state, place):  # type: ignore[no-untyped-def]
    """S (N, P) at state[place:] += B turned (N, 64) times weighed values (64, P), paired in two parts."""
    for n in range(0, states, 32):
        for p in range(0, width, 32):
            at = place + n * width + p
            _fetch_sums(state, at, width)
            for k in range(0, CHUNK, 32):
                _fetch_left(turned, n * CHUNK + k, CHUNK)
                _fetch_right(high, k * width + 2 * p, width)
                _multiply()
                _fetch_right(low, k * width + 2 * p, width)
                _multiply()
            _put_sums(state, at, width)


@jit
def ssd_tiles(  # type: ignore[no-untyped-def]
    first, last, bounds, heads, groups, width, states, x, x_step, dt, dt_step, rates,
    B, B_step, C, C_step, D, source, target, out,
):  # fmt: skip
    """As `_ssd`, of bf16: states (S, H, N, P), N and P multiples of 32."""
    left, turned, right = _short(CHUNK * states), _short(CHUNK * states), _short(CHUNK * states)
    high, low = _short(CHUNK * CHUNK), _short(CHUNK * CHUNK)
    values, new, new_low = _short(CHUNK * width), _short(CHUNK * width), _short(CHUNK * width)
    old, old_low = _short(states * width), _short(states * width)
    scores, y, below = scratch(CHUNK * CHUNK), scratch(CHUNK * width), scratch(256)
    steps, sums, rest = scratch(CHUNK), scratch(CHUNK), scratch(CHUNK)
    grown, weight, one = scratch(CHUNK), scratch(CHUNK), scratch(16)
    zero, minus = splat(np.float32(0)), splat(np.float32(-1))
    for i in range(256):
        below[i] = np.float32(1) if i % 16 <= i // 16 else np.float32(0)
    before, now = np.zeros(64, np.int8), np.empty(64, np.int8)
    configured(before)
    set_up(now)
    configure(now)
    for sequence in range(first // heads, (last + heads - 1) // heads):
        lowest = max(first - sequence * heads, 0)
        highest = min(last - sequence * heads, heads)
        start, stop = bounds[sequence], bounds[sequence + 1]
        for i in range(lowest * states * width, highest * states * width, 16):
            at = sequence * heads * states * width + i
            store(target, at, load(source, at))
        for begins in range(start, stop, CHUNK):
            count, group = min(CHUNK, stop - begins), -1
            for head in range(lowest, highest):
                if head * groups // heads != group:
                    group = head * groups // heads
                    _group(
                        begins, count, states, B, group * states, B_step, C, group * states, C_step,
                        left, turned, right, scores,
                    )  # fmt: skip
                total = np.float64(0)
                for i in range(CHUNK):
                    step = dt[(begins + i) * dt_step + head] if i < count else np.float32(0)
                    total += np.float64(step) * np.float64(rates[head])
                    steps[i], sums[i] = step, np.float32(total)
                    rest[i] = np.float32(total - np.float64(sums[i]))
                all_sum, all_rest = each(sums, CHUNK - 1), each(rest, CHUNK - 1)
                store(one, 0, exp2(add(all_sum, all_rest)))
                for i in range(0, CHUNK, 16):
                    store(grown, i, exp2(add(load(sums, i), load(rest, i))))
                    since = add(fma(load(sums, i), minus, all_sum), fma(load(rest, i), minus, all_rest))
                    store(weight, i, mul(load(steps, i), exp2(since)))
                _weigh(scores, steps, sums, rest, below, high, low)
                x_at = begins * x_step + head * width
                for i in range(0, CHUNK, 2):
                    by, then = each(weight, i), each(weight, i + 1)
                    for p in range(0, width, 16):
                        a = load(x, x_at + i * x_step + p) if i < count else zero
                        b = load(x, x_at + (i + 1) * x_step + p) if i + 1 < count else zero
                        store_paired(values, i * width + 2 * p, a, b)
                        _split_pairs(new, new_low, i * width + 2 * p, mul(a, by), mul(b, then))
                place, kept = (sequence * heads + head) * states * width, each(one, 0)
                for s in range(0, states, 2):
                    for p in range(0, width, 16):
                        at = place + s * width + p
                        a, b = load(target, at), load(target, at + width)
                        _split_pairs(old, old_low, s * width + 2 * p, a, b)
                        store(target, at, mul(a, kept))
                        store(target, at + width, mul(b, kept))
                _read_state(states, width, left, old, old_low, y)
                for i in range(CHUNK):
                    by = each(grown, i)
                    for p in range(0, width, 16):
                        store(y, i * width + p, mul(by, load(y, i * width + p)))
                _read_chunk(width, high, low, values, y)
                _write_state(states, width, turned, new, new_low, target, place)
                skip = splat(D[head])
                for i in range(count):
                    for p in range(0, width, 16):
                        plus = fma(skip, load(x, x_at + i * x_step + p), load(y, i * width + p))
                        store(out, ((begins + i) * heads + head) * width + p, plus)
    configure(before)
