"""Plain text on disk, read in pieces: files, folders, globs; .gz, .tar, .tar.gz; JSON lines with a `text`."""

from __future__ import annotations

import codecs
import glob
import gzip
import json
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from jrtcli.errors import JrtError, UsageError

PIECE_CHARS = 1 << 18
"""A document is read in pieces of about this many characters, cut after a line break."""
TEXT_SUFFIXES = (".txt", ".md", ".text", ".jsonl", ".txt.gz", ".jsonl.gz", ".tar", ".tar.gz", ".tgz")
"""What is taken out of a folder; a file that is named is read whatever it is called."""


class Piece(NamedTuple):
    """A stretch of a document; `ends`: the document ends with it. read_bytes: of its file on disk so far."""

    text: str
    ends: bool
    read_bytes: int


def find_files(paths: Sequence[str]) -> list[Path]:
    """The files of paths, folders (all below) and globs, sorted within each. Raises UsageError for
    nothing."""
    found: dict[Path, None] = {}
    for name in paths:
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.name.lower().endswith(TEXT_SUFFIXES))
        elif path.is_file():
            inside = [path]
        else:
            inside = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
        if not inside:
            raise UsageError(f"{name}: no such text file or folder with text; correct its path in the recipe")
        found |= dict.fromkeys(inside)
    return list(found)


def pieces(path: Path) -> Iterator[Piece]:
    """The documents of a file in order, in pieces; an archive has one per member that is text.

    Raises JrtError for a file that cannot be read. Bytes that are no UTF-8 become U+FFFD.
    """
    name = path.name.lower()
    try:
        with path.open("rb") as raw:
            if name.endswith((".tar", ".tar.gz", ".tgz")):
                with tarfile.open(fileobj=raw, mode="r|*") as archive:
                    for member in archive:
                        inner = member.name.lower()
                        if member.isfile() and inner.endswith((".txt", ".md", ".text", ".jsonl")):
                            inside = archive.extractfile(member)
                            assert inside is not None
                            yield from _documents(inside, inner, raw, path)
                return
            plain = name.removesuffix(".gz")
            stream: Any = gzip.GzipFile(fileobj=raw) if plain != name else raw
            yield from _documents(stream, plain, raw, path)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise JrtError(f"{path} cannot be read: {reason}") from None


def _documents(stream: IO[bytes], name: str, raw: IO[bytes], path: Path) -> Iterator[Piece]:
    if name.endswith(".jsonl"):
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield Piece(_text_of(line, path, number), True, raw.tell())
        return
    decode = codecs.getincrementaldecoder("utf-8")("replace")
    held = ""
    while data := stream.read(PIECE_CHARS):
        held += decode.decode(data)
        cut = held.rfind("\n") + 1
        if len(held) >= PIECE_CHARS and cut:
            yield Piece(held[:cut], False, raw.tell())
            held = held[cut:]
    yield Piece(held + decode.decode(b"", final=True), True, raw.tell())


def _text_of(line: bytes, path: Path, number: int) -> str:
    try:
        row: Any = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise JrtError(f"{path}, line {number}: not a JSON object with a `text`")
    text: str = row["text"]
    return text
