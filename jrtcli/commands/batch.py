"""`jrt batch`: rows of questions in, rows of answers out, with an output that survives a kill."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from jrtcli.commands import options
from jrtcli.commands.batch_engine import (
    AddressOption,
    EngineOption,
    ShardOption,
    WorkersOption,
    check_engine,
    opened,
    place,
)
from jrtcli.commands.batch_run import BatchRun
from jrtcli.console import Console
from jrtcli.errors import JrtError, TemplateError, UsageError
from jrtcli.fill import WAYS
from jrtcli.lines import count_lines
from jrtcli.records import Fields, RecordReader

_FIELDS = "Names of a row's fields"

Input = Annotated[
    str, typer.Argument(metavar="IN.jsonl", help="One row a line, gzip and zstd too; - reads stdin.")
]
Output = Annotated[
    str,
    typer.Option("--output", "-o", metavar="OUT.jsonl", help="Gone on with after a kill; -: stdout."),
]
BatchSize = Annotated[
    str, typer.Option("--batch-size", "-b", metavar="N", help="Rows at once; auto: as memory allows.")
]
Ordered = Annotated[bool, typer.Option("--ordered", help="The rows in the order of the input.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first row that fails.")]


def _field(name: str, what: str) -> Any:
    return typer.Option(f"--{name}-field", metavar="NAME", help=what, rich_help_panel=_FIELDS)


def batch(
    source: Input,
    output: Output = "-",
    model: options.Model = options.DEFAULT_MODEL,
    template: options.Template = None,
    reads: options.ReadsOrAuto = None,
    fill: options.Fill = "twice",
    window: options.Window = None,
    max_new_tokens: options.MaxNewTokens = 48,
    temperature: options.Temperature = 0.0,
    seed: options.Seed = 0,
    batch_size: BatchSize = "auto",
    ordered: Ordered = False,
    strict: Strict = False,
    shard: ShardOption = None,
    workers: WorkersOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    quiet: options.Quiet = False,
    id_field: Annotated[str, _field("id", "Tells rows apart.")] = "id",
    context_field: Annotated[str, _field("context", "The document's text.")] = "context",
    doc_field: Annotated[str, _field("doc", "A document's file, relative to IN.")] = "doc",
    state_field: Annotated[str, _field("state", "A file that jrt read wrote.")] = "state",
    question_field: Annotated[str, _field("question", "What is asked.")] = "question",
    answers_field: Annotated[str, _field("answers", "The right answers, to score recall.")] = "answers",
    tokenizer: options.Tokenizer = None,
    revision: options.Revision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    weights: options.Weights = "auto",
    backend: options.Backend = "auto",
) -> int:
    """Answer the rows of a jsonl file, many at once.

    A row has "question" and "context", "doc" (a file) or "state"; rows of an OpenAI batch file do too. Each
    gives one output row, with its answer or its error; the exit code is 3 where rows failed. The same command
    again answers only what is missing.
    """
    if fill not in WAYS:
        raise UsageError(f"no --fill {fill!r}: choose {', '.join(WAYS)}")
    rows_at_once = _batch_size(batch_size)
    count, most = options.reads_or_auto(reads)
    _check_template(template)
    fields = Fields(id_field, context_field, doc_field, state_field, question_field, answers_field)
    if len(set(vars(fields).values())) < len(vars(fields)):
        raise UsageError("two of the fields of a row have the same name: give each --...-field another")
    rows = RecordReader(source, fields)
    check_engine(engine, address)
    console = Console(quiet=quiet)
    placement = place(console, shard, output)
    _check_output(rows, placement.output)

    from jrtcli.batch import BatchSettings

    settings = BatchSettings(
        model=model,
        revision=revision,
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
        backend=backend,
        weights=weights,
        template=template,
        reads=count,
        most_reads=most,
        fill=fill,
        window=window,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        batch_size=rows_at_once,
    )
    total = placement.total(None if source == "-" else count_lines(source))
    with opened(console, settings, engine=engine, workers=workers, address=address) as answerer:
        take = placement.take(console, answerer.run)
        run = BatchRun(
            console, rows, answerer, placement.output, ordered=ordered, strict=strict, take=take, total=total
        )
        return run.run(about={"model": model, **placement.about()})


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65536:
        raise UsageError(f"--batch-size {text}: give auto, or a number from 1 to 65,536")
    return int(text)


def _check_template(name: str | None) -> None:
    """A wrong name is said before a model is loaded."""
    if name is None:
        return
    import jrt_prompts

    try:
        jrt_prompts.load_template(name)
    except jrt_prompts.TemplateError as error:
        raise TemplateError(str(error)) from None


def _check_output(rows: RecordReader, output: str) -> None:
    if not output:
        raise UsageError("the output has no name: give -o OUT.jsonl, or - for stdout")
    if output == "-":
        try:
            descriptor = sys.stdout.fileno()
        except (OSError, ValueError, AttributeError):  # none of the system's
            return
        if rows.is_file(descriptor):
            raise UsageError(f"{rows.name}: is the output too (stdout): take another file")
        return
    if rows.is_file(output):
        raise UsageError(f"{output}: is the input too: take another output")
    path = Path(output)
    if path.is_dir():
        raise UsageError(f"{output}: is a folder: name a file in it")
    if not path.absolute().parent.is_dir():
        raise JrtError(f"{output}: there is no folder {path.absolute().parent}: make it first")
