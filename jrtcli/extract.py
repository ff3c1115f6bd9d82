"""The text inside PDF, DOCX and HTML files, by the small libraries of the extra `docs`."""

from __future__ import annotations

import io
import logging
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

from jrtcli.errors import DocumentError
from jrtcli.source import MAX_BYTES, decode

# Elements that stand on lines of their own, and those whose text is not part of the page.
_BLOCK_NAMES = """
    address article aside blockquote body caption center dd details dialog div dl dt fieldset figcaption
    figure footer form h1 h2 h3 h4 h5 h6 header hr html li main nav ol p pre section summary table
    tbody tfoot thead tr ul
"""
_PARAGRAPH_NAMES = "p h1 h2 h3 h4 h5 h6 table ul ol dl pre blockquote article section"
_HIDDEN_NAMES = "head script style noscript template svg math iframe object select textarea"
_BLOCKS = frozenset(_BLOCK_NAMES.split())
_PARAGRAPHS = frozenset(_PARAGRAPH_NAMES.split())
_HIDDEN = frozenset(_HIDDEN_NAMES.split())
# Glyphs that PDF fonts have for several letters; no question is asked with them.
_LIGATURES = str.maketrans(
    dict(zip("\ufb00\ufb01\ufb02\ufb03\ufb04", ("ff", "fi", "fl", "ffi", "ffl"), strict=True))
)
# A cell that holds one line of text stays on its row's line; one that lays out a page does not.
_PLAIN_CELL = "plain cell"
_CELLS = frozenset(("td", "th", _PLAIN_CELL))
_NOT_PLAIN = "table, div, ul, ol, dl, pre, h1, h2, h3, h4, p + p"
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([a-zA-Z0-9_.:-]{2,40})")


