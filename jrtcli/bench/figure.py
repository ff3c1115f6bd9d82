"""The picture of a benchmark: time over length and over batch as SVG, tokens per second as bars of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from jrtcli import charts
from jrtcli.bench.rows import Row
from jrtcli.text_bars import bar


def svg(rows: Sequence[Row], note: str) -> str:
    """A panel for each subject and dtype over the tokens, and over the rows of a batch, where these vary."""
    timed = [row for row in rows if row.samples_ms]
    panels = []
    for subject, dtype, threads in dict.fromkeys((row.subject, row.dtype, row.threads) for row in timed):
        group = [r for r in timed if (r.subject, r.dtype, r.threads) == (subject, dtype, threads)]
        title = f"{subject}, {dtype}" + (
            f", {threads} threads" if len({r.threads for r in timed}) > 1 else ""
        )
        batch = _most_varied(group, by="batch", over="tokens")
        tokens = _most_varied(group, by="tokens", over="batch")
        over_tokens = [row for row in group if row.batch == batch]
        over_batch = [row for row in group if row.tokens == tokens]
        lengths, batches = {row.tokens for row in over_tokens}, {row.batch for row in over_batch}
        if len(lengths) > 1 or len(batches) == 1:
            panels.append(_panel(f"{title}, batch {batch}", over_tokens, "tokens"))
        if len(batches) > 1:
            panels.append(_panel(f"{title}, {tokens:,} tokens", over_batch, "batch"))
    decodes = any(row.new_tokens for row in timed)
    title = "Tokens said in a second" if decodes else "Time to read a prompt"
    return charts.figure(panels, title=title, note=note, size=(340, 240), per_row=2)


def bars(rows: Sequence[Row], columns: int) -> str:
    """Tokens per second of each runner, longest first come last; at most `columns` wide."""
    timed = [row for row in rows if row.tokens_per_s]
    runner = max((len(row.runner) for row in timed), default=0)
    room = max(10, min(50, columns - runner - 13))
    lines: list[str] = []
    for key in dict.fromkeys((r.subject, r.batch, r.tokens, r.dtype, r.threads) for r in timed):
        group = [r for r in timed if (r.subject, r.batch, r.tokens, r.dtype, r.threads) == key]
        most = max(row.tokens_per_s or 0 for row in group)
        subject, batch, tokens, dtype, _ = key
        lines += ([""] if lines else []) + [f"{subject}, batch {batch}, {tokens:,} tokens, {dtype}: tokens/s"]
        for row in group:
            speed = row.tokens_per_s or 0
            lines.append(f"{row.runner:<{runner}} {bar(speed / most, room, rest=' ')} {speed:>11,.0f}")
    return "\n".join(lines)


def _most_varied(rows: Sequence[Row], *, by: str, over: str) -> int:
    """The value of `by` at which most values of `over` were timed."""
    pairs = {(getattr(row, by), getattr(row, over)) for row in rows}
    return Counter(value for value, _ in sorted(pairs)).most_common(1)[0][0]


def _panel(title: str, rows: Sequence[Row], over: str) -> charts.Panel:
    series = []
    decodes = any(row.new_tokens for row in rows)
    for runner in dict.fromkeys(row.runner for row in rows):
        marks = []
        for row in sorted((r for r in rows if r.runner == runner), key=lambda r: int(getattr(r, over))):
            speed, median, low, high = (
                x or 0 for x in (row.tokens_per_s, row.median_ms, row.p20_ms, row.p80_ms)
            )
            tip = f"{runner}: {median:,.3g} ms, {speed:,.0f} tokens/s"
            if decodes:
                marks.append(charts.Mark(getattr(row, over), speed, tip=tip))
            else:
                marks.append(charts.Mark(getattr(row, over), median, low, high, tip=tip))
        series.append(charts.Series(runner, tuple(marks)))
    every = [mark for one in series for mark in one.marks]
    return charts.Panel(
        title,
        tuple(series),
        charts.logarithmic(
            "tokens of a row" if over == "tokens" else "rows", [m.x for m in every], at_values=True
        ),
        charts.logarithmic(
            "tokens/s" if decodes else "ms", [y for m in every for y in (m.y, m.low or m.y, m.high or m.y)]
        ),
    )
