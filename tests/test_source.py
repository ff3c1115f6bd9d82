"""Documents: what can be read, where places in them are, and the one line that says why not."""

from __future__ import annotations

import builtins
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from jrtcli import source
from jrtcli.errors import DocumentError
from jrtcli.source import Document, from_text, join, read_document


def pdf_bytes(*pages: str) -> bytes:
    """A PDF with one line of text on each page."""
    kids = " ".join(f"{3 + 2 * i} 0 R" for i in range(len(pages)))
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>"]
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"
    for i, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {4 + 2 * i} 0 R"
            f" /Resources << /Font << /F1 {font} >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out, offsets = b"%PDF-1.4\n", []
    for i, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{i} 0 obj\n{body}\nendobj\n".encode("latin-1")
    xref = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n" + "".join(
        f"{o:010} 00000 n \n" for o in offsets
    )
    trailer = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    return out + (xref + trailer).encode("latin-1")


def docx_bytes(body: str) -> bytes:
    """A Word document with this body."""
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    types = "http://schemas.openxmlformats.org/package/2006/content-types"
    rels = "http://schemas.openxmlformats.org/package/2006/relationships"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    main = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{types}"><Default Extension="rels" ContentType='
            '"application/vnd.openxmlformats-package.relationships+xml"/>'
            f'<Override PartName="/word/document.xml" ContentType="{main}"/></Types>',
        )
        file.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{rels}"><Relationship Id="r1" Type="{office}"'
            ' Target="word/document.xml"/></Relationships>',
        )
        file.writestr(
            "word/document.xml", f'<w:document xmlns:w="{word}"><w:body>{body}</w:body></w:document>'
        )
    return buffer.getvalue()


def paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def read(tmp_path: Path, name: str, raw: bytes) -> Document:
    (tmp_path / name).write_bytes(raw)
    return read_document(tmp_path / name)


def where(document: Document, text: str) -> str:
    """The place of `text`, with the folder of its file left out."""
    at = document.text.index(text)
    return str(document.locate(at, at + len(text))).rpartition("/")[2]


def test_lines_of_a_text_file(tmp_path: Path) -> None:
    document = read(tmp_path, "a.txt", b"first\nsecond line\n\nfourth\n")
    assert where(document, "first") == "a.txt:1"
    assert where(document, "line") == "a.txt:2"
    assert where(document, "fourth") == "a.txt:4"
    location = document.locate(document.text.index("line"))
    assert (location.line, location.column, location.page) == (2, 8, None)
    assert document.locate(len(document.text)).line == 5
    assert document.locate(5).line == 1  # the line end belongs to its line
    with pytest.raises(ValueError, match="no characters 99 to 99"):
        document.locate(99)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_are_one_kind_and_lines_are_right(tmp_path: Path, end: str) -> None:
    document = read(tmp_path, "a.md", end.join(["# head", "", "a", "value", ""]).encode())
    assert document.text == "# head\n\na\nvalue\n"
    assert where(document, "value") == "a.md:4"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"]
)
def test_encodings(tmp_path: Path, encoding: str) -> None:
    text = "Größe: 3 µm\r\n漢字 🎉\n"
    marks = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff", "utf-32-be": b"\0\0\xfe\xff"}
    document = read(tmp_path, "a.txt", marks.get(encoding, b"") + text.encode(encoding))
    assert document.text == "Größe: 3 µm\n漢字 🎉\n"


def test_standard_input() -> None:
    document = read_document("-", stdin=io.BytesIO(b"a\nb"))
    assert str(document.locate(2)) == "stdin:2"
    assert read_document("-", stdin=io.BytesIO(b" <!DOCTYPE html><p>x")).text == "x"
    assert read_document("-", stdin=io.BytesIO(pdf_bytes("Page one"))).text == "Page one"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"\xff\xfe", "is empty"),
        ("\u00a0\u2003".encode(), "is empty"),
        (b"abc\ndef \xe9t\xe9", r"is not UTF-8 at byte 8 \(0xe9, line 2\): save it as UTF-8"),
        (b"ab\xc3", r"is not UTF-8 at byte 2 \(0xc3, line 1\)"),
        (b"\xff\xfea\0b", r"is not UTF-16 at byte 4"),
        (b"\x89PNG\r\n\x1a\n\0\0", r"is a binary file \(a NUL at byte 8\)"),
        (b"ab\0cd", r"is a binary file \(a NUL at byte 2\)"),
        ("plain".encode("utf-16-le"), "UTF-16 needs its byte order mark"),
    ],
)
def test_what_is_no_text(tmp_path: Path, raw: bytes, message: str) -> None:
    with pytest.raises(DocumentError, match=message) as error:
        read(tmp_path, "a.txt", raw)
    assert str(error.value).startswith(str(tmp_path / "a.txt"))
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"none\.txt: cannot be read: No such file or directory"):
        read_document(tmp_path / "none.txt")
    with pytest.raises(DocumentError, match="Is a directory"):
        read_document(tmp_path)
    with pytest.raises(DocumentError, match="null byte"):
        read_document("a\0b")
    if os.geteuid() != 0:
        (tmp_path / "locked.txt").write_text("x")
        (tmp_path / "locked.txt").chmod(0)
        with pytest.raises(DocumentError, match="Permission denied"):
            read_document(tmp_path / "locked.txt")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(DocumentError, match=r"a\.txt: cannot be read: Permission denied"):
        read_document("a.txt")


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MAX_BYTES", 2**20)
    assert len(read(tmp_path, "fits.txt", b"x" * 2**20).text) == 2**20
    with pytest.raises(DocumentError, match="is larger than 1 MiB"):
        read(tmp_path, "big.txt", b"x" * (2**20 + 1))


