"""Plan: of which stages one token of a model is made; a model writes its layers down in it once.

Activations are fp32 whatever the weights are. R rows, D model dim, I and O inputs and outputs of a product, L
layers, V rows of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from jrt_kernels.jit.compiler import Kernel
from jrt_kernels.jit.program import After, Before, Given, Kept, Number, Own, Program, Room, Rows
from jrt_kernels.jit.stages.convolution import convolve
from jrt_kernels.jit.stages.gate import gate
from jrt_kernels.jit.stages.norm import gated_norm, norm
from jrt_kernels.jit.stages.product import product_bf16, product_fp32, product_int8

Matrix = tuple[Tensor, Tensor | None]
"""weight (O, I) fp32, bf16 or int8, and scale (O,) fp32 that its rows are multiplied by, None for 1."""

# The stage; rows from which tiles beat vectors of fp32, None for never: fp32 weights would have to be taken
# apart first, which costs what is won; what tiles divide I by.
PRODUCTS: dict[torch.dtype, tuple[Kernel, int | None, int]] = {
    torch.float32: (product_fp32, None, 32),
    torch.bfloat16: (product_bf16, 5, 32),
    torch.int8: (product_int8, 2, 64),
}
VECTOR = 16
"""What the number of inputs of a product, and of channels, is to be a multiple of."""


class Plan:
    """The stages so far. Weights stay where they are; small ones are kept as fp32."""

    def __init__(self, width: int, eps: float) -> None:
        self.width, self.eps = width, eps
        self._tensors: list[Tensor] = []
        self._stages: list[tuple[Kernel, Sequence[Number]]] = []
        self._room = 0
        self._joining: Room | int = 0

    def room(self, width: int) -> Room:
        """A new activation."""
        self._room += width
        return Room(self._room - width, width)

    def weight(self, x: Tensor) -> int:
        """The address of a small parameter, as fp32."""
        self._tensors.append(x.detach().float().contiguous())
        return self._tensors[-1].data_ptr()

    def constants(self, *values: float) -> int:
        """The address of numbers."""
        return self.weight(torch.tensor(values, dtype=torch.float32))

    def add(self, stage: Kernel, *numbers: Number) -> None:
        """A stage of R rows."""
        self._stages.append((stage, (Rows(), *numbers)))

    def product(self, x: Room, matrix: Matrix, bias: Tensor | None = None) -> Room:
        """x (R, I) times the weight's transpose, plus bias -> (R, O)."""
        out = self.room(len(matrix[0]))
        self._multiply(x, matrix, bias, out)
        return out

    def _multiply(self, x: Room, matrix: Matrix, bias: Tensor | None, out: Room | Given) -> None:
        weight, scale = matrix
        outputs, size = weight.shape
        assert x.width == size and size % VECTOR == 0 and not x.column and weight.is_contiguous()
        self._tensors.append(weight.detach())
        stage, least, step = PRODUCTS[weight.dtype]
        self.add(
            stage, outputs, size, x, weight.data_ptr(), 0 if scale is None else self.weight(scale),
            0 if bias is None else self.weight(bias), out, Own(size, None if size % step else least),
        )  # fmt: skip

    def norm(self, weight: Tensor) -> Room:
        """The residual stream, with what was to `join` it, normed -> (R, D)."""
        out = self.room(self.width)
        numbers = self._joining, out, self.weight(weight), self.constants(self.eps)
        self.add(norm, self.width, Given("stream"), *numbers)
        self._joining = 0
        return out

    def join(self, y: Room) -> None:
        """y (R, D) is to join the residual stream."""
        assert y.width == self.width and self._joining == 0
        self._joining = y

    def gated_norm(self, x: Room, weight: Tensor, group: int, z: Room | None, *, norm_first: bool) -> Room:
        """Each `group` of x's channels normed, times the weight and, before or after, silu(z)."""
        out = self.room(x.width)
        self.add(
            gated_norm, x.width, group, weight.numel(), 0 if z is None else 2 if norm_first else 1,
            0 if z is None else z.width, x, 0 if z is None else z, out, self.weight(weight),
            self.constants(self.eps),
        )  # fmt: skip
        return out

    def convolve(
        self, x: Room, filters: Tensor, bias: Tensor | None, kept: Kept, gate: Room | int = 0
    ) -> Room:
        """silu of the short convolution (C, W) of x from its column on, times the gate, part of the same
        room.
        """
        channels, taps = filters.shape
        out = self.room(channels)
        self.add(
            convolve, channels, taps, x.width, x, gate, self.weight(filters.t()),
            self.weight(torch.zeros(channels) if bias is None else bias), Before(kept), After(kept), out,
        )  # fmt: skip
        return out

    def gated(self, y: Room, z: Room, width: int) -> Room:
        """y silu(z), each from its column on -> (R, width)."""
        assert y.width == z.width
        out = self.room(width)
        self.add(gate, width, y.width, y, z, out)
        return out

    def finished(self, norm: Tensor, head: Matrix) -> TokenPlan:
        """With the last norm and the head's matrix (V, D)."""
        self._multiply(self.norm(norm), head, None, Given("logits"))
        return TokenPlan(Program(self._stages, self._room, len(head[0])), self._tensors)


class TokenPlan:
    """A token of a model in one call."""

    def __init__(self, program: Program, tensors: Sequence[Tensor]) -> None:
        self._program, self._tensors = program, tensors  # whose addresses the program has

    def __call__(
        self, x: Tensor, layers: Sequence[Mapping[str, Tensor]], **given: Tensor
    ) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """x (R, D), the tokens' embeddings, the layers' states, what else the stages want -> logits (R, V),
        states.

        Results are fp32, and nothing that was given is changed.
        """
        stream = x.detach().float().clone()
        return self._program(layers, {**given, "stream": stream}, len(x))
