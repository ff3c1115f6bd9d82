"""AppendedFile: lines that one process appends, each whole; a kill leaves those before it."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jrtcli.compressed import Writer, by_suffix, require
from jrtcli.errors import JrtError, UsageError


class AppendedFile:
    """A regular file, locked until it is closed; the lock ends with the process.

    Names that end in .gz or .zst are compressed, in a stream that is flushed after every line. Raises
    UsageError where another process writes the file, JrtError where it cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = str(path)
        # The file behind a link is replaced, not the link.
        self.path = Path(os.path.realpath(path))
        self.compression = by_suffix(self.path)
        require(self.compression, self.name)
        self._writer: Writer | None = None
        with self._said():
            self._descriptor = self._open()
            # What a process that was killed while it replaced the file left behind.
            for left in self.path.parent.glob(f".{self.path.name}.*.tmp"):
                left.unlink(missing_ok=True)
            self.bytes = os.fstat(self._descriptor).st_size

    def append(self, line: bytes) -> None:
        """Write a line, its end included; it is in the file when this returns."""
        if self.compression is not None:
            self._writer = self._writer or Writer(self.compression, self.name)
            line = self._writer.line(line)
        self._write(line)

    def cut(self, size: int) -> None:
        """Keep only the first `size` bytes."""
        with self._said():
            os.truncate(self._descriptor, size)
            os.lseek(self._descriptor, 0, os.SEEK_END)
        self.bytes = size

    def end_stream(self) -> None:
        """Close the compressed stream, if one is open; the next line begins another."""
        if self._writer is not None:
            self._write(self._writer.end())
            self._writer = None

    def replace(self, kept: Iterable[bytes]) -> None:
        """Put a file of these lines in the place of this one: at any moment there is one or the other."""
        with self._said():
            descriptor, name = tempfile.mkstemp(
                prefix=f".{self.path.name}.", suffix=".tmp", dir=self.path.parent
            )
            try:
                self._lock(descriptor)
                with os.fdopen(os.dup(descriptor), "wb") as file:
                    writer = None if self.compression is None else Writer(self.compression, self.name)
                    for line in kept:
                        file.write(line if writer is None else writer.part(line))
                    file.write(b"" if writer is None else writer.end())
                    file.flush()
                    os.fsync(descriptor)
                os.chmod(name, stat.S_IMODE(os.fstat(self._descriptor).st_mode))
                os.replace(name, self.path)
            except BaseException:
                os.close(descriptor)
                Path(name).unlink(missing_ok=True)
                raise
            os.close(self._descriptor)
            self._descriptor, self._writer = descriptor, None
            self.bytes = os.lseek(descriptor, 0, os.SEEK_END)

    def close(self) -> None:
        """Close it; what was written stays."""
        if self._descriptor < 0:
            return
        try:
            self.end_stream()
            with self._said():
                os.fsync(self._descriptor)
        finally:
            self.give_up()

    def give_up(self) -> None:
        """Close it as it is."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> int:
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.open(self.path, flags, 0o666)
            try:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise UsageError(f"{self.name}: is no regular file: redirect stdout there")
                self._lock(descriptor)
                # Another process may have replaced the file between the two.
                if self.path.exists() and os.path.samestat(found, self.path.stat()):
                    os.lseek(descriptor, 0, os.SEEK_END)
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        if sys.platform == "win32":
            return  # no flock there: nothing stands between two runs
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{self.name}: another process is writing it") from None

    def _write(self, data: bytes) -> None:
        with self._said():
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            except BaseException:
                # No half of a line stays, on a full disk or at a second Ctrl-C.
                os.truncate(self._descriptor, self.bytes)
                os.lseek(self._descriptor, 0, os.SEEK_END)
                raise
        self.bytes += len(data)

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise JrtError(f"{self.name}: cannot be written: {error.strerror or error}") from None
