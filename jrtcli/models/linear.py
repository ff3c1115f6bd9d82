"""Linear: a matrix product that is fast on a CPU when its weights are frozen.

PyTorch hands fp32 products to MKL, which some CPUs run below their speed. oneDNN with weights reordered
once is up to 2.4 times as fast (AMD Zen 5; a tenth faster on Zen 4). One row alone is bound by reading the
weights, and needs no reordered copy: oneDNN (large weights) or a matrix-vector product (small ones) reads
them two to three times as fast as MKL's general product.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACK_ROWS = 4  # a Xeon with AVX-512: 4 rows 0.8 ms for 1.4, 16 rows 1.2 for 2.0; 2 rows gain nothing
LARGE = 1 << 20  # weights of one row's product from which oneDNN beats a matrix-vector product


class Derived:
    """A tensor computed from a frozen parameter, kept until the parameter changes or moves."""

    def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
        self.make = make
        self.source: Tensor | None = None
        self.version = -1
        self.value: Tensor | None = None

    def __call__(self, parameter: Tensor) -> Tensor:
        if parameter.requires_grad or parameter.is_inference():
            return self.make(parameter)  # about to change, or without a version that would tell
        source = self.source
        if (
            source is None
            or self.value is None
            or self.version != parameter._version
            or source.data_ptr() != parameter.data_ptr()
            or source.dtype != parameter.dtype
            or source.device != parameter.device
        ):
            # Holding the source keeps its address from being given to another tensor.
            self.source, self.version = parameter.detach(), parameter._version
            self.value = self.make(parameter.detach())
        assert self.value is not None
        return self.value

    def __deepcopy__(self, memo: object) -> Derived:
        return Derived(self.make)

    def __getstate__(self) -> dict[str, object]:
        return {"make": self.make, "source": None, "version": -1, "value": None}


def onednn_available() -> bool:
    """Whether this PyTorch has oneDNN and the operators used here (they are private)."""
    operators = torch.ops.mkldnn
    return (
        torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and hasattr(operators, "_reorder_linear_weight")
        and hasattr(operators, "_linear_pointwise")
    )


def pack(weight: Tensor) -> Tensor:
    """weight (O, I) fp32 on a CPU -> the same in oneDNN's own layout, for products of many rows."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 512)
    return packed


def fast_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, packed: Derived | None, *, compiled: bool = False
) -> Tensor:
    """x (..., I), weight (O, I), bias (O,) -> (..., O), as F.linear; `packed` keeps the reordered weight.

    compiled: one row of bf16 is numba's.
    """
    frozen = not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    if compiled and frozen and x.dtype == torch.bfloat16 and x.numel() == x.shape[-1]:
        from jrt_kernels.jit.product import matvec, serves

        if serves(x, weight):
            return matvec(x, weight, bias)
    plain = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    if not frozen or not plain or not x.numel():
        return F.linear(x, weight, bias)
    rows = x.numel() // x.shape[-1]
    flat = x.reshape(rows, -1)
    if rows == 1 and (weight.numel() < LARGE or not onednn_available()):
        y = torch.mv(weight, flat[0]) if bias is None else torch.addmv(bias, weight, flat[0])
    elif rows == 1:
        y = torch.ops.mkldnn._linear_pointwise(flat, weight, bias, "none", [], "")
    elif packed is not None and rows >= PACK_ROWS and not weight.requires_grad and onednn_available():
        y = torch.ops.mkldnn._linear_pointwise(flat, packed(weight), bias, "none", [], "")
    else:
        return F.linear(x, weight, bias)
    return y.view(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """nn.Linear, with the fast ways of a CPU where no gradient is wanted."""

    compiled = False
    """Whether the model runs in the numba backend, which has a product of one row of bf16."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self._packed = Derived(pack)

    def forward(self, input: Tensor) -> Tensor:
        return fast_linear(input, self.weight, self.bias, self._packed, compiled=self.compiled)
