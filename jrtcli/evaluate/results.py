"""Results of cells: scores with their errors, error modes, recall by position, and paired differences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from jrtcli.evaluate.grid import Cell
from jrtcli.evaluate.modes import MODES, error_mode
from jrtcli.metrics import Difference, Score, aggregate, paired_difference

if TYPE_CHECKING:
    from jrtcli.records import Record

SCORINGS = {
    "v1": "white space at the ends of the gold does not count (lm-evaluation-harness since version 1)",
    "v0": "the gold as it is (the paper, version 0)",
}
BINS = 5
"""Parts of a document in which recall is counted."""
ALL = "all"


@dataclass(frozen=True)
class Result:
    """What came of a cell. count: answers that are scored; failed: rows with an error; dropped: rows that the
    cut, or having no gold, left out. scores: contains (v1), contains_v0, exact_match, f1. modes: number of
    wrong answers by mode. positions: (from, to, answers, share right) for parts of the document; values: the
    v1 and v0 contains of each answer by id. prompt_tokens: the mean of the prompts, all readings together.
    again: the share of questions that were read again; None where none could be. state_bytes: of one
    sequence, the largest."""

    cell: Cell
    count: int
    failed: int
    dropped: int
    scores: Mapping[str, Score]
    modes: Mapping[str, int]
    positions: Sequence[tuple[float, float, int, float]]
    values: Mapping[str, Mapping[str, float]] = field(repr=False)
    tokens_read: int = 0
    prompt_tokens: float = 0.0
    longest_tokens: int = 0
    tokens_per_s: float | None = None
    again: float | None = None
    state_bytes: int | None = None
    parameters: int | None = None
    context_tokens: int | None = None

    def score(self, scoring: str) -> Score | None:
        """The recall, by a name of SCORINGS; None where nothing was answered."""
        return self.scores.get(metric_of(scoring))


def metric_of(scoring: str) -> str:
    """The name of the metric of a scoring."""
    return "contains" if scoring == "v1" else "contains_v0"


def contains_v0(text: str, golds: Sequence[str]) -> float:
    """1.0 if any gold, blanks at its ends and all, stands in the text; any case."""
    return float(any(re.search(re.escape(gold), text, re.IGNORECASE) for gold in golds))


def judge(
    cell: Cell,
    items: Sequence[Record],
    rows: Iterable[Mapping[str, Any]],
    *,
    dropped: int,
    facts: Mapping[str, Any],
) -> Result:
    """The result of a cell, from the rows of its file that are of its items."""
    wanted = {item.key: item for item in items}
    found: dict[str, Mapping[str, Any]] = {}
    failed: set[str] = set()
    for row in rows:
        key = row["jrt"]["row"]
        if key in wanted:
            (failed.add(key) if "error" in row else found.__setitem__(key, row))
    values: dict[str, list[float]] = {n: [] for n in ("contains", "contains_v0", "exact_match", "f1")}
    by_id: dict[str, dict[str, float]] = {"v1": {}, "v0": {}}
    modes: Counter[str] = Counter(dict.fromkeys(MODES, 0))
    places: list[tuple[float, float]] = []
    read = longest = state = 0
    again: list[bool] = []
    for key, item in wanted.items():
        answered = found.get(key)
        if answered is None:
            continue
        row = answered
        scores = dict(row["scores"])
        scores["contains_v0"] = contains_v0(row.get("continuation", row["answer"]), item.answers)
        for name, value in scores.items():
            if name in values:
                values[name].append(value)
        by_id["v1"][str(item.id)] = scores["contains"]
        by_id["v0"][str(item.id)] = scores["contains_v0"]
        if not scores["contains"]:
            shown = f"{item.context} {item.question}" if item.prompt is None else item.prompt.text
            modes[error_mode(row["answer"], shown)] += 1
        place = item.carried.get("position")
        if place is not None:
            places.append((place, scores["contains"]))
        read += row["tokens"]["read"] + row["tokens"]["reused"]
        longest = max(longest, row["tokens"]["prompt"])
        state = max(state, row.get("state_bytes", 0))
        if cell.most_reads is not None:
            again.append(len(row["readings"]) > 1)
    count = len(values["contains"])
    timed = facts.get("timed_s") or 0.0
    return Result(
        cell=cell,
        count=count,
        failed=len(failed - found.keys()),
        dropped=dropped,
        scores={name: aggregate(name, each) for name, each in values.items() if each},
        modes=dict(modes),
        positions=by_position(places),
        values=by_id,
        tokens_read=read,
        prompt_tokens=read / count if count else 0.0,
        longest_tokens=longest,
        tokens_per_s=facts["timed_tokens"] / timed if timed else None,
        again=sum(again) / len(again) if again else None,
        state_bytes=state or None,
    )


def by_position(places: Iterable[tuple[float, float]]) -> list[tuple[float, float, int, float]]:
    """(from, to, answers, share right) for each part of a document that has answers; places: (position,
    score)."""
    parts: dict[int, list[float]] = {}
    for place, value in places:
        parts.setdefault(min(BINS - 1, int(place * BINS)), []).append(value)
    return [(i / BINS, (i + 1) / BINS, len(v), sum(v) / len(v)) for i, v in sorted(parts.items())]


@dataclass(frozen=True)
class Compared:
    """Two ways of reading the same questions with one model; task "all": those of every task together."""

    task: str
    model: str
    length_tokens: int | None
    first: str
    second: str
    count: int
    difference: Difference


def differences(results: Sequence[Result], scoring: str) -> list[Compared]:
    """Every order against the first one of its model and task, on the questions that both answered."""

    def group(result: Result) -> tuple[str, int | None, str]:
        return result.cell.model, result.cell.length_tokens, result.cell.task

    found: list[Compared] = []
    pooled: dict[tuple[str, int | None, str, str], tuple[list[float], list[float], list[str]]] = {}
    ordered = sorted(results, key=lambda r: (r.cell.model, r.cell.length_tokens or 0, r.cell.task))
    for (model, length, task), members in groupby(ordered, key=group):
        first, *others = members
        for other in others:
            one, two = first.values[scoring], other.values[scoring]
            shared = [id for id in one if id in two]
            if not shared:
                continue
            a, b = [one[id] for id in shared], [two[id] for id in shared]
            names = first.cell.reading, other.cell.reading
            found.append(Compared(task, model, length, *names, len(shared), paired_difference(a, b)))
            pool = pooled.setdefault((model, length, *names), ([], [], []))
            pool[0].extend(a)
            pool[1].extend(b)
            pool[2].append(task)
    for (model, length, one_name, two_name), (a, b, tasks) in pooled.items():
        if len(tasks) > 1:
            found.append(Compared(ALL, model, length, one_name, two_name, len(a), paired_difference(a, b)))
    return found
