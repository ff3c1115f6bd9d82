"""Makers of values for training: the basic ones, each with more formats, and kinds that only training has.

Every maker takes a `Draw` and returns a string without a newline.
"""

from __future__ import annotations

from jrtcli.train import basics
from jrtcli.train.basics import LETTERS, UPPER, Draw, Maker, any_word, coined, words

_AND = ("Sons", "Daughters", "Co", "Partners", "Brothers")
_PARTS = ("Airport", "Harbour", "Central", "Old Town", "Bay", "Hills", "Junction", "West")
_SEASONS = ("Q1", "Q2", "Q3", "Q4", "spring", "summer", "winter", "early", "late", "week 14")
_ACTS = ("Directive", "Regulation", "Act", "Rule", "Order", "Ordinance", "Chapter", "Title")


def _number(d: Draw, digits: int = 4) -> str:
    return str(d.below(10 ** (1 + d.below(digits))))


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
        return (
            f"{d.of(lex.extra['spot'])} {d.of((_number(d, 2), d.letters(1), f'{d.below(40)}{d.letters(1)}'))}"
        )
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
        return f"P.O. Box {_number(d, 5)}, {d.of(lex.place)}"
    if r < 0.6:
        return f"{d.of(('Flat', 'Unit', 'Suite', 'Apt'))} {1 + d.below(90)}, {basics.address(d)}"
    post = f"{d.letters(2)}{d.below(30)} {d.below(10)}{d.letters(2)}"
    return f"{coined(d).capitalize()}{d.of(('strasse', 'gata', 'laan', 'weg'))} {1 + d.below(200)}, {post}"


def date(d: Draw) -> str:
    if d.random() < 0.55:
        return basics.date(d)
    day, month, year, r = 1 + d.below(28), d.of(d.lex.months), 1900 + d.below(140), d.random()
    if r < 0.2:
        return stamp(d)
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


def stamp(d: Draw) -> str:
    clock = f"{d.below(24):02d}:{d.below(60):02d}" + (f":{d.below(60):02d}" if d.random() < 0.5 else "")
    day = f"{1950 + d.below(90)}-{1 + d.below(12):02d}-{1 + d.below(28):02d}"
    return day + d.of(("T", " ")) + clock + d.of(("", "", "Z", " UTC", "+02:00"))


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


def number(d: Draw) -> str:
    r = d.random()
    if r < 0.65:
        return basics.number(d)
    if r < 0.78:
        return d.of(d.lex.extra["count"])
    if r < 0.86:
        return f"{d.below(90)}.{d.below(10)} {d.of(('million', 'thousand', 'billion'))}"
    return d.of(("about ", "over ", "at least ", "no more than ", "-", "+")) + _number(d)


def money(d: Draw) -> str:
    if d.random() < 0.65:
        return basics.money(d)
    r, amount = d.random(), _number(d, 5)
    if r < 0.3:
        return d.of(("GBP ", "AUD ", "JPY ", "kr ", "Rs ", "R$", "zł ", "¥", "₹", "US$", "NOK ")) + amount
    if r < 0.5:
        return f"${amount} per {d.of(('month', 'week', 'hour', 'unit', 'night', 'seat', 'tonne', 'year'))}"
    if r < 0.65:
        return (
            f"{d.below(900)}.{d.below(10)} million {d.of(('dollars', 'euros', 'pounds', 'francs', 'rupees'))}"
        )
    if r < 0.85:
        return f"{amount} {d.of(('pounds', 'francs', 'kronor', 'SEK', 'USD', 'rupees', 'crowns', 'PLN'))}"
    return d.of(("free of charge", "waived", "no charge", "nil", "to be agreed", "at cost"))


