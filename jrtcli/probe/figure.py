"""The figure of a probe as an SVG file, and as bars of text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from jrtcli.probe.summary import Panel

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Of Okabe and Ito: told apart by colour-blind readers as well."""
DASHES = ("", "6 4", "2 3", "8 3 2 3")
PANEL_WIDTH, PANEL_HEIGHT, LEFT, GAP, TOP, BOTTOM = 240, 200, 58, 24, 84, 66
FONT = "font-family='Helvetica, Arial, sans-serif'"


def svg(panels: Sequence[Panel], title: str, note: str) -> str:
    """The panels side by side: accuracy over the floats of the state, whiskers from worst to best seed."""
    names = list(dict.fromkeys(name for panel in panels for name, _ in panel.lines))
    sizes = sorted({p.state_floats for panel in panels for _, line in panel.lines for p in line})
    width = LEFT + len(panels) * (PANEL_WIDTH + GAP)
    height = TOP + PANEL_HEIGHT + BOTTOM
    out = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}'"
        f" height='{height}' {FONT} font-size='12' fill='#222'>",
        f"<title>{escape(title)}</title>",
        f"<rect width='{width}' height='{height}' fill='white'/>",
        f"<text x='{LEFT}' y='24' font-size='15' font-weight='bold'>{escape(title)}</text>",
    ]
    x = float(LEFT)
    for i, name in enumerate(names):
        out += [
            f"<line x1='{x:.0f}' y1='42' x2='{x + 26:.0f}' y2='42' {_stroke(i)}/>",
            f"<text x='{x + 32:.0f}' y='46'>{escape(name)}</text>",
        ]
        x += 60 + 6.5 * len(name)
    for i, panel in enumerate(panels):
        out += _panel(panel, LEFT + i * (PANEL_WIDTH + GAP), sizes, names, first=i == 0)
    middle = LEFT + (len(panels) * (PANEL_WIDTH + GAP) - GAP) / 2
    out += [
        f"<text x='{middle:.0f}' y='{height - 28}' text-anchor='middle'>"
        "floats in the state of one sequence</text>",
        f"<text x='{LEFT}' y='{height - 8}' font-size='10' fill='#666'>{escape(note)}</text>",
        "</svg>",
    ]
    return "\n".join(out) + "\n"


def _stroke(i: int) -> str:
    dash = DASHES[i % len(DASHES)]
    dashes = f" stroke-dasharray='{dash}'" if dash else ""
    return f"stroke='{COLOURS[i % len(COLOURS)]}' stroke-width='2' fill='none'{dashes}"


def _panel(
    panel: Panel, left: float, sizes: Sequence[int], names: Sequence[str], *, first: bool
) -> list[str]:
    low, high = math.log2(sizes[0]), math.log2(sizes[-1])
    span = high - low

    def across(floats: int) -> float:
        share = (math.log2(floats) - low) / span if span else 0.5
        return left + 16 + share * (PANEL_WIDTH - 32)

    def down(accuracy: float) -> float:
        return TOP + (1 - accuracy) * PANEL_HEIGHT

    bottom = TOP + PANEL_HEIGHT
    out = [f"<text x='{left}' y='{TOP - 10}' font-weight='bold'>{escape(panel.title)}</text>"]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        y = down(tick)
        out.append(f"<line x1='{left}' y1='{y:.1f}' x2='{left + PANEL_WIDTH}' y2='{y:.1f}' stroke='#ddd'/>")
        if first:
            out.append(f"<text x='{left - 8}' y='{y + 4:.1f}' text-anchor='end'>{tick:.0%}</text>")
    if first:
        middle = TOP + PANEL_HEIGHT / 2
        out.append(
            f"<text transform='translate({left - 44} {middle:.0f}) rotate(-90)' text-anchor='middle'>"
            "accuracy</text>"
        )
    said = -math.inf
    for floats in sizes:
        at = across(floats)
        out.append(f"<line x1='{at:.1f}' y1='{bottom}' x2='{at:.1f}' y2='{bottom + 4}' stroke='#222'/>")
        if at - said > 40:  # labels closer than this run into each other
            out.append(f"<text x='{at:.1f}' y='{bottom + 18}' text-anchor='middle'>{floats:,}</text>")
            said = at
    for name, line in panel.lines:
        i = names.index(name)
        colour = COLOURS[i % len(COLOURS)]
        for p in line:
            at = across(p.state_floats)
            out += [
                f"<line x1='{at:.1f}' y1='{down(p.low):.1f}' x2='{at:.1f}' y2='{down(p.high):.1f}'"
                f" stroke='{colour}' stroke-width='1.5'/>",
                f"<circle cx='{at:.1f}' cy='{down(p.accuracy):.1f}' r='3.5' fill='{colour}'/>",
            ]
        path = " ".join(f"{across(p.state_floats):.1f},{down(p.accuracy):.1f}" for p in line)
        out.append(f"<polyline points='{path}' {_stroke(i)}/>")
    return out


def bars(panels: Sequence[Panel], columns: int) -> str:
    """The panels below each other as horizontal bars, at most `columns` wide."""
    lines: list[str] = []
    label = max(len(name) for panel in panels for name, _ in panel.lines)
    room = max(10, min(50, columns - label - 9 - 6))
    for panel in panels:
        lines += ([""] if lines else []) + [panel.title]
        sizes = sorted({p.state_floats for _, line in panel.lines for p in line})
        for floats in sizes:
            shown = f"{floats:,}"
            for name, line in panel.lines:
                same = [p.accuracy for p in line if p.state_floats == floats]
                if not same:
                    continue
                accuracy = sum(same) / len(same)
                bar = _bar(accuracy, room)
                lines.append(f"{shown:>7}  {name:<{label}} {bar} {accuracy:4.0%}")
                shown = ""
    return "\n".join(lines)


def _bar(share: float, room: int) -> str:
    eighths = round(share * room * 8)
    whole, rest = divmod(eighths, 8)
    part = " ▏▎▍▌▋▊▉"[rest] if rest else ""
    return ("█" * whole + part).ljust(room, "·")
