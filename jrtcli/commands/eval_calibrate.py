"""`jrt eval --calibrate`: the margin from which an answer needs no second reading, for `--reads auto`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jrtcli.commands.ask import load
from jrtcli.console import Console
from jrtcli.tasks.task import Row, Task

if TYPE_CHECKING:
    from jrtcli.calibration import Point

COLUMNS = ("model", "template", "reading", "rows", "recall", "tokens a row", "read again")


def calibrated(
    console: Console,
    models: Sequence[str],
    template: str | None,
    tasks: Mapping[str, Task],
    rows: Mapping[str, Sequence[tuple[Row, str]]],
    most: int | None,
    choices: Mapping[str, Any],
    *,
    json: bool,
) -> int:
    """Find and keep a threshold for each model on all rows together, and show what it gives.

    template: None, the model's own. most: readings at the most. Raises as jrtcli.calibration.calibrate.
    """
    from jrtcli.calibration import calibrate, keep
    from jrtcli.reader import Reader
    from jrtcli.rereading import MOST_READS

    asked = [
        (task.document(row), task.question(row), task.golds(row))
        for name, task in tasks.items()
        for row, _ in rows[name]
    ]
    shown: list[list[str]] = []
    plain = []
    for model in models:
        loaded = load(console, model, **choices)
        reader = Reader(loaded, template=template, window=0)
        with console.progress(f"calibrating {model}", len(asked), unit="rows", every_s=10.0) as bar:
            found, _ = calibrate(reader, asked, most=most or MOST_READS, on_row=bar.update)
        console.note(f"{model}: threshold {found.threshold:.3g}, kept in {keep(reader, found)}")
        name = loaded.identity.name
        for what, point in (("once", found.once), ("auto", found.auto), (f"x{found.reads}", found.most)):
            shown.append([name, found.template, what, f"{found.rows:,}", *_words(point)])
        plain.append({"model": model, **asdict(found)})
    if json:
        console.json(plain)
    else:
        console.table(COLUMNS, shown)
    return 0


def _words(point: Point) -> list[str]:
    return [f"{point.recall:.1%}", f"{point.tokens:,.0f}", f"{point.again:.0%}"]
