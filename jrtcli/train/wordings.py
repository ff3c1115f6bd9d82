"""How a fact is stated and how it is asked for: fixed wordings, relations in prose, and wordings made at
random.

A wording is a string with `{K}` (the field name) and `{V}` (the value), listed in `words/wordings.txt`; a
relation is `statement | question | kind of value` with `{S}` for its subject. The held-out lists share no
entry with the training lists, nor a connective. Random wordings (filler words around a connective) keep a
reader from leaning on a small set.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from jrtcli.train.values import Draw
from jrtcli.train.words import word_lists

Statement = tuple[str, str]  # what stands before the value, what stands after it


class Wordings(NamedTuple):
    """One side of the split."""

    lines: tuple[Statement, ...]
    sentences: tuple[Statement, ...]
    questions: tuple[str, ...]
    relations: tuple[tuple[Statement, str, str], ...]
    connectives: tuple[str, ...]
    asking: tuple[str, ...]


@functools.cache
def wordings(held_out: bool) -> Wordings:
    """The lists of one side of the split."""
    lists = word_lists("wordings.txt")
    side = "heldout " if held_out else ""
    relations = (entry.split(" | ") for entry in lists[side + "relations"])
    return Wordings(
        tuple(_cut(entry) for entry in lists[side + "lines"]),
        tuple(_cut(entry) for entry in lists[side + "sentences"]),
        tuple(lists[side + "questions"]),
        tuple((_cut(statement), question, kind) for statement, question, kind in relations),
        tuple(lists[side + "connectives"]),
        tuple(lists[side + "asking"]),
    )


def _cut(entry: str) -> Statement:
    before, after = entry.replace("\\t", "\t").split("{V}")
    return before, after


def statement(d: Draw, held_out: bool, prose: bool) -> tuple[str, str]:
    """What stands before the value (with `{K}` in it or in what follows) and what stands after it."""
    if d.random() < 0.35:
        return _random_statement(d, held_out, prose)
    return d.of(wordings(held_out).sentences if prose else wordings(held_out).lines)


def _random_statement(d: Draw, held_out: bool, prose: bool) -> tuple[str, str]:
    connective = d.of(wordings(held_out).connectives)
    head = " ".join([d.word() for _ in range(d.below(4))])
    # What follows a value, or comes before one that opens, is set off from it: its bounds can be known.
    tail = d.of(_SET_OFF) + " ".join([d.word() for _ in range(1 + d.below(2))]) if d.random() < 0.5 else ""
    middle = d.word() + " " if d.random() < 0.3 else ""
    the = d.of(("the ", "", "a ", "this ", "our ")) if prose else ""
    end = d.of((".", ";", ".")) if prose else ""
    if d.random() < 0.8 or not prose:
        return f"{head} {the}{{K}} {middle}{connective} ".lstrip(), (tail + end if prose else "")
    return head + d.of(
        (": ", ", ", " - ", " that ")
    ) if head else "", f" {middle}{connective} {the}{{K}}{tail}{end}"


_SET_OFF = (", ", "; ", " - ", " (see ", ", and ", " because ", ", not ", " whereas ", " after ")


def question(d: Draw, held_out: bool, bare: float) -> str:
    """A question with `{K}` in it: the bare field name with probability `bare`."""
    r = d.random()
    if r < bare:
        return "{K}:" if d.random() < 0.35 else "{K}"
    if d.random() < 0.2:
        head = d.of(wordings(held_out).asking)
        filler = "".join([d.word() + " " for _ in range(d.below(3))])
        tail = "".join([" " + d.word() for _ in range(d.below(3))]) if d.random() < 0.4 else ""
        return f"{head} {filler}{d.of(('the ', '', 'its '))}{{K}}{tail}{d.of(('?', '', '?', '.'))}"
    return d.of(wordings(held_out).questions)
