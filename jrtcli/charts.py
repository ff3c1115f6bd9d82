"""Every chart of jrt, as SVG: panels of lines or points with whiskers, and bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from jrtcli import svg

_INSET = 16.0
"""Between the frame of a panel and its outermost points."""

Point = tuple[float, float, float, float, str]
"""x, y, low and high of y, and a label: what stands before a colon is drawn where there is room, the whole is
shown under the pointer."""


@dataclass(frozen=True)
class Mark:
    """A point: its whisker, if it has one, a label drawn beside it where there is room, and a tip."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""
    tip: str = ""


@dataclass(frozen=True)
class Series:
    """Marks of one name and colour; joined: with a line through them. shift: pixels to the right."""

    name: str
    marks: tuple[Mark, ...]
    joined: bool = True
    shift: float = 0.0


@dataclass(frozen=True)
class Scale:
    """An axis. place: value -> 0 (left, bottom) to 1; ticks: (value, label). inset: room before the ends."""

    title: str
    place: Callable[[float], float]
    ticks: tuple[tuple[float, str], ...]
    inset: float = 0.0


@dataclass(frozen=True)
class Panel:
    """One plot."""

    title: str
    series: tuple[Series, ...]
    across: Scale
    down: Scale


def shares(title: str = "") -> Scale:
    """From 0 to 100 %."""
    return Scale(title, lambda value: value, tuple((tick, f"{tick:.0%}") for tick in (0, 0.25, 0.5, 0.75, 1)))


def logarithmic(title: str, values: Iterable[float], *, at_values: bool = False) -> Scale:
    """Over positive values: ticks at 1, 2 and 5 times powers of ten, or (at_values) at the values."""
    known = sorted({value for value in values if value > 0}) or [1.0]
    if at_values:
        low, high, marks = known[0], known[-1], known
    else:
        every = [m * 10.0**p for p in range(_power(known[0]), _power(known[-1]) + 2) for m in (1, 2, 5)]
        low = max(tick for tick in every if tick <= known[0] * (1 + 1e-9))
        high = min(tick for tick in [*every, 10 * every[-1]] if tick >= known[-1] * (1 - 1e-9))
        high = high if high > low else 10 * low
        marks = [tick for tick in every if low <= tick <= high]
        if math.log10(high / low) > 2.5:
            marks = [tick for tick in marks if abs(math.log10(tick) - round(math.log10(tick))) < 1e-9]
    span = math.log(high / low)
    return Scale(
        title,
        lambda value: math.log(value / low) / span if span else 0.5,
        tuple((tick, f"{tick:,.0f}" if at_values else short(tick)) for tick in marks),
        _INSET if at_values else _INSET / 2,
    )


def places(title: str, labels: Sequence[str]) -> Scale:
    """Evenly spaced places 0, 1, 2, ... with a label each."""
    last = max(1, len(labels) - 1)
    return Scale(title, lambda value: value / last, tuple(enumerate(labels)), _INSET)


