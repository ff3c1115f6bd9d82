"""Charts as inline SVG: bars with whiskers, lines, and points; no script, nothing from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Of Okabe and Ito: told apart by colour-blind readers as well."""
_LEFT, _TOP, _HEIGHT, _BOTTOM = 52, 40, 200, 48

Point = tuple[float, float, float, float, str]
"""x, y, low and high of y, and a label."""


def bars(title: str, groups: Sequence[tuple[str, Sequence[tuple[str, float, float, float] | None]]]) -> str:
    """Bars side by side in each group: (group, [(series, value, low, high), ...]), shares of 1; None leaves a
    gap."""
    names = list(dict.fromkeys(bar[0] for _, each in groups for bar in each if bar is not None))
    thick, gap = 18, 22
    slots = max((len(each) for _, each in groups), default=1)
    width = _LEFT + len(groups) * (slots * thick + gap) + 20
    out = _frame(title, max(width, _legend_width(names)), names)
    x = _LEFT + gap / 2
    for group, each in groups:
        for i, bar in enumerate(each):
            if bar is None:
                continue
            name, value, low, high = bar
            colour = COLOURS[names.index(name) % len(COLOURS)]
            at = x + i * thick
            out.append(
                f"<rect x='{at:.1f}' y='{_down(value):.1f}' width='{thick - 3}'"
                f" height='{value * _HEIGHT:.1f}' fill='{colour}'>"
                f"<title>{escape(group)}, {escape(name)}: {value:.1%}"
                f" ({low:.1%} to {high:.1%})</title></rect>"
            )
            middle = at + (thick - 3) / 2
            out.append(
                f"<line x1='{middle:.1f}' y1='{_down(low):.1f}' x2='{middle:.1f}' y2='{_down(high):.1f}'"
                " stroke='#222'/>"
            )
        out.append(
            f"<text x='{x + slots * thick / 2:.1f}' y='{_TOP + _HEIGHT + 18}' text-anchor='middle'>"
            f"{escape(group)}</text>"
        )
        x += slots * thick + gap
    return "\n".join([*out, "</svg>"])


def lines(title: str, series: Sequence[tuple[str, Sequence[Point]]], across: str) -> str:
    """A line with whiskers for each series over x from 0 to 1."""
    names = [name for name, _ in series]
    width = 420
    out = _frame(title, max(width, _legend_width(names)), names)
    room = width - _LEFT - 24
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1):
        at = _LEFT + tick * room
        out.append(f"<text x='{at:.1f}' y='{_TOP + _HEIGHT + 16}' text-anchor='middle'>{tick:.0%}</text>")
    for i, (name, points) in enumerate(series):
        colour = COLOURS[i % len(COLOURS)]
        shift = 3 * (i - (len(series) - 1) / 2)  # whiskers beside each other
        path = []
        for x, y, low, high, label in points:
            at = _LEFT + x * room + shift
            path.append(f"{at:.1f},{_down(y):.1f}")
            out += [
                f"<line x1='{at:.1f}' y1='{_down(low):.1f}' x2='{at:.1f}' y2='{_down(high):.1f}'"
                f" stroke='{colour}' stroke-opacity='0.6'/>",
                f"<circle cx='{at:.1f}' cy='{_down(y):.1f}' r='3.5' fill='{colour}'>"
                f"<title>{escape(name)}: {escape(label)}</title></circle>",
            ]
        out.append(f"<polyline points='{' '.join(path)}' fill='none' stroke='{colour}' stroke-width='2'/>")
    out.append(_across(across, _LEFT + room / 2))
    return "\n".join([*out, "</svg>"])


def points(title: str, series: Sequence[tuple[str, Sequence[Point]]], across: str) -> str:
    """Points with whiskers for each series over a logarithmic x above 0."""
    names = [name for name, _ in series]
    width = 420
    out = _frame(title, max(width, _legend_width(names)), names)
    every = [math.log10(point[0]) for _, each in series for point in each]
    low_x, high_x = (min(every), max(every)) if every else (0.0, 1.0)
    low_x, high_x = math.floor(low_x), max(math.ceil(high_x), math.floor(low_x) + 1)
    room = width - _LEFT - 24

    def at_x(value: float) -> float:
        return _LEFT + (math.log10(value) - low_x) / (high_x - low_x) * room

    for power in range(low_x, high_x + 1):
        at = at_x(10.0**power)
        out += [
            f"<line x1='{at:.1f}' y1='{_TOP}' x2='{at:.1f}' y2='{_TOP + _HEIGHT}' stroke='#eee'/>",
            f"<text x='{at:.1f}' y='{_TOP + _HEIGHT + 16}' text-anchor='middle'>{_short(10.0**power)}</text>",
        ]
    for i, (name, each) in enumerate(series):
        colour = COLOURS[i % len(COLOURS)]
        for x, y, low, high, label in each:
            at = at_x(x)
            out += [
                f"<line x1='{at:.1f}' y1='{_down(low):.1f}' x2='{at:.1f}' y2='{_down(high):.1f}'"
                f" stroke='{colour}'/>",
                f"<circle cx='{at:.1f}' cy='{_down(y):.1f}' r='4.5' fill='{colour}'>"
                f"<title>{escape(name)}: {escape(label)}</title></circle>",
                f"<text x='{at + (7 if at < _LEFT + room * 0.7 else -7):.1f}' y='{_down(y) - 6:.1f}'"
                f" font-size='10' text-anchor='{'start' if at < _LEFT + room * 0.7 else 'end'}'>"
                f"{escape(label.split(':')[0])}</text>",
            ]
    out.append(_across(across, _LEFT + room / 2))
    return "\n".join([*out, "</svg>"])


def _frame(title: str, width: float, names: Sequence[str]) -> list[str]:
    height = _TOP + _HEIGHT + _BOTTOM
    out = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:.0f} {height}' width='{width:.0f}'"
        f" height='{height}' role='img'"
        " font-family='Helvetica, Arial, sans-serif' font-size='12' fill='#222'>",
        f"<title>{escape(title)}</title>",
        f"<rect width='{width:.0f}' height='{height}' fill='white'/>",
    ]
    x = float(_LEFT)
    for i, name in enumerate(names):
        out += [
            f"<rect x='{x:.0f}' y='10' width='12' height='12' fill='{COLOURS[i % len(COLOURS)]}'/>",
            f"<text x='{x + 17:.0f}' y='20'>{escape(name)}</text>",
        ]
        x += 34 + 6.6 * len(name)
    for tick in (0, 0.25, 0.5, 0.75, 1):
        y = _down(tick)
        out += [
            f"<line x1='{_LEFT}' y1='{y:.1f}' x2='{width - 16:.0f}' y2='{y:.1f}' stroke='#ddd'/>",
            f"<text x='{_LEFT - 8}' y='{y + 4:.1f}' text-anchor='end'>{tick:.0%}</text>",
        ]
    return out


def _legend_width(names: Sequence[str]) -> float:
    return _LEFT + sum(34 + 6.6 * len(name) for name in names) + 10


def _across(text: str, middle: float) -> str:
    place = f"x='{middle:.0f}' y='{_TOP + _HEIGHT + 38}'"
    return f"<text {place} text-anchor='middle' fill='#555'>{escape(text)}</text>"


def _down(share: float) -> float:
    return _TOP + (1 - share) * _HEIGHT


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.0f}{unit}"
    return f"{value:g}"
