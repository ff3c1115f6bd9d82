"""One run of `jrt batch`: rows through an engine into the output, and what the user sees of it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any, Protocol

from jrtcli.commands.batch_summary import errors_report, summary_rows
from jrtcli.console import Console, Progress
from jrtcli.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_SOME_ROWS_FAILED
from jrtcli.manifest import write_manifest
from jrtcli.ordering import Ordering
from jrtcli.predictions import Predictions, dumps, read_predictions
from jrtcli.records import BadRow, Record, RecordReader
from jrtcli.tally import Tally

PLAIN_EVERY_S = 10.0
"""Seconds between the lines of progress where stderr is no terminal."""

_SHOWN_EVERY_S = 0.1

Rows = Iterable[Record | BadRow]


class Engine(Protocol):
    """What answers rows: jrtcli.batch.Answerer, or several of them."""

    @property
    def run(self) -> dict[str, Any]:
        """What the answers depend on."""

    @property
    def tokens_read(self) -> int:
        """Tokens of all prompts so far."""

    def answer(self, rows: Rows) -> Iterator[dict[str, Any]]:
        """An output row for each, in the order in which they are done."""

    def stop(self) -> None:
        """Begin no more rows; those in flight are still answered."""


class BatchRun:
    """The rows of `reader` through `engine` into `output` ("-": stdout).

    strict: stop at the first row that fails. ordered: rows in the order of the input. take: those of the
    input's rows that are this run's, all by default. total: of these, where it is known.
    """

    def __init__(
        self,
        console: Console,
        reader: RecordReader,
        engine: Engine,
        output: str,
        *,
        ordered: bool = False,
        strict: bool = False,
        take: Callable[[Rows], Rows] = iter,
        total: int | None = None,
    ) -> None:
        self.console, self.reader, self.engine, self.output = console, reader, engine, output
        self.ordered, self.strict, self.take, self.total = ordered, strict, take, total
        if hasattr(engine, "idle"):
            # It looks ahead: a pipe that pauses must not keep it from the rows it has.
            engine.idle = reader.would_wait
        self.tally = Tally()
        self._stopped = self._interrupted = False
        self._shown = 0.0

    def run(self, about: Mapping[str, Any] | None = None) -> int:
        """Answer all rows and return the exit code. about: what the manifest keeps beside the run."""
        about = about or {}
        if self.output == "-":
            return self._answer(None)
        with Predictions(self.output, self.engine.run, about=about) as predictions:
            if predictions.kept or predictions.retried:
                again = f"; {predictions.retried:,} that failed are tried again" * bool(predictions.retried)
                self.console.note(f"{self.output}: {predictions.kept:,} rows are answered already{again}")
            code = self._answer(predictions)
            if not self._stopped:
                predictions.finish(ordered=self.ordered)
                write_manifest(predictions.path, self.engine.run, {**about, "rows": self.reader.rows})
        return code

    def _answer(self, predictions: Predictions | None) -> int:
        kept = 0 if predictions is None else predictions.kept
        ordering = Ordering() if self.ordered and predictions is None else None
        rows = self.take(self._strictly(self.reader))
        if ordering is not None:
            rows = ordering.watch(rows)
        if predictions is not None:
            rows = predictions.remaining(rows)
        total = None if self.total is None else max(0, self.total - kept)
        started = time.perf_counter()
        try:
            with self._interrupts(), self._progress(total) as bar:
                for row in self.engine.answer(rows):
                    if predictions is not None:
                        predictions.write(row)
                    else:
                        self._print([row] if ordering is None else ordering.put(row))
                    self.tally.add(row)
                    self._show(bar, time.perf_counter() - started)
                    if self.strict and "error" in row:
                        self._stop()
        except KeyboardInterrupt:
            self._interrupted = self._stopped = True
        if ordering is not None:
            self._print(ordering.rest())
        self._say(time.perf_counter() - started, predictions)
        if self._interrupted:
            return EXIT_INTERRUPTED
        return EXIT_SOME_ROWS_FAILED if self.tally.errors else EXIT_DONE

    def _strictly(self, rows: Rows) -> Iterator[Record | BadRow]:
        for row in rows:
            yield row
            if self.strict and isinstance(row, BadRow):
                self._stopped = True
                return

    def _stop(self) -> None:
        self._stopped = True
        self.engine.stop()
        self.reader.stop()

    def _print(self, rows: Iterable[Mapping[str, Any]]) -> None:
        stream = self.console.stdout
        ascii_only = not (getattr(stream, "encoding", None) or "").lower().startswith("utf")
        for row in rows:
            stream.write(dumps(row, ascii_only=ascii_only))
        stream.flush()

    def _progress(self, total: int | None) -> Any:
        if self.output == "-" and self.console.stdout_terminal and self.console.stderr_terminal:
            return nullcontext()  # the rows themselves are what moves
        return self.console.progress("answered", total, unit="rows", every_s=PLAIN_EVERY_S)

    def _show(self, bar: Progress | None, seconds: float) -> None:
        done = self.tally.rows
        if bar is None or (seconds - self._shown < _SHOWN_EVERY_S and done != bar.total):
            return
        self._shown = seconds
        fields: dict[str, str] = {"rows/s": _rate(done / seconds)}
        fields["tokens/s"] = _rate((self.engine.tokens_read + self.tally.answer_tokens) / seconds)
        if self.tally.errors:
            fields["errors"] = f"{self.tally.errors:,}"
        bar.update(done, None, **fields)

    def _say(self, seconds: float, predictions: Predictions | None) -> None:
        """The summary: counts of the whole output, the speed of this run."""
        tally = self.tally
        if predictions is not None and predictions.kept:
            tally = Tally()
            for row in read_predictions(predictions.path):
                tally.add(row)
        for note in self.reader.notes:
            self.console.note(note)
        tokens = self.engine.tokens_read + self.tally.answer_tokens
        self.console.report(summary_rows(tally, self.tally.rows, tokens, seconds))
        for line in errors_report(self.tally):
            self.console.warn(line)
        if self._interrupted and self.output != "-":
            self.console.note(f"interrupted: the same command goes on with {self.output}", style="yellow")
        elif self._interrupted:
            self.console.note("interrupted", style="yellow")
        elif self._stopped:
            self.console.note("stopped at the first row that failed (--strict)", style="yellow")

    @contextmanager
    def _interrupts(self) -> Iterator[None]:
        """Ctrl-C (or SIGTERM) ends the run after the rows in flight. A second one ends it at once."""

        def note(number: int, frame: FrameType | None) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
            self.console.note("finishing the rows in flight; once more to stop now", style="yellow")
            self._stop()

        kinds = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(kind, note) for kind in kinds]
        try:
            yield
        finally:
            for kind, handler in zip(kinds, before, strict=True):
                signal.signal(kind, handler)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
