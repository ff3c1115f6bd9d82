"""Prefix linear attention on a GPU: Taylor's kernels, which read the encoder's keys and values first."""

from __future__ import annotations

from torch import Tensor

from jrt_kernels.taylor_linear_attention.triton import read
from jrt_kernels.taylor_linear_attention.triton_launch import State, check


def prefix_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_enc: Tensor,
    v_enc: Tensor,
    *,
    encoder_lengths: Tensor | None = None,
    initial_state: State | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, State]:
    """As `jrt_kernels.prefix_linear_attention.naive.prefix_linear_attention`.

    Raises Unsupported as `jrt_kernels.taylor_linear_attention.triton.taylor_linear_attention`.
    """
    check("prefix_linear_attention", q, k, v, k_enc, v_enc)
    return read(
        q,
        k,
        v,
        k_enc,
        v_enc,
        encoder_lengths=encoder_lengths,
        initial_state=initial_state,
        cu_seqlens=cu_seqlens,
    )
