"""One token of one row through all layers of Mamba-2 and its head, in one call.

Everything between the weights stays in fp32, whatever the weights are. Symbols: L layers, D model dim, H
heads, P head dim, E = H P, N state dim, G groups, M = E + 2 G N channels of the convolution, W its taps, V
rows of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jrt_kernels.jit.compiler import jit
from jrt_kernels.jit.lanes import each, exp2, fma, load, mul, silu, softplus, splat, store, total
from jrt_kernels.jit.recurrence import scratch
from jrt_kernels.jit.tensors import flat
from jrt_kernels.jit.together import meet, run_together, share, view
from jrt_kernels.jit.token import Matrix, Table, add_product, convolve, normalize, product

FIELDS = 15
"""Addresses of one layer in the table: 11 of weights, before and after of the two states."""


@jit
def _token(  # type: ignore[no-untyped-def]
    part, parts, counter, table, layers, width, heads, inner, states, groups, taps, low, high, eps,
    norm_first, rows, scaled, matrix, h, both, u, y, logits,
):  # fmt: skip
    """h (D,) the residual stream, both (E + M + H,), u (M,), y (E,), logits (V,): fp32.

    matrix: an array of the weights' type; scaled: whether their rows have scales.
    """
    if parts == 0:
        return
    x, gated, one = scratch(width), scratch(inner), scratch(16)
    mixed, size = inner + 2 * groups * states, inner // heads
    wide = inner // groups
    first_c, last_c = share(part, parts, mixed, 16)
    first_h, last_h = share(part, parts, heads, 1)
    for layer in range(layers):
        at = layer * FIELDS
        normalize(width, h, view(table[at], h), eps, x)
        product(
            part, parts, inner + mixed + heads, width,
            view(table[at + 1], matrix), view(table[at + 2], h), scaled, x, both,
        )  # fmt: skip
        meet(parts, counter)
        convolve(
            first_c, last_c, mixed, taps, both, inner, view(table[at + 3], h), view(table[at + 4], h),
            view(table[at + 11], h), view(table[at + 12], h), u,
        )  # fmt: skip
        meet(parts, counter)
        bias, rates, skip = view(table[at + 5], h), view(table[at + 6], h), view(table[at + 7], h)
        before, after = view(table[at + 13], h), view(table[at + 14], h)
        for head in range(first_h, last_h):
            store(one, 0, softplus(splat(both[inner + mixed + head] + bias[head])))
            step = min(max(one[0], low), high)
            kept, written, through = exp2(splat(step * rates[head])), splat(step), splat(skip[head])
            key = inner + head * groups // heads * states
            query = key + groups * states
            for c in range(head * size, (head + 1) * size, 64):
                v0, v1, v2, v3 = load(u, c), load(u, c + 16), load(u, c + 32), load(u, c + 48)
                o0, o1, o2, o3 = mul(through, v0), mul(through, v1), mul(through, v2), mul(through, v3)
                place = head * size * states + c - head * size
                for n in range(states):
                    k, q = mul(written, each(u, key + n)), each(u, query + n)
                    s0 = fma(kept, load(before, place), mul(k, v0))
                    s1 = fma(kept, load(before, place + 16), mul(k, v1))
                    s2 = fma(kept, load(before, place + 32), mul(k, v2))
                    s3 = fma(kept, load(before, place + 48), mul(k, v3))
                    store(after, place, s0)
                    store(after, place + 16, s1)
                    store(after, place + 32, s2)
                    store(after, place + 48, s3)
                    o0, o1, o2, o3 = fma(q, s0, o0), fma(q, s1, o1), fma(q, s2, o2), fma(q, s3, o3)
                    place += size
                store(y, c, o0)
                store(y, c + 16, o1)
                store(y, c + 32, o2)
                store(y, c + 48, o3)
        meet(parts, counter)
        weight = view(table[at + 8], h)
        for start in range(0, inner, wide):
            squares = splat(np.float32(0))
            for c in range(start, start + wide, 16):
                value = load(y, c)
                if not norm_first:
                    value = mul(value, silu(load(both, c)))
                store(gated, c, value)
                squares = fma(value, value, squares)
            by = splat(np.float32(1) / np.sqrt(total(squares) / np.float32(wide) + eps))
            for c in range(start, start + wide, 16):
                value = mul(mul(load(gated, c), by), load(weight, c))
                if norm_first:
                    value = mul(value, silu(load(both, c)))
                store(gated, c, value)
        add_product(
            part, parts, width, inner, view(table[at + 9], matrix), view(table[at + 10], h), scaled, gated, h
        )
        meet(parts, counter)
    at = layers * FIELDS
    normalize(width, h, view(table[at], h), eps, x)
    product(part, parts, rows, width, view(table[at + 1], matrix), view(table[at + 2], h), scaled, x, logits)


@dataclass(frozen=True)
class Mamba2Layer:
    """The weights of one layer. filters (M, W), A (H,) negative, the others as in the file."""

    norm: Tensor
    in_proj: Matrix
    filters: Tensor
    filter_bias: Tensor | None
    dt_bias: Tensor
    A: Tensor
    D: Tensor
    gated_norm: Tensor
    out_proj: Matrix


@dataclass(frozen=True)
class Mamba2Sizes:
    """heads H, states N, groups G; limit: bounds of the step; norm_first: the gate comes after the norm."""

    heads: int
    states: int
    groups: int
    limit: tuple[float, float]
    norm_first: bool
    eps: float


class Mamba2Token:
    """The weights of a model as the kernel takes them; large ones stay where they are."""

    def __init__(self, layers: Sequence[Mamba2Layer], norm: Tensor, head: Matrix, sizes: Mamba2Sizes) -> None:
        self.table = Table()
        for layer in layers:
            bias = torch.zeros(len(layer.filters)) if layer.filter_bias is None else layer.filter_bias
            self.table.add(layer.norm)
            self.table.add_matrix(layer.in_proj)
            self.table.add(layer.filters.t())
            self.table.add(bias)
            self.table.add(layer.dt_bias)
            self.table.add(layer.A.float() * math.log2(math.e))
            self.table.add(layer.D)
            self.table.add(layer.gated_norm)
            self.table.add_matrix(layer.out_proj)
            self.table.skip(4)
        self.table.add(norm)
        self.table.add_matrix(head)
        self.sizes, self.head = sizes, head
        self.mixed, self.taps = layers[0].filters.shape
        self.layers, self.width, self.inner = len(layers), len(norm), len(layers[0].gated_norm)

    def __call__(
        self, x: Tensor, conv: Sequence[Tensor], ssm: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (D,) the token's embedding; of each layer conv (1, M, W - 1), ssm (1, H, P, N) -> logits (V,),
        the new states (L, 1, M, W - 1) and (L, 1, H, P, N), all fp32. Nothing given is modified.
        """
        s = self.sizes
        old_conv = [y.float().transpose(1, 2).contiguous() for y in conv]
        old_ssm = [y.float().transpose(2, 3).contiguous() for y in ssm]
        new_conv = torch.empty(self.layers, 1, self.taps - 1, self.mixed)
        new_ssm = torch.empty(self.layers, 1, s.heads, s.states, self.inner // s.heads)
        rows = len(self.head[0])
        logits = torch.empty(rows)
        sizes = (self.inner + self.mixed + s.heads, self.mixed, self.inner)
        run_together(
            _token, self.table.filled(FIELDS, 11, (old_conv, new_conv, old_ssm, new_ssm)), self.layers,
            self.width, s.heads, self.inner, s.states, s.groups, self.taps, np.float32(s.limit[0]),
            np.float32(s.limit[1]), np.float32(s.eps), s.norm_first, rows, self.head[1] is not None,
            flat(self.head[0]), flat(x.detach().float().clone()),
            *(np.empty(size, np.float32) for size in sizes), flat(logits),
        )  # fmt: skip
        return logits, new_conv.transpose(2, 3), new_ssm.transpose(3, 4)
