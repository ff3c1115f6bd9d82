"""Sixteen fp32 lanes as a value inside compiled functions.

A loop that the compiler must first prove free of aliases is slow or not vectorised at all; here a kernel says
which vectors it means. LLVM maps 16 lanes to one AVX-512 register, two AVX registers or four of SSE or NEON.
Arrays are one-dimensional and contiguous: fp32, int16 that holds the bits of bf16, or int8; `load` converts
all of them, `store` the first two. Every function below may be called from a function of
`jrt_kernels.jit.compiler.jit` only.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import extending
from numba.core import cgutils, config, types

intrinsic: Any = extending.intrinsic  # without the types of what is called inside compiled code
LANES = 16
FLOAT = ir.FloatType()
FLOATS = ir.VectorType(FLOAT, LANES)
INTS = ir.VectorType(ir.IntType(32), LANES)
SHORTS = ir.VectorType(ir.IntType(16), LANES)
BYTES = ir.VectorType(ir.IntType(8), LANES)


@cache
def host_has(feature: str) -> bool:
    """Whether this processor has a feature, and numba was not told to compile for another one."""
    told: Any = config
    own = not told.CPU_NAME and told.CPU_FEATURES is None and told.ENABLE_AVX
    return own and bool(get_host_cpu_features().get(feature))


class _BFloatType(ir.Type):
    """LLVM's bf16, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self))

    def __hash__(self) -> int:
        return hash(type(self))


BFLOATS = ir.VectorType(_BFloatType(), LANES)


