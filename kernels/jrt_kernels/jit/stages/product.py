"""A matrix times a few rows: the weights are read once, in place, for all rows.

With tiles (jrt_kernels.jit.tiles) rows are taken apart into three bf16 numbers or int8 digits, which are
multiplied one by one: nothing is lost to bf16 or int8 but what the weights lost. One row, fp32 weights, and
sizes that tiles do not divide are summed in vectors of fp32.
"""

from __future__ import annotations

import numpy as np

from jrt_kernels.jit.compiler import jit, piece
from jrt_kernels.jit.lanes import add, fma, load, mul, prefetch, splat, store, total
from jrt_kernels.jit.packing import DIGIT, PARTS, load_counts, pack_bf16, pack_int8, transpose
from jrt_kernels.jit.product import dot, one_by_four
from jrt_kernels.jit.recurrence import scratch
from jrt_kernels.jit.stage import bytes_, floats, halves, words
from jrt_kernels.jit.tiles import (
    clear,
    configure,
    configured,
    fetch,
    multiply_bf16,
    multiply_int8,
    put,
    set_up,
)
from jrt_kernels.jit.together import share

AHEAD_BYTES = 49152
SHARE_1 = np.float32(1 / DIGIT)
SHARE_2 = np.float32(1 / DIGIT**2)


