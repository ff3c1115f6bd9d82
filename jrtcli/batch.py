"""Answers to the rows of a file, many at once: rows of one document go on from one reading of it."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from jrtcli import __version__
from jrtcli.batching import Batch, OutOfMemory
from jrtcli.calibration import threshold_of
from jrtcli.checkpoint import load
from jrtcli.course import Course, check, first_reader
from jrtcli.errors import DocumentError, JrtError, StateError, UsageError
from jrtcli.lookahead import look_ahead
from jrtcli.manifest import run_hash
from jrtcli.output_rows import answer_row, bad_row, failed_row
from jrtcli.reader import MAX_NEW_TOKENS, Reader
from jrtcli.records import BadRow, Record
from jrtcli.reread_batch import RereadBatch
from jrtcli.rereading import Again, Rereading
from jrtcli.row_group import RowGroup
from jrtcli.shared_reading import read_together

if TYPE_CHECKING:
    from jrtcli.answer import Answer
    from jrtcli.checkpoint import Loaded
    from jrtcli.document import DocumentState
    from jrtcli.prepared import Prepared
    from jrtcli.source import Document

P = TypeVar("P")

FAILURES_HELD = 64
"""So many rows that failed before they could be answered wait for those that are being answered."""


KINDS: dict[type[Exception], str] = {
    OutOfMemory: "memory",
    DocumentError: "document",
    StateError: "state",
    UsageError: "prompt",
    JrtError: "model",
}
"""What failed -> the kind of a row's error; those of lines that are no rows are in records.py."""


@dataclass(frozen=True)
class BatchSettings:
    """How rows are answered: options of jrtcli.checkpoint.load and jrtcli.reader.Reader by their names.

    batch_size: rows at once; None: found by itself. most_reads: read again, up to so many times, where an
    answer is unsure (jrtcli.rereading). None: `reads` says.
    """

    model: str = "tiny"
    revision: str | None = None
    tokenizer: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    backend: str = "auto"
    weights: str = "auto"
    template: str | None = None
    reads: int | None = None
    most_reads: int | None = None
    fill: str = "twice"
    window: int | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    temperature: float = 0.0
    seed: int = 0
    batch_size: int | None = None


def run_key(settings: BatchSettings, reader: Reader) -> dict[str, Any]:
    """What the answers depend on, in plain values. Not the machine, the kernels or the batch size: they
    change no answer but by rounding."""
    loaded, template = reader.loaded, reader.template
    return {
        "jrt": __version__,
        "architecture": loaded.identity.architecture,
        "weights_sha256": loaded.identity.weights_sha256,
        "revision": loaded.identity.revision,
        "tokenizer_sha256": loaded.tokenizer.hash,
        "template": template.name,
        "template_sha256": hashlib.sha256(repr(replace(template, description="")).encode()).hexdigest(),
        "reads": reader.reads,
        "fill": reader.fill,
        "window": reader.window,
        "max_new_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "seed": settings.seed,
        "dtype": loaded.dtype,
        **({} if loaded.weights == "auto" else {"weights": loaded.weights}),
    }


_Work = tuple[Record, "Document"]


