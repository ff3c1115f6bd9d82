"""`jrt models`: the checkpoints that go by a short name, and which of them are on this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from jrtcli import known
from jrtcli.commands import options
from jrtcli.commands.ask_report import bytes_size, size
from jrtcli.console import Console

COLUMNS = (
    "model",
    "architecture",
    "parameters",
    "tokenizer",
    "context",
    "size",
    "template",
    "here",
    "hub id",
)
DROPPABLE = ("hub id", "tokenizer", "template", "context", "size", "architecture")
"""What a narrow terminal does without, the first one first; --json has everything."""


def models(json: options.Json = False) -> int:
    """List the checkpoints that --model takes by a short name. Any hub id or folder works too.

    Nothing is downloaded: "here" says whether a checkpoint is in the cache of this machine, all of it.
    """
    console = Console()
    found = [_fields(entry) for entry in known.known()]
    if json:
        console.json(found)
        return 0
    console.table(COLUMNS, [_row(fields) for fields in found], droppable=DROPPABLE)
    console.note()
    if any(fields["default"] for fields in found):
        console.note("* the default, part of this installation")
    console.note("state-spaces/mamba-* exist with -hf too, in the format of transformers (mamba-130m-hf)")
    console.note(
        "`hf download ID` fetches one beforehand; --model takes any other hub id or a folder as well"
    )
    return 0


def _fields(entry: known.Known) -> dict[str, Any]:
    folder = known.folder_here(entry)
    return asdict(entry) | {
        "default": entry.name == options.DEFAULT_MODEL,
        "on_this_machine": folder is not None,
        "folder": str(folder) if folder else None,
    }


def _row(fields: dict[str, Any]) -> tuple[object, ...]:
    return (
        fields["name"] + ("*" if fields["default"] else ""),
        fields["architecture"],
        size(fields["parameters"]),
        fields["tokenizer"],
        fields["context"],
        bytes_size(fields["size_bytes"]),
        fields["template"],
        "yes" if fields["on_this_machine"] else "",
        fields["hub_id"] or "bundled",
    )
