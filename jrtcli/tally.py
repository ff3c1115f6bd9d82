"""Tally: what the rows of a batch come to, counted as they are done."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from typing import Any

from jrtcli.metrics import METRICS, Score, aggregate


class Tally:
    """Counts of output rows. answered, errors: rows; kinds: errors by kind; first: kind -> the error of its
    first row; answer_tokens: tokens of all answers.
    """

    def __init__(self) -> None:
        self.answered = 0
        self.kinds: Counter[str] = Counter()
        self.first: dict[str, Mapping[str, Any]] = {}
        self.answer_tokens = 0
        self._scores = {name: array("d") for name in METRICS}

    @property
    def errors(self) -> int:
        """Rows with an error."""
        return self.kinds.total()

    @property
    def rows(self) -> int:
        """All rows."""
        return self.answered + self.errors

    def add(self, row: Mapping[str, Any]) -> None:
        """Count an output row."""
        if "error" in row:
            kind = row["error"]["kind"]
            self.kinds[kind] += 1
            self.first.setdefault(kind, row["error"])
            return
        self.answered += 1
        self.answer_tokens += row["tokens"]["answer"]
        for name, value in row.get("scores", {}).items():
            self._scores[name].append(value)

    @property
    def scores(self) -> list[Score]:
        """The average of each metric over the rows with gold answers, with its standard error."""
        return [aggregate(name, values) for name, values in self._scores.items() if values]
