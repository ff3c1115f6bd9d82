"""Rows in: what is a row, what is none, and that nothing stops the reading or passes in silence."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import random
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from jrtcli import compressed, lines
from jrtcli.errors import DocumentError, UsageError
from jrtcli.records import BadRow, Fields, Record, RecordReader

GOOD = {"id": "a", "context": "The sky is blue.", "question": "Which colour?"}


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[Record | BadRow]]:
    def run(*parts: Any, fields: Fields | None = None, name: str = "in.jsonl") -> list[Record | BadRow]:
        raw = b"".join(
            part if isinstance(part, bytes) else json.dumps(part).encode() + b"\n" for part in parts
        )
        (tmp_path / name).write_bytes(raw)
        return list(RecordReader(tmp_path / name, fields))

    return run


def test_a_row(read: Any, tmp_path: Path) -> None:
    row = {**GOOD, "answers": ["blue", "azure"], "split": "dev", "weight": 0.1, "tags": [1, None, True]}
    (record,) = read(row)
    assert (record.id, record.question, record.context) == ("a", "Which colour?", "The sky is blue.")
    assert record.answers == ("blue", "azure") and (record.doc, record.state) == (None, None)
    assert record.carried == {name: value for name, value in row.items() if name != "context"}
    assert (record.file, record.line, record.number) == (str(tmp_path / "in.jsonl"), 1, 0)
    assert pickle.loads(pickle.dumps(record)) == record


def test_documents_lie_beside_the_input(read: Any, tmp_path: Path) -> None:
    rows = read(
        {"id": 1, "doc": "d/x.txt", "question": "?"},
        {"id": 2, "state": "/s/x.state", "question": "?"},
        {"id": 3, "doc": "x", "state": "y", "context": "z", "question": "?"},
    )
    assert [row.doc for row in rows] == [str(tmp_path / "d/x.txt"), None, None]
    assert rows[0].name == "d/x.txt" and rows[1].state == "/s/x.state" and rows[2].context == "z"
    # What is not the document is a field like any other.
    assert rows[2].carried == {"id": 3, "doc": "x", "state": "y", "question": "?"}


def test_fields_of_other_names(read: Any) -> None:
    fields = Fields("qid", "passage", "file", "memory", "query", "gold")
    (record,) = read({"qid": 7, "passage": "text", "query": "q?", "gold": "g", "id": "other"}, fields=fields)
    assert (record.id, record.context, record.question, record.answers) == (7, "text", "q?", ("g",))
    assert record.carried == {"qid": 7, "query": "q?", "gold": "g", "id": "other"}


@pytest.mark.parametrize(
    ("value", "golds"),
    [
        (None, ()),
        ([], ()),
        ("x", ("x",)),
        (["x", 3, 1.5], ("x", "3", "1.5")),
        ({"text": ["x"], "answer_start": [4]}, ("x",)),
        ("", ("",)),
    ],
)
def test_gold_answers(read: Any, value: Any, golds: tuple[str, ...]) -> None:
    assert read({**GOOD, "answers": value})[0].answers == golds


def test_a_row_without_an_id_has_the_number_of_its_line(read: Any) -> None:
    row = {"context": "c", "question": "q"}
    assert [r.id for r in read(b"\n", row, b"  \t\n", row, {**row, "id": None})] == [2, 4, 5]


def test_rows_of_an_openai_batch(read: Any) -> None:
    def request(*messages: Any, **body: Any) -> dict[str, Any]:
        body["messages"] = [m if isinstance(m, dict) else {"role": "user", "content": m} for m in messages]
        return {"custom_id": f"r{len(str(messages))}", "method": "POST", "url": "/v1/chat", "body": body}

    system = {"role": "system", "content": "The document."}
    parts = {"role": "user", "content": [{"type": "text", "text": "doc"}, {"type": "text", "text": "q?"}]}
    rows = read(
        request(system, "Who?", max_tokens=5),
        request("First.\n\nSecond.\n\nWho wrote it?"),
        request(parts),
        request(system, "more of it", "And who?"),
    )
    assert [(r.context, r.question) for r in rows] == [
        ("The document.", "Who?"),
        ("First.\n\nSecond.", "Who wrote it?"),
        ("doc", "q?"),
        ("The document.\n\nmore of it", "And who?"),
    ]
    assert rows[0].id == rows[0].carried["custom_id"] and "body" not in rows[0].carried
    assert rows[0].carried["question"] == "Who?"
    image = {"role": "user", "content": [{"type": "image_url"}]}
    bad = read(
        request("only a question"),
        request(system, {"role": "assistant", "content": "x"}, "q"),
        request(image, "q"),
        request(),
        request("q", system),
        {"custom_id": 1, "body": {}},
        request(7),
    )
    assert all(isinstance(row, BadRow) and row.kind == "wrong_field" for row in bad)


BROKEN: dict[str, tuple[bytes, str, str]] = {
    "text": (b"hello", "bad_json", "Expecting value at character 1"),
    "half": (b'{"id": "x", "que', "bad_json", "Unterminated string"),
    "two": (b'{"id": 1} {"id": 2}', "bad_json", "Extra data at character 11"),
    "utf8": (b'{"id": "\xff"}', "not_utf8", "byte 8 of the line (0xff)"),
    "nul": (b'{"id": "\x00"}', "bad_json", "a NUL at character 9"),
    "only_nul": (b"\x00" * 5000, "bad_json", "a NUL"),
    "control": (b'{"id": "\x01"}', "bad_json", "Invalid control character"),
    "nan": (b'{"id": "x", "w": NaN}', "bad_json", "NaN"),
    "infinity": (b'{"w": -Infinity}', "bad_json", "-Infinity"),
    "overflow": (b'{"w": 1e999}', "bad_json", "too large"),
    "digits": (b'{"w": ' + b"9" * 5000 + b"}", "bad_json", "too long"),
    "deep": (b"[" * 200_000, "bad_json", "nested too deeply"),
    "twice": (b'{"id": 1, "id": 2}', "bad_json", "twice"),
    "list": (b"[1, 2]", "not_an_object", "a list"),
    "null": (b"null", "not_an_object", "null"),
    "number": (b"3", "not_an_object", "a number"),
    "empty": (b"{}", "missing_field", "no question"),
    "no_document": (b'{"question": "q"}', "missing_field", "no context, doc or state"),
    "question": (b'{"question": 3, "context": "c"}', "wrong_field", "question is a number"),
    "context": (b'{"question": "q", "context": ["c"]}', "wrong_field", "context is a list"),
    "blank_context": (b'{"question": "q", "context": " \\n"}', "empty", "context is empty"),
    "blank_question": (b'{"question": "", "context": "c"}', "empty", "question is empty"),
    "blank_doc": (b'{"question": "q", "doc": ""}', "empty", "doc is empty"),
    "nul_context": (b'{"question": "q", "context": "a\\u0000"}', "wrong_field", "a NUL"),
    "id": (b'{"id": [1], "question": "q", "context": "c"}', "wrong_field", "id is a list"),
    "bool_id": (b'{"id": true, "question": "q", "context": "c"}', "wrong_field", "id is true or false"),
    "answers": (b'{"question": "q", "context": "c", "answers": [null]}', "wrong_field", "answers holds null"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_a_bad_row_of_its_place(read: Any, name: str, tmp_path: Path) -> None:
    line, kind, message = BROKEN[name]
    before, bad, after = read(GOOD, b"\r\n", line, b"\n", {**GOOD, "id": "b"})
    assert isinstance(before, Record) and isinstance(after, Record) and after.line == 4
    assert isinstance(bad, BadRow) and (bad.kind, bad.line, bad.number) == (kind, 3, 1)
    assert message in bad.message and bad.file == str(tmp_path / "in.jsonl")


def test_a_message_never_shows_the_line(read: Any) -> None:
    secret = "hunter2"
    for line in (
        b'{"a": "hunter2\\q"}', b'{"hunter2": NaN}', b"hunter2", b'{"id": "hunter2", hunter2}',
        b'{"hunter2": 1, "hunter2": 2}', b'{"question": "q", "context": {"hunter2": 1}}',
    ):  # fmt: skip
        (bad,) = read(line)
        assert isinstance(bad, BadRow) and secret not in bad.message


def test_an_id_stands_once(read: Any) -> None:
    rows = read(
        GOOD, {**GOOD, "id": "b"}, {**GOOD, "question": "other"}, {**GOOD, "id": 7}, {**GOOD, "id": "7"}
    )
    assert [type(row) for row in rows] == [Record, Record, BadRow, Record, BadRow]
    assert (rows[2].kind, rows[2].id, rows[2].message) == (
        "duplicate_id",
        "a",
        "the id stands already on line 1",
    )
    assert rows[4].message.endswith("line 4")


def test_marks_and_line_ends_are_taken_off_and_said(tmp_path: Path) -> None:
    line = json.dumps(GOOD).encode()
    other = json.dumps({**GOOD, "id": "b"}).encode()
    (tmp_path / "in.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n\xef\xbb\xbf" + other + b"\r\n")
    reader = RecordReader(tmp_path / "in.jsonl")
    rows = list(reader)
    assert [row.id for row in rows] == ["a", "b"]
    assert reader.notes[0].endswith("2 byte order marks left out")
    assert reader.notes[1].endswith("3 lines ended with CR LF")


def test_utf16_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(GOOD), encoding="utf-16")
    with pytest.raises(DocumentError, match="is UTF-16: save it as UTF-8"):
        RecordReader(tmp_path / "in.jsonl")


def test_a_line_that_is_too_long_is_passed_over_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "in.jsonl"
    with open(path, "wb") as file:
        file.write(json.dumps(GOOD).encode() + b'\n{"context": "')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n' + json.dumps({**GOOD, "id": "b"}).encode())
    tracemalloc.start()
    rows = list(RecordReader(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [type(row) for row in rows] == [Record, BadRow, Record]
    assert rows[1].kind == "too_long" and "100,000,015 bytes" in rows[1].message and rows[2].line == 3
    assert peak < 3 * lines.MAX_LINE_BYTES


def test_keys_follow_the_content_not_the_form(read: Any, tmp_path: Path) -> None:
    (first,) = read(b'{"id": "a", "context": "c", "question": "q", "w": 1}')
    (same,) = read(b'\n{"w":1,"question":"q",  "context":"\\u0063","id":"a"}')
    assert first.key == same.key and len(first.key) == 32 and same.line == 2
    for change in ({"id": "b"}, {"context": "d"}, {"question": "p"}, {"w": 2}, {"answers": ["x"]}):
        (other,) = read({"id": "a", "context": "c", "question": "q", "w": 1, **change})
        assert other.key != first.key
    doc = tmp_path / "doc.txt"
    keys = set()
    for text in ("one", "other", "one more"):
        doc.write_text(text)
        keys.add(read({"id": "a", "doc": "doc.txt", "question": "q"})[0].key)
    doc.unlink()
    keys.add(read({"id": "a", "doc": "doc.txt", "question": "q"})[0].key)
    assert len(keys) == 4


def test_lone_surrogates_have_keys(read: Any) -> None:
    (row,) = read(b'{"id": "\\ud800", "context": "\\ud801", "question": "q", "x": "\\udfff"}')
    assert isinstance(row, Record) and len(row.key) == 32


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_compressed_rows(kind: str, tmp_path: Path) -> None:
    raw = b"".join(json.dumps({**GOOD, "id": i}).encode() + b"\n" for i in range(2000))
    make = gzip.compress if kind == "gzip" else zstandard.compress
    # Two streams behind each other, as `cat a.gz b.gz` makes; the name does not matter.
    path = tmp_path / "in.jsonl"
    path.write_bytes(make(raw[:5000]) + make(raw[5000:]))
    assert [row.id for row in RecordReader(path)] == list(range(2000))
    assert lines.count_lines(path) == 2000
    stdin = io.BytesIO(path.read_bytes())
    assert sum(isinstance(row, Record) for row in RecordReader("-", stdin=stdin)) == 2000
    path.write_bytes(path.read_bytes()[:-9])
    *rows, bad = RecordReader(path)
    assert isinstance(bad, BadRow) and bad.kind == "damaged_file" and "cut short" in bad.message
    assert all(isinstance(row, Record) for row in rows) and bad.line == len(rows) + 1
    path.write_bytes(make(raw) + b"what is this")
    *rows, bad = RecordReader(path)
    assert len(rows) == 2000 and bad.kind == "damaged_file"


def test_what_expands_without_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "MAX_EXPANDED_BYTES", 2**21)
    for make in (gzip.compress, zstandard.compress):
        (tmp_path / "in").write_bytes(make(json.dumps(GOOD).encode() + b"\n") + make(b" " * 2**23))
        row, bad = RecordReader(tmp_path / "in")
        assert isinstance(row, Record) and bad.kind == "damaged_file" and "expands to more" in bad.message


def test_zstd_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.zst").write_bytes(zstandard.compress(b"{}"))
    monkeypatch.setattr(compressed, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'jrt\[zstd\]'"):
        RecordReader(tmp_path / "in.zst")


@pytest.mark.parametrize("name", ["missing.jsonl", ".", "", "a\0b"])
def test_an_input_that_cannot_be_opened(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DocumentError, match="cannot be read"):
        RecordReader(name)


def test_stdin_is_read_as_it_comes_and_can_be_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as stdin, open(writing, "wb", buffering=0) as pipe:
        pipe.write(json.dumps(GOOD).encode() + b"\n" + json.dumps({**GOOD, "id": "b"}).encode() + b"\n")
        monkeypatch.chdir(tmp_path)
        reader = RecordReader("-", stdin=stdin)
        first = next(reader)  # the pipe is still open
        assert isinstance(first, Record) and first.file == "stdin"
        reader.stop()
        assert len(list(reader)) == 1


def test_the_input_by_any_name(tmp_path: Path) -> None:
    path, link, hard = tmp_path / "in.jsonl", tmp_path / "link", tmp_path / "hard"
    path.write_text(json.dumps(GOOD))
    link.symlink_to(path)
    hard.hardlink_to(path)
    with open(path, "rb") as stdin:
        for reader in (RecordReader(path), RecordReader("-", stdin=stdin)):
            assert all(reader.is_file(name) for name in (path, link, hard, str(path), stdin.fileno()))
            assert not reader.is_file(tmp_path) and not reader.is_file(tmp_path / "missing")
    # What is no regular file can be both.
    assert not RecordReader("/dev/null").is_file("/dev/null")
    assert not RecordReader("-", stdin=io.BytesIO(b"{}")).is_file(path)


def test_closed_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DocumentError, match="stdin: is closed"):
        RecordReader("-")


def test_an_input_that_breaks_off_is_one_bad_row() -> None:
    class Breaking(io.RawIOBase):
        parts: Iterator[bytes] = iter([json.dumps(GOOD).encode() + b"\n"])

        def read1(self, size: int = -1) -> bytes:
            try:
                return next(self.parts)
            except StopIteration:
                raise OSError(5, "Input/output error") from None

    row, bad = RecordReader("-", stdin=Breaking())  # type: ignore[arg-type]
    assert isinstance(row, Record) and isinstance(bad, BadRow)
    assert bad.kind == "unreadable_file" and "Input/output error" in bad.message


def test_thousands_of_broken_lines(tmp_path: Path) -> None:
    """Every line that is not blank gives one row, at its place, whatever stands in it."""
    draw = random.Random(0)
    good = json.dumps({**GOOD, "answers": ["x"], "n": [1, {"a": None}]}).encode()
    made = []
    for number in range(6000):
        line = bytearray(good.replace(b'"a"', b'"%d"' % number, 1))
        for _ in range(draw.choice((0, 1, 1, 2, 5, 30))):
            at = draw.randrange(len(line) + 1)
            what = draw.randrange(5)
            if what == 0:
                line[at:at] = draw.randbytes(draw.randrange(1, 4)).replace(b"\n", b"")
            elif what == 1:
                del line[at : at + draw.randrange(1, 20)]
            elif what == 2 and at < len(line):
                line[at] = draw.choice(b'{}[]",:\\\x00\xff\xed\r 0NI')
            elif what == 3:
                line[at:at] = draw.choice(
                    (b"NaN", b"1e999", b"[[", b"\\ud800", b"\xef\xbb\xbf", b"null", b'"')
                )
            else:
                line[at:] = b""
        made.append(bytes(line))
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(made))
    rows = list(RecordReader(tmp_path / "in.jsonl"))
    blank = {
        n for n, line in enumerate(made, 1) if not line.removeprefix(b"\xef\xbb\xbf").strip(b" \t\r\n\v\f")
    }
    assert [row.line for row in rows] == [n for n in range(1, len(made) + 1) if n not in blank]
    assert [row.number for row in rows] == list(range(len(rows)))
    kinds = Counter(row.kind if isinstance(row, BadRow) else "good" for row in rows)
    assert kinds["good"] > 1000 and kinds["bad_json"] > 1000 and len(kinds) >= 6, kinds
    for row in rows:
        assert len(row.key) == 32
