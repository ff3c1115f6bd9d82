"""`jrt ask`: documents and questions in, answers on stdout, their recall reports on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jrtcli import known
from jrtcli.commands import options
from jrtcli.commands.ask_report import comparison, report_rows
from jrtcli.commands.compiling import say_when_compiling
from jrtcli.console import Console
from jrtcli.errors import EXIT_INTERRUPTED, DocumentError, UsageError
from jrtcli.fill import WAYS
from jrtcli.source import Document, join, read_document

if TYPE_CHECKING:
    from jrtcli.checkpoint import Loaded
    from jrtcli.reader import Reader
    from jrtcli.report import Report

Golds = Annotated[
    list[str] | None,
    typer.Option("--answer", "-a", metavar="GOLD", help="The right answer, to score recall."),
]
Fill = Annotated[
    str, typer.Option("--fill", help=f"Prompts shorter than a trained encoder: {', '.join(WAYS)}.")
]
Compare = Annotated[
    bool,
    typer.Option(
        "--compare",
        help="Once, question first, twice: side by side; with --template or --reads once and N times.",
    ),
]
ORDERS = ("cq", "qcq", "cqcq")
"""The orders of reading that --compare shows."""
Window = Annotated[
    int | None,
    typer.Option(
        "--window",
        min=0,
        metavar="N",
        help="Read a longer document in passages of N tokens; 0: whole. Default: the model's own.",
    ),
]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="The longest answer.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="0: the most probable token.")]


def ask(
    doc: options.Documents = None,
    question: options.Questions = None,
    answer: Golds = None,
    model: options.Model = options.DEFAULT_MODEL,
    template: options.Template = None,
    reads: options.Reads = None,
    fill: Fill = "twice",
    window: Window = None,
    compare: Compare = False,
    max_new_tokens: MaxNewTokens = 48,
    temperature: Temperature = 0.0,
    seed: options.Seed = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
    tokenizer: options.Tokenizer = None,
    revision: options.Revision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    backend: options.Backend = "auto",
) -> int:
    """Answer questions about documents with a recurrent model, and report how well it recalled.

    The answer is all that stdout holds; the report goes to stderr.
    """
    if not doc:
        raise UsageError("no document: give one with --doc FILE, or --doc - for stdin")
    questions, golds = _questions(question or [], answer or [])
    if fill not in WAYS:
        raise UsageError(f"no --fill {fill!r}: choose {', '.join(WAYS)}")
    document = _document(doc)
    chosen = _template(template)
    console = Console(quiet=quiet)
    loaded = load(
        console, model, device=device, dtype=dtype, backend=backend, revision=revision, tokenizer=tokenizer
    )

    from jrtcli.reader import Reader

    settings: dict[str, Any] = {"fill": fill, "window": window, "temperature": temperature, "seed": seed}
    reader = Reader(loaded, template=chosen, reads=reads, **settings)
    readers = [reader]
    if compare:
        if reader.template.least_reads > 1:
            raise UsageError(
                f"--compare reads once first, but template {reader.template.name} always reads"
                f" {reader.template.least_reads} times: take --template cqcq"
            )
        if reads == 1:
            raise UsageError("--compare reads once and N times: give --reads 2 or more, or leave it out")
        if chosen is None and reads is None:
            names = dict.fromkeys([*ORDERS, reader.template.name])
            others = {name: Reader(loaded, template=name, **settings) for name in names}
            readers = [reader if name == reader.template.name else others[name] for name in names]
        else:
            reader.reads = max(2, reads or reader.template.default_reads)
            readers = [Reader(loaded, template=reader.template, reads=1, **settings), reader]
    for text in questions:
        reader.prompt(document.text, text)
    session = Session(console, document, reader, readers, max_new_tokens, json=json)
    return session.run(questions, golds)


class Session:
    """The questions of one run, answered in turn by one loaded model."""

    def __init__(
        self,
        console: Console,
        document: Document,
        reader: Reader,
        readers: Sequence[Reader],
        max_new_tokens: int,
        *,
        json: bool,
    ) -> None:
        # The answer is that of `reader`; the others among `readers` are compared with it.
        self.console, self.document, self.reader, self.readers = console, document, reader, readers
        self.max_new_tokens, self.json = max_new_tokens, json
        self.rows: list[dict[str, Any]] = []

    def run(self, questions: Sequence[str], golds: Sequence[Sequence[str]]) -> int:
        """Answer all; Ctrl-C keeps what was said so far."""
        interrupted = False
        for number, (question, gold) in enumerate(zip(questions, golds, strict=True), start=1):
            if len(questions) > 1 and not self.json:
                self.console.note(f"{chr(10) if number > 1 else ''}{question}", style="bold")
            interrupted = self._one(str(number), question, gold)
            if interrupted:
                break
        if self.json:
            self.console.json(self.rows[0] if len(questions) == 1 and self.rows else self.rows)
        if interrupted:
            self.console.note("interrupted", style="yellow")
        return EXIT_INTERRUPTED if interrupted else 0

    def _one(self, id: str, question: str, golds: Sequence[str]) -> bool:
        """Answer one question. Returns whether it was interrupted."""
        from jrtcli.report import row

        others: dict[int, Report] = {}
        for i, reader in enumerate(self.readers):
            if reader is not self.reader:
                others[i] = self._answer(reader, question, golds, show=False)
                if others[i].answer.finish_reason == "interrupted":
                    self.rows.append(row(others[i], id=id))
                    return True  # the answer of another reading is not the answer: it is not shown
        report = self._answer(self.reader, question, golds, show=not self.json)
        made = row(report, id=id)
        if others:
            made["compared"] = [row(other, id=id) for other in others.values()]
        self.rows.append(made)
        if not self.json and report.answer.token_ids:
            if others:
                comparison(self.console, [others.get(i, report) for i in range(len(self.readers))])
            self.console.report(report_rows(report))
            for warning in report.warnings:
                self.console.warn(warning)
        return report.answer.finish_reason == "interrupted"

    def _answer(self, reader: Reader, question: str, golds: Sequence[str], *, show: bool) -> Report:
        from jrtcli.report import judge

        stream = self.console.answer() if show else None
        asking = None
        said = ""
        try:
            with self.console.progress("reading", unit="tokens") as bar:
                asking = reader.ask(
                    self.document.text, question, max_new_tokens=self.max_new_tokens, on_progress=bar.update
                )
                token = next(asking, None)
            while token is not None:
                if stream is not None:
                    stream.push(token.text)
                    said += token.text
                token = next(asking, None)
        except KeyboardInterrupt:
            if asking is None:
                raise
        answer = asking.answer
        if stream is not None:
            # Interrupted, the last piece may still be waiting for its capitals.
            stream.push(answer.text[len(said) :] if answer.text.startswith(said) else "")
            if answer.token_ids:
                # Interrupted while reading nothing was said, not even an empty answer.
                stream.end()
        return judge(answer, self.document, reader.loaded, golds)


def load(console: Console, model: str, **choices: Any) -> Loaded:
    """Load a checkpoint and its tokenizer, with a spinner unless the hub shows a progress bar of its own."""
    entry = known.find(model)
    local = Path(model).expanduser().is_dir() or (entry is not None and entry.bundled)
    with console.status(f"loading {model}") if local else nullcontext():
        # torch is imported here, so that what is wrong before costs no seconds.
        from jrtcli.checkpoint import load as load_checkpoint

        loaded = load_checkpoint(model, **choices)
        _ = loaded.tokenizer
    say_when_compiling(console)
    return loaded


def _questions(questions: Sequence[str], answers: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The questions, and the gold answers of each."""
    if not questions:
        raise UsageError("no question: give one with --question")
    for question in questions:
        if not question.strip():
            raise UsageError("a question is empty: say what to look for with --question")
    if len(questions) == 1:
        return list(questions), [list(answers)]
    if answers and len(answers) != len(questions):
        raise UsageError(
            f"{len(answers)} --answer for {len(questions)} questions: give one each, in order, or none"
        )
    return list(questions), [[answer] for answer in answers] or [[] for _ in questions]


def _document(sources: Sequence[str]) -> Document:
    if list(sources).count("-") > 1:
        raise DocumentError("--doc -: stdin can be read only once")
    return join([read_document(source) for source in sources])


def _template(name: str | None) -> Any:
    """The template asked for, so that a wrong name is said before a model is loaded."""
    if name is None:
        return None
    import jrt_prompts
    from jrtcli.errors import TemplateError

    try:
        return jrt_prompts.load_template(name)
    except jrt_prompts.TemplateError as error:
        raise TemplateError(str(error)) from None
