"""`jrt bench`: how fast kernels and models read and speak here, beside their peers, checked while timed."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
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
    str | None,
    typer.Option("--op", help=f"Kernels, with commas: {', '.join(OPERATORS)}.", metavar="OP,..."),
]
Models = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Shapes with random weights (mamba-130m, mamba2-130m, gla-340m, based-360m, jrt-360m, ...)"
        " or checkpoints as elsewhere, with commas.",
        metavar="M,...",
    ),
]
DEFAULT_SHAPE = "mamba-130m"
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
    str | None,
    typer.Option(
        "--backend", help="Kernels, with commas: auto, all (but naive), or names; of a model auto or names."
    ),
]
NewTokens = Annotated[
    int, typer.Option("--new-tokens", "-n", min=1, help="Steps of a timed turn.", metavar="N")
]
Gguf = Annotated[
    list[Path] | None,
    typer.Option(
        "--gguf",
        help="The same weights for --peer llama.cpp, a row for each file; repeat, or name a folder of them."
        " llama.cpp's convert_hf_to_gguf.py --outtype f32, f16, bf16 or q8_0 makes them of a checkpoint's"
        " folder, or of that of --keep-weights; its llama-quantize makes Q4_K_M of the first.",
        metavar="FILE",
    ),
]
Keep = Annotated[
    Path | None,
    typer.Option("--keep-weights", help="Where the random weights of a shape stay.", metavar="DIR"),
]
Peers = Annotated[
    str | None,
    typer.Option(
        "--peer",
        help="Others to time, with commas, or none; speed-ups are over each, of kernels over the first.",
    ),
]
Dtypes = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="With commas: auto, float32, bfloat16, float16; of a model also int8 (its weights).",
        rich_help_panel=_MACHINE,
    ),
]
Threads = Annotated[
    str | None,
    typer.Option("--threads", help="Of a CPU, as 1,2. Default: torch's.", rich_help_panel=_MACHINE),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", rich_help_panel=_MACHINE)]
Repeat = Annotated[
    int | None,
    typer.Option("--repeat", "-r", min=1, help="Timed calls of a row; fewer of slow ones.", metavar="N"),
]
Format = Annotated[str, typer.Option("--format", "-f", help=f"Of stdout: {FORMATS}.")]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", help="Write an SVG or PNG picture; - draws bars here.", metavar="FILE"),
]
Paper = Annotated[bool, typer.Option("--paper", help="Show the paper's times (H100) beside: its Table 5.")]


@bench.command()
def prefill(
    op: Ops = None,
    model: Models = None,
    batch: Batch = None,
    length: Length = None,
    shape: Shape = None,
    backend: Backends = None,
    peer: Peers = None,
    repeat: Repeat = None,
    paper: Paper = False,
    format: Format = "table",
    plot: Plot = None,
    gguf: Gguf = None,
    keep: Keep = None,
    device: Device = "auto",
    dtype: Dtypes = "auto",
    threads: Threads = None,
    quiet: options.Quiet = False,
) -> int:
    """Time reading a prompt: one operator in each backend, or (--model) whole models.

    Without --model: taylor and prefix, on a GPU at the shapes of the paper's Table 5. Results are checked in
    fp64 on the timed tensors: a wrong one is a row that says so instead of a time, and so is what cannot run
    here. Speed-ups are over softmax attention. jrt-prompt reads the prompt twice; its tokens/s count it once.

    With --model: each beside a Transformer++ of its size; --peer transformers and llama.cpp read the same
    weights (of several --gguf files the fastest is what speed-ups are over). Logits are checked in fp64 at 64
    tokens. linears: the matrix products' time alone, as a share.

    predicted ms is what the ceilings allow, which are measured first. Ctrl-C shows what is done.
    """
    from jrtcli.commands.bench_show import check_format, check_plot
    from jrtcli.placement import resolve_device

    check_format(format)
    check_plot(plot)
    where = resolve_device(device)
    batches = numbers("--batch", batch) if batch else None
    lengths = numbers("--length", length) if length else None
    console = Console(quiet=quiet)
    if model is not None:
        only = {"--op": op, "--shape": shape, "--paper": paper or None}
        _refuse(only, "is for kernels, not for --model")
        gpu = where.startswith("cuda")
        asked = _Asked(where, format, plot, repeat or (10 if gpu else 3))
        shapes = [(b, n) for b in batches or (1,) for n in lengths or ((2048, 8192) if gpu else (512, 2048))]
        return _models(console, asked, model, tuple(shapes), 0, backend, peer, dtype, threads, gguf, keep)
    _refuse({"--gguf": gguf, "--keep-weights": keep}, "is for --model")
    dtypes, counts = _dtypes(dtype, where), _threads(threads, where)

    from jrtcli.bench.attention import PEERS
    from jrtcli.bench.kernels import Plan, default_shapes
    from jrtcli.bench.kernels import prefill as rows_of
    from jrtcli.bench.operators import dims

    plan = Plan(
        operators=names("--op", op or "taylor,prefix", OPERATORS),
        shapes=default_shapes(where, batches, lengths),
        backends=_backends(backend or "all", every=True),
        peers=_peers(peer, tuple(PEERS), tuple(PEERS)),
        dtypes=dtypes,
        device=where,
        threads=counts,
        repeat=repeat or 20,
        dims=dims(shape) if shape else None,
    )
    notes = [f"{name}: {PEERS[name].says(where)}" for name in plan.peers]
    if "prefix" in plan.operators:
        notes.append("prefix: of JRT-RNN, its encoder the first half of the tokens")
    if paper:
        notes.append("paper: arXiv 2407.05483, Table 5, one H100; its kernels divide by no denominator")
    asked = _Asked(where, format, plot, plan.repeat)
    return _run(console, asked, lambda c: rows_of(plan, c), plan.count, dtypes, counts, notes, paper=paper)


@bench.command()
def decode(
    model: Models = None,
    batch: Batch = None,
    length: Length = None,
    new_tokens: NewTokens = 16,
    backend: Backends = None,
    peer: Peers = None,
    repeat: Repeat = None,
    format: Format = "table",
    plot: Plot = None,
    gguf: Gguf = None,
    keep: Keep = None,
    device: Device = "auto",
    dtype: Dtypes = "auto",
    threads: Threads = None,
    quiet: options.Quiet = False,
) -> int:
    """Time saying tokens, one step after the other, for one row and for several at once.

    Rows (1, 4, 16) go on from a prompt of --length tokens (128); what they say is given, the same for all
    programs. ms is that of a step of all rows, tokens/s those of all together; over one row tells what a
    batch gains. Logits are checked in fp64. Ctrl-C shows what is done.
    """
    from jrtcli.commands.bench_show import check_format, check_plot
    from jrtcli.placement import resolve_device

    check_format(format)
    check_plot(plot)
    where = resolve_device(device)
    batches, lengths = numbers("--batch", batch or "1,4,16"), numbers("--length", length or "128")
    shapes = tuple((b, n) for n in lengths for b in batches)
    asked, models = _Asked(where, format, plot, repeat or 3), model or DEFAULT_SHAPE
    console = Console(quiet=quiet)
    return _models(console, asked, models, shapes, new_tokens, backend, peer, dtype, threads, gguf, keep)


@dataclass(frozen=True)
class _Asked:
    """What both commands ask for of a run."""

    device: str
    format: str
    plot: Path | None
    repeat: int


def _models(
    console: Console,
    asked: _Asked,
    model: str,
    shapes: tuple[tuple[int, int], ...],
    new_tokens: int,
    backend: str | None,
    peer: str | None,
    dtype: str,
    threads: str | None,
    gguf: Sequence[Path] | None,
    keep: Path | None,
) -> int:
    from jrtcli.bench.llama_cpp import NAME, features, files_of

    chosen = tuple(dict.fromkeys(part.strip() for part in model.split(",") if part.strip()))
    files_of(gguf or (), chosen)
    dtypes, counts = _dtypes(dtype, asked.device, int8=True), _threads(threads, asked.device)

    from jrtcli.bench.models import PEERS, Plan, measure
    from jrtcli.bench.shapes import SHAPES

    default = (PEERS[0], NAME) if gguf else PEERS[:1]
    plan = Plan(
        models=chosen,
        shapes=shapes,
        backends=_backends(backend or "auto", every=False),
        peers=_peers(peer, PEERS, default),
        dtypes=dtypes,
        device=asked.device,
        threads=counts,
        repeat=asked.repeat,
        new_tokens=new_tokens,
        gguf=tuple(gguf or ()),
        keep=keep,
    )
    random = [name for name in chosen if name in SHAPES]
    notes = [f"{', '.join(random)}: the published shape with random weights"] if random else []
    if keep is not None and random:
        notes.append(f"those weights stay under {keep}")
    if NAME in plan.peers and (used := features()) is not None:
        notes.append(f"llama.cpp uses {used}")
    return _run(console, asked, lambda c: measure(plan, c), plan.count, dtypes, counts, notes)


def _run(
    console: Console,
    asked: _Asked,
    make: Callable[[Mapping[tuple[str, int], Ceilings]], Generator[Row, None, None]],
    total: int,
    dtypes: Sequence[str],
    threads: Sequence[int],
    notes: Sequence[str],
    *,
    paper: bool = False,
) -> int:
    """Measure the ceilings, then the rows; show what is done, also after Ctrl-C."""
    from jrtcli.bench.clock import Clock
    from jrtcli.bench.setting import ceilings_of, describe
    from jrtcli.commands.bench_show import draw, show

    say_when_compiling(console)
    if not asked.device.startswith("cuda"):
        notes = ["these are a CPU's times: not to be compared with a GPU's", *notes]
    rows: list[Row] = []
    interrupted = False
    ceilings: dict[tuple[str, int], Ceilings] = {}
    try:
        with console.status("measuring what this device can do"):
            ceilings = ceilings_of(asked.device, dtypes, threads)
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
        clock = " and ".join(dict.fromkeys(Clock(asked.device, count).name for count in threads))
        where = describe(command, asked.device, ceilings, clock)
        show(console, rows, where, asked.format, notes=notes, paper=paper)
        draw(console, rows, where, asked.plot, asked.format)
    return EXIT_INTERRUPTED if interrupted else EXIT_DONE


def _refuse(given: Mapping[str, object], reason: str) -> None:
    named = [name for name, value in given.items() if value is not None]
    if named:
        raise UsageError(f"{', '.join(named)} {reason}")


def _dtypes(text: str, device: str, *, int8: bool = False) -> tuple[str, ...]:
    from jrtcli.placement import resolve_dtype

    parts = [part.strip() for part in text.split(",")]
    if "int8" in parts and not int8:
        raise UsageError("--dtype int8 is for --model: weights in int8")
    return tuple(dict.fromkeys(part if part == "int8" else resolve_dtype(part, device) for part in parts))


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


def _backends(text: str, *, every: bool) -> tuple[str, ...]:
    from jrt_kernels.registry import OPS

    known = dict.fromkeys(name for backends in OPS.values() for name in backends)
    return names("--backend", text, ("auto", *(("all",) if every else ()), *known))


def _peers(text: str | None, known: tuple[str, ...], default: tuple[str, ...]) -> tuple[str, ...]:
    if text is None:
        return default
    return () if text.strip() == "none" else names("--peer", text, known)
