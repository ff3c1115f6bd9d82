"""The questions of one run of `jrt ask`: one as it is said, many at once, each with its report."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jrtcli.commands.ask_report import comparison, report_rows, short_rows, summary_rows
from jrtcli.console import Console
from jrtcli.errors import EXIT_INTERRUPTED, EXIT_SOME_ROWS_FAILED

if TYPE_CHECKING:
    from jrtcli.answer import Answer
    from jrtcli.questions import Question
    from jrtcli.reader import Reader
    from jrtcli.reading import Reading
    from jrtcli.report import Report


class Session:
    """Questions about one document, answered by one loaded model.

    The answer is that of `reading`; those of the other `readers` are compared with it.
    """

    def __init__(
        self,
        console: Console,
        reading: Reading,
        readers: Sequence[Reader],
        max_new_tokens: int,
        *,
        json: bool,
    ) -> None:
        self.console, self.reading, self.readers = console, reading, readers
        self.max_new_tokens, self.json = max_new_tokens, json
        self.rows: list[dict[str, Any]] = []
        self._reports: list[Report] = []
        self._warned: set[str] = set()

    def run(self, questions: Sequence[Question]) -> int:
        """Answer all; Ctrl-C keeps what was said so far."""
        at_once = len(questions) > 1 and len(self.readers) == 1 and self.reading.again is None
        code = self._many(questions) if at_once else self._in_turn(questions)
        if self.json:
            self.console.json(self.rows[0] if len(questions) == 1 and self.rows else self.rows)
        if code == EXIT_INTERRUPTED:
            of = f": {len(self.rows)} of {len(questions)} questions answered" if at_once else ""
            self.console.note(f"interrupted{of}", style="yellow")
        return code

    def _in_turn(self, questions: Sequence[Question]) -> int:
        if len(questions) > 1 and self.reading.again is not None:
            with self.console.progress("reading", unit="tokens") as bar:
                self.reading.read(on_progress=bar.update)
            self._keep()
        for number, question in enumerate(questions):
            if len(questions) > 1 and not self.json:
                self.console.note(f"{chr(10) if number else ''}{question.text}", style="bold")
            if self._one(question):
                return EXIT_INTERRUPTED
        return 0

    def _one(self, question: Question) -> bool:
        """Answer one question. Returns whether it was interrupted."""
        from jrtcli.reading import Reading
        from jrtcli.report import row

        others: dict[int, Report] = {}
        for i, reader in enumerate(self.readers):
            if reader is not self.reading.reader:
                other = Reading(reader, self.reading.document)
                others[i] = self._stream(other, question, show=False)
                if others[i].answer.finish_reason == "interrupted":
                    self.rows.append(row(others[i], id=question.id))
                    return True  # the answer of another reading is not the answer: it is not shown
        report = self._stream(self.reading, question, show=not self.json)
        self._keep()
        self._note(report, question)
        if others:
            self.rows[-1]["compared"] = [row(other, id=question.id) for other in others.values()]
        if not self.json and report.answer.token_ids:
            if others:
                comparison(self.console, [others.get(i, report) for i in range(len(self.readers))])
            self.console.report(report_rows(report, self.reading))
            for warning in report.warnings:
                self.console.warn(warning)
        return report.answer.finish_reason == "interrupted"

    def _stream(self, reading: Reading, question: Question, *, show: bool) -> Report:
        from jrtcli.rereading import Rereading

        stream = self.console.answer() if show else None
        asking = None
        said = ""
        try:
            with self.console.progress("reading", unit="tokens") as bar:
                asking = reading.ask(
                    question.text, max_new_tokens=self.max_new_tokens, on_progress=bar.update
                )
                token = next(asking, None)
            while token is not None:
                if stream is not None:
                    stream.push(token.text)
                    said += token.text
                token = next(asking, None)
        except KeyboardInterrupt:
            if asking is None or (isinstance(asking, Rereading) and not asking.passes):
                raise
        answer = asking.answer
        if stream is not None:
            # Interrupted, the last piece may still be waiting for its capitals.
            stream.push(answer.text[len(said) :] if answer.text.startswith(said) else "")
            if answer.token_ids:
                # Interrupted while reading nothing was said, not even an empty answer.
                stream.end()
        return _judged(reading, answer, question)

    def _many(self, questions: Sequence[Question]) -> int:
        """All questions in one batch, from one reading of what they share; answers in the order asked."""
        from jrtcli.batching import Batch

        done: dict[int, Answer | Exception] = {}
        told = 0
        interrupted = False
        started = time.perf_counter()
        try:
            with self.console.progress("reading", unit="tokens") as bar:
                self.reading.read(on_progress=bar.update)
            self._keep()
            batch = Batch(self.reading.reader, max_new_tokens=self.max_new_tokens)
            running = batch.run((i, self.reading.prepare(q.text)) for i, q in enumerate(questions))
            while told < len(questions):
                with self.console.progress("answering", len(questions), unit="questions") as bar:
                    bar.update(len(done))
                    while told not in done:
                        number, answer = next(running)
                        done[number] = answer
                        bar.update(len(done))
                while told in done:
                    told += 1  # first: what Ctrl-C cuts off is not told twice
                    self._tell(questions[told - 1], done[told - 1])
        except KeyboardInterrupt:
            interrupted = True
        failed = sum(isinstance(answer, Exception) for answer in done.values())
        for number in range(told, max(done, default=-1) + 1):
            # Of those that were answered out of turn; a line stays empty for each that was not.
            self._tell(questions[number], done.get(number))
        if not self.json and self._reports:
            self.console.note()
            seconds = time.perf_counter() - started
            self.console.report(summary_rows(self._reports, self.reading, seconds))
        return EXIT_INTERRUPTED if interrupted else EXIT_SOME_ROWS_FAILED if failed else 0

    def _tell(self, question: Question, answer: Answer | Exception | None) -> None:
        """Show one of many answers, what is known of it, or that there is none."""
        if not self.json:
            self.console.note(f"{chr(10) if self._reports else ''}{question.text}", style="bold")
            stream = self.console.answer()
            stream.push("" if answer is None or isinstance(answer, Exception) else answer.text)
            stream.end()
        if answer is None:
            return
        if isinstance(answer, Exception):
            self.rows.append(failed_row(question, answer))
            self.console.warn(f"no answer: {answer}")
            return
        report = _judged(self.reading, answer, question)
        self._note(report, question)
        if not self.json:
            self.console.report(short_rows(report))
            for warning in report.warnings:
                # The same words with other numbers say nothing new the second time.
                words = re.sub(r"[\d,]+", "", warning)
                if words not in self._warned:
                    self.console.warn(warning)
                self._warned.add(words)

    def _note(self, report: Report, question: Question) -> None:
        from jrtcli.report import row

        self._reports.append(report)
        made = row(report, id=question.id) | {"state": self.reading.reuse(report.answer)}
        if self.reading.again is not None and self.reading.rereading is not None:
            made["rereading"] = asdict(self.reading.again) | {"readings": self.reading.rereading.account()}
        self.rows.append(made)

    def _keep(self) -> None:
        """Keep what was read for a later run; said once where that cannot be."""
        self.reading.keep()
        if self.reading.warning is not None:
            self.console.warn(self.reading.warning)
            self.reading.warning = None


def _judged(reading: Reading, answer: Answer, question: Question) -> Report:
    from jrtcli.report import judge

    return judge(answer, reading.document, reading.reader.loaded, question.answers)


def failed_row(question: Question, error: Exception) -> dict[str, Any]:
    """The row of a question that has no answer."""
    return {
        "id": question.id,
        "question": question.text,
        "answers": list(question.answers) or None,
        "error": {"kind": type(error).__name__, "message": str(error)},
    }
