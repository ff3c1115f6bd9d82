"""From tensors to what a kernel takes: one-dimensional arrays, bounds of sequences, work for several threads.

A kernel sees R = B T rows, one for each token, and N sequences of them: B of T tokens, or those of a pack.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jrt_kernels.jit.team import team
from jrt_kernels.packed import bounds
from jrt_kernels.registry import Unsupported

Array = Any  # np.ndarray, whose dtype and shape mypy does not know here either


def check(name: str, *tensors: Tensor | None) -> None:
    """Raises Unsupported where one of `name`'s tensors is not what compiled fp32 code on a CPU can take."""
    given = [x for x in tensors if x is not None]
    if any(x.dtype == torch.float64 for x in given):
        raise Unsupported(f"{name}: numba computes in fp32; take the backend torch for fp64")
    if any(x.device.type != "cpu" for x in given):
        raise Unsupported(
            f"{name}: numba's kernels run on a CPU; take the backend torch on {given[0].device}"
        )
    if torch.is_grad_enabled() and any(x.requires_grad for x in given):
        raise Unsupported(f"{name}: numba's kernels have no gradient; take the backend torch to train")


def flat(x: Tensor) -> Array:
    """Contiguous x as an array of one dimension: fp32, or bf16's bits as int16."""
    x = x.detach().reshape(-1)
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()


def whole(x: Tensor | None, size: int = 0) -> Array:
    """A parameter or a state as fp32; zeros (size,) for None."""
    if x is None:
        return np.zeros(size, np.float32)
    return flat(x.float().contiguous())


def alike(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors as they are where all are bf16, else in fp32: a kernel is compiled for these two alone."""
    if all(x.dtype == torch.bfloat16 for x in tensors):
        return tensors
    return tuple(x.float() for x in tensors)


def rows(x: Tensor) -> tuple[Array, int]:
    """x (B, T, ...) fp32 or bf16 -> an array from the first value on, the distance of two tokens in it.

    Without a copy where each token's values lie together and tokens at equal distances, as in a slice of a
    wider projection. Other dtypes become fp32.
    """
    if x.dtype not in (torch.float32, torch.bfloat16):
        x = x.float()
    batch, tokens = x.shape[:2]
    inner = x[0, 0] if x.numel() else x
    even = batch == 1 or tokens == 1 or x.stride(0) == tokens * x.stride(1)
    if not x.numel() or not inner.is_contiguous() or not even:
        x = x.contiguous()
        return flat(x), x[0, 0].numel() if x.numel() else 0
    step = x.stride(1) if tokens > 1 else x.stride(0) if batch > 1 else inner.numel()
    size = (batch * tokens - 1) * step + inner.numel()
    return flat(x.detach().as_strided((size,), (1,))), step


def sequences(batch: int, tokens: int, cu_seqlens: Tensor | None) -> Array:
    """(N + 1,) int64: the bounds of each sequence among the rows. Raises ValueError as `packed.bounds`."""
    if cu_seqlens is None:
        return np.arange(batch + 1, dtype=np.int64) * tokens
    return np.array(bounds(cu_seqlens, tokens), np.int64)


@lru_cache(maxsize=2)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="jrt-kernel")


def pool() -> ThreadPoolExecutor:
    """One thread less than torch has: the caller's is the first."""
    # A pool does not survive a fork: the process is part of its name.
    return _pool(os.getpid(), torch.get_num_threads() - 1)


def run(kernel: Callable[..., None], units: int, *args: Any, parallel: bool = True) -> None:
    """kernel(first, last, *args) over `units` independent units of work, shared among torch's threads."""
    threads = min(torch.get_num_threads(), units) if parallel else 1
    if threads <= 1:
        kernel(0, units, *args)
        return
    kernel(0, 0, *args)  # compiled here, where that is announced, and not by several threads at once
    marks = [units * i // threads for i in range(threads + 1)]
    if (ours := team()) is not None:

        def part(number: int, count: int) -> None:
            for i in range(number, threads, count):
                kernel(marks[i], marks[i + 1], *args)

        ours.run(threads, part)
        return
    others = [pool().submit(kernel, marks[i], marks[i + 1], *args) for i in range(1, threads)]
    kernel(marks[0], marks[1], *args)
    for other in others:
        other.result()
