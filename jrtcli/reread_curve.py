"""Reread curve: recall over the tokens it takes, from reading once to always again; as CSV and as SVG."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jrtcli import charts
from jrtcli.metrics import wilson

if TYPE_CHECKING:
    from jrtcli.calibration import Point

COLUMNS = ("threshold", "recall", "tokens_per_row", "read_again")


def thinned(points: Sequence[Point], most: int = 12) -> list[Point]:
    """About `most` points of a curve, evenly over its tokens, its ends among them."""
    first, last = points[0], points[-1]
    width = (last.tokens - first.tokens) / max(1, most - 1)
    if len(points) <= most or width <= 0:
        return list(points)
    stretches = {int((point.tokens - first.tokens) / width): point for point in reversed(points[1:-1])}
    return [first, *(stretches[number] for number in sorted(stretches)), last]


def csv_text(points: Sequence[Point]) -> str:
    """A line for each point: the threshold, shares of 1, tokens."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for point in points:
        writer.writerow([point.threshold, point.recall, point.tokens, point.again])
    return out.getvalue()


def svg(points: Sequence[Point], auto: Point, *, rows: int, reads: int, title: str) -> str:
    """The curve, reading once and always `reads` times at its ends, and the point `auto`; whiskers are 95 %
    intervals of `rows` questions. x: tokens, of those that always reading `reads` times takes."""
    once, always = points[0], points[-1]
    most = always.tokens or 1.0

    def place(point: Point, what: str) -> charts.Point:
        low, high = wilson(point.recall, rows)
        label = f"{what}: {point.recall:.1%} at {point.tokens:,.0f} tokens, {point.again:.0%} read again"
        return point.tokens / most, point.recall, low, high, label

    def bare(point: Point) -> charts.Point:
        at = place(point, f"threshold {point.threshold:.2f}")
        return at[0], at[1], at[1], at[1], at[4]

    series = [
        ("by threshold", [bare(point) for point in thinned(points, 40)]),
        ("once", [place(once, "once")]),
        ("auto", [place(auto, "auto")]),
        (f"always {reads} times", [place(always, "always")]),
    ]
    return charts.lines(title, series, f"tokens read, of those that always {reads} readings take") + "\n"
