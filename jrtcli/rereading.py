"""Rereading: answer after one reading, and read on only where the answer is unsure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from jrtcli.answer import Token
from jrtcli.course import Course, Pass
from jrtcli.reader import MAX_NEW_TOKENS, Reader

if TYPE_CHECKING:
    from jrtcli.answer import Answer
    from jrtcli.document import DocumentState
    from jrtcli.state import State

MOST_READS = 2
"""Readings at most where nothing else is asked for."""

THRESHOLD = 0.5
"""Of the margin where a model was not calibrated: its best token is not half of all ahead of the next."""


@dataclass(frozen=True)
class Again:
    """When to read again: `most` readings at most, below a margin of `threshold`; `calibrated`: whether that
    was found on held-out rows of this model."""

    most: int = MOST_READS
    threshold: float = THRESHOLD
    calibrated: bool = False


def readings(
    reader: Reader,
    source: str | DocumentState,
    question: str,
    *,
    most: int = MOST_READS,
    max_new_tokens: int = MAX_NEW_TOKENS,
    on_progress: Callable[[int, int], None] | None = None,
    on_read: Callable[[State], None] | None = None,
) -> Iterator[Pass]:
    """The answer after each reading, up to `most`; the next one is read when it is asked for.

    reader: of the first readings (jrtcli.course.first_reader). on_progress: called with (tokens read, tokens
    to read) of a pass. on_read: as of Reader.start. Raises as Course.
    """
    course = Course(reader, source, question, most)
    model = reader.loaded.model
    while True:
        before, started = course.begun, time.perf_counter()
        total = len(course.ids) - before
        for stop in (course.shared if on_read is not None else 0, course.stop):
            if stop > course.done:
                options: dict[str, Any] = {}
                if on_progress is not None:
                    options["on_progress"] = _counter(on_progress, course.done - before, total)
                tokens = torch.tensor([course.ids[course.done : stop]], device=model.device)
                course.advance(model.prefill(tokens, course.state, **options)[1], stop)
                if on_read is not None and stop == course.shared:
                    assert course.state is not None
                    on_read(course.state)
        seconds = time.perf_counter() - started
        rest = course.rest()
        progress = None if on_progress is None else _outer(on_progress, course.done - before, total)
        generation = reader.generation(
            rest.requests[0], max_new_tokens=max_new_tokens, leads=True, on_progress=progress
        )
        asking = reader.asking(rest, generation, started=started)
        for _ in asking:
            pass
        yield course.taken(asking.answer, seconds)
        if not course.more:
            return
        course.go_on()


def _counter(on_progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int], None]:
    return lambda done: on_progress(before + done, total)


def _outer(on_progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int, int], None]:
    return lambda done, _: on_progress(before + done, total)


class Rereading(Iterator[Token]):
    """The surest answer of at most `most` readings, as jrtcli.answer.Asking gives one.

    The text comes in one piece, for it is not known before which answer it will be. Attributes: `passes`,
    those that were read; `answer`, of the last of them, its tokens and seconds those of all.
    """

    def __init__(self, passes: Iterator[Pass], again: Again | None = None) -> None:
        self._readings, self.again = passes, again or Again()
        self.passes: list[Pass] = []
        self._interrupted = self._told = False

    def __next__(self) -> Token:
        if self._told:
            raise StopIteration
        try:
            self._read()
        except KeyboardInterrupt:
            self._interrupted = True
            raise
        self._told = True
        answer = self.answer
        if not answer.token_ids:
            raise StopIteration
        return Token(answer.text, answer.token_ids[-1], answer.probabilities[-1])

    def _read(self) -> None:
        for one in self._readings:
            self.passes.append(one)
            if not one.unsure(self.again.threshold):
                return

    @classmethod
    def of(cls, passes: list[Pass], again: Again) -> Rereading:
        """One that is done: what `passes` came to."""
        made = cls(iter(passes), again)
        made._read()
        return made

    @property
    def answer(self) -> Answer:
        """The answer so far. Raises ValueError before the first reading is done."""
        if not self.passes:
            raise ValueError("nothing was read yet")
        last = self.passes[-1].answer
        earlier = [one.answer for one in self.passes[:-1]]
        return replace(
            last,
            finish_reason="interrupted" if self._interrupted else last.finish_reason,
            read_tokens=sum(one.tokens for one in self.passes),
            reused_tokens=self.passes[0].answer.reused_tokens,
            prefill_s=last.prefill_s + sum(answer.prefill_s for answer in earlier),
            first_token_s=last.first_token_s + sum(answer.prefill_s + answer.decode_s for answer in earlier),
        )

    def account(self) -> list[dict[str, object]]:
        """How each reading ended and why the next was or was not begun, in plain values."""
        return [
            {
                "reads": one.reads,
                "tokens": one.tokens,
                "answer": one.answer.text,
                "margin": one.margin,
                "in_document": one.found,
                "unsure": list(one.unsure(self.again.threshold)),
            }
            for one in self.passes
        ]
