"""A run of `jrt eval`: where it is answered, how far it is, and what is said of it in the end."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jrtcli.commands.batch_engine import opened
from jrtcli.console import Console, Progress
from jrtcli.errors import EXIT_SOME_ROWS_FAILED, JrtError, UsageError
from jrtcli.shards import Shard, parse_shard, shard_of

if TYPE_CHECKING:
    from jrtcli.evaluate.engine import CellSettings, Engine
    from jrtcli.evaluate.grid import Cell
    from jrtcli.evaluate.results import Result
    from jrtcli.evaluate.run import Seen
    from jrtcli.tasks.task import Task

Rows = dict[str, Sequence[tuple[dict[str, Any], str]]]

PLAIN_EVERY_S = 10.0
"""Seconds between the lines of progress where stderr is no terminal."""


@dataclass(frozen=True)
class Where:
    """What answers the rows, and which of them: the options of several processes and machines."""

    engine: str = "local"
    workers: str | None = None
    address: str | None = None
    shard: Shard | None = None

    @classmethod
    def of(
        cls, engine: str, workers: str | None, address: str | None, shard: str | None, output: Path | None
    ) -> Where:
        """From the options, the shard also from a scheduler. Raises UsageError."""
        found = (parse_shard(shard), "--shard") if shard is not None else shard_of(os.environ)
        if found is not None and output is None:
            raise UsageError(f"shard {found[0]} ({found[1]}): give -o DIR, where its answers are kept")
        return cls(engine, workers, address, None if found is None else found[0])


@dataclass(frozen=True)
class Run:
    """What is run: the cells, their tasks and rows, the numbers of a paper's table beside them; the scoring,
    the choices of machine and checkpoint, rows at once."""

    cells: Sequence[Cell]
    tasks: dict[str, Task]
    rows: Rows
    numbers: Sequence[Any]
    scoring: str
    choices: dict[str, Any]
    batch_size: int | None

    def go(self, console: Console, output: Path | None, where: Where, *, json: bool) -> int:
        """Run it and show what came out. Returns the exit code."""
        from jrtcli.batch import BatchSettings
        from jrtcli.checkpoint import locate
        from jrtcli.commands.eval_show import save, show
        from jrtcli.evaluate.engine import ANSWERER
        from jrtcli.evaluate.results import differences
        from jrtcli.evaluate.run import Evaluation

        def open_engine(settings: CellSettings) -> AbstractContextManager[Engine]:
            return opened(
                console,
                settings,
                engine=where.engine,
                workers=where.workers,
                address=where.address,
                answerer=ANSWERER,
            )

        source = {name: self.choices[name] for name in ("revision", "tokenizer")}
        with _folder(output) as folder:
            evaluation = Evaluation(
                self.cells,
                self.tasks,
                self.rows,
                folder,
                open=open_engine,
                tokenizer=lambda name: locate(name, weights=False, **source).tokenizer,
                settings=BatchSettings(batch_size=self.batch_size, **self.choices),
                shard=where.shard,
            )
            try:
                with console.progress("answered", unit="rows", every_s=PLAIN_EVERY_S) as bar:
                    results = evaluation.run(_watch(bar))
            except KeyboardInterrupt:
                if output is not None:
                    console.note(f"interrupted: the same command goes on with {output}", style="yellow")
                raise
            compared = differences(results, self.scoring)
            lines = [number.line(results, self.scoring) for number in self.numbers]
            if output is not None and where.shard is None:
                command = shlex.join(["jrt", *sys.argv[1:]])
                save(folder, results, compared, lines, scoring=self.scoring, command=command, date=None)
            show(console, results, compared, lines, scoring=self.scoring, json=json)
        _say_dropped(console, results)
        if where.shard is not None:
            console.note(
                f"shard {where.shard}: its answers are in {output}/samples; when all are done, the same"
                " command without --shard puts them together"
            )
        elif output is not None:
            console.note(f"{output / 'report.html'}, results.json, results.csv, samples/")
        if failed := sum(result.failed for result in results):
            console.warn(f"{failed:,} rows failed; their errors stand in the samples")
        return EXIT_SOME_ROWS_FAILED if failed else 0


def _say_dropped(console: Console, results: Sequence[Result]) -> None:
    for result in results:
        if result.dropped:
            said = "rows are" if result.dropped > 1 else "row is"
            cell = result.cell
            console.note(
                f"{cell.task} {cell.reading}, {cell.model_name}: {result.dropped:,} {said} left out: no gold,"
                " or one of a single character, which the oracle window drops as published"
            )


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
