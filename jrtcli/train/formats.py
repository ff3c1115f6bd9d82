"""Makers of values for training: the basic ones, each with more formats, and kinds that only training has.

Every maker takes a `Draw` and returns a string without a newline.
"""

from __future__ import annotations

from jrtcli.train import basics, figures
from jrtcli.train.basics import Draw, Maker, any_word, coined, words

_AND = ("Sons", "Daughters", "Co", "Partners", "Brothers")


_PARTS = ("Airport", "Harbour", "Central", "Old Town", "Bay", "Hills", "Junction", "West")


_SEASONS = ("Q1", "Q2", "Q3", "Q4", "spring", "summer", "winter", "early", "late", "week 14")


_ACTS = ("Directive", "Regulation", "Act", "Rule", "Order", "Ordinance", "Chapter", "Title")


def person(d: Draw) -> str:
    if d.random() < 0.55:
        return basics.person(d)
    lex, r = d.lex, d.random()
    first, last = d.of(lex.first), d.of(lex.last)
    if r < 0.2:
        return f"{first} {d.of(lex.extra['particle'])} {last}"
    if r < 0.35:
        return f"{first} {last}-{d.of(lex.last)}"
    if r < 0.5:
        return f"{first} {d.of(lex.first)} {last}"
    if r < 0.6:
        return f"{first} {last}".upper()
    if r < 0.7:
        return f"{d.letters(1)}. {d.letters(1)}. {last}"
    if r < 0.8:
        return f"{last.upper()} {first}"
    if r < 0.9:
        return f"{d.of(lex.extra['rank'])} {first} {last}"
    return f"{first} {last} {d.of(('Jr', 'II', 'III', 'PhD', 'MD', 'RN', 'Esq', 'CPA', 'MSc'))}"


def org(d: Draw) -> str:
    if d.random() < 0.5:
        return basics.org(d)
    lex, r = d.lex, d.random()
    core = d.of(lex.place) if d.random() < 0.5 else coined(d).capitalize()
    if r < 0.25:
        return f"{d.of(lex.extra['body'])} of {core}"
    if r < 0.5:
        return f"{core} {d.of(lex.extra['body'])}"
    if r < 0.6:
        return f"{d.of(lex.last)} and {d.of((*_AND, d.of(lex.last)))}"
    if r < 0.7:
        return d.letters(2 + d.below(4))
    if r < 0.8:
        return f"The {d.word().capitalize()} {d.word().capitalize()}"
    if r < 0.9:
        return f"{d.of(lex.last)} {d.of(lex.last)} {d.of(lex.suffix)}"
    return f"{core} {d.of(lex.suffix)}".upper()


def place(d: Draw) -> str:
    if d.random() < 0.65:
        return basics.place(d)
    lex, r = d.lex, d.random()
    name = d.of(lex.place) if d.random() < 0.7 else coined(d).capitalize()
    if r < 0.25:
        which = d.of((str(d.below(100)), d.letters(1), f"{d.below(40)}{d.letters(1)}"))
        return f"{d.of(lex.extra['spot'])} {which}"
    if r < 0.4:
        return f"{d.of(('near', 'north of', 'south of', 'off', 'outside', 'between here and'))} {name}"
    if r < 0.6:
        return f"{d.word().capitalize()} {d.of(lex.extra['spot'])}"
    if r < 0.8:
        return f"{name} {d.of(_PARTS)}"
    return f"{d.word()} {d.of(('hall', 'room', 'street', 'field', 'house', 'valley', 'yard'))}"


def address(d: Draw) -> str:
    if d.random() < 0.6:
        return basics.address(d)
    lex, r = d.lex, d.random()
    if r < 0.3:
        return f"P.O. Box {figures.digits(d, 5)}, {d.of(lex.place)}"
    if r < 0.6:
        return f"{d.of(('Flat', 'Unit', 'Suite', 'Apt'))} {1 + d.below(90)}, {basics.address(d)}"
    post = f"{d.letters(2)}{d.below(30)} {d.below(10)}{d.letters(2)}"
    return f"{coined(d).capitalize()}{d.of(('strasse', 'gata', 'laan', 'weg'))} {1 + d.below(200)}, {post}"


