"""How `jrt bench` shows its rows: a table with its header, csv, json, Markdown, and bars for a terminal."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from jrtcli.bench.rows import Row, records, to_csv, to_markdown
from jrtcli.bench.setting import Setting
from jrtcli.console import Console
from jrtcli.errors import JrtError, UsageError

FORMATS = ("table", "csv", "json", "md")
TERMINAL = Path("-")
"""--plot: not a file, but bars."""
DROPPABLE = ("error", "p20–p80", "peak", "bandwidth", "matrix rate", "predicted ms", "threads", "dtype")


def show(
    console: Console,
    rows: Sequence[Row],
    setting: Setting,
    format: str,
    *,
    notes: Sequence[str] = (),
    paper: bool = False,
) -> None:
    """All rows on stdout; the header and the notes with them, for csv and json on stderr."""
    if format == "json":
        console.json(records(rows, setting.machine))
    elif format == "csv":
        console.stdout.write(to_csv(rows, setting.machine))
        console.stdout.flush()
    header = [*setting.lines(), *notes]
    if format in ("json", "csv"):
        for line in header:
            console.note(line, style="dim")
        return
    columns, cells = table(rows, paper=paper)
    if format == "md":
        console.out(
            "\n".join([*(f"- {' '.join(line.split())}" for line in header), "", to_markdown(columns, cells)])
        )
        return
    for line in header:
        console.out(line)
    console.out()
    console.table(columns, cells, droppable=[name for name in DROPPABLE if name in columns])


def table(rows: Sequence[Row], *, paper: bool = False) -> tuple[list[str], list[list[str]]]:
    """Columns and cells; a column in which no row has anything is left out."""
    rows = _once(rows)
    over = next((row.over for row in rows if row.over), None)
    others = dict.fromkeys(name for row in rows for name, _ in row.also)
    decodes = any(row.new_tokens for row in rows)
    every: list[tuple[str, list[str]]] = [
        (rows[0].level if rows else "what", [row.subject for row in rows]),
        ("runner", [row.runner for row in rows]),
        ("batch", [str(row.batch or "any") for row in rows]),
        ("tokens", [f"{row.tokens:,}" if row.tokens else "any" for row in rows]),
        ("dtype", [row.dtype for row in rows]),
        ("threads", [str(row.threads) for row in rows] if len({row.threads for row in rows}) > 1 else []),
        ("ms a token" if decodes else "ms", [_ms(row.median_ms) for row in rows]),
        ("p20–p80", [_spread(row) for row in rows]),
        ("tokens/s", [_count(row.tokens_per_s) for row in rows]),
        (f"over {over}", [_times(row.speedup) for row in rows]),
        *((f"over {name}", [_times(dict(row.also).get(name)) for row in rows]) for name in others),
        ("over one row", [_times(row.over_one_row) for row in rows]),
        ("over one thread", [_times(row.over_one_thread) for row in rows]),
        ("first token s", [_number(row.first_token_ms, 1e-3) for row in rows]),
        ("linears", [_share(row.linears_share) for row in rows]),
        ("bandwidth", [_share(row.bandwidth_share) for row in rows]),
        ("matrix rate", [_share(row.rate_share) for row in rows]),
        ("predicted ms", [_ms(row.predicted_ms) for row in rows]),
        ("peak", [_bytes(row.peak_bytes) for row in rows]),
        ("error", ["" if row.error is None or not row.samples_ms else f"{row.error:.1e}" for row in rows]),
        ("paper ms", [_ms(row.published_ms) for row in rows] if paper else []),
        ("note", [row.note or "" for row in rows]),
    ]  # fmt: skip
    kept = [(name, cells) for name, cells in every if any(cells)]
    return [name for name, _ in kept], [
        list(line) for line in zip(*(cells for _, cells in kept), strict=True)
    ]


def _once(rows: Sequence[Row]) -> list[Row]:
    """Rows without a time, and for one reason at every shape, as one row of any shape (0)."""
    kept: list[Row] = []
    reasons: dict[tuple[object, ...], set[tuple[str | None, bool]]] = {}

    def group(row: Row) -> tuple[object, ...]:
        return row.subject, row.runner, row.dtype, row.threads, row.test

    for row in rows:
        reasons.setdefault(group(row), set()).add((row.note, bool(row.samples_ms)))
    said = set()
    for row in rows:
        if row.samples_ms or len(reasons[group(row)]) > 1 or row.note is None or row.checked is not None:
            kept.append(row)
        elif group(row) not in said:
            said.add(group(row))
            kept.append(replace(row, batch=0, tokens=0, published_ms=None))
    return kept


def check_format(format: str) -> None:
    """Raises UsageError for a format that does not exist."""
    if format not in FORMATS:
        raise UsageError(f"no --format {format!r}: choose {', '.join(FORMATS)}")


def check_plot(path: Path | None) -> None:
    """Raises UsageError, before anything is timed, for a picture that cannot be written."""
    if path is None or path == TERMINAL:
        return
    kind = path.suffix.lower()
    if kind not in (".svg", ".png"):
        raise UsageError(
            f"--plot {path}: name a file that ends in .svg or .png, or - for bars in the terminal"
        )
    if kind == ".png" and find_spec("cairosvg") is None:
        raise UsageError(
            f"--plot {path}: PNG needs cairosvg, which is missing (pip install cairosvg); or name an .svg"
        )
    if not path.parent.is_dir():
        raise UsageError(f"--plot {path}: there is no folder {path.parent}")


def draw(console: Console, rows: Sequence[Row], setting: Setting, path: Path | None, format: str) -> None:
    """The picture in its file, or bars: after a table on stdout, beside other formats on stderr."""
    from jrtcli.bench.figure import bars, svg

    if path is None or not any(row.samples_ms for row in rows):
        return
    if path == TERMINAL:
        drawn = bars(rows, shutil.get_terminal_size().columns)
        (console.out if format == "table" else console.note)(f"\n{drawn}")
        return
    picture = svg(rows, f"{setting.device}; {setting.command}; {setting.date}")
    try:
        if path.suffix.lower() == ".png":
            import_module("cairosvg").svg2png(bytestring=picture.encode(), write_to=str(path), scale=2)
        else:
            path.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise JrtError(f"--plot {path} cannot be written: {error.strerror or error}") from error
    console.note(f"picture: {path}")


def _ms(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".")


def _spread(row: Row) -> str:
    return f"{_ms(row.p20_ms)}–{_ms(row.p80_ms)}" if len(row.samples_ms) > 1 else ""


def _number(value: float | None, factor: float) -> str:
    return "" if value is None else f"{value * factor:.3g}"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x" if value < 10 else f"{value:.1f}x"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}" if value < 0.1 else f"{value:.0%}"


def _bytes(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"
