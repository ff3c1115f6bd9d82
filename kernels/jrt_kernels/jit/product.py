"""A bf16 matrix times one vector. It is bound by reading the weights, which are read once and in place.

PyTorch's product of one row with bf16 weights reaches half of the memory's speed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from jrt_kernels.jit.compiler import jit
from jrt_kernels.jit.lanes import add, fma, load, prefetch, splat, total
from jrt_kernels.jit.tensors import flat, run

AHEAD = 2048
"""Values, 4 KiB of bf16: what is asked of the memory before it is needed."""
ROWS = 16
SHARED = 1 << 20
"""Weights from which several threads are worth their start."""


@jit
def _matvec(first, last, outputs, size, weight, x, out):  # type: ignore[no-untyped-def]
    """Units are 16 rows of weight (O, I), I a multiple of 16; x (I,), out (O,)."""
    for row in range(first * ROWS, min(last * ROWS, outputs)):
        zero = splat(np.float32(0))
        a, b, c, d = zero, zero, zero, zero
        at, i = row * size, 0
        while i + 64 <= size:
            prefetch(weight, at + i + AHEAD)
            prefetch(weight, at + i + AHEAD + 32)
            a = fma(load(weight, at + i), load(x, i), a)
            b = fma(load(weight, at + i + 16), load(x, i + 16), b)
            c = fma(load(weight, at + i + 32), load(x, i + 32), c)
            d = fma(load(weight, at + i + 48), load(x, i + 48), d)
            i += 64
        while i < size:
            a = fma(load(weight, at + i), load(x, i), a)
            i += 16
        out[row] = total(add(add(a, b), add(c, d)))


def serves(x: Tensor, weight: Tensor) -> bool:
    """Whether `matvec` is made for this product: bf16 on a CPU, one row, whole vectors."""
    return (
        x.dtype == weight.dtype == torch.bfloat16
        and x.device.type == weight.device.type == "cpu"
        and x.numel() == weight.shape[1]
        and weight.shape[1] % 16 == 0
        and weight.is_contiguous()
    )


def matvec(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., I) of one row, weight (O, I), bias (O,) or None, bf16 -> (..., O) bf16, summed in fp32."""
    outputs, size = weight.shape
    out = torch.empty(outputs)
    vector = flat(x.contiguous().float())
    run(
        _matvec,
        -(-outputs // ROWS),
        outputs,
        size,
        flat(weight),
        vector,
        flat(out),
        parallel=weight.numel() >= SHARED,
    )
    if bias is not None:
        out += bias
    return out.to(x.dtype).view(*x.shape[:-1], outputs)
