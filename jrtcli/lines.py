"""Physical lines of an input, with bounded memory: what is too long is passed over, not read into memory."""

from __future__ import annotations

import os
import select
import stat
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from jrtcli.compressed import PIECE_BYTES, by_magic, by_suffix, expand, require
from jrtcli.errors import DocumentError, JrtError

MAX_LINE_BYTES = 32 * 2**20
"""A longer line is a mistake (a file without line ends): documents of that size are files of their own."""

COUNTED_BYTES = 2**32
"""Of a larger input nobody waits to be told how many rows it has; compressed, a 16th of that."""

PATIENCE_S = 0.05
"""A pipe that has nothing for so long lets its reader wait."""

_WIDE_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@dataclass(frozen=True)
class Line:
    """A line without its end. number: from 1; data: None where it is too long; ended: whether "\\n" came."""

    number: int
    data: bytes | None
    bytes: int
    ended: bool = True


class Lines(Iterator[Line]):
    """The lines of a stream, ended by "\\n"; a last one without an end is a line too. What `chunks` raises
    comes after the lines before it.

    limit: bytes of the longest line whose data are kept. Attribute `pending`: whole lines at hand, that need
    no further chunk.
    """

    def __init__(self, chunks: Iterable[bytes], *, limit: int = MAX_LINE_BYTES) -> None:
        self._chunks, self._limit = iter(chunks), limit
        self._parts: deque[bytes] = deque()
        self._kept: list[bytes] = []
        self._bytes = self._number = 0

    @property
    def pending(self) -> int:
        return len(self._parts)

    def __next__(self) -> Line:
        while not self._parts:
            try:
                chunk = next(self._chunks, None)
            except BaseException:
                self._kept, self._bytes = [], 0  # half of a line is none
                raise
            if chunk is None:
                if not self._bytes:
                    raise StopIteration
                return self._line(ended=False)
            *whole, last = chunk.split(b"\n")
            if whole:
                self._parts.extend(whole)
                self._rest = last
            else:
                self._add(last)
        self._add(self._parts.popleft())
        line = self._line()
        if not self._parts:
            self._add(self._rest)
        return line

    def _add(self, part: bytes) -> None:
        self._bytes += len(part)
        # Of a line that is too long, nothing is kept.
        self._kept = [*self._kept, part] if self._bytes <= self._limit else []

    def _line(self, *, ended: bool = True) -> Line:
        self._number += 1
        data = b"".join(self._kept) if self._bytes <= self._limit else None
        line = Line(self._number, data, self._bytes, ended)
        self._kept, self._bytes = [], 0
        return line


class Source:
    """An open input, a path or "-": its content in pieces, expanded where it is gzip or zstd.

    name: for messages. Raises DocumentError where it cannot be opened or is UTF-16, Damaged (compressed.py)
    in the middle of `chunks`.
    """

    def __init__(self, path: str | Path, *, stdin: BinaryIO | None = None) -> None:
        self.path = None if str(path) == "-" else Path(path)
        self.name = "stdin" if self.path is None else str(path)
        self._stopped = self._waiting = False
        self._file = self._open(stdin)
        # A pipe gives what it has, up to so many bytes; the first read may be short.
        self._head = self._read()
        while 0 < len(self._head) < 4 and (more := self._read()):
            self._head += more
        self._kind = by_magic(self._head)
        require(self._kind, self.name)
        wide = next((name for mark, name in _WIDE_MARKS.items() if self._head.startswith(mark)), None)
        if wide is not None:
            raise DocumentError(f"{self.name}: is {wide}: save it as UTF-8, with iconv -f {wide} -t UTF-8")

    def _open(self, stdin: BinaryIO | None) -> BinaryIO:
        if self.path is None:
            if stdin is None and sys.stdin is None:
                raise DocumentError("stdin: is closed: there is nothing to read")
            return stdin if stdin is not None else sys.stdin.buffer
        try:
            return open(self.path, "rb")  # closed at the end of `chunks`
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise DocumentError(f"{self.name}: cannot be read: {reason}") from None

    def is_file(self, path: str | Path | int) -> bool:
        """Whether it is this file, by whatever name or link; an int is an open descriptor."""
        try:
            found = os.fstat(self._file.fileno())
            # A terminal, or /dev/null, is read and written by everyone.
            return stat.S_ISREG(found.st_mode) and os.path.samestat(found, os.stat(path))
        except (OSError, ValueError):  # no such file, or an input that is none
            return False

    def would_wait(self) -> bool:
        """Whether a pipe or a terminal has nothing to read for the moment."""
        try:
            descriptor = self._file.fileno()
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return False
            return not select.select([descriptor], [], [], PATIENCE_S)[0]
        except (OSError, ValueError):  # an input that is no file of the system
            return False

    def stop(self) -> None:
        """Let the content end here. From a signal handler it also ends a read that waits."""
        self._stopped = True
        if self._waiting:
            raise _Stopped

    def chunks(self) -> Iterator[bytes]:
        """The content, once."""
        raw = self._raw()
        yield from raw if self._kind is None else expand(raw, self._kind, self.name)

    def _raw(self) -> Iterator[bytes]:
        try:
            chunk = self._head
            while chunk and not self._stopped:
                yield chunk
                chunk = self._read()
        finally:
            if self.path is not None:
                self._file.close()

    def _read(self) -> bytes:
        if self._stopped:
            return b""
        try:
            self._waiting = True
            return getattr(self._file, "read1", self._file.read)(PIECE_BYTES)
        except _Stopped:
            return b""
        except OSError as error:
            raise DocumentError(f"{self.name}: cannot be read: {error.strerror or error}") from None
        finally:
            self._waiting = False


class _Stopped(Exception):
    """A read that waited was ended."""


def count_lines(path: str | Path) -> int | None:
    """Lines of a file, as many as can be read; None for one too large to look through."""
    path = Path(path)
    if not path.is_file():
        return None
    limit = COUNTED_BYTES if by_suffix(path) is None else COUNTED_BYTES // 16
    if path.stat().st_size > limit:
        return None
    count, last = 0, b"\n"
    with suppress(JrtError):
        for chunk in Source(path).chunks():
            count += chunk.count(b"\n")
            last = chunk[-1:]
    return count + (last != b"\n")
