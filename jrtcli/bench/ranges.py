"""Numbers as a command line lists them: 1,16 or 2048-32768*2 (llama-bench's spelling of ranges)."""

from __future__ import annotations

import re

from jrtcli.errors import UsageError

MOST_NUMBERS = 1000
_RANGE = re.compile(r"(\d+)-(\d+)(?:([+*])(\d+))?")


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers from 1: `a`, `a,b`, `a-b` (steps of 1), `a-b+c` (steps of c), `a-b*c` (factor c).

    Each once, in the order given. Raises UsageError that names the option.
    """
    found: list[int] = []
    for part in text.split(","):
        found += _part(option, part.strip().replace("_", ""))
        if len(found) > MOST_NUMBERS:
            raise UsageError(f"{option} {text}: more than {MOST_NUMBERS} numbers")
    return tuple(dict.fromkeys(found))


def _part(option: str, part: str) -> list[int]:
    if part.isdecimal() and int(part):
        return [int(part)]
    match = _RANGE.fullmatch(part)
    if match is None:
        raise UsageError(f"{option} {part!r}: give whole numbers from 1, as 2048 or 1,16 or 2048-32768*2")
    first, last, way, by = int(match[1]), int(match[2]), match[3] or "+", int(match[4] or 1)
    if not 0 < first <= last or by < (2 if way == "*" else 1):
        raise UsageError(f"{option} {part}: a range goes up from at least 1, as 2048-32768*2 or 512-2048+512")
    found = [first]
    while (after := found[-1] * by if way == "*" else found[-1] + by) <= last and len(found) <= MOST_NUMBERS:
        found.append(after)
    return found


def names(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Names with commas, each once. Raises UsageError for one that is not known."""
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in found if name not in known]
    if unknown or not found:
        raise UsageError(f"{option} {', '.join(unknown) or repr(text)}: choose from {', '.join(known)}")
    return found
