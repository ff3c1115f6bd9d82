"""How far a program's logits are from those of the same weights in fp64: what makes its time worth a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from jrtcli.bench.problems import need_memory
from jrtcli.bench.programs import Ours, Program
from jrtcli.checkpoint import Loaded
from jrtcli.models import architecture
from jrtcli.models.base import RecurrentLM
from jrtcli.weights import read_weights

CHECKED_TOKENS, CHECKED_STEPS = 64, 4
WORDS = f"torch fp64, {CHECKED_TOKENS} tokens and {CHECKED_STEPS} steps"
FP32_TOLERANCE, OTHER_TOLERANCE, COARSE_TOLERANCE = 2e-3, 0.45, 0.6
"""Of logits; the last where weights have fewer than eight bits (Q4_K_M of random weights: 0.3, another model:
1.4). Layers of random weights grow every rounding, trained ones less: 24 of GLA come to 0.36 in bf16, 6 to
0.04, of which rounding the weights alone is 0.03."""


def exact_logits(ours: Ours, ids: Tensor, device: str) -> list[Tensor] | None:
    """`logits` of the same checkpoint in fp64, in the `torch` backend; None where memory is too short."""
    try:
        # The weights in fp64, and as much again while they are read.
        need_memory(16.0 * ours.parameters, device)
        model = _exact(ours.loaded)
        return logits(model.prefill, model.step, ids)
    except (MemoryError, torch.OutOfMemoryError):
        return None


def logits(
    read: Callable[[Tensor], tuple[Tensor, Any]],
    step: Callable[[Tensor, Any], tuple[Tensor, Any]],
    ids: Tensor,
) -> list[Tensor]:
    """Those (V,) after reading CHECKED_TOKENS of ids (1, T), and after each step with the others."""
    said, state = read(ids[:, :CHECKED_TOKENS])
    found = [said[0].double()]
    for at in range(CHECKED_TOKENS, ids.shape[1]):
        said, state = step(ids[:, at], state)
        found.append(said[0].double())
    return found


def error(program: Program, wanted: Sequence[Tensor], ids: Tensor) -> float:
    """The largest relative RMS error of a program's logits; nan where one is nan."""
    found = logits(program.read, program.step, ids)
    errors = []
    for got, want in zip(found, wanted, strict=True):
        rows = min(len(got), len(want))  # a file may have left out padding rows of the vocabulary
        got, want = got[:rows].to(want.device), want[:rows]
        errors.append(float((got - want).norm() / want.norm()))
    return next((e for e in errors if e != e), max(errors))


def _exact(loaded: Loaded) -> RecurrentLM:
    model = architecture(loaded.identity.architecture).from_checkpoint(
        loaded.config, read_weights(loaded.folder), backend="torch", dtype=torch.float64, device=loaded.device
    )
    return model.eval().requires_grad_(False)
