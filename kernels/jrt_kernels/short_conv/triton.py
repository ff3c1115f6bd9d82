"""Causal depthwise convolution on a GPU: one launch for the outputs and the new state.

A program takes a block of tokens and channels; the programs after those of the tokens write the state of one
sequence each. Inputs and outputs keep their strides: x may be a part of a wider projection.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from jrt_kernels.gpu import check, check_pack, power

TOKENS, CHANNELS = 32, 64


@triton.jit
def _kernel(
    x, weight, bias, state, cu, sequence, y, new,
    tokens, channels, token_blocks,
    x_b, x_t, x_d, w_d, w_w, s_b, s_d, s_w, y_b, y_t,
    WIDTH: tl.constexpr, SILU: tl.constexpr, BIAS: tl.constexpr, STATE: tl.constexpr, PACKED: tl.constexpr,
    BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """y_t = act(bias + sum_w weight_w x_{t - (WIDTH - 1) + w}); `new` takes the last WIDTH - 1 inputs."""
    block = tl.program_id(0)
    row = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * BD + tl.arange(0, BD)
    real = c < channels
    x += row * x_b
    if block < token_blocks:
        t = block * BT + tl.arange(0, BT).to(tl.int64)
        inside = t < tokens
        n = t * 0 + row
        first = t * 0
        if PACKED:
            n = tl.load(sequence + t, mask=inside, other=0)
            first = tl.load(cu + n, mask=inside, other=0)
        sum = tl.zeros((BT, BD), tl.float32)
        if BIAS:
            sum += tl.load(bias + c, mask=real, other=0).to(tl.float32)[None, :]
        for w in tl.static_range(WIDTH):
            at = t + (w - (WIDTH - 1))
            here = inside & (at >= first)
            value = tl.load(
                x + at[:, None] * x_t + c[None, :] * x_d, mask=here[:, None] & real[None, :], other=0
            ).to(tl.float32)
            if STATE:
                before = inside & (at < first)
                value += tl.load(
                    state + n[:, None] * s_b + c[None, :] * s_d + (at - first + (WIDTH - 1))[:, None] * s_w,
                    mask=before[:, None] & real[None, :],
                    other=0,
                ).to(tl.float32)
            tap = tl.load(weight + c * w_d + w * w_w, mask=real, other=0).to(tl.float32)
            sum += value * tap[None, :]
        if SILU:
            sum = sum / (1 + tl.exp(-sum))
        tl.store(
            y + row * y_b + t[:, None] * y_t + c[None, :],
            sum.to(y.dtype.element_ty),
            mask=inside[:, None] & real[None, :],
        )
    else:
        own = (block - token_blocks).to(tl.int64) + row
        begin = own * 0
        last = begin + tokens
        if PACKED:
            begin = tl.load(cu + own)
            last = tl.load(cu + own + 1)
        for w in tl.static_range(WIDTH - 1):
            place = last - (WIDTH - 1) + w + c * 0
            kept = tl.load(x + place * x_t + c * x_d, mask=real & (place >= begin), other=0).to(tl.float32)
            if STATE:
                kept += tl.load(
                    state + own * s_b + c * s_d + (place - begin + (WIDTH - 1)) * s_w,
                    mask=real & (place < begin),
                    other=0,
                ).to(tl.float32)
            tl.store(new + (own * channels + c) * (WIDTH - 1) + w, kept, mask=real)


def short_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `jrt_kernels.short_conv.naive.short_conv`. Raises Unsupported for fp64, a CPU, a gradient."""
    if activation not in (None, "silu"):
        raise ValueError(f"activation must be None or 'silu', not {activation!r}")
    check("short_conv", "triton", x, weight, bias, initial_state)
    check_pack("short_conv", x, cu_seqlens)
    batch, tokens, channels = x.shape
    width = weight.shape[1]
    rows = batch if cu_seqlens is None else len(cu_seqlens) - 1
    y = torch.empty(batch, tokens, channels, dtype=x.dtype, device=x.device)
    new = torch.empty(rows, channels, width - 1, dtype=torch.float32, device=x.device)
    cu = sequence = x  # not read
    if cu_seqlens is not None:
        cu = cu_seqlens
        sequence = torch.searchsorted(cu[1:], torch.arange(tokens, device=x.device), right=True)
    token_blocks = triton.cdiv(tokens, TOKENS)
    size = min(CHANNELS, power(channels))
    state = x if initial_state is None else initial_state
    grid = (token_blocks + rows // batch, triton.cdiv(channels, size), batch)
    _kernel[grid](
        x, weight, x if bias is None else bias.contiguous(), state, cu, sequence, y, new,
        tokens, channels, token_blocks,
        *x.stride(), *weight.stride(), *state.stride(), y.stride(0), y.stride(1),
        WIDTH=width, SILU=activation == "silu", BIAS=bias is not None, STATE=initial_state is not None,
        PACKED=cu_seqlens is not None, BT=TOKENS, BD=size,
    )  # fmt: skip
    return y, new
