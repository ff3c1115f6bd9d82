"""Triton's kernels run in its interpreter where there is no GPU.

Triton decides that when it meets a kernel's decorator, so the variable must be set before a test imports one.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def _give_the_interpreter_bf16() -> None:
    """The interpreter (Triton 3.9) keeps bf16 as its bits: its `dot` multiplies the bits as integers, and
    from fp32 it cuts them off, where a GPU rounds to nearest and then to even."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    original = InterpreterBuilder.create_dot

    def wide(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        return TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return original(self, wide(a), wide(b), *rest)

    cast = InterpreterBuilder.cast_impl

    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        if src.dtype.scalar != tl.float32 or dst_type.scalar != tl.bfloat16:
            return cast(self, src, dst_type)
        bits = np.ascontiguousarray(src.data).view(np.uint32)
        bits = np.where(
            np.isfinite(src.data), bits + 0x7FFF + ((bits >> 16) & 1), bits | (src.data != src.data) << 16
        )
        return TensorHandle((bits >> 16).astype(np.uint16), tl.bfloat16)

    InterpreterBuilder.create_dot = create_dot
    InterpreterBuilder.cast_impl = cast_impl


if os.environ.get("TRITON_INTERPRET") == "1":
    _give_the_interpreter_bf16()
