"""Memory that every chunk of a text frees and asks for again: kept, instead of handed back."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

MAPPED_BYTES = 32 << 20  # the most that glibc takes: larger blocks are mapped and unmapped each time
KEPT_BYTES = 256 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@cache
def keep_freed_memory() -> bool:
    """Whether the C library could be told to keep blocks of up to MAPPED_BYTES, KEPT_BYTES in all: glibc's.

    Each chunk of 512 tokens allocates and frees some ten megabytes; without this a twentieth of the time of
    reading goes to the operating system, which fills the same pages with zeros over and over.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))
