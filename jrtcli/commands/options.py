"""The options that several commands share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jrt_prompts.template import MAX_READS
from jrtcli.errors import UsageError
from jrtcli.fill import WAYS

_MACHINE = "Machine and checkpoint"

Model = Annotated[
    str,
    typer.Option("--model", "-m", help="A short name (see `jrt models`), a hub id, or a folder."),
]
DEFAULT_MODEL = "tiny"

Documents = Annotated[
    list[str] | None,
    typer.Option("--doc", "-d", help="A document; repeat for several, - reads stdin.", metavar="FILE"),
]
Questions = Annotated[
    list[str] | None, typer.Option("--question", "-Q", help="A question; repeat for several.", metavar="TEXT")
]
Template = Annotated[
    str | None,
    typer.Option("--template", "-t", help="A template's name or TOML file. Default: the model's own."),
]
Reads = Annotated[
    int | None, typer.Option("--reads", "-n", min=1, help="How often the document is read.", metavar="N")
]
ReadsOrAuto = Annotated[
    str | None,
    typer.Option(
        "--reads",
        "-n",
        help="How often the document is read; auto: again (up to N times) where the answer is unsure.",
        metavar="N|auto[:N]",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", rich_help_panel=_MACHINE)]
Dtype = Annotated[
    str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.", rich_help_panel=_MACHINE)
]
Weights = Annotated[
    str,
    typer.Option(
        "--weights",
        help="auto, or int8: large matrices in a quarter of float32, for a CPU.",
        rich_help_panel=_MACHINE,
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        "--backend",
        help="Kernels: auto, naive, torch, numba (CPU), triton, fla or mamba_ssm (GPU); or NAME,OP=NAME.",
        rich_help_panel=_MACHINE,
    ),
]
Revision = Annotated[
    str | None,
    typer.Option("--revision", help="Branch, tag or commit of a hub checkpoint.", rich_help_panel=_MACHINE),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer", help="Another tokenizer: a file, a folder or a hub id.", rich_help_panel=_MACHINE
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything random.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON value on stdout, for scripts.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write here, not to stdout.", metavar="FILE")
]
Fill = Annotated[
    str, typer.Option("--fill", help=f"Prompts shorter than a trained encoder: {', '.join(WAYS)}.")
]
Window = Annotated[
    int | None,
    typer.Option(
        "--window",
        min=0,
        metavar="N",
        help="Read a longer document in passages of N tokens; 0: whole. Default: the model's own.",
    ),
]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="The longest answer.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="0: the most probable token.")]


def reads_or_auto(text: str | None) -> tuple[int | None, int | None]:
    """(readings, None) of a number, (None, most readings) of auto or auto:N. Raises UsageError."""
    if text is None:
        return None, None
    word, colon, number = text.strip().partition(":")
    if word == "auto" and not colon:
        from jrtcli.rereading import MOST_READS

        return None, MOST_READS
    wanted = number if word == "auto" else text
    try:
        reads = int(wanted)
    except ValueError:
        reads = 0
    least = 2 if word == "auto" else 1
    if not least <= reads <= MAX_READS:
        raise UsageError(
            f"--reads {text}: give a whole number from 1 to {MAX_READS}, auto, or auto:N with N from 2"
        )
    return (None, reads) if word == "auto" else (reads, None)
