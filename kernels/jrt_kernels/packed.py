"""Packed sequences: run a dense operator on each sequence of a pack."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# A state is one tensor or a tuple of tensors, each with the sequences in its first dimension.
OpState = Tensor | tuple[Tensor, ...]


def bounds(cu_seqlens: Tensor, tokens: int) -> list[int]:
    """The boundaries of a pack as a list. Raises ValueError where they do not cover `tokens`."""
    marks: list[int] = cu_seqlens.tolist()
    if len(marks) < 2 or marks[0] != 0 or marks[-1] != tokens:
        raise ValueError(
            f"cu_seqlens must go from 0 to {tokens} (the packed tokens), got {marks[:1]}..{marks[-1:]}"
        )
    if any(later < earlier for earlier, later in itertools.pairwise(marks)):
        raise ValueError("cu_seqlens must not decrease")
    return marks


def take(state: OpState | None, row: int) -> Any:
    """The state of one sequence, batch dimension kept."""
    if state is None:
        return None
    if isinstance(state, tuple):
        return tuple(part[row : row + 1] for part in state)
    return state[row : row + 1]


def join(states: Sequence[OpState]) -> Any:
    """States of single sequences as one state of all."""
    if isinstance(states[0], tuple):
        return tuple(torch.cat(parts) for parts in zip(*states, strict=True))
    return torch.cat(list(states))  # type: ignore[arg-type]


def by_sequence(
    run: Callable[..., tuple[Tensor, Any]],
    tensors: Sequence[Tensor | None],
    cu_seqlens: Tensor,
    initial_state: OpState | None,
    *,
    join_states: Callable[[Sequence[Any]], Any] = join,
) -> tuple[Tensor, Any]:
    """Calls `run(*pieces, initial_state=...)` for each sequence of a pack.

    tensors: each (1, T, ...) or None; cu_seqlens: (N + 1,) from 0 to T; initial_state: (N, ...) tensors or
    None. `run` must accept pieces of no tokens (its state passes through). Returns the outputs joined along
    T, and the states joined along N.
    """
    total = next(t for t in tensors if t is not None).shape[1]
    marks = bounds(cu_seqlens, total)
    outputs: list[Tensor] = []
    states: list[Any] = []
    for row, (start, stop) in enumerate(itertools.pairwise(marks)):
        pieces = [None if t is None else t[:, start:stop] for t in tensors]
        output, state = run(*pieces, initial_state=take(initial_state, row))
        outputs.append(output)
        states.append(state)
    return torch.cat(outputs, dim=1), join_states(states)


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """The dtype recurrences run in: fp64 if any input is fp64, fp32 otherwise."""
    return (
        torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32
    )
