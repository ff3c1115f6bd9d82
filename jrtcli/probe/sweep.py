"""All models of a plan, in one process or several, and the file that keeps finished rows."""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import signal
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jrtcli.errors import JrtError, UsageError
from jrtcli.probe.plan import Cell, Plan, cells, settings
from jrtcli.probe.training import Row, train

ROWS, SETTINGS = "rows.jsonl", "settings.json"
PATIENCE_S = 2.0
"""How long to wait for news before looking whether the processes still live."""


@dataclass(frozen=True)
class Step:
    """A model is being trained: `steps` of it are done."""

    cell: Cell
    steps: int
    loss: float


@dataclass(frozen=True)
class Done:
    """A model is trained and tested."""

    cell: Cell
    rows: list[Row]


def sweep(
    plan: Plan, *, skip: Collection[str] = (), jobs: int = 1, device: str = "cpu"
) -> Generator[Step | Done, None, None]:
    """Train every cell whose name is not in `skip`; closing the iterator ends what still runs.

    jobs: processes, each with one thread; 1 trains in this one. Raises JrtError when a process dies.
    """
    todo = [cell for cell in cells(plan) if cell.name not in skip]
    if min(jobs, len(todo)) <= 1:
        for cell in todo:
            yield from _one(plan, cell, device)
        return
    context = multiprocessing.get_context("spawn")
    inbox: Any = context.Queue()
    news: Any = context.Queue()
    # The longest first: no process is left alone with a long one at the end.
    for cell in sorted(todo, key=lambda c: (c.seed, c.reading != "twice")):
        inbox.put(cell)
    workers = [
        context.Process(target=_work, args=(plan, device, inbox, news), daemon=True)
        for _ in range(min(jobs, len(todo)))
    ]
    for _ in workers:
        inbox.put(None)
    for worker in workers:
        worker.start()
    try:
        left = len(todo)
        while left:
            try:
                event = news.get(timeout=PATIENCE_S)
            except queue.Empty:
                if not any(worker.is_alive() for worker in workers):
                    raise JrtError("the training processes died: too little memory? try --jobs 1") from None
                continue
            if isinstance(event, str):
                raise JrtError(event)
            left -= isinstance(event, Done)
            yield event
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


def _one(plan: Plan, cell: Cell, device: str) -> Iterator[Step | Done]:
    training = train(plan, cell, device=device)
    while True:
        try:
            steps, loss = next(training)
        except StopIteration as finished:
            yield Done(cell, finished.value)
            return
        yield Step(cell, steps, loss)


def _work(plan: Plan, device: str, inbox: Any, news: Any) -> None:
    # Ctrl-C reaches every process of a terminal: the first one decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    while (cell := inbox.get()) is not None:
        try:
            for event in _one(plan, cell, device):
                news.put(event)
        except Exception as error:
            news.put(f"{cell.name}: {error}")
            return


class Store:
    """A folder with the rows that are done, one JSON line each, and the settings they were made with."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        """Raises UsageError for a folder with rows of other settings, or one that cannot be made."""
        self.path = folder / ROWS
        ours = settings(plan)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / SETTINGS).exists():
                theirs = json.loads((folder / SETTINGS).read_text())
                differ = sorted(k for k in ours | theirs if ours.get(k) != theirs.get(k))
                if differ:
                    raise UsageError(
                        f"{folder} holds rows made with another {', '.join(differ)}: take another folder"
                    )
            else:
                (folder / SETTINGS).write_text(json.dumps(ours, indent=2) + "\n")
        except (OSError, ValueError) as error:
            raise UsageError(f"--output {folder}: {error}") from None

    def rows(self) -> list[Row]:
        """The rows of models that are done; a line cut short by a kill does not count."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def add(self, rows: list[Row]) -> None:
        """Append the rows of one model in one write."""
        text = "".join(json.dumps(row) + "\n" for row in rows)
        if self.path.exists() and not self.path.read_bytes().endswith(
            (b"\n", b"")[not self.path.stat().st_size]
        ):
            text = "\n" + text
        with self.path.open("a") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def finished(plan: Plan, rows: list[Row]) -> dict[str, list[Row]]:
    """Cell name -> its rows, of the plan's cells that have one for every tested size."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        cell = Cell(row["reading"], row["width"], row["feature_dim"], row["seed"], row["rate"])
        found.setdefault(cell.name, []).append(row)
    wanted = {cell.name for cell in cells(plan)}
    return {name: its for name, its in found.items() if name in wanted and len(its) == len(plan.tested)}
