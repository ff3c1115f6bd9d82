"""What a run says while it goes on, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Started:
    """Before the first step; `step` is above 0 for a resumed run."""

    step: int
    steps: int
    parameters: int
    device: str
    precision: str
    output: Path


@dataclass(frozen=True)
class Progress:
    """Means since the last such event."""

    step: int
    steps: int
    stage: int
    tokens: int
    tokens_per_s: float
    left_s: float
    waited_s: float
    """Time the loop stood still for want of a batch."""
    means: dict[str, float]
    data_tokens_per_s: float = 0.0
    """Tokens that one thread or process of the data makes per second of its work."""


@dataclass(frozen=True)
class Evaluated:
    """Recall on the dev slice: shares by group, and whether it is the best so far."""

    step: int
    recall: dict[str, float]
    questions: int
    best: bool
    seconds: float


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on the disk."""

    step: int
    folder: Path


Event = Started | Progress | Evaluated | Saved


@dataclass
class Result:
    """How a run ended: "done", "interrupted" or "out of time"; `best` is the folder to use."""

    ended: str
    step: int
    tokens: int
    best: Path
    score: float | None
    seconds: float
