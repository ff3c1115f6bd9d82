"""`jrt read`: read a document once, to ask it many questions later."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jrtcli.commands import options
from jrtcli.commands.ask import load, open_cache, read_documents, template_of
from jrtcli.commands.ask_report import bytes_size
from jrtcli.console import Console
from jrtcli.document import STATE_DTYPES, check_place, save_state
from jrtcli.errors import StateError, UsageError
from jrtcli.state_cache import LEAST_TOKENS

if TYPE_CHECKING:
    from jrtcli.document import DocumentState
    from jrtcli.state_cache import StateCache

Docs = Annotated[
    list[str], typer.Argument(metavar="DOC", help="A document; several become one; - reads stdin.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Save the state here, for `jrt ask --state FILE`. Default: in the cache, for `jrt ask --doc`.",
    ),
]
StateDtype = Annotated[
    str,
    typer.Option(
        "--state-dtype",
        help=f"Numbers of the state in the file: {', '.join(STATE_DTYPES)}. Only float32 is exact.",
    ),
]


def read(
    doc: Docs,
    output: Output = None,
    model: options.Model = options.DEFAULT_MODEL,
    template: options.Template = None,
    reads: options.Reads = None,
    window: options.Window = None,
    state_dtype: StateDtype = "float32",
    json: options.Json = False,
    quiet: options.Quiet = False,
    tokenizer: options.Tokenizer = None,
    revision: options.Revision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    weights: options.Weights = "auto",
    backend: options.Backend = "auto",
) -> int:
    """Read a document once and save what the model remembers of it, to ask it many questions.

    The template must show the document before the question: ccq shares both of its readings, cqcq the first
    one, cq its only one. The file holds the document's text too, so that answers can be looked for in it;
    nobody but its owner may read it. A state fits the checkpoint, tokenizer, template and version of jrt that
    made it, and is refused by any other.
    """
    if state_dtype not in STATE_DTYPES:
        raise UsageError(f"no --state-dtype {state_dtype!r}: choose {', '.join(STATE_DTYPES)}")
    cache = None
    if output is None:
        cache = open_cache()
        if cache is None:
            raise UsageError("the cache is off (JRT_STATE_QUOTA is 0): name a file with -o FILE")
        if state_dtype != "float32":
            raise UsageError("the cache holds float32 only: name a file with -o FILE for --state-dtype")
    else:
        check_place(output)
    document = read_documents(doc)
    chosen = template_of(template)
    console = Console(quiet=quiet)
    loaded = load(
        console,
        model,
        device=device,
        dtype=dtype,
        backend=backend,
        weights=weights,
        revision=revision,
        tokenizer=tokenizer,
    )

    from jrtcli.reader import Reader

    reader = Reader(loaded, template=chosen, reads=reads, window=window)
    ahead = reader.ahead(document)
    if cache is not None and ahead.tokens < LEAST_TOKENS:
        raise UsageError(
            f"{document.name} gives {ahead.tokens:,} tokens to share: fewer than {LEAST_TOKENS} are not worth"
            " a place in the cache; name a file with -o FILE"
        )
    state = None
    if cache is not None:
        with suppress(StateError):  # what is wrong with the cache is said where the state is put there
            state = cache.get(ahead.identity, loaded)
    there = state is not None
    if state is None:
        with console.progress("reading", unit="tokens") as bar:
            state = reader.read(ahead, on_progress=bar.update)
    if output is None:
        assert cache is not None
        size, place = _into(cache, state), f"cache, {ahead.identity.key[:8]}"
        place += ", where it was already" * there
    else:
        size, place = save_state(output, state, dtype=state_dtype), str(output)
    if json:
        console.json(_row(state, size, output, state_dtype))
    console.report(
        [
            ("document", f"{document.name} ({len(document.text):,} characters)"),
            (
                "read",
                f"{state.tokens:,} tokens, {ahead.identity.part} (template {state.template}),"
                f" in {state.seconds:.2f} s",
            ),
            (
                "state",
                f"{bytes_size(state.nbytes)} in {state_dtype}, {bytes_size(size)} with the text ({place})",
            ),
            ("model", f"{loaded.identity.name} · {loaded.device} · {loaded.numbers} · {loaded.backend}"),
        ]
    )
    return 0


def _into(cache: StateCache, state: DocumentState) -> int:
    size = cache.put(state)
    if not size:
        raise UsageError(
            f"the state is larger than the whole cache ({bytes_size(cache.quota_bytes)}, JRT_STATE_QUOTA):"
            " name a file with -o FILE"
        )
    return size


def _row(state: DocumentState, size: int, output: Path | None, dtype: str) -> dict[str, Any]:
    from dataclasses import asdict, replace

    assert state.identity is not None
    return {
        "file": None if output is None else str(output),
        "key": state.identity.key if output is None else None,
        "bytes": size,
        "state_bytes": state.nbytes,
        "seconds": state.seconds,
        "document": state.document.name,
        "identity": asdict(replace(state.identity, state_dtype=dtype)),
    }
