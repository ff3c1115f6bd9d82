"""Standard output and error where they are closed or cannot be written."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def open_closed() -> None:
    """Give a closed stdout or stderr a place, so that no file that is opened later takes its number.

    Writing to a stdout that was closed fails, as it does for other programs; stderr is only silenced.
    """
    for name, number, flags in (("stdout", 1, os.O_RDONLY), ("stderr", 2, os.O_WRONLY)):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


def discard(stream: TextIO) -> None:
    """Let what the interpreter flushes once more at exit go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
