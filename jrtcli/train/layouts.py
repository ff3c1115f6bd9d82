"""How a document arranges its facts: lines, a numbered running line, a table, prose, records, a log, a
dialogue.

A layout is a function of a `Builder` that writes facts and distractors until the builder has no room.
`HELD_LAYOUTS` are never used in training.
"""

from __future__ import annotations

from collections.abc import Callable

from jrtcli.train import traps, values, wordings
from jrtcli.train.frames import framed
from jrtcli.train.sheet import Builder, subject
from jrtcli.train.tables import grid, table

Layout = Callable[[Builder], None]
_ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")


def _fixed(b: Builder) -> tuple[str, str] | None:
    """One wording for all lines of a document, or None: each line has its own."""
    return wordings.statement(b.draw, b.held.wordings, prose=False) if b.draw.random() < 0.7 else None


def lines(b: Builder) -> None:
    """Key-value lines, with paragraphs between them at times."""
    fixed, mark = _fixed(b), b.draw.of(("", "", "", "- ", "* ", "• ", "  "))
    while b.room():
        b.fact(False, fixed, mark)
        b.add("\n")
        b.distract("\n")


def running(b: Builder) -> None:
    """Lettered or numbered headings, all in one line, some with numbered facts below them."""
    d = b.draw
    glue = d.of((" ", " ", " ", "\n"))
    colon = d.of((": ", ": ", ": ", " ", " - ")) if not b.held.wordings else d.of((" >> ", " ~ ", " -> "))
    style, i = d.below(3), 0
    while b.room():
        mark = (
            f"{chr(65 + i % 26)}. " if style == 0 else f"{i + 1}. " if style == 1 else f"{_ROMAN[i % 12]}. "
        )
        i += 1
        r = d.random()
        if r < 0.25:
            b.add(mark + b.cased(f"{d.word()} {d.word()}") + ":" + glue)
            for n in range(1 + d.below(4)):
                b.fact(False, ("{K}" + colon, glue), f"{n + 1}. " if style != 1 else f"{chr(97 + n)}. ")
        else:
            b.fact(False, ("{K}" + colon, glue), mark)
        b.distract(glue)


def stacked(b: Builder) -> None:
    """The key on its own line, the value on the next."""
    d = b.draw
    colon, mark = d.of((":\n", ":\n", "\n", " -\n")), d.random() < 0.5
    i = 0
    while b.room():
        i += 1
        # At times a page ends between the two.
        page = f"{traps.furniture(d)}\n" if b.traps and colon[-1] == "\n" and d.random() < 0.15 else ""
        b.fact(False, ("{K}" + colon + page, "\n"), f"{i}. " if mark else "")
        b.distract("\n")


def prose(b: Builder) -> None:
    """Paragraphs of sentences, each with a fact or none."""
    d = b.draw
    while b.room():
        for _ in range(2 + d.below(5)):
            b.fact(True)
            b.add(" ")
            b.distract()
        b.add("\n")


def inline(b: Builder) -> None:
    """Facts one after another in a line, cut by semicolons or commas."""
    d = b.draw
    sep, fixed = d.of(("; ", ", ", " | ", " / ", ". ", "  ")), _fixed(b)
    b.stops = (sep.strip(),) if sep.strip(" .") else (sep,)
    while b.room():
        b.fact(False, fixed)
        b.add(sep if d.random() < 0.85 else "\n")
        b.distract()
    b.stops = ()


def about(b: Builder) -> None:
    """What two to five subjects did and are: biographies, event notices, news."""
    d = b.draw
    who = [subject(d) for _ in range(1 + d.below(4))]
    while b.room():
        if d.random() < 0.1:
            who.append(subject(d))
        s = d.of(who)
        if d.random() < 0.55:
            if not b.relation(s):
                b.add(b.sentence() + " ")
                who.append(subject(d))
        else:
            _attribute(b, s, d.of(_POSSESSIVE))
            b.add(" ")
        b.distract()
        if d.random() < 0.15:
            b.add("\n")


_POSSESSIVE = (
    "The {K} of {S} is ",
    "{S} has the {K} ",
    "For {S} the {K} was ",
    "{S}: {K} ",
    "{S} gave as {K} ",
    "The {K} for {S} reads ",
)


def _attribute(b: Builder, s: str, form: str, key: str = "", kind: str = "", end: str = ".") -> None:
    if not key:
        key, kind = b.new_key()
    before = form.replace("{K}", key).replace("{S}", s)
    b.place(before, b.value(kind, end), end, f"{key} of {s}".lower(), b.ask(key, s))


def records(b: Builder) -> None:
    """Several entities with the same fields: the question names the entity."""
    d = b.draw
    fields = [b.new_key() for _ in range(2 + d.below(4))]
    flat = d.random() < 0.5
    while b.room():
        s = subject(d)
        if s.lower() in b.taken:
            continue
        b.taken.add(s.lower())
        b.add(s + d.of((": ", " - ")) if flat else d.of(("Entry: ", "", "Name: ")) + s + "\n")
        for key, kind in fields:
            if d.random() < 0.85:
                _attribute(b, s, d.of(("{K} ", "{K}: ", "{K}: ")), key, kind, "; " if flat else "\n")
        b.add("\n")
        b.distract("\n")


