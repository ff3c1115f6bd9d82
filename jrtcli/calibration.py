"""Calibration: from which margin on an answer is worth no second reading, counted on held-out rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jrtcli.batching import Batch
from jrtcli.course import Course, first_reader
from jrtcli.errors import UsageError
from jrtcli.metrics import contains
from jrtcli.reader import MAX_NEW_TOKENS
from jrtcli.reread_batch import RereadBatch
from jrtcli.rereading import MOST_READS, THRESHOLD, Again
from jrtcli.user_cache import user_cache
from jrtcli.whole_file import write_json

if TYPE_CHECKING:
    from jrtcli.course import Pass
    from jrtcli.reader import Reader

KEEP = 0.95
"""Of the gain of always reading `most` times: the threshold is the least that keeps so much."""

ALWAYS = 1.01
"""A threshold above every margin: always read again."""

LEAST_ROWS = 20
"""Fewer held-out rows say nothing about a threshold."""


@dataclass(frozen=True)
class Sample:
    """One held-out question. For each number of readings: recall (contains), tokens read so far, the margin
    and whether the answer stands in the document and is not empty."""

    recall: tuple[float, ...]
    tokens: tuple[int, ...]
    margin: tuple[float, ...]
    found: tuple[bool, ...]

    def last(self, threshold: float) -> int:
        """Which of its readings is the last one by a threshold; below 0: the first."""
        if threshold < 0:
            return 0
        for i in range(len(self.recall) - 1):
            if self.margin[i] >= threshold and self.found[i]:
                return i
        return len(self.recall) - 1


@dataclass(frozen=True)
class Point:
    """What a threshold gives: mean recall, mean tokens read, the share of rows that were read again."""

    threshold: float
    recall: float
    tokens: float
    again: float


@dataclass(frozen=True)
class Calibration:
    """A threshold, for one model, template and number of readings, and what it was found on.

    once, most: recall and tokens of reading as often as the template must, and always `reads` times.
    """

    threshold: float
    reads: int
    template: str
    weights_sha256: str
    rows: int
    once: Point
    most: Point
    auto: Point


def samples_of(
    reader: Reader,
    rows: Iterable[tuple[str, str, Sequence[str]]],
    *,
    most: int = MOST_READS,
    batch_size: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    on_row: Callable[[int], None] | None = None,
) -> list[Sample]:
    """Read held-out rows of (document, question, gold answers) as often as it goes, many at once.

    on_row: called with the rows done. Raises as jrtcli.course.Course, and what the batch says of a row.
    """
    reader = first_reader(reader)
    batch = Batch(reader, rows=batch_size, max_new_tokens=max_new_tokens, leads=True)
    given = list(rows)
    courses = ((i, Course(reader, *row[:2], most)) for i, row in enumerate(given))
    made: dict[int, Sample] = {}
    for i, answer in RereadBatch[int](batch, Again(most, ALWAYS)).run(courses):
        if isinstance(answer, Exception):
            raise answer
        made[i] = sample(answer.passes, given[i][2])
        if on_row is not None:
            on_row(len(made))
    return [made[i] for i in range(len(given))]


def sample(passes: Sequence[Pass], golds: Sequence[str]) -> Sample:
    """What the readings of a row came to."""
    tokens = [one.tokens for one in passes]
    return Sample(
        tuple(contains(one.answer.text, golds) for one in passes),
        tuple(sum(tokens[: i + 1]) for i in range(len(tokens))),
        tuple(one.margin for one in passes),
        tuple(one.found for one in passes),
    )


def point(samples: Sequence[Sample], threshold: float) -> Point:
    """What a threshold would have given on these samples. Below 0: read once; above 1: always again."""
    last = [one.last(threshold) for one in samples]
    count = len(samples)
    return Point(
        threshold,
        sum(one.recall[i] for one, i in zip(samples, last, strict=True)) / count,
        sum(one.tokens[i] for one, i in zip(samples, last, strict=True)) / count,
        sum(i > 0 for i in last) / count,
    )


def curve(samples: Sequence[Sample]) -> list[Point]:
    """Recall against tokens, for every threshold that changes anything: from reading once to always again."""
    margins = sorted({margin for one in samples for margin in one.margin[:-1]})
    return [point(samples, threshold) for threshold in (-1.0, 0.0, *margins, ALWAYS)]


def calibrate(
    reader: Reader,
    rows: Iterable[tuple[str, str, Sequence[str]]],
    *,
    most: int = MOST_READS,
    **options: Any,
) -> tuple[Calibration, list[Sample]]:
    """Find a threshold on held-out rows of (document, question, gold answers).

    It is the least threshold that keeps KEEP of the gain in recall of always reading `most` times; where
    there is no gain it is -1: nothing is read again. Options and errors as of samples_of. Raises UsageError
    for fewer than LEAST_ROWS.
    """
    samples = samples_of(reader, rows, most=most, **options)
    if len(samples) < LEAST_ROWS:
        raise UsageError(f"{len(samples)} held-out rows: a threshold needs at least {LEAST_ROWS}")
    every = curve(samples)
    once, always = every[0], every[-1]
    wanted = once.recall + KEEP * max(0.0, always.recall - once.recall)
    gains = always.recall > once.recall
    auto = next(p for p in every[1:] if p.recall >= wanted or p is always) if gains else once
    loaded = reader.loaded
    return (
        Calibration(
            min(auto.threshold, ALWAYS),
            most,
            reader.template.name,
            loaded.identity.weights_sha256,
            len(samples),
            once,
            always,
            auto,
        ),
        samples,
    )


def folder() -> Path:
    """Where thresholds are kept: beside the cache of states."""
    return user_cache() / "thresholds"


def _place(reader: Reader, most: int) -> Path:
    named = [reader.loaded.identity.weights_sha256, reader.template.name, str(most)]
    return folder() / f"{hashlib.sha256(json.dumps(named).encode()).hexdigest()[:32]}.json"


def keep(reader: Reader, found: Calibration) -> Path:
    """Write a calibration to its place, whole or not at all. Raises JrtError where that cannot be."""
    place = _place(reader, found.reads)
    write_json(place, asdict(found))
    return place


def threshold_of(reader: Reader, most: int) -> tuple[float, bool]:
    """The threshold of a reader's model and template, and whether it was calibrated. A file that cannot be
    read counts as none."""
    try:
        value = json.loads(_place(reader, most).read_text())["threshold"]
    except (OSError, ValueError, KeyError, TypeError):
        return THRESHOLD, False
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1 <= value <= 2:
        return THRESHOLD, False
    return float(value), True
