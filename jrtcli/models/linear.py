"""Linear: a matrix product that is fast on a CPU when its weights are frozen.

PyTorch hands fp32 products to MKL, which other processors than Intel's run below their speed. oneDNN with
weights reordered once is up to 2.4 times as fast there (AMD Zen 5; a tenth faster on Zen 4); on Intel's MKL
is a little faster for many tokens, and needs no second copy. One row alone is bound by reading the weights,
and needs no reordered copy: numba's product of one row reads them at the memory's speed; without
numba oneDNN (large weights) or a matrix-vector product (small ones) is two to three times as fast as MKL's
general product. Weights may also be int8 with a scale for each row: a quarter of fp32 to read.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACK_ROWS = 4  # a token each, for many steps: on a Xeon 4 rows take 0.8 ms for 1.4, 16 rows 1.2 for 2.0
PACK_TOKENS = 128  # in a shorter text reordering costs more than it gains
FEW_ROWS = 32  # of int8: up to them numba's product that reads the weights once; above them widening pays
NARROW, PIECE = 1024, 256
"""Outputs of a bf16 weight and rows beyond which oneDNN 3.12 gives one of several threads all the work."""
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


@cache
def packable() -> tuple[torch.dtype, ...]:
    """The dtypes whose products oneDNN does with reordered weights; none where this PyTorch lacks the
    operators (they are private). bf16 needs a processor that has instructions for it.
    """
    operators = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return ()
    if not hasattr(operators, "_reorder_linear_weight") or not hasattr(operators, "_linear_pointwise"):
        return ()
    return (torch.float32, torch.bfloat16) if multiplies_bf16() else (torch.float32,)


def multiplies_bf16() -> bool:
    """Whether this processor has products of bf16 (AVX-512 or AMX), which are then faster than fp32's."""
    asks = (
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return any(ask is not None and ask() for ask in asks)


@cache
def mkl_suffices() -> bool:
    """Whether fp32 products of many tokens are MKL's, on an Intel processor."""
    if not torch.backends.mkl.is_available():
        return False
    info = Path("/proc/cpuinfo")
    vendor = info.read_text(errors="replace")[:1000] if info.is_file() else platform.processor()
    return "GenuineIntel" in vendor or (sys.platform == "darwin" and platform.machine() == "x86_64")


def _worth_packing(x: Tensor, rows: int) -> bool:
    """Whether x (..., T, I) or (R, I) of so many rows is worth a reordered weight."""
    if x.dim() == 2 or x.shape[-2] == 1:
        return rows >= PACK_ROWS
    return rows >= PACK_TOKENS and not (x.dtype == torch.float32 and mkl_suffices())


def pack(weight: Tensor) -> Tensor:
    """weight (O, I) fp32 or bf16 on a CPU -> the same in oneDNN's own layout, for products of many rows."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 512)
    return packed


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (O, I) -> int8 (O, I) and scale (O,) fp32 for its rows, by their largest values."""
    scale = weight.detach().abs().amax(1).float().div_(127)
    scale = scale.where(scale > 0, 1.0)  # a row of zeros
    values = torch.empty(weight.shape, dtype=torch.int8)
    for rows, out, by in zip(weight.detach().split(1024), values.split(1024), scale.split(1024), strict=True):
        out.copy_((rows.float() / by[:, None]).round_())
    return values, scale


def int8_linear(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, *, compiled: bool = False
) -> Tensor:
    """As F.linear with weight (O, I) int8 times scale (O,); few rows are summed in fp32, more in x's dtype.

    Many rows are multiplied by the weight widened to x's dtype, which is then thrown away.
    """
    if compiled:
        from jrt_kernels.jit.product import few_rows, matvec, serves, widen

        if serves(x, weight):
            rows = x.reshape(-1, x.shape[-1])
            if len(rows) == 1:
                return matvec(x, weight, bias, scale)
            if len(rows) <= FEW_ROWS:
                return few_rows(rows, weight, bias, scale).view(*x.shape[:-1], -1)
            return F.linear(x, widen(weight, scale, x.dtype), bias)
    return F.linear(x, (weight * scale[:, None]).to(x.dtype), bias)


def fast_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    packed: Derived | None,
    *,
    compiled: bool = False,
    scale: Tensor | None = None,
) -> Tensor:
    """x (..., I), weight (O, I), bias (O,) -> (..., O), as F.linear; `packed` keeps the reordered weight.

    compiled: one row is numba's. scale (O,): of an int8 weight.
    """
    if scale is not None:
        return int8_linear(x, weight, scale, bias, compiled=compiled)
    frozen = not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    if compiled and frozen and x.numel() == x.shape[-1]:
        from jrt_kernels.jit.product import matvec, serves

        if serves(x, weight):
            return matvec(x, weight, bias)
    if not frozen or x.dtype != weight.dtype or x.dtype not in packable() or not x.numel():
        return F.linear(x, weight, bias)
    if not x.device.type == weight.device.type == "cpu":
        return F.linear(x, weight, bias)
    rows = x.numel() // x.shape[-1]
    flat = x.reshape(rows, -1)
    if rows == 1 and x.dtype != torch.float32:
        return F.linear(x, weight, bias)
    if rows == 1 and (weight.numel() < LARGE or torch.float32 not in packable()):
        y = torch.mv(weight, flat[0]) if bias is None else torch.addmv(bias, weight, flat[0])
    elif rows == 1:
        y = torch.ops.mkldnn._linear_pointwise(flat, weight, bias, "none", [], "")
    elif packed is not None and _worth_packing(x, rows) and not weight.requires_grad:
        y = _packed_product(flat, packed(weight), bias)
    else:
        return F.linear(x, weight, bias)
    return y.view(*x.shape[:-1], -1)


def _packed_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (R, I), weight in oneDNN's layout -> (R, O)."""
    product = torch.ops.mkldnn._linear_pointwise
    narrow = x.dtype == torch.bfloat16 and weight.shape[0] <= NARROW and torch.get_num_threads() > 1
    if not narrow or len(x) <= PIECE:
        y: Tensor = product(x, weight, bias, "none", [], "")
        return y
    return torch.cat([product(part, weight, bias, "none", [], "") for part in x.split(PIECE)])


class Linear(nn.Linear):
    """nn.Linear, with the fast ways of a CPU where no gradient is wanted."""

    compiled = False
    """Whether the model runs in the numba backend, which has a product of one row."""
    scale: Tensor | None
    """(O,) fp32 where the weight is int8."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self._packed = Derived(pack)
        self.register_buffer("scale", None)

    def quantize(self) -> None:
        """Keep the weight as int8; it can be run then, on a CPU, and no longer be trained."""
        values, self.scale = quantize(self.weight)
        self.weight = nn.Parameter(values, requires_grad=False)

    @property
    def matrix(self) -> tuple[Tensor, Tensor | None]:
        """The weight and its scale, None where it is not int8."""
        return self.weight, self.scale

    def forward(self, input: Tensor) -> Tensor:
        return fast_linear(
            input, self.weight, self.bias, self._packed, compiled=self.compiled, scale=self.scale
        )
