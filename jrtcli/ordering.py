"""Rows brought back into the order of the input, each as soon as all before it are done."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jrtcli.records import BadRow, Record


class Ordering:
    """Sees the rows that go in, and gives those that come out in the same order.

    It holds no more rows than are being looked at between the two.
    """

    def __init__(self) -> None:
        self._keys: deque[str] = deque()
        self._done: dict[str, Mapping[str, Any]] = {}

    def watch(self, rows: Iterable[Record | BadRow]) -> Iterator[Record | BadRow]:
        """The rows as they are, their order noted."""
        for row in rows:
            self._keys.append(row.key)
            yield row

    def put(self, row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """A row that is done: the rows that may go out now."""
        self._done[row["jrt"]["row"]] = row
        while self._keys and self._keys[0] in self._done:
            yield self._done.pop(self._keys.popleft())

    def rest(self) -> Iterator[Mapping[str, Any]]:
        """What is done though rows before it are not, in order: when the run was interrupted."""
        for key in self._keys:
            if key in self._done:
                yield self._done.pop(key)
