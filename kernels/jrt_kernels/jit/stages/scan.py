"""The selective scan of one token: Mamba's recurrence (arXiv 2312.00752), for a few rows."""

from __future__ import annotations

from jrt_kernels.jit.compiler import jit
from jrt_kernels.jit.lanes import each, exp2, fma, load, mul, prefetch, silu, softplus, store
from jrt_kernels.jit.stage import floats, words
from jrt_kernels.jit.together import share


@jit
def scan(part, parts, at):  # type: ignore[no-untyped-def]
    """out = (C state + skip u) silu(z), with the step size made of its low-rank form.

    Numbers: rows, channels E, states N, rank R, step of z's rows; addresses of u (rows, E), z, low (rows, R
    + 2 N), weight (R, E) and bias (E,) of the step size, rates (N, E), log2 of a decay per unit of it, skip
    (E,), before and after (rows, N, E), out (rows, E). out holds the step size for a while.
    """
    a = words(at)
    rows, channels, states, rank, z_step = a[0], a[1], a[2], a[3], a[4]
    u, z, low, weight, bias = floats(a[5]), floats(a[6]), floats(a[7]), floats(a[8]), floats(a[9])
    rates, skip, before, after, out = (
        floats(a[10]),
        floats(a[11]),
        floats(a[12]),
        floats(a[13]),
        floats(a[14]),
    )
    first, last = share(part, parts, channels, 16)
    wide = rank + 2 * states
    for c in range(first, last, 16):  # a column of the weight stays near for all rows
        for r in range(rows):
            step = load(bias, c)
            for i in range(rank):
                step = fma(each(low, r * wide + i), load(weight, i * channels + c), step)
            store(out, r * channels + c, softplus(step))
    for r in range(rows):
        key, state = r * wide + rank, r * states * channels
        for c in range(first, last, 16):
            step, value = load(out, r * channels + c), load(u, r * channels + c)
            written, result = mul(step, value), mul(load(skip, c), value)
            for n in range(states):
                place = state + n * channels + c
                prefetch(before, place + 128)
                kept = mul(exp2(mul(load(rates, n * channels + c), step)), load(before, place))
                value = fma(each(low, key + n), written, kept)
                store(after, place, value)
                result = fma(each(low, key + states + n), value, result)
            store(out, r * channels + c, mul(result, silu(load(z, r * z_step + c))))
