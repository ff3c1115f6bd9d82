"""Optimisers: Muon for the matrices of hidden layers, AdamW for everything else.

Muon: https://kellerjordan.github.io/posts/muon/, here torch's own (Newton-Schulz, 5 steps, the update
scaled by sqrt(max(1, rows / columns))).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from jrtcli.train.config import OptimizerRecipe
from jrtcli.train.processes import like

NOT_HIDDEN = ("embed", "lm_head", "tag_head", "norm", "conv.")
"""Parts of names whose parameters AdamW takes whatever their shape."""


def split_parameters(named: Iterable[tuple[str, nn.Parameter]]) -> tuple[list[Tensor], list[Tensor]]:
    """(hidden matrices, the rest), each shared parameter once."""
    hidden: list[Tensor] = []
    rest: list[Tensor] = []
    seen: set[int] = set()
    for name, parameter in named:
        if id(parameter) in seen or not parameter.requires_grad:
            continue
        seen.add(id(parameter))
        # Taps of depthwise convolutions may be stored (D, W): a side this short is no hidden dimension.
        is_matrix = parameter.ndim == 2 and min(parameter.shape) >= 8
        table = any(part in name for part in NOT_HIDDEN)
        (hidden if is_matrix and not table else rest).append(parameter)
    return hidden, rest


def build_optimizers(module: nn.Module, recipe: OptimizerRecipe) -> list[torch.optim.Optimizer]:
    """Muon and AdamW over a module; each group remembers its plateau rate as `base_lr`."""
    hidden, rest = split_parameters(module.named_parameters())
    if not recipe.muon:
        hidden, rest = [], hidden + rest
    made: list[torch.optim.Optimizer] = []
    if hidden:
        made.append(
            torch.optim.Muon(
                hidden,
                lr=recipe.muon_lr,
                momentum=recipe.muon_momentum,
                weight_decay=recipe.muon_weight_decay,
                adjust_lr_fn="original",
            )
        )
    if rest:
        first, second = recipe.adamw_betas
        made.append(
            torch.optim.AdamW(
                rest, lr=recipe.adamw_lr, betas=(first, second), weight_decay=recipe.adamw_weight_decay
            )
        )
    for optimizer in made:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return made


def set_lr(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Set every rate to its plateau times `factor`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor


class WeightAverage:
    """Exponential moving average of parameters, with the usual short horizon at the start."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.names = [name for name, _ in module.named_parameters()]
        self.live = [p for _, p in module.named_parameters()]
        self.average = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.live], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the live weights and the average; twice restores both."""
        for live, average in zip(self.live, self.average, strict=True):
            kept = live.detach().clone()
            live.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by parameter name."""
        return dict(zip(self.names, self.average, strict=True))

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Set the averages. Raises KeyError for a missing name."""
        for name, average in zip(self.names, self.average, strict=True):
            average.copy_(like(state[name], average))
