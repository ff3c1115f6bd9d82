"""Gated linear attention in compiled code for a CPU: arXiv 2312.06635, equation 3.

Symbols: B batch, T tokens, H heads, K key dim, V value dim, N sequences.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from jrt_kernels.jit.compiler import jit
from jrt_kernels.jit.lanes import add, exp2, least, load, mul, splat, store
from jrt_kernels.jit.recurrence import BLOCK, SAFE, TILE, block, from_tiles, scratch, single, to_tiles
from jrt_kernels.jit.tensors import check, flat, rows, run, sequences

LOG2_E = np.float32(math.log2(math.e))


@jit
def _gla(  # type: ignore[no-untyped-def]
    first, last, bounds, heads, keys, width, q, q_step, k, k_step, v, v_step, g, g_step,
    factor, source, target, out,
):  # fmt: skip
    """Units are a sequence's heads; states (N, H, K, V), K a multiple of 16."""
    written, read, decay = scratch(BLOCK * keys), scratch(BLOCK * keys), scratch(BLOCK * keys)
    kept, state, o = scratch(BLOCK // 4 * keys), scratch(keys * width), scratch(4 * TILE)
    safe, scale, low = np.empty(BLOCK // 4, np.bool_), np.ones(BLOCK, np.float32), scratch(16)
    tiles = width // TILE
    for unit in range(first, last):
        sequence, head = unit // heads, unit % heads
        start, stop = bounds[sequence], bounds[sequence + 1]
        place = unit * keys * width
        if stop - start != 1:
            to_tiles(keys, tiles, source, place, state)
        for begin in range(start, stop, BLOCK):
            count = min(BLOCK, stop - begin)
            for i in range(0, count, 4):
                lowest = splat(np.float32(0))
                for s in range(0, keys, 16):
                    since = splat(np.float32(0))
                    for n in range(min(4, count - i)):
                        here = mul(splat(LOG2_E), load(g, (begin + i + n) * g_step + head * keys + s))
                        since = add(since, here)
                        at = (i + n) * keys + s
                        key = load(k, (begin + i + n) * k_step + head * keys + s)
                        query = load(q, (begin + i + n) * q_step + head * keys + s)
                        store(written, at, mul(key, exp2(mul(since, splat(np.float32(-1))))))
                        store(read, at, mul(mul(query, splat(factor)), exp2(since)))
                    store(kept, i // 4 * keys + s, exp2(since))
                    lowest = least(since, lowest)
                store(low, 0, lowest)
                fine = i + 4 <= count
                for n in range(16):
                    fine = fine and low[n] > SAFE
                safe[i // 4] = fine
                if not fine:
                    for n in range(min(4, count - i)):
                        for s in range(0, keys, 16):
                            at = (i + n) * keys + s
                            here = mul(splat(LOG2_E), load(g, (begin + i + n) * g_step + head * keys + s))
                            query = load(q, (begin + i + n) * q_step + head * keys + s)
                            store(written, at, load(k, (begin + i + n) * k_step + head * keys + s))
                            store(read, at, mul(query, splat(factor)))
                            store(decay, at, exp2(here))
            value_at, out_at = begin * v_step + head * width, (begin * heads + head) * width
            if stop - start == 1:
                single(
                    keys, tiles, written, read, decay, source, target, place, v, value_at,
                    scale, np.float32(0), out, out_at, o,
                )  # fmt: skip
            else:
                block(
                    count, keys, tiles, keys, written, read, decay, kept, safe, state, v, value_at, v_step,
                    scale, np.float32(0), out, out_at, heads * width, o,
                )  # fmt: skip
        if stop - start != 1:
            from_tiles(keys, tiles, state, target, place)


def gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Shapes and meaning as `jrt_kernels.gla.naive.gla`.

    Raises Unsupported for fp64, for tensors on a GPU and where a gradient is wanted.
    """
    check("gla", q, k, v, g, initial_state)
    batch, tokens, heads, keys = q.shape
    width = v.shape[3]
    factor = np.float32(keys**-0.5 if scale is None else scale)
    marks = sequences(batch, tokens, cu_seqlens)
    deep, wide = -keys % 16, -width % TILE
    if deep:
        q, k, g = (pad(x, (0, deep)) for x in (q, k, g))
    values = pad(v, (0, wide)) if wide else v
    if initial_state is None:
        before = torch.zeros(len(marks) - 1, heads, keys + deep, width + wide)
    else:
        before = initial_state.float()
        before = pad(before, (0, wide, 0, deep)) if wide or deep else before.contiguous()
    half = v.dtype == torch.bfloat16
    out = torch.empty(values.shape, dtype=torch.bfloat16 if half else torch.float32)
    after = torch.empty_like(before)
    if tokens == 0:
        after = before.clone()
    else:
        run(
            _gla, (len(marks) - 1) * heads, marks, heads, keys + deep, width + wide,
            *rows(q), *rows(k), *rows(values), *rows(g), factor, flat(before), flat(after), flat(out),
            parallel=tokens > 1,
        )  # fmt: skip
    o = out[..., :width] if wide else out
    return o.to(v.dtype), after[:, :, :keys, :width]
