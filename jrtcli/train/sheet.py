"""A fact sheet, and the builder that writes one piece by piece while it keeps the span of every value."""

from __future__ import annotations

from dataclasses import dataclass, field

from jrtcli.train import traps, values, wordings
from jrtcli.train.values import Draw
from jrtcli.train.words import field_names, reserved


@dataclass(frozen=True, slots=True)
class Fact:
    """One answerable fact: `value == sheet.text[start:end]`, asked for by `question`."""

    key: str
    value: str
    question: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class FactSheet:
    """A document with facts; every question has exactly one answer in it. `kind` names the kind of
    document."""

    text: str
    facts: tuple[Fact, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Held:
    """Which factors come from the held-out side."""

    kinds: bool = False
    fields: bool = False
    wordings: bool = False


@dataclass(slots=True)
class Builder:
    """Text under construction: `limit` is the length, in characters, at which a layout stops."""

    draw: Draw
    held: Held
    limit: int
    noise: float  # distractor sentences per fact
    bare: float  # share of questions that are the bare field name
    case: int  # 0 lower, 1 Capitalised, 2 Title, 3 UPPER
    suited: tuple[tuple[str, str], ...] = ()  # field names that suit the document, with their kinds of value
    stray: float = 0.2  # share of values of any kind at all
    traps: bool = False  # near-miss fields, field names without a value, headers and footers
    stops: tuple[str, ...] = ()  # what ends a value in this layout: no value may contain it
    parts: list[str] = field(default_factory=list)
    length: int = 0
    facts: list[Fact] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    last: tuple[str, str] | None = None  # the field name that came last, and its kind of value

    def room(self) -> bool:
        """Whether another fact fits."""
        return self.length < self.limit

    def add(self, text: str) -> None:
        """Plain text."""
        self.parts.append(text)
        self.length += len(text)

    def place(self, before: str, value: str, after: str, key: str, question: str) -> None:
        """A fact, stated; its value must not begin or end with a space."""
        start = self.length + len(before)
        end = start + len(value)
        self.facts.append(Fact(key, value, question, start, end))
        self.parts.append(before + value + after)
        self.length = end + len(after)

    def cased(self, key: str) -> str:
        """The field name in the capitals of this document."""
        if self.case == 0:
            return key
        if self.case == 1:
            return key[:1].upper() + key[1:]
        return key.title() if self.case == 2 else key.upper()

    def new_key(self) -> tuple[str, str]:
        """A field name that this sheet has not used, with its kind of value."""
        d = self.draw
        tries = 0
        while True:
            tries += 1
            if self.traps and self.last and tries < 4 and d.random() < 0.3:
                key, kind = traps.near(d, *self.last, self.held.fields)
            elif self.suited and tries < 6 and d.random() < 0.93:
                key, kind = d.of(self.suited)
            else:
                key, kind = field_name(d, self.held.fields)
            if key not in self.taken:
                self.taken.add(key)
                self.last = (key, kind)
                return key, kind

    def value(self, kind: str, after: str = "") -> str:
        """A value that suits `kind` and does not contain what ends it: the marks that `after` begins with,
        or those of the layout."""
        d = self.draw
        text = values.value(d, kind, self.stray)
        if not d.wide:
            return text
        stops = self.stops
        if end := after.strip(" \n\t"):
            stops = (*stops, ". " if end[0] == "." else f" {end.split()[0]} " if end[0].isalpha() else end[0])
        for _ in range(8):
            if not any(stop in text for stop in stops) and not (
                end and text[-1] in ".,;" and not end[0].isalnum()
            ):
                return text
            text = values.value(d, kind, self.stray)
        return values.coined(d)

    def ask(self, key: str, of: str = "") -> str:
        """A question about `key` (of an entity, where the sheet has several)."""
        name = key if not of else f"{key} of {of}" if self.draw.random() < 0.7 else f"{of} {key}"
        text = wordings.question(self.draw, self.held.wordings, self.bare)
        if self.draw.wide:  # words around the key must not make another field name of it
            longer = [other for other in self.taken if key in other and other != key]
            while longer and any(other in text.lower().replace("{k}", key) for other in longer):
                text = wordings.question(self.draw, self.held.wordings, self.bare)
        if text[:3] == "{K}":
            name = name[:1].upper() + name[1:]
        return text.replace("{K}", name)

    def fact(self, prose: bool, fixed: tuple[str, str] | None = None, lead: str = "") -> None:
        """State one fresh fact, by the wording `fixed` = (before, after) or by one drawn for it, after
        `lead`."""
        key, kind = self.new_key()
        before, after = fixed or wordings.statement(self.draw, self.held.wordings, prose)
        shown = shown_as(self.draw, key) if not prose else key
        shown = shown if prose and self.draw.random() < 0.8 else self.cased(shown)
        before = lead + before.replace("{K}", shown)
        after = after.replace("{K}", shown)
        self.place(before, self.value(kind, after), after, key, self.ask(key))

    def relation(self, subject: str) -> bool:
        """State a relation of `subject`; False if every draw was taken."""
        d = self.draw
        (before, after), question, kind = d.of(wordings.wordings(self.held.wordings).relations)
        before, after = before.replace("{S}", subject), after.replace("{S}", subject)
        key, asked = f"{before.strip()} {after}".rstrip(" .").lower(), question.replace("{S}", subject)
        if key in self.taken or asked in self.taken:
            return False
        self.taken.update((key, asked))
        self.place(before, self.value(kind, after), after + " ", key, asked)
        return True

    def sentence(self) -> str:
        """A distractor: a sentence that answers nothing asked here."""
        d = self.draw
        if d.prose and d.random() < 0.75:
            return d.of(d.prose)
        r = d.random()
        if r < 0.3:
            text = values.words(d, 4, 16)
            return text[:1].upper() + text[1:] + "."
        w = d.word
        if r < 0.5:
            return f"The {w()} {d.of(_VERBS)} the {w()} {w()} {d.of(_WHEN)}."
        if r < 0.65:
            return f"{values.person(d)} {d.of(_VERBS)} {w()} {w()} {d.of(_WHEN)}."
        if r < 0.8:
            what = f"{d.of(_OPENERS)} {w()} {w()} of {values.org(d)}"
            return f"{what} {d.of(_VERBS)} {values.quantity(d)} {d.of(_WHEN)}."
        if r < 0.9:
            return f"See {values.code(d)} {d.of(_WHEN)} for the {w()} {w()}."
        return f"{d.of(_OPENERS)} {w()} and {w()} are {w()}, {w()} or {w()} {d.of(_WHEN)}."

    def distract(self, end: str = " ") -> None:
        """Zero or more distractor sentences, as this document has them."""
        n = self.noise
        while n > 0 and self.room():
            if self.draw.random() < n:
                trap = self.traps and self.last and self.draw.random() < 0.4
                self.add(
                    (traps.mention(self.draw, self.last[0]) if trap and self.last else self.sentence()) + end
                )
            n -= 1.0

    def sheet(self, kind: str) -> FactSheet:
        """What was built."""
        return FactSheet("".join(self.parts), tuple(self.facts), kind)


def field_name(d: Draw, held_out: bool) -> tuple[str, str]:
    """A field name and its kind of value: listed, composed of modifiers and a head, or of any words."""
    every = _WIDE_KINDS if d.wide else _KINDS
    names = field_names(held_out)
    r = d.random()
    if r < 0.4:
        return d.of(names.listed)
    if r < 0.6:
        head, kind = d.of(names.heads)
        return f"{d.of(names.modifiers)} {head}", kind
    if r < 0.7:
        name, kind = d.of(names.listed)
        return f"{d.of(names.modifiers)} {name}", kind
    if r < 0.8:
        head, kind = d.of(names.heads)
        return f"{d.of(names.words)} {head}", kind
    if d.wide and not held_out and r > 0.92:  # with a word that is in no list
        word = values.coined(d)
        if len(word) > 2 and not reserved(word):
            return (word if r > 0.97 else f"{word} {d.of(names.heads)[0]}"), d.of(every)
    n = 1 + d.below(3 if not d.wide or d.random() < 0.9 else 6)
    return " ".join([d.of(names.words) for _ in range(n)]), d.of(every)


def shown_as(d: Draw, key: str) -> str:
    """A field name as a form shows it: "lot number" may stand as "lot no." or "lot number(s)"."""
    r = d.random()
    if d.wide and r > 0.97:  # as programs write it
        return key.replace(" ", "_") if r > 0.98 else key.replace(" ", "-")
    if r > 0.12 or "(" in key:
        return key
    if key.endswith("number"):
        return key[:-6] + d.of(("no.", "#", "number(s)", "No"))
    # " *" between a field name and its value is a held-out wording.
    return key + d.of(("(s)", "(s)", " (opt.)" if d.wide else " *", " (1)"))


def subject(d: Draw) -> str:
    """Somebody or something that a document is about."""
    r = d.random()
    if r < 0.45:
        return f"{d.of(d.lex.first)} {values.coined(d).capitalize()}"
    return values.org(d) if r < 0.7 else f"the {values.any_word(d)} {d.word()}"


_KINDS = tuple(values.MAKERS)
_WIDE_KINDS = (*_KINDS, "long", "phrase", *values.WIDE)
_VERBS = (
    "reviewed", "moved", "described", "followed", "checked", "kept", "left", "found", "shows", "needs",
    "supports", "discussed", "carried", "may replace", "will follow", "does not affect",
    "was compared with",
)  # fmt: skip
_WHEN = (
    "later", "in the afternoon", "at the time", "as usual", "before the meeting", "in this section",
    "without delay", "for some reason", "as shown", "again", "in general", "during the period",
    "if needed", "per procedure",
)  # fmt: skip
_OPENERS = (
    "Most",
    "All",
    "Some",
    "In general,",
    "However,",
    "Several",
    "The",
    "A",
    "Each",
    "Usually",
    "For example,",
)
