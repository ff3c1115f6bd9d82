"""One token of one row through all layers of Mamba-1 and its head, in one call.

Everything between the weights stays in fp32, whatever the weights are. Symbols: L layers, D model dim, E
inner channels, N states of a channel, R rank of the step size, W taps of the convolution, V rows of the
vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jrt_kernels.jit.compiler import jit
from jrt_kernels.jit.lanes import each, exp2, fma, load, mul, silu, softplus, store
from jrt_kernels.jit.recurrence import scratch
from jrt_kernels.jit.tensors import flat
from jrt_kernels.jit.together import meet, run_together, share, view
from jrt_kernels.jit.token import Matrix, Table, add_product, convolve, normalize, product

FIELDS = 17
"""Addresses of one layer in the table: 13 of weights, before and after of the two states."""


@jit
def _token(  # type: ignore[no-untyped-def]
    part, parts, counter, table, layers, width, inner, states, rank, taps, eps, rows, scaled,
    matrix, h, both, u, low, y, logits,
):  # fmt: skip
    """h (D,) the residual stream, both (2 E,), u (E,), low (R + 2 N,), y (E,), logits (V,): fp32.

    matrix: an array of the weights' type; scaled: whether their rows have scales.
    """
    if parts == 0:
        return
    x = scratch(width)
    first_c, last_c = share(part, parts, inner, 16)
    for layer in range(layers):
        at = layer * FIELDS
        normalize(width, h, view(table[at], h), eps, x)
        product(
            part,
            parts,
            2 * inner,
            width,
            view(table[at + 1], matrix),
            view(table[at + 2], h),
            scaled,
            x,
            both,
        )
        meet(parts, counter)
        convolve(
            first_c, last_c, inner, taps, both, 0, view(table[at + 3], h), view(table[at + 4], h),
            view(table[at + 13], h), view(table[at + 14], h), u,
        )  # fmt: skip
        meet(parts, counter)
        product(
            part, parts, rank + 2 * states, inner,
            view(table[at + 5], matrix), view(table[at + 6], h), scaled, u, low,
        )  # fmt: skip
        meet(parts, counter)
        weight, bias = view(table[at + 7], h), view(table[at + 8], h)
        rates, skip = view(table[at + 9], h), view(table[at + 10], h)
        before, after = view(table[at + 15], h), view(table[at + 16], h)
        for c in range(first_c, last_c, 16):
            step = load(bias, c)
            for r in range(rank):
                step = fma(each(low, r), load(weight, r * inner + c), step)
            step = softplus(step)
            value = load(u, c)
            written, result = mul(step, value), mul(load(skip, c), value)
            for n in range(states):
                place = n * inner + c
                kept = mul(exp2(mul(load(rates, place), step)), load(before, place))
                state = fma(each(low, rank + n), written, kept)
                store(after, place, state)
                result = fma(each(low, rank + states + n), state, result)
            store(y, c, mul(result, silu(load(both, inner + c))))
        meet(parts, counter)
        add_product(
            part, parts, width, inner, view(table[at + 11], matrix), view(table[at + 12], h), scaled, y, h
        )
        meet(parts, counter)
    at = layers * FIELDS
    normalize(width, h, view(table[at], h), eps, x)
    product(part, parts, rows, width, view(table[at + 1], matrix), view(table[at + 2], h), scaled, x, logits)


@dataclass(frozen=True)
class MambaLayer:
    """The weights of one layer. dt_proj (E, R), A (E, N) negative, filters (E, W), others as in the file."""

    norm: Tensor
    in_proj: Matrix
    filters: Tensor
    filter_bias: Tensor | None
    x_proj: Matrix
    dt_proj: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor
    out_proj: Matrix


class MambaToken:
    """The weights of a model as the kernel takes them; large ones stay where they are."""

    def __init__(self, layers: Sequence[MambaLayer], norm: Tensor, head: Matrix, eps: float) -> None:
        self.table = Table()
        for layer in layers:
            bias = torch.zeros(len(layer.D)) if layer.filter_bias is None else layer.filter_bias
            self.table.add(layer.norm)
            self.table.add_matrix(layer.in_proj)
            self.table.add(layer.filters.t())
            self.table.add(bias)
            self.table.add_matrix(layer.x_proj)
            self.table.add(layer.dt_proj.t())
            self.table.add(layer.dt_bias)
            self.table.add(layer.A.float().t() * math.log2(math.e))
            self.table.add(layer.D)
            self.table.add_matrix(layer.out_proj)
            self.table.skip(4)
        self.table.add(norm)
        self.table.add_matrix(head)
        self.eps, self.head, first = eps, head, layers[0]
        self.inner, self.states = first.A.shape
        self.rank, self.taps = first.dt_proj.shape[1], first.filters.shape[1]
        self.layers, self.width = len(layers), len(norm)

    def __call__(
        self, x: Tensor, conv: Sequence[Tensor], ssm: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (D,) the token's embedding; of each layer conv (1, E, W - 1), ssm (1, N, E) -> logits (V,), the
        new states (L, 1, E, W - 1) and (L, 1, N, E), all fp32. Nothing given is modified.
        """
        before = [y.float().transpose(1, 2).contiguous() for y in conv], [y.float().contiguous() for y in ssm]
        new_conv = torch.empty(self.layers, 1, self.taps - 1, self.inner)
        new_ssm = torch.empty(self.layers, 1, self.states, self.inner)
        table = self.table.filled(FIELDS, 13, (before[0], new_conv, before[1], new_ssm))
        rows = len(self.head[0])
        logits = torch.empty(rows)
        h = flat(x.detach().float().clone())
        sizes = (2 * self.inner, self.inner, self.rank + 2 * self.states, self.inner)
        run_together(
            _token, table, self.layers, self.width, self.inner, self.states, self.rank, self.taps,
            np.float32(self.eps), rows, self.head[1] is not None, flat(self.head[0]),
            h, *(np.empty(size, np.float32) for size in sizes), flat(logits),
        )  # fmt: skip
        return logits, new_conv.transpose(2, 3), new_ssm
