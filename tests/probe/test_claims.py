"""Verdicts on made rows, where it is known what holds."""

from __future__ import annotations

import math
from typing import Any

import pytest

from jrtcli.probe.claims import (
    FAILS,
    HOLDS,
    OPEN,
    best_rates,
    disjointness_claims,
    guessing,
    learned,
    mean,
    none,
    recall_claims,
    slope,
    t_95,
)


def rows(
    accuracy: dict[str, Any], *, sizes: tuple[int, ...] = (1024, 2048, 4096), seeds: int = 3
) -> list[dict[str, Any]]:
    """Rows of made models: accuracy[reading](log2 of the state, order) and a little that varies by seed."""
    made = []
    for reading, f in accuracy.items():
        for floats in sizes:
            for seed in range(seeds):
                for order in ("short first", "short last"):
                    wiggle = 0.004 * ((seed * 7 + floats // 1024 * 3 + (order == "short last") * 5) % 3 - 1)
                    made.append({
                        "reading": reading, "state_floats": floats, "width": 32, "feature_dim": floats,
                        "seed": seed, "rate": 0.01, "order": order, "trained": True, "first": 5, "second": 6,
                        "accuracy": f(math.log2(floats), order) + wiggle, "count": 100,
                    })  # fmt: skip
    return made


def gap(at_1024: float, per_doubling: float) -> Any:
    return lambda x, order: 0.6 + (at_1024 + per_doubling * (x - 10) if order == "short first" else 0)


def flat(level: float) -> Any:
    return lambda x, order: level


def test_the_papers_shape_holds_where_it_is() -> None:
    found = disjointness_claims(rows({"causal": gap(0.3, -0.1), "non-causal": flat(0.9), "twice": flat(0.8)}))
    assert [claim.verdict for claim in found] == [HOLDS] * 6
    assert found[0].estimate is not None and found[0].estimate.value == pytest.approx(0.2, abs=0.01)
    assert found[1].estimate is not None and found[1].estimate.value == pytest.approx(-0.1, abs=0.01)
    assert found[0].estimate.count == 9


def test_the_opposite_does_not_hold() -> None:
    found = disjointness_claims(
        rows({"causal": gap(-0.3, -0.02), "non-causal": gap(0.3, 0), "twice": flat(0.55)})
    )
    assert [claim.verdict for claim in found] == [FAILS, HOLDS, FAILS, OPEN, HOLDS, FAILS]


def test_noise_decides_nothing() -> None:
    found = disjointness_claims(rows({"causal": flat(0.7), "non-causal": flat(0.7), "twice": flat(0.7)}))
    assert [claim.verdict for claim in found[:2]] == [OPEN, OPEN]
    assert found[2].verdict == HOLDS  # no difference is shown, within the margin


def test_one_model_decides_nothing() -> None:
    made = rows({"causal": gap(0.3, 0), "non-causal": flat(0.9)}, sizes=(1024,), seeds=1)
    assert {claim.verdict for claim in disjointness_claims(made)} == {OPEN}


def test_models_that_did_not_learn_are_left_out_and_counted() -> None:
    made = rows({"causal": gap(0.3, 0), "non-causal": flat(0.1)})
    kept, good, models = learned(made)
    assert (good, models) == (9, 18) and {row["reading"] for row in kept} == {"causal"}
    assert disjointness_claims(made)[2].verdict == OPEN  # no order effect in what was never learned


def test_that_nothing_matters_is_asked_of_models_that_solve_the_task() -> None:
    made = rows({"causal": gap(0.1, 0), "non-causal": flat(0.45), "twice": flat(0.55)})
    claims = disjointness_claims(made)
    assert learned(made)[1] == 27 and claims[2].estimate is None
    assert (claims[2].verdict, claims[4].verdict) == (OPEN, HOLDS)


def test_guessing_is_naming_anything_that_was_read() -> None:
    assert guessing({"first": 4, "second": 16}) == 1 / 19 and guessing({"pairs": 8}) == 1 / 8


def test_only_trained_sizes_decide_who_learned() -> None:
    made = rows({"causal": flat(0.1)})
    assert learned([row | {"trained": False, "accuracy": 1.0} for row in made] + made)[1] == 0


def test_the_best_learning_rate_counts() -> None:
    low = rows({"causal": flat(0.2)}, seeds=1)
    high = [row | {"rate": 0.02, "accuracy": row["accuracy"] + 0.5} for row in low]
    assert best_rates(low + high) == high


def test_recall_claims_follow_the_rows() -> None:
    grows = {"causal": lambda x, o: 0.05 * x, "twice": lambda x, o: 0.05 * x + 0.2,
             "prefix": lambda x, o: 0.05 * x - 0.2}  # fmt: skip
    assert [claim.verdict for claim in recall_claims(rows(grows))] == [HOLDS, HOLDS, FAILS]


def test_intervals_are_students() -> None:
    found = mean([1.0, 2.0, 3.0, 4.0])
    assert found is not None and found.value == 2.5
    # s = sqrt(5/3), s / sqrt(4) = 0.6455, t(3) = 3.182
    assert (found.low, found.high) == (pytest.approx(0.4460, abs=1e-3), pytest.approx(4.5540, abs=1e-3))
    line = slope([(0, 1.0), (1, 3.0), (2, 5.0)])
    assert line is not None and (line.value, line.low, line.high) == pytest.approx((2, 2, 2))
    assert t_95(1) == 12.706 and t_95(40) == pytest.approx(2.021, abs=0.005)
    assert mean([]) is None and slope([(1.0, 0.5)]) is None
    assert none(mean([0.2])) == OPEN
