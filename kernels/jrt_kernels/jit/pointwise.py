"""What stands between the products of a layer, a value at a time, in compiled code for a CPU.

Each function reads its inputs once, as they lie in memory, and writes once; PyTorch's own are several passes,
and slow where dtypes or strides differ.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from jrt_kernels.jit.compiler import jit
from jrt_kernels.jit.lanes import add, fma, load, mul, silu, softplus, splat, store
from jrt_kernels.jit.tensors import alike, flat, rows, run

TOKENS = 16
HALF = (torch.float32, torch.bfloat16)


def serves(*tensors: Tensor) -> bool:
    """Whether the functions here are made for these: fp32 or bf16 on a CPU, no gradient, whole vectors."""
    return all(
        x.dtype in HALF
        and x.device.type == "cpu"
        and x.dim() > 2
        and x.shape[-1] % 16 == 0
        and not (x.requires_grad and torch.is_grad_enabled())
        for x in tensors
    )


def _units(x: Tensor) -> tuple[int, int]:
    """x (B, T, ...): units of 16 tokens, and tokens."""
    tokens = x.shape[0] * x.shape[1]
    return -(-tokens // TOKENS), tokens


@jit
def _add(first, last, tokens, channels, x, y, y_step):  # type: ignore[no-untyped-def]
    """Units are 16 tokens of x (tokens, channels) += y."""
    for t in range(first * TOKENS, min(last * TOKENS, tokens)):
        for c in range(0, channels, 16):
            store(x, t * channels + c, add(load(x, t * channels + c), load(y, t * y_step + c)))


def add_to(x: Tensor, y: Tensor) -> Tensor:
    """x (B, T, D) fp32, contiguous, += y (B, T, D) fp32 or bf16; x itself is returned."""
    units, tokens = _units(x)
    if tokens:
        run(_add, units, tokens, x.shape[-1], flat(x), *rows(y), parallel=tokens > 1)
    return x


@jit
def _gated(first, last, tokens, channels, x, x_step, gate, gate_step, activated, out):  # type: ignore[no-untyped-def]
    """Units are 16 tokens of out = x silu(gate), or (not activated) x gate."""
    for t in range(first * TOKENS, min(last * TOKENS, tokens)):
        for c in range(0, channels, 16):
            by = load(gate, t * gate_step + c)
            if activated:
                by = silu(by)
            store(out, t * channels + c, mul(load(x, t * x_step + c), by))


def gated(x: Tensor, gate: Tensor, *, activated: bool = True) -> Tensor:
    """x silu(gate), or without `activated` x gate, of (B, T, I) -> (B, T, I) in their common dtype."""
    x, gate = alike(x, gate)
    out = torch.empty(x.shape, dtype=x.dtype)
    units, tokens = _units(x)
    if tokens:
        run(
            _gated, units, tokens, x.shape[-1], *rows(x), *rows(gate), activated, flat(out),
            parallel=tokens > 1,
        )  # fmt: skip
    return out


@jit
def _rotary(first, last, tokens, heads, dim, half, x, x_step, cos, sin, factor, out):  # type: ignore[no-untyped-def]
    """Units are 16 tokens of x (tokens, heads, dim); cos, sin (tokens, half), half a multiple of 16."""
    by = splat(factor)
    for t in range(first * TOKENS, min(last * TOKENS, tokens)):
        for head in range(heads):
            at, to = t * x_step + head * dim, (t * heads + head) * dim
            for c in range(0, half, 16):
                a, b = mul(by, load(x, at + c)), mul(by, load(x, at + half + c))
                turn, lift = load(cos, t * half + c), load(sin, t * half + c)
                store(out, to + c, fma(a, turn, mul(mul(b, lift), splat(np.float32(-1)))))
                store(out, to + half + c, fma(a, lift, mul(b, turn)))
            for c in range(2 * half, dim, 16):
                store(out, to + c, mul(by, load(x, at + c)))


def rotary(x: Tensor, cos: Tensor, sin: Tensor, factor: float = 1.0) -> Tensor:
    """x (B, T, H, P) -> factor x with its first dimensions turned, halves not interleaved, in x's dtype.

    cos, sin (B, T, half) fp32, half a multiple of 16.
    """
    heads, dim = x.shape[2:]
    out = torch.empty(x.shape, dtype=x.dtype)
    units, tokens = _units(x)
    if tokens:
        run(
            _rotary, units, tokens, heads, dim, cos.shape[-1], *rows(x), flat(cos.contiguous()),
            flat(sin.contiguous()), np.float32(factor), flat(out), parallel=tokens > 1,
        )  # fmt: skip
    return out


@jit
def _log_sigmoid(first, last, tokens, channels, x, x_step, factor, out):  # type: ignore[no-untyped-def]
    """Units are 16 tokens."""
    minus, by = splat(np.float32(-1)), splat(-factor)
    for t in range(first * TOKENS, min(last * TOKENS, tokens)):
        for c in range(0, channels, 16):
            store(out, t * channels + c, mul(by, softplus(mul(minus, load(x, t * x_step + c)))))


def log_sigmoid(x: Tensor, factor: float = 1.0) -> Tensor:
    """factor log(sigmoid(x)) of (B, T, D), in fp32."""
    out = torch.empty(x.shape)
    units, tokens = _units(x)
    if tokens:
        run(
            _log_sigmoid, units, tokens, x.shape[-1], *rows(x), np.float32(factor), flat(out),
            parallel=tokens > 1,
        )  # fmt: skip
    return out
