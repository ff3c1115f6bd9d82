"""Matrix products whose left operand was computed in fp32 and whose right one is as it was given.

In half precision the tensor cores multiply 8 or 11 bits. Rounding what a kernel has computed to so few would
be a second error as large as that of the output; a bf16 operand is therefore split into a high and a low
part, two products, which leaves 2^-17.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def dot(a, b):
    """a (M, K) fp32, b (K, N) in any dtype -> (M, N) fp32."""
    if b.dtype == tl.bfloat16:
        high = a.to(tl.bfloat16)
        low = (a - high.to(tl.float32)).to(tl.bfloat16)
        return tl.dot(high, b) + tl.dot(low, b)
    elif b.dtype == tl.float32:
        return tl.dot(a, b, input_precision="ieee")
    else:
        return tl.dot(a, b.to(tl.float32), input_precision="tf32x3")


@triton.jit
def dot_of_given(a, b):
    """a (M, K), b (K, N), both as given -> (M, N) fp32; products of half precision are exact."""
    if a.dtype == tl.float32 or b.dtype == tl.float32:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        return tl.dot(a, b)


@triton.jit
def dot_state(a, b):
    """a (M, K) in any dtype, b (K, N) fp32, computed -> (M, N) fp32."""
    if a.dtype == tl.bfloat16:
        high = b.to(tl.bfloat16)
        low = (b - high.to(tl.float32)).to(tl.bfloat16)
        return tl.dot(a, high) + tl.dot(a, low)
    elif a.dtype == tl.float32:
        return tl.dot(a, b, input_precision="ieee")
    else:
        return tl.dot(a.to(tl.float32), b, input_precision="tf32x3")
