"""gzip and zstd: streams read piece by piece, and written so that every line is on the disk at once.

A stream that was cut short (a killed program) gives all that was flushed into it, and says that it was cut.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jrtcli.errors import JrtError, UsageError

SUFFIXES = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
"""End of a file's name -> how it is compressed."""

_MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
# A zstd file may begin with a frame of another program's own, which is skipped (RFC 8878, 3.1.2).
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)

MAX_EXPANDED_BYTES = 64 * 2**30
"""A compressed input that expands to more than this was made to fill memory or disks, not to be answered."""

PIECE_BYTES = 2**20
# A block of zstd, 3 bytes or more, expands to 128 KiB: so many of them at once are 43 MiB at the most.
_ZSTD_INPUT_BYTES = 1024


class Damaged(JrtError):
    """Compressed data cannot be read on: it was cut short, or it is something else."""


def by_suffix(path: Path | str) -> str | None:
    """How a file of this name is compressed; None: not at all."""
    return SUFFIXES.get(Path(path).suffix.lower())


def by_magic(head: bytes) -> str | None:
    """How data that begins like this is compressed; None: not at all."""
    if int.from_bytes(head[:4], "little") in _SKIPPABLE:
        return "zstd"
    return next((name for name, magic in _MAGIC.items() if head.startswith(magic)), None)


def require(kind: str | None, name: str) -> None:
    """Raises UsageError where what reads and writes this kind is not installed."""
    if kind == "zstd":
        _zstd(name)


def expand(chunks: Iterable[bytes], kind: str, name: str) -> Iterator[bytes]:
    """The content of compressed chunks, of one or more streams behind each other, in pieces of limited size.

    Raises Damaged after the last good piece where a stream is cut, is damaged or expands without end.
    """
    whole = f"{name}: is no whole {kind} file"
    opened: Any = None
    total = 0
    size = PIECE_BYTES if kind == "gzip" else _ZSTD_INPUT_BYTES
    make = _decompressor(kind, name)
    for chunk in chunks:
        rest = chunk
        while rest:
            if opened is None:
                # gzip files from tapes are padded with zeros.
                rest = rest.lstrip(b"\0") if kind == "gzip" else rest
                if not rest:
                    break
                opened = make()
            now, rest = rest[:size], rest[size:]
            try:
                while True:
                    out = opened.decompress(now, PIECE_BYTES) if kind == "gzip" else opened.decompress(now)
                    total += len(out)
                    if total > MAX_EXPANDED_BYTES:
                        raise Damaged(
                            f"{name}: expands to more than {MAX_EXPANDED_BYTES // 2**30} GiB:"
                            " unpack it first, if it is meant to"
                        )
                    if out:
                        yield out
                    if kind != "gzip" or not (now := opened.unconsumed_tail):
                        break
            except JrtError:
                raise
            except Exception as error:  # zlib.error, ZstdError: each library has one of its own
                raise Damaged(f"{whole}: {' '.join(str(error).split())[:120]}") from None
            if opened.eof:
                rest = opened.unused_data + rest
                opened = None
    if opened is not None:
        raise Damaged(f"{whole}: it was cut short")


class Writer:
    """Compresses lines as one stream that can be read up to the last line, though it has not ended."""

    def __init__(self, kind: str, name: str) -> None:
        if kind == "gzip":
            stream: Any = zlib.compressobj(6, wbits=31)
            self._flush: Callable[[], bytes] = lambda: stream.flush(zlib.Z_SYNC_FLUSH)
        else:
            zstd = _zstd(name)
            if hasattr(zstd, "COMPRESSOBJ_FLUSH_BLOCK"):  # the package
                stream = zstd.ZstdCompressor(level=6).compressobj()
                self._flush = lambda: stream.flush(zstd.COMPRESSOBJ_FLUSH_BLOCK)
            else:
                stream = zstd.ZstdCompressor(level=6)
                self._flush = lambda: stream.flush(stream.FLUSH_BLOCK)
        self._stream = stream

    def line(self, data: bytes) -> bytes:
        """What to append to the file for this line."""
        return bytes(self._stream.compress(data)) + self._flush()

    def part(self, data: bytes) -> bytes:
        """What to append for data that need not be there at once; may be nothing."""
        return bytes(self._stream.compress(data))

    def end(self) -> bytes:
        """What closes the stream."""
        return bytes(self._stream.flush())


def _decompressor(kind: str, name: str) -> Callable[[], Any]:
    if kind == "gzip":
        return lambda: zlib.decompressobj(wbits=31)
    zstd = _zstd(name)
    if hasattr(zstd, "COMPRESSOBJ_FLUSH_BLOCK"):
        return lambda: zstd.ZstdDecompressor().decompressobj()
    return lambda: zstd.ZstdDecompressor()


def _zstd(name: str) -> Any:
    """Python's own module where there is one (3.14), else the package. Raises UsageError without either."""
    if find_spec("compression") is not None and find_spec("compression.zstd") is not None:
        return import_module("compression.zstd")
    if find_spec("zstandard") is None:
        raise UsageError(
            f"{name}: zstd needs the package zstandard: pip install 'jrt[zstd]', or unpack it with zstd -d"
        )
    return import_module("zstandard")