def test_pages_of_a_pdf(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    document = read(tmp_path, "a.pdf", pdf_bytes("Applicant: Acme", "", "Code: LCO"))
    assert document.text == "Applicant: Acme\n\nCode: LCO"
    assert where(document, "Acme") == "a.pdf page 1"
    assert where(document, "LCO") == "a.pdf page 3"
    assert document.locate(len("Applicant: Acme\n")).page == 2
    # A PDF by another name is still one.
    assert where(read(tmp_path, "a.txt", pdf_bytes("x")), "x") == "a.txt page 1"


def test_pdf_without_text_or_behind_a_password(tmp_path: Path) -> None:
    pypdf = pytest.importorskip("pypdf")
    with pytest.raises(DocumentError, match="has no text in its 2 pages: scanned"):
        read(tmp_path, "scan.pdf", pdf_bytes("", ""))
    for raw in (b"%PDF-1.4\nrubbish", b"not a PDF at all"):
        with pytest.raises(DocumentError, match="is not a PDF that can be read") as error:
            read(tmp_path, "bad.pdf", raw)
        assert "\n" not in str(error.value)
    writer = pypdf.PdfWriter(clone_from=pypdf.PdfReader(io.BytesIO(pdf_bytes("secret"))))
    writer.encrypt("password", algorithm="RC4-128")
    writer.write(tmp_path / "locked.pdf")
    with pytest.raises(DocumentError, match="is encrypted"):
        read_document(tmp_path / "locked.pdf")
    # With an empty password anyone may read it.
    writer = pypdf.PdfWriter(clone_from=pypdf.PdfReader(io.BytesIO(pdf_bytes("open"))))
    writer.encrypt("", owner_password="owner", algorithm="RC4-128")
    writer.write(tmp_path / "open.pdf")
    assert read_document(tmp_path / "open.pdf").text == "open"


def test_a_damaged_pdf_says_nothing_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pypdf")
    # A wrong cross-reference table: the library repairs it and would say so.
    raw = pdf_bytes("still here").replace(b"startxref\n", b"startxref\n9")
    assert read(tmp_path, "a.pdf", raw).text == "still here"
    assert capfd.readouterr() == ("", "")


def test_ligatures_of_a_pdf_are_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pypdf = pytest.importorskip("pypdf")
    monkeypatch.setattr(
        pypdf.PageObject, "extract_text", lambda self: "de\ufb01ned e\ufb03cacy\0 \ud83d\udca7"
    )
    assert read(tmp_path, "a.pdf", pdf_bytes("x")).text == "defined efficacy \U0001f4a7"


def test_docx(tmp_path: Path) -> None:
    pytest.importorskip("mammoth")
    pytest.importorskip("selectolax")
    cells = "".join(f"<w:tc>{paragraph(text)}</w:tc>" for text in ("Panel", "Hematology &amp; more"))
    body = paragraph("Summary") + paragraph("Applicant: Acme") + f"<w:tbl><w:tr>{cells}</w:tr></w:tbl>"
    document = read(tmp_path, "a.docx", docx_bytes(body))
    assert document.text == "Summary\n\nApplicant: Acme\n\nPanel\tHematology & more"
    assert where(document, "Hematology") == "a.docx text line 5"
    with pytest.raises(DocumentError, match="is not a DOCX document that can be read"):
        read(tmp_path, "bad.docx", b"PK\x03\x04 word/ rubbish")
    with pytest.raises(DocumentError, match="has no text"):
        read(tmp_path, "empty.docx", docx_bytes(paragraph("")))


def test_docx_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mammoth")
    from jrtcli import extract

    monkeypatch.setattr(extract, "MAX_BYTES", 1000)
    with pytest.raises(DocumentError, match="unpacks to"):
        read(tmp_path, "bomb.docx", docx_bytes(paragraph("x" * 10_000)))


def test_html(tmp_path: Path) -> None:
    pytest.importorskip("selectolax")
    page = """<!doctype html><html><head><title>not shown</title><style>p{}</style></head><body>
      <h1>Blue  pump</h1><script>alert("no")</script><p>Made by <b>Ac</b>me &amp; Co.<br>in two lines</p>
      <table><tr><th>Product code</th><td>LCO</td></tr>
      <tr><th>Panel</th><td><p>Hematology</p></td></tr></table>
      <ul><li>one<li>two</ul><pre>kept   as
  is</pre><p hidden>hidden</p><!-- comment --><noscript>none</noscript></body></html>"""
    document = read(tmp_path, "a.html", page.encode())
    assert document.text == (
        "Blue pump\n\nMade by Acme & Co.\nin two lines\n\nProduct code\tLCO\nPanel\tHematology\n\n"
        "one\ntwo\n\nkept   as\n  is"
    )
    assert where(document, "LCO") == "a.html text line 6"


def test_html_that_lays_out_its_page_with_tables(tmp_path: Path) -> None:
    pytest.importorskip("selectolax")
    page = (
        b"<table><tr><td><h2>Menu</h2><div>a</div><div>b</div></td><td><table><tr><th>K<td>v</table></table>"
    )
    assert read(tmp_path, "a.htm", page).text == "Menu\n\na\nb\n\nK\tv"


def test_html_encodings(tmp_path: Path) -> None:
    pytest.importorskip("selectolax")
    page = '<meta charset="iso-8859-1"><p>Größe'
    assert read(tmp_path, "a.html", page.encode("latin-1")).text == "Größe"
    assert read(tmp_path, "b.html", page.encode("utf-8")).text == "Größe"
    with pytest.raises(DocumentError, match="is not UTF-8 at byte 5"):
        read(tmp_path, "c.html", "<p>Größe".encode("latin-1"))
    with pytest.raises(DocumentError, match="neither UTF-8 nor no-such-code"):
        read(tmp_path, "d.html", b"<meta charset=no-such-code><p>\xff")
    with pytest.raises(DocumentError, match="has no text"):
        read(tmp_path, "e.html", b"<script>x</script>")


def test_html_nested_as_deep_as_it_likes(tmp_path: Path) -> None:
    pytest.importorskip("selectolax")
    assert read(tmp_path, "a.html", b"<div>" * 5000 + b"deep" + b"</div>" * 5000).text == "deep"


@pytest.mark.parametrize(
    ("name", "raw", "package"),
    [
        ("a.pdf", b"%PDF-1.4", "pypdf"),
        ("a.docx", docx_bytes(paragraph("x")), "mammoth"),
        ("a.html", b"<p>x", "selectolax"),
    ],
)
def test_a_missing_library_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, raw: bytes, package: str
) -> None:
    from jrtcli import extract

    def missing(module: str) -> Any:
        raise ImportError(module)

    monkeypatch.setattr(extract, "import_module", missing)
    with pytest.raises(DocumentError, match=rf"needs {package}: pip install 'jrt\[docs\]'"):
        read(tmp_path, name, raw)


