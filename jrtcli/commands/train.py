"""`jrt train`: a recipe in, a model out."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from jrtcli.commands import options
from jrtcli.console import Console
from jrtcli.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError


def train(
    recipe: Annotated[
        Path, typer.Argument(help="A recipe: see examples/bundled_first.toml.", metavar="RECIPE.toml")
    ],
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change a key of the recipe, as optimizer.muon_lr=0.01.", metavar="KEY=VALUE"
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Start from a checkpoint's weights: a short name, hub id or folder.",
            metavar="MODEL",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run.", metavar="DIR")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the folder's checkpoint, even with a changed recipe.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Remove what an earlier run left, and start.")
    ] = False,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0, help="Stop after so long; run again to go on.")
    ] = None,
    quiet: options.Quiet = False,
) -> int:
    """Train a model from a recipe; run it again to go on after a stop or a kill.

    Leaves DIR/best and DIR/last (each a folder for --model), DIR/metrics.jsonl and what it needs to resume.
    Ctrl-C saves and stops.
    """
    from jrtcli.train.config import load_recipe

    if resume and fresh:
        raise UsageError("--resume and --fresh exclude each other")
    plan = load_recipe(recipe, changes or [])
    if start is not None:
        plan = replace(plan, model=replace(plan.model, init_from=start))
    if output is not None:
        plan = replace(plan, output=str(output))
    if minutes is not None:
        plan = replace(plan, minutes=minutes)
    try:
        from jrtcli.train import events, loop
    except ModuleNotFoundError as error:
        if error.name != "accelerate":
            raise
        raise UsageError("training needs accelerate: pip install 'jrt[train]'") from None

    console = Console(quiet=quiet)
    mode = "fresh" if fresh else "always" if resume else "auto"
    with _interrupts() as pressed, console.progress("training", plan.steps, unit="steps") as bar:

        def show(event: events.Event) -> None:
            if isinstance(event, events.Progress):
                bar.update(event.step, **_fields(event))
            if isinstance(event, events.Preparing) and console.stderr_terminal:
                return
            if not isinstance(event, events.Progress) or not console.stderr_terminal:
                console.note(describe(event))

        result = loop.train(plan, on_event=show, stop=lambda: bool(pressed), resume=mode)
    if not result.main:
        return EXIT_INTERRUPTED if result.ended == "interrupted" else EXIT_DONE
    score = ""
    if result.score is not None and result.measure == "recall":
        score = f", recall {result.score:.1%} on the dev questions"
    elif result.score is not None:
        score = f", loss {result.score:.3f} on held-out text"
    console.note(f"{result.ended} at step {result.step:,} after {result.seconds / 60:.1f} min{score}")
    console.out(str(result.best))
    return EXIT_INTERRUPTED if result.ended == "interrupted" else EXIT_DONE


def _fields(event: object) -> dict[str, Any]:
    from jrtcli.train import events

    assert isinstance(event, events.Progress)
    shown: dict[str, Any] = {k: v for k, v in event.means.items() if k != "tag_loss"}
    return {**shown, "tokens/s": f"{event.tokens_per_s:,.0f}"}


def describe(event: object) -> str:
    """One plain line for an event of the loop."""
    from jrtcli.train import events

    if isinstance(event, events.Preparing):
        return f"{event.what}: {event.done / 1e6:,.1f} of {event.total / 1e6:,.1f} MB"
    if isinstance(event, events.Noted):
        return event.text
    if isinstance(event, events.Started):
        others = f" in {event.processes} processes" if event.processes > 1 else ""
        begin = f"resumed at step {event.step:,}" if event.step else "started"
        return (
            f"{begin}: {event.parameters:,} parameters, {event.steps:,} steps, {event.device}, "
            f"{event.precision}{others}, into {event.output}"
        )
    if isinstance(event, events.Progress):
        means = " ".join(f"{name} {value:.3f}" for name, value in event.means.items() if name != "tag_loss")
        waited = f" waited {event.waited_s:.1f}s" if event.waited_s > 1 else ""
        data = f" (data {event.data_tokens_per_s:,.0f})" if event.data_tokens_per_s else ""
        return (
            f"step {event.step}/{event.steps} stage {event.stage + 1} {means} {event.tokens / 1e6:.2f} Mtok "
            f"{event.tokens_per_s:,.0f} tokens/s{data} {event.left_s / 60:.0f} min left{waited}"
        )
    if isinstance(event, events.Evaluated):
        said = []
        if event.recall:
            shares = " ".join(f"{group} {share:.1%}" for group, share in event.recall.items())
            said.append(f"recall {shares} of {event.questions} questions")
        if event.losses:
            losses = " ".join(f"{name} {loss:.3f}" for name, loss in event.losses.items())
            said.append(f"held-out {losses}")
        mark = " (best so far)" if event.best else ""
        return f"step {event.step} {', '.join(said)} in {event.seconds:.0f}s{mark}"
    assert isinstance(event, events.Saved)
    return f"step {event.step} saved {event.folder}"


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Ctrl-C (or SIGTERM) fills the list: the loop ends its step and saves. A second one stops at once."""
    pressed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, note) for kind in kinds]
    try:
        yield pressed
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)
