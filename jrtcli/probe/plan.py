"""What a probe trains: sizes, steps and seeds of the default at CPU size, and of the paper's protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from jrtcli.errors import UsageError
from jrtcli.probe.sequences import MARKS

TASKS = ("disjointness", "recall")


@dataclass(frozen=True)
class Plan:
    """All that decides the rows of one probe.

    trained, tested: set sizes (first, second) of disjointness, or (pairs, queries) of recall. rates: learning
    rates of AdamW; each model is trained with each, and the best counts. muon_rate: of the hidden matrices;
    0 leaves them to AdamW too. easy_share: share of the steps over which sizes grow from small to full.
    """

    task: str
    readings: tuple[str, ...]
    widths: tuple[int, ...]
    feature_dims: tuple[int, ...]
    trained: tuple[tuple[int, int], ...]
    tested: tuple[tuple[int, int], ...]
    vocabulary: int
    steps: int
    batch: int = 64
    tests: int = 1000
    seeds: int = 2
    first_seed: int = 0
    layers: int = 4
    heads: int = 2
    rates: tuple[float, ...] = (0.01,)
    muon_rate: float = 0.02
    weight_decay: float = 0.0
    easy_share: float = 0.6
    matched: bool = True
    """Queries and keys of the linear attention begin as the same projection, so that equal tokens match."""

    def check(self) -> None:
        """Raises UsageError for sizes that no model or vocabulary fits."""
        for name in ("widths", "feature_dims"):
            if any(value < 2 for value in getattr(self, name)):
                raise UsageError(f"--{name.replace('_', '-')} must be at least 2")
        for width in self.widths:
            if width % self.heads:
                raise UsageError(f"--widths {width}: no multiple of {self.heads} heads")
        for one, other in (*self.trained, *self.tested):
            need = one + other - 1 if self.task == "disjointness" else 2 * one
            if need > self.vocabulary - MARKS:
                raise UsageError(f"sizes {one} and {other} need a vocabulary of {need + MARKS} ids")


@dataclass(frozen=True)
class Cell:
    """One model to train."""

    reading: str
    width: int
    feature_dim: int
    seed: int
    rate: float

    @property
    def name(self) -> str:
        """Unique within a plan."""
        return f"{self.reading}-w{self.width}-f{self.feature_dim}-s{self.seed}-r{self.rate:g}"


def cells(plan: Plan) -> Iterator[Cell]:
    """All models of a plan; seeds come last, so that an interrupted probe has every size once."""
    for seed in range(plan.first_seed, plan.first_seed + plan.seeds):
        for feature_dim in plan.feature_dims:
            for width in plan.widths:
                for reading in plan.readings:
                    for rate in plan.rates:
                        yield Cell(reading, width, feature_dim, seed, rate)


def tokens(plan: Plan, cell: Cell) -> int:
    """Tokens that a cell trains on when every sequence has its full size."""
    return round(
        plan.steps * plan.batch * sum(length(plan, cell, s) for s in plan.trained) / len(plan.trained)
    )


def length(plan: Plan, cell: Cell, size: tuple[int, int]) -> int:
    """Tokens of a sequence."""
    reads = 2 if cell.reading == "twice" else 1
    if plan.task == "disjointness":
        return reads * (sum(size) + 2) + 1
    return reads * (2 * size[0] + size[1] + 2)


def both(*sizes: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Each pair of sizes in both orders."""
    return tuple(pair for a, b in sizes for pair in ((a, b), (b, a)))


PLANS: dict[tuple[str, bool], Plan] = {
    ("disjointness", False): Plan(
        task="disjointness",
        readings=("causal", "non-causal", "twice"),
        widths=(16, 32),
        feature_dims=(4, 8),
        trained=both((4, 16), (8, 32)),
        tested=both((4, 16), (8, 32), (4, 64), (8, 64)),
        vocabulary=128,
        steps=1400,
    ),
    ("recall", False): Plan(
        task="recall",
        readings=("causal", "prefix", "twice"),
        widths=(16, 32),
        feature_dims=(4, 8),
        trained=((4, 4), (8, 4), (16, 4), (24, 4)),
        tested=((4, 4), (8, 4), (16, 4), (24, 4), (32, 4)),
        vocabulary=128,
        steps=800,
    ),
    ("disjointness", True): Plan(
        task="disjointness",
        readings=("causal", "non-causal", "twice"),
        widths=(36, 48, 64, 96, 128),
        feature_dims=(4, 8, 16, 24),
        trained=both((4, 16), (8, 32), (16, 64), (4, 128), (16, 256), (4, 256)),
        tested=both((1, 32), (4, 32), (4, 128), (16, 256), (4, 256), (16, 512), (4, 512), (8, 768), (16, 768),
                    (4, 768)),
        vocabulary=2048,
        # 48 epochs over 20,000 sequences of each of 12 pairs of sizes, in batches of 128.
        steps=48 * 12 * 20_000 // 128,
        batch=128,
        rates=(1e-4, 5e-4, 8e-4),
        muon_rate=0.0,
        weight_decay=0.1,
        easy_share=0.0,
        matched=False,
    ),
    ("recall", True): Plan(
        task="recall",
        readings=("causal", "prefix", "twice"),
        widths=(36, 48, 64, 96, 128),
        feature_dims=(4, 8, 16, 24),
        trained=((4, 4), (8, 8), (16, 16), (32, 16), (64, 16)),
        tested=((4, 4), (8, 8), (16, 16), (32, 16), (64, 16), (128, 16), (256, 16)),
        vocabulary=8192,
        steps=64 * 180_000 // 256,
        batch=256,
        rates=(1e-4, 5e-4, 8e-4),
        muon_rate=0.0,
        weight_decay=0.1,
        easy_share=0.0,
        matched=False,
    ),
}  # fmt: skip
"""(task, full) -> plan. Disjointness in full: the paper's appendix B.1, with the rows read twice added."""


def plan_for(task: str, *, full: bool = False, **changes: Any) -> Plan:
    """A plan of PLANS with changes; None leaves a field as it is. Raises UsageError."""
    if task not in TASKS:
        raise UsageError(f"no probe {task!r}: choose {' or '.join(TASKS)}, or give --model for a checkpoint")
    plan = replace(PLANS[task, full], **{k: v for k, v in changes.items() if v is not None})
    plan.check()
    return plan


def settings(plan: Plan) -> dict[str, Any]:
    """What must be the same for rows to belong together: everything but which cells there are."""
    apart = ("readings", "widths", "feature_dims", "seeds", "first_seed", "rates")
    return {k: [list(v) if isinstance(v, tuple) else v for v in value] if isinstance(value, tuple) else value
            for k, value in asdict(plan).items() if k not in apart}  # fmt: skip
