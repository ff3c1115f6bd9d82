"""PlannedLM: a model whose steps are one compiled call, where its weights and sizes are made for that.

Everything else goes layer by layer. R rows, D model dim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from jrtcli.models.base import RecurrentLM
from jrtcli.state import State

if TYPE_CHECKING:
    from jrt_kernels.jit.plan import TokenPlan


class PlannedLM(RecurrentLM):
    """A subclass gives `token_plan` and says in `plannable` which sizes it is made for."""

    most_rows: ClassVar[int] = 48
    """Of one call. With more, oneDNN's products of reordered weights are faster, layer by layer."""

    def __init__(self) -> None:
        super().__init__()
        self._made: tuple[TokenPlan | None, list[tuple[Tensor, int]]] | None = None

    def token_plan(self) -> TokenPlan:
        """What runs a token of a few rows in one call, compiled; only called where `plannable`."""
        raise NotImplementedError

    def plannable(self) -> bool:
        """Whether compiled code exists for weights and sizes like these: numba's, of whole vectors."""
        own = self.unembedding.dtype
        return (
            self.backend == "numba"
            and own in (torch.float32, torch.bfloat16)
            and self.device.type == "cpu"
            and self.width % 16 == 0
            and not any(p.requires_grad or p.is_inference() for p in self.parameters())
        )

    def given(self, state: State) -> dict[str, Tensor]:
        """What the stages want of a state beside its layers' tensors."""
        return {}

    def finish(self, layers: list[dict[str, Tensor]], state: State) -> None:
        """Put into the new layers what no stage makes."""

    @torch.no_grad()
    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        plan = self._plan() if len(token) <= self.most_rows else None
        if plan is None:
            return super().step(token, state)
        logits, layers = plan(self.embed(token), state.layers, **self.given(state))
        self.finish(layers, state)
        return logits, State(layers, state.length + 1)

    def _plan(self) -> TokenPlan | None:
        """The plan for these weights, made again when one of them changed; None where there can be none."""
        made = self._made
        if made is None or any(x._version != version for x, version in made[1]):
            possible = self.plannable()
            marks: list[tuple[Tensor, int]] = [(x, x._version) for x in self.parameters()] if possible else []
            made = (self.token_plan() if possible else None, marks)
            self._made = made
        return made[0]

    def quantize(self) -> None:
        super().quantize()
        self._made = None

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        self._made = None
        return super().requires_grad_(requires_grad)

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        self._made = None
        return super().load_state_dict(*args, **options)

    def _apply(self, *args: Any, **options: Any) -> Self:
        self._made = None  # the weights move
        return super()._apply(*args, **options)

    def __getstate__(self) -> dict[str, Any]:
        # Addresses mean nothing in a copy.
        return {**super().__getstate__(), "_made": None}
