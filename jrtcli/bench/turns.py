"""Calls timed in turns, one of each before the next of any: a busy machine then hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from jrtcli.bench.clock import Clock
from jrtcli.bench.problems import attempt
from jrtcli.bench.rows import Row


@dataclass
class Turn:
    """One row in the making. call: what is timed, `steps` steps of it; warm: what is called once before.

    walls_ms: of the wall, of whole calls. peak: bytes that the first call took. Without a call the row has
    its reason already.
    """

    row: Row
    call: Callable[[], object] | None = None
    warm: Callable[[], object] | None = None
    steps: int = 1
    samples_ms: list[float] = field(default_factory=list)
    walls_ms: list[float] = field(default_factory=list)
    peak: int | None = None

    def ready(self) -> None:
        """Compile, and reorder weights, before anything is timed."""
        if self.call is not None and self.warm is not None:
            self._guarded(self.warm)

    def take(self, clock: Clock) -> None:
        """Time one call; the first also for its memory."""
        if self.call is None:
            return
        if self.samples_ms:
            self._guarded(partial(self._timed, clock, self.call))
        else:
            self._guarded(partial(self._first, clock, self.call))

    def _timed(self, clock: Clock, call: Callable[[], object]) -> None:
        ms, wall = clock.both(call)
        self.samples_ms.append(ms / self.steps)
        self.walls_ms.append(wall)

    def _first(self, clock: Clock, call: Callable[[], object]) -> None:
        self.peak = clock.peak(partial(self._timed, clock, call))

    def _guarded(self, call: Callable[[], object]) -> None:
        """A call after whose failure the row has the reason, and no time."""

        def fill(row: Row) -> Row:
            call()
            return row

        before = self.row
        self.row = attempt(before, fill)
        if self.row is not before:
            self.call = None
            self.samples_ms.clear()


def take_turns(turns: Sequence[Turn], clock: Clock, repeat: int, most_s: float) -> None:
    """`repeat` calls of each; what took longer than `most_s` already is not called again."""
    for turn in turns:
        turn.ready()
    for _ in range(repeat):
        for turn in turns:
            if sum(turn.walls_ms) <= 1e3 * most_s:
                turn.take(clock)
