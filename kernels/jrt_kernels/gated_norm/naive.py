"""RMSNorm with a gate: the specification. An operator without a state: each token is on its own.

o = x / sqrt(mean(x^2) + eps) * weight, the mean over groups of channels; a gate z multiplies x by silu(z)
before (Mamba-2, arXiv 2405.21060) or the result after (GLA, arXiv 2312.06635). B batch, T tokens, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jrt_kernels.packed import compute_dtype


def gated_norm(
    x: Tensor,
    weight: Tensor | None = None,
    *,
    eps: float,
    z: Tensor | None = None,
    group: int | None = None,
    norm_first: bool = False,
    dtype: torch.dtype | None = None,
    initial_state: tuple[()] = (),
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, tuple[()]]:
    """x, z (B,T,D), weight (D,) or (group,) for all groups alike, or None -> o (B,T,D) in `dtype` or x's.

    group: channels of a mean, all when None; it divides D. norm_first: the gate comes after the norm. State
    and packing are of no consequence: they are taken so that the operator is called like the others.
    """
    real = compute_dtype(x)
    y = x.to(real)
    gate = None
    if z is not None:
        gate = z.to(real) * torch.sigmoid(z.to(real))
    if gate is not None and not norm_first:
        y = y * gate
    size = x.shape[-1] if group is None else group
    parts = y.unflatten(-1, (-1, size))
    parts = parts / torch.sqrt(parts.square().mean(-1, keepdim=True) + eps)
    if weight is not None:
        parts = parts * weight.to(real).view(-1, size)
    y = parts.flatten(-2)
    if gate is not None and norm_first:
        y = y * gate
    return y.to(x.dtype if dtype is None else dtype), ()
