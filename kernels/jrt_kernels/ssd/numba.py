"""The recurrence of Mamba-2 in compiled code for a CPU: arXiv 2405.21060, section 6.

Symbols: B batch, T tokens, H heads, P head dim, N state dim, G groups, S sequences.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from jrt_kernels.jit import tiles
from jrt_kernels.jit.compiler import jit
from jrt_kernels.jit.lanes import exp2, load, mul, splat, store
from jrt_kernels.jit.recurrence import BLOCK, SAFE, TILE, block, from_tiles, scratch, single, to_tiles
from jrt_kernels.jit.tensors import check, flat, rows, run, sequences, whole
from jrt_kernels.ssd.numba_tiles import LEAST, ssd_tiles


@jit
def _ssd(  # type: ignore[no-untyped-def]
    first, last, bounds, heads, groups, width, states, x, x_step, dt, dt_step, rates,
    B, B_step, C, C_step, D, source, target, out,
):  # fmt: skip
    """Units are a sequence's heads; states (S, H, N, P), rates = A log2(e), `states` a multiple of 16."""
    k, q, decay = scratch(BLOCK * states), scratch(BLOCK * states), scratch(BLOCK * states)
    kept, state, o = scratch(BLOCK // 4 * states), scratch(states * width), scratch(4 * TILE)
    safe, scale = np.empty(BLOCK // 4, np.bool_), np.ones(BLOCK, np.float32)
    tiles = width // TILE
    for unit in range(first, last):
        sequence, head = unit // heads, unit % heads
        start, stop = bounds[sequence], bounds[sequence + 1]
        place, group = unit * states * width, head * groups // heads * states
        if stop - start != 1:
            to_tiles(states, tiles, source, place, state)
        for begin in range(start, stop, BLOCK):
            count = min(BLOCK, stop - begin)
            for i in range(0, count, 4):
                total = np.float32(0)
                for n in range(min(4, count - i)):
                    total += dt[(begin + i + n) * dt_step + head] * rates[head]
                fine = total > SAFE and i + 4 <= count
                safe[i // 4] = fine
                since = np.float32(0)
                for n in range(min(4, count - i)):
                    t = begin + i + n
                    step = dt[t * dt_step + head]
                    here = step * rates[head]
                    since = since + here if fine else np.float32(0)
                    written, read = mul(splat(step), exp2(splat(-since))), exp2(splat(since))
                    for s in range(0, states, 16):
                        at = (i + n) * states + s
                        store(k, at, mul(written, load(B, t * B_step + group + s)))
                        store(q, at, mul(read, load(C, t * C_step + group + s)))
                    if not fine:
                        own = exp2(splat(here))
                        for s in range(0, states, 16):
                            store(decay, (i + n) * states + s, own)
                whole = exp2(splat(since))
                for s in range(0, states, 16):
                    store(kept, i // 4 * states + s, whole)
            value_at, out_at = begin * x_step + head * width, (begin * heads + head) * width
            if stop - start == 1:
                single(
                    states, tiles, k, q, decay, source, target, place, x, value_at,
                    scale, D[head], out, out_at, o,
                )  # fmt: skip
            else:
                block(
                    count, states, tiles, states, k, q, decay, kept, safe, state, x, value_at, x_step,
                    scale, D[head], out, out_at, heads * width, o,
                )  # fmt: skip
        if stop - start != 1:
            from_tiles(states, tiles, state, target, place)


def ssd(
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
    """Shapes and meaning as `jrt_kernels.ssd.naive.ssd`; the state (B,H,P,N) lies in memory as (B,H,N,P).

    Raises Unsupported for fp64, for tensors on a GPU and where a gradient is wanted.
    """
    check("ssd", x, dt, A, B, C, D, initial_state)
    batch, tokens, heads, width = x.shape
    groups, states = B.shape[2:]
    marks = sequences(batch, tokens, cu_seqlens)
    wide, deep = -width % TILE, -states % 16
    if wide or deep:
        x, B, C = pad(x, (0, wide)), pad(B, (0, deep)), pad(C, (0, deep))
    if initial_state is None:
        before = torch.zeros(len(marks) - 1, heads, states + deep, width + wide)
    else:
        given = initial_state.float().transpose(2, 3)
        before = pad(given, (0, wide, 0, deep)) if wide or deep else given.contiguous()
    after = torch.empty_like(before)
    half = x.dtype == torch.bfloat16
    out = torch.empty(batch, tokens, heads, width + wide, dtype=torch.bfloat16 if half else torch.float32)
    if tokens == 0:
        after = before.clone()
    else:
        values, x_step = rows(x)
        steps, dt_step = rows(dt.float())
        keys, B_step = rows(B)
        queries, C_step = rows(C)
        count = len(marks) - 1
        # Products of tiles, where there are some, for bf16 and sequences that fill a chunk.
        tiled = (
            values.dtype == keys.dtype == queries.dtype == np.int16
            and not ((width + wide) % 32 or (states + deep) % 32)
            and batch * tokens >= LEAST * count
            and tiles.present()
        )
        arguments = (
            marks, heads, groups, width + wide, states + deep,
            values, x_step, steps, dt_step, whole(A) * np.float32(math.log2(math.e)),
            keys, B_step, queries, C_step, whole(D, heads), flat(before), flat(after), flat(out),
        )  # fmt: skip
        if tiled:
            run(ssd_tiles, count * heads, *arguments)
        else:
            run(_ssd, count * heads, *arguments, parallel=tokens > 1)
    y = out[..., :width] if wide else out
    return y.to(x.dtype), after[:, :, :states, :width].transpose(2, 3)
