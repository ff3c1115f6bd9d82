"""A matrix times one vector. It is bound by reading the weights, which are read once and in place.

Weights are fp32, bf16, or int8 with a scale for each row. PyTorch's product of one row with bf16 weights
reaches half of the memory's speed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from jrt_kernels.jit.compiler import jit, piece
from jrt_kernels.jit.lanes import add, fma, load, mul, prefetch, splat, store, total
from jrt_kernels.jit.tensors import flat, run

AHEAD = 4096
"""Values that are asked of the memory before they are needed."""
ROWS = 16
SHARED = 1 << 20
"""Weights from which several threads are worth their start."""


@piece
def dot(size, weight, at, x):  # type: ignore[no-untyped-def]
    """The sum over i < size of weight[at + i] x[i], size a multiple of 16, x fp32."""
    zero = splat(np.float32(0))
    a, b, c, d = zero, zero, zero, zero
    i = 0
    while i + 64 <= size:
        ahead = at + i + AHEAD
        prefetch(weight, ahead)
        if weight.itemsize > 1:
            prefetch(weight, ahead + 32)
        if weight.itemsize > 2:
            prefetch(weight, ahead + 16)
            prefetch(weight, ahead + 48)
        a = fma(load(weight, at + i), load(x, i), a)
        b = fma(load(weight, at + i + 16), load(x, i + 16), b)
        c = fma(load(weight, at + i + 32), load(x, i + 32), c)
        d = fma(load(weight, at + i + 48), load(x, i + 48), d)
        i += 64
    while i < size:
        a = fma(load(weight, at + i), load(x, i), a)
        i += 16
    return total(add(add(a, b), add(c, d)))


@jit
def _matvec(first, last, outputs, size, weight, scale, scaled, x, out):  # type: ignore[no-untyped-def]
    """Units are 16 rows of weight (O, I), I a multiple of 16; scale (O,), x (I,), out (O,)."""
    for row in range(first * ROWS, min(last * ROWS, outputs)):
        value = dot(size, weight, row * size, x)
        out[row] = value * scale[row] if scaled else value


@piece
def _two_by_eight(size, weight, at, scale, scaled, row, x, x_at, out, out_at, outputs):  # type: ignore[no-untyped-def]
    """Two rows of the weight times eight of x."""
    zero = splat(np.float32(0))
    a0, a1, a2, a3, a4, a5, a6, a7 = zero, zero, zero, zero, zero, zero, zero, zero
    b0, b1, b2, b3, b4, b5, b6, b7 = zero, zero, zero, zero, zero, zero, zero, zero
    for i in range(0, size, 16):
        prefetch(weight, at + i + AHEAD)
        v, w = load(weight, at + i), load(weight, at + size + i)
        y = load(x, x_at + 0 * size + i)
        a0, b0 = fma(v, y, a0), fma(w, y, b0)
        y = load(x, x_at + 1 * size + i)
        a1, b1 = fma(v, y, a1), fma(w, y, b1)
        y = load(x, x_at + 2 * size + i)
        a2, b2 = fma(v, y, a2), fma(w, y, b2)
        y = load(x, x_at + 3 * size + i)
        a3, b3 = fma(v, y, a3), fma(w, y, b3)
        y = load(x, x_at + 4 * size + i)
        a4, b4 = fma(v, y, a4), fma(w, y, b4)
        y = load(x, x_at + 5 * size + i)
        a5, b5 = fma(v, y, a5), fma(w, y, b5)
        y = load(x, x_at + 6 * size + i)
        a6, b6 = fma(v, y, a6), fma(w, y, b6)
        y = load(x, x_at + 7 * size + i)
        a7, b7 = fma(v, y, a7), fma(w, y, b7)
    by = scale[row] if scaled else np.float32(1)
    out[out_at + 0 * outputs + row] = total(a0) * by
    out[out_at + 1 * outputs + row] = total(a1) * by
    out[out_at + 2 * outputs + row] = total(a2) * by
    out[out_at + 3 * outputs + row] = total(a3) * by
    out[out_at + 4 * outputs + row] = total(a4) * by
    out[out_at + 5 * outputs + row] = total(a5) * by
    out[out_at + 6 * outputs + row] = total(a6) * by
    out[out_at + 7 * outputs + row] = total(a7) * by
    by = scale[row + 1] if scaled else np.float32(1)
    out[out_at + 0 * outputs + row + 1] = total(b0) * by
    out[out_at + 1 * outputs + row + 1] = total(b1) * by
    out[out_at + 2 * outputs + row + 1] = total(b2) * by
    out[out_at + 3 * outputs + row + 1] = total(b3) * by
    out[out_at + 4 * outputs + row + 1] = total(b4) * by
    out[out_at + 5 * outputs + row + 1] = total(b5) * by
    out[out_at + 6 * outputs + row + 1] = total(b6) * by
    out[out_at + 7 * outputs + row + 1] = total(b7) * by


@piece
def one_by_four(size, weight, at, scale, scaled, row, x, x_at, out, out_at, outputs):  # type: ignore[no-untyped-def]
    """One row of the weight times four of x."""
    zero = splat(np.float32(0))
    a0, a1, a2, a3 = zero, zero, zero, zero
    for i in range(0, size, 16):
        prefetch(weight, at + i + AHEAD)
        v = load(weight, at + i)
        a0, a1 = fma(v, load(x, x_at + i), a0), fma(v, load(x, x_at + size + i), a1)
        a2, a3 = fma(v, load(x, x_at + 2 * size + i), a2), fma(v, load(x, x_at + 3 * size + i), a3)
    by = scale[row] if scaled else np.float32(1)
    out[out_at + row] = total(a0) * by
    out[out_at + outputs + row] = total(a1) * by
    out[out_at + 2 * outputs + row] = total(a2) * by
    out[out_at + 3 * outputs + row] = total(a3) * by


@jit
def _few(first, last, outputs, size, weight, scale, scaled, count, x, out):  # type: ignore[no-untyped-def]
    """Units are 16 rows of weight (O, I); x (count, I) and out (count, O) of a multiple of 4 rows.

    Each number of the result is summed in the same order however many rows there are.
    """
    for row in range(first * ROWS, min(last * ROWS, outputs), 2):
        both = row + 2 <= outputs
        at, r = row * size, 0
        while r + 8 <= count and both:
            _two_by_eight(size, weight, at, scale, scaled, row, x, r * size, out, r * outputs, outputs)
            r += 8
        while r < count:
            one_by_four(size, weight, at, scale, scaled, row, x, r * size, out, r * outputs, outputs)
            if both:
                one_by_four(
                    size, weight, at + size, scale, scaled, row + 1, x, r * size, out, r * outputs, outputs
                )
            r += 4


def serves(x: Tensor, weight: Tensor) -> bool:
    """Whether the products here are made for these: on a CPU, whole vectors, weights of x's dtype or int8."""
    return (
        x.dtype in (torch.float32, torch.bfloat16)
        and (weight.dtype in (x.dtype, torch.int8))
        and x.device.type == weight.device.type == "cpu"
        and weight.shape[1] % 16 == 0
        and weight.is_contiguous()
    )


