"""State: everything a model remembers of what it has read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class State:
    """The memory of every layer, for a batch of rows.

    layers: one dict per layer, each tensor with the rows in its first dimension; floating ones are fp32
    unless asked otherwise. length (B,) int64: tokens each row has read.
    """

    layers: list[dict[str, Tensor]]
    length: Tensor

    def __len__(self) -> int:
        """Rows in the batch."""
        return self.length.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all layers' tensors (the lengths not counted)."""
        return sum(x.numel() * x.element_size() for layer in self.layers for x in layer.values())

    def clone(self) -> State:
        """A copy that shares no memory."""
        return State(
            [{name: x.clone() for name, x in layer.items()} for layer in self.layers], self.length.clone()
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
        """On another device; floating tensors in another dtype."""

        def move(x: Tensor) -> Tensor:
            return x.to(device=device, dtype=dtype if x.is_floating_point() else None)

        return State(
            [{n: move(x) for n, x in layer.items()} for layer in self.layers], self.length.to(device)
        )

    def repeat(self, n: int) -> State:
        """Each row n times in a row: branches that go on from the same reading."""
        return self.select(torch.arange(len(self)).repeat_interleave(n))

    def select(self, rows: Tensor | Sequence[int]) -> State:
        """The given rows, in that order, as a copy."""
        index = torch.as_tensor(rows, dtype=torch.int64, device=self.length.device)
        return State([{n: x[index] for n, x in layer.items()} for layer in self.layers], self.length[index])

    @staticmethod
    def concat(states: Sequence[State]) -> State:
        """The rows of all states as one. Key-value caches of different lengths get zeros in front of the
        shorter.
        """
        layers = [
            {name: _cat_rows([layer[name] for layer in parts]) for name in parts[0]}
            for parts in zip(*(state.layers for state in states), strict=True)
        ]
        return State(layers, torch.cat([state.length for state in states]))


def _cat_rows(rows: list[Tensor]) -> Tensor:
    """Tensors (B_i, ...) as one; where dimension 1 differs (a growing cache) the shorter are
    right-aligned.
    """
    if rows[0].dim() > 1:
        longest = max(x.shape[1] for x in rows)
        rows = [
            x
            if x.shape[1] == longest
            else torch.cat([x.new_zeros(x.shape[0], longest - x.shape[1], *x.shape[2:]), x], 1)
            for x in rows
        ]
    return torch.cat(rows)
