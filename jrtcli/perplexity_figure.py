"""The figure of `jrt eval perplexity` as SVG: perplexity of recalled tokens by distance, by frequency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jrtcli import charts
from jrtcli.perplexity import DISTANCE, FREQUENCY

LEAST_TOKENS = 10
"""A point of fewer tokens says nothing and is left out."""
_TITLES = {
    DISTANCE: ("AR hits", "tokens since the bigram was last seen, from"),
    FREQUENCY: ("seen before, far away", "times the bigram stands in the reference, from"),
}


def svg(rows: Sequence[dict[str, Any]], note: str) -> str:
    """Rows of jrtcli.perplexity.Measured, of one or more models, as one panel for each of the two slices."""
    kept = [row for row in rows if row["slice"] in _TITLES and row["tokens"] >= LEAST_TOKENS]
    models = list(dict.fromkeys(row["model"] for row in rows))
    panels = [
        _panel([row for row in kept if row["slice"] == name], name, models)
        for name in _TITLES
        if any(row["slice"] == name for row in kept)
    ]
    return charts.figure(
        panels, title="Perplexity of recalled tokens", note=note, size=(320, 220), dashed=True
    )


def _panel(rows: Sequence[dict[str, Any]], name: str, models: Sequence[str]) -> charts.Panel:
    starts = sorted({row["low"] for row in rows})
    title, across = _TITLES[name]
    series = []
    for model in models:
        line = sorted((row for row in rows if row["model"] == model), key=lambda row: row["low"])
        marks = tuple(charts.Mark(starts.index(row["low"]), math.exp(row["nll"])) for row in line)
        series.append(charts.Series(model, marks))
    return charts.Panel(
        title,
        tuple(series),
        charts.places(across, [f"{start:,}" for start in starts]),
        charts.logarithmic("perplexity", [mark.y for one in series for mark in one.marks]),
    )