def matvec(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None = None) -> Tensor:
    """x (..., I) of one row, weight (O, I), bias (O,) -> (..., O) in the dtype of x, summed in fp32.

    scale (O,) fp32: what each row of the weight is to be multiplied by, None for 1.
    """
    outputs, size = weight.shape
    out = torch.empty(outputs)
    vector = flat(x.contiguous().float())
    run(
        _matvec,
        -(-outputs // ROWS),
        outputs,
        size,
        flat(weight),
        vector if scale is None else flat(scale),
        scale is not None,
        vector,
        flat(out),
        parallel=weight.numel() >= SHARED,
    )
    if bias is not None:
        out += bias
    return out.to(x.dtype).view(*x.shape[:-1], outputs)


def few_rows(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None = None) -> Tensor:
    """x (R, I) of a few rows, all else as in `matvec` -> (R, O): the weights are read once for all rows."""
    rows, (outputs, size) = len(x), weight.shape
    vectors = pad(x.float(), (0, 0, 0, -rows % 4)).contiguous()
    out = torch.empty(len(vectors), outputs)
    run(
        _few,
        -(-outputs // ROWS),
        outputs,
        size,
        flat(weight),
        flat(vectors) if scale is None else flat(scale),
        scale is not None,
        len(vectors),
        flat(vectors),
        flat(out),
        parallel=weight.numel() >= SHARED,
    )
    out = out[:rows]
    if bias is not None:
        out += bias
    return out.to(x.dtype)


@jit
def _widen(first, last, size, weight, scale, out):  # type: ignore[no-untyped-def]
    """Units are rows of weight (O, I) int8, I a multiple of 16."""
    for row in range(first, last):
        by = splat(scale[row])
        for i in range(row * size, (row + 1) * size, 16):
            store(out, i, mul(by, load(weight, i)))


def widen(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """int8 weight (O, I), I a multiple of 16, times scale (O,), in fp32 or bf16."""
    outputs, size = weight.shape
    out = torch.empty(outputs, size, dtype=dtype)
    run(_widen, outputs, size, flat(weight), flat(scale), flat(out), parallel=weight.numel() >= SHARED)
    return out
