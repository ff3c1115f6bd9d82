"""StateCache: states of documents in a folder of this user, so that the second question finds the first
reading done.

Every place is named by all that its state depends on. Files appear whole or not at all, so that processes may
use the folder at the same time; no symlink in it is followed, and only its owner may read it.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jrtcli import __version__
from jrtcli.document import About, describe, state_bytes, state_of
from jrtcli.errors import StateError, UsageError
from jrtcli.state_file import SUFFIX, MissingFile, read_file, write_all
from jrtcli.user_cache import user_cache

if TYPE_CHECKING:
    from jrtcli.checkpoint import Loaded
    from jrtcli.document import DocumentState
    from jrtcli.state_identity import StateIdentity

QUOTA = "2GB"
"""Bytes of all files together where JRT_STATE_QUOTA says nothing else; 0 there turns the cache off."""

LEAST_TOKENS = 512
"""Of a shared reading: fewer are one piece of a prefill, and cost hardly more to read than a file."""

_STALE_S = 3600
"""A temporary file older than this was left by a process that died."""

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_PLACE = re.compile(r"[0-9a-f]{64}\.state")


class CacheUnavailable(StateError):
    """The cache cannot be used; asking goes on without it."""


@dataclass(frozen=True)
class Entry:
    """A file of the cache. key: the name of its place; used: when last, seconds since 1970; about: None for a
    file that is no state, with the reason in `wrong`."""

    key: str
    path: Path
    nbytes: int
    used: float
    about: About | None
    wrong: str = ""

    @property
    def usable(self) -> bool:
        """Whether this version of jrt can ever use it again."""
        return self.about is not None and self.about.identity.jrt == __version__


def cache_directory() -> Path:
    """Where states are kept: in the user's cache."""
    return user_cache() / "states"


def quota() -> int:
    """Bytes that the cache may take: JRT_STATE_QUOTA, else QUOTA. Raises UsageError."""
    return size_bytes(os.environ.get("JRT_STATE_QUOTA") or QUOTA, "JRT_STATE_QUOTA")


