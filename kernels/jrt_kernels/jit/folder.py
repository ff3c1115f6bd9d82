"""Where compiled kernels lie on disk, and who is told before one is compiled. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path

on_compile: ContextVar[Callable[[], None] | None] = ContextVar("on_compile", default=None)
"""Called before a kernel is compiled, which takes seconds; not where its code is found on disk."""


def cache_folder(version: str) -> Path:
    """$XDG_CACHE_HOME/jrt/numba/<hash of numba's version and the kernels' sources>, or below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    root = Path(base) if base else Path.home() / ".cache"
    content = hashlib.sha256(version.encode())
    for path in sorted(Path(__file__).resolve().parent.parent.rglob("*.py")):
        if path.stem == "numba" or "jit" in path.parts:
            content.update(path.read_bytes())
    return root / "jrt" / "numba" / content.hexdigest()[:16]
