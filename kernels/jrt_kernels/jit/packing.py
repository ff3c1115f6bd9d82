"""fp32 numbers as sums of smaller ones, and in the order that tiles want them.

Three bf16 numbers, cut off one from the other, are an fp32 number exactly (8 + 8 + 8 bits). Three int8 digits
are a share of a row's largest value, to 22 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from jrt_kernels.jit.compiler import piece
from jrt_kernels.jit.lanes import (
    BYTES,
    FLOAT,
    FLOATS,
    INTS,
    LANES,
    element,
    filled,
    fma,
    intrinsic,
    lanes,
    least,
    load,
    mul,
    splat,
    store,
    total,
)

PARTS = 3
DIGIT = 254.0
"""A digit counts so many of the next; each is rounded, so that it is in -127 to 127."""


@intrinsic
def cut(typing: Any, a: Any, b: Any, target: Any, at: Any, step: Any) -> Any:
    """The 32 values of a and b as bf16 bits: the first parts to target[at:], the next `step` further, ..."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        halves = ir.VectorType(ir.IntType(16), 2 * LANES)
        order = ir.Constant(ir.VectorType(ir.IntType(32), 2 * LANES), [2 * i + 1 for i in range(2 * LANES)])
        rest, place = list(args[:2]), args[3]
        for _ in range(PARTS):
            bits = [builder.and_(builder.bitcast(x, INTS), filled(INTS, -65536)) for x in rest]
            rest = [builder.fsub(x, builder.bitcast(y, FLOATS)) for x, y in zip(rest, bits, strict=True)]
            both = builder.shuffle_vector(*(builder.bitcast(x, halves) for x in bits), order)
            pointer = element(context, builder, target, args[2], place)
            builder.store(both, builder.bitcast(pointer, halves.as_pointer()), align=2)
            place = builder.add(place, args[4])
        return context.get_dummy_value()

    return types.void(lanes, lanes, target, types.int64, types.int64), code


@intrinsic
def digits(typing: Any, x: Any, target: Any, at: Any, step: Any) -> Any:
    """16 values in -127 to 127 as digits of 8 bits: the first to target[at:], the next `step` further, ..."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rest, place = args[0], args[2]
        magic = filled(FLOATS, 12582912.0)  # 1.5 2^23: adding it rounds
        for _ in range(PARTS):
            digit = builder.fsub(builder.fadd(rest, magic), magic)
            rest = builder.fmul(builder.fsub(rest, digit), filled(FLOATS, DIGIT))
            small = builder.trunc(builder.fptosi(digit, INTS), BYTES)
            pointer = element(context, builder, target, args[1], place)
            builder.store(small, builder.bitcast(pointer, BYTES.as_pointer()), align=1)
            place = builder.add(place, args[3])
        return context.get_dummy_value()

    return types.void(lanes, target, types.int64, types.int64), code


@intrinsic
def transpose(typing: Any, source: Any, at: Any, target: Any, to: Any) -> Any:
    """target[to:] (16, 16) = the transposed source[at:] (16, 16), of words of 4 bytes; indices in words."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        words = [
            builder.bitcast(context.make_array(kind)(context, builder, array).data, FLOAT.as_pointer())
            for kind, array in ((source, args[0]), (target, args[2]))
        ]
        lines = []
        for i in range(LANES):
            pointer = builder.gep(words[0], [builder.add(args[1], ir.IntType(64)(LANES * i))])
            lines.append(builder.load(builder.bitcast(pointer, FLOATS.as_pointer()), align=4))
        span = LANES // 2
        while span:
            # Blocks of `span` lines and columns change places with those across the diagonal.
            low = [j if not j & span else LANES + j - span for j in range(LANES)]
            high = [j + span if not j & span else LANES + j for j in range(LANES)]
            for i in range(LANES):
                if not i & span:
                    pair = lines[i], lines[i + span]
                    lines[i] = builder.shuffle_vector(*pair, ir.Constant(INTS, low))
                    lines[i + span] = builder.shuffle_vector(*pair, ir.Constant(INTS, high))
            span //= 2
        for i in range(LANES):
            pointer = builder.gep(words[1], [builder.add(args[3], ir.IntType(64)(LANES * i))])
            builder.store(lines[i], builder.bitcast(pointer, FLOATS.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(source, types.int64, target, types.int64), code


@intrinsic
def load_counts(typing: Any, array: Any, at: Any) -> Any:
    """array[at : at + 16], where int32 numbers lie whatever the array's type, as lanes."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = element(context, builder, array, args[0], args[1])
        counts = builder.load(builder.bitcast(pointer, INTS.as_pointer()), align=4)
        return builder.sitofp(counts, FLOATS)

    return lanes(array, types.int64), code


@piece
def pack_bf16(rows, size, x, packed, room):  # type: ignore[no-untyped-def]
    """x (rows, size) fp32, size a multiple of 32 -> packed (groups of 16 rows, 3 parts, size / 2, 16, 2)
    bf16.

    room: for 3 (16, 32) bf16. Columns of rows that are not there hold anything.
    """
    for first in range(0, rows, 16):
        group = first * PARTS * size
        for k in range(0, size, 32):
            for r in range(min(16, rows - first)):
                at = (first + r) * size + k
                cut(load(x, at), load(x, at + 16), room, r * 32, 512)
            for p in range(PARTS):
                transpose(room, p * 256, packed, (group + p * size * 16 + k * 16) // 2)


@piece
def pack_int8(rows, size, x, packed, room, scale):  # type: ignore[no-untyped-def]
    """The same in int8, size a multiple of 64: (groups, 3 digits, size / 4, 16, 4); room: for 3 times 16 by
    64.

    scale (rows,): what the digits of each row are to be multiplied by.
    """
    zero = splat(np.float32(0))
    top = np.empty(16, np.float32)
    for r in range(rows):
        lowest, unsound = zero, zero
        for k in range(0, size, 16):
            value = load(x, r * size + k)
            lowest = least(least(value, mul(value, splat(np.float32(-1)))), lowest)
            unsound = fma(value, zero, unsound)
        store(top, 0, lowest)
        by = np.float32(0)
        for i in range(16):
            by = min(by, top[i])
        by = np.float32(1) if by == 0 else -by / np.float32(127)
        scale[r] = by + total(unsound)  # not a number where one of them is none
    for first in range(0, rows, 16):
        group = first * PARTS * size
        for k in range(0, size, 64):
            for r in range(min(16, rows - first)):
                inverse = splat(np.float32(1) / scale[first + r])
                for j in range(0, 64, 16):
                    value = load(x, (first + r) * size + k + j)
                    digits(mul(value, inverse), room, r * 64 + j, 1024)
            for p in range(PARTS):
                transpose(room, p * 256, packed, (group + p * size * 16 + k * 16) // 4)
