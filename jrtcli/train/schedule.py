"""What follows from a recipe and a step alone: the stage, the rates; and which recipes may share a run.

A time limit stops a run early but never changes a schedule, so a resumed run repeats the losses of one that
was never stopped.
"""

from __future__ import annotations

import math
from typing import Any

from jrtcli.errors import UsageError
from jrtcli.train.config import Recipe, from_dict


def stage_at(recipe: Recipe, step: int) -> int:
    """Index of the curriculum stage that step (from 0) belongs to."""
    done = 0.0
    for i, stage in enumerate(recipe.curriculum):
        done += stage.share
        if step < round(done * recipe.steps):
            return i
    return len(recipe.curriculum) - 1


def lr_factor(recipe: Recipe, step: int) -> float:
    """Factor on the learning rates at step (from 0): warm-up, decay, and the stage's own factor."""
    o = recipe.optimizer
    factor = recipe.curriculum[stage_at(recipe, step)].lr
    if step < o.warmup_steps:
        return factor * (step + 1) / o.warmup_steps
    start = max(o.warmup_steps, round(o.decay_from * recipe.steps))
    if o.decay == "constant" or step < start:
        return factor
    progress = min(1.0, (step - start) / max(1, recipe.steps - start))
    left = 1 - progress if o.decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return factor * (o.final_lr + (1 - o.final_lr) * left)


FREE_TO_CHANGE = (
    "output", "minutes", "log_every", "save_every", "workers", "eval", "tokenizer", "tensorboard", "cache",
)  # fmt: skip
"""Parts of a recipe that a resumed run may change: they do not touch the losses."""


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Top-level keys, or table.key, that differ and may not. What a recipe lacks is at its default, so that a
    run goes on after recipes gained keys."""
    found = []
    old, new = _complete(old), _complete(new)
    for key in sorted(old.keys() | new.keys()):
        before, after = _plain(old.get(key)), _plain(new.get(key))
        if key in FREE_TO_CHANGE or before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            names = sorted(before.keys() | after.keys())
            found += [f"{key}.{name}" for name in names if before.get(name) != after.get(name)]
        else:
            found.append(key)
    return found


def _complete(values: dict[str, Any]) -> dict[str, Any]:
    try:
        return from_dict(values).as_dict()
    except UsageError:  # of another version
        return values


def _plain(value: Any) -> Any:
    """Tuples as lists, so that a recipe equals itself after being saved."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value
