"""Matrix tiles of Intel's AMX inside compiled functions: eight registers of 16 rows of 64 bytes.

`multiply_bf16` and `multiply_int8` add to tile c (16, 16) the product of tile a, 16 rows of 32 bf16 or 64
int8 as they lie in memory, and tile b, whose row i holds for each of 16 columns the 2 bf16 or 4 int8 that
follow each other in a's rows (Intel's manual of instructions, TDPBF16PS and TDPBSSD). Numbers of tiles are
written as such.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils, types

from jrt_kernels.jit.compiler import jit, piece
from jrt_kernels.jit.lanes import BFLOATS, FLOATS, LANES, SHORTS, host_has, intrinsic, lanes

extended: Any = intrinsic(prefer_literal=True)
_BYTE, _WORD = ir.IntType(8), ir.IntType(64)


@lru_cache(maxsize=2)
def _granted(process: int) -> bool:
    ask = getattr(torch.cpu, "_init_amx", None)
    return bool(ask is not None and ask())


def present() -> bool:
    """Whether the processor has tiles, and bf16 in its vectors, and the system lets this process use them."""
    has = all(host_has(name) for name in ("amx-tile", "amx-bf16", "amx-int8", "avx512bf16"))
    return has and _granted(os.getpid())


def _call(builder: Any, name: str, *args: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [x.type for x in args])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), args)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(cgutils.gep(builder, data, index), _BYTE.as_pointer())


def _numbered(*tiles: Any) -> list[ir.Constant] | None:
    """The tiles as the instructions take them; None until numba gives their values."""
    if not all(isinstance(x, types.IntegerLiteral) for x in tiles):
        return None
    return [_BYTE(x.literal_value) for x in tiles]


def _of_config(name: str) -> Any:
    @extended
    def run(typing: Any, array: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _call(builder, name, _pointer(context, builder, array, args[0], _WORD(0)))
            return context.get_dummy_value()

        return types.void(array), code

    return run


def _of_memory(name: str) -> Any:
    @extended
    def run(typing: Any, tile: Any, array: Any, index: Any, step: Any) -> Any:
        numbers = _numbered(tile)
        if numbers is None:
            return None

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _call(builder, name, *numbers, _pointer(context, builder, array, args[1], args[2]), args[3])
            return context.get_dummy_value()

        return types.void(tile, array, types.int64, types.int64), code

    return run


def _of_tiles(name: str) -> Any:
    @extended
    def run(typing: Any, c: Any, a: Any, b: Any) -> Any:
        numbers = _numbered(c, a, b)
        if numbers is None:
            return None

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _call(builder, name, *numbers)
            return context.get_dummy_value()

        return types.void(c, a, b), code

    return run


configure = _of_config("ldtilecfg")
"""configure(config): tiles as 64 int8 values say (`set_up`)."""
configured = _of_config("sttilecfg")
"""configured(config): writes how they are."""
fetch = _of_memory("tileloadd64")
"""fetch(tile, array, index, step): rows of 64 bytes from array[index] on, `step` bytes apart."""
put = _of_memory("tilestored64")
"""put(tile, array, index, step): the other way round."""
multiply_bf16 = _of_tiles("tdpbf16ps")
multiply_int8 = _of_tiles("tdpbssd")


@extended
def clear(typing: Any, tile: Any) -> Any:
    """tile = 0"""
    numbers = _numbered(tile)
    if numbers is None:
        return None

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _call(builder, "tilezero", *numbers)
        return context.get_dummy_value()

    return types.void(tile), code


@piece
def set_up(config):  # type: ignore[no-untyped-def]
    """config (64,) int8: all eight tiles whole."""
    config[:] = np.int8(0)
    config[0] = 1  # the palette
    for i in range(8):
        config[16 + 2 * i] = 64  # bytes of a row, a number of 16 bits
        config[48 + i] = 16  # rows


@jit
def _remember(config):  # type: ignore[no-untyped-def]
    configured(config)


@jit
def _restore(config):  # type: ignore[no-untyped-def]
    configure(config)


def remembered() -> np.ndarray:
    """How this thread's tiles are set up: 64 bytes, zeros where they are not."""
    config = np.zeros(64, np.int8)
    if present():
        _remember(config)
    return config


def restore(config: np.ndarray) -> None:
    """Sets this thread's tiles up as `remembered` found them."""
    if present():
        _restore(config)


@intrinsic
def rounded(typing: Any, x: Any) -> Any:
    """x as bf16 has it; what that leaves of x is a second number of bf16: together they have 16 bits."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.fptrunc(args[0], BFLOATS), FLOATS)

    return lanes(lanes), code


@intrinsic
def store_paired(typing: Any, array: Any, index: Any, a: Any, b: Any) -> Any:
    """array[index : index + 32] = a0 b0 a1 b1 ... in bf16: of a tile b, 16 columns of two rows."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b = (builder.bitcast(builder.fptrunc(x, BFLOATS), SHORTS) for x in args[2:])
        order = [n // 2 + n % 2 * LANES for n in range(2 * LANES)]
        both = builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), 2 * LANES), order))
        pointer = _pointer(context, builder, array, args[0], args[1])
        builder.store(both, builder.bitcast(pointer, both.type.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes, lanes), code
