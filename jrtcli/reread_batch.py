"""Reread batch: many questions at once, each read as often as its answer needs.

First readings are packed as any batch is; the questions whose answers are unsure go back into it, each with
the state that its first reading left, beside the first readings of others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from jrtcli.fill import Filled
from jrtcli.prepared import Prepared, Request
from jrtcli.rereading import Rereading
from jrtcli.shared_reading import read_on

if TYPE_CHECKING:
    from jrtcli.batching import Batch
    from jrtcli.course import Course, Pass
    from jrtcli.rereading import Again

K = TypeVar("K")


@dataclass(eq=False)
class _Question(Generic[K]):
    key: K
    course: Course
    passes: list[Pass] = field(default_factory=list)
    seconds: float = 0.0


class RereadBatch(Generic[K]):
    """Answers many questions through a `batch` (one with leads), again where `again` says so.

    Attribute `tokens_read`: of readings up to where the next one goes on; the batch counts the rest.
    """

    def __init__(self, batch: Batch, again: Again) -> None:
        self.batch, self.again = batch, again
        self.tokens_read = 0

    def run(self, items: Iterable[tuple[K, Course]]) -> Iterator[tuple[K, Rereading | Exception]]:
        """What came of each question, with its key, in the order in which they are done.

        items: pulled as those of Batch.run, whose errors these are. Once the batch is stopped, a question
        that is unsure gets no answer.
        """
        feed = _Feed(self, iter(items))
        for question, answer in self.batch.run(feed):
            if isinstance(answer, Exception):
                yield question.key, answer
                continue
            one = question.course.taken(answer, question.seconds)
            question.passes.append(one)
            question.seconds = 0.0
            if one.unsure(self.again.threshold) and question.course.more:
                question.course.go_on()
                feed.unsure.append(question)
                continue
            yield question.key, Rereading.of(question.passes, self.again)

    def read(self, questions: list[_Question[K]]) -> None:
        """Read each as far as the next reading has in common with this one, together."""
        waiting = [one for one in questions if one.course.stop > one.course.done]
        requests = [
            Request(Filled(one.course.ids[one.course.done : one.course.stop]), None, one.course.state)
            for one in waiting
        ]
        found = read_on(self.batch.model, requests)
        for one, request, read in zip(waiting, requests, found, strict=True):
            if read is not None:
                one.course.advance(read.state, one.course.stop)
                one.seconds += read.seconds
                self.tokens_read += request.tokens


class _Feed(Iterator[tuple[_Question[K], Prepared]]):
    """What the batch is to read next: questions that wait for another reading, once they fill half of it or
    nothing else is left; else new ones, as many together as the batch has room for."""

    def __init__(self, rereading: RereadBatch[K], items: Iterator[tuple[K, Course]]) -> None:
        self._rereading, self._items = rereading, items
        self._ready: deque[_Question[K]] = deque()
        self.unsure: deque[_Question[K]] = deque()

    def __next__(self) -> tuple[_Question[K], Prepared]:
        if not self._ready:
            chosen = self._again() if 2 * len(self.unsure) >= self._rereading.batch.rows else self._new()
            chosen = chosen or self._again()
            self._rereading.read(chosen)
            self._ready.extend(chosen)
        if not self._ready:
            raise StopIteration
        question = self._ready.popleft()
        return question, question.course.rest()

    def _again(self) -> list[_Question[K]]:
        count = min(len(self.unsure), self._rereading.batch.rows)
        return [self.unsure.popleft() for _ in range(count)]

    def _new(self) -> list[_Question[K]]:
        batch, chosen, tokens = self._rereading.batch, list[_Question[K]](), 0
        while len(chosen) < batch.rows and tokens < batch.tokens:
            item = next(self._items, None)
            if item is None:
                break
            chosen.append(_Question(*item))
            tokens += chosen[-1].course.tokens
        return chosen
