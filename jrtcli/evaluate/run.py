"""One run over a grid: every cell through the batch engine into its own file, gone on with after a kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from jrtcli.batch import Answerer, BatchSettings
from jrtcli.evaluate.grid import PUBLISHED, Cell
from jrtcli.evaluate.items import Rows, records, shown_rows
from jrtcli.evaluate.results import Result, judge
from jrtcli.manifest import manifest_path, read_manifest, run_hash, write_manifest
from jrtcli.predictions import Predictions, read_predictions
from jrtcli.tasks.task import Task

if TYPE_CHECKING:
    from jrtcli.checkpoint import Loaded
    from jrtcli.records import Record

SAMPLES = "samples"
"""The folder of a run with one file of answers for each cell."""


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
    aside. load: a model by the name that a cell has. Every answer is on the disk before the next one begins
    to count: the same run again does what is missing.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        tasks: Mapping[str, Task],
        rows: Mapping[str, Rows],
        folder: Path,
        *,
        load: Callable[[str], Loaded],
        settings: BatchSettings | None = None,
    ) -> None:
        self.cells, self.tasks, self.rows = cells, tasks, rows
        self.folder, self.load = folder, load
        self.settings = settings or BatchSettings()
        self._loaded: tuple[str, Loaded] | None = None

    def run(self, watch: Watch | None = None) -> list[Result]:
        """Answer what is missing in every cell and return the results of all. Raises as Answerer and
        Predictions."""
        (self.folder / SAMPLES).mkdir(parents=True, exist_ok=True)
        return [self._cell(cell, number, watch) for number, cell in enumerate(self.cells, start=1)]

    def _model(self, name: str) -> Loaded:
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None  # frees the last one before the next is read
            self._loaded = (name, self.load(name))
        return self._loaded[1]

    def _cell(self, cell: Cell, number: int, watch: Watch | None) -> Result:
        task, loaded = self.tasks[cell.task], self._model(cell.model)
        rows = self.rows[cell.task]
        shown = shown_rows(task, rows, cell, loaded.tokenizer)
        items = records(task, shown, cell) if shown else []
        answerer = self._answerer(cell, loaded)
        path = self.folder / SAMPLES / f"{cell.stem}.jsonl"
        before = _facts(path)
        with Predictions(path, answerer.run, about=before) as predictions:
            missing = [r for r in predictions.remaining(items)]
            facts = before
            started = time.perf_counter()
            done = tokens = 0
            try:
                for row in answerer.answer(missing):
                    predictions.write(row)
                    done += 1
                    tokens += row.get("tokens", {}).get("answer", 0)
                    if watch is not None:
                        seconds = time.perf_counter() - started
                        speed = (answerer.tokens_read + tokens) / seconds if seconds > 1 else None
                        watch(
                            Seen(
                                cell,
                                number,
                                len(self.cells),
                                len(items) - len(missing) + done,
                                len(items),
                                speed,
                            )
                        )
            finally:
                if done:
                    facts = {
                        "timed_s": before.get("timed_s", 0.0) + time.perf_counter() - started,
                        "timed_tokens": before.get("timed_tokens", 0) + answerer.tokens_read + tokens,
                        "state_bytes": before.get("state_bytes"),
                    }
                    write_manifest(path, answerer.run, facts)
            predictions.finish(ordered=True)
        result = judge(cell, items, read_predictions(path), dropped=len(rows) - len(items), facts=facts)
        if facts.get("state_bytes") is None and result.count:
            facts = {**facts, "state_bytes": state_bytes(loaded, round(result.prompt_tokens))}
            write_manifest(path, answerer.run, facts)
            result = replace(result, state_bytes=facts["state_bytes"])
        return replace(result, parameters=loaded.identity.parameters, context_tokens=loaded.context_tokens)

    def _answerer(self, cell: Cell, loaded: Loaded) -> Answerer:
        written = cell.order in PUBLISHED
        settings = replace(
            self.settings,
            model=cell.model,
            template="cq" if written else cell.order,
            reads=None if written else cell.reads,
            fill=cell.fill,
            # A document that was cut to a length is read whole.
            window=0 if cell.length_tokens is not None else self.settings.window,
        )
        answerer = Answerer(settings, loaded=loaded)
        run: dict[str, Any] = {
            **answerer.run,
            "task": cell.task,
            "order": cell.order,
            "length_tokens": cell.length_tokens,
            "oracle": cell.oracle,
            "shots": cell.shots,
        }
        # Its rows say of which cell they are.
        answerer.run, answerer.run_hash = run, run_hash(run)
        return answerer


def _facts(path: Path) -> dict[str, Any]:
    manifest = read_manifest(path) if manifest_path(path).exists() else None
    names = ("timed_s", "timed_tokens", "state_bytes")
    return {} if manifest is None else {name: manifest[name] for name in names if name in manifest}


def state_bytes(loaded: Loaded, tokens: int) -> int:
    """Bytes of what the model remembers after so many tokens, measured on any tokens at all."""
    device = next(loaded.model.parameters()).device
    with torch.inference_mode():
        _, state = loaded.model.prefill(torch.zeros((1, max(1, tokens)), dtype=torch.long, device=device))
    return int(state.nbytes)


def pending(items: Sequence[Record], path: Path) -> int:
    """How many of a cell's items its file has no answer of."""
    if not path.exists():
        return len(items)
    answered = {row["jrt"]["row"] for row in read_predictions(path) if "error" not in row}
    return sum(item.key not in answered for item in items)