class LanesType(types.Type):
    """The type of a vector of 16 fp32 values."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


@extending.register_model(LanesType)
class LanesModel(extending.models.PrimitiveModel):
    """Lanes are an LLVM vector."""

    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, FLOATS)


lanes = LanesType()


def filled(kind: ir.VectorType, value: Any) -> ir.Constant:
    return ir.Constant(kind, [value] * LANES)


def _splat(builder: Any, value: Any) -> Any:
    """An LLVM float -> all lanes."""
    first = builder.insert_element(ir.Constant(FLOATS, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, ir.Constant(FLOATS, ir.Undefined), filled(INTS, 0))


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind = ir.FunctionType(FLOATS, [FLOATS] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
    return builder.call(function, [a, b, c])


def element(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return cgutils.gep(builder, data, index)


def _check(array: Any, *also: Any) -> None:
    if not (isinstance(array, types.Array) and array.ndim == 1 and array.layout == "C"):
        raise TypeError(f"lanes are of contiguous arrays of one dimension, not {array}")
    if array.dtype not in (types.float32, types.int16, *also):
        raise TypeError(f"lanes are of fp32 or, as int16, of bf16, not {array.dtype}")


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """array[index : index + 16] as lanes."""
    _check(array, types.int8)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = element(context, builder, array, args[0], args[1])
        if array.dtype == types.float32:
            return builder.load(builder.bitcast(pointer, FLOATS.as_pointer()), align=4)
        if array.dtype == types.int8:
            small = builder.load(builder.bitcast(pointer, BYTES.as_pointer()), align=1)
            return builder.sitofp(builder.sext(small, INTS), FLOATS)
        bits = builder.load(builder.bitcast(pointer, SHORTS.as_pointer()), align=2)
        wide = builder.shl(builder.zext(bits, INTS), filled(INTS, 16))
        return builder.bitcast(wide, FLOATS)

    return lanes(array, types.intp), code


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index : index + 16] = value, rounded to the nearest even bf16 where the array is of those."""
    _check(array)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = element(context, builder, array, args[0], args[1])
        if array.dtype == types.float32:
            builder.store(args[2], builder.bitcast(pointer, FLOATS.as_pointer()), align=4)
            return context.get_dummy_value()
        if host_has("avx512bf16"):
            short = builder.bitcast(builder.fptrunc(args[2], BFLOATS), SHORTS)
            builder.store(short, builder.bitcast(pointer, SHORTS.as_pointer()), align=2)
            return context.get_dummy_value()
        bits = builder.bitcast(args[2], INTS)
        odd = builder.and_(builder.lshr(bits, filled(INTS, 16)), filled(INTS, 1))
        rounded = builder.add(builder.add(bits, filled(INTS, 0x7FFF)), odd)
        # Rounding could carry a nan's bits into an infinity's.
        quiet = builder.or_(bits, filled(INTS, 0x400000))
        chosen = builder.select(builder.fcmp_unordered("uno", args[2], args[2]), quiet, rounded)
        short = builder.trunc(builder.lshr(chosen, filled(INTS, 16)), SHORTS)
        builder.store(short, builder.bitcast(pointer, SHORTS.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), code


@intrinsic
def stream(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """As `store`, fp32 at a multiple of 64 bytes, past the caches: the line is not read first, nor kept."""
    _check(array)
    if array.dtype != types.float32:
        raise TypeError("stream is for fp32")

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.bitcast(element(context, builder, array, args[0], args[1]), FLOATS.as_pointer())
        kind = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        builder.store(args[2], pointer, align=64).set_metadata("nontemporal", kind)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), code


@intrinsic
def prefetch(typing: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of array[index], which need not exist, into the second cache."""
    _check(array, types.int8)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte, number32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number32, number32, number32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        pointer = builder.bitcast(element(context, builder, array, args[0], args[1]), byte)
        builder.call(function, [pointer, number32(0), number32(2), number32(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), code


@intrinsic
def number(typing: Any, array: Any, index: Any) -> Any:
    """array[index] as an fp32 number."""
    _check(array)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(element(context, builder, array, args[0], args[1]))
        if array.dtype == types.float32:
            return value
        wide = builder.shl(builder.zext(value, ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(wide, FLOAT)

    return types.float32(array, types.intp), code


@intrinsic
def each(typing: Any, array: Any, index: Any) -> Any:
    """array[index] in all lanes, for fp32. Unlike array[index], not counted from the end if negative."""
    _check(array)
    if array.dtype != types.float32:
        raise TypeError("each is for fp32")

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _splat(builder, builder.load(element(context, builder, array, args[0], args[1])))

    return lanes(array, types.intp), code


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """One fp32 number in all lanes."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _splat(builder, args[0])

    return lanes(types.float32), code


@intrinsic
def add(typing: Any, a: Any, b: Any) -> Any:
    """a + b"""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(args[0], args[1])

    return lanes(lanes, lanes), code


@intrinsic
def mul(typing: Any, a: Any, b: Any) -> Any:
    """a b"""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fmul(args[0], args[1])

    return lanes(lanes, lanes), code


@intrinsic
def div(typing: Any, a: Any, b: Any) -> Any:
    """a / b"""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fdiv(args[0], args[1])

    return lanes(lanes, lanes), code


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c"""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _fma(builder, *args)

    return lanes(lanes, lanes, lanes), code


@intrinsic
def total(typing: Any, a: Any) -> Any:
    """The sum of the lanes, in pairs."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, width = args[0], LANES
        undefined = ir.Constant(FLOATS, ir.Undefined)
        while width > 1:
            width //= 2
            order = ir.Constant(INTS, [(i + width) % LANES for i in range(LANES)])
            value = builder.fadd(value, builder.shuffle_vector(value, undefined, order))
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return types.float32(lanes), code


@intrinsic
def least(typing: Any, a: Any, b: Any) -> Any:
    """The smaller of a and b in each lane; b where one of them is nan."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("olt", args[0], args[1]), args[0], args[1])

    return lanes(lanes, lanes), code


def _power(builder: Any, f: Any) -> Any:
    """2^f, |f| <= 1/2, by a polynomial of degree 5 (relative error 1e-7)."""
    p = filled(FLOATS, _POLYNOMIAL[0])
    for coefficient in _POLYNOMIAL[1:]:
        p = _fma(builder, p, f, filled(FLOATS, coefficient))
    return p


def _exp2(builder: Any, x: Any) -> Any:
    """2^x = 2^n 2^f, |f| <= 1/2; 2^n by its bits."""
    low, high = filled(FLOATS, -126.0), filled(FLOATS, 127.0)
    # In this order a nan stays a nan.
    x = builder.select(builder.fcmp_ordered("olt", x, low), low, x)
    x = builder.select(builder.fcmp_ordered("ogt", x, high), high, x)
    magic = filled(FLOATS, _MAGIC)
    shifted = builder.fadd(x, magic)
    p = _power(builder, builder.fsub(x, builder.fsub(shifted, magic)))
    n = builder.shl(builder.bitcast(shifted, INTS), filled(INTS, 23))
    return builder.bitcast(builder.add(builder.bitcast(p, INTS), n), FLOATS)


def _reciprocal(builder: Any, x: Any) -> Any:
    """1 / x: AVX-512's estimate of 14 bits and one step of Newton (relative error 1e-7), a fifth of the time
    that dividing takes there."""
    if not host_has("avx512f"):
        return builder.fdiv(filled(FLOATS, 1.0), x)
    kind = ir.FunctionType(FLOATS, [FLOATS, FLOATS, ir.IntType(16)])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.rcp14.ps.512")
    y = builder.call(function, [x, filled(FLOATS, 0.0), ir.Constant(ir.IntType(16), 0xFFFF)])
    error = _fma(builder, builder.fneg(x), y, filled(FLOATS, 1.0))
    return _fma(builder, y, error, y)


_MAGIC = 12582912.0  # 1.5 2^23: adding it leaves the nearest integer in the low bits
# Highest power first: minimax of relative error on [-1/2, 1/2] (by reweighted least squares) under 2^0 = 1
# and the right slope there, so that the error of a decay near 1 does not add up over tokens.
_POLYNOMIAL = (
    0.0013300605351105332,
    0.009669691324234009,
    0.05550558492541313,
    0.24022282660007477,
    0.6931471824645996,
    1.0,
)


@intrinsic
def exp2(typing: Any, x: Any) -> Any:
    """2^x, relative error 2e-7; x below -126 or above 127 counts as those."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _exp2(builder, args[0])

    return lanes(lanes), code


@intrinsic
def decay(typing: Any, rate: Any, time: Any) -> Any:
    """2^(rate time) for products of 0 to -1e9, relative error 2e-7; below 2^-126 the result may be 0."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rate, time = args
        if not host_has("avx512f"):
            return _exp2(builder, builder.fmul(rate, time))
        magic = filled(FLOATS, _MAGIC)
        n = builder.fsub(_fma(builder, rate, time, magic), magic)
        p = _power(builder, _fma(builder, rate, time, builder.fneg(n)))
        mask, mode = ir.IntType(16), ir.IntType(32)
        kind = ir.FunctionType(FLOATS, [FLOATS, FLOATS, FLOATS, mask, mode])
        scale = cgutils.get_or_insert_function(
            builder.module, kind, "llvm.x86.avx512.mask.scalef.ps.512"
        )  # p 2^n without a limit of n to keep to
        return builder.call(scale, [p, n, filled(FLOATS, 0.0), mask(0xFFFF), mode(4)])

    return lanes(lanes, lanes), code


# log(1 + u) / u on [0, 1], found in the same way; 1 at 0.
_LOG1P = (
    -0.003318473696708679,
    0.020204590633511543,
    -0.057664453983306885,
    0.10680556297302246,
    -0.15355396270751953,
    0.19695401191711426,
    -0.24958588182926178,
    0.33330512046813965,
    -0.4999993145465851,
    1.0,
)


@intrinsic
def softplus(typing: Any, x: Any) -> Any:
    """log(1 + exp(x))"""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, zero = args[0], filled(FLOATS, 0.0)
        negative = builder.fcmp_ordered("olt", x, zero)
        minus = builder.select(negative, x, builder.fneg(x))  # -|x|; a nan stays one
        u = _exp2(builder, builder.fmul(minus, filled(FLOATS, 1.4426950408889634)))
        p = filled(FLOATS, _LOG1P[0])
        for coefficient in _LOG1P[1:]:
            p = _fma(builder, p, u, filled(FLOATS, coefficient))
        return _fma(builder, p, u, builder.select(negative, zero, x))

    return lanes(lanes), code


@intrinsic
def silu(typing: Any, x: Any) -> Any:
    """x / (1 + exp(-x))"""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        power = _exp2(builder, builder.fmul(args[0], filled(FLOATS, -1.4426950408889634)))
        return builder.fmul(args[0], _reciprocal(builder, builder.fadd(power, filled(FLOATS, 1.0))))

    return lanes(lanes), code