def _library(module: str, name: str, what: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise DocumentError(f"{name}: {what} needs {package}: pip install 'jrt[docs]'") from None


@contextmanager
def _quiet(logger_name: str) -> Iterator[None]:
    """What a library has to say about a damaged file is not for the user's terminal."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def pdf(raw: bytes, name: str) -> tuple[str, tuple[int, ...]]:
    """The text of a PDF, and the character at which each page begins."""
    pypdf = _library("pypdf", name, "a PDF")
    try:
        with _quiet("pypdf"):
            reader = pypdf.PdfReader(io.BytesIO(raw))
            if reader.is_encrypted and not reader.decrypt(""):
                raise DocumentError(f"{name}: is encrypted: take the password off first (qpdf --decrypt)")
            texts = [_tidy(page.extract_text()).translate(_LIGATURES) for page in reader.pages]
    except DocumentError:
        raise
    except Exception as error:  # pypdf raises KeyError, RecursionError and more for a damaged file
        if "crypt" in f"{type(error).__name__} {error}".lower():
            raise DocumentError(
                f"{name}: is encrypted: take the password off first (qpdf --decrypt)"
            ) from None
        raise DocumentError(f"{name}: is not a PDF that can be read: {_reason(error)}") from None
    if not any(text.strip() for text in texts):
        raise DocumentError(
            f"{name}: has no text in its {len(texts)} page{'s' * (len(texts) != 1)}:"
            " scanned? recognise its text first (ocrmypdf in.pdf out.pdf)"
        )
    starts, position = [], 0
    for text in texts:
        starts.append(position)
        position += len(text) + 1
    return "\n".join(texts), tuple(starts)


def docx(raw: bytes, name: str) -> str:
    """The text of a Word document; the cells of a table's row on one line, with tabs between."""
    mammoth = _library("mammoth", name, "a DOCX document")
    try:
        size = sum(entry.file_size for entry in zipfile.ZipFile(io.BytesIO(raw)).infolist())
        if size > MAX_BYTES:
            raise DocumentError(f"{name}: unpacks to {size // 2**20} MiB: give the part to be read")
        with _quiet("mammoth"):
            page = mammoth.convert_to_html(
                io.BytesIO(raw),
                convert_image=mammoth.images.img_element(lambda image: {"src": ""}),
            ).value
    except DocumentError:
        raise
    except Exception as error:  # mammoth passes on whatever its zip and XML readers meet
        raise DocumentError(f"{name}: is not a DOCX document that can be read: {_reason(error)}") from None
    return _page_text(page, name, "a DOCX document")


def html(raw: bytes, name: str) -> str:
    """The text of a web page: blocks on lines of their own, the cells of a table's row with tabs between."""
    declared = _CHARSET.search(raw[:2048])
    try:
        text = decode(raw, name)
    except DocumentError:
        if declared is None:
            raise
        try:
            text = raw.decode(declared.group(1).decode("ascii"))
        except (LookupError, UnicodeError):
            raise DocumentError(
                f"{name}: is neither UTF-8 nor {declared.group(1).decode('ascii')}, which it says it is"
            ) from None
    return _page_text(text, name, "HTML")


def _page_text(page: str, name: str, what: str) -> str:
    lexbor = _library("selectolax.lexbor", name, what)
    root = lexbor.LexborHTMLParser(page).root
    layout = _Layout()
    if root is not None:
        _walk(root, layout)
    text = _tidy(re.sub(r"[ \t]+\n", "\n", "".join(layout.out)))
    if not text.strip():
        raise DocumentError(f"{name}: has no text: there is nothing to read")
    return text


class _Layout:
    """Text laid out in lines: white space folded, breaks between blocks, tabs between cells."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self.gap = ""
        self.space = True
        self.cells = self.pres = 0

    def text(self, text: str) -> None:
        if not self.pres:
            text = re.sub(r"\s+", " ", text)
            if self.space or self.gap:
                text = text.removeprefix(" ")
        if text:
            # No gap before the first text: the page begins where its text does.
            self.out += [self.gap, text] if self.out else [text]
            self.gap, self.space = "", text[-1] == " "

    def apart(self, gap: str) -> None:
        """At least this between the text so far and what comes: an empty line, a line end, a tab, a space."""
        if self.cells and gap != "\t":
            gap = " "  # a block inside a cell stays on the row's line
        self.gap = max(self.gap, gap, key=(" ", "\t", "\n", "\n\n").index) if self.gap else gap

    def open(self, tag: str) -> None:
        if tag == "br":
            self.text("\n") if self.pres else self.line()
        elif tag == _PLAIN_CELL:
            self.cells += 1
        elif tag in _BLOCKS:
            self.apart("\n\n" if tag in _PARAGRAPHS else "\n")
        self.pres += tag == "pre"

    def close(self, tag: str) -> None:
        self.pres -= tag == "pre"
        self.cells -= tag == _PLAIN_CELL
        if tag in _CELLS:
            self.apart("\t")
        elif tag in _BLOCKS:
            self.apart("\n\n" if tag in _PARAGRAPHS else "\n")

    def line(self) -> None:
        self.gap = "\n\n" if self.gap.startswith("\n") else self.gap
        self.apart("\n")


def _walk(root: Any, layout: _Layout) -> None:
    """Lay out the text below a node; a stack, not recursion: pages are nested as deep as they like."""
    stack: list[Any] = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            layout.close(node)
        elif node.tag == "-text":
            layout.text(node.text_content or "")
        elif node.tag not in _HIDDEN and "hidden" not in node.attributes:
            tag = node.tag
            if tag in _CELLS and node.css_first(_NOT_PLAIN) is None:
                tag = _PLAIN_CELL
            layout.open(tag)
            stack.append(tag)
            children = []
            child = node.first_child
            while child is not None:
                children.append(child)
                child = child.next
            stack.extend(reversed(children))


def _tidy(text: str) -> str:
    """Extracted text as valid Unicode with "\\n" for line ends and without NULs, which fonts leave behind."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
