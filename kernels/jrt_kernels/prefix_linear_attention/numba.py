"""Prefix linear attention in compiled code for a CPU: the encoder's keys and values enter the state, then the
causal operator reads on.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from jrt_kernels.jit.tensors import check, sequences
from jrt_kernels.taylor_linear_attention.numba import State, advance


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

    Raises Unsupported for fp64, for tensors on a GPU and where a gradient is wanted.
    """
    check("prefix_linear_attention", q, k, v, k_enc, v_enc, *(initial_state or ()))
    marks = sequences(q.shape[0], q.shape[1], cu_seqlens)
    region = sequences(k_enc.shape[0], k_enc.shape[1], cu_seqlens)
    stops = region[1:]
    if encoder_lengths is not None:
        stops = np.minimum(region[:-1] + encoder_lengths.long().numpy(), stops)
    _, state = advance(None, k_enc, v_enc, None, initial_state, region[:-1], stops)
    return advance(q, k, v, None, state, marks[:-1], marks[1:])
