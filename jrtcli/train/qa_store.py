"""Question rows on disk, grouped by their context: read one group at a time, wherever it is.

A row is a JSON line `{"context", "question", "answers"}` (also "answer"; "title", where there is one, says
which contexts belong together). One title (or context) in ten is held out.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jrtcli.errors import JrtError, UsageError
from jrtcli.train.cache import cached, file_identity
from jrtcli.train.text_files import find_files

HELD_EVERY = 10
_FORMAT = 1


class Group(NamedTuple):
    """A context and what is asked of it: (question, answers), the answers not empty."""

    id: str
    context: str
    pairs: tuple[tuple[str, tuple[str, ...]], ...]


class Store(NamedTuple):
    """rows: the file of all rows. offsets: of each row in it, by group; bounds: groups, held: their side."""

    rows: Path
    offsets: np.ndarray
    bounds: np.ndarray
    held: np.ndarray


def index_rows(
    paths: Sequence[str], root: Path, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Path:
    """The cache folder of these files of rows, made where there is none. Raises UsageError where there are
    none, JrtError for a row that is not as it should be."""
    files = find_files(paths)
    total = sum(file.stat().st_size for file in files)

    def make(folder: Path) -> None:
        groups: dict[bytes, list[int]] = {}
        held: list[bool] = []
        done = 0
        with (folder / "rows.jsonl").open("wb") as out:
            for file in files:
                opener: Any = gzip.open if file.name.endswith(".gz") else open
                try:
                    with opener(file, "rb") as lines:
                        for number, line in enumerate(lines, 1):
                            if line.strip():
                                row = _checked(line, file, number)
                                key = hashlib.sha1(row["context"].encode("utf-8", "replace")).digest()
                                if key not in groups:
                                    side = str(row.get("title") or row["context"])
                                    held.append(zlib.crc32(side.encode("utf-8", "replace")) % HELD_EVERY == 0)
                                groups.setdefault(key, []).append(out.tell())
                                out.write(json.dumps(row).encode() + b"\n")
                except (OSError, EOFError, zlib.error) as error:
                    raise JrtError(
                        f"{file} cannot be read: {getattr(error, 'strerror', None) or error}"
                    ) from None
                done += file.stat().st_size
                on_progress(done, total)
        if not groups:
            raise UsageError(f"{', '.join(paths)}: there are no rows in these files")
        sizes = [len(offsets) for offsets in groups.values()]
        np.save(folder / "offsets.npy", np.array([n for g in groups.values() for n in g], dtype=np.int64))
        np.save(folder / "bounds.npy", np.array([0, *np.cumsum(sizes)], dtype=np.int64))
        np.save(folder / "held.npy", np.array(held, dtype=bool))

    return cached(root, "rows", [_FORMAT, *map(file_identity, files)], make)


def _checked(line: bytes, file: Path, number: int) -> dict[str, Any]:
    """context, question, answers and title of a row."""
    try:
        row = json.loads(line)
        answers = row["answers"] if "answers" in row else [row["answer"]]
        answers = [answers] if isinstance(answers, str) else list(answers)
        kept = {"context": row["context"], "question": row["question"], "answers": answers}
        if not all(isinstance(x, str) and x.strip() for x in (row["context"], row["question"], *answers)):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise JrtError(
            f"{file}, line {number}: not a row with context, question and answers, all of them text"
        ) from None
    return kept | ({"title": row["title"]} if row.get("title") else {}) | {"id": str(row.get("id", number))}


@functools.cache
def open_store(folder: str) -> Store:
    """The rows of a cache folder."""
    place = Path(folder)
    arrays = (np.load(place / f"{name}.npy") for name in ("offsets", "bounds", "held"))
    return Store(place / "rows.jsonl", *arrays)


@functools.cache
def side(folder: str, held_out: bool) -> np.ndarray:
    """The numbers of the groups of one side. All of them are training data where nothing would be left."""
    held = open_store(folder).held
    if held.all():
        held = np.zeros_like(held)
    return np.flatnonzero(held == held_out)


def read_group(folder: str, number: int) -> Group:
    """A group by its number."""
    store = open_store(folder)
    found = []
    with store.rows.open("rb") as file:
        for offset in store.offsets[store.bounds[number] : store.bounds[number + 1]]:
            file.seek(int(offset))
            found.append(json.loads(file.readline()))
    pairs = tuple((row["question"].strip(), tuple(a.strip() for a in row["answers"])) for row in found)
    return Group(found[0]["id"], found[0]["context"].strip(), pairs)
