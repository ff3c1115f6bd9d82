"""What the kernels share that run one token through a whole model: norm, convolution, products, the table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from jrt_kernels.jit.compiler import piece
from jrt_kernels.jit.lanes import fma, load, mul, silu, splat, store, total
from jrt_kernels.jit.product import dot
from jrt_kernels.jit.tensors import Array
from jrt_kernels.jit.together import share

Matrix = tuple[Tensor, Tensor | None]
"""weight (O, I) fp32, bf16 or int8, and scale (O,) fp32 that its rows are multiplied by, None for 1."""


class Table:
    """Addresses of weights in the order that a kernel takes them, with places for those of states."""

    def __init__(self) -> None:
        self._addresses: list[int] = []
        self._kept: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        """A small parameter, as fp32."""
        self._put(x.detach().float().contiguous())

    def add_matrix(self, matrix: Matrix) -> None:
        """Two places: the weight as it is, and its scale or nothing."""
        weight, scale = matrix
        self._put(weight.detach())
        if scale is None:
            self.skip(1)
        else:
            self._put(scale)

    def skip(self, count: int) -> None:
        """Places to be filled later."""
        self._addresses += [0] * count

    def filled(self, fields: int, first: int, states: Sequence[Sequence[Tensor] | Tensor]) -> Array:
        """A copy with states[s][layer] at place first + s of each layer's `fields`."""
        table = np.array(self._addresses, np.int64)
        for s, tensors in enumerate(states):
            for layer, x in enumerate(tensors):
                table[layer * fields + first + s] = x.data_ptr()
        return table

    def _put(self, x: Tensor) -> None:
        self._kept.append(x)
        self._addresses.append(x.data_ptr())


@piece
def normalize(width, x, weight, eps, out):  # type: ignore[no-untyped-def]
    """out = x / rms(x) weight, all (width,)."""
    squares = splat(np.float32(0))
    for c in range(0, width, 16):
        value = load(x, c)
        squares = fma(value, value, squares)
    by = splat(np.float32(1) / np.sqrt(total(squares) / np.float32(width) + eps))
    for c in range(0, width, 16):
        store(out, c, mul(mul(load(x, c), by), load(weight, c)))


@piece
def product(part, parts, outputs, size, weight, scale, scaled, x, out):  # type: ignore[no-untyped-def]
    """This part's rows of out = weight x: weight (outputs, size), scale (outputs,), x (size,)."""
    first, last = share(part, parts, outputs, 1)
    for row in range(first, last):
        value = dot(size, weight, row * size, x)
        out[row] = value * scale[row] if scaled else value


@piece
def add_product(part, parts, outputs, size, weight, scale, scaled, x, out):  # type: ignore[no-untyped-def]
    """The same, added to what out holds."""
    first, last = share(part, parts, outputs, 1)
    for row in range(first, last):
        value = dot(size, weight, row * size, x)
        out[row] += value * scale[row] if scaled else value


@piece
def convolve(  # type: ignore[no-untyped-def]
    first, last, channels, taps, x, x_at, weight, bias, before, after, out,
):  # fmt: skip
    """out = silu(the convolution of the `taps` last inputs) for channels first to last.

    x[x_at:] the newest input, before and after (taps - 1, channels) the older ones, oldest first; weight
    (taps, channels).
    """
    for c in range(first, last, 16):
        here = load(x, x_at + c)
        y = fma(load(weight, (taps - 1) * channels + c), here, load(bias, c))
        for w in range(taps - 1):
            old = load(before, w * channels + c)
            y = fma(load(weight, w * channels + c), old, y)
            if w > 0:
                store(after, (w - 1) * channels + c, old)
        if taps > 1:
            store(after, (taps - 2) * channels + c, here)
        store(out, c, silu(y))
