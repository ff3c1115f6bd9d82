"""Makers of figures for training: numbers, amounts, quantities, codes, formulas.

Each takes a `Draw` and returns a string without a newline.
"""

from __future__ import annotations

from jrtcli.train import basics
from jrtcli.train.basics import LETTERS, UPPER, Draw, Maker


def digits(d: Draw, most: int = 4) -> str:
    """A number of at most `most` digits, without a zero before it."""
    return str(d.below(10 ** (1 + d.below(most))))


def stamp(d: Draw) -> str:
    clock = f"{d.below(24):02d}:{d.below(60):02d}" + (f":{d.below(60):02d}" if d.random() < 0.5 else "")
    day = f"{1950 + d.below(90)}-{1 + d.below(12):02d}-{1 + d.below(28):02d}"
    return day + d.of(("T", " ")) + clock + d.of(("", "", "Z", " UTC", "+02:00"))


def number(d: Draw) -> str:
    r = d.random()
    if r < 0.65:
        return basics.number(d)
    if r < 0.78:
        return d.of(d.lex.extra["count"])
    if r < 0.86:
        return f"{d.below(90)}.{d.below(10)} {d.of(('million', 'thousand', 'billion'))}"
    return d.of(("about ", "over ", "at least ", "no more than ", "-", "+")) + digits(d)


def money(d: Draw) -> str:
    if d.random() < 0.65:
        return basics.money(d)
    r, amount = d.random(), digits(d, 5)
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
    unit, n = d.of(d.lex.units), digits(d, 3)
    if r < 0.7:
        return f"{n}{d.of((' ± ', '±', ' +/- '))}{d.below(9)}.{d.below(10)} {unit}"
    if r < 0.78:
        return f"{n}{d.of(('-', '–', ' to '))}{digits(d, 3)} {unit}"
    if r < 0.86:
        return f"{d.of(('<', '>', '<= ', 'max ', 'min ', 'at least ', 'up to ', 'about ', 'ca. '))}{n} {unit}"
    return f"{n}{unit}" if r < 0.93 else dimensions(d)


MEASURES = {  # kind of value -> words of a field name that ask for it
    "mass": "weight mass butter sugar flour salt load payload catch",
    "length": "length height width depth distance altitude ascent climb diameter thickness wingspan "
    "elevation tide swell beam draught girth spacing radius clearance span stride level range size leaf "
    "point rainfall wheelbase visibility limit",
    "heat": "temperature oven heat freezing boiling melting flash",
    "speed": "speed wind velocity gust",
    "volume": "volume milk capacity bottle water tank fuel buffer",
    "power": "voltage current power output energy gain supply draw impedance",
    "pressure": "pressure strength",
    "area": "area acreage floor plot lot space garden",
    "data": "memory download file bandwidth disk bytes",
    "content": "dose concentration glucose cholesterol creatinine ferritin haemoglobin level sodium calcium",
    "rate": "rate clock frequency response refresh wavelength downlink",
}


_ASKED = {word: kind for kind, words in MEASURES.items() for word in words.split()}


def measure_of(name: str) -> str:
    """The kind of quantity that a field name asks for; any ("qty") where its words do not say."""
    return next((_ASKED[word] for word in reversed(name.split()) if word in _ASKED), "qty")


def measured(kind: str) -> Maker:
    """Quantities in units that suit; the units are listed in `names_wide.txt`."""

    def measured(d: Draw) -> str:
        unit, r = d.of(d.lex.extra[f"unit {kind}"]), d.random()
        n = digits(d, 3) + (f".{d.below(10)}" if d.random() < 0.35 else "")
        if r < 0.75:
            return f"{n} {unit}"
        if r < 0.82:
            return f"{n}{unit}"
        if r < 0.88:
            return f"{n}{d.of((' ± ', ' +/- '))}{d.below(9)} {unit}"
        if r < 0.94:
            return f"{n}{d.of(('-', ' to ', ' – '))}{digits(d, 3)} {unit}"
        return f"{d.of(('about', 'at least', 'up to', 'max.', 'under', 'over', '<', '>'))} {n} {unit}"

    return measured


def dimensions(d: Draw) -> str:
    cross = d.of((" x ", "x", " × ", " by "))
    return cross.join([digits(d, 3) for _ in range(2 + d.below(2))]) + d.of((" mm", " cm", " in", " m", ""))


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
    return d.of(("No. ", "no ", "MS ", "Ref ", "IX/", "PO-", "Vol. ")) + d.digits(2 + d.below(4))


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


def chemical(d: Draw) -> str:
    parts = d.lex.extra["chem"]
    r = d.random()
    if r < 0.4:
        return f"{d.of(parts)} {d.of(d.lex.extra['anion'])}"
    if r < 0.7:
        return f"{1 + d.below(6)}-{d.of(d.lex.extra['radical'])}{d.of(d.lex.extra['stem'])}"
    return "".join([d.of(_ELEMENTS) + d.of(("", "", "2", "3", "4", "6")) for _ in range(2 + d.below(3))])


_ELEMENTS = (
    "C", "H", "N", "O", "S", "P", "Na", "K", "Cl", "Fe", "Cu", "Ca", "Mg", "Al", "Si", "Br", "F", "Zn", "Mn",
)  # fmt: skip


def gene(d: Draw) -> str:
    return d.letters(2 + d.below(3)) + str(d.below(60)) + d.of(("", "", "A", "B1", "-AS1", " p.V600E"))


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
