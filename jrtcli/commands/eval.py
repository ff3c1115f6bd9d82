"""`jrt eval`: recall on the paper's tasks and on files of questions, in several orders of reading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jrtcli.commands import options
from jrtcli.commands.batch_engine import AddressOption, EngineOption, WorkersOption, check_engine
from jrtcli.commands.eval_options import (
    Calibrate,
    Data,
    Fills,
    Folder,
    Lengths,
    Limit,
    Models,
    Paper,
    Reads,
    Scoring,
    Shard,
    Shots,
    Tasks,
    Templates,
    Whole,
)
from jrtcli.commands.eval_run import Rows, Run, Where
from jrtcli.console import Console
from jrtcli.errors import JrtError, UsageError
from jrtcli.fill import WAYS
from jrtcli.tasks import TASKS, load_task
from jrtcli.tasks.qa import qa_task
from jrtcli.tasks.rows import find_rows, missing, task_rows

if TYPE_CHECKING:
    from jrtcli.tasks.task import Task


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
    scoring: Scoring = None,
    data: Data = None,
    output: Folder = None,
    paper: Paper = None,
    calibrate: Calibrate = False,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", min=1, metavar="N", help="Rows at once.")
    ] = None,
    shard: Shard = None,
    workers: WorkersOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    tokenizer: options.Tokenizer = None,
    revision: options.Revision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    weights: options.Weights = "auto",
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
    scoring = scoring or ("v1" if paper is None else "v0")
    if scoring not in ("v0", "v1"):
        raise UsageError(f"no --scoring {scoring!r}: choose v1 or v0")
    fills = _listed(fill)
    if unknown := [each for each in fills if each not in WAYS]:
        raise UsageError(f"no --fill {unknown[0]!r}: choose {', '.join(WAYS)}")
    counts, most = _readings(reads)
    check_engine(engine, address)
    where = Where.of(engine, workers, address, shard, output)
    data = data or []
    choices: dict[str, str | None] = {
        "device": device,
        "dtype": dtype,
        "backend": backend,
        "weights": weights,
    }
    choices |= {"revision": revision, "tokenizer": tokenizer}
    if paper is not None:
        from jrtcli.commands.eval_paper import planned

        if tasks or template or reads or length or no_window or calibrate or shots != "0":
            raise UsageError("--paper has its own tasks, orders and lengths: leave the others out")
        plan = planned(console, paper, model or [], data, limit=limit, choices=choices)
        cells, named, rows, numbers = plan.cells, plan.tasks, plan.rows, plan.numbers
    else:
        from jrtcli.evaluate.grid import cells as grid

        if not tasks:
            raise UsageError(
                f"no task: give one of {', '.join(TASKS)}, or a QA jsonl file. See `jrt eval --help`."
            )
        lengths = _numbers(length, "--length", least=100)
        named, rows = _tasks(tasks, data, limit, lengths[0] if lengths else None)
        if calibrate:
            from jrtcli.commands.eval_calibrate import calibrated

            orders, least = _listed(template or ""), [*(n for n in counts if n > 1), *most]
            if len(orders) > 1 or len(least) > 1 or 1 in counts:
                raise UsageError("--calibrate takes one --template, and one --reads of 2 or more")
            if (engine, workers, where.shard) != ("local", None, None):
                raise UsageError("--calibrate runs in one process: leave --workers, --engine and --shard out")
            return calibrated(
                console,
                model or [options.DEFAULT_MODEL],
                orders[0] if orders else None,
                named,
                rows,
                least[0] if least else None,
                choices,
                output,
                batch_size=batch_size,
                json=json,
            )
        numbers = []
        cells = grid(
            named.values(),
            model or [options.DEFAULT_MODEL],
            orders=None if template is None else _listed(template),
            reads=counts,
            most_reads=most,
            lengths=lengths,
            shots=_numbers(shots, "--shots", least=0),
            fills=fills,
            oracle=not no_window,
        )
    run = Run(cells, named, rows, numbers, scoring, choices, batch_size)
    return run.go(console, output, where, json=json)


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


def _readings(text: str | None) -> tuple[list[int], list[int]]:
    """The numbers of readings, and the most of each `auto`."""
    counts: list[int] = []
    most: list[int] = []
    for part in _listed(text or ""):
        if part.partition(":")[0] == "auto":
            found = options.reads_or_auto(part)[1]
            most += [] if found is None else [found]
        else:
            counts += _numbers(part, "--reads")
    return counts, most
