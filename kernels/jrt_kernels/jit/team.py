"""The threads that PyTorch's own operators run in, for kernels too: OpenMP's, where that is GNU's.

Between two operators those threads wait busily for the next one, some milliseconds long. Other threads of
ours would have to share the cores with them; the same ones start within microseconds.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch


class Team:
    """GNU's OpenMP as torch has loaded it."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        self._start = library.GOMP_parallel
        self._start.argtypes = [self._work, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        self._start.restype = None
        self._number, self._count = library.omp_get_thread_num, library.omp_get_num_threads
        self._known = {threading.get_ident()}

    def run(self, threads: int, work: Callable[[int, int], None]) -> None:
        """work(i, n) in each of n threads at the same time, this one among them; n is `threads` or fewer.

        Raises what one of them raised.
        """
        raised: list[BaseException] = []

        def one(_: int | None) -> None:
            if (thread := threading.get_ident()) not in self._known:
                # Never let go of: else Python makes a state for the thread and throws it away at each call.
                self._known.add(thread)
                ctypes.pythonapi.PyGILState_Ensure()
            try:
                work(self._number(), self._count())
            except BaseException as error:
                raised.append(error)

        self._start(self._work(one), None, threads, 0)
        if raised:
            raise raised[0]


@cache
def team() -> Team | None:
    """None where torch was built with other threads."""
    maps = Path("/proc/self/maps")
    if not sys.platform.startswith("linux") or not maps.is_file():
        return None
    # Other packages may have brought an OpenMP of their own.
    home = str(Path(torch.__file__).resolve().parent)
    for line in maps.read_text(errors="replace").splitlines():
        path = line[line.find("/") :]
        if "libgomp" in path and path.startswith(home):
            try:
                return Team(ctypes.CDLL(path))
            except (OSError, AttributeError):
                return None
    return None
