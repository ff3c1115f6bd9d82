"""A seeded source of choices, and the basic makers of values: names, codes, dates, amounts, invented words,
phrases, lists. The held-out split has these values only; training has those of `formats` too.

Every maker takes a `Draw` and returns a string without a newline.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence
from typing import TypeVar

from jrtcli.train.words import Lexicon, lexicon

LETTERS = string.ascii_lowercase
UPPER = string.ascii_uppercase
T = TypeVar("T")


class Draw:
    """A seeded source of choices, and of the real text that values may quote."""

    def __init__(self, seed: int, prose: Sequence[str] = ()) -> None:
        self.random = random.Random(seed).random
        self.prose = prose
        self.words = lexicon(True).words
        self.widen(True)

    def widen(self, wide: bool) -> None:
        """Draw names and values from all there is, or only from what the held-out split has."""
        self.wide = wide
        self.lex: Lexicon = lexicon(wide)

    def below(self, n: int) -> int:
        """An integer in [0, n)."""
        return int(self.random() * n)

    def of(self, items: Sequence[T]) -> T:
        """One of `items`."""
        return items[int(self.random() * len(items))]

    def chance(self, p: float) -> bool:
        """True with probability `p`."""
        return self.random() < p

    def word(self) -> str:
        """A word of the lexicon."""
        return self.words[int(self.random() * len(self.words))]

    def digits(self, n: int) -> str:
        """`n` random digits."""
        return str(int((1 + self.random()) * 10**n))[1:]

    def letters(self, n: int, alphabet: str = UPPER) -> str:
        """`n` random letters."""
        return "".join([alphabet[int(self.random() * len(alphabet))] for _ in range(n)])


def coined(d: Draw) -> str:
    """A word that is in no list: two words grafted, a word with letters changed, or random letters."""
    r = d.random()
    if r < 0.5:
        a, b = d.word(), d.word()
        return a[: 2 + d.below(4)] + b[-2 - d.below(4) :]
    if r < 0.75:
        a = d.word()
        i = d.below(len(a))
        return a[:i] + d.letters(1 + d.below(2), LETTERS) + a[i + 1 :]
    return d.letters(3 + d.below(7), LETTERS)


def any_word(d: Draw) -> str:
    return coined(d) if d.random() < 0.28 else d.word()


def words(d: Draw, low: int, high: int) -> str:
    """From `low` to `high` words; a span of real text at times, where there is any."""
    n = low + d.below(high - low + 1)
    if d.prose and d.random() < 0.35:
        found = d.of(d.prose).split()
        if len(found) > n + 1:
            start = d.below(len(found) - n)
            return " ".join(found[start : start + n]).strip(" .,;:!?-\"'()|[]_*`") or d.word()
    return " ".join([any_word(d) for _ in range(n)])


def person(d: Draw) -> str:
    lex, r = d.lex, d.random()
    last = d.of(lex.last) if d.random() < 0.6 else coined(d).capitalize()
    first = d.of(lex.first) if d.random() < 0.75 else coined(d).capitalize()
    if r < 0.6:
        return f"{first} {last}"
    if r < 0.7:
        return f"{first} {d.letters(1)}. {last}"
    if r < 0.8:
        return f"{d.of(('Dr.', 'Ms.', 'Mr.', 'Prof.', 'Capt.'))} {last}"
    if r < 0.9:
        return f"{last}, {first}"
    return f"{first[0]}. {last}"


def org(d: Draw) -> str:
    lex, r = d.lex, d.random()
    core = coined(d).capitalize() if r < 0.5 else d.word().capitalize() if r < 0.7 else d.of(lex.last)
    r = d.random()
    if r < 0.4:
        return f"{core} {d.of(lex.suffix)}"
    if r < 0.6:
        return f"{core} {d.of(lex.suffix)} {d.of(lex.suffix)}"
    if r < 0.8:
        return f"{core} {any_word(d).capitalize()} {d.of(lex.suffix)}"
    if r < 0.9:
        return f"{core} & {d.of(lex.last)}"
    return f"{core} {any_word(d).capitalize()}"


def place(d: Draw) -> str:
    lex, r = d.lex, d.random()
    name = d.of(lex.place) if d.random() < 0.6 else coined(d).capitalize()
    if r < 0.55:
        return name
    if r < 0.8:
        return f"{name}, {d.of(lex.place)}"
    return f"{d.of(('North', 'South', 'East', 'West', 'New', 'Port', 'Lake', 'Fort', 'Room', 'Hall'))} {name}"


def address(d: Draw) -> str:
    lex = d.lex
    street = f"{1 + d.below(9999)} {any_word(d).capitalize()} {d.of(lex.street)}"
    return street if d.random() < 0.5 else f"{street}, {d.of(lex.place)} {d.digits(5)}"


def date(d: Draw) -> str:
    day, month, year, r = 1 + d.below(28), d.below(12), 1900 + d.below(140), d.random()
    name = d.lex.months[month]
    if r < 0.3:
        return f"{name} {day}, {year}"
    if r < 0.5:
        return f"{day} {name} {year}"
    if r < 0.7:
        return f"{year}-{month + 1:02d}-{day:02d}"
    if r < 0.8:
        return f"{month + 1}/{day}/{year}"
    if r < 0.9:
        return f"{day:02d}.{month + 1:02d}.{year}"
    return str(year) if r < 0.95 else f"{name} {year}"


def time(d: Draw) -> str:
    clock = f"{d.below(24):02d}:{d.below(60):02d}"
    r = d.random()
    if r < 0.5:
        return clock
    if r < 0.75:
        return f"{1 + d.below(12)}:{d.below(60):02d} {d.of(('am', 'pm', 'a.m.', 'UTC'))}"
    return f"{1 + d.below(90)} {d.of(('minutes', 'hours', 'days', 'weeks', 'months', 'seconds'))}"


def number(d: Draw) -> str:
    n = d.below(10 ** (1 + d.below(6)))
    return f"{n:,}" if d.random() < 0.3 else str(n)


def money(d: Draw) -> str:
    r = d.random()
    amount = f"{d.below(10 ** (2 + d.below(5))):,}" + (f".{d.digits(2)}" if d.random() < 0.6 else "")
    if r < 0.5:
        return "$" + amount
    return (
        d.of(("€", "£", "USD ", "EUR ", "CHF ")) + amount
        if r < 0.8
        else f"{amount} {d.of(('euros', 'dollars', 'yen', 'pesos', 'EUR'))}"
    )


def quantity(d: Draw) -> str:
    unit = d.of(d.lex.units)
    n = str(d.below(10 ** (1 + d.below(4)))) + (f".{d.digits(1 + d.below(2))}" if d.random() < 0.4 else "")
    return f"{n} {unit}" if d.random() < 0.8 else f"{n} to {d.below(900)} {unit}"


def percent(d: Draw) -> str:
    n = str(d.below(100)) + (f".{d.digits(1 + d.below(2))}" if d.random() < 0.5 else "")
    return n + d.of(("%", "%", " %", " percent"))


def code(d: Draw) -> str:
    r = d.random()
    if r < 0.2:
        return ("K" if d.random() < 0.7 else d.letters(1)) + d.digits(6)
    if r < 0.35:
        return d.letters(3)
    if r < 0.6:
        return f"{d.letters(1 + d.below(4))}{d.of(('-', '', '/', ' ', '.', '_'))}{d.digits(2 + d.below(5))}"
    if r < 0.75:
        return d.digits(3 + d.below(7))
    if r < 0.85:
        return f"{d.digits(2 + d.below(3))}-{d.digits(2 + d.below(4))}-{d.digits(2 + d.below(3))}"
    if r < 0.93:
        return "".join([d.letters(1, "0123456789abcdef") for _ in range(6 + d.below(7))])
    return f"{d.letters(2)}{d.digits(2)}{d.letters(2)}{d.digits(2)}"


def codes(d: Draw) -> str:
    sep = d.of((", ", "; ", " and ", " "))
    return sep.join([code(d) for _ in range(2 + d.below(3))])


def regulation(d: Draw) -> str:
    cfr = f"21 CFR {d.of(('', '', '§', '§ '))}{800 + d.below(100)}.{d.digits(4)}"
    r = d.random()
    if r < 0.35:
        return cfr
    if r < 0.75:
        return f"{cfr}{d.of((', ', ' ', ' - '))}{words(d, 2, 5).capitalize()}"
    body = d.of(("ISO", "IEC", "EN", "ASTM", "Section", "Article", "CLSI"))
    return f"{body} {d.digits(2 + d.below(4))}-{1 + d.below(40)}"


def version(d: Draw) -> str:
    v = f"{d.below(20)}.{d.below(30)}" + (f".{d.below(99)}" if d.random() < 0.6 else "")
    return v if d.random() < 0.6 else d.of(("v", "rev ", "Rev. ", "build ", "r")) + v


def phone(d: Draw) -> str:
    r = d.random()
    if r < 0.4:
        return f"({d.digits(3)}) {d.digits(3)}-{d.digits(4)}"
    return (
        f"+{1 + d.below(98)} {d.digits(2)} {d.digits(3)} {d.digits(4)}"
        if r < 0.7
        else f"{d.digits(3)}-{d.digits(4)}"
    )


def email(d: Draw) -> str:
    host = f"{coined(d)}.{d.of(('com', 'org', 'net', 'io', 'edu'))}"
    return f"{any_word(d)}@{host}" if d.random() < 0.7 else f"www.{host}"


def classed(d: Draw) -> str:
    return d.of(d.lex.classes) if d.random() < 0.75 else any_word(d)


def title(d: Draw) -> str:
    name = " ".join([any_word(d).capitalize() for _ in range(1 + d.below(3))])
    r = d.random()
    if r < 0.2:
        return f"{name} {d.below(3000)}"
    if r < 0.3:
        return f"{name} {d.letters(1 + d.below(3))}"
    return name + d.of(("®", "™", " System", " Assay", " Test", " Kit", " Plus", " Pro")) if r < 0.5 else name


def worded(d: Draw) -> str:
    r = d.random()
    if r < 0.25:
        return d.of(d.lex.colors)
    return any_word(d) if r < 0.75 else f"{any_word(d)} {any_word(d)}"


def phrase(d: Draw) -> str:
    text = words(d, 2, 6)
    return text[:1].upper() + text[1:] if d.random() < 0.7 else text


def long_phrase(d: Draw) -> str:
    text = words(d, 5, 15)
    return text[:1].upper() + text[1:] if d.random() < 0.7 else text


def listing(d: Draw) -> str:
    make = d.of((any_word, any_word, person, worded, code, title))
    items = [make(d) for _ in range(2 + d.below(3))]
    if d.random() < 0.5:
        return ", ".join(items)
    return ", ".join(items[:-1]) + d.of((" and ", ", and ", " or ")) + items[-1]


Maker = Callable[[Draw], str]
MAKERS: dict[str, Maker] = {
    "person": person, "org": org, "place": place, "addr": address, "date": date, "time": time, "money": money,
    "qty": quantity, "num": number, "pct": percent, "code": code, "codes": codes, "reg": regulation,
    "ver": version,
    "phone": phone, "email": email, "class": classed, "title": title, "word": worded, "phrase": phrase,
    "long": long_phrase, "list": listing,
}  # fmt: skip