def quantity(d: Draw) -> str:
    r = d.random()
    if r < 0.6:
        return basics.quantity(d)
    unit, n = d.of(d.lex.units), _number(d, 3)
    if r < 0.7:
        return f"{n}{d.of((' ± ', '±', ' +/- '))}{d.below(9)}.{d.below(10)} {unit}"
    if r < 0.78:
        return f"{n}{d.of(('-', '–', ' to '))}{_number(d, 3)} {unit}"
    if r < 0.86:
        return f"{d.of(('<', '>', '<= ', 'max ', 'min ', 'at least ', 'up to ', 'about ', 'ca. '))}{n} {unit}"
    return f"{n}{unit}" if r < 0.93 else dimensions(d)


def dimensions(d: Draw) -> str:
    cross = d.of((" x ", "x", " × ", " by "))
    return cross.join([_number(d, 3) for _ in range(2 + d.below(2))]) + d.of((" mm", " cm", " in", " m", ""))


def percent(d: Draw) -> str:
    r = d.random()
    if r < 0.7:
        return basics.percent(d)
    if r < 0.85:
        return f"{d.below(50)}-{50 + d.below(50)}{d.of(('%', ' %'))}"
    return (
        d.of(("half", "one in ten", "two thirds", "0.3 per mille", "1 in 400", "nearly all"))
        if r < 0.93
        else ratio(d)
    )


def ratio(d: Draw) -> str:
    return f"{1 + d.below(50)}{d.of((':', ' to ', '/', ' : ', ' of '))}{1 + d.below(200)}"


def code(d: Draw) -> str:
    r = d.random()
    if r < 0.5:
        return basics.code(d)
    if r < 0.9:  # groups of letters and digits, cut in one way
        cut = d.of(("-", "-", "", "/", ".", " ", "_", ":", "+"))
        groups = [
            d.digits(1 + d.below(5))
            if d.random() < 0.6
            else d.letters(1 + d.below(3), d.of((UPPER, UPPER, LETTERS)))
            for _ in range(1 + d.below(4))
        ]
        return cut.join(groups)
    return f"{d.of(('No. ', 'no ', 'MS ', 'Ref ', 'IX/', 'PO-', '(', 'Vol. '))}".lstrip("(") + d.digits(
        2 + d.below(4)
    )


def codes(d: Draw) -> str:
    cut = d.of((", ", "; ", " and ", " + ", " & ", ", "))
    return cut.join([code(d) for _ in range(2 + d.below(3))])


def plate(d: Draw) -> str:
    return f"{d.letters(1 + d.below(3))}{d.of((' ', '-', '·'))}{d.digits(2 + d.below(3))}" + d.of(
        ("", " " + d.letters(2))
    )


def isbn(d: Draw) -> str:
    return f"{d.of(('', 'ISBN '))}978-{d.below(10)}-{d.digits(4)}-{d.digits(4)}-{d.below(10)}"


def checksum(d: Draw) -> str:
    return d.letters(7 + d.below(14), "0123456789abcdef")


def coordinates(d: Draw) -> str:
    if d.random() < 0.5:
        return f"{d.below(90)}.{d.digits(4)}, -{d.below(180)}.{d.digits(4)}"
    return f"{d.below(90)}°{d.below(60)}'{d.of('NS')} {d.below(180)}°{d.below(60)}'{d.of('EW')}"


def path(d: Draw) -> str:
    parts = [any_word(d) for _ in range(1 + d.below(3))]
    end = d.of((".txt", ".pdf", ".conf", ".csv", "/", ".tar.gz", ".log", ".py", ""))
    return d.of(("/", "/etc/", "C:\\", "./", "/var/")) + "/".join(parts) + end


def chemical(d: Draw) -> str:
    parts = d.lex.extra["chem"]
    r = d.random()
    if r < 0.4:
        return f"{d.of(parts)} {d.of(d.lex.extra['anion'])}"
    if r < 0.7:
        return f"{1 + d.below(6)}-{d.of(d.lex.extra['radical'])}{d.of(d.lex.extra['stem'])}"
    return "".join([d.of(_ELEMENTS) + d.of(("", "", "2", "3", "4", "6")) for _ in range(2 + d.below(3))])


