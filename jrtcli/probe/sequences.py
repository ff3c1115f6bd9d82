"""The two tasks as batches of token ids, made anew for every step.

Set disjointness (the paper's section 3.1 and appendix B.1; HazyResearch/prefix-linear-attention,
synthetic/zoology/data/non_autoreg.py): two sets share exactly one token, which is the answer. As published,
both sets are drawn from the whole vocabulary, which is halved anew for each sequence: that a token comes
from one half says nothing, so only the comparison of the sets gives the answer.

Multi-query associative recall (HazyResearch/zoology, zoology/data/multiquery_ar.py): keys with their values,
then some of the keys again; at each of these the value is the answer. Keys come from the first half of the
vocabulary, values from the second. Queries follow each other without gaps.

B sequences, T tokens, Q answers of a sequence, V ids of the vocabulary with the marks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jrtcli.errors import UsageError

BEGIN, THEN, ANSWER = 0, 1, 2
"""Marks: the beginning of a reading, what stands between the sets or before the queries, "answer now"."""
MARKS = 3


@dataclass(frozen=True)
class Batch:
    """tokens (B, T), targets (B, Q): the answer at each of the last Q positions."""

    tokens: Tensor
    targets: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same on another device."""
        return Batch(self.tokens.to(device), self.targets.to(device))


def disjointness(
    generator: torch.Generator, rows: int, first: int, second: int, *, vocabulary: int, reads: int = 1
) -> Batch:
    """Sets of `first` and `second` tokens with one in common -> tokens (B, T), targets (B, 1).

    [begin A then B] `reads` times, [answer]: T = reads (first + second + 2) + 1. Within a set no token stands
    twice, and both readings have the same order. Raises UsageError where the vocabulary is too small.
    """
    apart = first + second - 1
    if apart > vocabulary - MARKS:
        raise UsageError(
            f"sets of {first} and {second} need a vocabulary of {apart + MARKS} ids, not {vocabulary}"
        )
    drawn = _distinct(generator, rows, apart, vocabulary - MARKS) + MARKS
    one, other = drawn[:, :first], drawn[:, first:]
    shared = one.gather(1, torch.randint(first, (rows, 1), generator=generator))
    other = torch.cat([other, shared], dim=1)
    other = other.gather(1, torch.rand(rows, second, generator=generator).argsort(1))
    reading = torch.cat([_mark(BEGIN, rows), one, _mark(THEN, rows), other], dim=1)
    return Batch(torch.cat([reading] * reads + [_mark(ANSWER, rows)], dim=1), shared)


def recall(
    generator: torch.Generator, rows: int, pairs: int, queries: int, *, vocabulary: int, reads: int = 1
) -> Batch:
    """`pairs` keys with values, `queries` of the keys asked -> tokens (B, T), targets (B, queries).

    [begin k v k v ... then q q ...] `reads` times, as JRT-Prompt's [C, Q, C, Q]: only the last queries are
    answered. T = reads (2 pairs + queries + 2). Raises UsageError for more queries than pairs, or a
    vocabulary that is too small.
    """
    half = (vocabulary - MARKS) // 2
    if queries > pairs:
        raise UsageError(f"{queries} queries of {pairs} pairs: each pair is asked at most once")
    if pairs > half:
        raise UsageError(f"{pairs} pairs need a vocabulary of {2 * pairs + MARKS} ids, not {vocabulary}")
    keys = _distinct(generator, rows, pairs, half) + MARKS
    values = torch.randint(half, (rows, pairs), generator=generator) + MARKS + half
    asked = torch.rand(rows, pairs, generator=generator).argsort(1)[:, :queries]
    body = torch.stack([keys, values], dim=2).flatten(1)
    reading = torch.cat([_mark(BEGIN, rows), body, _mark(THEN, rows), keys.gather(1, asked)], dim=1)
    return Batch(torch.cat([reading] * reads, dim=1), values.gather(1, asked))


def _distinct(generator: torch.Generator, rows: int, count: int, below: int) -> Tensor:
    """(rows, count) integers in [0, below), none twice in a row, in random order."""
    return torch.rand(rows, below, generator=generator).argsort(1)[:, :count]


def _mark(mark: int, rows: int) -> Tensor:
    return torch.full((rows, 1), mark)
