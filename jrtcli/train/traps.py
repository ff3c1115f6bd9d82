"""What makes a reader look twice: fields that differ by a word, field names without a value, headers and
footers."""

from __future__ import annotations

from jrtcli.train import values
from jrtcli.train.values import Draw
from jrtcli.train.words import field_names, reserved


def near(d: Draw, key: str, kind: str, held_out: bool) -> tuple[str, str]:
    """A field name that shares words with `key`, of the same kind of value."""
    names = field_names(held_out)
    words = key.split()
    r = d.random()
    if len(words) > 1 and r < 0.35:  # same head, another modifier
        return f"{d.of(names.modifiers)} {words[-1]}", kind
    if len(words) > 1 and r < 0.5:  # same modifier, another head
        head, kind = d.of(names.heads)
        return f"{words[0]} {head}", kind
    if r < 0.85 or held_out:
        return f"{d.of(names.modifiers)} {key}", kind
    return f"{key} {d.of(_LATER)}", kind


_ENDINGS = ("2", "(old)", "(new)", "before", "after", "by", "type", "date", "code", "total", "(max)", "B")
_LATER = tuple(ending for ending in _ENDINGS if not reserved(ending))


def mention(d: Draw, key: str) -> str:
    """A sentence with a field name, its own or another, and no value; or a line of page furniture."""
    r = d.random()
    if r < 0.25:
        return furniture(d)
    if r < 0.5:
        key = d.of(field_names(False).listed)[0]
    text = d.of(_MENTIONS).replace("{K}", key)
    text = text.replace("{W}", d.word())
    return text[:1].upper() + text[1:]  # it may follow a value: its start must be seen


def furniture(d: Draw) -> str:
    """A page number, a header or a footer."""
    n, r = 1 + d.below(30), d.below(10)
    if r == 0:
        return f"{values.org(d)} | {values.date(d)} | p. {n}"
    if r == 1:
        return f"{d.word().capitalize()} {d.word()} (continued)"
    if r == 2:
        return f"Printed {values.date(d)}"
    return d.of(_PAGES).format(n=n, of=n + d.below(40))


_PAGES = (
    "Page {n} of {of}", "Page {n} of {of}", "- {n} -", "Page {n}", "[page {n}]", "(continued on next page)",
    "CONFIDENTIAL", "{n}/{of}", "continued overleaf", "p. {n}", "Sheet {n} of {of}", "DRAFT", "Copy {n}",
)  # fmt: skip


def contents(d: Draw, names: list[str]) -> str:
    """A table of contents: parts of the document that are named before their time."""
    lines = [d.of(("Contents", "In this document", "Index", "Overview of parts"))]
    style = d.of(("{i}. {name}", "{name} (p. {p})", "{i} {name}, page {p}", "- {name}", "{name}"))
    lines += [style.format(i=i + 1, name=name, p=i + 1 + d.below(5)) for i, name in enumerate(names)]
    return "\n".join(lines) + "\n\n"


_MENTIONS = (
    "The {K} is described below.", "See the {K} in the annex.", "Please check the {K} before signing.",
    "What is the {K}?", "The {K} may be changed without notice.", "For the {K}, ask at the desk.",
    "Nobody had asked about the {K}.", "The {K} was not given at first.",
    "Changes of the {K} need approval.", "How the {K} is found: see the manual.",
    "Do not confuse this with the {K}.", "The {K} follows.", "A new {K} will be set {W} year.",
    "They argued about the {K} for hours.", "Write the {K} in block letters.",
    "The {K} must be {W} and complete.", "(see {K})", "Note on the {K}: {W} {W}.",
    "No {K} is needed for {W} use.", "The {K} does not include {W}.", "Has the {K} changed since {W}?",
    "Without a {K} nothing can be done.", "The {W} {K} was lost.", "Both {K} and {W} were checked twice.",
    "Why is there a {K} at all?", "{K}, {W} and {W} are explained in part two.",
    "The rules for the {K} are {W}.",
)  # fmt: skip
