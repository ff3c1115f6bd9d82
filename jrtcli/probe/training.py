"""One model of a probe: trained on fresh sequences, then asked. Rows out.

Muon for hidden matrices and AdamW for the rest, as `jrt train`; or AdamW alone, as the paper.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from jrtcli.models.based import Based, LinearAttention
from jrtcli.models.jrt_rnn import PrefixLinearAttention
from jrtcli.probe import sequences
from jrtcli.probe.model import answers, build, state_floats
from jrtcli.probe.plan import Cell, Plan
from jrtcli.train.config import OptimizerRecipe
from jrtcli.train.optim import build_optimizers, set_lr

WARMUP_STEPS = 50
FINAL_RATE = 0.02
SMALLEST_SHARE = 0.15
"""Sizes begin at this share of their own."""
MATCH_SCALE = 2.0
"""A token's score against itself then begins well above those against others."""

SAY_STEPS = 20
"""Steps between two reports: reading the loss waits for a GPU."""

Row = dict[str, Any]


def train(plan: Plan, cell: Cell, *, device: str = "cpu") -> Generator[tuple[int, float], None, list[Row]]:
    """Train one model and test it: yields (steps done, smoothed loss), returns a row for each tested size."""
    began, wall = time.process_time(), time.perf_counter()
    torch.manual_seed(cell.seed)
    generator = torch.Generator().manual_seed(cell.seed)
    model = build(
        cell.reading,
        width=cell.width,
        feature_dim=cell.feature_dim,
        vocabulary=plan.vocabulary,
        layers=plan.layers,
        heads=plan.heads,
    )
    if plan.matched:
        _match(model)
    model = model.to(device)
    optimizers = _optimizers(model, plan, cell)
    parameters = list(model.parameters())
    smoothed = 0.0
    for step in range(plan.steps):
        set_lr(optimizers, schedule(step, plan.steps))
        pick = int(torch.randint(len(plan.trained), (1,), generator=generator))
        size = eased(plan.trained[pick], step, plan)
        batch = make(plan, cell, size, plan.batch, generator).to(device)
        logits = answers(model, batch.tokens, batch.targets.shape[1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if step % SAY_STEPS == 0 or step + 1 == plan.steps:
            smoothed = loss.item() if not step else 0.7 * smoothed + 0.3 * loss.item()
            yield step + 1, smoothed
    rows = test(model, plan, cell, device)
    cost = {"core_s": round(time.process_time() - began, 2), "wall_s": round(time.perf_counter() - wall, 2)}
    return [{**row, "loss": round(smoothed, 4), "steps": plan.steps, **cost} for row in rows]


@torch.no_grad()
def test(model: Based, plan: Plan, cell: Cell, device: str) -> list[Row]:
    """Accuracy at each tested size, on sequences that are the same for every model of a seed's number."""
    rows = []
    for size in plan.tested:
        generator = torch.Generator().manual_seed(1_000_003 * (cell.seed + 1) + 1009 * size[0] + size[1])
        right = count = 0
        for begin in range(0, plan.tests, plan.batch):
            batch = make(plan, cell, size, min(plan.batch, plan.tests - begin), generator).to(device)
            said = answers(model, batch.tokens, batch.targets.shape[1]).argmax(-1)
            right += int((said == batch.targets).sum())
            count += batch.targets.numel()
        rows.append({**_about(plan, cell, size), "accuracy": right / count, "count": count})
    return rows


def _about(plan: Plan, cell: Cell, size: tuple[int, int]) -> Row:
    floats = state_floats(cell.width, cell.feature_dim, layers=plan.layers, heads=plan.heads)
    row: Row = {
        "task": plan.task,
        "reading": cell.reading,
        "width": cell.width,
        "feature_dim": cell.feature_dim,
        "state_floats": floats,
        "state_bytes": 4 * floats,
        "seed": cell.seed,
        "rate": cell.rate,
        "trained": size in plan.trained,
    }
    one, other = size
    if plan.task == "recall":
        return row | {"pairs": one, "queries": other}
    order = "short first" if one < other else "short last" if other < one else "equal"
    return row | {"first": one, "second": other, "order": order}


def make(
    plan: Plan, cell: Cell, size: tuple[int, int], rows: int, generator: torch.Generator
) -> sequences.Batch:
    """A batch of a plan's task, laid out as the cell reads it."""
    task = sequences.disjointness if plan.task == "disjointness" else sequences.recall
    reads = 2 if cell.reading == "twice" else 1
    return task(generator, rows, *size, vocabulary=plan.vocabulary, reads=reads)


def schedule(step: int, steps: int) -> float:
    """Factor of the learning rates: a warm-up, then linear to FINAL_RATE."""
    return min(1.0, (step + 1) / WARMUP_STEPS) * max(FINAL_RATE, 1 - step / steps)


def eased(size: tuple[int, int], step: int, plan: Plan) -> tuple[int, int]:
    """The size to train on at a step: from SMALLEST_SHARE to all over easy_share of the steps."""
    if not plan.easy_share:
        return size
    share = min(1.0, SMALLEST_SHARE + step / plan.steps / plan.easy_share)
    one, other = (max(1, round(share * n)) for n in size)
    # A pair is asked at most once.
    return (one, min(size[1], one)) if plan.task == "recall" else (one, other)


@torch.no_grad()
def _match(model: Based) -> None:
    for block in model.layers:
        mixer = block.mixer
        if isinstance(mixer, LinearAttention):
            mixer.proj_q.weight.mul_(MATCH_SCALE)
            mixer.proj_k.weight.copy_(mixer.proj_q.weight)
            if isinstance(mixer, PrefixLinearAttention):
                mixer.proj_k_enc.weight.copy_(mixer.proj_q.weight)


def _optimizers(model: Based, plan: Plan, cell: Cell) -> list[torch.optim.Optimizer]:
    if plan.muon_rate:
        recipe = OptimizerRecipe(
            muon_lr=plan.muon_rate, adamw_lr=cell.rate, adamw_weight_decay=plan.weight_decay
        )
        return build_optimizers(model, recipe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=cell.rate, weight_decay=plan.weight_decay)
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return [optimizer]
