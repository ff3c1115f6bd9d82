"""Recycled: memory that is used again once nobody holds the tensors in it.

A step makes new states, which may be hundreds of megabytes; memory that is fresh from the system costs more
time there than the states' arithmetic, for each of its pages is made when it is first touched.
"""

from __future__ import annotations

import threading
import weakref

import numpy as np
import torch
from torch import Tensor

from jrt_kernels.jit.tensors import Array

LINE = 16
"""fp32 values of a cache line: where tensors start."""


class Recycled:
    """Gives out memory, and keeps at most `spare` blocks that came back."""

    def __init__(self, spare: int = 1) -> None:
        self._free: list[Array] = []
        self._spare, self._lock = spare, threading.Lock()

    def take(self, count: int) -> Tensor:
        """(count,) fp32, not filled, that starts at a cache line."""
        with self._lock:
            # Half empty at most: a few rows do not hold what many needed.
            fits = [i for i, x in enumerate(self._free) if count <= len(x) <= 2 * count]
            block = self._free.pop(fits[0]) if fits else None
        if block is None:
            block = np.empty(count + LINE, np.float32)
            first = -(block.ctypes.data // 4) % LINE
            block = block[first : first + count]
        lent = block[:count]
        # The tensor, and all that are made of it, hold `lent`.
        back = weakref.finalize(lent, self._back, block)
        back.atexit = False
        return torch.from_numpy(lent)

    def _back(self, block: Array) -> None:
        with self._lock:
            self._free.append(block)
            del self._free[: -self._spare]
