"""Several threads inside one kernel: what lets a token be one call.

A kernel that runs a token through a whole model is started once in each thread as part p of P. Each part does
its share of a stage and meets the others before the next one: handing every stage to threads from outside
would cost more than the stage.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils, types
from numba.np.arrayobj import make_array

from jrt_kernels.jit.compiler import piece
from jrt_kernels.jit.lanes import intrinsic
from jrt_kernels.jit.team import team
from jrt_kernels.jit.tensors import Array, pool

SPINS = 4000
"""Looks at the others before the processor is given to another thread: some 100 us."""
_WORD = ir.IntType(64)
_posix = os.name == "posix"
_one_at_a_time = threading.Lock()


@intrinsic
def _arrive(typing: Any, counter: Any) -> Any:
    """Add one to counter[0] for all threads to see; what it was."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = make_array(counter)(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, _WORD(1), "seq_cst")

    return types.int64(counter), code


@intrinsic
def _seen(typing: Any, counter: Any) -> Any:
    """counter[0] as the other threads left it."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = make_array(counter)(context, builder, args[0]).data
        return builder.load_atomic(data, "acquire", 8)

    return types.int64(counter), code


@intrinsic
def _give_way(typing: Any) -> Any:
    """Let another thread have the processor."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _posix:
            kind = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), code


@piece
def meet(parts, counter):  # type: ignore[no-untyped-def]
    """Returns when all `parts` have come here; counter (1,) int64 starts at 0 and belongs to them."""
    if parts > 1:
        wanted = (_arrive(counter) // parts + 1) * parts
        spins = 0
        while _seen(counter) < wanted:
            spins += 1
            if spins > SPINS:
                _give_way()


@piece
def share(part, parts, count, unit):  # type: ignore[no-untyped-def]
    """(first, last) of `count` things, a multiple of `unit`, that are this part's."""
    units = count // unit
    return part * units // parts * unit, (part + 1) * units // parts * unit


def run_together(kernel: Callable[..., None], *args: Any) -> None:
    """kernel(part, parts, counter, *args) once in each of torch's threads at the same time.

    A kernel that is called with parts = 0 does nothing.
    """
    counter: Array = np.zeros(1, np.int64)
    parts = torch.get_num_threads()
    if parts == 1:
        kernel(0, 1, counter, *args)
        return
    kernel(0, 0, counter, *args)  # compiled here, where that is announced
    if (ours := team()) is not None:
        ours.run(parts, lambda part, count: kernel(part, count, counter, *args))
        return
    # Two such calls at once could each hold threads that the other one waits for.
    with _one_at_a_time:
        others = [pool().submit(kernel, part, parts, counter, *args) for part in range(1, parts)]
        kernel(0, parts, counter, *args)
        for other in others:
            other.result()