def date(d: Draw) -> str:
    if d.random() < 0.55:
        return basics.date(d)
    day, month, year, r = 1 + d.below(28), d.of(d.lex.months), 1900 + d.below(140), d.random()
    if r < 0.2:
        return figures.stamp(d)
    if r < 0.35:
        return (
            f"{day:02d}{d.of(('-', ' ', '/'))}{d.of((month[:3], month[:3].upper()))}{d.of(('-', ' '))}{year}"
        )
    if r < 0.45:
        return f"{d.of(_DAYS)} {day} {month}"
    if r < 0.55:
        return f"{month} {day}"
    if r < 0.65:
        return f"{d.of(_SEASONS)} {year}"
    if r < 0.75:
        return f"{day}{'st' if day % 10 == 1 and day != 11 else 'th'} of {month} {year}"
    if r < 0.85:
        return f"{d.of(_DAYS)[:3]} {day} {month[:3]} {year}"
    if r < 0.92:
        return f"{day:02d}/{1 + d.below(12):02d}/{year % 100:02d}"
    return f"{month} {day} to {d.of(d.lex.months)} {1 + d.below(28)}"


_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def time(d: Draw) -> str:
    r = d.random()
    if r < 0.6:
        return basics.time(d)
    one, two = f"{d.below(24):02d}:{d.below(4) * 15:02d}", f"{d.below(24):02d}:{d.below(60):02d}"
    if r < 0.7:
        return f"{one}{d.of(('-', ' - ', ' to ', ' until '))}{two}"
    if r < 0.78:
        return f"{d.below(30)} h {d.below(60)} min"
    if r < 0.86:
        return f"{d.of(_DAYS)} {1 + d.below(12)} {d.of(('am', 'pm'))}"
    if r < 0.93:
        return d.of(
            ("noon", "midnight", "at dusk", "half past six", "a fortnight", "every other day", "ten to nine")
        )
    return f"{d.below(3)}:{d.below(60):02d}:{d.below(60):02d}"


def path(d: Draw) -> str:
    parts = [any_word(d) for _ in range(1 + d.below(3))]
    end = d.of((".txt", ".pdf", ".conf", ".csv", "/", ".tar.gz", ".log", ".py", ""))
    return d.of(("/", "/etc/", "C:\\", "./", "/var/")) + "/".join(parts) + end


def species(d: Draw) -> str:
    latin = (
        d.of(d.lex.extra["genus"])
        if d.random() < 0.6
        else coined(d).capitalize() + d.of(("us", "ia", "ella"))
    )
    return f"{latin} {coined(d)}{d.of(('ensis', 'a', 'us', 'ii', 'alis', 'oides'))}"


def regulation(d: Draw) -> str:
    if d.random() < 0.65:
        return basics.regulation(d)
    r = d.random()
    if r < 0.4:
        return f"{d.of(_ACTS)} {d.digits(2)}/{d.digits(3)}"
    if r < 0.7:
        return f"{d.word().capitalize()} {d.word().capitalize()} Act {1800 + d.below(220)}"
    return f"{d.of(('s.', 'Art.', 'Sec.', 'para', 'Part'))} {d.below(400)}({d.of('abcdef')})"


def email(d: Draw) -> str:
    r = d.random()
    if r < 0.6:
        return basics.email(d)
    host = f"{any_word(d)}{d.of(('', '-'))}{any_word(d)}.{d.of(d.lex.extra['domain'])}"
    if r < 0.8:
        return f"https://{host}/{any_word(d)}" + d.of(("", ".html", f"?id={d.below(999)}", f"/{any_word(d)}"))
    return f"{d.of(d.lex.first).lower()}.{d.of(d.lex.last).lower()}@{host}" if r < 0.9 else host


def classed(d: Draw) -> str:
    return (
        basics.classed(d) if d.random() < 0.8 else f"{any_word(d)} {d.of((d.letters(1), str(d.below(20))))}"
    )


