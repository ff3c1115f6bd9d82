"""RMSNorm with a gate in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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
    """As `jrt_kernels.gated_norm.naive.gated_norm`."""
    real = compute_dtype(x)
    y = x.to(real)
    gate = None if z is None else F.silu(z.to(real))
    if gate is not None and not norm_first:
        y = y * gate
    size = x.shape[-1] if group is None else group
    scale = None if weight is None else weight.to(real)
    if size == x.shape[-1]:
        y = F.rms_norm(y, (size,), scale, eps)
    else:
        parts = F.rms_norm(y.unflatten(-1, (-1, size)), (size,), None, eps)
        y = (parts if scale is None else parts * scale.view(-1, size)).flatten(-2)
    if gate is not None and norm_first:
        y = y * gate
    return y.to(x.dtype if dtype is None else dtype), ()
