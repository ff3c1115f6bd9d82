"""The selective scan of Mamba-1 in plain PyTorch: arXiv 2312.00752, equation 2.

The tokens are cut into tiles of `TILE`. Every operation covers the same position of several tiles at once:
a first pass finds what each tile adds to a state that it enters empty, a short carry gives each tile the
state it really enters with, and a second pass makes all states. Nothing is divided by a decay, so the
result is exact for any step size. Channels are innermost in memory, where the vector units want them.

Symbols: B batch, T tokens, D channels, N states of a channel, K tiles, P positions in a tile.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from jrt_kernels.packed import by_sequence, compute_dtype

TILE = 16
GROUP = 4  # tiles worked on at once without grad: a buffer of 64 tokens stays in the last-level cache


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Shapes and meaning as `jrt_kernels.selective_scan.naive.selective_scan`."""
    if cu_seqlens is not None:

        def dense(
            x: Tensor, dt: Tensor, B: Tensor, C: Tensor, *, initial_state: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            return selective_scan(x, dt, A, B, C, D, initial_state=initial_state)

        return by_sequence(dense, (x, dt, B, C), cu_seqlens, initial_state)
    real = compute_dtype(x)
    x_, dt_, A_, B_, C_ = (tensor.to(real) for tensor in (x, dt, A, B, C))
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
        y, state = _tiled(written, dt_, log2_decay.contiguous(), B_, C_, state)
    if D is not None:
        y = torch.addcmul(y, x_, D.to(real))
    return y.to(x.dtype), state.transpose(1, 2)


def _tiled(
    written: Tensor, dt: Tensor, log2_decay: Tensor, B: Tensor, C: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """written = dt x (B,T,D), dt (B,T,D), log2_decay (N,D), B and C (B,T,N), state (B,N,D) -> y, state."""
    tokens = dt.shape[1]
    graph = torch.is_grad_enabled() and any(t.requires_grad for t in (written, dt, log2_decay, B, C, state))
    # With a graph to build, few large operations beat a buffer that fits a cache.
    span = -(-tokens // TILE) * TILE if graph else TILE * GROUP
    outputs = []
    buffers: list[Tensor] = []  # the large ones, kept from group to group
    for start in range(0, tokens, span):
        stop = min(start + span, tokens)
        cut = [_whole_tiles(t[:, start:stop]) for t in (written, dt, B, C)]
        y, state = _group(cut[0], cut[1], cut[2], cut[3], log2_decay, state, graph, buffers)
        outputs.append(y[:, : stop - start])
    return torch.cat(outputs, 1), state


def _whole_tiles(tensor: Tensor) -> Tensor:
    """(B,T,.) with T filled up by zeros: a token with dt = 0 leaves the state as it is."""
    missing = -tensor.shape[1] % TILE
    return pad(tensor, (0, 0, 0, missing)) if missing else tensor


def _group(
    written: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    log2_decay: Tensor,
    state: Tensor,
    graph: bool,
    buffers: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """All tokens of some whole tiles, at once. Without a graph to build, `buffers` are written over."""
    batch, tokens, channels = dt.shape
    tiles, states = tokens // TILE, B.shape[2]
    dt = dt.unflatten(1, (tiles, TILE))
    steps, writes_ = dt[..., None, :], written.unflatten(1, (tiles, TILE))[..., None, :]
    keys = B.unflatten(1, (tiles, TILE))[..., None]
    if graph:
        decays = torch.exp2(steps * log2_decay)  # (B,K,P,N,D)
        writes = writes_ * keys
    else:
        shape = (batch, tiles, TILE, states, channels)
        if not buffers or buffers[0].shape != shape:
            buffers[:] = [dt.new_empty(shape), dt.new_empty(shape)]
        decays, writes = buffers
        torch.mul(steps, log2_decay, out=decays).exp2_()
        torch.mul(writes_, keys, out=writes)
    if tiles > 1:
        local = writes[:, :, 0].clone()
        for p in range(1, TILE):
            local = torch.addcmul(writes[:, :, p], decays[:, :, p], local, out=None if graph else local)
        whole = torch.exp2(dt.sum(2)[..., None, :] * log2_decay)  # (B,K,N,D)
        entered = []
        for k in range(tiles):
            entered.append(state)
            state = torch.addcmul(local[:, k], whole[:, k], state)
        current = torch.stack(entered, 1)
    else:
        current = state[:, None]
    if graph:
        every = []
        for p in range(TILE):
            current = torch.addcmul(writes[:, :, p], decays[:, :, p], current)
            every.append(current)
        writes = torch.stack(every, 2)
    else:
        for p in range(TILE):
            current = writes[:, :, p].addcmul_(decays[:, :, p], current)
    y = C.reshape(batch * tokens, 1, states) @ writes.reshape(batch * tokens, states, channels)
    if tiles == 1:
        state = current[:, 0] if graph else current[:, 0].clone()  # not a view that keeps the buffer alive
    return y.view(batch, tokens, channels), state
