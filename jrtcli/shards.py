"""Shards: one input answered by several runs of the same command, each with an output of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jrtcli.errors import UsageError
from jrtcli.manifest import differences, read_manifest, run_hash
from jrtcli.predictions import Rows
from jrtcli.records import BadRow, Record

MOST = 99_999
"""The number of shards fits into the five digits of an output's name."""

_NAME = re.compile(r"-(\d{5})-of-(\d{5})$")


@dataclass(frozen=True)
class Shard:
    """The `index`-th of `count` shards, counted from 1: each count-th row, from the index-th on."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def has(self, number: int) -> bool:
        """Whether a row is its, by the row's number from 0."""
        return number % self.count == self.index - 1

    def take(self, rows: Iterable[Record | BadRow]) -> Iterator[Record | BadRow]:
        """Its rows, of all rows of the input."""
        return (row for row in rows if self.has(row.number))

    def path(self, out: str | Path) -> Path:
        """Where it writes: out.jsonl.gz -> out-00003-of-00008.jsonl.gz. Raises UsageError for stdout."""
        if str(out) == "-":
            raise UsageError(
                f"shard {self} cannot write to stdout, where nobody finds it again: give -o OUT.jsonl"
            )
        stem, suffix = _split(Path(out).name)
        return Path(out).with_name(f"{stem}-{self.index:05}-of-{self.count:05}{suffix}")


def parse_shard(text: str) -> Shard:
    """ "3/8" -> the third of eight shards. Raises UsageError."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip(), re.ASCII)
    if found is None:
        raise UsageError(f"--shard {text}: give I/N, such as 1/8 for the first of eight")
    index, count = int(found[1]), int(found[2])
    if not 1 <= count <= MOST:
        raise UsageError(f"--shard {text}: the number of shards is from 1 to {MOST:,}")
    if not 1 <= index <= count:
        raise UsageError(f"--shard {text}: shards count from 1, so give 1/{count} to {count}/{count}")
    return Shard(index, count)


def shard_of(environ: Mapping[str, str]) -> tuple[Shard, str] | None:
    """The shard that a scheduler's environment names, and the variables that say so; None where none does.

    SLURM_ARRAY_TASK_ID with _COUNT, _MIN and _STEP, and RANK with WORLD_SIZE (torchrun, accelerate launch).
    Where both are there, each task of the array is divided among its ranks. Raises UsageError.
    """
    index, count = 0, 1
    said = []
    if "SLURM_ARRAY_TASK_ID" in environ and "SLURM_ARRAY_TASK_COUNT" in environ:
        task, count = _number(environ, "SLURM_ARRAY_TASK_ID"), _number(environ, "SLURM_ARRAY_TASK_COUNT")
        first = _number(environ, "SLURM_ARRAY_TASK_MIN", 0)
        step = max(1, _number(environ, "SLURM_ARRAY_TASK_STEP", 1))
        index, rest = divmod(task - first, step)
        if rest or not 0 <= index < count:
            raise UsageError(
                f"SLURM_ARRAY_TASK_ID={task} is none of {count} tasks from {first} in steps of {step}:"
                " say which shard this is with --shard I/N"
            )
        if count > 1:
            said.append(f"SLURM_ARRAY_TASK_ID={task}")
    if "RANK" in environ and "WORLD_SIZE" in environ:
        rank, world = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
        if not 0 <= rank < world:
            raise UsageError(f"RANK={rank} is not below WORLD_SIZE={world}: give --shard I/N")
        index, count = index * world + rank, count * world
        if world > 1:
            said.append(f"RANK={rank}")
    if not said:
        return None
    return parse_shard(f"{index + 1}/{count}"), " and ".join(said)


class Elsewhere:
    """What other outputs than a shard's own have answered: those of other numbers of shards, and one of all
    rows.

    out: the output as the user names it, without a shard. shard: the outputs of as many shards are not read:
    none but its own has a row of it. Attributes: `files`, those that were read; `skipped`, rows that need no
    new answer. Raises UsageError for outputs of another run, for they could not be merged.
    """

    def __init__(self, out: str | Path, shard: Shard, run: Mapping[str, Any]) -> None:
        self.files: list[Path] = []
        self.skipped = 0
        self._keys: set[bytes] = set()
        for path in outputs(out):
            if shards_in(path) == shard.count:
                continue
            self.files.append(path)
            self._read(path, run)

    def remaining(self, rows: Iterable[Record | BadRow]) -> Iterator[Record | BadRow]:
        """The rows that no other output has an answer of."""
        for row in rows:
            if self._keys and bytes.fromhex(row.key) in self._keys:
                self.skipped += 1
            else:
                yield row

    def _read(self, path: Path, run: Mapping[str, Any]) -> None:
        mine = run_hash(run)
        for _, row in Rows(path):
            if row["jrt"]["run"] != mine:
                raise UsageError(
                    f"{path}: was made with another configuration{_unlike(path, run)}."
                    " Take another output, or remove that one"
                )
            if "error" not in row:
                self._keys.add(bytes.fromhex(row["jrt"]["row"]))


def outputs(out: str | Path) -> list[Path]:
    """The outputs that are there: `out` itself and those of its shards, in the order of their names."""
    stem, suffix = _split(Path(out).name)
    found = [Path(out)] if Path(out).is_file() else []
    for path in sorted(Path(out).parent.iterdir() if Path(out).parent.is_dir() else ()):
        own_stem, own_suffix = _split(path.name)
        if own_suffix == suffix and _NAME.sub("", own_stem) == stem != own_stem and path.is_file():
            found.append(path)
    return found


def shards_in(path: Path) -> int | None:
    """The number of shards that an output's name speaks of; None where it is of all rows."""
    found = _NAME.search(_split(path.name)[0])
    return None if found is None else int(found[2])


def _unlike(path: Path, run: Mapping[str, Any]) -> str:
    manifest = read_manifest(path)
    return "" if manifest is None else ": " + "; ".join(differences(manifest["run"], run))


def _split(name: str) -> tuple[str, str]:
    """answers.jsonl.gz -> answers, .jsonl.gz"""
    suffixes = re.search(r"(\.[A-Za-z]\w*){0,2}$", name)
    assert suffixes is not None
    cut = suffixes.start() if suffixes.start() > 0 else len(name)
    return name[:cut], name[cut:]


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name, "" if default is None else str(default))
    if not re.fullmatch(r"-?\d{1,9}", text, re.ASCII):
        raise UsageError(f"{name}={text!r} is no number: give --shard I/N")
    return int(text)
