"""`jrt eval --calibrate`: the margin from which an answer needs no second reading, for `--reads auto`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jrtcli.commands.ask import load
from jrtcli.console import Console
from jrtcli.errors import JrtError, UsageError
from jrtcli.tasks.task import Row, Task

if TYPE_CHECKING:
    from jrtcli.calibration import Calibration, Point

COLUMNS = ("model", "template", "reading", "rows", "recall", "tokens a row", "read again")
CURVE = ("model", "threshold", "recall", "tokens a row", "read again")


def calibrated(
    console: Console,
    models: Sequence[str],
    template: str | None,
    tasks: Mapping[str, Task],
    rows: Mapping[str, Sequence[tuple[Row, str]]],
    most: int | None,
    choices: Mapping[str, Any],
    output: Path | None,
    *,
    batch_size: int | None,
    json: bool,
) -> int:
    """Find and keep a threshold for each model on all rows together, and show what it gives.

    template: None, the model's own. most: readings at the most. output: a folder for the curve of each model,
    as CSV and SVG. Raises as jrtcli.calibration.calibrate.
    """
    from jrtcli.calibration import calibrate, curve, keep
    from jrtcli.reader import Reader
    from jrtcli.reread_curve import thinned
    from jrtcli.rereading import MOST_READS

    if output is not None and output.exists() and not output.is_dir():
        raise UsageError(f"{output}: is a file: name a folder with -o")
    asked = [
        (task.document(row), task.question(row), task.golds(row))
        for name, task in tasks.items()
        for row, _ in rows[name]
    ]
    shown: list[list[str]] = []
    curves: list[list[str]] = []
    plain = []
    for model in models:
        loaded = load(console, model, **choices)
        reader = Reader(loaded, template=template, window=0)
        with console.progress(f"calibrating {model}", len(asked), unit="rows", every_s=10.0) as bar:
            found, samples = calibrate(
                reader, asked, most=most or MOST_READS, batch_size=batch_size, on_row=bar.update
            )
        console.note(f"{model}: threshold {found.threshold:.3g}, kept in {keep(reader, found)}")
        name = loaded.identity.name
        for what, point in (("once", found.once), ("auto", found.auto), (f"x{found.reads}", found.most)):
            shown.append([name, found.template, what, f"{found.rows:,}", *_words(point)])
        points = curve(samples)
        curves += [[name, f"{point.threshold:.3f}", *_words(point)] for point in thinned(points)]
        plain.append({"model": model, **asdict(found), "curve": [asdict(point) for point in points]})
        if output is not None:
            _save(console, output, name, found, points)
    if json:
        console.json(plain)
        return 0
    console.table(COLUMNS, shown)
    console.out()
    console.table(CURVE, curves)
    console.note("on the rows that the threshold was found on; recall is contains")
    return 0


def _save(console: Console, folder: Path, model: str, found: Calibration, points: Sequence[Point]) -> None:
    from jrtcli.reread_curve import csv_text, svg

    title = f"{model}, {found.template}: recall over tokens read, {found.rows:,} questions"
    figure = svg(points, found.auto, rows=found.rows, reads=found.reads, title=title)
    stem = f"reread-{model}-{found.template}"
    for name, text in ((f"{stem}.csv", csv_text(points)), (f"{stem}.svg", figure)):
        path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise JrtError(f"{path}: cannot be written: {error.strerror or error}") from None
        console.note(str(path))


def _words(point: Point) -> list[str]:
    return [f"{point.recall:.1%}", f"{point.tokens:,.0f}", f"{point.again:.0%}"]
