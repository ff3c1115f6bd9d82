"""The words that documents are made of, and which of them are kept for held-out field names.

The lists beside this file: `common.txt` (words of public-domain books and speeches), `technical.txt` (words
of public-domain regulatory summaries), `fields.txt` (field names by kind of value), `heads.txt` and
`modifiers.txt` (field names are also composed), `names.txt`. A word is *reserved* by a fixed rule (its CRC),
so that a field name made of reserved words never occurs as a field name in training. Reserved words do occur
inside values and prose.
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass
from importlib import resources

# Everyday words of forms stay open to training: a reader that never saw "number" as a field is of no use.
OPEN = frozenset(
    """
    510k 510(k) number date name type applicant product code device regulation section classification
    panel measurand predicate proprietary and established names purpose for submission special
    instrument requirements of test address phone email total amount price order invoice version status
    title author company manufacturer location city country time weight
    """.split()  # noqa: SIM905
)
RESERVED_SHARE = 6  # one word in six


def reserved(word: str) -> bool:
    """Whether `word` is kept for the field names of the held-out splits."""
    word = word.lower()
    return word not in OPEN and zlib.crc32(word.encode()) % RESERVED_SHARE == 0


def parts(name: str) -> list[str]:
    """The words of a field name."""
    return name.replace("-", " ").split()


@dataclass(frozen=True)
class Lexicon:
    """Words for values and prose; `extra` holds lists that only the values of training draw from."""

    words: tuple[str, ...]
    first: tuple[str, ...]
    last: tuple[str, ...]
    place: tuple[str, ...]
    suffix: tuple[str, ...]
    street: tuple[str, ...]
    classes: tuple[str, ...]
    units: tuple[str, ...]
    colors: tuple[str, ...]
    months: tuple[str, ...]
    extra: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class FieldNames:
    """Parts that field names are made of, for one side of the split: each entry is (name, kind of value)."""

    listed: tuple[tuple[str, str], ...]
    heads: tuple[tuple[str, str], ...]
    modifiers: tuple[str, ...]
    words: tuple[str, ...]


def read(name: str) -> str:
    """A word file."""
    return resources.files("jrtcli.train").joinpath("words", name).read_text(encoding="utf-8")


@functools.cache
def word_lists(name: str) -> dict[str, tuple[str, ...]]:
    """The lists of a word file with `## heading`s, by heading; empty lines do not count."""
    lists: dict[str, list[str]] = {}
    for line in read(name).splitlines():
        if line.startswith("## "):
            entries = lists.setdefault(line[3:], [])
        elif line:
            entries.append(line)
    return {heading: tuple(entries) for heading, entries in lists.items()}


def sections(name: str) -> dict[str, str]:
    """`label: rest of the line` for every line of a word file."""
    rows = (line.split(":", 1) for line in read(name).splitlines() if line.strip())
    return {label.strip(): rest.strip() for label, rest in rows}


@functools.cache
def lexicon(wide: bool) -> Lexicon:
    """The lists for values and prose; those of the held-out split, or these and more (`wide`)."""
    names, more = sections("names.txt"), sections("names_wide.txt")

    def both(label: str, cut: str | None) -> tuple[str, ...]:
        found = names[label].split(cut)
        return tuple(dict.fromkeys(found + more.get(label, "").split("|"))) if wide else tuple(found)

    return Lexicon(
        words=tuple(read("common.txt").split() + read("technical.txt").split()),
        first=both("first", None),
        last=both("last", None),
        place=both("place", None),
        suffix=both("suffix", None),
        street=both("street", None),
        classes=both("class", "|"),
        units=both("unit", "|"),
        colors=both("color", "|"),
        months=tuple(names["month"].split()),
        extra={label: tuple(entries.split("|")) for label, entries in more.items()},
    )


@functools.cache
def field_names(held_out: bool) -> FieldNames:
    """Parts of field names: all of whose words are reserved (held out) or none of whose are (training)."""

    def ours(name: str) -> bool:
        if held_out:
            return all(reserved(part) for part in parts(name))
        return not any(reserved(part) for part in parts(name))

    def all_of(file: str, cut: str | None) -> list[tuple[str, str]]:
        rows = [sections(file)] if held_out else [sections(file), sections(file.replace(".", "_wide."))]
        pairs = [(name, kind) for row in rows for kind, names in row.items() for name in names.split(cut)]
        return list(dict.fromkeys(pair for pair in pairs if ours(pair[0])))

    listed = all_of("fields.txt", "|")
    heads = all_of("heads.txt", None)
    more = "" if held_out else read("modifiers_wide.txt")
    modifiers = [word for word in (read("modifiers.txt") + more).split() if ours(word)]
    words = [word for word in lexicon(True).words if ours(word)]
    return FieldNames(tuple(listed), tuple(heads), tuple(modifiers), tuple(words))
