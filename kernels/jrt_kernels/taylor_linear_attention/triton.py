"""Taylor linear attention on a GPU: Triton kernels for reading, for training and for one token.

The kernels are in triton_forward.py and triton_backward.py (how features are made in triton_features.py),
their sizes in schedule.py, what is around them in triton_launch.py. The host does not look at the sequences
of a pack: nothing waits for the device.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from jrt_kernels.registry import Unsupported
from jrt_kernels.taylor_linear_attention import schedule
from jrt_kernels.taylor_linear_attention.features import feature_count
from jrt_kernels.taylor_linear_attention.triton_forward import taylor_step
from jrt_kernels.taylor_linear_attention.triton_launch import (
    Sequences,
    State,
    allocate,
    backward,
    check,
    forward,
    log_decay,
    rows,
    sequences,
    wants_gradient,
    whole_state,
)


def taylor_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    decay: Tensor | None = None,
    initial_state: State | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, State]:
    """As `jrt_kernels.taylor_linear_attention.naive.taylor_linear_attention`.

    Raises Unsupported for fp64, for tensors on a CPU (outside Triton's interpreter), K above 24, V above 128
    and for the gradient of `decay`.
    """
    check("taylor_linear_attention", q, k, v)
    if q.shape[1] == 1 and cu_seqlens is None and not wants_gradient(q, k, v, decay, *(initial_state or ())):
        return step(q, k, v, initial_state, decay=decay)
    return read(q, k, v, decay=decay, initial_state=initial_state, cu_seqlens=cu_seqlens)


def read(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_enc: Tensor | None = None,
    v_enc: Tensor | None = None,
    *,
    decay: Tensor | None = None,
    encoder_lengths: Tensor | None = None,
    initial_state: State | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Both operators, from any state, differentiable: k_enc None is plain Taylor linear attention."""
    q, k, v = (rows(x, v.dtype) for x in (q, k, v))
    own = sequences(q, cu_seqlens)
    encoder = None
    if k_enc is not None and v_enc is not None:
        k_enc, v_enc = rows(k_enc, v.dtype), rows(v_enc, v.dtype)
        lengths = None if encoder_lengths is None else encoder_lengths.to(v.device).contiguous()
        encoder = replace(sequences(k_enc, cu_seqlens), lengths=lengths)
    kv, ksum = whole_state(initial_state)
    if wants_gradient(decay):
        raise Unsupported(
            "taylor_linear_attention: triton has no gradient of the decay; take the backend torch"
        )
    args = (q, k, v, k_enc, v_enc, *whole_state(initial_state), log_decay(decay), own, encoder)
    o, kv, ksum = Reading.apply(*args) if wants_gradient(*args[:7]) else _read(False, *args)[:3]
    return o, (kv, ksum)


def _read(
    keep: bool,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_enc: Tensor | None,
    v_enc: Tensor | None,
    kv: Tensor | None,
    ksum: Tensor | None,
    rates: Tensor | None,
    own: Sequences,
    encoder: Sequences | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The output, the end state's two parts, with `keep` the denominators."""
    o, den, end = forward(q, k, v, k_enc, v_enc, rates, (kv, ksum), own, encoder, keep)
    return o, *end, den


class Reading(torch.autograd.Function):
    """`_read`, with a gradient for all tensors but the decay."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        o, kv, ksum, den = _read(True, *args)
        ctx.save_for_backward(*args[:8], o, den)
        ctx.sequences = args[8:]
        ctx.set_materialize_grads(False)
        return o, kv, ksum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_o: Tensor | None, d_kv: Tensor | None, d_ksum: Tensor | None) -> Any:
        *given, o, den = ctx.saved_tensors
        q, k, v, k_enc, v_enc, kv, ksum, rates = given
        own, encoder = ctx.sequences
        grad = torch.zeros_like(o) if d_o is None else d_o.contiguous()
        end: tuple[Tensor | None, Tensor | None] = (None, None)
        if d_kv is not None or d_ksum is not None:
            shape = (own.count, v.shape[2], feature_count(k.shape[3]))
            empty = v.new_zeros(*shape, v.shape[3], dtype=torch.float32) if d_kv is None else d_kv
            sums = v.new_zeros(shape, dtype=torch.float32) if d_ksum is None else d_ksum
            end = empty.contiguous(), sums.contiguous()
        grads = backward(q, k, v, k_enc, v_enc, rates, (kv, ksum), own, encoder, o, den, grad, end)
        return *grads, None, None, None


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: State | None,
    *,
    decay: Tensor | None = None,
    into: State | None = None,
) -> tuple[Tensor, State]:
    """One token of each row in one launch: q, k (B, 1, H, K), v (B, 1, H, V) -> o (B, 1, H, V), the new
    state.

    into: where the new state is written, fp32 and contiguous; `state` itself will do, since each value is
    read before it is written. A CUDA graph needs that: its tensors stay where they are.
    """
    q, k, v = (rows(x, v.dtype) for x in (q, k, v))
    batch, _, heads, value_dim = v.shape
    key_dim, features = q.shape[3], feature_count(q.shape[3])
    if into is None:
        into = (
            allocate(v, batch, heads, features, value_dim, dtype=torch.float32),
            allocate(v, batch, heads, features, dtype=torch.float32),
        )
    if not all(x.is_contiguous() and x.dtype == torch.float32 for x in into):
        raise ValueError("step: the state is written in place, so it must be fp32 and contiguous")
    o = allocate(v, *v.shape)
    if batch * heads:
        taylor_step[(batch * heads,)](
            q, k, v, o, log_decay(decay), *whole_state(state), *into,
            *(s for x in (q, k, v) for s in (x.stride(0), x.stride(2))), heads, value_dim,
            K=key_dim, F=32, BV=schedule.power(value_dim), num_warps=4,
        )  # fmt: skip
    return o, into
