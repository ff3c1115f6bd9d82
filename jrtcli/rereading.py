"""Rereading: answer after one reading, and read on only where the answer is unsure.

A recurrent state after [C, Q] goes on with [C, Q]: what two prompts of one template have in common, with n
readings and with n + 1, is read once, and its state kept. So a second reading costs a second reading, and an
answer that is sure after the first costs nothing more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jrtcli.answer import Token
from jrtcli.document import DocumentState
from jrtcli.errors import NotResumable, UsageError
from jrtcli.evidence import grounding
from jrtcli.generate import Generation
from jrtcli.reader import MAX_NEW_TOKENS, Reader

if TYPE_CHECKING:
    from jrtcli.answer import Answer
    from jrtcli.prepared import Prepared
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


class Margins(Generation):
    """A generation that also notes how far each token was ahead of the next best, in probability."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.margins: list[float] = []

    def _logits(self) -> Tensor:
        logits = super()._logits()
        best = torch.softmax(logits[: self._real_tokens].float(), -1).topk(2).values.tolist()
        self.margins.append(best[0] - best[1])
        return logits


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
        """Why to read on, in words; empty for an answer that is sure."""
        if not self.answer.text:
            return ("no answer",)
        why = []
        if self.margin < threshold:
            why.append(f"margin {self.margin:.2f} below {threshold:.2f}")
        if not self.found:
            why.append("not in the document")
        return tuple(why)


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

    reader: of the first readings (`first_reader`). on_progress: called with (tokens read, tokens to read) of
    a pass. on_read: as of Reader.start. Raises UsageError for a template or a document that cannot be read
    on, NotResumable for a model with an encoder.
    """
    check(reader, most)
    model = reader.loaded.model
    prepared = reader.prepare(source, question)
    if len(prepared.requests) > 1:
        raise UsageError(
            "--reads auto: the document is longer than this model's window and is read in passages;"
            " add --window 0, or take --reads 1 or 2"
        )
    [request] = prepared.requests
    context = prepared.context
    shared = request.shared
    first: int = prepared.fields["reads"]
    here = _whole(reader, first, context, question)
    state, done = request.state, here.tokens - request.tokens
    for reads in range(first, most + 1):
        before, started = done, time.perf_counter()
        ids = here.requests[0].filled.ids
        more = _whole(reader, reads + 1, context, question) if reads < most else None
        # What the next reading goes on from, and at least one token for this pass to end with.
        stops = [_alike(ids, more.requests[0].filled.ids)] if more is not None else []
        if on_read is not None and reads == first and shared:
            stops.insert(0, shared)
        for stop in stops:
            if stop > done:
                options: dict[str, Any] = {}
                if on_progress is not None:
                    options["on_progress"] = _counter(on_progress, done - before, len(ids) - before)
                tokens = torch.tensor([ids[done:stop]], device=model.device)
                state, done = model.prefill(tokens, state, **options)[1], stop
                if on_read is not None and stop == shared and reads == first:
                    assert state is not None
                    on_read(state)
        seconds = time.perf_counter() - started
        generation = Margins(
            model,
            ids[done:],
            state=state,
            max_new_tokens=max_new_tokens,
            stop_ids=reader.stop_ids,
            real_tokens=reader.loaded.real_tokens,
            temperature=reader.temperature,
            seed=reader.seed,
            on_progress=None
            if on_progress is None
            else _outer(on_progress, done - before, len(ids) - before),
        )
        fields = here.fields | {
            "question": question,
            "read_tokens": len(ids) - before,
            "reused_tokens": before,
        }
        asking = reader.asking(replace(here, fields=fields), generation, started=started)
        for _ in asking:
            pass
        answer = asking.answer
        answer = replace(answer, prefill_s=answer.prefill_s + seconds)
        margins = generation.margins[: max(1, len(answer.token_ids))]
        yield Pass(
            reads,
            len(ids) - before,
            answer,
            min(margins) if answer.text else 0.0,
            bool(answer.text) and grounding(answer.text, context).found,
        )
        if more is not None:
            here = more


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
    return Reader(
        reader.loaded,
        template=reader.template,
        reads=reader.template.least_reads,
        fill=reader.fill,
        window=reader.window,
        temperature=reader.temperature,
        seed=reader.seed,
    )


def _whole(reader: Reader, reads: int, context: str, question: str) -> Prepared:
    """The prompt of so many readings, from nothing and in one piece."""
    prompt = reader.template.render(context, question, reads=reads)
    return reader.prepare(context, question, prompt=prompt)


def _alike(first: list[int], second: list[int]) -> int:
    most = min(len(first) - 1, len(second) - 1)
    return next((i for i in range(most) if first[i] != second[i]), most)


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
