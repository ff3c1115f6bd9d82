"""Memory that was freed (glibc): kept for the next chunk of a text, or given back to the system."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

MAPPED_BYTES = 32 << 20  # the most that glibc takes: larger blocks are mapped and unmapped each time
KEPT_BYTES = 256 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@cache
def keep_freed_memory() -> bool:
    """Whether the C library could be told to keep blocks of up to MAPPED_BYTES, KEPT_BYTES in all: glibc's.

    Each chunk of 512 tokens allocates and frees some ten megabytes; without this a twentieth of the time of
    reading goes to the operating system, which fills the same pages with zeros over and over.
    """
    mallopt = _of_libc("mallopt")
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))


def give_back() -> None:
    """Returns free memory to the system: a text of 262,144 tokens is encoded in 100 MB, which stay free but
    scattered, of no use to a model's large tensors."""
    trim = _of_libc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_libc(name: str) -> Any:
    """A function of the C library; None where it has none of that name, or is not Linux's."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except OSError:
        return None
