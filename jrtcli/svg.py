"""What SVG charts are drawn with: text, lines, colours, and labels that keep clear of each other."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666")
"""Of Okabe and Ito: told apart by colour-blind readers as well."""
DASHES = ("", "6 4", "2 3", "8 3 2 3")
FONT = "font-family='Helvetica, Arial, sans-serif'"
TEXT, SMALL = 12.0, 10.0

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""


def opened(title: str, width: float, height: float) -> list[str]:
    """The beginning of a picture on white; whoever draws adds `</svg>`."""
    return [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:.0f} {height:.0f}' width='{width:.0f}'"
        f" height='{height:.0f}' role='img' {FONT} font-size='{TEXT:.0f}' fill='#222'>",
        f"<title>{escape(title)}</title>",
        f"<rect width='{width:.0f}' height='{height:.0f}' fill='white'/>",
    ]


def stroke(i: int, dashed: bool) -> str:
    """The attributes of a path of the i-th colour."""
    dash = DASHES[i % len(DASHES)] if dashed else ""
    dashes = f" stroke-dasharray='{dash}'" if dash else ""
    return f"stroke='{COLOURS[i % len(COLOURS)]}' stroke-width='2' fill='none'{dashes}"


def line(x1: float, y1: float, x2: float, y2: float, colour: str = "#222") -> str:
    """A straight line."""
    return f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{colour}'/>"


def text(
    x: float, y: float, said: str, *, size: float = TEXT, anchor: str = "", fill: str = "", bold: bool = False
) -> str:
    """A text; anchor: start, middle or end of it is at x."""
    more = f" font-size='{size:g}'" if size != TEXT else ""
    more += f" text-anchor='{anchor}'" if anchor else ""
    more += f" fill='{fill}'" if fill else ""
    more += " font-weight='bold'" if bold else ""
    return f"<text x='{x:.1f}' y='{y:.1f}'{more}>{escape(said)}</text>"


def text_width(said: str, size: float = TEXT) -> float:
    """Pixels that a text takes, about: there is no font here to ask."""
    return 0.56 * size * len(said)


def labels(wanted: Sequence[tuple[float, float, str, str]], taken: list[Box], frame: Box) -> list[str]:
    """Texts beside their points (x, y, text, colour): each where it hits none of `taken` and no other text.

    taken: the boxes of the points. A text without such a place is left out: it is in its point's tip.
    """
    out, taken = [], list(taken)
    for x, y, said, colour in wanted:
        wide, tall = text_width(said, SMALL), SMALL
        beside = [(x + 7, y - 5), (x - 7 - wide, y - 5)]
        beside += [(x + dx, y + dy) for dy in (-18, 8) for dx in (7, -7 - wide, -wide / 2)]
        for left, top in beside:
            box = (left, top, left + wide, top + tall)
            inside = frame[0] <= box[0] and box[2] <= frame[2] and frame[1] <= box[1] and box[3] <= frame[3]
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                out.append(text(left, top + tall - 1.5, said, size=SMALL, fill=colour))
                break
    return out


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