_ELEMENTS = (
    "C",
    "H",
    "N",
    "O",
    "S",
    "P",
    "Na",
    "K",
    "Cl",
    "Fe",
    "Cu",
    "Ca",
    "Mg",
    "Al",
    "Si",
    "Br",
    "F",
    "Zn",
    "Mn",
)


def gene(d: Draw) -> str:
    return d.letters(2 + d.below(3)) + str(d.below(60)) + d.of(("", "", "A", "B1", "-AS1", " p.V600E"))


def species(d: Draw) -> str:
    latin = (
        d.of(d.lex.extra["genus"])
        if d.random() < 0.6
        else coined(d).capitalize() + d.of(("us", "ia", "ella"))
    )
    return f"{latin} {coined(d)}{d.of(('ensis', 'a', 'us', 'ii', 'alis', 'oides'))}"


def score(d: Draw) -> str:
    return f"{d.below(12)}{d.of(('-', ':', ' - ', ' to '))}{d.below(12)}" + d.of(
        ("", "", " (aet)", " on points")
    )


def roman(d: Draw) -> str:
    numeral = "".join(
        d.of(((("", "X", "XX", "XL", "L")), ("", "", "C"))[0])
        + d.of(("I", "II", "III", "IV", "V", "VI", "IX"))
    )
    return f"{d.of(('', '', 'Part ', 'Book ', 'Act ', 'Chapter ', 'Henry '))}{numeral}"


def regulation(d: Draw) -> str:
    if d.random() < 0.65:
        return basics.regulation(d)
    r = d.random()
    if r < 0.4:
        return f"{d.of(_ACTS)} {d.digits(2)}/{d.digits(3)}"
    if r < 0.7:
        return f"{d.word().capitalize()} {d.word().capitalize()} Act {1800 + d.below(220)}"
    return f"{d.of(('s.', 'Art.', 'Sec.', 'para', 'Part'))} {d.below(400)}({d.of('abcdef')})"


def version(d: Draw) -> str:
    r = d.random()
    if r < 0.6:
        return basics.version(d)
    v = f"{d.below(30)}.{d.below(20)}"
    if r < 0.8:
        return f"{v}.{d.below(9)}-{d.of(('beta', 'rc1', 'alpha', 'lts', 'dev', 'final', 'rc2'))}"
    return d.of(
        (
            f"Release {d.below(90)}",
            f"{d.letters(1)}.{d.below(9)}",
            f"20{d.digits(2)}.{d.below(13)}",
            f"Issue {d.below(90)}",
            f"{d.below(9)}th edition",
        )
    )


def phone(d: Draw) -> str:
    if d.random() < 0.6:
        return basics.phone(d)
    cut = d.of((" ", "-", ".", ""))
    tail = cut.join([d.digits(2 + d.below(2)) for _ in range(3)])
    return d.of(("0", "+", "1-800-", "ext. ", "tel. ")) + tail


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
    if r < 0.6:
        return basics.phrase(d)
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
    make = d.of((any_word, worded, number, quantity, place, gene, chemical, title))
    return d.of((", ", "; ", " + ", ", ", " & ")).join([make(d) for _ in range(2 + d.below(3))])


# A list that only training has, as a kind of value: name -> entries of names_wide.txt.
def _listed(label: str) -> Maker:
    return lambda d: d.of(d.lex.extra[label])


WIDE: dict[str, Maker] = {
    "person": person, "org": org, "place": place, "addr": address, "date": date, "time": time, "money": money,
    "qty": quantity, "num": number, "pct": percent, "code": code, "codes": codes, "reg": regulation,
    "ver": version, "phone": phone, "email": email, "class": classed, "title": title, "word": worded,
    "phrase": phrase, "long": long_phrase, "list": listing,
    "stamp": stamp, "dim": dimensions, "ratio": ratio, "plate": plate, "isbn": isbn, "hash": checksum,
    "geo": coordinates, "path": path, "chem": chemical, "gene": gene, "species": species, "score": score,
    "roman": roman, "job": _listed("job"), "food": _listed("food"), "material": _listed("material"),
}  # fmt: skip