class Answerer:
    """Answers rows with one loaded model.

    loaded: the model of `settings`, where it is loaded already. Attributes: `run`, what the answers depend
    on (run_key), and `run_hash`; `batch`, with the numbers of rows and tokens at once; `idle`, to be set: a
    function that says whether the next row has to be waited for, so that those at hand are answered
    meanwhile. Raises as jrtcli.checkpoint.load and jrtcli.reader.Reader.
    """

    def __init__(self, settings: BatchSettings, *, loaded: Loaded | None = None) -> None:
        self.settings = settings
        self.loaded = loaded or load(
            settings.model,
            device=settings.device,
            dtype=settings.dtype,
            backend=settings.backend,
            weights=settings.weights,
            revision=settings.revision,
            tokenizer=settings.tokenizer,
        )
        self.reader = Reader(
            self.loaded,
            template=settings.template,
            reads=settings.reads,
            fill=settings.fill,
            window=settings.window,
            temperature=settings.temperature,
            seed=settings.seed,
        )
        # What no document could be read with is said before any is.
        self.reader.prompt("document", "question")
        self.again: Again | None = None
        if settings.most_reads is not None:
            check(self.reader, settings.most_reads)
            self.again = Again(settings.most_reads, *threshold_of(self.reader, settings.most_reads))
            self.reader = first_reader(self.reader)
        self.run = run_key(settings, self.reader)
        if self.again is not None:
            self.run |= {"most_reads": self.again.most, "threshold": self.again.threshold}
        self.run_hash = run_hash(self.run)
        self.batch = Batch(
            self.reader,
            rows=settings.batch_size,
            max_new_tokens=settings.max_new_tokens,
            leads=self.again is not None,
        )
        self._rereads: RereadBatch[_Work] | None = None
        if self.again is not None:
            self._rereads = RereadBatch(self.batch, self.again)
        self.idle: Callable[[], bool] = _never
        self._shared_tokens = 0
        self._failed: deque[dict[str, Any]] = deque()
        self._ended = False

    @property
    def tokens_read(self) -> int:
        """Tokens of all prompts so far; those that several rows share are counted once."""
        again = 0 if self._rereads is None else self._rereads.tokens_read
        return self.batch.tokens_read + self._shared_tokens + again

    def stop(self) -> None:
        """Begin no more rows; those whose reading has begun are still answered."""
        self._ended = True
        self.batch.stop()

    def answer(self, rows: Iterable[Record | BadRow]) -> Iterator[dict[str, Any]]:
        """An output row for each, in the order in which they are done. An error belongs to its row."""
        groups = look_ahead(self._good(rows))
        more = True
        while more and not self._ended:
            more = False
            for (record, document), answer in self._answers(groups):
                yield from self._take_failed()
                if isinstance(answer, Exception):
                    yield self._failure(record, answer)
                elif isinstance(answer, Rereading):
                    row = answer_row(record, answer.answer, document, self.loaded, run=self.run_hash)
                    yield row | {"readings": answer.account()}
                else:
                    yield answer_row(record, answer, document, self.loaded, run=self.run_hash)
            more = self._paused
            yield from self._take_failed()

    def _answers(
        self, groups: Iterator[list[Record] | None]
    ) -> Iterator[tuple[_Work, Answer | Rereading | Exception]]:
        if self._rereads is not None:
            yield from self._rereads.run(self._pass(groups, self._course))
        else:
            yield from self.batch.run(self._pass(groups, self._prepared))

    def _prepared(self, source: str | DocumentState, record: Record) -> Prepared:
        return self.reader.prepare(source, record.question, prompt=record.prompt)

    def _course(self, source: str | DocumentState, record: Record) -> Course:
        assert self.again is not None
        if record.prompt is not None:
            raise UsageError("--reads auto: a prompt that is given whole cannot be read on")
        return Course(self.reader, source, record.question, self.again.most)

    def _take_failed(self) -> Iterator[dict[str, Any]]:
        while self._failed:
            yield self._failed.popleft()

    def _good(self, rows: Iterable[Record | BadRow]) -> Iterator[Record | None]:
        for row in rows:
            if isinstance(row, Record):
                yield row
            else:
                self._failed.append(bad_row(row, run=self.run_hash))
            if len(self._failed) >= FAILURES_HELD or self.idle():
                yield None

    def _pass(
        self,
        groups: Iterator[list[Record] | None],
        make: Callable[[str | DocumentState, Record], P],
    ) -> Iterator[tuple[_Work, P]]:
        """What is to be answered, up to a pause or the end. Documents are read ahead together, for as many
        rows, or tokens, as the batch has."""
        self._paused = False
        held: list[RowGroup] = []
        rows = tokens = 0
        for records in groups:
            if self._ended:
                return
            if records is None:
                self._paused = True
                break
            try:
                group = RowGroup.of(records, self.reader)
            except Exception as error:
                self._fail(records, error)
                continue
            held.append(group)
            tokens += group.ahead.tokens if group.ahead is not None else 0
            rows += len(records)
            if rows >= self.batch.rows or tokens >= self.batch.tokens:
                yield from self._ready(held, make)
                held, rows, tokens = [], 0, 0
        yield from self._ready(held, make)

    def _fail(self, records: list[Record], error: Exception) -> None:
        self._failed.extend(self._failure(record, error) for record in records)

    def _ready(
        self, groups: list[RowGroup], make: Callable[[str | DocumentState, Record], P]
    ) -> Iterator[tuple[_Work, P]]:
        shared = [group for group in groups if group.ahead is not None]
        states = read_together(self.reader.loaded.model, [g.ahead for g in shared if g.ahead is not None])
        self._shared_tokens += sum(g.ahead.tokens for g in shared if g.ahead is not None)
        read = {id(group): state for group, state in zip(shared, states, strict=True)}
        for group in groups:
            source = group.state or read.get(id(group)) or group.document.text
            for record in group.records:
                try:
                    made = make(source, record)
                except Exception as error:
                    self._fail([record], error)
                else:
                    yield (record, group.document), made

    def _failure(self, record: Record, error: Exception) -> dict[str, Any]:
        kind = next((kind for type_, kind in KINDS.items() if isinstance(error, type_)), "unexpected")
        # Of what was not foreseen only the type: its message may quote the document.
        message = f"{type(error).__name__}, a fault of jrt" if kind == "unexpected" else str(error)
        return failed_row(record, kind, message, run=self.run_hash)


def _never() -> bool:
    return False
