"""`jrt eval perplexity`: perplexity of texts, in all and where it takes memory of the context."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jrtcli.commands import options
from jrtcli.commands.ask import load
from jrtcli.console import Console
from jrtcli.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError

if TYPE_CHECKING:
    from jrtcli.bigrams import BigramCounts

FORMATS = ("table", "csv", "json")
_CONVERTED = (".pdf", ".docx", ".html", ".htm", ".xhtml")

Texts = Annotated[list[str], typer.Argument(help="Text files, folders or globs; - reads stdin.")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="A short name, a hub id, or a folder; repeat to compare."),
]
Reference = Annotated[
    list[str] | None,
    typer.Option(
        "--reference", help="Text like the training data: rare bigrams are rare there.", metavar="TEXT"
    ),
]
Length = Annotated[
    int, typer.Option("--length", min=0, help="Tokens of a sequence, read from nothing; 0: a whole text.")
]
Skip = Annotated[int, typer.Option("--skip", min=0, help="First tokens of a sequence that do not count.")]
Rare = Annotated[
    int | None,
    typer.Option("--rare", min=1, help="An AR hit stands in the reference less often. Default: the paper's."),
]
Far = Annotated[
    int, typer.Option("--far", min=1, help="By frequency: bigrams last seen so many tokens ago or more.")
]
Rows = Annotated[int, typer.Option("--rows", min=1, help="Sequences of one length read side by side.")]
Format = Annotated[str, typer.Option("--format", "-f", help=f"Of stdout: {', '.join(FORMATS)}.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Keep perplexity.csv, .json and .svg here.", metavar="DIR"),
]


def perplexity(
    texts: Texts,
    model: Models = None,
    reference: Reference = None,
    length: Length = 0,
    skip: Skip = 0,
    rare: Rare = None,
    far: Far = 1024,
    rows: Rows = 1,
    format: Format = "table",
    output: Output = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    revision: options.Revision = None,
    tokenizer: options.Tokenizer = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    weights: options.Weights = "auto",
    backend: options.Backend = "auto",
) -> int:
    """Perplexity of texts: in all, of AR hits, of the rest; by distance and by frequency (Figure 3).

    An AR hit is the last token of a bigram that stood before in the context and is rare in the --reference:
    what a model can only know from memory of the context. The paper's setting is --length 2048 --skip 1024.
    """
    if format not in FORMATS:
        raise UsageError(f"no --format {format!r}: choose {', '.join(FORMATS)}")
    if rare is not None and not reference:
        raise UsageError("--rare counts bigrams of a reference corpus: give one with --reference")
    names = list(dict.fromkeys(model or [options.DEFAULT_MODEL]))
    if len(names) > 1 and revision is not None:
        raise UsageError("--revision is for one --model")
    files = _found(texts)
    reference_files = _found(reference or [])
    if output is not None and output.exists() and not output.is_dir():
        raise UsageError(f"{output}: is no folder; -o names one")

    from jrtcli.bigrams import count
    from jrtcli.perplexity import Settings
    from jrtcli.perplexity import perplexity as measure
    from jrtcli.source import read_document

    console = Console(quiet=quiet)
    # Read once, for every model and for a reference that is the same.
    stdin = read_document("-").text if "-" in files + reference_files else ""
    settings = Settings(length=length, skip=skip, rare=rare, far=far, rows=rows)
    made: list[dict[str, Any]] = []
    facts: dict[str, dict[str, Any]] = {}
    interrupted = False
    try:
        for name in names:
            loaded = load(
                console,
                name,
                device=device,
                dtype=dtype,
                weights=weights,
                backend=backend,
                revision=revision,
                tokenizer=tokenizer,
            )
            counts: BigramCounts | None = None
            if reference_files:
                counts = count(
                    loaded.tokenizer.encode(text, first=True) for _, text in _texts(reference_files, stdin)
                )
            with console.progress(loaded.identity.name, None, unit="tokens", every_s=30) as bar:
                found = measure(loaded, _texts(files, stdin), settings, counts=counts, on_progress=bar.update)
            made += found.rows
            facts[loaded.identity.name] = found.facts
            interrupted = found.facts["interrupted"]
            if interrupted:
                break
    except KeyboardInterrupt:
        interrupted = True
    if interrupted:
        console.note(_interruption(facts, names), style="yellow")
    if made:
        _show(console, made, facts, "json" if json else format, output)
    return EXIT_INTERRUPTED if interrupted else EXIT_DONE


def _interruption(facts: dict[str, dict[str, Any]], models: Sequence[str]) -> str:
    """What was done before Ctrl-C."""
    if not facts:
        return "interrupted: nothing was scored yet"
    *whole, last = facts.items()
    said = [name for name, _ in whole]
    if last[1]["interrupted"]:
        done = f"{last[0]}: what follows is of the {last[1]['scored_tokens']:,} tokens scored so far"
    else:
        done, said = "", [*said, last[0]]
    parts = [f"{', '.join(said)} done" if said else "", done]
    if missing := len(models) - len(facts):
        parts.append(f"{missing} of {len(models)} models not begun or without a score")
    return "interrupted; " + "; ".join(part for part in parts if part)


def _found(names: Sequence[str]) -> list[str]:
    """Every file that is named, in a folder, or matches; "-" stays. Raises UsageError for nothing."""
    from jrtcli.train.text_files import find_files

    found: list[str] = []
    for name in names:
        if name == "-":
            found.append(name)
            continue
        try:
            found += map(str, find_files([name]))
        except UsageError:
            raise UsageError(f"{name}: there is no such text file, and no folder with text") from None
    return found


def _texts(names: Sequence[str], stdin: str) -> Iterator[tuple[str, str]]:
    """Each document of each file, by name; "-" is `stdin`. Raises DocumentError, JrtError for what cannot be
    read."""
    from jrtcli.source import read_document
    from jrtcli.train.text_files import pieces

    for name in names:
        if name == "-":
            yield "stdin", stdin
            continue
        if name.lower().endswith(_CONVERTED):
            yield name, read_document(name).text
            continue
        held: list[str] = []
        for piece in pieces(Path(name)):
            held.append(piece.text)
            if piece.ends:
                yield name, "".join(held)
                held = []
        if held:
            yield name, "".join(held)


def _show(
    console: Console,
    rows: Sequence[dict[str, Any]],
    facts: dict[str, dict[str, Any]],
    format: str,
    output: Path | None,
) -> None:
    if format == "json":
        console.json({"rows": rows, "models": facts})
    elif format == "csv":
        console.out(as_csv(rows).rstrip("\n"))
    else:
        several = len(facts) > 1
        head = ("model",) * several + ("tokens of", "from", "to", "count", "perplexity", "nats", "±")
        console.table(head, [_cells(row, several) for row in rows], droppable=("nats", "±", "to"))
        for name, fact in facts.items():
            console.note(_said(name, fact))
    if output is not None:
        from jrtcli.console import dumps
        from jrtcli.perplexity_figure import svg

        output.mkdir(parents=True, exist_ok=True)
        (output / "perplexity.csv").write_text(as_csv(rows), encoding="utf-8")
        (output / "perplexity.json").write_text(dumps({"rows": rows, "models": facts}) + "\n")
        figure = output / "perplexity.svg"
        figure.write_text(
            svg(rows, "jrt eval perplexity; " + _said(*next(iter(facts.items())))), encoding="utf-8"
        )
        console.note(f"rows and figure: {figure}")


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The rows with a header."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _cells(row: dict[str, Any], several: bool) -> tuple[str, ...]:
    bounds = ["" if row[key] is None else f"{row[key]:,}" for key in ("low", "high")]
    spread = "" if row["stderr"] is None else f"{row['stderr']:.3f}"
    cells = (row["slice"], *bounds, f"{row['tokens']:,}", f"{row['perplexity']:,.2f}", f"{row['nll']:.3f}")
    return ((row["model"],) if several else ()) + (*cells, spread)


def _said(name: str, fact: dict[str, Any]) -> str:
    scored = f"{name} ({fact['numbers']}): {fact['scored_tokens']:,} of {fact['tokens']:,} tokens scored"
    if fact["left_tokens"]:
        scored += f", {fact['left_tokens']:,} left over in sequences too short"
    if fact["rare"] is None:
        return scored + "; no --reference, so every bigram seen before counts as an AR hit"
    few = "is not" if fact["rare"] == 1 else f"stands less than {fact['rare']:,} times"
    return f"{scored}; an AR hit's bigram {few} in the {fact['reference_tokens']:,} reference tokens"
