"""What Ray says by itself: its messages become notes, or nothing where the user is told otherwise."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOBase

_COLOUR = re.compile(r"\x1b\[[\d;]*m")


class Notes(TextIOBase):
    """What is printed, as notes of one line, cut to what a reader needs."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._said: set[str] = set()

    def write(self, text: str) -> int:
        for line in _COLOUR.sub("", text).splitlines():
            # "(raylet) What happened. What to do about it. ..."
            found = re.match(r"\(\w+[^)]*\) (.*?)(\. |$)", line)
            if found is not None and found[1] not in self._said:
                self._said.add(found[1])
                self._note(f"Ray: {found[1]}")
        return len(text)


@contextmanager
def quiet_backend() -> Iterator[None]:
    """Ray's C++ side says on stderr what Python is told too; the level it starts with is announced there."""
    if "RAY_BACKEND_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        del os.environ["RAY_BACKEND_LOG_LEVEL"]
