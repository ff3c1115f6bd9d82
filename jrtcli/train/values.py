"""Values of facts: anything a field can hold, by kind of value.

Breadth is what teaches copying: with values of one kind only, a small model copies only that kind. `MAKERS`
are the kinds; training draws from them at their widest, the held-out split from the basic ones.
"""

from __future__ import annotations

from jrtcli.train.basics import (
    MAKERS,
    Draw,
    Maker,
    any_word,
    code,
    coined,
    date,
    long_phrase,
    org,
    person,
    phrase,
    quantity,
    time,
    title,
    words,
)
from jrtcli.train.formats import WIDE

__all__ = [
    "MAKERS", "WIDE", "Draw", "any_word", "code", "coined", "date", "org", "person", "phrase", "quantity",
    "time", "title", "value", "words",
]  # fmt: skip

_BASIC_ANY: tuple[Maker, ...] = (
    *MAKERS.values(), coined, any_word, phrase, phrase, long_phrase,
)  # fmt: skip
_WIDE_ANY: tuple[Maker, ...] = (
    *WIDE.values(), *(WIDE[kind] for kind in MAKERS), coined, any_word, phrase, phrase, long_phrase,
)  # fmt: skip


def value(d: Draw, kind: str, stray: float = 0.2) -> str:
    """A value that suits `kind`, or with probability `stray` one of any kind at all."""
    if d.wide:
        text = (d.of(_WIDE_ANY) if d.random() < stray else WIDE[kind])(d)
    else:
        text = d.of(_BASIC_ANY)(d) if d.random() < stray else MAKERS[kind](d)
    return text.strip() or "none"
