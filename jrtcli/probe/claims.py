"""What the paper expects of the rows, and whether it came out: computed from the rows, each with an interval.

A claim is about an average over trained models (one per state size and seed), with Student's t interval of
95 %: seeds and sizes are what varies. Models that did not learn the task say nothing about what a state can
hold; they are counted and left out. That something makes no difference is only asked of models that solve the
task: where nothing is known, no order matters. A claim that too few models are left for is not decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

Row = Mapping[str, object]

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
MARGIN = 0.05
"""Differences in accuracy up to here count as none, where a claim says that something does not matter."""
LEARNED_TIMES_GUESS = 2.0
"""A model has learned when it is this much better than naming any token, or value, that it read."""
SOLVED = 0.5
"""A model solves the task from this accuracy on."""

_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
         2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048,
         2.045, 2.042)  # fmt: skip
"""Quantiles of Student's t at 0.975 for 1 to 30 degrees of freedom."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval over `count` models; low and high are None for fewer than two."""

    value: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Claim:
    """What is expected, in words; what was measured, by name; and the verdict."""

    expected: str
    measured: str
    estimate: Estimate | None
    verdict: str


def t_95(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t; beyond 30 degrees of freedom 1.96 + 2.5 / freedom."""
    return _T_95[freedom - 1] if freedom <= len(_T_95) else 1.96 + 2.5 / freedom


def mean(values: Sequence[float]) -> Estimate | None:
    """The mean of independent values with its t interval; None without any."""
    if not values:
        return None
    count = len(values)
    centre = math.fsum(values) / count
    if count == 1:
        return Estimate(centre, None, None, 1)
    spread = math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (count - 1) / count)
    half = t_95(count - 1) * spread
    return Estimate(centre, centre - half, centre + half, count)


def slope(points: Sequence[tuple[float, float]]) -> Estimate | None:
    """Least squares slope of y over x with its t interval; None for fewer than two different x."""
    count = len(points)
    if len({x for x, _ in points}) < 2:
        return None
    middle = math.fsum(x for x, _ in points) / count
    level = math.fsum(y for _, y in points) / count
    spread = math.fsum((x - middle) ** 2 for x, _ in points)
    value = math.fsum((x - middle) * (y - level) for x, y in points) / spread
    if count == 2:
        return Estimate(value, None, None, 2)
    rest = math.fsum((y - level - value * (x - middle)) ** 2 for x, y in points)
    half = t_95(count - 2) * math.sqrt(rest / (count - 2) / spread)
    return Estimate(value, value - half, value + half, count)


def above(estimate: Estimate | None) -> str:
    """The verdict on "is more than zero"."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return OPEN
    return HOLDS if estimate.low > 0 else FAILS if estimate.high < 0 else OPEN


def below(estimate: Estimate | None) -> str:
    """The verdict on "is less than zero"."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return OPEN
    return HOLDS if estimate.high < 0 else FAILS if estimate.low > 0 else OPEN


def none(estimate: Estimate | None) -> str:
    """The verdict on "makes no difference": the interval inside, or outside, of +-MARGIN."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return OPEN
    if estimate.low > -MARGIN and estimate.high < MARGIN:
        return HOLDS
    return FAILS if estimate.low > MARGIN or estimate.high < -MARGIN else OPEN


Key = tuple[object, ...]

ORDERS = ("short first", "short last")


def accuracies(rows: Iterable[Row], *by: str) -> dict[Key, float]:
    """Accuracy over all rows with the same values of `by`, each sequence counted once."""
    right: dict[Key, float] = {}
    count: dict[Key, float] = {}
    for row in rows:
        key = tuple(row[name] for name in by)
        n = float(row["count"])  # type: ignore[arg-type]
        right[key] = right.get(key, 0.0) + n * float(row["accuracy"])  # type: ignore[arg-type]
        count[key] = count.get(key, 0.0) + n
    return {key: right[key] / count[key] for key in right}


MODEL = ("reading", "state_floats", "width", "feature_dim", "seed")


def best_rates(rows: Sequence[Row]) -> list[Row]:
    """The rows of the learning rate that did best for each model, as the paper plots them."""
    scores = accuracies(rows, *MODEL, "rate")
    best: dict[Key, Key] = {}
    for key, accuracy in scores.items():
        if key[:-1] not in best or accuracy > scores[best[key[:-1]]]:
            best[key[:-1]] = key
    kept = set(best.values())
    return [row for row in rows if tuple(row[name] for name in (*MODEL, "rate")) in kept]


def learned(rows: Sequence[Row], *, at_least: float = 0.0) -> tuple[list[Row], int, int]:
    """The rows of the models that learned the sizes they were trained on; how many did, of how many.

    at_least: the accuracy on these sizes that is asked for besides.
    """
    trained = [row for row in rows if row["trained"]]
    guess: dict[Key, list[float]] = {}
    for row in trained:
        guess.setdefault(tuple(row[name] for name in MODEL), []).append(guessing(row))
    scores = accuracies(trained, *MODEL)
    good = {
        key for key, score in scores.items()
        if score >= max(at_least, min(0.9, LEARNED_TIMES_GUESS * math.fsum(guess[key]) / len(guess[key])))
    }  # fmt: skip
    return [r for r in rows if tuple(r[name] for name in MODEL) in good], len(good), len(scores)


def guessing(row: Row) -> float:
    """The accuracy of naming any different token of both sets, or any value of the pairs."""
    if "pairs" in row:
        return 1 / int(row["pairs"])  # type: ignore[call-overload]
    return 1 / (int(row["first"]) + int(row["second"]) - 1)  # type: ignore[call-overload]


def _per_model(rows: Sequence[Row], reading: str, **only: object) -> dict[Key, float]:
    """(state_floats, width, feature_dim, seed) -> accuracy of one reading."""
    chosen = [r for r in rows if r["reading"] == reading and all(r[k] == v for k, v in only.items())]
    return accuracies(chosen, *MODEL[1:])


def _paired(high: Mapping[Key, float], low: Mapping[Key, float]) -> dict[Key, float]:
    return {key: high[key] - low[key] for key in high if key in low}


def disjointness_claims(rows: Sequence[Row]) -> list[Claim]:
    """The paper's Figure 2, claim by claim. Gaps are the accuracy with the short set first minus last."""
    best = best_rates(rows)
    rows = learned(best)[0]
    solved = learned(best, at_least=SOLVED)[0]
    first = {r: _per_model(rows, r, order="short first") for r in ("causal", "non-causal", "twice")}
    last = {r: _per_model(rows, r, order="short last") for r in ("causal", "non-causal", "twice")}
    gap = {reading: _paired(first[reading], last[reading]) for reading in first}
    names = {"causal": "causal, read once", "non-causal": "non-causal", "twice": "causal, read twice"}
    made = [
        _claim(
            "causal models do better with the short set first",
            "gap, causal",
            mean(_values(gap["causal"])),
            above,
        ),
        _claim(
            "their gap is larger at small state",
            "gap per doubling of the state",
            slope([(math.log2(float(key[0])), y) for key, y in gap["causal"].items()]),  # type: ignore[arg-type]
            below,
        ),
    ]  # fmt: skip
    for reading in ("non-causal", "twice"):
        made.append(
            _claim(
                f"{names[reading]}: the order makes no difference where the task is solved",
                f"gap, {names[reading]}",
                mean(_values(_paired(*(_per_model(solved, reading, order=o) for o in ORDERS)))),
                none,
            )
        )
        made.append(
            _claim(
                f"{names[reading]}: better than causal once with the short set last",
                f"{reading} - causal, short last",
                mean(_values(_paired(last[reading], last["causal"]))),
                above,
            )
        )
    return made


def recall_claims(rows: Sequence[Row]) -> list[Claim]:
    """What the paper's account of recall leads to expect of associative recall."""
    rows = learned(best_rates(rows))[0]
    score = {reading: _per_model(rows, reading) for reading in ("causal", "prefix", "twice")}
    made = [
        _claim(
            "causal models recall more with more state",
            "accuracy per doubling of the state",
            slope([(math.log2(float(key[0])), y) for key, y in score["causal"].items()]),  # type: ignore[arg-type]
            above,
        )
    ]
    for reading, name in (("twice", "reading twice"), ("prefix", "a prefix read non-causally")):
        made.append(
            _claim(
                f"{name} recalls more than reading once",
                f"{reading} - causal",
                mean(_values(_paired(score[reading], score["causal"]))),
                above,
            )
        )
    return made


CLAIMS: dict[str, Callable[[Sequence[Row]], list[Claim]]] = {
    "disjointness": disjointness_claims,
    "recall": recall_claims,
}


def _values(differences: Mapping[Key, float]) -> list[float]:
    return list(differences.values())


def _claim(
    expected: str, measured: str, estimate: Estimate | None, verdict: Callable[[Estimate | None], str]
) -> Claim:
    return Claim(expected, measured, estimate, verdict(estimate))
