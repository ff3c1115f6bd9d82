"""Stages: kernels that a table of addresses strings together, so that a whole token is one call.

A stage is a kernel of (part, parts, at): it does its share of the work whose sizes and addresses are the
int64 numbers that lie at address `at`. Every thread runs all stages in order and meets the others after
each. A stage is compiled once, for all models.
"""

from __future__ import annotations

from typing import Any

from numba.core import cgutils, types
from numba.np.arrayobj import make_array, populate_array

from jrt_kernels.jit.compiler import Kernel, jit
from jrt_kernels.jit.lanes import intrinsic
from jrt_kernels.jit.together import meet

_KINDS = (types.int64, types.int64, types.int64)


def _array_of(dtype: Any) -> Any:
    """What makes the array of a dtype that lies at an address, of unknown length."""
    like = types.Array(dtype, 1, "C")

    @intrinsic
    def array(typing: Any, address: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = make_array(like)(context, builder)
            kind = context.get_data_type(dtype)
            step = context.get_constant(types.intp, context.get_abi_sizeof(kind))
            populate_array(
                value,
                data=builder.inttoptr(args[0], kind.as_pointer()),
                shape=cgutils.pack_array(builder, [context.get_constant(types.intp, 1 << 48)]),
                strides=cgutils.pack_array(builder, [step]),
                itemsize=step,
                meminfo=None,
            )
            return value._getvalue()

        return like(types.int64), code

    return array


words = _array_of(types.int64)
floats = _array_of(types.float32)
halves = _array_of(types.int16)
bytes_ = _array_of(types.int8)


@intrinsic
def _run(typing: Any, stage: Any, part: Any, parts: Any, at: Any) -> Any:
    """Calls the stage at an address."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.call_conv.get_function_type(types.none, _KINDS)
        function = builder.inttoptr(args[0], kind.as_pointer())
        context.call_conv.call_function(builder, function, types.none, _KINDS, args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, *_KINDS), code


@jit
def run_stages(part, parts, counter, count, stages, at):  # type: ignore[no-untyped-def]
    """stages (2 count,): the address of each stage, and how many bytes after `at` its numbers lie."""
    if parts == 0:
        return
    for i in range(count):
        _run(stages[2 * i], part, parts, at + stages[2 * i + 1])
        meet(parts, counter)


def address(stage: Kernel) -> int:
    """Where the compiled code of a stage lies; it stays there while the stage exists."""
    dispatcher = stage.compiled
    dispatcher.compile(_KINDS)
    code = dispatcher.overloads[_KINDS]
    found: int = code.library.get_pointer_to_function(code.fndesc.llvm_func_name)
    return found
