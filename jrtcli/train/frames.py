"""A layout whose syntax is drawn at random for every document, so that no syntax is special.

A `Frame` says how a fact is written: what stands before the field name, between it and the value, and after
the value, how many facts stand in a line, and what divides groups of lines. The marks of the held-out
wordings and layouts never occur in one (`HELD_MARKS`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jrtcli.train import values, wordings
from jrtcli.train.questions import free_words
from jrtcli.train.sheet import Builder
from jrtcli.train.values import Draw

HELD_MARKS = (">>", "->", "~", ":=", "//", "§", "+--")
_MARKS = ":-=.,;|?&%@^_$'\"<>{}+"
_MORE_MARKS = ("–", "—", "•", "·", "¦", "…", "::", "==", "--", "||", "..", "=>", "<>", "|:", ":-")
_ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii")


@dataclass(frozen=True, slots=True)
class Frame:
    """How one document writes its facts. `before` and `after` hold `{K}`; `stops` end a value."""

    mark: Callable[[int], str]
    before: str
    after: str
    closing: str  # the part of `after` that closes what `before` opened
    per_line: int
    between: str
    stops: tuple[str, ...]
    rule: str  # divides groups of lines; empty: no groups
    blank: bool  # an empty line after every line


def _allowed(text: str) -> bool:
    return not any(mark in text for mark in HELD_MARKS)


def marks(d: Draw) -> str:
    """One to three marks, none of them held out."""
    while True:
        r = d.random()
        if r < 0.3:
            text = d.of(_MORE_MARKS)
        elif r < 0.5:
            text = d.of(_MARKS) * (1 + d.below(3))
        else:
            text = d.letters(1 + d.below(3), _MARKS)
        if _allowed(text):
            return text


def _word(d: Draw) -> str:
    return d.of(free_words())


def _numbering(d: Draw) -> Callable[[int], str]:
    """Numbers, letters or numerals of a line, in one style."""
    style, first = d.below(9), d.below(20) if d.random() < 0.3 else 1
    wrap = d.of(
        (
            "{}. ",
            "{}. ",
            "{}) ",
            "({}) ",
            "{}: ",
            "{} ",
            "{} - ",
            "No. {} ",
            "{}.- ",
            "<{}> ",
            "{} | ",
            "{}.\t",
            "{}/ ",
        )
    )
    if d.random() < 0.2:
        name = d.of(("Item", "Field", "Line", "Part", "Box", "Row", "Step", _word(d)))
        wrap = f"{name} {{}}" + d.of((": ", ". ", " - ", " "))
    if d.random() < 0.2:
        wrap = marks(d) + d.of(("", " ")) + wrap
    base, every = 1 + d.below(30), 2 + d.below(8)

    def mark(i: int) -> str:
        n = first + i
        text = (
            str(n), chr(65 + n % 26), chr(97 + n % 26), _ROMAN[n % 12], _ROMAN[n % 12].upper(),
            f"{n:02d}", f"{base}.{n}", f"{base + n // every}.{1 + n % every}",
            f"{base + n // every}.{1 + n % every}.{1 + n % 2}",
        )[style]  # fmt: skip
        return wrap.replace("{}", text)

    return mark


def _lead(d: Draw) -> Callable[[int], str]:
    """What a line begins with."""
    r = d.random()
    if r < 0.3:
        return lambda i: ""
    if r < 0.5:
        bullet = d.of(
            (
                "- ",
                "* ",
                "• ",
                "+ ",
                "o ",
                "· ",
                "– ",
                "> ",
                "| ",
                "  ",
                "\t",
                "[ ] ",
                "[x] ",
                ". ",
                "' ",
                "-- ",
                "@",
            )
        )
        return lambda i: bullet
    if r < 0.75:
        return _numbering(d)
    if r < 0.85:
        made, cut = (
            d.of((values.time, values.date, values.code, values.person, values.any_word)),
            d.of((" ", ": ", " - ", " | ", ", ")),
        )
        return lambda i: made(d).replace("//", "/").replace("~", "") + cut
    if r < 0.93:
        word = _word(d) + d.of((" ", ": ", ", ", ". ", " - ", "_", "."))
        return lambda i: word
    bullet = marks(d) + " "
    return lambda i: bullet if bullet != "! " else ""


_WRAPS = (
    ('"', '"'), ("<", ">"), ("(", ")"), ("_", "_"), ("'", "'"), ("{", "}"), ("`", "`"), ("*", "*"),
    ("**", "**"), ("“", "”"), ("[", "]"), ("<b>", "</b>"),
)  # fmt: skip
_VALUE_WRAPS = (
    ('"', '"'),
    ("'", "'"),
    ("(", ")"),
    ("<", ">"),
    ("{", "}"),
    ("“", "”"),
    ("«", "»"),
    ("_", "_"),
    ("`", "`"),
    ("|", "|"),
    ("<i>", "</i>"),
    ("=", "="),
)
_ENDINGS = (
    ".",
    ";",
    ",",
    " .",
    " |",
    " ;",
    "<br>",
    " ok",
    " end",
    " ---",
    "</v>",
    " :",
    " <",
    "...",
    "_",
)
_BETWEEN = (
    "; ",
    "; ",
    ", ",
    " | ",
    " • ",
    "   ",
    " & ",
    "\t",
    " and ",
    " plus ",
    ". ",
    " - ",
    " · ",
    " then ",
    "  ",
)


def _joint(d: Draw) -> str:
    """What stands between a field name and its value."""
    r = d.random()
    if r < 0.25:
        return d.of((": ", ": ", " : ", ":", ":\t", ":  ", " :"))
    if r < 0.32:
        return d.of((":\n", "\n", "\n  ", "\n\t", " -\n", "?\n"))
    if r < 0.62:
        text = marks(d)
        return d.of((f" {text} ", f" {text} ", f"{text} ")) if d.random() < 0.85 else f" {text}"
    if r < 0.74:
        return d.of((f" {_word(d)} ", f" {_word(d)} {_word(d)} ", f", {_word(d)} "))
    if r < 0.86:
        word = _word(d)
        return d.of(
            (
                f" {word}: ",
                f" ({word}): ",
                f" - {word} - ",
                f" {word}, ",
                f": {word} ",
                f" <{word}> ",
                f" {word} = ",
            )
        )
    dot = d.of((".", " ", "_", "-", " .", "\t"))
    return dot * ((1 if dot == "\t" else 3) + d.below(6)) + d.of(("", " "))


def draw_frame(d: Draw) -> Frame:
    """A syntax that is as good as new in every document."""
    opened, closed = d.of(_WRAPS) if d.random() < 0.25 else ("", "")
    joint = _joint(d)
    wrap = d.of(_VALUE_WRAPS) if d.random() < 0.3 else ("", "")
    r, end = d.random(), ""
    if r < 0.4:
        end = d.of(_ENDINGS) if r < 0.17 else d.of((" ", "")) + marks(d)
    r = d.random()
    per_line = 1 if r < 0.6 or "\n" in joint else 2 + d.below(2) if r < 0.85 else 99
    between = d.of(_BETWEEN) if d.random() < 0.8 else f" {marks(d)} "
    if between.strip() == joint.strip():
        between = "; " if joint.strip() != ";" else " | "
    stops = [text for text in (wrap[1], end.strip(), between.strip() if per_line > 1 else "") if text]
    if per_line > 1 and not between.strip():
        stops.append("  ")
    rule = ""
    if d.random() < 0.3:
        rule = d.of("-=_.:^%&@'") * (3 + d.below(14)) if d.random() < 0.5 else "head"
    before, after = f"{opened}{{K}}{closed}{joint}{wrap[0]}", wrap[1] + end
    if not _allowed(before + after) or (wrap[0] == "<" and joint.endswith("<")):
        return draw_frame(d)
    return Frame(_lead(d), before, after, wrap[1], per_line, between, tuple(stops), rule, d.random() < 0.12)


def _head(b: Builder) -> str:
    """The heading of a group."""
    d = b.draw
    name = b.cased(f"{_word(d)} {_word(d)}") if d.random() < 0.7 else _word(d)
    return d.of(
        ("{}", "{}:", "-- {} --", "== {}", "<{}>", "Part {}", "{} ....", "# {}", "({})", "* {} *", "_{}_")
    ).format(name)


def framed(b: Builder) -> None:
    """Facts in a syntax that this document alone has."""
    d = b.draw
    frame = draw_frame(d)
    b.stops = frame.stops
    loose = d.random() < 0.25
    i = 0
    while b.room():
        if frame.rule and i % 4 == 0:
            b.add((_head(b) if frame.rule == "head" else frame.rule) + "\n")
        for n in range(frame.per_line):
            if n:
                b.add(frame.between)
            lead, joint = frame.mark(i), (frame.before, frame.after)
            if loose:  # every fact in words of its own, in the marks of the document
                before, after = wordings.statement(d, False, False)
                joint = (before, after + frame.after[len(frame.closing) :])
            b.fact(False, joint, lead)
            i += 1
            if not b.room() or (frame.per_line == 99 and d.random() < 0.15):
                break
        b.add("\n\n" if frame.blank else "\n")
        b.distract("\n")
    b.stops = ()
