"""The file of a document's state: safetensors, sealed by a checksum over every byte, written whole or not
at all.

The header's metadata are `format`, `facts` (a JSON object: what the state depends on) and `sha256`, which is
that of the whole file with 64 zeros in its own place. The facts can be read without torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jrtcli.errors import StateError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "jrt document state 1"
"""Of the file. Another number: another layout, which an older jrt does not read."""

SUFFIX = ".state"
MAX_HEADER_BYTES = 32 * 2**20
"""The facts hold names and the starts of pages, never the document: more is no state of ours."""

_UNSEALED = "0" * 64
_HEX = frozenset("0123456789abcdef")
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # opening a named pipe must not wait for its writer


class ForeignFile(StateError):
    """A file of something else."""


class MissingFile(StateError):
    """No file at all."""


@dataclass(frozen=True)
class StateFile:
    """The header of a state file, and the file when it was read whole.

    name: what it is called in messages. tensors: name -> (dtype, shape). nbytes: of the whole file. raw: all
    its bytes, their checksum right; None where only the header was read.
    """

    name: str
    facts: dict[str, Any]
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    nbytes: int
    raw: bytes | None = None

    def load(self) -> dict[str, Tensor]:
        """Every tensor, on the CPU. Raises StateError where the file is damaged."""
        import safetensors
        from safetensors.torch import load

        assert self.raw is not None, "only the header was read"
        try:
            return load(self.raw)
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise StateError(f"{self.name}: is damaged: {' '.join(str(error).split())[:120]}") from None


def sealed(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> list[bytes | memoryview]:
    """The bytes of a state file, in pieces to be written one after the other."""
    from safetensors.torch import save

    said = json.dumps(facts, ensure_ascii=False, sort_keys=True)
    metadata = {"format": FORMAT, "facts": said, "sha256": _UNSEALED}
    raw = save({name: x.contiguous() for name, x in tensors.items()}, metadata)
    at = _seal_place(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]], _UNSEALED) + 8
    view = memoryview(raw)
    return [view[:at], hashlib.sha256(raw).hexdigest().encode(), view[at + 64 :]]


def write_file(path: Path, pieces: Sequence[bytes | memoryview]) -> int:
    """Put a file of mode 0600 in the place of `path`: all of it or nothing, a symlink there is replaced.

    Returns its bytes. Raises OSError.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        written = write_all(descriptor, pieces)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return written


def write_all(descriptor: int, pieces: Sequence[bytes | memoryview]) -> int:
    """Write the pieces, on to the disk, and close. Returns the bytes. Raises OSError."""
    with os.fdopen(descriptor, "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return sum(len(piece) for piece in pieces)


def read_file(path: str | Path, *, whole: bool = True, directory: int | None = None) -> StateFile:
    """A state file, or (not `whole`) its header alone, whose checksum then stays open.

    directory: of an open folder that `path` is a name in; then no symlink is followed. Raises StateError, in
    one line, for a file that is missing, foreign, truncated or damaged.
    """
    name = str(path)
    flags = os.O_RDONLY | _NO_WAIT | (_NO_FOLLOW if directory is not None else 0)
    try:
        descriptor = os.open(path, flags, dir_fd=directory)
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            os.close(descriptor)
            raise ForeignFile(f"{name}: is not a document's state but a folder or a device")
        with os.fdopen(descriptor, "rb") as file:
            return _parse(name, file, facts.st_size, whole)
    except FileNotFoundError:
        raise MissingFile(f"{name}: there is no such file") from None
    except OSError as error:
        raise StateError(f"{name}: cannot be read: {error.strerror or error}") from None


def _parse(name: str, file: Any, size: int, whole: bool) -> StateFile:
    foreign = ForeignFile(f"{name}: is not a document's state: `jrt read DOC -o FILE` makes one")
    front = file.read(8)
    (length,) = struct.unpack("<Q", front) if len(front) == 8 else (0,)
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise foreign
    header = file.read(length)
    if not header.startswith(b"{"):
        raise foreign
    if len(header) < length:
        # Whichever of the three its metadata begin with.
        if re.match(rb'\{"__metadata__":\{"(format":"jrt doc|facts":"\{\\|sha256":")', header):
            raise _truncated(name, size, None)
        raise foreign
    try:
        table = json.loads(header)
        metadata = table.pop("__metadata__")
        kind, seal = metadata["format"], metadata["sha256"]
        if kind != FORMAT:
            if kind.rpartition(" ")[0] == FORMAT.rpartition(" ")[0]:
                raise StateError(f"{name}: has the format {kind!r}, this jrt reads {FORMAT!r}")
            raise foreign
        tensors = {key: (str(x["dtype"]), tuple(map(int, x["shape"]))) for key, x in table.items()}
        end = 8 + length + max(int(x["data_offsets"][1]) for x in table.values())
        said = json.loads(metadata["facts"])
        if not isinstance(said, dict) or not isinstance(seal, str) or len(seal) != 64 or set(seal) - _HEX:
            raise foreign
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise foreign from None
    if size < end:
        raise _truncated(name, size, end)
    if size > end:
        raise StateError(f"{name}: is damaged: {size:,} bytes where its header says {end:,}")
    if not whole:
        return StateFile(name, said, tensors, size)
    file.seek(0)
    raw = file.read(size)
    if len(raw) < size:
        raise _truncated(name, len(raw), size)
    at = 8 + _seal_place(raw[8 : 8 + length], seal)
    digest = hashlib.sha256(memoryview(raw)[:at])
    digest.update(_UNSEALED.encode())
    digest.update(memoryview(raw)[at + 64 :])
    if at < 8 or digest.hexdigest() != seal or raw[8 : 8 + length] != header:
        raise StateError(
            f"{name}: is damaged: its checksum is wrong; read the document again with `jrt read`"
        )
    return StateFile(name, said, tensors, size, raw)


def _truncated(name: str, size: int, end: int | None) -> StateError:
    of = f" of {end:,}" if end is not None else ""
    return StateError(f"{name}: is truncated: {size:,}{of} bytes: read the document again with `jrt read`")


def _seal_place(header: bytes, seal: str) -> int:
    """Where in the header the checksum stands; -1 where it cannot be told.

    Quotes inside of other strings are escaped in JSON, so that nothing else can look like it.
    """
    key = b'"sha256":"'
    at = header.find(key + seal.encode())
    return at + len(key) if at >= 0 else -9
