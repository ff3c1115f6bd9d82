"""What `jrt eval` shows and leaves behind: tables on the terminal, JSON, CSV and the HTML page."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from jrtcli.console import Console, dumps
from jrtcli.errors import JrtError
from jrtcli.evaluate.modes import MODES
from jrtcli.evaluate.page import page
from jrtcli.evaluate.results import Compared, Result
from jrtcli.evaluate.tables import (
    DIFFERENCE_COLUMNS,
    PAPER_COLUMNS,
    PaperLine,
    csv_text,
    difference_rows,
    paper_rows,
    result_table,
    values,
    window_words,
)

_NARROW = (*reversed(MODES), "tokens read", "tokens/s", "F1", "exact")
_NARROW_DIFFERENCES = ("only second", "only first", "length", "rows")


def show(
    console: Console,
    results: Sequence[Result],
    compared: Sequence[Compared],
    lines: Sequence[PaperLine],
    *,
    scoring: str,
    json: bool,
) -> None:
    """The tables on stdout, or one JSON value."""
    if json:
        console.json(_plain(results, compared, lines, scoring))
        return
    if lines:
        console.table(PAPER_COLUMNS, paper_rows(lines))
        console.out()
    if results:
        console.table(*result_table(results, scoring), droppable=_NARROW)
        console.note(f"contains: scoring {scoring}; ± is the standard error. {window_words(results)}")
    if compared:
        console.out()
        console.table(DIFFERENCE_COLUMNS, difference_rows(compared), droppable=_NARROW_DIFFERENCES)
        console.note("differences in points, paired, with 95 % bootstrap intervals over questions")


def save(
    folder: Path,
    results: Sequence[Result],
    compared: Sequence[Compared],
    lines: Sequence[PaperLine],
    *,
    scoring: str,
    command: str,
    date: str | None,
) -> None:
    """results.json, results.csv and report.html in the folder. Raises JrtError where that fails."""
    machine = _machine()
    date = date or time.strftime("%Y-%m-%d")
    html = page(results, compared, scoring=scoring, command=command, date=date, machine=machine, paper=lines)
    about = {"command": command, "date": date, "machine": machine}
    made = {
        "results.json": dumps({**about, **_plain(results, compared, lines, scoring)}) + "\n",
        "results.csv": csv_text(results, scoring),
        "report.html": html,
    }
    for name, text in made.items():
        path = folder / name
        try:
            beside = path.with_name(f".{name}.tmp")
            beside.write_text(text, encoding="utf-8", errors="backslashreplace")
            os.replace(beside, path)
        except OSError as error:
            raise JrtError(f"{path}: cannot be written: {error.strerror or error}") from None


def _plain(
    results: Sequence[Result], compared: Sequence[Compared], lines: Sequence[PaperLine], scoring: str
) -> dict[str, object]:
    made = values(results, compared, scoring)
    if lines:
        made["paper"] = [
            {
                "model": line.model,
                "task": line.task,
                "reading": line.reading,
                "length_tokens": line.length_tokens,
                "paper_percent": line.percent,
                "percent": None if line.score is None else 100 * line.score.value,
            }
            for line in lines
        ]
    return made


def _machine() -> str:
    from jrtcli.machine import processor

    return processor()[0]
