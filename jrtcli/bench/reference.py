"""The exact result of an operator, in fp64 on the tensors that are timed, and how far one may be from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jrt_kernels.registry import resolve
from jrtcli.bench.operators import Operator, Tensors, wide

NAIVE_TOKENS = 1024
"""Up to so many tokens of the checked rows the reference is `naive`, above them `torch`; both in fp64."""

FP32_TOLERANCE = 1e-5
PEER_TOLERANCE, HALF_PEER_TOLERANCE = 2e-3, 3e-2
"""Of others' kernels, which may multiply fp32 in tf32 and keep bf16 between their steps."""
ROUNDINGS = 1.5
"""A half-precision result may be so many times as far off as rounding the exact one to its dtype."""


class Reference:
    """The exact result of the first and last row of some inputs, computed when it is first asked for."""

    def __init__(self, operator: Operator, tensors: Tensors, shared: Tensors) -> None:
        self.operator, self.tensors, self.shared = operator, tensors, shared
        batch, length = next(iter(tensors.values())).shape[:2]
        self.rows = [0] if batch == 1 else [0, batch - 1]
        self.backend = "naive" if len(self.rows) * length <= NAIVE_TOKENS else "torch"
        self._result: tuple[Tensor, tuple[Tensor, ...]] | None = None

    def error(
        self, output: Tensor, states: tuple[Tensor, ...], dtype: torch.dtype, *, ours: bool
    ) -> tuple[float, float, str]:
        """The largest relative RMS error of output and states, what is allowed, and against what."""
        if self._result is None:
            function = resolve(self.operator.op, self.backend)
            o, state = function(**wide(self.tensors, self.rows), **wide(self.shared))
            self._result = o, parts(state)
        wanted = [self._result[0], *(self._result[1] if states else ())]
        errors = [relative(x[self.rows], want) for x, want in zip([output, *states], wanted, strict=True)]
        if not ours:
            allowed = PEER_TOLERANCE if dtype == torch.float32 else HALF_PEER_TOLERANCE
        elif dtype == torch.float32:
            allowed = FP32_TOLERANCE
        else:
            allowed = ROUNDINGS * max(relative(want.to(dtype), want) for want in wanted)
        rows = "" if len(self.rows) == 1 else ", first and last row"
        # nan before all: max() would pass over it.
        worst = next((e for e in errors if e != e), max(errors))
        return worst, allowed, f"{self.backend} fp64{rows}"


def parts(state: Any) -> tuple[Tensor, ...]:
    """The tensors of an operator's state."""
    return state if isinstance(state, tuple) else (state,)


def relative(got: Tensor, want: Tensor) -> float:
    """Relative RMS error; want is fp64."""
    return float((got.double() - want).norm() / want.norm())
