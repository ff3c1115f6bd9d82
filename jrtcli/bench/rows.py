"""The rows of a benchmark: what was timed, how long it took, and what that means beside the others."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from jrtcli.bench.clock import percentile


@dataclass(frozen=True)
class Row:
    """One line of the table. Without samples it has no time, and `note` says why.

    level: "kernel" or "model"; test: "prefill" or "decode"; subject: the operator or model; runner: the
    backend or peer. tokens: of the prompt of one row, which JRT-Prompt reads twice; in decoding those read
    before. new_tokens: decoded for each row, 0 in prefill. parameters: of the model; weights: their source.
    samples_ms: of the timed calls; in decoding, of one step. peak_bytes: inputs or weights, and what the call
    took above them. moved_bytes, flops: the least that the work needs. speedup: over the first peer, `over`;
    also: over the others. error: relative RMS against `checked`; published_ms: the paper's.
    """

    level: str
    test: str
    subject: str
    runner: str
    batch: int
    tokens: int
    dtype: str
    threads: int
    new_tokens: int = 0
    parameters: int | None = None
    weights: str | None = None
    samples_ms: tuple[float, ...] = ()
    first_token_ms: float | None = None
    peak_bytes: int | None = None
    moved_bytes: float | None = None
    flops: float | None = None
    predicted_ms: float | None = None
    bandwidth_share: float | None = None
    rate_share: float | None = None
    linears_share: float | None = None
    speedup: float | None = None
    over: str | None = None
    also: tuple[tuple[str, float], ...] = ()
    over_one_row: float | None = None
    over_one_thread: float | None = None
    error: float | None = None
    checked: str | None = None
    published_ms: float | None = None
    note: str | None = None

    @property
    def median_ms(self) -> float | None:
        return percentile(self.samples_ms, 0.5) if self.samples_ms else None

    @property
    def p20_ms(self) -> float | None:
        return percentile(self.samples_ms, 0.2) if self.samples_ms else None

    @property
    def p80_ms(self) -> float | None:
        return percentile(self.samples_ms, 0.8) if self.samples_ms else None

    @property
    def tokens_per_s(self) -> float | None:
        """Of all rows together: tokens of the prompts, or decoded ones."""
        median = self.median_ms
        return None if not median else 1e3 * self.batch * (1 if self.new_tokens else self.tokens) / median

    def beside(self, reference: Row | None) -> Row:
        """With the speed-up over another row of the same work; the reference itself is 1."""
        if reference is None or not reference.tokens_per_s or not self.tokens_per_s:
            return self
        return replace(self, speedup=self.tokens_per_s / reference.tokens_per_s, over=reference.runner)

    def also_beside(self, references: Iterable[Row]) -> Row:
        """With the speed-ups over other peers than the first, of those that have a time."""
        own = self.tokens_per_s
        found = ((row.runner, row.tokens_per_s) for row in references)
        return replace(self, also=tuple((name, own / speed) for name, speed in found if own and speed))


_MEASURES = ("median_ms", "p20_ms", "p80_ms", "tokens_per_s")


def record(row: Row) -> dict[str, Any]:
    """A row as one flat mapping, measures before their samples."""
    held = {field.name: _finite(getattr(row, field.name)) for field in fields(row)}
    samples = list(held.pop("samples_ms"))
    held["also"] = dict(row.also)
    at = list(held).index("first_token_ms")
    items = list(held.items())
    measures = [(name, getattr(row, name)) for name in _MEASURES]
    return dict([*items[:at], *measures, ("repeats", len(samples)), *items[at:], ("samples_ms", samples)])


def _finite(value: Any) -> Any:
    """JSON has no nan: the row's note says what is wrong."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def records(rows: Iterable[Row], machine: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows for json, each with the machine's fields, as llama-bench writes them."""
    return [{**machine, **record(row)} for row in rows]


def to_csv(rows: Sequence[Row], machine: Mapping[str, Any]) -> str:
    """The same as comma-separated values under a line of names; the samples are joined by spaces."""
    stream = io.StringIO()
    held = records(rows, machine)
    names = list(held[0]) if held else []
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    for row in held:
        samples = " ".join(f"{ms:.6g}" for ms in row["samples_ms"])
        also = "; ".join(f"{name} {value:.4g}" for name, value in row["also"].items())
        writer.writerow({**row, "samples_ms": samples, "also": also})
    return stream.getvalue()


def to_markdown(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *cells]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
