"""Reread curve: recall over the tokens it takes, from reading once to always again; as CSV and as SVG."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jrtcli.charts import Mark, Panel, Scale, Series, figure
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
    intervals of `rows` questions."""
    ends = {"once": points[0], "auto": auto, f"always {reads} times": points[-1]}

    def mark(point: Point, name: str) -> Mark:
        low, high = wilson(point.recall, rows)
        tip = f"{name}: {point.recall:.1%} at {point.tokens:,.0f} tokens, {point.again:.0%} read again"
        return Mark(point.tokens, point.recall, low, high, name, tip)

    def bare(point: Point) -> Mark:
        return Mark(point.tokens, point.recall, tip=mark(point, f"threshold {point.threshold:.2f}").tip)

    series = [Series("by threshold", tuple(bare(point) for point in thinned(points, 40)))]
    series += [Series(name, (mark(point, name),), joined=False) for name, point in ends.items()]
    lows, highs = zip(*(wilson(point.recall, rows) for point in ends.values()), strict=True)
    across = _linear("tokens read for a question", [point.tokens for point in points], "{:,.0f}")
    panel = Panel("", tuple(series), across, _linear("recall", [*lows, *highs], "{:.0%}"))
    return figure([panel], title=title, note="whiskers: 95 %", size=(460, 240))


def _linear(title: str, values: Sequence[float], form: str) -> Scale:
    """From a round number below all values to one above, about five steps."""
    low, high = min(values), max(values)
    rough = max(high - low, 1e-6) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    span = (last - first) * step or step
    ticks = tuple((n * step, form.format(n * step)) for n in range(first, last + 1))
    return Scale(title, lambda value: (value - first * step) / span, ticks)
