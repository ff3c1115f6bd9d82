"""Taylor linear attention in compiled code for a CPU: a recurrence on folded features made in the kernel.

Symbols: B batch, T tokens, H heads, K key dim, V value dim, F folded features, N sequences.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from jrt_kernels.jit.compiler import jit, piece
from jrt_kernels.jit.lanes import add, exp2, fma, load, mul, number, splat, store, total
from jrt_kernels.jit.recurrence import BLOCK, SAFE, TILE, block, from_tiles, scratch, single, to_tiles
from jrt_kernels.jit.tensors import check, flat, rows, run, sequences, whole
from jrt_kernels.taylor_linear_attention.features import feature_count

State = tuple[Tensor, Tensor]


@piece
def write_features(x, at, dim, shrink, y, phi, to):  # type: ignore[no-untyped-def]
    """x[at : at + K] -> phi[to : to + F] in the order of `taylor_features`; y: room for 2 K + 16."""
    half = np.float32(math.sqrt(0.5))
    if dim == 16:
        low = mul(load(x, at), splat(shrink))
        store(y, 0, low)
        store(y, 16, low)
        store(phi, to, mul(mul(low, low), splat(half)))
        for r in range(1, 9):  # of the last one, the first 8 count
            store(phi, to + 16 * r, mul(low, load(y, r)))
        store(phi, to + 136, low)
    else:
        for i in range(dim):
            y[i] = number(x, at + i) * shrink
            y[dim + i] = y[i]
        place = to
        for i in range(dim):
            phi[place + i] = y[i] * y[i] * half
        place += dim
        for r in range(1, (dim - 1) // 2 + 1):
            for i in range(dim):
                phi[place + i] = y[i] * y[r + i]
            place += dim
        if dim % 2 == 0:
            for i in range(dim // 2):
                phi[place + i] = y[i] * y[dim // 2 + i]
            place += dim // 2
        for i in range(dim):
            phi[place + i] = y[i]
    phi[to + dim * (dim + 1) // 2 + dim] = np.float32(1)


@jit
def _taylor(  # type: ignore[no-untyped-def]
    first, last, bounds, stops, reads, heads, dim, width, q, q_step, k, k_step, v, v_step, rates,
    source, source_z, target, target_z, out,
):  # fmt: skip
    """Units are a sequence's heads; states (N, H, F, V) and (N, H, F); rates, log2 of each head's decay.

    A sequence's tokens end at `stops`; without `reads` they are only written, and q and out are not used.
    """
    features = dim * (dim + 1) // 2 + dim + 1
    pitch = features + -features % 16
    shrink = np.float32(np.float64(dim) ** -0.25)
    k_phi, q_phi, decay = scratch(BLOCK * pitch), scratch(BLOCK * pitch), scratch(BLOCK * pitch)
    k_phi[:], q_phi[:] = np.float32(0), np.float32(0)
    kept, state, o = scratch(BLOCK // 4 * pitch), scratch(features * width), scratch(4 * TILE)
    z, y = scratch(pitch), scratch(2 * dim + 16)
    safe, scale = np.empty(BLOCK // 4, np.bool_), np.ones(BLOCK, np.float32)
    tiles = width // TILE
    for unit in range(first, last):
        sequence, head = unit // heads, unit % heads
        start, stop = bounds[sequence], stops[sequence]
        place, place_z = unit * features * width, unit * features
        z[:] = np.float32(0)
        for s in range(features):
            z[s] = source_z[place_z + s]
        direct = reads and stop - start == 1
        if not direct:
            to_tiles(features, tiles, source, place, state)
        rate = rates[head]
        fine = rate * 4 > SAFE
        for begin in range(start, stop, BLOCK):
            count = min(BLOCK, stop - begin)
            for i in range(count):
                t, at = begin + i, i * pitch
                write_features(k, t * k_step + head * dim, dim, shrink, y, k_phi, at)
                if reads:
                    write_features(q, t * q_step + head * dim, dim, shrink, y, q_phi, at)
                weight = splat(np.float32(0))
                for s in range(0, pitch, 16):
                    sum_s = add(load(z, s), load(k_phi, at + s))
                    store(z, s, sum_s)
                    weight = fma(sum_s, load(q_phi, at + s), weight)
                scale[i] = np.float32(1) / total(weight) if reads else np.float32(0)
                if i // 4 * 4 + 4 > count or not fine:
                    own = exp2(splat(rate))
                    for s in range(0, pitch, 16):
                        store(decay, at + s, own)
                elif rate != 0:
                    since = rate * np.float32(i % 4 + 1)
                    up, down = exp2(splat(-since)), exp2(splat(since))
                    for s in range(0, pitch, 16):
                        store(k_phi, at + s, mul(up, load(k_phi, at + s)))
                        store(q_phi, at + s, mul(down, load(q_phi, at + s)))
            after_four = exp2(splat(rate * np.float32(4)))
            for i in range((count + 3) // 4):
                safe[i] = fine
                for s in range(0, pitch, 16):
                    store(kept, i * pitch + s, after_four)
            value_at = begin * v_step + head * width
            # What is only written has no place in out: each token's result goes to the same one.
            out_at = (begin * heads + head) * width if reads else 0
            out_step = heads * width if reads else 0
            if direct:
                single(
                    features, tiles, k_phi, q_phi, decay, source, target, place, v, value_at,
                    scale, np.float32(0), out, out_at, o,
                )  # fmt: skip
            else:
                block(
                    count, features, tiles, pitch, k_phi, q_phi, decay, kept, safe, state, v, value_at,
                    v_step, scale, np.float32(0), out, out_at, out_step, o,
                )  # fmt: skip
        if not direct:
            from_tiles(features, tiles, state, target, place)
        for s in range(features):
            target_z[place_z + s] = z[s]


def advance(
    q: Tensor | None,
    k: Tensor,
    v: Tensor,
    decay: Tensor | None,
    state: State | None,
    starts: np.ndarray,
    stops: np.ndarray,
) -> tuple[Tensor, State]:
    """Tokens starts[n] to stops[n] of each sequence, among the rows of k and v, from `state`.

    q None: keys and values enter the state, nothing is read, and the output is meaningless.
    """
    _batch, tokens, heads, dim = k.shape
    width, features = v.shape[3], feature_count(dim)
    wide = -width % TILE
    values = pad(v, (0, wide)) if wide else v
    if state is None:
        kv = torch.zeros(len(stops), heads, features, width + wide)
        ksum = torch.zeros(len(stops), heads, features)
    else:
        kv, ksum = (x.float() for x in state)
        kv, ksum = (pad(kv, (0, wide)) if wide else kv.contiguous()), ksum.contiguous()
    new = torch.empty_like(kv), torch.empty_like(ksum)
    shape = (1, 1, heads, width + wide) if q is None else values.shape
    out = torch.empty(shape, dtype=torch.bfloat16 if v.dtype == torch.bfloat16 else torch.float32)
    if tokens == 0:
        return v, (kv[..., :width].clone(), ksum.clone())
    rates = np.zeros(heads, np.float32) if decay is None else whole(decay.float().log2().clamp(min=-126))
    run(
        _taylor, len(stops) * heads, starts, stops, q is not None, heads, dim, width + wide,
        *rows(k if q is None else q), *rows(k), *rows(values), rates,
        *(flat(x) for x in (kv, ksum, *new, out)),
        parallel=tokens > 1,
    )  # fmt: skip
    o = out[..., :width] if wide else out
    return o.to(v.dtype), (new[0][..., :width], new[1])


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

    Raises Unsupported for fp64, for tensors on a GPU and where a gradient is wanted.
    """
    check("taylor_linear_attention", q, k, v, decay, *(initial_state or ()))
    marks = sequences(q.shape[0], q.shape[1], cu_seqlens)
    return advance(q, k, v, decay, initial_state, marks[:-1], marks[1:])
