"""User cache: the folder where jrt keeps what can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """`jrt` in XDG_CACHE_HOME, else in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    # As the XDG specification has it, a path that is not absolute is ignored.
    return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "jrt"
