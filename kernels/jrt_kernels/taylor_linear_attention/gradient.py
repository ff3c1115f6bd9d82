"""Taylor linear attention in chunks with a gradient written by hand.

autograd would keep and revisit every product of the feature map; here features are made again in the backward
pass and everything else is a matrix product: about 2.4 times the speed of the composed form when training on
a CPU. Values carry a last channel of ones, so that one product gives numerator and denominator.

B batch, H heads, C chunks, S tokens of a chunk, K key dim, V value dim, F folded features.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from jrt_kernels.taylor_linear_attention.features import feature_count


def folded(x: Tensor, out: Tensor | None = None) -> Tensor:
    """Features of x (..., K, S) as rows (..., F, S), in the order of `taylor_features`.

    Tokens lie along the last dimension: a product of two key dimensions then runs over whole rows.
    """
    dim = x.shape[-2]
    y = x * dim**-0.25
    twice = torch.cat([y, y], dim=-2)
    if out is None:
        out = x.new_empty(*x.shape[:-2], feature_count(dim), x.shape[-1])
    torch.mul(y, y * math.sqrt(0.5), out=out[..., :dim, :])
    at = dim
    for r in range(1, (dim - 1) // 2 + 1):
        torch.mul(y, twice[..., r : r + dim, :], out=out[..., at : at + dim, :])
        at += dim
    if dim % 2 == 0:
        half = dim // 2
        torch.mul(y[..., :half, :], y[..., half:, :], out=out[..., at : at + half, :])
        at += half
    out[..., at : at + dim, :] = y
    out[..., -1, :] = 1
    return out


def folded_backward(x: Tensor, grad: Tensor) -> Tensor:
    """The gradient for x (..., K, S) from that for its features (..., F, S)."""
    dim = x.shape[-2]
    y = x * dim**-0.25
    twice = torch.cat([y, y], dim=-2)
    linear = grad.shape[-2] - 1 - dim
    wide = torch.zeros_like(twice)  # gradients for y and for its copy
    torch.mul(y, grad[..., :dim, :], out=wide[..., :dim, :])
    wide[..., :dim, :].mul_(math.sqrt(2)).add_(grad[..., linear : linear + dim, :])
    at = dim
    for r in range(1, (dim - 1) // 2 + 1):
        part = grad[..., at : at + dim, :]
        wide[..., :dim, :].addcmul_(part, twice[..., r : r + dim, :])
        wide[..., r : r + dim, :].addcmul_(part, y)
        at += dim
    if dim % 2 == 0:
        half = dim // 2
        part = grad[..., at : at + half, :]
        wide[..., :half, :].addcmul_(part, y[..., half:, :])
        wide[..., half:dim, :].addcmul_(part, y[..., :half, :])
    return (wide[..., :dim, :] + wide[..., dim:, :]).mul_(dim**-0.25)


def _add_products(total: Tensor, a: Tensor, b: Tensor, alpha: float = 1.0) -> Tensor:
    """total + alpha * a @ b, for tensors with the same three leading dimensions."""
    lead = total.shape[:3]
    return torch.baddbmm(total.flatten(0, 2), a.flatten(0, 2), b.flatten(0, 2), alpha=alpha).unflatten(
        0, lead
    )


class CausalChunks(torch.autograd.Function):
    """q, k (B, H, C, K, S), values (B, H, C, S, V + 1), state (B, H, F, V + 1) -> sums like values, end
    state."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, values: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        chunks, scale = q.shape[2], q.shape[-2] ** -0.5
        phi = folded(k)
        added = torch.matmul(phi, values)
        states = added.new_empty(*added.shape[:2], chunks + 1, *added.shape[3:])
        states[:, :, 0] = state
        for c in range(chunks):
            torch.add(states[:, :, c], added[:, :, c], out=states[:, :, c + 1])
        scores = torch.matmul(q.transpose(-1, -2), k).mul_(scale)
        weights = (scores * scores).mul_(0.5).add_(scores).add_(1).tril_()
        seen = torch.matmul(folded(q, phi).transpose(-1, -2), states[:, :, :-1])
        sums = _add_products(seen, weights, values)
        ctx.save_for_backward(q, k, values, states, scores, weights)
        return sums, states[:, :, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_sums: Tensor, d_end: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q, k, values, states, scores, weights = ctx.saved_tensors
        chunks, scale = q.shape[2], q.shape[-2] ** -0.5
        d_sums = d_sums.contiguous()
        wide = torch.matmul(states[:, :, :-1], d_sums.transpose(-1, -2))
        dq = folded_backward(q, wide)
        d_seen = torch.matmul(folded(q, wide), d_sums)
        # What a chunk adds is seen by all later chunks and by the end state.
        later = d_end
        d_added = torch.empty_like(d_seen)
        for c in range(chunks - 1, -1, -1):
            d_added[:, :, c] = later
            later = later + d_seen[:, :, c]
        torch.matmul(d_added, values.transpose(-1, -2), out=wide)
        dk = folded_backward(k, wide)
        d_values = torch.matmul(folded(k, wide).transpose(-1, -2), d_added)
        d_values = _add_products(d_values, weights.transpose(-1, -2), d_sums)
        d_scores = torch.matmul(d_sums, values.transpose(-1, -2)).mul_(scores + 1).tril_()
        dq = _add_products(dq, k, d_scores.transpose(-1, -2), scale)
        dk = _add_products(dk, q, d_scores, scale)
        return dq, dk, d_values, later


class KeyValueSum(torch.autograd.Function):
    """k (B, H, K, E), values (B, H, E, V + 1), zero where a token does not count -> state (B, H, F, V +
    1)."""

    @staticmethod
    def forward(ctx: Any, k: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(k, values)
        return torch.matmul(folded(k), values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_state: Tensor) -> tuple[Tensor, Tensor]:
        k, values = ctx.saved_tensors
        d_state = d_state.contiguous()
        wide = torch.matmul(d_state, values.transpose(-1, -2))
        dk = folded_backward(k, wide)
        return dk, torch.matmul(folded(k, wide).transpose(-1, -2), d_state)
