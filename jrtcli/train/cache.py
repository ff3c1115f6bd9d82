"""Folders of prepared data, made once: each is named by what it was made from, and appears whole or not at
all.

Two processes that make the same one at the same time both succeed; the second's is dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jrtcli.errors import JrtError
from jrtcli.user_cache import user_cache


def cache_root(asked: str) -> Path:
    """The folder asked for, or `train` in the user's cache."""
    return Path(asked) if asked else user_cache() / "train"


def file_identity(path: Path) -> list[Any]:
    """What tells one state of a file from another: place, bytes, time of change."""
    facts = path.stat()
    return [str(path.resolve()), facts.st_size, facts.st_mtime_ns]


def cached(root: Path, kind: str, facts: Sequence[Any], make: Callable[[Path], None]) -> Path:
    """The folder of these facts under `root`; `make` fills an empty one where there is none.

    Raises JrtError where it cannot be written.
    """
    digest = hashlib.sha256(json.dumps([kind, *facts]).encode()).hexdigest()[:24]
    folder = root / f"{kind}-{digest}"
    if folder.is_dir():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{kind}-", dir=root))
    except OSError as error:
        raise JrtError(f"cannot write {root}: {error.strerror or error}; name another `cache`") from None
    try:
        make(temporary)
        for file in temporary.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    except OSError as error:
        raise JrtError(f"cannot write {folder}: {error.strerror or error}; name another `cache`") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
