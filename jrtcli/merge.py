"""Merge: the outputs of shards become one, which is checked to be whole."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jrtcli.appended import AppendedFile
from jrtcli.errors import JrtError, UsageError
from jrtcli.manifest import differences, read_manifest, run_hash, write_manifest
from jrtcli.predictions import Rows
from jrtcli.records import id_digest
from jrtcli.shards import outputs


@dataclass(frozen=True)
class Merged:
    """What was merged. rows: written, each id once; errors: those among them that no shard has an answer of;
    twice: answers that a second shard had too; missing: rows of the input that no shard has, None where no
    shard has seen the whole input.
    """

    files: tuple[Path, ...]
    rows: int
    errors: int
    twice: int
    missing: int | None


class _Best(NamedTuple):
    """The row of an id that counts: its key, the file it is in, whether it is an error."""

    key: bytes
    file: int
    failed: bool


def merge(out: str | Path, shards: Sequence[str | Path] = (), *, partial: bool = False) -> Merged:
    """Write the rows of all shards to `out`, each once: its answer, or its error where no shard has one.

    shards: none: those that lie beside `out`. What `out` holds already stays there. partial: take what is
    there, though rows are missing. Raises UsageError where the shards are not of one run or one input,
    JrtError where rows are missing, or nobody can say whether they are.
    """
    files = _files(Path(out), shards)
    run = _run(files)
    best: dict[bytes, _Best] = {}
    twice = 0
    for number, path in enumerate(files):
        for _, row in Rows(path):
            if row["jrt"]["run"] != run_hash(run):
                raise UsageError(f"{path}: has rows of another configuration than the other files")
            id, now = _id(row), _Best(bytes.fromhex(row["jrt"]["row"]), number, "error" in row)
            before = best.get(id)
            if before is None or (before.failed and not now.failed):
                best[id] = now
            elif not before.failed and not now.failed:
                if before.key != now.key:
                    raise UsageError(
                        f"{path}: row {str(row['id'])[:60]!r} asks something else in {files[before.file]}:"
                        " the shards are of different inputs"
                    )
                twice += 1
    totals = [manifest.get("rows") for manifest in map(read_manifest, files) if manifest is not None]
    total = max((n for n in totals if isinstance(n, int)), default=None)
    missing = None if total is None else max(0, total - len(best))
    if not partial:
        _check_whole(total, missing)
    _write(Path(out), files, best, run, {} if total is None else {"rows": total})
    errors = sum(one.failed for one in best.values())
    return Merged(tuple(files), len(best), errors, twice, missing)


def _id(row: Mapping[str, Any]) -> bytes:
    """What may be there once: the row's id; the line, where it had none that could be read."""
    duplicate = "error" in row and row["error"].get("kind") == "duplicate_id"
    # A second row with an id is an error row beside the first one.
    return bytes.fromhex(row["jrt"]["row"]) if row.get("id") is None or duplicate else id_digest(row["id"])


def _files(out: Path, shards: Sequence[str | Path]) -> list[Path]:
    """What is to be read, `out` first if it holds something."""
    if str(out) == "-":
        raise UsageError("jrt batch merge OUT: a file, so that a run can go on with it")
    given = [Path(shard) for shard in shards] or [path for path in outputs(out) if path != out]
    if not given:
        raise UsageError(f"there are no shards of {out} beside it: name them after it")
    if out.is_file() and out.stat().st_size:
        given.insert(0, out)
    files: dict[str, Path] = {}
    for path in given:
        if not path.is_file():
            raise UsageError(f"{path}: there is no such file")
        files.setdefault(os.path.realpath(path), path)
    return list(files.values())


def _run(files: Sequence[Path]) -> dict[str, Any]:
    """The configuration that all share."""
    known = {path: manifest["run"] for path in files if (manifest := read_manifest(path)) is not None}
    if not known:
        raise UsageError(f"{files[0]}: nothing beside it says how it was made (its .run.json is gone)")
    first, run = next(iter(known.items()))
    for path, other in known.items():
        if said := differences(run, other):
            raise UsageError(
                f"{path}: was made with another configuration than {first}: {'; '.join(said)}"
                f" ('there' is {first.name}, 'now' {path.name})"
            )
    return run


def _check_whole(total: int | None, missing: int | None) -> None:
    what = "run the command of each shard to its end, or take what is there with --partial"
    if total is None:
        raise JrtError(f"no shard has seen the whole input, so nobody knows how many rows it has: {what}")
    if missing:
        raise JrtError(f"{missing:,} of {total:,} rows are in no shard: {what}")


def _write(
    out: Path,
    files: Sequence[Path],
    best: Mapping[bytes, _Best],
    run: Mapping[str, Any],
    about: dict[str, int],
) -> None:
    file = AppendedFile(out)
    try:
        # Before the rows: an output whose rows nothing explains is refused.
        write_manifest(file.path, run, {})
        file.replace(_lines(files, best))
        write_manifest(file.path, run, about)
    except OSError as error:
        raise JrtError(f"{out}: cannot be written: {error.strerror or error}") from None
    finally:
        file.close()


def _lines(files: Sequence[Path], best: Mapping[bytes, _Best]) -> Iterator[bytes]:
    written: set[bytes] = set()
    for number, path in enumerate(files):
        for line, row in Rows(path):
            id = _id(row)
            now = _Best(bytes.fromhex(row["jrt"]["row"]), number, "error" in row)
            if best[id] == now and id not in written:
                written.add(id)
                yield line
