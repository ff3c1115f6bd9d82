"""Documents: files or standard input as text that knows its lines, its pages and where it came from."""

from __future__ import annotations

import codecs
import re
import sys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from jrtcli.errors import DocumentError

MAX_BYTES = 256 * 2**20
"""More than this is a mistake (a disk image, an endless pipe), not a document."""

BETWEEN = "\n\n"
"""What stands between two documents of one context. Not a mark: a document could forge any."""

# Byte order marks, the longest first: UTF-32 LE begins like UTF-16 LE.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LINE_END = re.compile(r"\r\n?")


@dataclass(frozen=True)
class Location:
    """A place in a document: its page where pages are known, and its line and column, all from 1.

    `converted`: lines count in the text taken out of the file (DOCX, HTML), not in the file.
    """

    name: str
    line: int
    column: int
    page: int | None = None
    converted: bool = False

    def __str__(self) -> str:
        if self.page is not None:
            return f"{self.name} page {self.page}"
        return f"{self.name} text line {self.line}" if self.converted else f"{self.name}:{self.line}"


@dataclass(frozen=True)
class Piece:
    """A document inside a text: it begins at the character `start`, its pages at `pages` (from `start`)."""

    name: str
    start: int = 0
    pages: tuple[int, ...] = ()
    converted: bool = False


@dataclass(frozen=True)
class Document:
    """A text and the files it came from. Line ends are "\\n"; positions are characters of `text`."""

    text: str
    pieces: tuple[Piece, ...]

    @property
    def name(self) -> str:
        """The names of its files."""
        return ", ".join(piece.name for piece in self.pieces)

    def piece(self, position: int) -> Piece:
        """The file that the character at `position` came from."""
        return self.pieces[max(0, bisect_right([p.start for p in self.pieces], position) - 1)]

    def locate(self, start: int, end: int | None = None) -> Location:
        """Where the characters `start` to `end` begin. Raises ValueError outside the text."""
        end = start if end is None else end
        if not 0 <= start <= end <= len(self.text):
            raise ValueError(f"no characters {start} to {end} in a text of {len(self.text)}")
        piece = self.piece(start)
        line_start = max(piece.start, self.text.rfind("\n", piece.start, start) + 1)
        line = self.text.count("\n", piece.start, line_start) + 1
        page = bisect_right(piece.pages, start - piece.start) if piece.pages else None
        return Location(piece.name, line, start - line_start + 1, page, piece.converted)


def from_text(text: str, name: str = "text") -> Document:
    """A document from a string. Raises DocumentError when there is nothing in it to read."""
    if not text.strip():
        raise DocumentError(f"{name}: is empty: there is nothing to read")
    return Document(_LINE_END.sub("\n", text), (Piece(name),))


def read_document(source: str | Path, *, stdin: BinaryIO | None = None) -> Document:
    """The document in a file, or on standard input for "-".

    Text in UTF-8 (or UTF-16/32 with a byte order mark), Markdown as it is; PDF, DOCX and HTML with the
    libraries of the extra `docs`. Raises DocumentError, in one line, for what cannot be read.
    """
    if str(source) == "-":
        name = "stdin"
        if stdin is None and sys.stdin is None:
            raise DocumentError("stdin: is closed: there is nothing to read")
        raw = _read(stdin if stdin is not None else sys.stdin.buffer, name)
    elif not str(source):
        raise DocumentError("a document has no name: give --doc FILE, or --doc - for stdin")
    else:
        name = str(source)
        try:
            with open(source, "rb") as file:
                raw = _read(file, name)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise DocumentError(f"{name}: cannot be read: {reason}") from None
    if not raw.strip():
        raise DocumentError(f"{name}: is empty: there is nothing to read")
    kind = _kind(raw, Path(name).suffix.lower() if name != "stdin" else "")
    if kind is None:
        return from_text(decode(raw, name), name)

    # The converters are an extra: read only when a document needs them.
    from jrtcli import extract

    if kind == "pdf":
        text, pages = extract.pdf(raw, name)
        return Document(text, (Piece(name, 0, pages),))
    text = extract.docx(raw, name) if kind == "docx" else extract.html(raw, name)
    return Document(text, (Piece(name, converted=True),))


def join(documents: Sequence[Document]) -> Document:
    """Several documents as one context, an empty line between them, each place still traced to its file."""
    if not documents:
        raise DocumentError("no document: give one with --doc")
    if len(documents) == 1:
        return documents[0]
    texts: list[str] = []
    pieces: list[Piece] = []
    start = 0
    for document in documents:
        text = document.text.rstrip()
        texts.append(text)
        pieces += [
            Piece(piece.name, start + piece.start, piece.pages, piece.converted) for piece in document.pieces
        ]
        start += len(text) + len(BETWEEN)
    return Document(BETWEEN.join(texts), tuple(pieces))


def decode(raw: bytes, name: str) -> str:
    """Bytes as text: by their byte order mark, else UTF-8. Raises DocumentError naming the wrong byte."""
    mark, encoding = next(((m, e) for m, e in _MARKS if raw.startswith(m)), (b"", "utf-8"))
    try:
        text = raw.decode(encoding)[1 if mark else 0 :]
    except UnicodeDecodeError as error:
        if b"\0" in raw and not mark:
            raise DocumentError(_binary(name, raw.index(b"\0"))) from None
        line = raw.count(b"\n", 0, error.start) + 1
        raise DocumentError(
            f"{name}: is not {encoding.upper().removesuffix('-LE').removesuffix('-BE')} at byte {error.start}"
            f" (0x{raw[error.start]:02x}, line {line}):"
            " save it as UTF-8, for example with iconv -f LATIN1 -t UTF-8"
        ) from None
    if "\0" in text:
        raise DocumentError(_binary(name, len(mark) + len(text[: text.index("\0")].encode(encoding))))
    return text


def _binary(name: str, byte: int) -> str:
    return (
        f"{name}: is a binary file (a NUL at byte {byte}):"
        " give text, Markdown, PDF, DOCX or HTML; UTF-16 needs its byte order mark"
    )


def _read(file: BinaryIO, name: str) -> bytes:
    raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise DocumentError(f"{name}: is larger than {MAX_BYTES // 2**20} MiB: give the part to be read")
    return raw


def _kind(raw: bytes, suffix: str) -> str | None:
    """ "pdf", "docx", "html", or None for text: by the first bytes, then by the suffix."""
    head = raw[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"%pdf-") or suffix == ".pdf":
        return "pdf"
    if (head.startswith(b"pk\x03\x04") and b"word/" in raw) or suffix == ".docx":
        return "docx"
    if suffix in (".html", ".htm", ".xhtml"):
        return "html"
    # Without a suffix (standard input) only what says that it is a page; a .txt or .md is shown as it is.
    return "html" if not suffix and head.startswith((b"<!doctype html", b"<html")) else None
