"""`jrt state`: the saved states of documents, in files and in the cache."""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from jrtcli import __version__
from jrtcli.commands import options
from jrtcli.commands.ask import load, of_state, read_documents
from jrtcli.commands.ask_report import bytes_size
from jrtcli.console import Console
from jrtcli.document import About, describe
from jrtcli.errors import EXIT_FAILED, JrtError, StateError, UsageError
from jrtcli.source import Document
from jrtcli.state_cache import Entry, StateCache, size_bytes
from jrtcli.state_file import StateFile, read_file

state = typer.Typer(add_completion=False, help="Look at the saved states of documents, and remove them.")

COLUMNS = ("state", "document", "tokens", "template", "model", "size", "used")
DROPPABLE = ("template", "size", "used", "model")

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="STATE", help="Files, or the first characters of names in the cache."),
]
All = Annotated[bool, typer.Option("--all", help="Everything in the cache.")]
Unused = Annotated[
    float | None, typer.Option("--unused", min=0, metavar="DAYS", help="What was not used for so many days.")
]
MaxSize = Annotated[
    str | None,
    typer.Option("--max-size", metavar="SIZE", help="What is above this, such as 500MB. Default: the quota."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")]
VerifyModel = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Check against this checkpoint too; `own`: the one that read it."),
]


@state.command()
def show(name: Annotated[str, typer.Argument(metavar="STATE")], json: options.Json = False) -> int:
    """Say what a state was read with, after checking that its file is whole."""
    file = _read(name)
    about = describe(file)
    console = Console()
    if json:
        console.json(_fields(file, about))
        return 0
    identity = about.identity
    weights = f", {identity.weights} weights" if identity.weights != "auto" else ""
    rows: list[tuple[str, object]] = [
        ("document", f"{about.name} ({identity.document_sha256[:12]})"),
        ("tokens", f"{identity.tokens:,}" + (f" in {identity.passages} passages" * (identity.passages > 1))),
        ("read", f"{identity.part}, template {identity.template}, in {about.seconds:.2f} s"),
        (
            "checkpoint",
            f"{identity.checkpoint} ({identity.architecture}, weights {identity.weights_sha256[:12]})",
        ),
        ("source", about.source + (f", revision {identity.revision}" if identity.revision else "")),
        ("tokenizer", identity.tokenizer_sha256[:12]),
        ("window", identity.window or "none"),
        ("dtype", f"{identity.dtype}{weights}; the state in {identity.state_dtype}"),
        ("size", bytes_size(file.nbytes)),
        ("written", f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(about.time))} by jrt {identity.jrt}"),
    ]
    for label, value in rows:
        console.out(f"{label:<11} {value}")
    return 0


@state.command()
def ls(json: options.Json = False) -> int:
    """List the cache, the state used last first."""
    console, cache = Console(), StateCache()
    entries = cache.entries()
    if json:
        console.json([_entry(entry) for entry in entries])
        return 0
    if entries:
        console.table(COLUMNS, [_line(entry) for entry in entries], droppable=DROPPABLE)
    total = bytes_size(sum(entry.nbytes for entry in entries))
    console.note(f"{len(entries)} states, {total} of {bytes_size(cache.quota_bytes)} in {cache.directory}")
    return 0


@state.command()
def verify(
    names: Names = None,
    doc: options.Documents = None,
    model: VerifyModel = None,
    tokenizer: options.Tokenizer = None,
    quiet: options.Quiet = False,
) -> int:
    """Check that states are whole and unchanged; with --doc and --model that they are theirs.

    Without a name: all of the cache. Exit code 1 if one of them is not in order.
    """
    console = Console(quiet=quiet)
    document = read_documents(doc) if doc else None
    found = names or [str(entry.path) for entry in StateCache().entries()]
    failed = 0
    for name in found:
        try:
            said = _verify(console, name, document, model, tokenizer)
        except StateError as error:
            failed += 1
            console.error(str(error))
        else:
            console.out(f"{name}: {said}")
    if not names:
        console.note(f"{len(found) - failed} of {len(found)} states in the cache are in order")
    return EXIT_FAILED if failed else 0


