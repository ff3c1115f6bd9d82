"""The figure of `jrt eval perplexity` as SVG: perplexity of recalled tokens by distance, by frequency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from jrtcli.perplexity import DISTANCE, FREQUENCY
from jrtcli.probe.figure import COLOURS, DASHES, FONT

WIDTH, HEIGHT, LEFT, GAP, TOP, BOTTOM = 320, 220, 64, 76, 84, 62
LEAST_TOKENS = 10
"""A point of fewer tokens says nothing and is left out."""
_TITLES = {
    DISTANCE: ("AR hits", "tokens since the bigram was last seen"),
    FREQUENCY: ("seen before, far away", "times the bigram stands in the reference"),
}


def svg(rows: Sequence[dict[str, Any]], note: str) -> str:
    """Rows of jrtcli.perplexity.Measured, of one or more models, as one panel for each of the two slices."""
    kept = [row for row in rows if row["slice"] in _TITLES and row["tokens"] >= LEAST_TOKENS]
    panels = [name for name in _TITLES if any(row["slice"] == name for row in kept)]
    models = list(dict.fromkeys(row["model"] for row in rows))
    width = LEFT + max(1, len(panels)) * (WIDTH + GAP)
    height = TOP + HEIGHT + BOTTOM
    out = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}'"
        f" height='{height}' {FONT} font-size='12' fill='#222'>",
        "<title>Perplexity of recalled tokens</title>",
        f"<rect width='{width}' height='{height}' fill='white'/>",
        f"<text x='{LEFT}' y='24' font-size='15' font-weight='bold'>Perplexity of recalled tokens</text>",
    ]
    x = float(LEFT)
    for i, name in enumerate(models):
        out += [
            f"<line x1='{x:.0f}' y1='42' x2='{x + 26:.0f}' y2='42' {_stroke(i)}/>",
            f"<text x='{x + 32:.0f}' y='46'>{escape(name)}</text>",
        ]
        x += 60 + 6.5 * len(name)
    for i, panel in enumerate(panels):
        out += _panel([r for r in kept if r["slice"] == panel], panel, LEFT + i * (WIDTH + GAP), models)
    out += [f"<text x='{LEFT}' y='{height - 8}' font-size='10' fill='#666'>{escape(note)}</text>", "</svg>"]
    return "\n".join(out) + "\n"


def _stroke(i: int) -> str:
    dash = DASHES[i % len(DASHES)]
    dashes = f" stroke-dasharray='{dash}'" if dash else ""
    return f"stroke='{COLOURS[i % len(COLOURS)]}' stroke-width='2' fill='none'{dashes}"


def _panel(rows: Sequence[dict[str, Any]], name: str, left: float, models: Sequence[str]) -> list[str]:
    places = sorted({(row["low"], row["high"]) for row in rows})
    low = math.log(min(math.exp(row["nll"]) for row in rows))
    high = math.log(max(math.exp(row["nll"]) for row in rows))
    low, high = (low, high) if high - low > 0.1 else (low - 0.05, high + 0.05)
    bottom = TOP + HEIGHT

    def across(place: tuple[int, int]) -> float:
        return left + 16 + places.index(place) * (WIDTH - 32) / max(1, len(places) - 1)

    def down(nll: float) -> float:
        return TOP + 8 + (high - nll) / (high - low) * (HEIGHT - 16)

    title, axis = _TITLES[name]
    out = [f"<text x='{left}' y='{TOP - 10}' font-weight='bold'>{escape(title)}</text>"]
    for i in range(5):
        nll = low + (high - low) * i / 4
        y = down(nll)
        out += [
            f"<line x1='{left}' y1='{y:.1f}' x2='{left + WIDTH}' y2='{y:.1f}' stroke='#ddd'/>",
            f"<text x='{left - 8}' y='{y + 4:.1f}' text-anchor='end'>{math.exp(nll):,.3g}</text>",
        ]
    said = -math.inf
    for place in places:
        at = across(place)
        out.append(f"<line x1='{at:.1f}' y1='{bottom}' x2='{at:.1f}' y2='{bottom + 4}' stroke='#222'/>")
        if at - said > 44:  # labels closer than this run into each other
            out.append(f"<text x='{at:.1f}' y='{bottom + 18}' text-anchor='middle'>{place[0]:,}</text>")
            said = at
    for i, model in enumerate(models):
        line = sorted((r for r in rows if r["model"] == model), key=lambda r: r["low"])
        points = [(across((r["low"], r["high"])), down(r["nll"])) for r in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f"<polyline points='{path}' {_stroke(i)}/>")
        colour = COLOURS[i % len(COLOURS)]
        out += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{colour}'/>" for x, y in points]
    middle = left + WIDTH / 2
    out.append(f"<text x='{middle:.0f}' y='{bottom + 36}' text-anchor='middle'>{escape(axis)}, from</text>")
    return out
