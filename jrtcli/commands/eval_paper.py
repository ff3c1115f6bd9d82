"""`jrt eval --paper`: what of a published table can be filled in here, said before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jrtcli.checkpoint import load as load_checkpoint
from jrtcli.checkpoint import locate
from jrtcli.console import Console
from jrtcli.errors import JrtError
from jrtcli.evaluate.grid import Cell
from jrtcli.evaluate.paper import TABLES, Printed, printed
from jrtcli.evaluate.plan import Stand, pace_of, stands, weights_bytes, work_of
from jrtcli.evaluate.results import Result
from jrtcli.evaluate.tables import PaperLine
from jrtcli.tasks import load_task
from jrtcli.tasks.rows import find_rows, missing, task_rows
from jrtcli.tasks.task import Task


@dataclass(frozen=True)
class Number:
    """A printed number and the cell that makes it here; None: it cannot be made."""

    printed: Printed
    cell: Cell | None

    def line(self, results: Sequence[Result], scoring: str) -> PaperLine:
        """The number beside what came out."""
        cell = self.printed.cell
        result = next((r for r in results if self.cell is not None and r.cell == self.cell), None)
        score = None if result is None else result.score(scoring)
        return PaperLine(
            self.printed.model,
            cell.task,
            cell.reading,
            cell.length_tokens,
            self.printed.percent,
            result,
            score,
        )


@dataclass(frozen=True)
class Plan:
    """What is run: the cells that can be made, their tasks and rows, and every number of the table."""

    cells: list[Cell]
    tasks: dict[str, Task]
    rows: dict[str, Sequence[tuple[dict[str, Any], str]]]
    numbers: list[Number]


def planned(
    console: Console,
    table: str,
    models: Sequence[str],
    data: Sequence[str],
    *,
    limit: int | None,
    choices: Mapping[str, Any],
) -> Plan:
    """Find what is here and say what is not, and how long it takes. Raises JrtError where nothing is."""
    numbers = printed(table)
    chosen = stands(numbers, models)
    numbers = [number for number in numbers if number.model in {stand.model for stand in chosen}]
    tasks = {name: load_task(name) for name in dict.fromkeys(number.cell.task for number in numbers)}
    rows: dict[str, Sequence[tuple[dict[str, Any], str]]] = {}
    console.note(f"{table}: {TABLES[table]}")
    for name, task in tasks.items():
        path = find_rows(name, data)
        if path is None:
            length = next(n.cell.length_tokens for n in numbers if n.cell.task == name)
            console.note(missing(task, length))
        else:
            rows[name] = task_rows(task, path, limit)
    here = {stand.model: stand for stand in chosen if stand.source is not None}
    _say_downloads(console, chosen)
    found = [
        Number(
            number,
            replace(number.cell, model=str(here[number.model].source))
            if number.model in here and number.cell.task in rows
            else None,
        )
        for number in numbers
    ]
    cells = [number.cell for number in found if number.cell is not None]
    if not cells:
        raise JrtError(
            f"--paper {table}: nothing of it can be run here: bring the rows (--data FOLDER) and a checkpoint"
            " (--model ROW=FOLDER), or download one with `jrt ask --model NAME`"
        )
    _say_time(console, cells, tasks, rows, choices)
    return Plan(cells, {name: tasks[name] for name in rows}, rows, found)


def _say_downloads(console: Console, chosen: Sequence[Stand]) -> None:
    absent = [stand for stand in chosen if stand.source is None]
    if not absent:
        return
    size = sum(stand.size_bytes for stand in absent) / 1e9
    names = ", ".join(f"{stand.hub_id} ({stand.size_bytes / 1e9:.1f} GB)" for stand in absent)
    console.note(f"not here, and not downloaded by this command, {size:.1f} GB: {names}")


def _say_time(
    console: Console,
    cells: Sequence[Cell],
    tasks: dict[str, Task],
    rows: dict[str, Sequence[tuple[dict[str, Any], str]]],
    choices: Mapping[str, Any],
) -> None:
    """About how long the run takes here: the smallest of its models is loaded and measured."""
    sizes = {}
    for model in dict.fromkeys(cell.model for cell in cells):
        sizes[model] = weights_bytes(locate(model, revision=choices["revision"]).folder) or 1
    smallest = min(sizes, key=sizes.__getitem__)
    with console.status(f"measuring {smallest}"):
        pace = pace_of(load_checkpoint(smallest, **choices))
    seconds = sum(
        work_of(cell, tasks[cell.task], rows[cell.task]).seconds(pace, sizes[cell.model] / sizes[smallest])
        for cell in cells
    )
    others = "; the other models by the size of their weights" if len(sizes) > 1 else ""
    console.note(
        f"{len(cells)} cells to run, about {_clock(seconds)} on this machine: {Path(smallest).name} reads"
        f" {pace.read_tokens_per_s:,.0f} tokens/s and says {pace.said_tokens_per_s:,.0f}, measured{others}"
    )


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
