"""Metrics against cases worked by hand, and against published values of the statistics."""

from __future__ import annotations

import random

import pytest

from jrtcli.metrics import (
    METRICS,
    aggregate,
    contains,
    exact_match,
    metric,
    normalize,
    paired_difference,
    score,
    sign_test,
    token_f1,
    wilson,
)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric(name: str) -> None:
    function = metric(name)
    assert function("Hematology (81)", ["hematology (81)"]) == 1.0
    assert function("nothing of it", ["Hematology"]) == 0.0
    assert function("b", ["a1", "b"]) == 1.0  # any gold
    assert function("x", []) == 0.0
    assert function("", []) == 1.0  # no answer where there is none
    assert function("", ["Hematology"]) == 0.0
    with pytest.raises(KeyError):
        metric("no such metric")


@pytest.mark.parametrize(
    ("answer", "golds", "value"),
    [
        ("It was founded in 1894.", ["18"], 1.0),  # lenient: a substring is enough
        ("class II device", ["Class II"], 1.0),
        ("a", ["b"], 0.0),
        ("c.b", ["c+b", "c.b"], 1.0),  # special characters are literal
        ("cxb", ["c.b"], 0.0),
        ("LCO", [" LCO\n"], 1.0),  # version 1: ends do not count
        ("L CO", ["LCO"], 0.0),
        ("anything", [""], 0.0),
        ("  ", [""], 1.0),
        ("MÜLLER", ["Müller"], 1.0),
    ],
)
def test_contains(answer: str, golds: list[str], value: float) -> None:
    assert contains(answer, golds) == value


def test_squad_normalisation() -> None:
    assert normalize("The  Norman's,\ta (great) AN-cestor!") == "normans great ancestor"
    assert normalize("theatre an ban a") == "theatre ban"
    assert normalize("a the") == ""
    assert normalize("“quoted”") == "“quoted”"  # only ASCII punctuation, as in the official script


@pytest.mark.parametrize(
    ("answer", "golds", "exact", "f1"),
    [
        ("the Norman dynasty", ["Norman dynasty."], 1.0, 1.0),
        ("Norman", ["Norman dynasty"], 0.0, 2 / 3),  # P 1, R 1/2
        ("Norman dynasty of France", ["Norman dynasty"], 0.0, 2 / 3),  # P 2/4, R 1
        ("x y z", ["a1 b1"], 0.0, 0.0),
        ("b b c", ["b c c"], 0.0, 2 / 3),  # counted with repetition: 2 shared
        ("10", ["10", "ten"], 1.0, 1.0),
        ("the", ["x"], 0.0, 0.0),  # nothing left of the answer
        ("", [""], 1.0, 1.0),
        ("1.0 U/mL", ["10 UmL"], 1.0, 1.0),  # punctuation goes without a space in its place
    ],
)
def test_exact_match_and_f1(answer: str, golds: list[str], exact: float, f1: float) -> None:
    assert exact_match(answer, golds) == exact
    assert token_f1(answer, golds) == pytest.approx(f1)
    assert score(answer, golds, ["exact_match"]) == {"exact_match": exact}


def test_scores_of_one_answer() -> None:
    assert score("It is Class II", ["Class II"]) == {
        "contains": 1.0,
        "exact_match": 0.0,
        "f1": pytest.approx(2 / 3),
    }


def test_average() -> None:
    result = aggregate("contains", [1.0] * 7 + [0.0] * 3)
    assert (result.metric, result.value, result.count) == ("contains", 0.7, 10)
    assert result.stderr == pytest.approx((0.21 / 9) ** 0.5)
    assert aggregate("f1", [0.5]).stderr is None
    with pytest.raises(ValueError, match="no values of f1"):
        aggregate("f1", [])


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    # Newcombe 1998, table I, method 3 (Wilson without continuity correction).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval(successes: int, count: int, low: float, high: float) -> None:
    assert wilson(successes / count, count) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_at_the_ends() -> None:
    assert wilson(0.0, 5)[0] == 0.0
    assert wilson(1.0, 5)[1] == 1.0


@pytest.mark.parametrize(
    ("better", "worse", "p"),
    [(0, 0, 1.0), (5, 0, 2 / 32), (8, 2, 2 * 56 / 1024), (2, 8, 2 * 56 / 1024), (5, 5, 1.0), (1, 0, 1.0)],
)
def test_sign_test(better: int, worse: int, p: float) -> None:
    assert sign_test(better, worse) == pytest.approx(p)


def test_paired_difference() -> None:
    once = [1.0] * 40 + [0.0] * 60
    twice = [1.0] * 35 + [0.0] * 5 + [1.0] * 25 + [0.0] * 35
    result = paired_difference(once, twice)
    assert result.value == pytest.approx(0.2)
    assert (result.better, result.worse) == (25, 5)
    assert result.p_value == pytest.approx(sign_test(25, 5))
    # Normal approximation: 0.2 ± 1.96 sqrt((0.30 - 0.04) / 100).
    assert (result.low, result.high) == pytest.approx((0.10, 0.30), abs=0.015)
    assert result == paired_difference(once, twice)
    swapped = paired_difference(twice, once)
    assert (swapped.value, swapped.better, swapped.worse) == (-result.value, 5, 25)


def test_paired_difference_of_many_values() -> None:
    draw = random.Random(1)
    first = [draw.random() for _ in range(2000)]
    same = paired_difference(first, first)
    assert (same.value, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    result = paired_difference(first, [value * 0.9 for value in first], resamples=500)
    assert result.low < result.value < result.high < 0
    with pytest.raises(ValueError, match="3 and 2 values"):
        paired_difference([1, 1, 1], [0, 0])
    with pytest.raises(ValueError):
        paired_difference([], [])