def size_bytes(text: str, name: str) -> int:
    """A size such as 500MB or 2GB (powers of 1000) in bytes. Raises UsageError that says its `name`."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    unit = _UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None:
        raise UsageError(f"{name} is a number with KB, MB or GB, such as 500MB, not {text!r}")
    return int(float(found[1]) * unit)


class StateCache:
    """The states of one folder.

    directory: None: `cache_directory()`. quota_bytes: of all files together; what was not used for longest
    goes first; None: `quota()`.
    """

    def __init__(self, directory: Path | None = None, quota_bytes: int | None = None) -> None:
        self.directory = cache_directory() if directory is None else directory.absolute()
        self.quota_bytes = quota() if quota_bytes is None else quota_bytes

    def get(self, identity: StateIdentity, loaded: Loaded) -> DocumentState | None:
        """The state of that identity, checked, and now the one used last; None where there is none.

        Raises StateError for a file in its place that is foreign, truncated or damaged (`put` replaces it),
        CacheUnavailable where the folder cannot be used.
        """
        name = f"{identity.key}{SUFFIX}"
        with self._opened(make=False) as directory:
            if directory is None:
                return None
            try:
                file = read_file(name, directory=directory)
                owner = os.stat(name, dir_fd=directory, follow_symlinks=False).st_uid
            except (MissingFile, FileNotFoundError):
                return None
            if owner != os.geteuid():
                raise StateError(f"{name}: belongs to another user")
            found = describe(file).identity
            if found.key != identity.key:
                raise StateError(f"{name}: is the state of something else")
            state = replace(state_of(file, loaded), origin=str(self.directory / name))
            with suppress(OSError):
                os.utime(name, dir_fd=directory, follow_symlinks=False)
            return state

    def put(self, state: DocumentState) -> int:
        """Keep a state, and let the oldest go for it. Returns its bytes; 0 where the quota is too small.

        Raises CacheUnavailable where it cannot be written.
        """
        assert state.identity is not None
        pieces = state_bytes(state)
        size = sum(len(piece) for piece in pieces)
        if size > self.quota_bytes:
            return 0
        name = f"{state.identity.key}{SUFFIX}"
        temporary = f".{name}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
        with self._opened(make=True) as directory:
            assert directory is not None
            self._evict(directory, self.quota_bytes - size, keep=name)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
            try:
                write_all(descriptor, pieces)
                os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=directory)
                raise
            os.fsync(directory)
        return size

    def entries(self) -> list[Entry]:
        """Every place that is taken, the one used last first. Raises CacheUnavailable."""
        found = []
        with self._opened(make=False) as directory:
            for name, size, used in _files(directory) if directory is not None else ():
                about, wrong = None, ""
                try:
                    about = describe(read_file(name, whole=False, directory=directory))
                except StateError as error:
                    wrong = str(error).removeprefix(f"{name}: ")
                key = name.removesuffix(SUFFIX)
                found.append(Entry(key, self.directory / name, size, used, about, wrong))
        return sorted(found, key=lambda entry: -entry.used)

    def remove(self, key: str) -> bool:
        """Forget one place. Returns whether there was one. Raises CacheUnavailable."""
        with self._opened(make=False) as directory:
            if directory is None:
                return False
            try:
                os.unlink(f"{key}{SUFFIX}", dir_fd=directory)
            except FileNotFoundError:
                return False
            return True

    def prune(self, *, unused_s: float | None = None, dry_run: bool = False) -> list[Entry]:
        """Remove what can never be used again, what was not used for `unused_s` seconds, and what is above
        the quota. Returns what went. Raises CacheUnavailable."""
        now, kept, gone = time.time(), 0, []
        for entry in self.entries():
            old = unused_s is not None and now - entry.used > unused_s
            if old or not entry.usable or kept + entry.nbytes > self.quota_bytes:
                gone.append(entry)
            else:
                kept += entry.nbytes
        if not dry_run:
            for entry in gone:
                self.remove(entry.key)
            with self._opened(make=False) as directory:
                if directory is not None:
                    _remove_stale(directory)
        return gone

    def _evict(self, directory: int, room: int, *, keep: str) -> None:
        """Remove the files used longest ago until the others fit into `room` bytes; `keep` is replaced."""
        _remove_stale(directory)
        files = [file for file in _files(directory) if file[0] != keep]
        total = sum(size for _, size, _ in files)
        for name, size, _ in sorted(files, key=lambda file: file[2]):
            if total <= room:
                return
            with suppress(OSError):  # another process was first
                os.unlink(name, dir_fd=directory)
            total -= size

    @contextmanager
    def _opened(self, *, make: bool) -> Iterator[int | None]:
        """The folder, opened; None where there is none and none is to be made.

        The part of the path that is the user's own choice may hold symlinks; `jrt/states` below it may not.
        """
        if not {os.open, os.unlink} <= os.supports_dir_fd:
            raise CacheUnavailable("the cache of states needs a POSIX system: asking without it")
        descriptor = None
        try:
            try:
                descriptor = self._open(make)
            except FileNotFoundError:
                if make:
                    raise
            yield descriptor
        except OSError as error:
            raise self._unavailable(error) from None
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _open(self, make: bool) -> int:
        *_, above, own = self.directory.parts
        base = self.directory.parent.parent
        if make:
            base.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(base.resolve(), os.O_RDONLY | os.O_DIRECTORY)
        for name in (above, own):
            try:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(name, 0o700, dir_fd=descriptor)
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            except NotADirectoryError:
                raise OSError(f"{name} is a symlink or a file where a folder belongs") from None
            finally:
                os.close(descriptor)
            descriptor = below
        facts = os.fstat(descriptor)
        if facts.st_uid != os.geteuid():
            os.close(descriptor)
            raise OSError("it belongs to another user")
        if make and stat.S_IMODE(facts.st_mode) != 0o700:
            os.fchmod(descriptor, 0o700)
        return descriptor

    def _unavailable(self, error: OSError) -> CacheUnavailable:
        reason = error.strerror or str(error)
        return CacheUnavailable(
            f"states are not kept in {self.directory} ({reason}): set XDG_CACHE_HOME, or --no-cache"
        )


def _files(directory: int) -> list[tuple[str, int, float]]:
    """Name, bytes and last use of every state in an open folder; no link is looked through."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if _PLACE.fullmatch(entry.name):
                with suppress(FileNotFoundError):
                    facts = entry.stat(follow_symlinks=False)
                    found.append((entry.name, facts.st_size, facts.st_mtime))
    return found


def _remove_stale(directory: int) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.name.endswith(".tmp"):
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE_S:
                        os.unlink(entry.name, dir_fd=directory)
