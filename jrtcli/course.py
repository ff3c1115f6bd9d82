"""Course: the readings of one question, each of which goes on from the state that the last one left.

What the prompts of two readings have in common, the one with n of them and the one with n + 1, is read once,
and its state kept: a recurrent state after [C, Q] goes on with [C, Q]. So a second reading costs a second
reading, and an answer that is sure after the first costs nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jrtcli.document import DocumentState
from jrtcli.errors import NotResumable, UsageError
from jrtcli.evidence import grounding
from jrtcli.fill import Filled
from jrtcli.prepared import Prepared, Request
from jrtcli.reader import Reader

if TYPE_CHECKING:
    from jrtcli.answer import Answer
    from jrtcli.state import State


@dataclass(frozen=True)
class Pass:
    """The answer after so many readings, and what speaks against it.

    reads: readings so far. tokens: read for this pass. margin: the least lead of an answer's token over the
    next best, in probability; 0.0 where nothing was said. found: whether the answer stands in the document.
    """

    reads: int
    tokens: int
    answer: Answer
    margin: float
    found: bool

    def unsure(self, threshold: float) -> tuple[str, ...]:
        """Why to read on, in words; empty for an answer that is sure, and where a threshold below 0 says that
        reading again gains nothing."""
        if threshold < 0:
            return ()
        if not self.answer.text:
            return ("no answer",)
        why = []
        if self.margin < threshold:
            why.append(f"margin {self.margin:.2f} below {threshold:.2f}")
        if not self.found:
            why.append("not in the document")
        return tuple(why)


class Course:
    """The readings of one question, up to `most` of them.

    reader: of the first readings (`first_reader`). Attributes: `reads`, of the reading that is under way;
    `ids`, its whole prompt; `state`, one row, after the first `done` of these; `begun`, as many as were read
    before this reading; `shared`, as many as are the same for every question, while the first reading is
    under way and if a state can stop there. Raises UsageError for a template or a document that cannot be
    read on, NotResumable for a model with an encoder.
    """

    def __init__(self, reader: Reader, source: str | DocumentState, question: str, most: int) -> None:
        check(reader, most)
        prepared = reader.prepare(source, question)
        if len(prepared.requests) > 1:
            raise UsageError(
                "--reads auto: the document is longer than this model's window and is read in passages;"
                " add --window 0, or take --reads 1 or 2"
            )
        [request] = prepared.requests
        self._reader, self._question, self._most = reader, question, most
        self._context = prepared.context
        self.reads: int = prepared.fields["reads"]
        self.state, self.shared = request.state, request.shared
        here = self._whole(self.reads)
        self.begun = self.done = here.tokens - request.tokens
        self._take(here)

    @property
    def more(self) -> bool:
        """Whether another reading may follow."""
        return self._next is not None

    @property
    def tokens(self) -> int:
        """Tokens that are left to read for this answer."""
        return len(self.ids) - self.done

    def advance(self, state: State, done: int) -> None:
        """Note that the first `done` ids have been read."""
        self.state, self.done = state, done

    def rest(self) -> Prepared:
        """What is left to read for the answer. What is read of it is not noted: the next reading goes on from
        the state as it is now."""
        fields = self._here.fields | {
            "question": self._question,
            "read_tokens": len(self.ids) - self.begun,
            "reused_tokens": self.begun,
        }
        return Prepared(self._context, (Request(Filled(self.ids[self.done :]), None, self.state),), fields)

    def taken(self, answer: Answer, seconds: float = 0.0) -> Pass:
        """The pass that an answer to `rest` makes. seconds: of reading what was read before that."""
        said = bool(answer.text)
        return Pass(
            self.reads,
            len(self.ids) - self.begun,
            replace(answer, prefill_s=answer.prefill_s + seconds),
            min(answer.leads) if said else 0.0,
            said and grounding(answer.text, self._context).found,
        )

    def go_on(self) -> None:
        """Begin the next reading."""
        assert self._next is not None
        self.reads += 1
        self.begun, self.shared = self.done, 0
        self._take(self._next)

    def _take(self, here: Prepared) -> None:
        self._here = here
        self.ids = here.requests[0].filled.ids
        self._next = self._whole(self.reads + 1) if self.reads < self._most else None
        # What the next reading goes on from, and at least one token for this one to end with.
        self.stop = self.done
        if self._next is not None:
            self.stop = max(self.done, _alike(self.ids, self._next.requests[0].filled.ids))

    def _whole(self, reads: int) -> Prepared:
        """The prompt of so many readings, from nothing and in one piece."""
        prompt = self._reader.template.render(self._context, self._question, reads=reads)
        return self._reader.prepare(self._context, self._question, prompt=prompt)


def check(reader: Reader, most: int) -> None:
    """Raises UsageError, or NotResumable, where a reading cannot be followed by another."""
    template = reader.template
    if reader.loaded.model.has_encoder:
        raise NotResumable(
            f"--reads auto goes on from a state, and the encoder of {reader.loaded.identity.name} reads its"
            " region in one piece: take --reads 2, or a causal model"
        )
    if not template.repeats:
        raise UsageError(
            f"--reads auto: template {template.name} reads {template.least_reads} times, never more:"
            " take cq, cqcq or qcq"
        )
    if most <= template.least_reads:
        raise UsageError(
            f"--reads auto:{most}: template {template.name} begins with {template.least_reads}: give more"
        )


def first_reader(reader: Reader) -> Reader:
    """The reader of the first readings: as few as its template allows."""
    options: dict[str, Any] = {
        name: getattr(reader, name) for name in ("template", "fill", "window", "temperature", "seed")
    }
    return Reader(reader.loaded, reads=reader.template.least_reads, **options)


def _alike(first: list[int], second: list[int]) -> int:
    most = min(len(first) - 1, len(second) - 1)
    return next((i for i in range(most) if first[i] != second[i]), most)
