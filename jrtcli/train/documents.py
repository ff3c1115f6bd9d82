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

from jrtcli.train import traps
from jrtcli.train.figures import measure_of
from jrtcli.train.layouts import HELD_LAYOUTS, LAYOUTS
from jrtcli.train.sheet import Builder, Fact, FactSheet, Held
from jrtcli.train.values import Draw, org, person, title
from jrtcli.train.words import parts, reserved, sections, word_lists

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
    fields: tuple[tuple[str, str], ...] = ()  # names that suit it, with their kinds of value


@functools.cache
def kinds(held_out: bool) -> tuple[Kind, ...]:
    """The kinds of document of one side of the split; a layout listed twice comes more often."""
    found = []
    for row in word_lists("kinds.txt")["heldout kinds" if held_out else "kinds"]:
        name, headings, layouts = (cell.strip() for cell in row.split("|"))
        found.append(Kind(name, tuple(headings.split("; ")), tuple(layouts.split())))
    return tuple(found)


@functools.cache
def suited_kinds() -> tuple[Kind, ...]:
    """Kinds of document with fields of their own; for training only."""
    found = []
    for row in sections("kinds_wide.txt").items():
        name, (headings, style, fields) = row[0], (cell.strip() for cell in row[1].split("|"))
        found.append(Kind(name, tuple(headings.split("; ")), _STYLES[style], _fields(fields)))
    return tuple(found)


def _fields(groups: str) -> tuple[tuple[str, str], ...]:
    """`person tenant, landlord; money rent` as pairs; names with a word that is held out are left out."""
    pairs = []
    for group in groups.split("; "):
        kind, names = group.split(" ", 1)
        for name in names.split(","):
            pairs.append((name.strip(), measure_of(name) if kind == "qty" else kind))
    return tuple((name, kind) for name, kind in pairs if not any(reserved(w) for w in parts(name)))


_STYLES = {
    "form": ("lines", "table", "stacked", "inline", "running", "sections", "lines"),
    "text": ("prose", "prose", "log", "running", "sections"),
    "mixed": ("lines", "prose", "sections", "inline", "running", "stacked", "table"),
    "list": ("table", "inline", "lines", "marked_up", "grid"),
}
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
    """The next document that `d` draws.

    The split that holds out everything is fixed: all that was added for training since is kept from it
    (`Draw.widen`), so that numbers measured on it compare.
    """
    d.widen(not (held.kinds and held.fields and held.wordings))
    suited = d.wide and not held.kinds and not held.fields and d.random() < 0.42
    kind = d.of(suited_kinds()) if suited else d.of(kinds(held.kinds))
    layout = d.of(kind.layouts)
    builder = Builder(
        draw=d,
        held=held,
        limit=length_chars,
        noise=d.of(_NOISE),
        bare=d.of((0.0, 0.3, 0.3, 1.0)),
        case=d.of((0, 1, 1, 2, 2, 3)),
    )
    if suited:
        builder.suited, builder.stray = kind.fields, 0.05
    if d.wide:
        builder.traps = d.random() < 0.3
        if not held.kinds and not held.wordings and d.random() < 0.4:
            layout = "framed"
    if d.random() < 0.8:
        heading = d.of(kind.headings)
        if "{" in heading:
            heading = heading.replace("{P}", person(d)).replace("{O}", org(d)).replace("{T}", title(d))
        builder.add(heading + d.of(("\n", "\n", "\n\n", " ")) if heading else "")
    if builder.traps and d.random() < 0.12:
        names = [d.of(kind.fields)[0] if kind.fields else d.word() for _ in range(2 + d.below(3))]
        builder.add(traps.contents(d, names))
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
