"""Bars of characters, for a terminal."""

from __future__ import annotations


def bar(share: float, room: int, *, rest: str = "·") -> str:
    """A bar of `share` (0 to 1) of `room` columns, to an eighth of one; the others are `rest`."""
    eighths = round(share * room * 8)
    whole, left = divmod(eighths, 8)
    part = " ▏▎▍▌▋▊▉"[left] if left else ""
    return ("█" * whole + part).ljust(room, rest)
