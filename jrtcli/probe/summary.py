"""Accuracy over state size: the rows of all seeds as points, and points as the panels of a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jrtcli.probe.claims import Row, accuracies, best_rates

NAMES = {
    "causal": "causal, read once",
    "non-causal": "non-causal",
    "prefix": "prefix, read once",
    "twice": "causal, read twice",
}


@dataclass(frozen=True)
class Point:
    """One reading at one state size and one order of the sets, or number of pairs: the mean over seeds.

    low, high: the worst and the best seed.
    """

    reading: str
    width: int
    feature_dim: int
    state_floats: int
    group: str
    accuracy: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Panel:
    """A plot of its own: (name, points by state size) for each line."""

    title: str
    lines: tuple[tuple[str, tuple[Point, ...]], ...]


def points(rows: Sequence[Row]) -> list[Point]:
    """All points, smallest states first; of several learning rates the best one of each model."""
    found: dict[tuple[Any, ...], list[float]] = {}
    group = "pairs" if any("pairs" in row for row in rows) else "order"
    scores = accuracies(best_rates(rows), "reading", "width", "feature_dim", "state_floats", group, "seed")
    for key, accuracy in scores.items():
        found.setdefault(key[:-1], []).append(accuracy)
    made = []
    for (reading, width, feature_dim, floats, name), values in found.items():
        label = f"{name} pairs" if group == "pairs" else str(name)
        mean = math.fsum(values) / len(values)
        made.append(
            Point(reading, width, feature_dim, floats, label, mean, min(values), max(values), len(values))
        )
    return sorted(made, key=lambda p: (p.state_floats, p.width))


def panels(points: Sequence[Point]) -> list[Panel]:
    """Disjointness: a panel for each reading, a line for each order. Recall: the other way round."""
    readings = [name for name in NAMES if any(p.reading == name for p in points)]
    groups = list(dict.fromkeys(p.group for p in points))
    if any(group.endswith("pairs") for group in groups):
        groups.sort(key=lambda g: int(g.split()[0]))
        return [
            Panel(g, tuple((NAMES[r], _line(points, r, g)) for r in readings if _line(points, r, g)))
            for g in groups
        ]
    groups.sort()
    return [
        Panel(NAMES[r], tuple((g, _line(points, r, g)) for g in groups if _line(points, r, g)))
        for r in readings
    ]


def _line(points: Sequence[Point], reading: str, group: str) -> tuple[Point, ...]:
    return tuple(p for p in points if p.reading == reading and p.group == group)
