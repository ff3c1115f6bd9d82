"""The report of an evaluation as one HTML page: tables and inline charts, opened without a network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from jrtcli import __version__, charts
from jrtcli.evaluate.modes import MODES
from jrtcli.evaluate.results import SCORINGS, Compared, Result
from jrtcli.evaluate.tables import (
    DIFFERENCE_COLUMNS,
    PAPER_COLUMNS,
    PaperLine,
    difference_rows,
    model_names,
    paper_rows,
    result_table,
    window_words,
)
from jrtcli.metrics import wilson

_STYLE = """
body{font:15px/1.45 Helvetica,Arial,sans-serif;color:#222;max-width:1080px;margin:2em auto;padding:0 1em}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px}
th,td{padding:3px 10px 3px 0;text-align:left;border-bottom:1px solid #eee;white-space:nowrap}
td.n{text-align:right}.scroll{overflow-x:auto}.charts{display:flex;flex-wrap:wrap;gap:16px}
figure{margin:0;max-width:100%;overflow-x:auto}figcaption{font-weight:bold;margin-bottom:4px}
.note{color:#555}
"""


def page(
    results: Sequence[Result],
    compared: Sequence[Compared],
    *,
    scoring: str,
    command: str,
    date: str,
    machine: str,
    paper: Sequence[PaperLine] = (),
) -> str:
    """The page. date, machine, command: what made the numbers, and when."""
    scored = [result for result in results if result.count]
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>jrt eval</title><style>{_STYLE}</style></head><body>",
        "<h1>Recall, once and twice</h1>",
        f"<p class='note'>jrt {escape(__version__)} · {escape(date)} · {escape(machine)}<br>"
        f"<code>{escape(command)}</code></p>",
        f"<p>Contains, scoring {escape(scoring)}: {escape(SCORINGS[scoring])}. An answer is right if it"
        " contains a gold answer, in any case. ± is the standard error; whiskers are 95 % intervals.</p>",
        f"<p>{escape(window_words(results))}</p>",
    ]
    if paper:
        parts += ["<h2>Beside the paper</h2>", _table(PAPER_COLUMNS, paper_rows(paper))]
    parts += ["<h2>Results</h2>", _table(*result_table(results, scoring))]
    if compared:
        parts += [
            "<h2>Orders of reading, on the same questions</h2>",
            _table(DIFFERENCE_COLUMNS, difference_rows(compared)),
            "<p class='note'>Paired differences with 95 % bootstrap intervals over questions;"
            " only one: questions that this order alone answers.</p>",
        ]
    parts += ["<div class='charts'>", *_by_task(scored, scoring), "</div>"]
    parts += ["<h2>By the answer's place in the document</h2><div class='charts'>", *_by_position(scored)]
    parts += [
        "</div><h2>Recall, and what it takes</h2><div class='charts'>",
        *_by_cost(scored, scoring),
        "</div>",
    ]
    parts += ["<h2>How answers went wrong</h2>", _table(*_modes(scored))]
    parts += [
        "<p class='note'>Empty: no answer. Repetition: its words stand in the document or the question."
        " Irrelevant: anything else (the three modes of the paper's appendix E; where it draws the lines is"
        " not published).</p></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    return f"<div class='scroll'><table><tr>{head}</tr>{body}</table></div>"


def _cell(text: str) -> str:
    number = text[:1].isdigit() or text[:1] in "+-−–±" or not text
    return f"<td{' class=n' if number else ''}>{escape(text)}</td>"


def _models(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Each model and its name."""
    return list(model_names(result.cell.model for result in results).items())


def _reading(result: Result) -> str:
    return result.cell.reading


def _by_task(results: Sequence[Result], scoring: str) -> list[str]:
    made = []
    for model, name in _models(results):
        mine = [result for result in results if result.cell.model == model]
        readings = list(dict.fromkeys(_reading(result) for result in mine))
        groups: dict[str, dict[str, tuple[str, float, float, float]]] = {}
        for result in mine:
            score = result.score(scoring)
            if score is None:
                continue
            lengths = {r.cell.length_tokens for r in mine if r.cell.task == result.cell.task}
            many = len(lengths) > 1 and result.cell.length_tokens is not None
            group = f"{result.cell.task} {result.cell.length_tokens}" if many else result.cell.task
            groups.setdefault(group, {})[_reading(result)] = (
                _reading(result),
                score.value,
                score.low,
                score.high,
            )
        chart = charts.bars(
            f"Recall of {name} by task",
            [(group, [bars.get(reading) for reading in readings]) for group, bars in groups.items()],
        )
        made.append(_figure(f"{name}: recall by task", chart))
    return made


def _by_position(results: Sequence[Result]) -> list[str]:
    made = []
    for model, name in _models(results):
        series = []
        mine = [result for result in results if result.cell.model == model]
        for reading in dict.fromkeys(_reading(result) for result in mine):
            parts: dict[tuple[float, float], list[float]] = {}
            for result in mine:
                for low, high, count, share in result.positions if _reading(result) == reading else ():
                    held = parts.setdefault((low, high), [0.0, 0.0])
                    held[0] += count
                    held[1] += count * share
            points = []
            for (low, high), (answers, right) in sorted(parts.items()):
                share = right / answers
                below, above = wilson(share, round(answers))
                label = f"{low:.0%} to {high:.0%}: {share:.1%} of {answers:.0f}"
                points.append(((low + high) / 2, share, below, above, label))
            series.append((reading, points))
        if any(points for _, points in series):
            chart = charts.lines(f"Recall of {name} by position", series, "where the answer stands")
            made.append(_figure(f"{name}: all tasks", chart))
    return made


def _by_cost(results: Sequence[Result], scoring: str) -> list[str]:
    tokens: dict[str, list[charts.Point]] = {}
    state: dict[str, list[charts.Point]] = {}
    speed: dict[str, list[charts.Point]] = {}
    for model, name in _models(results):
        mine = [result for result in results if result.cell.model == model]
        for reading in dict.fromkeys(_reading(result) for result in mine):
            cells = [result for result in mine if _reading(result) == reading]
            count = sum(result.count for result in cells)
            scores = [(result.count, s) for result in cells if (s := result.score(scoring)) is not None]
            share = sum(n * s.value for n, s in scores) / count
            low, high = wilson(share, count)
            label = f"{name}: {reading}, {share:.1%} of {count:,} answers"
            read = sum(result.tokens_read for result in cells) / count
            if read:
                tokens.setdefault(reading, []).append((read, share, low, high, label))
            bytes_ = max((result.state_bytes or 0) for result in cells)
            if bytes_:
                state.setdefault(reading, []).append((float(bytes_), share, low, high, label))
            timed = [(r.tokens_read, r.tokens_per_s) for r in cells if r.tokens_per_s]
            if timed:
                mean = sum(read for read, _ in timed) / sum(read / per_s for read, per_s in timed)
                speed.setdefault(reading, []).append((mean, share, low, high, label))
    return [
        _figure(caption, charts.points(caption, list(series.items()), across))
        for caption, series, across in (
            ("Recall over tokens read", tokens, "tokens read for a question"),
            ("Recall over the bytes of the state", state, "bytes of the state of one sequence"),
            ("Recall over throughput", speed, "tokens per second, read and said"),
        )
        if series
    ]


def _modes(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    rows = []
    names = dict(_models(results))
    for result in results:
        shares = [f"{result.modes[mode] / result.count:.1%}" for mode in MODES]
        rows.append([result.cell.task, names[result.cell.model], result.cell.reading, *shares])
    return ["task", "model", "reading", *MODES], rows


def _figure(caption: str, chart: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{chart}</figure>"
