"""The feature map of Taylor linear attention, folded.

phi(q) . phi(k) = 1 + s + s^2 / 2 with s = q . k / sqrt(K): the second-order Taylor polynomial of exp(s)
(Based, arXiv 2402.18668; the paper's section 4). Written out, the products x_a x_b make K^2 features of which
K (K - 1) / 2 stand twice. Folded, each unordered pair stands once: K (K + 1) / 2 products, K linear terms,
one constant: 153 instead of 273 for K = 16. Pairs are taken by cyclic distance r (x_a with x_{a + r mod K}),
which needs no gather.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def feature_count(key_dim: int) -> int:
    """Number of folded features of `key_dim` dimensions."""
    return key_dim * (key_dim + 1) // 2 + key_dim + 1


def taylor_features(x: Tensor) -> Tensor:
    """x (..., K) -> phi(x) (..., F), F = K (K + 1) / 2 + K + 1, in the order: products by distance, linear,
    constant.

    Products of distance 0 carry 1 / sqrt(2), all others 1 (each unordered pair once); x is scaled by
    K^(-1/4).
    """
    dim = x.shape[-1]
    y = x * dim**-0.25
    twice = torch.cat([y, y], dim=-1)
    parts = [y * y * math.sqrt(0.5)]
    parts += [y * twice[..., r : r + dim] for r in range(1, (dim - 1) // 2 + 1)]
    if dim % 2 == 0:
        parts.append(y[..., : dim // 2] * y[..., dim // 2 :])
    return torch.cat([*parts, y, torch.ones_like(y[..., :1])], dim=-1)
