"""Bigrams of token ids: how often each stands in a reference corpus, and where one was seen before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

PAPER_RARE = 1000
"""A bigram counts as rare below this (section 5.2, Figure 3) ..."""
PAPER_TOKENS = 10_000_000 * 2048
"""... among so many tokens (appendix B.4)."""


class BigramCounts:
    """How often each bigram stands in a reference corpus, a stand-in for what a model was trained on.

    Attributes: `tokens`, of the corpus.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._counts: Counter[tuple[int, int]] = Counter()

    def add(self, ids: Sequence[int]) -> None:
        """Count the bigrams of one more text."""
        self.tokens += len(ids)
        self._counts.update(pairwise(ids))

    def of(self, ids: Sequence[int]) -> list[int]:
        """For each position the count of the bigram that ends there; 0 at the first."""
        return [0, *(self._counts[pair] for pair in pairwise(ids))]

    @property
    def rare(self) -> int:
        """A bigram that stands here less often is as rare as the paper's rare ones; at least 1."""
        return max(1, round(PAPER_RARE * self.tokens / PAPER_TOKENS))


def distances(ids: Sequence[int]) -> list[int]:
    """For each position how many tokens ago the bigram that ends there ended last; 0: never before."""
    last: dict[tuple[int, int], int] = {}
    found = [0] * len(ids)
    for i, pair in enumerate(pairwise(ids), 1):
        before = last.get(pair)
        if before is not None:
            found[i] = i - before
        last[pair] = i
    return found


def count(texts: Iterable[Sequence[int]]) -> BigramCounts:
    """The bigrams of several texts as ids."""
    counts = BigramCounts()
    for ids in texts:
        counts.add(ids)
    return counts
