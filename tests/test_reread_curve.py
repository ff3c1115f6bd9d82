"""The curve of recall over tokens read: its rows and its figure."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from jrtcli.calibration import Point
from jrtcli.reread_curve import csv_text, svg, thinned

ONCE, ALWAYS = Point(-1.0, 0.3, 1000.0, 0.0), Point(1.01, 0.4, 2000.0, 1.0)
BETWEEN = [Point(i / 100, 0.3 + i / 1000, 1000.0 + 10 * i, i / 100) for i in range(1, 100)]


def test_a_thinned_curve_keeps_its_ends_and_goes_up() -> None:
    found = thinned([ONCE, *BETWEEN, ALWAYS], 12)
    assert (found[0], found[-1]) == (ONCE, ALWAYS) and 10 <= len(found) <= 13
    assert [point.tokens for point in found] == sorted({point.tokens for point in found})
    assert thinned([ONCE, ALWAYS], 12) == [ONCE, ALWAYS]
    flat = [Point(t, 0.5, 100.0, 0.0) for t in (-1.0, 0.0, 1.01)]
    assert thinned(flat, 2) == flat


def test_a_line_for_each_point() -> None:
    assert csv_text([ONCE, ALWAYS]).splitlines() == [
        "threshold,recall,tokens_per_row,read_again",
        "-1.0,0.3,1000.0,0.0",
        "1.01,0.4,2000.0,1.0",
    ]


def test_the_figure_says_what_it_shows() -> None:
    drawn = svg([ONCE, *BETWEEN, ALWAYS], BETWEEN[50], rows=200, reads=2, title="a <b>")
    said = "".join(ElementTree.fromstring(drawn).itertext())
    for part in ("a <b>", "once", "auto", "always 2 times", "40.0% at 2,000 tokens, 100% read again"):
        assert part in said
    # Axes around the values, in round steps.
    assert "1,500" in said and "30%" in said and "100%" not in said.replace("100% read again", "")
    flat = svg([ONCE, ONCE], ONCE, rows=20, reads=2, title="t")
    ElementTree.fromstring(flat)
