"""Chunks: rows handed out to several workers, many at a time, fewer towards the end of the input."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from jrtcli.records import BadRow, Record

Row = Record | BadRow

ROWS = {"cpu": 64, "cuda": 1024}
"""Most rows of a chunk: several batches (jrtcli.batching.MOST_ROWS), so that a worker seldom waits for its
next chunk with a batch half empty."""


def never() -> bool:
    """Rows of a file are never waited for."""
    return False


class Chunks(Iterator[list[Row]]):
    """Guided self-scheduling (Polychronopoulos and Kuck, 1987): a chunk is a share of the rows in view.

    rows: looked ahead as far as two chunks for each worker. While the input goes on, chunks have `most` rows;
    towards its end fewer and fewer, so that all workers finish together. Consecutive rows about one document
    stay together, up to twice that size: its reading is shared inside a chunk only. idle: says whether the
    next row has to be waited for; the rows at hand are handed out meanwhile.
    """

    def __init__(
        self, rows: Iterable[Row], *, workers: int, most: int, idle: Callable[[], bool] = never
    ) -> None:
        self._rows = iter(rows)
        self._workers, self._most, self._idle = workers, most, idle
        self._view: deque[Row] = deque()
        self._ended = False

    @property
    def at_hand(self) -> bool:
        """Whether the next chunk, or the end, is there without waiting."""
        return bool(self._view) or self._ended or not self._idle()

    def __next__(self) -> list[Row]:
        room = 2 * self._most * self._workers
        while not self._ended and len(self._view) < room and not (self._view and self._idle()):
            row = next(self._rows, None)
            if row is None:
                self._ended = True
            else:
                self._view.append(row)
        if not self._view:
            raise StopIteration
        size = max(1, min(self._most, -(-len(self._view) // (2 * self._workers))))
        chunk: list[Row] = []
        while self._view and (
            len(chunk) < size or (len(chunk) < 2 * size and _together(chunk[-1], self._view[0]))
        ):
            chunk.append(self._view.popleft())
        return chunk


def _together(a: Row, b: Row) -> bool:
    """Whether two rows ask about one document; told without reading a file."""
    if not isinstance(a, Record) or not isinstance(b, Record):
        return False
    return (a.context, a.doc, a.state) == (b.context, b.doc, b.state)
