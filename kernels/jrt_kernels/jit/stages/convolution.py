"""The short convolution of one token, from the inputs of those before."""

from __future__ import annotations

from jrt_kernels.jit.compiler import jit
from jrt_kernels.jit.lanes import fma, load, mul, silu, store
from jrt_kernels.jit.stage import floats, words
from jrt_kernels.jit.together import share


@jit
def convolve(part, parts, at):  # type: ignore[no-untyped-def]
    """out = silu(the convolution of x and the `taps` - 1 inputs before), times a gate if there is one.

    Numbers: rows, channels, taps, step of x's and the gate's rows; addresses of x, gate or 0, weight (taps,
    channels), bias (channels,), before and after (rows, taps - 1, channels), oldest first, out (rows,
    channels).
    """
    a = words(at)
    rows, channels, taps, step = a[0], a[1], a[2], a[3]
    x, gate, weight, bias = floats(a[4]), floats(a[5]), floats(a[6]), floats(a[7])
    before, after, out = floats(a[8]), floats(a[9]), floats(a[10])
    first, last = share(part, parts, channels, 16)
    for r in range(rows):
        state = r * (taps - 1) * channels
        for c in range(first, last, 16):
            here = load(x, r * step + c)
            y = fma(load(weight, (taps - 1) * channels + c), here, load(bias, c))
            for w in range(taps - 1):
                old = load(before, state + w * channels + c)
                y = fma(load(weight, w * channels + c), old, y)
                if w > 0:
                    store(after, state + (w - 1) * channels + c, old)
            if taps > 1:
                store(after, state + (taps - 2) * channels + c, here)
            y = silu(y)
            if a[5] != 0:
                y = mul(y, load(gate, r * step + c))
            store(out, r * channels + c, y)