def test_a_docx_document_is_named_also_where_its_second_library_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "selectolax.lexbor", None)
    with pytest.raises(DocumentError, match=r"a\.docx: a DOCX document needs selectolax"):
        read(tmp_path, "a.docx", docx_bytes(paragraph("x")))


def test_no_name_and_no_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    with pytest.raises(DocumentError, match="no name: give --doc FILE"):
        read_document("")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DocumentError, match="stdin: is closed"):
        read_document("-")


def test_text_needs_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for package in ("pypdf", "mammoth", "selectolax", "torch", "transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    # A Markdown or text file that holds HTML is shown as it is.
    assert read(tmp_path, "a.md", b"<html><b>bold</b>").text == "<html><b>bold</b>"


def test_join_keeps_every_place(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    documents = [
        read(tmp_path, "a.txt", b"\none\ntwo\n\n\n"),
        read(tmp_path, "b.pdf", pdf_bytes("three", "four")),
        from_text("five\nsix", "c.md"),
    ]
    document = join(documents)
    assert document.text == "\none\ntwo\n\nthree\nfour\n\nfive\nsix"
    places = {text: where(document, text) for text in ("one", "two", "three", "four", "five", "six")}
    assert places == {
        "one": "a.txt:2", "two": "a.txt:3", "three": "b.pdf page 1", "four": "b.pdf page 2",
        "five": "c.md:1", "six": "c.md:2",
    }  # fmt: skip
    assert document.name.endswith("c.md") and document.name.count(", ") == 2
    assert join(documents[:1]) is documents[0]
    assert join([join(documents[:2]), documents[2]]) == document
    with pytest.raises(DocumentError, match="no document"):
        join([])
