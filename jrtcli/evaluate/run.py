"""One run over a grid: every cell through the batch engine into its own file, gone on with after a kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jrtcli.batch import BatchSettings
from jrtcli.evaluate.engine import Engine, Opening, settings_of
from jrtcli.evaluate.grid import Cell
from jrtcli.evaluate.items import Rows, records, shown_rows
from jrtcli.evaluate.results import Result, judge
from jrtcli.manifest import manifest_path, read_manifest, run_hash, write_manifest
from jrtcli.merge import merge
from jrtcli.predictions import Predictions, read_predictions
from jrtcli.shards import Elsewhere, Shard, outputs
from jrtcli.tasks.task import Task

if TYPE_CHECKING:
    from jrtcli.tokens import Tokenizer

SAMPLES = "samples"
"""The folder of a run with one file of answers for each cell, or one for each shard of it."""


@dataclass(frozen=True)
class Seen:
    """How far a run is: the cell, its number of `cells`, and rows done of all its rows."""

    cell: Cell
    number: int
    cells: int
    done: int
    rows: int
    tokens_per_s: float | None


Watch = Callable[[Seen], None]


class Evaluation:
    """A run over `cells` into `folder`.

    tasks: those of the cells by name; rows: of each task. settings: of the batch engine, model and order
    aside. open: makes the engine of a model; tokenizer: that of a model by its name. shard: only its rows,
    into files of their own, which a run without one takes over. Every answer is on the disk before the next
    one begins to count: the same run again does what is missing.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        tasks: Mapping[str, Task],
        rows: Mapping[str, Rows],
        folder: Path,
        *,
        open: Opening,
        tokenizer: Callable[[str], Tokenizer],
        settings: BatchSettings | None = None,
        shard: Shard | None = None,
    ) -> None:
        self.cells, self.tasks, self.rows = cells, tasks, rows
        self.folder, self.open, self.tokenizer, self.shard = folder, open, tokenizer, shard
        self.settings = settings or BatchSettings()

    def run(self, watch: Watch | None = None) -> list[Result]:
        """Answer what is missing in every cell and return the results of all. Raises as Answerer, Predictions
        and, for the files of shards, jrtcli.merge.merge."""
        (self.folder / SAMPLES).mkdir(parents=True, exist_ok=True)
        results: list[Result] = []
        for model, group in groupby(self.cells, key=lambda cell: cell.model):
            cells = list(group)
            tokenizer = self.tokenizer(model)
            with self.open(settings_of(cells, self.settings)) as engine:
                for number, cell in enumerate(cells):
                    say = _sayer(watch, cell, len(results) + 1, len(self.cells))
                    result = self._cell(cell, number, engine, tokenizer, say)
                    facts = {name: engine.run[name] for name in ("parameters", "context_tokens")}
                    results.append(replace(result, **facts))
        return results

    def _cell(
        self, cell: Cell, number: int, engine: Engine, tokenizer: Tokenizer, say: Callable[..., None]
    ) -> Result:
        task, rows = self.tasks[cell.task], self.rows[cell.task]
        shown = shown_rows(task, rows, cell, tokenizer)
        items = records(task, shown, cell, number) if shown else []
        dropped = len(rows) - len(items)
        run = engine.run["cells"][number]
        whole = self.folder / SAMPLES / f"{cell.stem}.jsonl"
        path = whole if self.shard is None else self.shard.path(whole)
        facts = _facts(path)
        parts = [part for part in outputs(whole) if part != whole] if self.shard is None else []
        if parts:
            merge(whole, partial=True)
        with Predictions(path, run, about=facts) as predictions:
            missing: Iterable[Any] = items
            if self.shard is not None:
                items = [item for item in items if self.shard.has(item.number)]
                missing = Elsewhere(whole, self.shard, run).remaining(items)
            missing = list(predictions.remaining(missing))
            timing = _Timing(engine)
            say(len(items) - len(missing), len(items), None)
            try:
                for row in engine.answer(missing):
                    # A row that took its worker with it comes from the processes around the cells.
                    predictions.write(row | {"jrt": row["jrt"] | {"run": run_hash(run)}})
                    timing.add(row)
                    say(len(items) - len(missing) + timing.rows, len(items), timing.tokens_per_s)
            finally:
                if timing.rows:
                    facts = timing.after(facts)
                    write_manifest(path, run, facts)
            predictions.finish(ordered=True)
        every = [facts, *map(_facts, parts)]
        summed = {name: sum(each.get(name, 0) for each in every) for name in _FACTS}
        return judge(cell, items, read_predictions(path), dropped=dropped, facts=summed)


class _Timing:
    """What the rows of a cell took, from now on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._before, self._started = engine.tokens_read, time.perf_counter()
        self._said = self.rows = 0

    def add(self, row: Mapping[str, Any]) -> None:
        self.rows += 1
        self._said += row.get("tokens", {}).get("answer", 0)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started

    @property
    def tokens(self) -> int:
        return self._engine.tokens_read - self._before + self._said

    @property
    def tokens_per_s(self) -> float | None:
        """None as long as it says little."""
        return self.tokens / self.seconds if self.seconds > 1 else None

    def after(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The facts of the run with these."""
        return {
            "timed_s": facts.get("timed_s", 0.0) + self.seconds,
            "timed_tokens": facts.get("timed_tokens", 0) + self.tokens,
        }


_FACTS = ("timed_s", "timed_tokens")


def _facts(path: Path) -> dict[str, Any]:
    manifest = read_manifest(path) if manifest_path(path).exists() else None
    return {} if manifest is None else {name: manifest[name] for name in _FACTS if name in manifest}


def _sayer(watch: Watch | None, cell: Cell, number: int, cells: int) -> Callable[..., None]:
    def say(done: int, rows: int, speed: float | None) -> None:
        if watch is not None:
            watch(Seen(cell, number, cells, done, rows, speed))

    return say
