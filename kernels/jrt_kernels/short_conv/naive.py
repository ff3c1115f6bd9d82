"""Causal depthwise convolution: the specification.

B batch, T tokens, D channels, W filter width. y_t = act(bias + sum_w weight[:, w] x_{t - (W - 1) + w}), where
inputs before the first come from the state (zeros at the start).
"""

from __future__ import annotations

import torch
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
    """x (B, T, D), weight (D, W), bias (D,) -> y (B, T, D) in x's dtype, state (B, D, W - 1): the last
    inputs, oldest first.

    activation: None or "silu". Packed: B = 1, cu_seqlens (N + 1,), states (N, D, W - 1). Raises ValueError
    for another activation.
    """
    if activation not in (None, "silu"):
        raise ValueError(f"activation must be None or 'silu', not {activation!r}")

    def dense(x: Tensor, *, initial_state: Tensor | None) -> tuple[Tensor, Tensor]:
        dtype = compute_dtype(x)
        batch, tokens, channels = x.shape
        width = weight.shape[1]
        state = (
            x.new_zeros(batch, channels, width - 1, dtype=dtype)
            if initial_state is None
            else initial_state.to(dtype)
        )
        outputs = []
        for t in range(tokens):
            window = torch.cat([state, x[:, t, :, None].to(dtype)], dim=-1)
            y = (window * weight.to(dtype)).sum(-1)
            if bias is not None:
                y = y + bias.to(dtype)
            if activation == "silu":
                y = y * torch.sigmoid(y)
            outputs.append(y)
            state = window[..., 1:]
        o = torch.stack(outputs, dim=1) if outputs else x.new_zeros(batch, 0, channels, dtype=dtype)
        return o.to(x.dtype), state

    if cu_seqlens is not None:
        return by_sequence(dense, [x], cu_seqlens, initial_state)
    return dense(x, initial_state=initial_state)