def figure(
    panels: Sequence[Panel],
    *,
    title: str,
    heading: bool = True,
    note: str = "",
    size: tuple[int, int] = (360, 200),
    shared: bool = False,
    dashed: bool = False,
    per_row: int = 6,
) -> str:
    """Panels of `size` pixels, `per_row` side by side, under one legend.

    heading: whether the title is drawn, too. shared: one vertical scale, labelled at the left only. dashed:
    each series has a dash of its own besides its colour.
    """
    names = list(dict.fromkeys(series.name for panel in panels for series in panel.series))
    labels = [label for panel in panels for _, label in panel.down.ticks]
    left = (
        22.0
        + max((svg.text_width(label) for label in labels), default=0)
        + 16 * any(p.down.title for p in panels)
    )
    gap = 24.0 if shared else left
    beside = max(1, min(per_row, len(panels)))
    width = left + beside * (size[0] + gap) - (0 if shared else left - 24)
    legend = _legend(names, left, width, 42 if heading else 16, dashed=dashed)
    above = 38 if any(panel.title for panel in panels) else 18
    below = 26 + 20 * any(panel.across.title for panel in panels)
    rows = max(1, -(-len(panels) // beside))
    height = legend.bottom + rows * (above + size[1] + below) + 20 * bool(note)
    out = svg.opened(title, max(width, legend.width), height)
    if heading:
        out.append(svg.text(left, 24, title, size=15, bold=True))
    out += legend.drawn
    for i, panel in enumerate(panels):
        x = left + i % beside * (size[0] + gap)
        y = legend.bottom + above + i // beside * (above + size[1] + below)
        labelled = not (shared and i % beside)
        out += _panel(panel, (x, y, size[0], size[1]), names, labelled=labelled, dashed=dashed)
    if note:
        out.append(svg.text(left, height - 8, note, size=svg.SMALL, fill="#666"))
    return "\n".join([*out, "</svg>"]) + "\n"


def lines(title: str, series: Sequence[tuple[str, Sequence[Point]]], across: str) -> str:
    """Shares with whiskers over x from 0 to 1, a line for each series."""
    middle = (len(series) - 1) / 2
    made = []
    for i, (name, points) in enumerate(series):
        marks = (Mark(x, y, low, high, "", f"{name}: {label}") for x, y, low, high, label in points)
        # Whiskers beside each other.
        made.append(Series(name, tuple(marks), shift=3 * (i - middle)))
    scale = Scale(across, lambda x: x, tuple((tick / 5, f"{tick / 5:.0%}") for tick in range(6)))
    return figure([Panel("", tuple(made), scale, shares())], title=title, heading=False)


def points(title: str, series: Sequence[tuple[str, Sequence[Point]]], across: str) -> str:
    """Shares with whiskers over a logarithmic x above 0, each with its label where there is room for it."""
    made = tuple(
        Series(
            name,
            tuple(Mark(x, y, a, b, label.split(":")[0], f"{name}: {label}") for x, y, a, b, label in each),
            joined=False,
        )
        for name, each in series
    )
    scale = logarithmic(across, [mark.x for one in made for mark in one.marks])
    return figure([Panel("", made, scale, shares())], title=title, heading=False)


def bars(title: str, groups: Sequence[tuple[str, Sequence[tuple[str, float, float, float] | None]]]) -> str:
    """Bars side by side in each group: (group, [(series, share, low, high), ...]); None leaves a gap."""
    names = list(dict.fromkeys(bar[0] for _, each in groups for bar in each if bar is not None))
    thick, left, deep = 18, 52.0, 200.0
    slots = max((len(each) for _, each in groups), default=1)
    # A group is as wide as its bars, or as its name.
    rooms = [max(slots * thick, svg.text_width(group)) + 22 for group, _ in groups]
    width = left + sum(rooms) + 20
    legend = _legend(names, left, max(width, 220), 16, dashed=False)
    top = legend.bottom + 18
    width = max(width, legend.width)
    out = [*svg.opened(title, width, top + deep + 30), *legend.drawn]
    out += _rungs(shares(), (left, top, width - left - 16, deep), labelled=True)
    x = left
    for (group, each), room in zip(groups, rooms, strict=True):
        start = x + (room - slots * thick) / 2
        for i, bar in enumerate(each):
            if bar is None:
                continue
            name, value, low, high = bar
            at, colour = start + i * thick, svg.COLOURS[names.index(name) % len(svg.COLOURS)]
            tip = f"{group}, {name}: {value:.1%} ({low:.1%} to {high:.1%})"
            out += [
                f"<rect x='{at:.1f}' y='{top + (1 - value) * deep:.1f}' width='{thick - 3}'"
                f" height='{value * deep:.1f}' fill='{colour}'><title>{escape(tip)}</title></rect>",
                svg.line(
                    at + (thick - 3) / 2,
                    top + (1 - low) * deep,
                    at + (thick - 3) / 2,
                    top + (1 - high) * deep,
                ),
            ]
        out.append(svg.text(x + room / 2, top + deep + 18, group, anchor="middle"))
        x += room
    return "\n".join([*out, "</svg>"])


def short(value: float) -> str:
    """A number of an axis: 2k, 1.5M, 0.2."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


@dataclass(frozen=True)
class _Legend:
    drawn: list[str]
    bottom: float
    width: float


def _legend(names: Sequence[str], left: float, width: float, y: float, *, dashed: bool) -> _Legend:
    """Names with their colours, in as many rows as the width asks for."""
    out: list[str] = []
    x, widest = left, 0.0
    for i, name in enumerate(names):
        room = 32 + svg.text_width(name)
        if x > left and x + room > width:
            x, y = left, y + 18
        out += [f"<line x1='{x:.0f}' y1='{y:.0f}' x2='{x + 26:.0f}' y2='{y:.0f}' {svg.stroke(i, dashed)}/>"]
        out.append(svg.text(x + 32, y + 4, name))
        widest = max(widest, x + room)
        x += room + 20
    return _Legend(out, y, widest + 12)


Frame = tuple[float, float, float, float]
"""Left, top, width, height."""


def _panel(panel: Panel, frame: Frame, names: Sequence[str], *, labelled: bool, dashed: bool) -> list[str]:
    left, top, width, height = frame
    across, down = panel.across, panel.down
    room = width - 2 * across.inset

    def at(series: Series, mark: Mark) -> float:
        return left + across.inset + across.place(mark.x) * room + series.shift

    def deep(value: float) -> float:
        return top + (1 - down.place(value)) * height

    out = [svg.text(left, top - 12, panel.title, bold=True)] if panel.title else []
    out += _rungs(down, frame, labelled=labelled)
    out += _steps(across, frame)
    marks: list[svg.Box] = []
    wanted: list[tuple[float, float, str, str]] = []
    for series in panel.series:
        i = names.index(series.name)
        colour = svg.COLOURS[i % len(svg.COLOURS)]
        for mark in series.marks:
            x, y = at(series, mark), deep(mark.y)
            low, high = (y if end is None else deep(end) for end in (mark.low, mark.high))
            if mark.low is not None or mark.high is not None:
                out.append(svg.line(x, low, x, high, colour))
            tip = f"<title>{escape(mark.tip)}</title>" if mark.tip else ""
            out.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{colour}'>{tip}</circle>")
            marks.append((x - 4, y - 4, x + 4, y + 4))
            if mark.label:
                wanted.append((x, y, mark.label, colour))
        if series.joined:
            path = " ".join(f"{at(series, mark):.1f},{deep(mark.y):.1f}" for mark in series.marks)
            out.append(f"<polyline points='{path}' {svg.stroke(i, dashed)}/>")
    return [*out, *svg.labels(wanted, marks, (left, top - 6, left + width, top + height))]


def _rungs(scale: Scale, frame: Frame, *, labelled: bool) -> list[str]:
    """The horizontal lines of a vertical scale, their labels and its title."""
    left, top, width, height = frame
    out = []
    for value, label in scale.ticks:
        y = top + (1 - scale.place(value)) * height
        out.append(svg.line(left, y, left + width, y, "#ddd"))
        if labelled:
            out.append(svg.text(left - 8, y + 4, label, anchor="end"))
    if labelled and scale.title:
        away = 18 + max(svg.text_width(label) for _, label in scale.ticks)
        turned = f"transform='translate({left - away:.0f} {top + height / 2:.0f}) rotate(-90)'"
        out.append(f"<text {turned} text-anchor='middle'>{escape(scale.title)}</text>")
    return out


def _steps(scale: Scale, frame: Frame) -> list[str]:
    """The ticks of a horizontal scale; a label that would run into the one before is left out."""
    left, top, width, height = frame
    bottom, free = top + height, -math.inf
    out = []
    for value, label in scale.ticks:
        x = left + scale.inset + scale.place(value) * (width - 2 * scale.inset)
        out.append(svg.line(x, bottom, x, bottom + 4))
        half = svg.text_width(label) / 2
        if x - half > free:
            out.append(svg.text(x, bottom + 18, label, anchor="middle"))
            free = x + half + 6
    if scale.title:
        out.append(svg.text(left + width / 2, bottom + 37, scale.title, anchor="middle", fill="#555"))
    return out


def _power(value: float) -> int:
    return math.floor(math.log10(value) + 1e-9)