def title(d: Draw) -> str:
    if d.random() < 0.5:
        return basics.title(d)
    w = [any_word(d).capitalize() for _ in range(3)]
    r = d.random()
    if r < 0.3:
        the = d.of(("The", "A", "An Old", "My", "Our", "Every"))
        return f"{the} {w[0]} {d.of(('of', 'and', 'in', 'for', 'without', 'under'))} {w[1]}"
    if r < 0.45:
        return f"The {w[0]} {w[1]}"
    if r < 0.6:
        return f"{w[0]} {w[1]} {d.of(('I', 'II', 'III', 'IV', 'Mk 2', 'X', 'No. 5', 'Op. 12'))}"
    if r < 0.7:
        return f"{w[0]}, {w[1]} and {w[2]}"
    if r < 0.85:
        return f"{w[0]}{d.of(('-', '', ' '))}{d.below(900)}{d.of(('', '', 'X', 'i', ' LE'))}"
    return " ".join(w[: 1 + d.below(3)]).upper()


def worded(d: Draw) -> str:
    r = d.random()
    if r < 0.5:
        return basics.worded(d)
    if r < 0.65:
        return f"{d.word()}-{d.word()}"
    if r < 0.75:
        return any_word(d).upper()
    return d.of(d.lex.extra["foreign"]) if r < 0.85 else d.of(d.lex.extra[d.of(("material", "job", "food"))])


def phrase(d: Draw) -> str:
    r = d.random()
    if r < 0.5:
        return basics.phrase(d)
    if r < 0.6:
        return words(d, 4, 10)
    w = d.word
    if r < 0.7:
        return f"{d.of(('to', 'not to', 'how to'))} {w()} {d.of(('the', 'a', 'every', 'its'))} {w()}"
    if r < 0.8:
        where = d.of(("in", "under", "before", "with", "without", "on"))
        return f"{where} {d.of(('the', 'a', 'its'))} {w()} {w()}"
    if r < 0.9:
        return f"{any_word(d)} {d.of(('of', 'for', 'and', 'or', 'with', 'by'))} {w()} {w()}"
    return f"{w()} ({w()})" if r < 0.95 else f"{w()}, {w()} {w()}"


def long_phrase(d: Draw) -> str:
    if d.random() < 0.75:
        return basics.long_phrase(d)
    subject = f"{d.of(('the', 'a', 'every', 'no', 'our'))} {words(d, 2, 5)}"
    text = f"{subject} {d.of(('is', 'was', 'will be', 'must be', 'has'))} {words(d, 2, 5)}"
    return text[:1].upper() + text[1:]


def listing(d: Draw) -> str:
    if d.random() < 0.6:
        return basics.listing(d)
    make = d.of(
        (any_word, worded, figures.number, figures.quantity, place, figures.gene, figures.chemical, title)
    )
    return d.of((", ", "; ", " + ", ", ", " & ")).join([make(d) for _ in range(2 + d.below(3))])


# A list that only training has, as a kind of value: name -> entries of names_wide.txt.
def _listed(label: str) -> Maker:
    return lambda d: d.of(d.lex.extra[label])


WIDE: dict[str, Maker] = {
    "person": person, "org": org, "place": place, "addr": address, "date": date, "time": time,
    "money": figures.money, "qty": figures.quantity, "num": figures.number, "pct": figures.percent,
    "code": figures.code, "codes": figures.codes, "reg": regulation, "ver": figures.version,
    "phone": figures.phone, "email": email, "class": classed, "title": title, "word": worded,
    "phrase": phrase, "long": long_phrase, "list": listing, "stamp": figures.stamp,
    "dim": figures.dimensions, "ratio": figures.ratio, "plate": figures.plate, "isbn": figures.isbn,
    "hash": figures.checksum, "geo": figures.coordinates, "path": path, "chem": figures.chemical,
    "gene": figures.gene, "species": species, "score": figures.score, "roman": figures.roman,
    "job": _listed("job"), "food": _listed("food"), "material": _listed("material"),
    **{kind: figures.measured(kind) for kind in figures.MEASURES},
}  # fmt: skip
