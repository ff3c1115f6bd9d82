"""The selective scan of Mamba-1 in plain PyTorch: arXiv 2312.00752, equation 2.

The tokens are cut into tiles of `TILE`. Without a graph to build, tile after tile is worked on in buffers
that stay in a cache: decays and writes of all its tokens at once, one multiply-add per position, one
product with C. To train, every operation covers the same position of all tiles: a first pass finds what
each tile adds to a state that it enters empty, a short carry gives each tile the state it really enters
with, and a second pass makes all states. Nothing is divided by a decay, so both are exact for any step
size. Channels are innermost in memory, where the vector units want them.

Symbols: B batch, T tokens, D channels, N states of a channel, K tiles, P positions in a tile.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad, silu, softplus

from jrt_kernels.packed import by_sequence, compute_dtype

TILE = 16


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    z: Tensor | None = None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Shapes and meaning as `jrt_kernels.selective_scan.naive.selective_scan`."""
    if cu_seqlens is not None:

        def dense(
            x: Tensor, dt: Tensor, B: Tensor, C: Tensor, z: Tensor | None, *, initial_state: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            return selective_scan(x, dt, A, B, C, D, dt_bias=dt_bias, z=z, initial_state=initial_state)

        return by_sequence(dense, (x, dt, B, C, z), cu_seqlens, initial_state)
    real = compute_dtype(x)
    x_, dt_, A_, B_, C_ = (tensor.to(real) for tensor in (x, dt, A, B, C))
    if dt_bias is not None:
        dt_ = softplus(dt_ + dt_bias.to(real))
    # exp2 is more than twice as fast as exp in PyTorch on a CPU; the state is kept as (B,N,D).
    log2_decay = A_.t() * math.log2(math.e)
    if initial_state is None:
        state = x_.new_zeros(x.shape[0], A.shape[1], x.shape[2])
    else:
        state = initial_state.to(real).transpose(1, 2)
    written = dt_ * x_
    tokens = x.shape[1]
    if tokens == 1:
        state = ((dt_ * log2_decay).exp2_() * state).addcmul_(written, B_.transpose(1, 2))
        y = C_ @ state
    elif tokens == 0:
        y = torch.zeros_like(x_)
    else:
        given = (written, dt_, log2_decay.contiguous(), B_, C_, state)
        graph = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
        y, state = _all_tiles(*given) if graph else _tile_by_tile(*given)
    if D is not None:
        y = torch.addcmul(y, x_, D.to(real))
    if z is not None:
        y = y.to(x.dtype) * silu(z)
    return y.to(x.dtype), state.transpose(1, 2)


def _tile_by_tile(
    written: Tensor, dt: Tensor, log2_decay: Tensor, B: Tensor, C: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """written = dt x (B,T,D), dt (B,T,D), log2_decay (N,D), B and C (B,T,N), state (B,N,D) -> y, state."""
    batch, tokens, channels = dt.shape
    y = torch.empty_like(written)
    decays = dt.new_empty(batch, min(TILE, tokens), B.shape[2], channels)
    writes = torch.empty_like(decays)
    for start in range(0, tokens, TILE):
        cut = slice(start, min(start + TILE, tokens))
        length = cut.stop - start
        decay, write = decays[:, :length], writes[:, :length]
        torch.mul(dt[:, cut, None], log2_decay, out=decay).exp2_()
        torch.mul(written[:, cut, None], B[:, cut, :, None], out=write)
        for p in range(length):
            state = write[:, p].addcmul_(decay[:, p], state)  # from writes to states, in place
        y[:, cut] = (C[:, cut, None] @ write).squeeze(2)
        state = state.clone()  # the next tile writes over the buffer
    return y, state


def _all_tiles(
    written: Tensor, dt: Tensor, log2_decay: Tensor, B: Tensor, C: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """As `_tile_by_tile`, with nothing written over."""
    tokens = dt.shape[1]
    # (B,K,P,.), filled up by zeros: a token with dt = 0 leaves the state as it is.
    written, dt, B, C = (
        pad(tensor, (0, 0, 0, -tokens % TILE)).unflatten(1, (-1, TILE)) for tensor in (written, dt, B, C)
    )
    decays = torch.exp2(dt[..., None, :] * log2_decay)  # (B,K,P,N,D)
    writes = written[..., None, :] * B[..., None]
    added = writes[:, :, 0]
    for p in range(1, TILE):
        added = torch.addcmul(writes[:, :, p], decays[:, :, p], added)
    whole = torch.exp2(dt.sum(2)[..., None, :] * log2_decay)  # (B,K,N,D)
    entered = []
    for k in range(dt.shape[1]):
        entered.append(state)
        state = torch.addcmul(added[:, k], whole[:, k], state)
    current, states = torch.stack(entered, 1), []
    for p in range(TILE):
        current = torch.addcmul(writes[:, :, p], decays[:, :, p], current)
        states.append(current)
    y = (C[..., None, :] @ torch.stack(states, 2)).squeeze(3)
    return y.flatten(1, 2)[:, :tokens], state
