"""Scores of answers against gold answers, their averages with intervals, and paired differences.

`contains` is the paper's metric (appendix B.5; lm-evaluation-harness tasks fda, swde, squad_completion,
version 1: white space at the ends of the gold does not count). `exact_match` and `f1` are those of the
official SQuAD 2.0 evaluation script.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module

METRICS: dict[str, str] = {
    "contains": "jrtcli.metrics:contains",
    "exact_match": "jrtcli.metrics:exact_match",
    "f1": "jrtcli.metrics:token_f1",
}
"""name -> "module:function" of (answer, golds) -> 0.0 to 1.0, imported on use. A new one is one line."""

Metric = Callable[[str, Sequence[str]], float]

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)

Z_95 = 1.959963984540054
"""The normal quantile of a two-sided 95 % interval."""


def metric(name: str) -> Metric:
    """The function that computes a metric. Raises KeyError for an unknown name."""
    module, attribute = METRICS[name].split(":")
    function: Metric = getattr(import_module(module), attribute)
    return function


def score(answer: str, golds: Sequence[str], names: Iterable[str] = tuple(METRICS)) -> dict[str, float]:
    """The value of each metric for one answer; the best over the golds."""
    return {name: metric(name)(answer, golds) for name in names}


def contains(answer: str, golds: Sequence[str]) -> float:
    """1.0 if any gold stands in the answer, in any case; an empty gold only in an empty answer."""
    return float(any(_contains(answer, gold.strip()) for gold in golds or [""]))


def _contains(answer: str, gold: str) -> bool:
    if not gold:
        return not answer.strip()
    return re.search(re.escape(gold), answer, re.IGNORECASE) is not None


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """1.0 if the normalised answer is a normalised gold."""
    return float(normalize(answer) in {normalize(gold) for gold in golds or [""]})


def token_f1(answer: str, golds: Sequence[str]) -> float:
    """Harmonic mean of the precision and recall of normalised words, the best over the golds."""
    return max(_f1(normalize(answer).split(), normalize(gold).split()) for gold in golds or [""])


def _f1(answer: list[str], gold: list[str]) -> float:
    if not answer or not gold:
        return float(answer == gold)
    shared = (Counter(answer) & Counter(gold)).total()
    # 2PR / (P + R) with P = shared / len(answer), R = shared / len(gold).
    return 2 * shared / (len(answer) + len(gold))


def normalize(text: str) -> str:
    """SQuAD's form of an answer: lower case, without ASCII punctuation and articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


@dataclass(frozen=True)
class Score:
    """The average of a metric, 0.0 to 1.0. stderr: None for one value. low, high: 95 % Wilson interval."""

    metric: str
    value: float
    count: int
    stderr: float | None
    low: float
    high: float


def aggregate(name: str, values: Sequence[float]) -> Score:
    """The average of per-answer values between 0 and 1. Raises ValueError when there are none."""
    if not values:
        raise ValueError(f"no values of {name} to average")
    count = len(values)
    mean = math.fsum(values) / count
    stderr = None
    if count > 1:
        stderr = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)
    return Score(name, mean, count, stderr, *wilson(mean, count))


def wilson(share: float, count: int, z: float = Z_95) -> tuple[float, float]:
    """The interval of a share of `count` trials (Wilson 1927).

    For values between 0 and 1, as F1, it is wider than needed: their variance is at most that of 0 or 1.
    """
    centre = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


@dataclass(frozen=True)
class Difference:
    """How much higher the second of two paired samples is on average.

    low, high: 95 % percentile bootstrap over the pairs. better, worse: pairs where the second is higher,
    lower. p_value: two-sided exact sign test over these (for 0/1 values McNemar's exact test).
    """

    value: float
    low: float
    high: float
    better: int
    worse: int
    p_value: float


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, resamples: int = 10_000, seed: int = 0
) -> Difference:
    """Compare two ways of answering the same questions. Raises ValueError unless the samples pair up."""
    if len(first) != len(second) or not first:
        raise ValueError(f"samples of {len(first)} and {len(second)} values do not make pairs")
    import numpy as np

    differences, counts = np.unique(np.asarray(second, float) - np.asarray(first, float), return_counts=True)
    count = len(first)
    # Resampling pairs is drawing how often each distinct difference occurs; a thousand draws at a time.
    draw = np.random.default_rng(seed).multinomial
    means = np.concatenate(
        [
            draw(count, counts / count, size=min(1000, resamples - done)) @ differences / count
            for done in range(0, resamples, 1000)
        ]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    better, worse = int(counts[differences > 0].sum()), int(counts[differences < 0].sum())
    value = float(differences @ counts / count)
    return Difference(value, float(low), float(high), better, worse, sign_test(better, worse))


def sign_test(better: int, worse: int) -> float:
    """Two-sided exact p-value of so uneven a split of coin tosses; 1.0 without any."""
    tosses = better + worse
    tail = sum(math.comb(tosses, k) for k in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / 2**tosses)
