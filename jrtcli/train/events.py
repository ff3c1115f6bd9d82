"""What a run says while it goes on, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Preparing:
    """Before the first step: data is tokenised or indexed, once for all runs. done, total: bytes of files."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Noted:
    """Something the user should know, in one line."""

    text: str


@dataclass(frozen=True)
class Started:
    """Before the first step; `step` is above 0 for a resumed run."""

    step: int
    steps: int
    parameters: int
    device: str
    precision: str
    output: Path
    processes: int = 1


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
    """Recall on the dev slice: shares by group; losses on held-out text; whether it is the best so far."""

    step: int
    recall: dict[str, float]
    questions: int
    best: bool
    seconds: float
    losses: dict[str, float] | None = None
    """text: per next token; mlm: per masked token. None without text."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on the disk."""

    step: int
    folder: Path


Event = Preparing | Noted | Started | Progress | Evaluated | Saved


@dataclass
class Result:
    """How a run ended: "done", "interrupted" or "out of time"; `best` is the folder to use.

    score: what `best` was chosen by, recall in [0, 1], or (measure "loss") the loss on held-out text.
    main: whether this is the process that speaks for all.
    """

    ended: str
    step: int
    tokens: int
    best: Path
    score: float | None
    seconds: float
    measure: str = "recall"
    main: bool = True