def marked_up(b: Builder) -> None:
    """JSON, YAML, XML, INI or shell assignments."""
    d = b.draw
    before, after = d.of(
        (
            ('  "{K}": "', '",\n'),
            ("{K}: ", "\n"),
            ("<{K}>", "</{K}>\n"),
            ("{K} = ", "\n"),
            ("set {K} ", "\n"),
            ("{K} = '", "'\n"),
        )
    )
    b.add(d.of(("{\n", "", "---\n", f"[{d.word()}]\n", "<root>\n")))
    while b.room():
        b.fact(False, (before, after))


def log(b: Builder) -> None:
    """Dated entries, some of which state a fact."""
    d = b.draw
    stamp = d.of((values.time, values.date, values.code, values.person))
    while b.room():
        b.add(f"{stamp(d)}{d.of((' ', ': ', ' - '))}")
        b.fact(d.random() < 0.6)
        b.add("\n")
        b.distract("\n")


def sections(b: Builder) -> None:
    """Headed sections, each arranged in its own way."""
    d, limit = b.draw, b.limit
    while b.length < limit:
        b.add(d.of(("\n## ", "\n", "\n== ", "\nSection: ", "\n")) + b.cased(f"{d.word()} {d.word()}") + "\n")
        b.limit = min(limit, b.length + 80 + d.below(500))
        d.of((lines, prose, inline, running, stacked, framed, table, grid))(b)
    b.limit = limit


_FDA = (
    ("510(k) Number", "510k number", "code"), ("Purpose for Submission", "purpose for submission", "phrase"),
    ("Measurand", "measurand", "word"), ("Type of Test", "type of test", "phrase"),
    ("Applicant", "applicant", "org"),
    ("Proprietary and Established Names", "proprietary and established names", "title"),
)  # fmt: skip
_FDA_REGULATION = (
    ("Regulation section", "regulation section", "reg"), ("Classification", "classification", "class"),
    ("Product code", "product code", "code"), ("Panel", "panel", "class"),
)  # fmt: skip
_FDA_LATER = (
    ("Predicate device name(s)", "predicate device name", "title"),
    ("Predicate 510(k) number(s)", "predicate 510k number", "code"),
)


def regulatory(b: Builder) -> None:
    """A decision summary: lettered headings with numbered parts, all in one line, much prose after them."""
    d, i = b.draw, 0
    real = d.random() < 0.6 and not b.held.fields
    glue = d.of((" ", " ", " ", "\n"))

    def one(mark: str, shown: str, key: str, kind: str) -> None:
        if not real:
            key, kind = b.new_key()
            shown = b.cased(key)
        elif key in b.taken or d.random() < 0.1:
            return
        b.taken.add(key)
        b.place(f"{mark}{shown}:{glue}", b.value(kind, glue), glue, key, b.ask(key))

    b.add("510(k) SUBSTANTIAL EQUIVALENCE DETERMINATION DECISION SUMMARY" + glue)
    for shown, key, kind in _FDA:
        one(f"{chr(65 + i)}. ", shown, key, kind)
        i += 1
    b.add(f"{chr(65 + i)}. Regulatory Information:{glue}")
    for n, (shown, key, kind) in enumerate(_FDA_REGULATION):
        one(f"{n + 1}. ", shown, key, kind)
    b.add(f"{chr(66 + i)}. Intended Use:{glue}")
    b.noise = max(b.noise, 0.5)
    while b.length < b.limit * 0.6:
        b.add(b.sentence() + " ")
    if d.random() < 0.7:
        one("4. ", "Special instrument requirements", "special instrument requirements", "phrase")
    b.add(f"{chr(67 + i)}. Substantial Equivalence Information:{glue}")
    for n, (shown, key, kind) in enumerate(_FDA_LATER):
        one(f"{n + 1}. ", shown, key, kind)
    while b.room():
        b.add(b.sentence() + " ")


def dialogue(b: Builder) -> None:
    """Two speakers."""
    d = b.draw
    one, two = d.of(d.lex.first), d.of(d.lex.first) + " " + d.letters(1)
    while b.room():
        b.add(f"{one}: ")
        b.fact(True)
        b.add(f"\n{two}: {b.sentence()}\n")


def clauses(b: Builder) -> None:
    """Numbered clauses with the key in a margin."""
    i = 0
    while b.room():
        i += 1
        b.fact(False, None, f"§ {1 + i // 5}.{1 + i % 5} ")
        b.add(" //\n")
        b.distract(" //\n")


def cards(b: Builder) -> None:
    """Boxed cards of two facts in a row."""
    while b.room():
        b.add("+----+\n")
        for _ in range(2):
            b.fact(False, None, "! ")
            b.add(" !")
        b.add("\n")
        b.distract("\n")


LAYOUTS: dict[str, Layout] = {
    "lines": lines, "running": running, "stacked": stacked, "table": table, "prose": prose, "inline": inline,
    "about": about, "records": records, "marked_up": marked_up, "log": log, "sections": sections,
    "regulatory": regulatory, "framed": framed, "grid": grid,
}  # fmt: skip
HELD_LAYOUTS: dict[str, Layout] = {"dialogue": dialogue, "clauses": clauses, "cards": cards}
