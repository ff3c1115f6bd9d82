"""Worker place: where a worker runs, and the processes that have stood there one after the other."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.context import SpawnContext, SpawnProcess

    from jrtcli.chunks import Row

EXIT_S = 10.0
"""Seconds a worker that has ended its work has to leave, before it is made to."""


@dataclass
class WorkerPlace:
    """A place and its process. connection: for rows and answers; control: for the word to stop."""

    number: int
    gpu: str | None
    process: SpawnProcess | None = None
    connection: Connection | None = None
    control: Connection | None = None
    ready: bool = False
    busy: bool = False
    """From when rows are handed out until it asks for more."""
    starts: int = 0
    """Deaths before the model was loaded, in a row."""
    reason: str | None = None
    """What it said before it died."""
    rows: dict[str, Row] = field(default_factory=dict)
    """Handed out and not answered, by key."""
    tokens_read: int = 0

    @property
    def name(self) -> str:
        """For notes."""
        return f"worker {self.number}" + ("" if self.gpu is None else f" (GPU {self.gpu})")

    @property
    def dead(self) -> bool:
        """Whether its process has ended, and all that it said was heard: its end of the pipe may live on in a
        process that it started."""
        ended = self.process is not None and not self.process.is_alive()
        return ended and self.connection is not None and not self.connection.poll()

    def start(
        self,
        context: SpawnContext,
        target: Callable[..., None],
        settings: bytes,
        answerer: str,
        threads: int | None,
    ) -> None:
        """Put a new process here. target: jrtcli.worker.work, called with its ends of the pipes, settings,
        answerer, GPU and threads."""
        here, there = context.Pipe()
        stops, control = context.Pipe(duplex=False)
        process = context.Process(
            target=target,
            args=(there, stops, settings, answerer, self.gpu, threads),
            name=f"jrt-worker-{self.number}",
            daemon=True,
        )
        with _no_interrupts():
            process.start()
        # The worker's ends are the worker's alone: they close with it.
        there.close()
        stops.close()
        self.process, self.connection, self.control = process, here, control
        self.ready, self.reason = False, None

    def bury(self) -> str:
        """Wait for the end of a process that has died, or make it. Returns how it died, in words."""
        assert self.process is not None
        self.process.join(EXIT_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return self.reason or _how(self.process.exitcode)

    def clear(self) -> None:
        """Nobody stands here any more."""
        for end in (self.connection, self.control):
            if end is not None:
                end.close()
        self.process = self.connection = self.control = None
        self.ready, self.busy, self.rows, self.tokens_read = False, False, {}, 0


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """A process that is started here never gets Ctrl-C, not even before it can say so itself."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"ended with exit code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    hint = ", as when memory runs out" if name == "SIGKILL" else ""
    return f"was killed ({name}{hint})"
