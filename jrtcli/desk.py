"""Desk: the rows that are out, in a process that outlives those who answer them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from jrtcli.chunks import Row

if TYPE_CHECKING:
    from jrtcli.errors import JrtError


class Desk:
    """Chunks of rows by number, from when they are given until they are answered; an actor of Ray."""

    def __init__(self) -> None:
        self._chunks: dict[int, list[Row]] = {}
        self._begun: Counter[int] = Counter()
        self._alone: set[str] = set()
        self._kept: dict[int, list[dict[str, Any]]] = {}
        self._given = 0
        self._ended = self._stopped = False
        self._hello: tuple[str, Any] | None = None
        self._changed = asyncio.Condition()

    async def put(self, rows: list[Row]) -> int:
        """Lay a chunk down; returns its number, the next one."""
        async with self._changed:
            self._chunks[self._given] = rows
            self._given += 1
            self._changed.notify_all()
        return self._given - 1

    async def comes(self, number: int) -> bool:
        """Wait for a chunk; False: there will be no such chunk."""
        async with self._changed:
            await self._changed.wait_for(lambda: number < self._given or self._ended)
        return number < self._given

    async def begin(self, number: int) -> tuple[int, list[Row], list[dict[str, Any]]]:
        """How often the chunk was begun before, its rows that have no answer, and those answers that were
        kept. None of them, once it has been answered or the run is stopped."""
        before = self._begun[number]
        self._begun[number] += 1
        rows = [] if self._stopped else self._chunks.get(number, [])
        kept = self._kept.get(number, [])
        done = {row["jrt"]["row"] for row in kept}
        return before, [row for row in rows if row.key not in done], kept

    async def alone(self, key: str) -> bool:
        """Note that a row is begun alone. Returns whether it was before."""
        before = key in self._alone
        self._alone.add(key)
        return before

    async def keep(self, number: int, row: dict[str, Any]) -> None:
        """Keep an answer for the next time that its chunk is begun."""
        self._kept.setdefault(number, []).append(row)

    async def drop(self, number: int) -> None:
        """A chunk has been answered."""
        for row in self._chunks.pop(number, []):
            self._alone.discard(row.key)
        self._kept.pop(number, None)

    async def ready(self, run: dict[str, Any]) -> bool:
        """An actor has its model. Returns whether it answers as the first one does."""
        async with self._changed:
            self._hello = self._hello or ("ready", run)
            self._changed.notify_all()
        return self._hello == ("ready", run)

    async def refuse(self, error: JrtError) -> None:
        """An actor cannot load its model."""
        async with self._changed:
            self._hello = self._hello or ("refused", error)
            self._changed.notify_all()

    async def hello(self) -> tuple[str, Any]:
        """What the first actor said: ("ready", its run) or ("refused", JrtError)."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._hello is not None)
        assert self._hello is not None
        return self._hello

    async def stop(self) -> None:
        """Begin no more rows."""
        self._stopped = True

    async def stopped(self) -> bool:
        """Whether to begin no more rows."""
        return self._stopped

    async def end(self) -> None:
        """No more chunks come."""
        async with self._changed:
            self._ended = True
            self._changed.notify_all()
