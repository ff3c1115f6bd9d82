"""Live rows: the questions of a batch that are in flight, from their reading to their last token.

A row's steps are those of jrtcli.generate.Steps: it is fed from outside, a token of the batch at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from jrtcli.generate import Chosen, Step
from jrtcli.state import State

if TYPE_CHECKING:
    import torch

    from jrtcli.answer import Asking
    from jrtcli.decoding import Rows
    from jrtcli.models.base import RecurrentLM
    from jrtcli.prepared import Prepared

K = TypeVar("K")


class RowSteps:
    """The steps of one row, as they come out of the batch (jrtcli.generate.Steps)."""

    def __init__(self, model: RecurrentLM, max_new_tokens: int, stop_ids: frozenset[int]) -> None:
        self.model = model
        self.state: State | None = None
        self.prefill_seconds = 0.0
        self.finish_reason: str | None = None
        self._left, self._stop_ids = max_new_tokens, stop_ids
        self._joined = 0.0
        self._step: Step | None = None

    def join(self, prefill_seconds: float) -> None:
        """Its prompt has been read; what follows counts from here."""
        self.prefill_seconds, self._joined = prefill_seconds, time.perf_counter()

    def give(self, chosen: Chosen) -> None:
        """The next token, unless it ends the answer."""
        if self._left <= 0:
            self.finish_reason = "length"
        elif chosen.id in self._stop_ids:
            self.finish_reason = "stop"
        else:
            self._left -= 1
            seconds = self.prefill_seconds + time.perf_counter() - self._joined
            self._step = Step(chosen.id, chosen.probability, seconds, chosen.lead)

    def __next__(self) -> Step:
        if self._step is None:
            raise StopIteration
        step, self._step = self._step, None
        return step

    @property
    def full(self) -> bool:
        """Whether it may have no more tokens."""
        return self._left <= 0


@dataclass
class LiveRow(Generic[K]):
    """A question in flight. best: of the passages read so far, the one it would go on from."""

    key: K
    prepared: Prepared
    steps: RowSteps
    asking: Asking
    best: Begun | None = None
    seconds: float = 0.0
    unread: int = 0
    token: int = 0

    def give(self, chosen: Chosen, state: Any) -> bool:
        """The row's next token. Returns whether its answer is done; then the row has its state, which is
        given, or a function that gives it."""
        self.token = chosen.id
        self.steps.give(chosen)
        next(self.asking, None)
        if self.steps.full and not self.asking.finished:
            self.steps.give(chosen)
            next(self.asking, None)
        if self.asking.finished:
            self.steps.state = state() if callable(state) else state
        return self.asking.finished


@dataclass
class Begun:
    """A request that was read: how sure its first token is, that token, and the state (one row)."""

    sure: tuple[bool, float]
    chosen: Chosen
    state: State
    random: torch.Generator


@dataclass
class LiveRows(Generic[K]):
    """The rows that are being answered, and their states in the same order."""

    rows: list[LiveRow[K]] = field(default_factory=list)
    randoms: list[torch.Generator] = field(default_factory=list)
    decoding: Rows | None = None

    def join(self, rows: Sequence[LiveRow[K]]) -> None:
        """More rows, whose prompts were read."""
        begun = [row.best for row in rows if row.best is not None]
        assert len(begun) == len(rows)
        self.rows += rows
        self.randoms += [one.random for one in begun]
        states = [one.state for one in begun]
        if self.decoding is None:
            self.decoding = rows[0].steps.model.decoder.rows(State.concat(states))
        else:
            self.decoding.join(states)
        for row in rows:
            row.best = None

    def keep(self, indices: Sequence[int]) -> None:
        """Only these rows, in this order."""
        if len(indices) == len(self.rows):
            return
        assert self.decoding is not None
        self.rows = [self.rows[i] for i in indices]
        self.randoms = [self.randoms[i] for i in indices]
        if indices:
            self.decoding.keep(indices)
        else:
            self.decoding = None
