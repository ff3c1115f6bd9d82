"""The options of `jrt eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jrtcli.fill import WAYS
from jrtcli.tasks import TASKS

_GRID = "What is compared"

Tasks = Annotated[
    list[str] | None,
    typer.Argument(metavar="TASK...", help=f"{', '.join(TASKS)}; or a QA jsonl file.", show_default=False),
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="A model; repeat for several. Default: tiny.", metavar="NAME"),
]
Templates = Annotated[
    str | None,
    typer.Option(
        "--template",
        "-t",
        metavar="A,B",
        help="once, twice (the task's own prompts), or templates. Default: once,twice; for a file cq,cqcq.",
        rich_help_panel=_GRID,
    ),
]
Reads = Annotated[
    str | None,
    typer.Option(
        "--reads",
        "-n",
        metavar="1,2,auto",
        help="Readings of templates; auto[:N]: again (up to N times) where the answer is unsure.",
        rich_help_panel=_GRID,
    ),
]
Shots = Annotated[
    str, typer.Option("--shots", metavar="0,2", help="Examples in front.", rich_help_panel=_GRID)
]
Lengths = Annotated[
    str | None,
    typer.Option(
        "--length",
        metavar="512,1000",
        help="Tokens of the cut document and its answer. Default: 1000; a file's are whole.",
        rich_help_panel=_GRID,
    ),
]
Fills = Annotated[
    str,
    typer.Option(
        "--fill", metavar="A,B", help=f"JRT-RNN, short prompts: {', '.join(WAYS)}.", rich_help_panel=_GRID
    ),
]
Whole = Annotated[
    bool,
    typer.Option(
        "--no-window",
        help="No oracle window around the answer: whole documents, or with --length their beginning.",
        rich_help_panel=_GRID,
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N rows.")]
Scoring = Annotated[
    str | None,
    typer.Option(
        "--scoring", help="v1, or v0: golds keep their blanks, as in the paper. Default: v1; with --paper v0."
    ),
]
Data = Annotated[
    list[str] | None,
    typer.Option("--data", metavar="PATH", help="Rows: FILE, TASK=FILE, or a folder with TASK.jsonl."),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="DIR", help="Samples, JSON, CSV, HTML; gone on with after a kill."
    ),
]
Paper = Annotated[
    str | None,
    typer.Option("--paper", metavar="TABLE", help="Fill in table1, table2, table4 or table14 of the paper."),
]

Calibrate = Annotated[
    bool,
    typer.Option(
        "--calibrate",
        help="Find the threshold of --reads auto on these rows, keep it, and show recall over tokens read.",
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Every N-th row from the I-th on, beside those of others in DIR; the command without it puts all"
        " together. Default: from SLURM_ARRAY_TASK_ID or RANK.",
        rich_help_panel="Several processes and machines",
    ),
]
