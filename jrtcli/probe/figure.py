"""The figure of a probe as an SVG file, and as bars of text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from jrtcli import charts
from jrtcli.probe.summary import Panel
from jrtcli.text_bars import bar


def svg(panels: Sequence[Panel], title: str, note: str) -> str:
    """The panels side by side: accuracy over the floats of the state, whiskers from worst to best seed."""
    sizes = {p.state_floats for panel in panels for _, line in panel.lines for p in line}
    across = charts.logarithmic("floats in the state of one sequence", sizes, at_values=True)
    made = [
        charts.Panel(
            panel.title,
            tuple(
                charts.Series(
                    name, tuple(charts.Mark(p.state_floats, p.accuracy, p.low, p.high) for p in line)
                )
                for name, line in panel.lines
            ),
            across,
            charts.shares("accuracy"),
        )
        for panel in panels
    ]
    return charts.figure(made, title=title, note=note, size=(240, 200), shared=True, dashed=True)


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
                drawn = bar(accuracy, room)
                lines.append(f"{shown:>7}  {name:<{label}} {drawn} {accuracy:4.0%}")
                shown = ""
    return "\n".join(lines)
