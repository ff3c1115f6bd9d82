"""The tables of an evaluation as rows of text, and as plain values for JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jrtcli.evaluate.modes import MODES
from jrtcli.evaluate.results import Compared, Result, metric_of
from jrtcli.metrics import Score

AGAIN = "read again"
COLUMNS = (
    "task",
    "model",
    "reading",
    "length",
    "rows",
    "contains",
    "exact",
    "F1",
    *MODES,
    AGAIN,
    "tokens read",
    "tokens/s",
)
DIFFERENCE_COLUMNS = (
    "task",
    "model",
    "length",
    "first",
    "second",
    "rows",
    "difference",
    "95 %",
    "only first",
    "only second",
)
PAPER_COLUMNS = ("model", "task", "reading", "length", "rows", "paper", "here", "difference")


@dataclass(frozen=True)
class PaperLine:
    """A printed number, in percent, beside what came out here; result: None where nothing was run."""

    model: str
    task: str
    reading: str
    length_tokens: int | None
    percent: float
    result: Result | None
    score: Score | None


def _percent(score: Score | None) -> str:
    if score is None:
        return "–"
    return f"{score.value:.1%}" if score.stderr is None else f"{score.value:.1%} ± {score.stderr:.1%}"


def _length(tokens: int | None) -> str:
    return "whole" if tokens is None else f"{tokens:,}"


def model_names(models: Iterable[str]) -> dict[str, str]:
    """Models by what a table calls them: without their folders, unless two would have one name."""
    short = {model: Path(model).name or model for model in models}
    names = list(short.values())
    return {model: name if names.count(name) == 1 else model for model, name in short.items()}


def result_table(results: Sequence[Result], scoring: str) -> tuple[tuple[str, ...], list[list[str]]]:
    """The columns of COLUMNS that say something, and a row for each cell."""
    rows = result_rows(results, scoring)
    if any(result.cell.most_reads is not None for result in results):
        return COLUMNS, rows
    at = COLUMNS.index(AGAIN)
    return COLUMNS[:at] + COLUMNS[at + 1 :], [row[:at] + row[at + 1 :] for row in rows]


def result_rows(results: Sequence[Result], scoring: str) -> list[list[str]]:
    """A row for each cell, as COLUMNS; contains by this scoring."""
    rows = []
    names = model_names(result.cell.model for result in results)
    for result in results:
        cell = result.cell
        shares = [f"{result.modes[mode] / result.count:.1%}" if result.count else "–" for mode in MODES]
        rows.append(
            [
                cell.task,
                names[cell.model],
                cell.reading,
                _length(cell.length_tokens),
                f"{result.count:,}",
                _percent(result.score(scoring)),
                _percent(result.scores.get("exact_match")),
                _percent(result.scores.get("f1")),
                *shares,
                "–" if result.again is None else f"{result.again:.0%}",
                f"{result.tokens_read:,}",
                "–" if result.tokens_per_s is None else f"{result.tokens_per_s:,.0f}",
            ]
        )
    return rows


def difference_rows(compared: Sequence[Compared]) -> list[list[str]]:
    """A row for each pair of orders, as DIFFERENCE_COLUMNS."""
    names = model_names(each.model for each in compared)
    return [
        [
            each.task,
            names[each.model],
            _length(each.length_tokens),
            each.first,
            each.second,
            f"{each.count:,}",
            f"{100 * each.difference.value:+.1f}",
            f"{100 * each.difference.low:+.1f} to {100 * each.difference.high:+.1f}",
            f"{each.difference.worse:,}",
            f"{each.difference.better:,}",
        ]
        for each in compared
    ]


def paper_rows(lines: Sequence[PaperLine]) -> list[list[str]]:
    """A row for each printed number, as PAPER_COLUMNS."""
    rows = []
    for line in lines:
        ran = line.result is not None and line.score is not None
        rows.append(
            [
                line.model,
                line.task,
                line.reading,
                _length(line.length_tokens),
                f"{line.result.count:,}" if line.result is not None else "–",
                f"{line.percent:.1f}",
                f"{100 * line.score.value:.1f}" if ran and line.score is not None else "–",
                f"{100 * line.score.value - line.percent:+.1f}" if ran and line.score is not None else "–",
            ]
        )
    return rows


def window_words(results: Sequence[Result]) -> str:
    """How documents were cut, in a sentence."""
    oracle = {result.cell.oracle for result in results if result.cell.length_tokens is not None}
    whole = any(result.cell.length_tokens is None for result in results)
    said = []
    if True in oracle:
        said.append(
            "Documents are cut to an oracle window: it is laid around the gold answer, which a user's"
            " document does not show (--no-window reads what a user has)."
        )
    if False in oracle:
        said.append("Documents are cut to their beginning; the cut knows no answer.")
    if whole:
        said.append("Documents without a length are whole.")
    return " ".join(said)


def values(results: Sequence[Result], compared: Sequence[Compared], scoring: str) -> dict[str, Any]:
    """Everything in plain values: shares from 0 to 1, seconds, bytes."""
    cells = []
    for result in results:
        scores = {
            name: {"value": s.value, "stderr": s.stderr, "low": s.low, "high": s.high, "count": s.count}
            for name, s in result.scores.items()
        }
        positions = [
            {"from": low, "to": high, "count": count, "contains": share}
            for low, high, count, share in result.positions
        ]
        cells.append(
            {
                **asdict(result.cell),
                "rows": result.count,
                "failed": result.failed,
                "dropped": result.dropped,
                "scores": scores,
                "errors": dict(result.modes),
                "by_position": positions,
                "read_again": result.again,
                "tokens_read": result.tokens_read,
                "prompt_tokens": result.prompt_tokens,
                "longest_prompt_tokens": result.longest_tokens,
                "context_tokens": result.context_tokens,
                "tokens_per_s": result.tokens_per_s,
                "state_bytes": result.state_bytes,
                "parameters": result.parameters,
            }
        )
    return {"scoring": scoring, "cells": cells, "differences": [asdict(each) for each in compared]}


def csv_text(results: Sequence[Result], scoring: str) -> str:
    """A line for each cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ("contains", "contains_v0", "exact_match", "f1")
    header = [
        "task",
        "model",
        "order",
        "reads",
        "most_reads",
        "shots",
        "fill",
        "length_tokens",
        "oracle",
        "scoring",
        "rows",
    ]
    header += ["recall", "recall_stderr", *(n for name in names for n in (name, f"{name}_stderr"))]
    writer.writerow([*header, *MODES, "read_again", "tokens_read", "tokens_per_s", "state_bytes"])
    for result in results:
        cell = result.cell
        scores = [result.scores.get(metric_of(scoring)), *(result.scores.get(name) for name in names)]
        writer.writerow(
            [cell.task, cell.model, cell.order, cell.reads, cell.most_reads, cell.shots, cell.fill]
            + [cell.length_tokens, cell.oracle, scoring, result.count]
            + [v for score in scores for v in ((score.value, score.stderr) if score else (None, None))]
            + [*(result.modes[mode] for mode in MODES)]
            + [result.again, result.tokens_read, result.tokens_per_s, result.state_bytes]
        )
    return out.getvalue()
