"""The recurrence that Mamba-2, GLA and Taylor linear attention share: S <- decay S + k v, o = q S.

S (K, V) is worked on in tiles of 32 values, all keys, that stay in a core's first cache while `BLOCK` tokens
pass. Four tokens pass at once, and a row of S is loaded and stored once for them: with c_i the decay from the
first of the four up to token i, S_i / c_i = S + sum of (k_j / c_j) v_j, so a key costs one multiply-add to
write and one to read, as without decay. Where c_4 is too small to divide by, the tokens pass one by one.

Prepared for the tokens of a block, each with `pitch` values: k and q, divided and multiplied by c where
`safe`, plain where not; decay, each token's own (only read where not safe, and behind the last four); kept
(a row for four tokens), c_4.
"""

from __future__ import annotations

import numpy as np

from jrt_kernels.jit.compiler import piece
from jrt_kernels.jit.lanes import each, fma, load, mul, splat, store

TILE = 32
BLOCK = 32
SAFE = -60.0
"""log2 of the smallest c_4 to divide by: k and v of 1e9 each then stay finite."""


@piece
def scratch(size):  # type: ignore[no-untyped-def]
    """(size,) fp32, not filled, from an address that a cache line starts at: no vector lies across two."""
    x = np.empty(size + 16, np.float32)
    first = -(x.ctypes.data // 4) % 16
    return x[first : first + size]


@piece
def four(keys, pitch, k, q, at, kept, kept_at, state, tile, value, value_at, value_step, o):  # type: ignore[no-untyped-def]
    """Four tokens through one tile; o (4, 32) gets what they read."""
    v00, v01 = load(value, value_at), load(value, value_at + 16)
    v10, v11 = load(value, value_at + value_step), load(value, value_at + value_step + 16)
    v20, v21 = load(value, value_at + 2 * value_step), load(value, value_at + 2 * value_step + 16)
    v30, v31 = load(value, value_at + 3 * value_step), load(value, value_at + 3 * value_step + 16)
    zero = splat(np.float32(0))
    o00, o01, o10, o11 = zero, zero, zero, zero
    o20, o21, o30, o31 = zero, zero, zero, zero
    at1, at2, at3 = at + pitch, at + 2 * pitch, at + 3 * pitch
    for s in range(keys):
        row = tile + TILE * s
        x = each(k, at + s)
        h0, h1 = fma(x, v00, load(state, row)), fma(x, v01, load(state, row + 16))
        x = each(q, at + s)
        o00, o01 = fma(x, h0, o00), fma(x, h1, o01)
        x = each(k, at1 + s)
        h0, h1 = fma(x, v10, h0), fma(x, v11, h1)
        x = each(q, at1 + s)
        o10, o11 = fma(x, h0, o10), fma(x, h1, o11)
        x = each(k, at2 + s)
        h0, h1 = fma(x, v20, h0), fma(x, v21, h1)
        x = each(q, at2 + s)
        o20, o21 = fma(x, h0, o20), fma(x, h1, o21)
        x = each(k, at3 + s)
        h0, h1 = fma(x, v30, h0), fma(x, v31, h1)
        x = each(q, at3 + s)
        o30, o31 = fma(x, h0, o30), fma(x, h1, o31)
        x = each(kept, kept_at + s)
        store(state, row, mul(x, h0))
        store(state, row + 16, mul(x, h1))
    store(o, 0, o00)
    store(o, 16, o01)
    store(o, 32, o10)
    store(o, 48, o11)
    store(o, 64, o20)
    store(o, 80, o21)
    store(o, 96, o30)
    store(o, 112, o31)


@piece
def one(keys, k, q, decay, at, source, source_at, target, target_at, step, value, value_at, o):  # type: ignore[no-untyped-def]
    """One token through 32 values of a state whose rows lie `step` apart; o (32,) gets what it reads."""
    v0, v1 = load(value, value_at), load(value, value_at + 16)
    o0, o1 = splat(np.float32(0)), splat(np.float32(0))
    for s in range(keys):
        row = s * step
        kept, x = each(decay, at + s), each(k, at + s)
        h0 = fma(kept, load(source, source_at + row), mul(x, v0))
        h1 = fma(kept, load(source, source_at + row + 16), mul(x, v1))
        store(target, target_at + row, h0)
        store(target, target_at + row + 16, h1)
        x = each(q, at + s)
        o0, o1 = fma(x, h0, o0), fma(x, h1, o1)
    store(o, 0, o0)
    store(o, 16, o1)


@piece
def put(o, count, scale, first, skip, value, value_at, value_step, out, out_at, out_step):  # type: ignore[no-untyped-def]
    """out = scale o + skip value, for `count` tokens of 32 values."""
    for i in range(count):
        x, by = each(scale, first + i), splat(skip)
        for j in (0, 16):
            plus = mul(by, load(value, value_at + i * value_step + j))
            store(out, out_at + i * out_step + j, fma(x, load(o, TILE * i + j), plus))


@piece
def block(  # type: ignore[no-untyped-def]
    count, keys, tiles, pitch, k, q, decay, kept, safe, state, value, value_at, value_step,
    scale, skip, out, out_at, out_step, o,
):  # fmt: skip
    """`count` <= BLOCK prepared tokens through all tiles of a state (tiles, K, 32)."""
    for j in range(tiles):
        tile, column = j * keys * TILE, j * TILE
        for i in range(0, count, 4):
            v_at, o_at = value_at + i * value_step + column, out_at + i * out_step + column
            if safe[i // 4] and i + 4 <= count:
                four(
                    keys,
                    pitch,
                    k,
                    q,
                    i * pitch,
                    kept,
                    i // 4 * pitch,
                    state,
                    tile,
                    value,
                    v_at,
                    value_step,
                    o,
                )
                put(o, 4, scale, i, skip, value, v_at, value_step, out, o_at, out_step)
            else:
                for n in range(min(4, count - i)):
                    one(
                        keys, k, q, decay, (i + n) * pitch, state, tile, state, tile, TILE,
                        value, v_at + n * value_step, o,
                    )  # fmt: skip
                    put(
                        o, 1, scale, i + n, skip, value, v_at + n * value_step, 0,
                        out, o_at + n * out_step, 0,
                    )  # fmt: skip


@piece
def single(  # type: ignore[no-untyped-def]
    keys, tiles, k, q, decay, source, target, state_at, value, value_at, scale, skip, out, out_at, o,
):  # fmt: skip
    """One prepared token through a state (K, V) as it lies in memory, from `source` to `target`."""
    for j in range(tiles):
        column = j * TILE
        one(
            keys, k, q, decay, 0, source, state_at + column, target, state_at + column, tiles * TILE,
            value, value_at + column, o,
        )  # fmt: skip
        put(o, 1, scale, 0, skip, value, value_at + column, 0, out, out_at + column, 0)


@piece
def to_tiles(keys, tiles, source, at, state):  # type: ignore[no-untyped-def]
    """A state (K, V) at source[at:] -> (tiles, K, 32)."""
    for j in range(tiles):
        for s in range(keys):
            row, tile = at + (s * tiles + j) * TILE, (j * keys + s) * TILE
            store(state, tile, load(source, row))
            store(state, tile + 16, load(source, row + 16))


@piece
def from_tiles(keys, tiles, state, target, at):  # type: ignore[no-untyped-def]
    """The other way round."""
    for j in range(tiles):
        for s in range(keys):
            row, tile = at + (s * tiles + j) * TILE, (j * keys + s) * TILE
            store(target, row, load(state, tile))
            store(target, row + 16, load(state, tile + 16))
