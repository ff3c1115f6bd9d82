"""Causal depthwise convolution as one multiply-add per tap.

torch's conv1d wants channels before tokens and is several times slower on a CPU for filters this short.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from jrt_kernels.packed import by_sequence, compute_dtype


def short_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `jrt_kernels.short_conv.naive.short_conv`."""
    if activation not in (None, "silu"):
        raise ValueError(f"activation must be None or 'silu', not {activation!r}")
    dtype = compute_dtype(x)
    taps = weight.to(dtype).t().contiguous()  # (W, D)
    offset = None if bias is None else bias.to(dtype)

    def dense(x: Tensor, *, initial_state: Tensor | None) -> tuple[Tensor, Tensor]:
        _batch, tokens, _channels = x.shape
        width = taps.shape[0]
        if initial_state is None:
            padded = F.pad(x.to(dtype), (0, 0, width - 1, 0))
        else:
            padded = torch.cat([initial_state.to(dtype).transpose(1, 2), x.to(dtype)], dim=1)
        y = (
            padded[:, :tokens] * taps[0]
            if offset is None
            else torch.addcmul(offset, padded[:, :tokens], taps[0])
        )
        for w in range(1, width):
            y = torch.addcmul(y, padded[:, w : w + tokens], taps[w])
        if activation == "silu":
            y = F.silu(y)
        # A copy: a view would keep the whole chunk alive in the state.
        return y.to(x.dtype), padded[:, tokens:].transpose(1, 2).clone()

    if cu_seqlens is not None:
        return by_sequence(dense, [x], cu_seqlens, initial_state)
    return dense(x, initial_state=initial_state)
