"""What `jrt probe` shows of its rows: table or CSV or JSON, bars, claims, and the files of -o."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jrtcli.console import Console, dumps

if TYPE_CHECKING:
    from jrtcli.probe.claims import Claim
    from jrtcli.probe.plan import Plan
    from jrtcli.probe.summary import Point

COLUMNS = ("reading", "sets", "width", "features", "floats", "bytes", "accuracy", "seeds")
DROPPABLE = ("width", "bytes", "seeds")
MARKS = {"holds": "green", "does not hold": "red", "not decided": "yellow"}


def show(
    console: Console, plan: Plan, rows: Sequence[dict[str, Any]], format: str, output: Path | None
) -> None:
    """All of it, on stdout in one format, and as rows.csv, claims.json and figure.svg in `output`."""
    from jrtcli.probe.claims import CLAIMS, best_rates, learned
    from jrtcli.probe.figure import bars, svg
    from jrtcli.probe.summary import panels, points

    rows = sorted(rows, key=lambda r: (r["reading"], r["state_floats"], r["width"], r["seed"], r["rate"]))
    claims = CLAIMS[plan.task](rows)
    made = points(rows)
    plots = panels(made)
    _, good, models = learned(best_rates(rows))
    seconds = sum({_model(row): row["core_s"] for row in rows}.values())
    notes = {"models": models, "learned": good, "core_s": round(seconds, 1), "steps": plan.steps}
    if format == "json":
        console.json({"rows": rows, "claims": [asdict(claim) for claim in claims], **notes})
    elif format == "csv":
        console.out(as_csv(rows).rstrip("\n"))
    else:
        console.table(COLUMNS, [_cells(point) for point in made], droppable=DROPPABLE)
        if console.stderr_terminal:
            console.note()
            console.note(bars(plots, shutil.get_terminal_size().columns))
        console.note()
        console.report(
            [
                (claim.verdict, [(f"{claim.expected}: ", MARKS[claim.verdict]), (measured(claim), "")])
                for claim in claims
            ]
        )
        console.note()
        console.note(
            f"{good} of {models} models learned the sizes they were trained on; claims are about these"
        )
        console.note(f"{seconds:,.0f} core-seconds of training")
    if output is not None:
        title = {"disjointness": "Set disjointness", "recall": "Multi-query associative recall"}[plan.task]
        note = (
            f"jrt probe {plan.task}: {models} models, {plan.steps:,} steps each;"
            " dots: mean over seeds, whiskers: worst and best seed"
        )
        figure = output / f"{plan.task}.svg"
        (output / "rows.csv").write_text(as_csv(rows))
        (output / "claims.json").write_text(dumps({"claims": [asdict(c) for c in claims], **notes}) + "\n")
        figure.write_text(svg(plots, title, note), encoding="utf-8")
        console.note(f"rows, claims and figure: {figure}")


def measured(claim: Claim) -> str:
    """The measurement of a claim in one line, in points of accuracy."""
    found = claim.estimate
    if found is None:
        return f"{claim.measured}: too few models that learned"
    value = f"{claim.measured}: {100 * found.value:+.1f} points"
    if found.low is None or found.high is None:
        return f"{value} (one model)" if found.count == 1 else f"{value} ({found.count} models, no interval)"
    return f"{value}, 95 % {100 * found.low:+.1f} to {100 * found.high:+.1f} ({found.count} models)"


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with a header line; RFC 4180 but for the line ends."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, fieldnames=list(dict.fromkeys(k for row in rows for k in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _model(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("reading", "width", "feature_dim", "seed", "rate"))


def _cells(point: Point) -> tuple[object, ...]:
    from jrtcli.probe.summary import NAMES

    spread = f" ({point.low:.0%}-{point.high:.0%})" if point.seeds > 1 else ""
    return (
        NAMES[point.reading],
        point.group,
        point.width,
        point.feature_dim,
        f"{point.state_floats:,}",
        f"{4 * point.state_floats:,}",
        f"{point.accuracy:.1%}{spread}",
        point.seeds,
    )
