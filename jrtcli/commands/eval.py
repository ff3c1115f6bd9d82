"""`jrt eval`: recall on the paper's tasks and on files of questions, in several orders of reading."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jrtcli.commands import options
from jrtcli.console import Console, Progress
from jrtcli.errors import EXIT_SOME_ROWS_FAILED, JrtError, UsageError
from jrtcli.fill import WAYS
from jrtcli.tasks import TASKS, load_task
from jrtcli.tasks.qa import qa_task
from jrtcli.tasks.rows import find_rows, missing, task_rows

if TYPE_CHECKING:
    from jrtcli.evaluate.grid import Cell
    from jrtcli.evaluate.run import Seen
    from jrtcli.tasks.task import Task

Rows = dict[str, Sequence[tuple[dict[str, Any], str]]]

PLAIN_EVERY_S = 10.0
"""Seconds between the lines of progress where stderr is no terminal."""

_GRID = "What is compared"

Tasks = Annotated[
    list[str] | None,
    typer.Argument(metavar="TASK...", help=f"{', '.join(TASKS)}; or a QA jsonl file.", show_default=False),
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="A model; repeat for several. Default: tiny.", metavar="NAME"),
]
Templates = Annotated[
    str | None,
    typer.Option(
        "--template",
        "-t",
        metavar="A,B",
        help="once, twice (the task's own prompts), or templates. Default: once,twice; for a file cq,cqcq.",
        rich_help_panel=_GRID,
    ),
]
Reads = Annotated[
    str | None,
    typer.Option("--reads", "-n", metavar="1,2", help="Readings of templates.", rich_help_panel=_GRID),
]
Shots = Annotated[
    str, typer.Option("--shots", metavar="0,2", help="Examples in front.", rich_help_panel=_GRID)
]
Lengths = Annotated[
    str | None,
    typer.Option(
        "--length",
        metavar="512,1000",
        help="Tokens of the cut document and its answer. Default: 1000; a file's are whole.",
        rich_help_panel=_GRID,
    ),
]
Fills = Annotated[
    str,
    typer.Option(
        "--fill", metavar="A,B", help=f"JRT-RNN, short prompts: {', '.join(WAYS)}.", rich_help_panel=_GRID
    ),
]
Whole = Annotated[
    bool,
    typer.Option(
        "--no-window",
        help="No oracle window around the answer: whole documents, or with --length their beginning.",
        rich_help_panel=_GRID,
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N rows.")]
Scoring = Annotated[str, typer.Option("--scoring", help="v1, or v0: golds keep their blanks (the paper).")]
Data = Annotated[
    list[str] | None,
    typer.Option("--data", metavar="PATH", help="Rows: FILE, TASK=FILE, or a folder with TASK.jsonl."),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="DIR", help="Samples, JSON, CSV, HTML; gone on with after a kill."
    ),
]
Paper = Annotated[
    str | None,
    typer.Option("--paper", metavar="TABLE", help="Fill in table1, table2, table4 or table14 of the paper."),
]


def eval_(
    tasks: Tasks = None,
    model: Models = None,
    template: Templates = None,
    reads: Reads = None,
    shots: Shots = "0",
    length: Lengths = None,
    fill: Fills = "twice",
    no_window: Whole = False,
    limit: Limit = None,
    scoring: Scoring = "v1",
    data: Data = None,
    output: Folder = None,
    paper: Paper = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", "-b", min=1, metavar="N")] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    tokenizer: options.Tokenizer = None,
    revision: options.Revision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    backend: options.Backend = "auto",
) -> int:
    """Measure recall, once and twice.

    Every model answers every task in every order of reading. Printed: the share of answers that contain a
    gold answer, exact matches and F1 with standard errors, how answers went wrong, and the differences
    between orders on the same questions. With -o DIR the run can be killed and gone on with by the same
    command; DIR then has every answer, results.json, results.csv and report.html.

    `jrt eval perplexity` measures perplexity.
    """
    console = Console(quiet=quiet)
    if scoring not in ("v0", "v1"):
        raise UsageError(f"no --scoring {scoring!r}: choose v1 or v0")
    fills = _listed(fill)
    if unknown := [each for each in fills if each not in WAYS]:
        raise UsageError(f"no --fill {unknown[0]!r}: choose {', '.join(WAYS)}")
    data = data or []
    choices = {"device": device, "dtype": dtype, "backend": backend, "revision": revision}
    choices["tokenizer"] = tokenizer
    if paper is not None:
        from jrtcli.commands.eval_paper import planned

        if tasks or template or reads or length or no_window or shots != "0":
            raise UsageError("--paper has its own tasks, orders and lengths: leave the others out")
        plan = planned(console, paper, model or [], data, limit=limit, device=device)
        cells, named, rows, numbers = plan.cells, plan.tasks, plan.rows, plan.numbers
    else:
        from jrtcli.evaluate.grid import cells as grid

        if not tasks:
            raise UsageError(
                f"no task: give one of {', '.join(TASKS)}, or a QA jsonl file. See `jrt eval --help`."
            )
        lengths = _numbers(length, "--length", least=100)
        named, rows = _tasks(tasks, data, limit, lengths[0] if lengths else None)
        numbers = []
        cells = grid(
            named.values(),
            model or [options.DEFAULT_MODEL],
            orders=None if template is None else _listed(template),
            reads=_numbers(reads, "--reads"),
            lengths=lengths,
            shots=_numbers(shots, "--shots", least=0),
            fills=fills,
            oracle=not no_window,
        )
    return _run(console, cells, named, rows, numbers, output, scoring, choices, batch_size, json)


def _tasks(
    names: Sequence[str], data: Sequence[str], limit: int | None, length: int | None
) -> tuple[dict[str, Task], Rows]:
    """The tasks that are named, and their rows. Raises UsageError, JrtError where rows are missing."""
    tasks: dict[str, Task] = {}
    rows: Rows = {}
    for name in dict.fromkeys(names):
        if name in TASKS:
            task, path = load_task(name), find_rows(name, data)
            if path is None:
                raise JrtError(missing(task, length))
        else:
            path = Path(name)
            if not path.is_file():
                raise UsageError(f"no task {name!r}: choose {', '.join(TASKS)}, or give a QA jsonl file")
            task = qa_task(_file_task(path, tasks))
        tasks[task.name] = task
        rows[task.name] = task_rows(task, path, limit)
    return tasks, rows


def _file_task(path: Path, taken: dict[str, Task]) -> str:
    """The name of a file's task: its folder's, where the file is only called eval or the like."""
    stem = path.name.partition(".")[0]
    name = stem
    if "eval" in stem or stem in ("validation", "test", "dev"):
        name = path.absolute().parent.name
    number, unlike = 2, name
    while unlike in taken:
        unlike, number = f"{name}-{number}", number + 1
    return unlike


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str | None, option: str, least: int = 1) -> list[int]:
    if text is None:
        return []
    found = []
    for part in _listed(text):
        if not part.isascii() or not part.isdigit() or not least <= int(part) <= 10**6:
            raise UsageError(f"{option} {text}: give whole numbers from {least}, with commas between")
        found.append(int(part))
    return found


def _run(
    console: Console,
    cells: Sequence[Cell],
    tasks: dict[str, Task],
    rows: Rows,
    numbers: Sequence[Any],
    output: Path | None,
    scoring: str,
    choices: dict[str, Any],
    batch_size: int | None,
    json: bool,
) -> int:
    from jrtcli.batch import BatchSettings
    from jrtcli.commands.ask import load
    from jrtcli.commands.eval_show import save, show
    from jrtcli.evaluate.results import differences
    from jrtcli.evaluate.run import Evaluation

    with _folder(output) as folder:
        evaluation = Evaluation(
            cells,
            tasks,
            rows,
            folder,
            load=lambda name: load(console, name, **choices),
            settings=BatchSettings(batch_size=batch_size, **choices),
        )
        try:
            with console.progress("answered", unit="rows", every_s=PLAIN_EVERY_S) as bar:
                results = evaluation.run(_watch(bar))
        except KeyboardInterrupt:
            if output is not None:
                console.note(f"interrupted: the same command goes on with {output}", style="yellow")
            raise
        compared = differences(results, scoring)
        lines = [number.line(results, scoring) for number in numbers]
        if output is not None:
            save(folder, results, compared, lines, scoring=scoring, command=_command(), date=None)
        show(console, results, compared, lines, scoring=scoring, json=json)
    if output is not None:
        console.note(f"{output / 'report.html'}, results.json, results.csv, samples/")
    if failed := sum(result.failed for result in results):
        console.warn(f"{failed:,} rows failed; their errors stand in the samples")
    return EXIT_SOME_ROWS_FAILED if failed else 0


@contextmanager
def _folder(output: Path | None) -> Iterator[Path]:
    if output is None:
        with tempfile.TemporaryDirectory(prefix="jrt-eval-") as made:
            yield Path(made)
        return
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: is a file: name a folder with -o")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JrtError(f"{output}: cannot be made: {error.strerror or error}") from None
    yield output


def _watch(bar: Progress) -> Any:
    def watch(seen: Seen) -> None:
        cell = seen.cell
        what = f"{cell.task} {cell.reading}, {cell.model_name} ({seen.number} of {seen.cells})"
        speed = {} if seen.tokens_per_s is None else {"tokens/s": f"{seen.tokens_per_s:,.0f}"}
        if bar.description != what:
            bar.description, bar.first = what, None
        bar.update(seen.done, seen.rows, **speed)

    return watch


def _command() -> str:
    return shlex.join(["jrt", *sys.argv[1:]])
