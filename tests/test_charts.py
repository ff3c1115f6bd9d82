"""Charts: drawn to scale, labels that keep clear of each other, legends and ticks that fit."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest

from jrtcli import charts, svg
from jrtcli.text_bars import bar

SPACE = "{http://www.w3.org/2000/svg}"


def texts(drawn: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(drawn).iter(f"{SPACE}text"))


def small(drawn: str) -> list[ElementTree.Element]:
    """The labels of points."""
    return [text for text in texts(drawn) if text.get("font-size") == "10"]


def box(text: ElementTree.Element) -> tuple[float, float, float, float]:
    x, y = float(text.get("x", "")), float(text.get("y", ""))
    return x, y - 8.5, x + svg.text_width(text.text or "", 10), y + 1.5


def test_labels_of_close_points_do_not_overlap() -> None:
    crowd = [(1e6 * (1 + i / 50), 0.4 + i / 200, 0.3, 0.6, f"model-{i}: {i} answers") for i in range(12)]
    drawn = charts.points("Recall", [("once", crowd)], "bytes")
    labels = small(drawn)
    assert 2 <= len(labels) <= 12
    for a, b in combinations(map(box, labels), 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    # What has no room is still under the pointer.
    tips = [t.text for t in ElementTree.fromstring(drawn).iter(f"{SPACE}title")]
    assert sum("answers" in str(tip) for tip in tips) == 12


def test_labels_stay_in_the_frame() -> None:
    ends = [(1e3, 0.99, 0.9, 1.0, "left-model: a"), (1e9, 0.99, 0.9, 1.0, "right-model-with-a-name: b")]
    labels = small(charts.points("Recall", [("once", ends)], "bytes"))
    assert len(labels) == 2
    width = float(ElementTree.fromstring(charts.points("Recall", [("once", ends)], "bytes")).get("width", ""))
    assert all(box(label)[0] > 0 and box(label)[2] < width for label in labels)


def test_names_are_escaped_and_values_are_to_scale() -> None:
    drawn = charts.lines("a & b", [("<once>", [(0.1, 0.2, 0.1, 0.3, "x"), (0.9, 0.6, 0.5, 0.7, "y")])], "at")
    root = ElementTree.fromstring(drawn)
    assert "<once>" in [text.text for text in texts(drawn)]
    first, second = (float(c.get("cy", "")) for c in root.iter(f"{SPACE}circle"))
    rungs = {t.text: float(t.get("y", "")) - 4 for t in texts(drawn) if str(t.text).endswith("%")}
    top, bottom = rungs["75%"] + (rungs["75%"] - rungs["50%"]), rungs["50%"] * 2 - rungs["75%"] + 50
    assert top < second < first < bottom
    unit = (first - second) / 0.4
    assert unit == pytest.approx((rungs["50%"] - rungs["75%"]) / 0.25, abs=0.5)


def test_ticks_that_would_run_into_each_other_are_dropped() -> None:
    values = [1000.0 * i for i in range(1, 40)]
    scale = charts.logarithmic("tokens", values, at_values=True)
    series = charts.Series("one", tuple(charts.Mark(v, v) for v in values))
    down = charts.logarithmic("ms", values)
    drawn = charts.figure([charts.Panel("", (series,), scale, down)], title="t")
    shown = [t for t in texts(drawn) if re.fullmatch(r"\d+,000", t.text or "")]
    assert 3 < len(shown) < 20
    edges = [
        (float(t.get("x", "")) - svg.text_width(t.text or "") / 2, svg.text_width(t.text or ""))
        for t in shown
    ]
    for (a, wide), (b, _) in pairwise(edges):
        assert a + wide <= b


@pytest.mark.parametrize(
    "values", [[3.0], [1.0, 1.0], [0.02, 700.0], [1e-9, 1e9], [5.0, 10.0], [999.0, 1001.0]]
)
def test_logarithmic_scales_hold_their_values(values: list[float]) -> None:
    scale = charts.logarithmic("", values)
    assert len(scale.ticks) >= 2
    for value in values:
        assert -1e-6 <= scale.place(value) <= 1 + 1e-6
    assert [scale.place(tick) for tick, _ in scale.ticks] == sorted(scale.place(t) for t, _ in scale.ticks)


def test_a_long_legend_takes_more_rows() -> None:
    names = [f"a series with a long name {i}" for i in range(8)]
    drawn = charts.lines("t", [(name, [(0.5, 0.5, 0.4, 0.6, "x")]) for name in names], "at")
    width = float(ElementTree.fromstring(drawn).get("width", ""))
    legend = [text for text in texts(drawn) if text.text in names]
    assert len(legend) == 8 and len({text.get("y") for text in legend}) > 1
    assert all(float(t.get("x", "")) + svg.text_width(t.text or "") <= width for t in legend)


def test_bars_leave_gaps_and_room_for_long_names() -> None:
    groups = [
        ("a-task-with-a-long-name 4000", [("once", 0.5, 0.4, 0.6), None]),
        ("nq", [None, ("twice", 1.0, 0.9, 1.0)]),
    ]
    drawn = charts.bars("t", groups)
    root = ElementTree.fromstring(drawn)
    heights = [float(r.get("height", "")) for r in root.iter(f"{SPACE}rect")][1:]
    assert heights == [100, 200]
    first, second = (t for t in texts(drawn) if t.text in ("a-task-with-a-long-name 4000", "nq"))
    gap = float(second.get("x", "")) - float(first.get("x", ""))
    assert gap > (svg.text_width(first.text or "") + svg.text_width(second.text or "")) / 2


def test_nothing_to_draw_is_still_a_picture() -> None:
    for drawn in (
        charts.figure([], title="t"),
        charts.bars("t", []),
        charts.lines("t", [], "x"),
        charts.points("t", [], "x"),
    ):
        assert ElementTree.fromstring(drawn).tag == f"{SPACE}svg"


def test_bars_of_text() -> None:
    assert bar(0, 4) == "····" and bar(1, 4) == "████" and bar(0.5, 4, rest=" ") == "██  "
    assert bar(0.3, 5) == "█▌···"
