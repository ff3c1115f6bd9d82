"""How a fact is stated and how it is asked for: fixed wordings, relations in prose, and wordings made at
random.

A wording is a string with `{K}` (the field name) and `{V}` (the value), listed in `words/wordings.txt`, and
for training in `words/wordings_wide.txt` too; a relation is `statement | question | kind of value` with `{S}`
for its subject. The held-out lists share no entry with the training lists, nor a connective. Random wordings
keep a reader from leaning on a small set.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from jrtcli.train import questions
from jrtcli.train.basics import Draw
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
    more = {} if held_out else word_lists("wordings_wide.txt")

    def entries(name: str) -> tuple[str, ...]:
        return lists[side + name] + more.get(name, ())

    relations = (entry.split(" | ") for entry in entries("relations"))
    return Wordings(
        tuple(_cut(entry) for entry in entries("lines")),
        tuple(_cut(entry) for entry in entries("sentences")),
        entries("questions"),
        tuple((_cut(statement), question, kind) for statement, question, kind in relations),
        entries("connectives"),
        entries("asking"),
    )


def _cut(entry: str) -> Statement:
    before, after = entry.replace("\\t", "\t").split("{V}")
    return before, after


def statement(d: Draw, held_out: bool, prose: bool) -> Statement:
    """What stands before the value (with `{K}` in it or in what follows) and what stands after it."""
    if not held_out and prose and d.random() < 0.2:
        return _any_sentence(d)
    if d.random() < 0.35:
        return _random_statement(d, held_out, prose)
    return d.of(wordings(held_out).sentences if prose else wordings(held_out).lines)


def _random_statement(d: Draw, held_out: bool, prose: bool) -> Statement:
    """Filler words around a listed connective."""
    connective = d.of(wordings(held_out).connectives)
    head = " ".join([d.word() for _ in range(d.below(4))])
    # What follows a value, or comes before one that opens, is set off from it: its bounds can be known.
    tail = d.of(_SET_OFF) + " ".join([d.word() for _ in range(1 + d.below(2))]) if d.random() < 0.5 else ""
    middle = d.word() + " " if d.random() < 0.3 else ""
    the = d.of(("the ", "", "a ", "this ", "our ")) if prose else ""
    end = d.of((".", ";", ".")) if prose else ""
    if d.random() < 0.8 or not prose:
        return f"{head} {the}{{K}} {middle}{connective} ".lstrip(), (tail + end if prose else "")
    head += d.of((": ", ", ", " - ", " that ")) if head else ""
    if not held_out:  # a filler word after the value would be taken for a part of it
        return head, f"{d.of((',', ',', ' -', ';', ''))} {connective} {the}{{K}}{tail}{end}"
    return head, f" {middle}{connective} {the}{{K}}{tail}{end}"


_SET_OFF = (", ", "; ", " - ", " (see ", ", and ", " because ", ", not ", " whereas ", " after ")
# Pairs of marks that a value stands between, where the words around it are any words.
_AROUND = (
    (": ", "."), (": ", ";"), (", ", ","), (" - ", " -"), (" (", ")"), (' "', '"'), (" '", "'"),
    (" – ", " –"), (": ", ","), (" = ", ","), (" “", "”"), (", ", ";"), (" ... ", " ..."), (" <", ">"),
    (": ", " -"), (" : ", " ;"),
)  # fmt: skip
_THE = ("the ", "the ", "the ", "", "", "a ", "this ", "our ", "its ", "one ", "that ", "every ", "your ")


def _any_sentence(d: Draw) -> Statement:
    """A sentence of any words, the field name and the value at any place, the value set off by marks."""
    free = questions.free_words()

    def some(low: int, high: int) -> str:
        return " ".join([d.of(free) for _ in range(low + d.below(high - low + 1))])

    opening, closing = d.of(_AROUND)
    key, end = d.of(_THE) + "{K}", d.of((".", ".", ".", ";", "!", ""))
    r = d.random()
    if r < 0.65:
        head, link = some(0, 4), some(0, 3) if d.random() < 0.75 else d.of(wordings(False).connectives)
        before = " ".join([part for part in (head, key, link) if part])
        before = _opened(d, before) + opening
        if closing in ".;" or d.random() < 0.35:
            return before, closing if closing in (".", ";") else closing + "."
        return before, f"{closing} {some(1, 4)}{end}"
    head, link, tail = some(0, 3), some(0, 3), some(0, 3)
    after = " ".join([part for part in (link, key, tail) if part]) + end
    if not head:
        opening = opening.strip() if opening.strip() in ("(", '"', "“", "<", "'") else ""
        return opening, f"{closing if opening or closing not in (')', '”', '>') else ','} {after}"
    return _opened(d, head) + opening, f"{closing} {after}"


def _opened(d: Draw, text: str) -> str:
    return text[:1].upper() + text[1:] if text[:1] != "{" and d.random() < 0.75 else text


def question(d: Draw, held_out: bool, bare: float) -> str:
    """A question with `{K}` in it: the bare field name with probability `bare`."""
    r = d.random()
    if r < bare:
        if d.wide:
            return questions.bare(d)
        return "{K}:" if d.random() < 0.35 else "{K}"
    if not held_out and d.random() < 0.15:
        return questions.made_up(d)
    if d.random() < 0.2:
        head = d.of(wordings(held_out).asking)
        filler = "".join([d.word() + " " for _ in range(d.below(3))])
        tail = "".join([" " + d.word() for _ in range(d.below(3))]) if d.random() < 0.4 else ""
        return f"{head} {filler}{d.of(('the ', '', 'its '))}{{K}}{tail}{d.of(('?', '', '?', '.'))}"
    return d.of(wordings(held_out).questions)
