"""Predictions: an output file of answers, which the same command goes on with after a kill.

Each row says of which input row (`jrt.row`, Record.key) and of which configuration (`jrt.run`) it is, so the
file itself says what is still to do.
"""

from __future__ import annotations

import json
import re
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from jrtcli.appended import AppendedFile
from jrtcli.compressed import Damaged, by_magic
from jrtcli.errors import UsageError
from jrtcli.lines import MAX_LINE_BYTES, Lines, Source
from jrtcli.manifest import differences, manifest_path, read_manifest, run_hash, write_manifest
from jrtcli.records import BadRow, Record, id_digest

_ESCAPED = re.compile(r"[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# What an input line carries can be longer when it is written with escapes: "\u0085" for two bytes.
_MAX_ROW_BYTES = 8 * MAX_LINE_BYTES
_INSTEAD = "Take another output, or remove this one to begin anew"


def dumps(row: Mapping[str, Any], *, ascii_only: bool = False) -> str:
    """A row as one line of JSON that reads back exactly; controls, line separators, reordering marks and lone
    surrogates stand as \\u escapes."""
    text = json.dumps(row, ensure_ascii=ascii_only, allow_nan=False)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


class Rows(Iterator[tuple[bytes, dict[str, Any]]]):
    """The whole rows of an output, each with its line; a torn end is left out.

    Attributes, at the end: `bytes` of these lines; `torn`: whether more was there, or the end of a line or of
    a compressed stream was missing. Raises DocumentError where the file cannot be read, UsageError for a line
    that no `jrt batch` wrote.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.bytes = 0
        self.torn = False
        self._lines = Lines(Source(self.path).chunks(), limit=_MAX_ROW_BYTES)

    def __next__(self) -> tuple[bytes, dict[str, Any]]:
        try:
            line = next(self._lines)
        except Damaged:
            self.torn = True  # a compressed stream that was not closed: what was flushed has come
            raise StopIteration from None
        row = None if line.data is None else _parsed(line.data)
        if row is None and not line.ended:
            self.torn = True
            raise StopIteration
        if row is None:
            raise UsageError(
                f"{self.path}: line {line.number} was not written by jrt batch: take another output"
            )
        assert line.data is not None
        self.torn |= not line.ended
        self.bytes += line.bytes + 1
        return line.data + b"\n", row


def read_predictions(path: str | Path) -> Iterator[dict[str, Any]]:
    """The whole rows of an output in the order of the file. Raises as Rows."""
    return (row for _, row in Rows(path))


def _parsed(data: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(data)
        return row if isinstance(row["jrt"]["run"], str) and bytes.fromhex(row["jrt"]["row"]) else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


class Predictions:
    """The output of one run, open for writing; nobody else writes it meanwhile.

    run: what the answers depend on; a file with answers of another run is refused. about: further values for
    the manifest beside it, not compared. What an earlier run left is repaired: a torn last line is cut off,
    and rows with an error are taken out, to be tried again. Attributes: `kept`, answers of earlier runs;
    `retried`, errors taken out; `skipped`, input rows that need no new answer. Raises UsageError for another
    run's file, for one that another process writes and for what is no output of `jrt batch`; JrtError where
    it cannot be written.
    """

    def __init__(
        self, path: str | Path, run: Mapping[str, Any], *, about: Mapping[str, Any] | None = None
    ) -> None:
        self.run_hash = run_hash(run)
        self.kept = self.retried = self.skipped = 0
        self._answered: dict[bytes, bytes] = {}  # digest of an id -> the key of its answer
        self._outdated = False
        self._order = bytearray()  # 16 bytes for each row of the input
        self._file = AppendedFile(path)
        self.path, self.name = self._file.path, self._file.name
        try:
            self._check(run)
            self._repair()
            write_manifest(self.path, run, about or {})
        except BaseException:
            self._file.give_up()
            raise

    def __contains__(self, record: Record) -> bool:
        """Whether the file holds this row's answer."""
        return self._answered.get(id_digest(record.id)) == bytes.fromhex(record.key)

    def remaining(self, rows: Iterable[Record | BadRow]) -> Iterator[Record | BadRow]:
        """The rows of the input that the file holds no answer of."""
        for row in rows:
            self._order += bytes.fromhex(row.key)
            if isinstance(row, Record):
                if row in self:
                    self.skipped += 1
                    continue
                # An answer of what the row said before.
                self._outdated |= self._answered.pop(id_digest(row.id), None) is not None
            yield row

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row: once this returns, a kill cannot take it. Raises JrtError where that fails."""
        self._file.append(dumps(row).encode())
        if "error" not in row:
            self._note(row)

    def finish(self, *, ordered: bool = False) -> None:
        """End a run that has seen all of its input: answers that a changed row has outdated are taken out.

        ordered: bring the rows into the order in which `remaining` saw them.
        """
        self._file.end_stream()
        if ordered:
            places = {bytes(self._order[i : i + 16]): i for i in range(0, len(self._order), 16)}
            ranks = array("q", (_place(row, places) for _, row in self._current()))
            if self._outdated or any(a > b for a, b in pairwise(ranks)):
                self._replace(self._sorted(ranks))
        elif self._outdated:
            self._replace(line for line, _ in self._current())

    def close(self) -> None:
        """Close the file; what was written stays."""
        self._file.close()

    def __enter__(self) -> Predictions:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, run: Mapping[str, Any]) -> None:
        if not self._file.bytes:
            return
        with open(self.path, "rb") as file:
            head = file.read(4)
        found = by_magic(head)
        # Fewer bytes than tell it are the torn beginning of anything.
        if found != self._file.compression and len(head) == 4:
            kind = "is not compressed" if found is None else f"is a {found} file"
            raise UsageError(f"{self.name}: {kind}, unlike its name says: take another output")
        manifest = read_manifest(self.path)
        if manifest is None or run_hash(manifest["run"]) == self.run_hash:
            return
        if next(Rows(self.path), None) is not None:
            said = "; ".join(differences(manifest["run"], run))
            raise UsageError(f"{self.name}: was made with another configuration: {said}. {_INSTEAD}")

    def _repair(self) -> None:
        if not self._file.bytes:
            return
        rows = Rows(self.path)
        for _, row in rows:
            if row["jrt"]["run"] != self.run_hash:
                raise UsageError(
                    f"{self.name}: was made with another configuration, and without"
                    f" {manifest_path(self.path).name} beside it nothing says which. {_INSTEAD}"
                )
            if "error" in row:
                self.retried += 1
            else:
                self._note(row)
        self.kept = len(self._answered)
        if self.retried or self._outdated or (rows.torn and self._file.compression is not None):
            self._replace(line for line, row in self._current() if "error" not in row)
        elif rows.torn and rows.bytes > self._file.bytes:
            self._file.append(b"\n")  # all of the last line but its end
        elif rows.torn:
            self._file.cut(rows.bytes)

    def _note(self, row: Mapping[str, Any]) -> None:
        id = id_digest(row["id"])
        # Answered before, its row has changed since: the newer answer counts.
        self._outdated |= id in self._answered
        self._answered[id] = bytes.fromhex(row["jrt"]["row"])

    def _current(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """The lines that count."""
        for line, row in Rows(self.path):
            counts = self._answered.get(id_digest(row["id"])) == bytes.fromhex(row["jrt"]["row"])
            if counts or "error" in row:
                yield line, row

    def _sorted(self, ranks: array[int]) -> Iterator[bytes]:
        """The lines that count by their rank; a compressed file is expanded on disk, not in memory."""
        with tempfile.TemporaryFile(dir=self.path.parent) as expanded:
            starts = array("q", [0])
            for line, _ in self._current():
                starts.append(starts[-1] + expanded.write(line))
            for i in sorted(range(len(ranks)), key=ranks.__getitem__):
                expanded.seek(starts[i])
                yield expanded.read(starts[i + 1] - starts[i])

    def _replace(self, kept: Iterable[bytes]) -> None:
        self._file.replace(kept)
        self._outdated = False


def _place(row: Mapping[str, Any], places: Mapping[bytes, int]) -> int:
    """Where a row stands in the input; behind all others where it no longer does."""
    return places.get(bytes.fromhex(row["jrt"]["row"]), len(places) * 16)
