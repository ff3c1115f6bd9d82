"""`jrt probe`: what a state of fixed size recalls, and what the order and the number of readings change."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jrtcli.commands import options
from jrtcli.console import Console
from jrtcli.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError

if TYPE_CHECKING:
    from jrtcli.probe.plan import Plan
    from jrtcli.probe.training import Row

FORMATS = ("table", "csv", "json")
_SIZES = "Sizes"

Task = Annotated[
    str | None, typer.Argument(help="disjointness or recall; left out with --model.", metavar="TASK")
]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Ask a checkpoint the same in words: a short name, hub id or folder."),
]
Full = Annotated[bool, typer.Option("--full", help="The paper's protocol: for a GPU, and days.")]
Seeds = Annotated[int | None, typer.Option("--seeds", min=1, help="Models of each kind.")]
Widths = Annotated[
    str | None,
    typer.Option("--widths", help="Model dims, as 32,64.", metavar="N,N", rich_help_panel=_SIZES),
]
FeatureDims = Annotated[
    str | None,
    typer.Option(
        "--feature-dims", help="Of the linear attention, as 4,8.", metavar="N,N", rich_help_panel=_SIZES
    ),
]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, help="Steps of each model.", rich_help_panel=_SIZES)
]
Questions = Annotated[
    int,
    typer.Option("--questions", min=2, help="With --model: questions of each kind.", rich_help_panel=_SIZES),
]
Jobs = Annotated[
    int | None, typer.Option("--jobs", "-j", min=1, help="Models trained at once. Default: one per core.")
]
Format = Annotated[str, typer.Option("--format", "-f", help=f"Of stdout: {', '.join(FORMATS)}.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Keep rows and figure here; what is done is not done again.",
        metavar="DIR",
    ),
]


def probe(
    task: Task = None,
    model: Model = None,
    full: Full = False,
    seeds: Seeds = None,
    widths: Widths = None,
    feature_dims: FeatureDims = None,
    steps: Steps = None,
    questions: Questions = 50,
    jobs: Jobs = None,
    format: Format = "table",
    output: Output = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    tokenizer: options.Tokenizer = None,
    revision: options.Revision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    weights: options.Weights = "auto",
    backend: options.Backend = "auto",
) -> int:
    """Show in minutes why reading twice helps: small models trained to compare sets, or to recall pairs.

    Accuracy over the size of the state: for the short set first and last, causal and non-causal, read once
    and twice (the paper's Figure 2); and which of the paper's expectations came out. With --model, a
    checkpoint is asked the same in words, untrained. Ctrl-C keeps what is done.
    """
    if format not in FORMATS:
        raise UsageError(f"no --format {format!r}: choose {', '.join(FORMATS)}")
    trained_only = {"--full": full or None, "--seeds": seeds, "--widths": widths, "--steps": steps,
                    "--feature-dims": feature_dims, "--jobs": jobs}  # fmt: skip
    if model is not None:
        given = [name for name, value in trained_only.items() if value is not None]
        if task is not None or given:
            raise UsageError(
                f"--model asks a checkpoint: {task or ', '.join(given)} is for models trained here"
            )
        from jrtcli.commands.probe_words import words

        choices = {"revision": revision, "tokenizer": tokenizer, "device": device, "dtype": dtype}
        choices |= {"weights": weights, "backend": backend}
        return words(Console(quiet=quiet), model, choices, questions, seed, format, output)
    if task is None:
        raise UsageError(
            "what to probe? `jrt probe disjointness`, `jrt probe recall`, or `jrt probe --model M`"
        )
    sizes = {"widths": _numbers("--widths", widths), "feature_dims": _numbers("--feature-dims", feature_dims)}

    from jrtcli.placement import resolve_device
    from jrtcli.probe.plan import plan_for

    plan = plan_for(task, full=full, seeds=seeds, steps=steps, first_seed=seed, **sizes)
    where = resolve_device(device)
    count = jobs or (1 if where != "cpu" else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
                     else os.cpu_count() or 1)  # fmt: skip
    return _train(Console(quiet=quiet), plan, where, count, format, output)


def _numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        found = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise UsageError(f"{option} {text!r}: give whole numbers with commas, as 32,64") from None
    return found


def _train(console: Console, plan: Plan, device: str, jobs: int, format: str, output: Path | None) -> int:
    from jrtcli.commands import probe_report
    from jrtcli.probe.plan import cells, tokens
    from jrtcli.probe.sweep import Done, Step, Store, finished, sweep

    everything = list(cells(plan))
    store = Store(output, plan) if output is not None else None
    kept = finished(plan, store.rows()) if store is not None else {}
    rows: list[Row] = [row for its in kept.values() for row in its]
    work = {cell.name: tokens(plan, cell) for cell in everything}
    console.note(
        f"{plan.task}: {len(everything)} models ({', '.join(plan.readings)}), {plan.steps:,} steps each,"
        f" at most {sum(work.values()) / 1e6:,.1f} million tokens, on {device}, {jobs} at once"
        + (f"; {len(kept)} done before" if kept else "")
    )
    # Tokens, not steps: a model that reads twice takes twice as long.
    at = {name: total if name in kept else 0 for name, total in work.items()}
    done, interrupted = len(kept), False
    try:
        with (
            console.progress(
                "training", sum(work.values()) // 1000, unit="thousand tokens", every_s=30
            ) as bar,
            closing(sweep(plan, skip=kept, jobs=jobs, device=device)) as events,
        ):
            bar.update(sum(at.values()) // 1000)
            for event in events:
                name = event.cell.name
                if isinstance(event, Step):
                    at[name] = work[name] * event.steps // plan.steps
                elif isinstance(event, Done):
                    at[name] = work[name]
                    done += 1
                    rows += event.rows
                    if store is not None:
                        store.add(event.rows)
                bar.update(sum(at.values()) // 1000, models=f"{done}/{len(everything)}")
    except KeyboardInterrupt:
        interrupted = True
    if interrupted:
        console.note(f"interrupted: {done} of {len(everything)} models are done", style="yellow")
    if rows:
        probe_report.show(console, plan, rows, format, output)
    return EXIT_INTERRUPTED if interrupted else EXIT_DONE
