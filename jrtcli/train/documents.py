"""Seeded documents full of facts, wide in kinds, field names, wordings and values.

`sheets(seed, split=..., length_chars=...)` is an endless stream of `FactSheet`s; the same arguments give the
same stream. Splits: "train"; "heldout" (document kinds, field names and wordings that training never shows,
all at once); "heldout-kinds", "heldout-fields", "heldout-wordings" (one factor at a time). A bare field name
is a question in every split: it is not a wording.
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jrtcli.train.layouts import HELD_LAYOUTS, LAYOUTS
from jrtcli.train.sheet import Builder, Fact, FactSheet, Held
from jrtcli.train.values import Draw, org, person, title
from jrtcli.train.words import word_lists

__all__ = ["SPLITS", "Fact", "FactSheet", "measure", "one_sheet", "sheets"]

SPLITS: dict[str, Held] = {
    "train": Held(),
    "heldout": Held(kinds=True, fields=True, wordings=True),
    "heldout-kinds": Held(kinds=True),
    "heldout-fields": Held(fields=True),
    "heldout-wordings": Held(wordings=True),
}


class Kind(NamedTuple):
    """A kind of document: what it is headed with, and the layouts it comes in."""

    name: str
    headings: tuple[str, ...]
    layouts: tuple[str, ...]


@functools.cache
def kinds(held_out: bool) -> tuple[Kind, ...]:
    """The kinds of document of one side of the split; a layout listed twice comes more often."""
    found = []
    for row in word_lists("kinds.txt")["heldout kinds" if held_out else "kinds"]:
        name, headings, layouts = (cell.strip() for cell in row.split("|"))
        found.append(Kind(name, tuple(headings.split("; ")), tuple(layouts.split())))
    return tuple(found)


_NOISE = (0.0, 0.0, 0.15, 0.3, 0.6, 1.2, 2.5)


def sheets(
    seed: int, *, split: str = "train", length_chars: int = 1000, prose: Sequence[str] = ()
) -> Iterator[FactSheet]:
    """Endless documents of about `length_chars` characters.

    prose: real sentences, used as distractors and inside values; without them all text is made up.
    Raises KeyError if `split` is not one of `SPLITS`.
    """
    held = SPLITS[split]
    seeds = random.Random(f"{seed}/{split}/{length_chars}")
    while True:
        yield one_sheet(Draw(seeds.getrandbits(64), prose), held, length_chars)


def one_sheet(d: Draw, held: Held, length_chars: int) -> FactSheet:
    """The next document that `d` draws."""
    kind = d.of(kinds(held.kinds))
    layout = d.of(kind.layouts)
    builder = Builder(
        draw=d,
        held=held,
        limit=length_chars,
        noise=d.of(_NOISE),
        bare=d.of((0.0, 0.3, 0.3, 1.0)),
        case=d.of((0, 1, 1, 2, 2, 3)),
    )
    if d.random() < 0.8:
        heading = d.of(kind.headings)
        if "{" in heading:
            heading = heading.replace("{P}", person(d)).replace("{O}", org(d)).replace("{T}", title(d))
        builder.add(heading + d.of(("\n", "\n", "\n\n", " ")) if heading else "")
    (HELD_LAYOUTS if held.kinds else LAYOUTS)[layout](builder)
    return builder.sheet(kind.name)


def measure(seconds: float = 1.0, *, length_chars: int = 1400, prose: Sequence[str] = ()) -> float:
    """Characters per second that the generator makes on this machine, measured for `seconds`."""
    stream = sheets(0, length_chars=length_chars, prose=prose)
    next(stream)
    made, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        made += len(next(stream).text)
    return made / spent
