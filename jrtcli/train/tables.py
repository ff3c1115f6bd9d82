"""Layouts in rows and columns: two columns of names and values, and grids of several things."""

from __future__ import annotations

from jrtcli.train.sheet import Builder, subject


def table(b: Builder) -> None:
    """Rows of two columns."""
    d = b.draw
    left, mid, right = d.of(
        (("| ", " | ", " |\n"), ("", "\t", "\n"), ("", "    ", "\n"), ("", ",", "\n"), ("", " | ", "\n"))
    )
    b.add(f"{left}{b.cased(d.word())}{mid}{b.cased(d.word())}{right}")
    while b.room():
        b.fact(False, (left + "{K}" + mid, right))


def grid(b: Builder) -> None:
    """A row of field names, then a row per thing: the question names the thing and the field."""
    d = b.draw
    left, mid, right = d.of(
        (
            ("| ", " | ", " |\n"),
            ("", "\t", "\n"),
            ("", "   ", "\n"),
            ("", ";", "\n"),
            ("", " | ", "\n"),
            ("", " & ", "\n"),
        )
    )
    fields = [b.new_key() for _ in range(2 + d.below(3))]
    b.stops = (mid.strip(" ") or "  ",)
    b.add(left + mid.join([b.cased(d.word()), *(b.cased(key) for key, _ in fields)]) + right)
    if d.random() < 0.3:
        b.add(left + mid.join(["---"] * (len(fields) + 1)) + right)
    while b.room():
        s = subject(d)
        if s.lower() in b.taken or b.stops[0] in s:
            continue
        b.taken.add(s.lower())
        b.add(left + s)
        for key, kind in fields:
            b.place(mid, b.value(kind), "", f"{key} of {s}".lower(), b.ask(key, s))
        b.add(right)
    b.stops = ()
