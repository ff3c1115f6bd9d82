"""Products of bf16 tiles with sums in fp32: Intel's AMX, inside compiled functions.

Eight tiles of 16 rows of 64 bytes: 16 x 16 fp32 for a sum, 16 x 32 bf16 for a left operand, and for a right
one 16 x 16 pairs, each of two rows that follow each other ("paired": (K, N) lies as (K / 2, N, 2)).
Which tile is meant must be a number in the source. A value of fp32 can go in as two of bf16, the second being
what rounding leaves of it: together they have 16 bits.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.np.arrayobj import make_array

from jrt_kernels.jit.lanes import BFLOATS, FLOATS, LANES, SHORTS, host_has, intrinsic, lanes

CONFIGURATION = np.zeros(64, np.uint8)
"""For `begin`: eight whole tiles (palette 1)."""
CONFIGURATION[0], CONFIGURATION[16:32:2], CONFIGURATION[48:56] = 1, 64, 16

_BYTE, _LONG = ir.IntType(8), ir.IntType(64)
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


@cache
def available() -> bool:
    """Whether this processor has tiles of bf16 and the operating system lets this process use them."""
    if not (sys.platform.startswith("linux") and host_has("amx-tile") and host_has("amx-bf16")):
        return False
    # Linux, Documentation/arch/x86/xstate.rst: tiles are asked for once in a process.
    return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = make_array(kind)(context, builder, array).data
    return builder.bitcast(cgutils.gep(builder, data, index), _BYTE.as_pointer())


def _call(builder: Any, name: str, *args: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [arg.type for arg in args])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), args)


def _number(kind: Any) -> Any:
    if not isinstance(kind, types.IntegerLiteral):
        raise TypeError("a tile is named by a number in the source")
    return ir.Constant(_BYTE, kind.literal_value)


@intrinsic
def begin(typing: Any, configuration: Any) -> Any:
    """Makes this thread's tiles ready. configuration: CONFIGURATION."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero = context.get_constant(types.intp, 0)
        _call(builder, "ldtilecfg", _pointer(context, builder, configuration, args[0], zero))
        return context.get_dummy_value()

    return types.void(configuration), code


@intrinsic
def end(typing: Any) -> Any:
    """Gives this thread's tiles back."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _call(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), code


@intrinsic(prefer_literal=True)
def clear(typing: Any, tile: Any) -> Any:
    """tile = 0"""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _call(builder, "tilezero", _number(tile))
        return context.get_dummy_value()

    return types.void(tile), code


@intrinsic(prefer_literal=True)
def take(typing: Any, tile: Any, array: Any, index: Any, step: Any) -> Any:
    """tile = the 16 rows of 64 bytes at array[index:], `step` values apart."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        size = context.get_abi_sizeof(context.get_data_type(array.dtype))
        stride = builder.mul(args[3], ir.Constant(_LONG, size))
        place = _pointer(context, builder, array, args[1], args[2])
        _call(builder, "tileloadd64", _number(tile), place, stride)
        return context.get_dummy_value()

    return types.void(tile, array, types.intp, types.intp), code


@intrinsic(prefer_literal=True)
def put(typing: Any, tile: Any, array: Any, index: Any, step: Any) -> Any:
    """The other way round."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        size = context.get_abi_sizeof(context.get_data_type(array.dtype))
        stride = builder.mul(args[3], ir.Constant(_LONG, size))
        place = _pointer(context, builder, array, args[1], args[2])
        _call(builder, "tilestored64", _number(tile), place, stride)
        return context.get_dummy_value()

    return types.void(tile, array, types.intp, types.intp), code


@intrinsic(prefer_literal=True)
def multiply(typing: Any, sums: Any, left: Any, right: Any) -> Any:
    """sums += left right, tiles of 16 x 32 and (paired) 32 x 16 bf16."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _call(builder, "tdpbf16ps", _number(sums), _number(left), _number(right))
        return context.get_dummy_value()

    return types.void(sums, left, right), code


@intrinsic
def rounded(typing: Any, x: Any) -> Any:
    """x as bf16 has it."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.fptrunc(args[0], BFLOATS), FLOATS)

    return lanes(lanes), code


@intrinsic
def store_paired(typing: Any, array: Any, index: Any, a: Any, b: Any) -> Any:
    """array[index : index + 32] = a0 b0 a1 b1 ... in bf16: 16 columns of two rows of a right operand."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b = (builder.bitcast(builder.fptrunc(x, BFLOATS), SHORTS) for x in args[2:])
        order = [n // 2 + n % 2 * LANES for n in range(2 * LANES)]
        both = builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), 2 * LANES), order))
        pointer = _pointer(context, builder, array, args[0], args[1])
        builder.store(both, builder.bitcast(pointer, both.type.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes, lanes), code
