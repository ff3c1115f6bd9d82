"""What answers the rows of `jrt batch`, all or those of a shard: this process, several, or a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jrtcli.commands.ask import load
from jrtcli.console import Console
from jrtcli.errors import UsageError
from jrtcli.shards import Elsewhere, Shard, outputs, parse_shard, shard_of

if TYPE_CHECKING:
    from jrtcli.batch import BatchSettings
    from jrtcli.commands.batch_run import Rows

_PANEL = "Several processes and machines"

ENGINES = ("local", "ray")
CHOICES = ("device", "dtype", "backend", "weights", "revision")
"""Settings that the loading of a checkpoint takes."""

ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Every N-th row from the I-th on, into an output of its own; `jrt batch merge` makes them one."
        " Default: from SLURM_ARRAY_TASK_ID or RANK.",
        rich_help_panel=_PANEL,
    ),
]
WorkersOption = Annotated[
    str | None,
    typer.Option(
        "--workers",
        "-w",
        metavar="N",
        help="Processes with a model each; auto: one for each GPU, on a CPU one.",
        rich_help_panel=_PANEL,
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        help="local; ray: a Ray cluster (extra `ray`).",
        rich_help_panel=_PANEL,
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Of the Ray cluster; auto: the one that runs here. Default: RAY_ADDRESS, else this machine.",
        rich_help_panel=_PANEL,
    ),
]


@dataclass(frozen=True)
class Placement:
    """Which of the input's rows are this run's. output: where they go; shard: None: all rows."""

    output: str
    whole_output: str
    shard: Shard | None = None

    def about(self) -> dict[str, str]:
        """For the manifest."""
        return {} if self.shard is None else {"shard": str(self.shard)}

    def total(self, rows: int | None) -> int | None:
        """The rows of this run, of those of the input."""
        if rows is None or self.shard is None:
            return rows
        return len(range(self.shard.index - 1, rows, self.shard.count))

    def take(self, console: Console, run: Mapping[str, Any]) -> Callable[[Rows], Rows]:
        """What picks its rows from those of the input: of its shard, and answered by no other output."""
        shard = self.shard
        if shard is None:
            return iter
        elsewhere = Elsewhere(self.whole_output, shard, run)
        if elsewhere.files:
            files = f"{len(elsewhere.files)} file{'s' * (len(elsewhere.files) > 1)}"
            console.note(f"rows that other outputs have answered are left out ({files})")
        return lambda rows: elsewhere.remaining(shard.take(rows))


def place(console: Console, option: str | None, output: str) -> Placement:
    """The shard that the option or a scheduler names, and its output. Raises UsageError."""
    found = (parse_shard(option), "--shard") if option is not None else shard_of(os.environ)
    if found is None:
        beside = [] if output == "-" else [path for path in outputs(output) if str(path) != output]
        if beside:
            console.note(
                f"outputs of shards lie beside {output} ({len(beside)}): `jrt batch merge --partial {output}`"
                " takes their rows over"
            )
        return Placement(output, output)
    shard, said_by = found
    path = shard.path(output)
    console.note(f"shard {shard} ({said_by}): {path}")
    return Placement(str(path), output, shard)


def check_engine(engine: str, address: str | None) -> None:
    """Raises UsageError for what cannot be meant."""
    if engine not in ENGINES:
        raise UsageError(f"no --engine {engine!r}: choose {', '.join(ENGINES)}")
    if address is not None and engine != "ray":
        raise UsageError(f"--address {address} is that of a Ray cluster: add --engine ray")


@contextmanager
def opened(
    console: Console,
    settings: BatchSettings,
    *,
    engine: str,
    workers: str | None,
    address: str | None,
    answerer: str = "jrtcli.batch:Answerer",
) -> Iterator[Any]:
    """The engine, its models loaded; ended with the block. answerer: "module:attribute" of what answers in
    each process, called with the settings."""
    if engine == "ray":
        from jrtcli.ray_engine import RayEngine

        with console.status("starting Ray"):
            cluster = RayEngine(
                settings, workers=workers, address=address, note=console.warn, answerer=answerer
            )
        console.note(f"Ray: {cluster.actors} actor{'s' * (cluster.actors > 1)}")
        try:
            yield cluster
        finally:
            cluster.close()
        return
    from jrtcli.workers import Workers, number_of_workers, visible_gpus

    number = None if workers is None else number_of_workers(workers, settings.device)
    if number is None or (workers == "auto" and number == 1):
        if settings.device == "auto" and "LOCAL_RANK" in os.environ and len(gpus := visible_gpus()) > 1:
            # torchrun starts a process for each GPU, and says which is whose.
            settings = replace(settings, device=f"cuda:{int(os.environ['LOCAL_RANK']) % len(gpus)}")
        choices = {name: getattr(settings, name) for name in CHOICES}
        loaded = load(console, settings.model, tokenizer=settings.tokenizer, **choices)
        module, _, name = answerer.partition(":")
        yield getattr(import_module(module), name)(settings, loaded=loaded)
        return
    with console.status(f"loading {settings.model} in {number} processes"):
        processes = Workers(settings, number, note=console.warn, answerer=answerer)
    console.note(f"{number} worker{'s' * (number > 1)}")
    try:
        yield processes
    finally:
        processes.close()
