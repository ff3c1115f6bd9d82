"""`jrt probe --model M`: a checkpoint compares lists and recalls pairs, in words."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jrtcli.commands.ask import load
from jrtcli.commands.probe_report import as_csv
from jrtcli.console import Console, dumps
from jrtcli.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError

NO_DIFFERENCE = "not decided"


def words(
    console: Console,
    model: str,
    choices: dict[str, Any],
    count: int,
    seed: int,
    format: str,
    output: Path | None,
) -> int:
    """Ask, show, and write rows.jsonl, rows.csv and summary.json to `output`; Ctrl-C keeps what was said."""
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--output {output}: {error.strerror}") from None
    loaded = load(console, model, **choices)

    from jrtcli.probe.words import TEMPLATES, ask_all, differences, questions, shares

    asked = list(questions(count, seed))
    rows: list[dict[str, Any]] = []
    interrupted = False
    total = len(asked) * len(TEMPLATES)
    try:
        with console.progress(f"asking {model}", total, unit="questions", every_s=30) as bar:
            bar.update(0)
            for row in ask_all(loaded, asked):
                rows.append(row)
                bar.update(len(rows))
    except KeyboardInterrupt:
        interrupted = True
        console.note(f"interrupted: {len(rows):,} of {total:,} questions are answered", style="yellow")
    if rows:
        made, apart = shares(rows), differences(rows)
        _show(console, rows, made, apart, format)
        if output is not None:
            (output / "rows.jsonl").write_text("".join(json_module.dumps(row) + "\n" for row in rows))
            (output / "rows.csv").write_text(as_csv(rows))
            summary = {
                "model": model,
                "numbers": loaded.numbers,
                "seed": seed,
                "accuracy": made,
                "differences": apart,
            }
            (output / "summary.json").write_text(dumps(summary) + "\n")
            console.note(f"rows and summary: {output}")
    return EXIT_INTERRUPTED if interrupted else EXIT_DONE


def _show(
    console: Console,
    rows: Sequence[dict[str, Any]],
    made: Sequence[dict[str, Any]],
    apart: Sequence[dict[str, Any]],
    format: str,
) -> None:
    if format == "json":
        console.json({"accuracy": made, "differences": apart, "rows": rows})
        return
    if format == "csv":
        console.out(as_csv(rows).rstrip("\n"))
        return
    templates = list(dict.fromkeys(one["template"] for one in made))
    table: dict[tuple[str, str, str], dict[str, str]] = {}
    for one in made:
        shown = f"{one['accuracy']:.0%} ({one['low']:.0%}-{one['high']:.0%})"
        table.setdefault((one["task"], one["size"], one["order"]), {})[one["template"]] = shown
    console.table(
        ("probe", "size", "order", *templates),
        [(*key, *(cells.get(name, "") for name in templates)) for key, cells in table.items()],
        droppable=("probe",),
    )
    console.note()
    for one in apart:
        verdict = "higher" if one["low"] > 0 else "lower" if one["high"] < 0 else NO_DIFFERENCE
        console.note(
            f"{one['task']}: {one['difference']}: {100 * one['value']:+.1f} points, 95 %"
            f" {100 * one['low']:+.1f} to {100 * one['high']:+.1f} ({one['pairs']} pairs): {verdict}"
        )
    console.note(f"greedy; right is an answer that contains the word; {len(rows):,} answers")
