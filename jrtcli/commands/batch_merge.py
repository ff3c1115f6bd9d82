"""`jrt batch merge`: the outputs of shards become one file, each row once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jrtcli.commands import options
from jrtcli.console import Console
from jrtcli.errors import EXIT_DONE, EXIT_SOME_ROWS_FAILED

Out = Annotated[Path, typer.Argument(help="The merged output.", metavar="OUT")]
Shards = Annotated[
    list[Path] | None,
    typer.Argument(help="Outputs of the shards. Default: those beside OUT.", metavar="SHARD"),
]
Partial = Annotated[bool, typer.Option("--partial", help="Merge what is there, though rows are missing.")]


def merge(out: Out, shards: Shards = None, partial: Partial = False, quiet: options.Quiet = False) -> int:
    """Merge the outputs of `jrt batch --shard`: one configuration, no row missing, each id once.

    An error row gives way to an answer. OUT can be gone on with by `jrt batch IN -o OUT`. Exit code 3 where
    rows have errors or are missing.
    """
    from jrtcli.merge import merge as merge_shards

    console = Console(quiet=quiet)
    merged = merge_shards(out, shards or [], partial=partial)
    if merged.twice:
        console.note(f"{merged.twice:,} rows were answered by two shards: one answer of each was kept")
    if merged.missing:
        console.warn(f"{merged.missing:,} rows of the input are in no shard")
    if partial and merged.missing is None:
        console.warn("no shard has seen the whole input: rows may be missing")
    errors = f", {merged.errors:,} of them errors" if merged.errors else ""
    console.note(f"{out}: {merged.rows:,} rows{errors}, from {len(merged.files)} files")
    return EXIT_SOME_ROWS_FAILED if merged.errors or merged.missing else EXIT_DONE
