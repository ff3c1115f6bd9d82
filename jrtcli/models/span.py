"""Span: what a layer is told of the tokens that it is given, and the state that it goes on from.

Symbols: B rows, T tokens, N sequences (rows, or members of a pack), D model dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

LayerState = dict[str, Tensor]


@dataclass(frozen=True)
class Span:
    """What a layer must know of the tokens it is given.

    start (N,): tokens each sequence has read before these; tokens: T of the (B, T, D) input; cu_seqlens (N +
    1,): bounds of a pack (B = 1), None for rows of equal length; encoder_lengths (N,): how many of these
    tokens, from the first, the encoder of JRT-RNN covers, None for none; pad_mask (B, T): 0 where a token is
    published left padding.
    """

    start: Tensor
    tokens: int
    cu_seqlens: Tensor | None = None
    encoder_lengths: Tensor | None = None
    pad_mask: Tensor | None = None

    @cached_property
    def positions(self) -> Tensor:
        """Absolute position of each token, (B, T)."""
        steps = torch.arange(self.tokens, device=self.start.device)
        if self.cu_seqlens is None:
            return self.start[:, None] + steps
        lengths = self.cu_seqlens.diff()
        return (steps + (self.start - self.cu_seqlens[:-1]).repeat_interleave(lengths))[None]

    @cached_property
    def _turns(self) -> dict[tuple[int, float], tuple[Tensor, Tensor]]:
        return {}

    def turns(self, dims: int, base: float) -> tuple[Tensor, Tensor]:
        """Cosine and sine (B, T, half) fp32 of rotary positions, computed once for all layers."""
        if (dims, base) not in self._turns:
            self._turns[dims, base] = turns(self.positions, dims, base)
        return self._turns[dims, base]


def turns(
    positions: Tensor, dims: int, base: float, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Cosine and sine (..., half) of how far the first dims of a head are turned at positions (...).

    Frequencies base^(-2i / dims) for i < half = ceil(dims / 2): an odd `dims` turns dims + 1 dimensions, as
    flash-attn does.
    """
    frequencies = base ** (-torch.arange(0, dims, 2, device=positions.device, dtype=dtype) / dims)
    angles = positions[..., None].to(dtype) * frequencies
    return angles.cos(), angles.sin()
