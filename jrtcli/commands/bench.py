"""`jrt bench`: how fast kernels and models read and speak here, beside their peers, checked while timed."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jrtcli.bench.ranges import names, numbers
from jrtcli.commands import options
from jrtcli.commands.compiling import say_when_compiling
from jrtcli.console import Console
from jrtcli.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError

if TYPE_CHECKING:
    from jrtcli.bench.ceilings import Ceilings
    from jrtcli.bench.rows import Row

bench = typer.Typer(add_completion=False, help="Time kernels and models beside their peers on this machine.")


@bench.callback()
def _bench() -> None:
    """Time kernels and models beside their peers on this machine."""


OPERATORS = ("taylor", "prefix", "gla", "ssd", "selective-scan")
FORMATS = "table, csv, json, md"
_MACHINE = "Machine"

Ops = Annotated[
    str,
    typer.Option("--op", help=f"Kernels, with commas: {', '.join(OPERATORS)}.", metavar="OP,..."),
]
Batch = Annotated[
    str | None,
    typer.Option("--batch", "-b", help="Rows at once: 1,16 or 2-64*2.", metavar="N,...|A-B*C|A-B+C"),
]
Length = Annotated[
    str | None,
    typer.Option("--length", "-p", help="Tokens of a row: 2048-32768*2.", metavar="N,...|A-B*C|A-B+C"),
]
Shape = Annotated[
    str | None,
    typer.Option("--shape", help="Heads x key dim x value dim, as 16x16x64; of a scan channels x states."),
]
Backends = Annotated[
    str,
    typer.Option("--backend", help="auto, names with commas, or all (but naive, a specification)."),
]
Peers = Annotated[
    str | None,
    typer.Option("--peer", help="Others to time, with commas, or none; speed-ups are over the first."),
]
Dtypes = Annotated[
    str,
    typer.Option("--dtype", help="With commas: float32, bfloat16, float16; auto.", rich_help_panel=_MACHINE),
]
Threads = Annotated[
    str | None,
    typer.Option(
        "--threads", help="Of a CPU, as 1,2. Default: one per core it may use.", rich_help_panel=_MACHINE
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", rich_help_panel=_MACHINE)]
Repeat = Annotated[
    int, typer.Option("--repeat", "-r", min=1, help="Timed calls of a row; fewer of slow ones.", metavar="N")
]
Format = Annotated[str, typer.Option("--format", "-f", help=f"Of stdout: {FORMATS}.")]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", help="Write an SVG or PNG picture; - draws bars here.", metavar="FILE"),
]
Paper = Annotated[bool, typer.Option("--paper", help="Show the paper's times (H100) beside: its Table 5.")]


@bench.command()
def prefill(
    op: Ops = "taylor,prefix",
    batch: Batch = None,
    length: Length = None,
    shape: Shape = None,
    backend: Backends = "all",
    peer: Peers = None,
    repeat: Repeat = 20,
    paper: Paper = False,
    format: Format = "table",
    plot: Plot = None,
    device: Device = "auto",
    dtype: Dtypes = "auto",
    threads: Threads = None,
    quiet: options.Quiet = False,
) -> int:
    """Time reading a prompt: of one operator, each backend beside softmax attention.

    On a GPU the defaults are the shapes of the paper's Table 5. Each result is checked in fp64 on the timed
    tensors: a wrong one is a row that says so instead of a time, and so is what cannot run here. predicted ms
    is what the measured ceilings allow. Ctrl-C shows what is done.
    """
    from jrtcli.commands.bench_show import check_format, check_plot
    from jrtcli.placement import resolve_device

    check_format(format)
    check_plot(plot)
    operators = names("--op", op, OPERATORS)
    where = resolve_device(device)
    dtypes, counts = _dtypes(dtype, where), _threads(threads, where)

    from jrtcli.bench.attention import PEERS
    from jrtcli.bench.kernels import Plan, default_shapes
    from jrtcli.bench.kernels import prefill as rows_of
    from jrtcli.bench.operators import dims

    shapes = default_shapes(
        where, numbers("--batch", batch) if batch else None, numbers("--length", length) if length else None
    )
    plan = Plan(
        operators=operators,
        shapes=shapes,
        backends=_backends(backend),
        peers=_peers(peer, tuple(PEERS)),
        dtypes=dtypes,
        device=where,
        threads=counts,
        repeat=repeat,
        dims=dims(shape) if shape else None,
    )
    notes = [f"{name:<9} {PEERS[name].says(where)}" for name in plan.peers]
    if "prefix" in operators:
        notes.append("prefix    JRT-RNN's, its encoder the first half of the tokens")
    if paper:
        notes.append("paper     arXiv 2407.05483, Table 5, one H100, its kernels without denominators")
    console = Console(quiet=quiet)
    return _run(console, lambda ceilings: rows_of(plan, ceilings), plan.count, where, dtypes, counts,
                format, plot, notes, paper=paper)  # fmt: skip


def _run(
    console: Console,
    make: Callable[[Mapping[tuple[str, int], Ceilings]], Generator[Row, None, None]],
    total: int,
    device: str,
    dtypes: Sequence[str],
    threads: Sequence[int],
    format: str,
    plot: Path | None,
    notes: Sequence[str],
    *,
    paper: bool = False,
) -> int:
    """Measure the ceilings, then the rows; show what is done, also after Ctrl-C."""
    from jrtcli.bench.clock import Clock
    from jrtcli.bench.setting import ceilings_of, describe
    from jrtcli.commands.bench_show import draw, show

    say_when_compiling(console)
    if not device.startswith("cuda"):
        notes = ["these are a CPU's times at CPU-sized defaults: not to be compared with a GPU's", *notes]
    rows: list[Row] = []
    interrupted = False
    ceilings: dict[tuple[str, int], Ceilings] = {}
    try:
        with console.status("measuring what this device can do"):
            ceilings = ceilings_of(device, dtypes, threads)
        with (
            console.progress("timing", total, unit="rows", every_s=30) as bar,
            closing(make(ceilings)) as made,
        ):
            bar.update(0)
            for row in made:
                rows.append(row)
                bar.update(len(rows), last=f"{row.subject} {row.runner}")
    except KeyboardInterrupt:
        interrupted = True
        console.note(f"interrupted: {len(rows)} of {total} rows are done", style="yellow")
    if rows:
        command = shlex.join(["jrt", *sys.argv[1:]])
        clock = " and ".join(dict.fromkeys(Clock(device, count).name for count in threads))
        show(console, rows, describe(command, device, ceilings, clock), format, notes=notes, paper=paper)
        draw(console, rows, plot, format)
    return EXIT_INTERRUPTED if interrupted else EXIT_DONE


def _dtypes(text: str, device: str) -> tuple[str, ...]:
    from jrtcli.placement import resolve_dtype

    return tuple(dict.fromkeys(resolve_dtype(part.strip(), device) for part in text.split(",")))


def _threads(text: str | None, device: str) -> tuple[int, ...]:
    import torch

    if text is None:
        return (torch.get_num_threads(),)
    if device.startswith("cuda"):
        raise UsageError("--threads is for a CPU: on a GPU the kernels choose")
    counts = numbers("--threads", text)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if max(counts) > cores:
        raise UsageError(f"--threads {max(counts)}: this process may use {cores} core{'s' * (cores > 1)}")
    return counts


def _backends(text: str) -> tuple[str, ...]:
    from jrt_kernels.registry import OPS

    known = dict.fromkeys(name for backends in OPS.values() for name in backends)
    return names("--backend", text, ("auto", "all", *known))


def _peers(text: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    if text is None:
        return known
    return () if text.strip() == "none" else names("--peer", text, known)