@state.command()
def rm(names: Names = None, all: All = False, quiet: options.Quiet = False) -> int:
    """Remove states: files, or places of the cache by the first characters of their names."""
    console, cache = Console(quiet=quiet), StateCache()
    if bool(names) == all:
        raise UsageError("name the states to remove, or give --all for the whole cache")
    if all:
        gone = [entry for entry in cache.entries() if cache.remove(entry.key)]
        console.note(f"removed {len(gone)} states, {bytes_size(sum(entry.nbytes for entry in gone))}")
        return 0
    # All are looked for first: a slip in one name removes nothing.
    for path in [_path(name, removing=True) for name in names or []]:
        try:
            path.unlink()
        except OSError as error:
            raise StateError(f"{path}: cannot be removed: {error.strerror or error}") from None
        console.note(f"removed {path}")
    return 0


@state.command()
def prune(
    unused: Unused = None, max_size: MaxSize = None, dry_run: DryRun = False, quiet: options.Quiet = False
) -> int:
    """Remove from the cache what can never be used again and what is above the quota, the oldest first."""
    console = Console(quiet=quiet)
    cache = StateCache(quota_bytes=None if max_size is None else size_bytes(max_size, "--max-size"))
    gone = cache.prune(unused_s=None if unused is None else unused * 86400, dry_run=dry_run)
    for entry in gone:
        console.out(f"{entry.key[:8]}  {entry.wrong or _document(entry)}")
    size = bytes_size(sum(entry.nbytes for entry in gone))
    console.note(f"{'would remove' if dry_run else 'removed'} {len(gone)} states, {size}")
    return 0


def _path(name: str, *, removing: bool = False) -> Path:
    """A state by its file, or by the beginning of its name in the cache. Raises StateError."""
    path = Path(name)
    if path.exists() or path.is_symlink():
        if removing:
            read_file(path, whole=False)  # nothing but a state is removed
        return path
    if re.fullmatch(r"[0-9a-f]{4,64}", name):
        found = [entry.path for entry in StateCache().entries() if entry.key.startswith(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise StateError(f"{name}: {len(found)} states in the cache begin so: give more of the name")
    raise StateError(f"{name}: neither a file nor the beginning of a name in the cache (`jrt state ls`)")


def _read(name: str) -> StateFile:
    return read_file(_path(name))


def _verify(
    console: Console, name: str, document: Document | None, model: str | None, tokenizer: str | None
) -> str:
    from jrtcli.state_identity import text_sha256

    file = _read(name)
    about = describe(file)
    about.identity.check({"jrt": __version__}, name)
    if document is not None:
        about.identity.check({"document_sha256": text_sha256(document.text)}, name)
    if model is None:
        return "whole and unchanged" + (f", of {document.name}" if document is not None else "")
    wanted, revision = of_state(about) if model == "own" else (model, None)
    numbers = {"dtype": about.identity.dtype, "weights": about.identity.weights}
    loaded = load(console, wanted, revision=revision, tokenizer=tokenizer, **numbers)

    from jrtcli.document import state_of
    from jrtcli.reader import Reader

    identity = about.identity
    found = state_of(file, loaded, document=document)
    reader = Reader(loaded, template=about.order, reads=identity.reads, window=identity.window)
    try:
        now = asdict(reader.ahead(found.document).identity)
    except JrtError as error:
        raise StateError(f"{name}: {error}") from None
    identity.check(now | {"state_dtype": identity.state_dtype}, name)
    return f"whole and unchanged, fits {loaded.identity.name}" + (
        f", of {document.name}" if document is not None else ""
    )


def _fields(file: StateFile, about: About) -> dict[str, Any]:
    return {
        "file": file.name,
        "bytes": file.nbytes,
        "document": about.name,
        "source": about.source,
        "seconds": about.seconds,
        "time": about.time,
        "identity": asdict(about.identity),
        "tensors": {name: [dtype, list(shape)] for name, (dtype, shape) in sorted(file.tensors.items())},
    }


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "file": str(entry.path),
        "bytes": entry.nbytes,
        "used": entry.used,
        "usable": entry.usable,
        "wrong": entry.wrong or None,
        "document": entry.about.name if entry.about else None,
        "identity": asdict(entry.about.identity) if entry.about else None,
    }


def _document(entry: Entry) -> str:
    return entry.about.name if entry.about else entry.wrong


def _line(entry: Entry) -> tuple[object, ...]:
    used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
    if entry.about is None:
        return (entry.key[:8], f"({entry.wrong})", "", "", "", bytes_size(entry.nbytes), used)
    identity = entry.about.identity
    model = identity.checkpoint + ("" if entry.usable else f" (jrt {identity.jrt})")
    return (
        entry.key[:8],
        entry.about.name,
        f"{identity.tokens:,}",
        identity.template,
        model,
        bytes_size(entry.nbytes),
        used,
    )