def room(rows: int, size: int) -> int:
    """int16 values that `_with_tiles` needs for itself."""
    return -(-rows // 16) * PARTS * 16 * size


@piece
def _ask_for(weight, at):  # type: ignore[no-untyped-def]
    """The KiB of weights that is AHEAD_BYTES further on."""
    line = 64 // weight.itemsize
    for i in range(16):
        prefetch(weight, at + AHEAD_BYTES // weight.itemsize + i * line)


@piece
def _tile_bf16(size, weight, at, packed, group):  # type: ignore[no-untyped-def]
    piece_of = 16 * size
    for k in range(0, size, 32):
        _ask_for(weight, at + k * 16)
        fetch(3, weight, at + k, size * 2)
        fetch(5, packed, group + k * 16, 64)
        multiply_bf16(0, 3, 5)
        fetch(6, packed, group + piece_of + k * 16, 64)
        multiply_bf16(1, 3, 6)
        fetch(7, packed, group + 2 * piece_of + k * 16, 64)
        multiply_bf16(2, 3, 7)


@piece
def _tile_int8(size, weight, at, packed, group):  # type: ignore[no-untyped-def]
    piece_of = 16 * size
    for k in range(0, size, 64):
        _ask_for(weight, at + k * 16)
        fetch(3, weight, at + k, size)
        fetch(5, packed, group + k * 16, 64)
        multiply_int8(0, 3, 5)
        fetch(6, packed, group + piece_of + k * 16, 64)
        multiply_int8(1, 3, 6)
        fetch(7, packed, group + 2 * piece_of + k * 16, 64)
        multiply_int8(2, 3, 7)


@piece
def _with_tiles(first, last, rows, outputs, size, x, weight, scale, bias, out, room):  # type: ignore[no-untyped-def]
    """Blocks first to last of 16 rows of the weight. scale, bias: addresses, 0 where there are none."""
    before, now = np.zeros(64, np.int8), np.empty(64, np.int8)
    configured(before)
    set_up(now)
    configure(now)
    groups = (rows + 15) // 16
    packed, packed8 = halves(room), bytes_(room)
    sums, row_scale = scratch(2 * 768), np.empty(rows, np.float32)
    line, turned = scratch(256), scratch(256)
    if weight.itemsize == 1:
        pack_int8(rows, size, x, packed8, np.empty(3 * 1024, np.int8), row_scale)
    else:
        pack_bf16(rows, size, x, packed, np.empty(3 * 512, np.int16))
    count = (last - first) * groups
    for unit in range(count + 1):
        half = unit % 2 * 768
        if unit < count:
            at, g = (first + unit // groups) * 16 * size, unit % groups
            group = g * PARTS * 16 * size
            clear(0)
            clear(1)
            clear(2)
            if weight.itemsize == 2:
                _tile_bf16(size, weight, at, packed, group)
            else:
                _tile_int8(size, weight, at, packed8, group)
            put(0, sums, half, 64)
            put(1, sums, half + 256, 64)
            put(2, sums, half + 512, 64)
        if unit > 0:
            # Those of one before: what tiles have written takes its time to be read.
            o, g = (first + (unit - 1) // groups) * 16, (unit - 1) % groups
            half = 768 - half
            for i in range(0, 256, 16):
                if weight.itemsize == 1:
                    low = mul(splat(SHARE_2), load_counts(sums, half + 512 + i))
                    low = fma(splat(SHARE_1), load_counts(sums, half + 256 + i), low)
                    value = mul(add(low, load_counts(sums, half + i)), splat(floats(scale)[o + i // 16]))
                else:
                    value = add(load(sums, half + 512 + i), load(sums, half + 256 + i))
                    value = add(value, load(sums, half + i))
                store(line, i, value)
            transpose(line, 0, turned, 0)
            plus = load(floats(bias), o) if bias != 0 else splat(np.float32(0))
            for r in range(min(16, rows - g * 16)):
                value = load(turned, r * 16)
                if weight.itemsize == 1:
                    value = mul(value, splat(row_scale[g * 16 + r]))
                store(out, (g * 16 + r) * outputs + o, add(value, plus))
    configure(before)


@piece
def _four_sums(out, at, outputs, by, a, b, c, d):  # type: ignore[no-untyped-def]
    """One row of the weight times four rows."""
    out[at] = total(a) * by
    out[at + 1 * outputs] = total(b) * by
    out[at + 2 * outputs] = total(c) * by
    out[at + 3 * outputs] = total(d) * by


@piece
def _six_by_four(size, weight, at, scale, scaled, row, x, x_at, out, outputs, first):  # type: ignore[no-untyped-def]
    """Six rows of the weight times four of x; the weights are asked for ahead where `first`."""
    zero = splat(np.float32(0))
    a0, a1, a2, a3 = zero, zero, zero, zero
    b0, b1, b2, b3 = zero, zero, zero, zero
    c0, c1, c2, c3 = zero, zero, zero, zero
    d0, d1, d2, d3 = zero, zero, zero, zero
    e0, e1, e2, e3 = zero, zero, zero, zero
    f0, f1, f2, f3 = zero, zero, zero, zero
    for i in range(0, size, 16):
        if first:
            for r in range(6):
                prefetch(weight, at + r * size + i + AHEAD_BYTES // weight.itemsize)
        y0 = load(x, x_at + i)
        y1 = load(x, x_at + 1 * size + i)
        y2 = load(x, x_at + 2 * size + i)
        y3 = load(x, x_at + 3 * size + i)
        w = load(weight, at + i)
        a0, a1, a2, a3 = fma(w, y0, a0), fma(w, y1, a1), fma(w, y2, a2), fma(w, y3, a3)
        w = load(weight, at + 1 * size + i)
        b0, b1, b2, b3 = fma(w, y0, b0), fma(w, y1, b1), fma(w, y2, b2), fma(w, y3, b3)
        w = load(weight, at + 2 * size + i)
        c0, c1, c2, c3 = fma(w, y0, c0), fma(w, y1, c1), fma(w, y2, c2), fma(w, y3, c3)
        w = load(weight, at + 3 * size + i)
        d0, d1, d2, d3 = fma(w, y0, d0), fma(w, y1, d1), fma(w, y2, d2), fma(w, y3, d3)
        w = load(weight, at + 4 * size + i)
        e0, e1, e2, e3 = fma(w, y0, e0), fma(w, y1, e1), fma(w, y2, e2), fma(w, y3, e3)
        w = load(weight, at + 5 * size + i)
        f0, f1, f2, f3 = fma(w, y0, f0), fma(w, y1, f1), fma(w, y2, f2), fma(w, y3, f3)
    _four_sums(out, row + 0, outputs, scale[row + 0] if scaled else np.float32(1), a0, a1, a2, a3)
    _four_sums(out, row + 1, outputs, scale[row + 1] if scaled else np.float32(1), b0, b1, b2, b3)
    _four_sums(out, row + 2, outputs, scale[row + 2] if scaled else np.float32(1), c0, c1, c2, c3)
    _four_sums(out, row + 3, outputs, scale[row + 3] if scaled else np.float32(1), d0, d1, d2, d3)
    _four_sums(out, row + 4, outputs, scale[row + 4] if scaled else np.float32(1), e0, e1, e2, e3)
    _four_sums(out, row + 5, outputs, scale[row + 5] if scaled else np.float32(1), f0, f1, f2, f3)


@piece
def _with_lanes(first, last, rows, outputs, size, x, weight, scale, bias, out):  # type: ignore[no-untyped-def]
    """Rows first to last of the weight."""
    by = floats(scale)
    if rows == 1:
        for o in range(first, last):
            value = dot(size, weight, o * size, x)
            out[o] = value * by[o] if scale != 0 else value
    else:
        six = first + (last - first) // 6 * 6
        for o in range(first, six, 6):
            for r in range(0, rows, 4):
                _six_by_four(
                    size,
                    weight,
                    o * size,
                    by,
                    scale != 0,
                    o,
                    x,
                    r * size,
                    out[r * outputs :],
                    outputs,
                    r == 0,
                )
        for o in range(six, last):
            for r in range(0, rows, 4):
                one_by_four(size, weight, o * size, by, scale != 0, o, x, r * size, out, r * outputs, outputs)
    if bias != 0:
        plus = floats(bias)
        for r in range(rows):
            for o in range(first, last):
                out[r * outputs + o] += plus[o]


@piece
def _in_lanes(part, parts, a, weight):  # type: ignore[no-untyped-def]
    first, last = share(part, parts, a[1], 6)
    if part + 1 == parts:
        last = a[1]
    _with_lanes(first, last, a[0], a[1], a[2], floats(a[3]), weight, a[5], a[6], floats(a[7]))


@piece
def _in_tiles(part, parts, a, weight):  # type: ignore[no-untyped-def]
    rows, outputs, size, x, out = a[0], a[1], a[2], floats(a[3]), floats(a[7])
    first, last = share(part, parts, outputs // 16, 1)
    if first < last:
        _with_tiles(first, last, rows, outputs, size, x, weight, a[5], a[6], out, a[8] + part * a[9])
    if part + 1 == parts:
        _with_lanes(outputs // 16 * 16, outputs, rows, outputs, size, x, weight, a[5], a[6], out)


@jit
def product_fp32(part, parts, at):  # type: ignore[no-untyped-def]
    """out (rows, outputs) = x (rows, size) times the weight (outputs, size), scaled, plus bias.

    Numbers: rows, outputs, size; addresses of x, weight, scale or 0, bias or 0, out; the address of the
    room, the bytes of a part's, and whether to use tiles. size is a multiple of 16; up to 3 more rows of x
    and out are touched.
    """
    a = words(at)
    _in_lanes(part, parts, a, floats(a[4]))


@jit
def product_bf16(part, parts, at):  # type: ignore[no-untyped-def]
    """The same with a weight of bf16."""
    a = words(at)
    if a[10] != 0:
        _in_tiles(part, parts, a, halves(a[4]))
    else:
        _in_lanes(part, parts, a, halves(a[4]))


@jit
def product_int8(part, parts, at):  # type: ignore[no-untyped-def]
    """The same with a weight of int8."""
    a = words(at)
    if a[10] != 0:
        _in_tiles(part, parts, a, bytes_(a[4]))
    else:
        _in_lanes(part, parts, a, bytes_(a[4]))
