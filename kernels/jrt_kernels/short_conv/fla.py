"""Causal depthwise convolution by flash-linear-attention: `fla.modules.convolution.causal_conv1d`.

Its states hold W inputs, ours W - 1: the oldest is of no use, it is put in as zero and taken out again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jrt_kernels.gpu import check, check_pack, require


def short_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `jrt_kernels.short_conv.naive.short_conv`, differentiable.

    Raises Unsupported for fp64, a CPU, a missing fla.
    """
    if activation not in (None, "silu"):
        raise ValueError(f"activation must be None or 'silu', not {activation!r}")
    check("short_conv", "fla", x, weight, bias, initial_state, backward=True)
    require("short_conv", "fla")
    check_pack("short_conv", x, cu_seqlens)
    from fla.modules.convolution import causal_conv1d

    before = None if initial_state is None else torch.nn.functional.pad(initial_state.float(), (1, 0))
    y, state = causal_conv1d(
        x=x,
        weight=weight,
        bias=bias,
        initial_state=before,
        output_final_state=True,
        activation=activation,
        cu_seqlens=cu_seqlens,
    )
    return y.to(x.dtype), state[..., 1:].float()
