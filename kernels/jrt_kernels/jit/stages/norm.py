"""RMSNorm of a few rows, with what comes before it: the residual stream's sum, or a gate."""

from __future__ import annotations

import numpy as np

from jrt_kernels.jit.compiler import jit, piece
from jrt_kernels.jit.lanes import add, fma, load, mul, silu, splat, store, total
from jrt_kernels.jit.stage import floats, words
from jrt_kernels.jit.together import share


@piece
def _inverse_rms(squares, size, eps):  # type: ignore[no-untyped-def]
    return splat(np.float32(1) / np.sqrt(total(squares) / np.float32(size) + eps))


@jit
def norm(part, parts, at):  # type: ignore[no-untyped-def]
    """stream += more, if there is any; out = stream / rms(stream) weight.

    Numbers: rows, width; addresses of stream, more (or 0), out (rows, width), weight (width,), eps (1,).
    """
    a = words(at)
    width = a[1]
    stream, more, out, weight, eps = floats(a[2]), floats(a[3]), floats(a[4]), floats(a[5]), floats(a[6])[0]
    first, last = share(part, parts, a[0], 1)
    for r in range(first, last):
        row = r * width
        squares = splat(np.float32(0))
        for c in range(row, row + width, 16):
            value = load(stream, c)
            if a[3] != 0:
                value = add(value, load(more, c))
                store(stream, c, value)
            squares = fma(value, value, squares)
        by = _inverse_rms(squares, width, eps)
        for c in range(0, width, 16):
            store(out, row + c, mul(mul(load(stream, row + c), by), load(weight, c)))


@jit
def gated_norm(part, parts, at):  # type: ignore[no-untyped-def]
    """out = each group of x's channels over its rms, times weight; z's silu is multiplied before or after it.

    Numbers: rows, channels, group, period of the weight, gate (0 none, 1 before, 2 after), step of z's rows;
    addresses of x, z, out, weight, eps.
    """
    a = words(at)
    channels, group, period, gate, step = a[1], a[2], a[3], a[4], a[5]
    x, z, out, weight, eps = floats(a[6]), floats(a[7]), floats(a[8]), floats(a[9]), floats(a[10])[0]
    groups = channels // group
    first, last = share(part, parts, a[0] * groups, 1)
    for unit in range(first, last):
        row, start = unit // groups * channels, unit % groups * group
        gates = unit // groups * step
        squares = splat(np.float32(0))
        for c in range(start, start + group, 16):
            value = load(x, row + c)
            if gate == 1:
                value = mul(value, silu(load(z, gates + c)))
            store(out, row + c, value)
            squares = fma(value, value, squares)
        by = _inverse_rms(squares, group, eps)
        for c in range(start, start + group, 16):
            value = mul(mul(load(out, row + c), by), load(weight, c % period))
            if gate == 2:
                value = mul(value, silu(load(z, gates + c)))
            store(out, row + c, value)
