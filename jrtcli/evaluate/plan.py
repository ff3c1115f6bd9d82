"""What filling in a published table would take: which checkpoints and rows are here, and about how long."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from jrtcli.errors import UsageError
from jrtcli.evaluate.grid import Cell
from jrtcli.evaluate.paper import ITEMS, MEAN_TOKENS, Printed
from jrtcli.known import find, folder_here
from jrtcli.tasks.task import TWICE, Task

_EFFICIENCY = 0.3
"""Of a plain matrix product's speed that reading a prompt comes to, by experience."""


@dataclass(frozen=True)
class Stand:
    """A row of a table. source: the checkpoint that makes it here; None: it would be downloaded, so many
    bytes. parameters: of the model."""

    model: str
    source: str | None
    hub_id: str
    size_bytes: int
    parameters: int


def stands(numbers: Sequence[Printed], models: Sequence[str]) -> list[Stand]:
    """The rows of a table. models: those that the user wants, by name, or ROW=FOLDER for a checkpoint that
    stands for a row; a folder named like a row stands for it. None: every row.

    Raises UsageError for a model that makes no row of this table.
    """
    rows = list(dict.fromkeys(number.model for number in numbers))
    wanted: dict[str, str] = {}
    for given in models:
        row, equals, source = given.partition("=")
        known = find(given)
        if equals and not Path(given).exists():
            name = row.lower()
        elif known is not None:
            name, source = known.name, given
        else:
            name, source = Path(given).resolve().name.lower(), given
        if name not in rows:
            raise UsageError(
                f"--model {given}: no row of this table; give one of {', '.join(rows)},"
                " or ROW=FOLDER for a checkpoint that stands for one"
            )
        wanted[name] = source
    made = []
    for row in rows:
        if wanted and row not in wanted:
            continue
        entry = find(row)
        hub_id, size, parameters = (
            (entry.hub_id, entry.size_bytes, entry.parameters) if entry is not None else (row, 0, 0)
        )
        source_here = wanted.get(row, "")
        if Path(source_here).is_dir() and source_here:
            made.append(Stand(row, source_here, hub_id, 0, parameters))
            continue
        here = entry is not None and folder_here(entry) is not None
        made.append(Stand(row, row if here else None, hub_id, 0 if here else size, parameters))
    return made


def tokens_of(cell: Cell, task: Task, rows: int | None) -> float:
    """About how many tokens a cell reads: its rows, or those of the published data, times its prompt."""
    count = ITEMS[task.name] if rows is None else rows
    document = min(MEAN_TOKENS[task.name], (cell.length_tokens or 1000) - 50)
    return count * (document * (2 if cell.order == TWICE else 1) * (1 + cell.shots) + 48)


def multiplications_per_s(device: str = "cpu", size: int = 768) -> float:
    """Of this machine, measured for about a tenth of a second on a matrix product."""
    x = torch.randn(size, size, device=device)
    x @ x
    done, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < 0.1:
        (x @ x)[0, 0].item()
        done += 1
    return done * size**3 / seconds


def seconds_of(tokens: float, parameters: int, speed: float) -> float:
    """About how long a model of so many parameters reads so many tokens; speed: multiplications a second."""
    return tokens * parameters / (speed * _EFFICIENCY)


def rows_here(rows: Mapping[str, Sequence[object]], task: str) -> int | None:
    """The number of a task's rows; None where they are not here."""
    return len(rows[task]) if task in rows else None
