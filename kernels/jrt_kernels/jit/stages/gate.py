"""A gate on a few rows: what stands between the two products of a gated MLP."""

from __future__ import annotations

from jrt_kernels.jit.compiler import jit
from jrt_kernels.jit.lanes import load, mul, silu, store
from jrt_kernels.jit.stage import floats, words
from jrt_kernels.jit.together import share


@jit
def gate(part, parts, at):  # type: ignore[no-untyped-def]
    """out = y silu(z).

    Numbers: rows, width, step of y's and z's rows; addresses of y, z, out (rows, width).
    """
    a = words(at)
    rows, width, step = a[0], a[1], a[2]
    y, z, out = floats(a[3]), floats(a[4]), floats(a[5])
    first, last = share(part, parts, width, 16)
    for r in range(rows):
        for c in range(first, last, 16):
            store(out, r * width + c, mul(load(y, r * step + c), silu(load(z, r * step + c))))
