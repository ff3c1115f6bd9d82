"""Rows of a QA jsonl file: each a Record, or a BadRow that says where and why it is none."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from jrtcli.chat_rows import ANSWERS_DEPEND_ON, chat, is_chat
from jrtcli.compressed import Damaged
from jrtcli.errors import DocumentError
from jrtcli.lines import MAX_LINE_BYTES, Line, Lines, Source
from jrtcli.strict_json import Wrong, kind_of, parse

if TYPE_CHECKING:
    from jrt_prompts import Prompt

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Fields:
    """The names that a row's fields have. context is looked for first, then doc, then state."""

    id: str = "id"
    context: str = "context"
    doc: str = "doc"
    state: str = "state"
    question: str = "question"
    answers: str = "answers"


@dataclass(frozen=True)
class BadRow:
    """A line that is no row. number: of the row, from 0; kind: one word, for counting; message: never shows
    what the line holds."""

    file: str
    line: int
    number: int
    id: str | int | None
    kind: str
    message: str

    @cached_property
    def key(self) -> str:
        """As Record.key; a line that is no row is told by its number."""
        return _digest(b"line", str(self.line).encode())


@dataclass(frozen=True)
class Record:
    """A question about a document: one of context (its text), doc, state (absolute paths of files).

    file, line: where it stands, line from 1, as a text editor counts; number: of the row, from 0, blank lines
    not counted. name: of the document, as the row has it. answers: the gold ones. carried: the row's fields
    as they go into its output row, without the text of the document. prompt: to be read as it is, instead of
    what a template makes of document and question.
    """

    file: str
    line: int
    number: int
    id: str | int
    question: str
    answers: tuple[str, ...]
    context: str | None
    doc: str | None
    state: str | None
    name: str
    carried: dict[str, Any] = field(default_factory=dict)
    prompt: Prompt | None = None

    @cached_property
    def document_key(self) -> str:
        """What tells documents apart: 32 hex digits of the content, a document's file read for it."""
        if self.context is not None:
            return _digest(b"context", self.context.encode("utf-8", "surrogatepass"))
        path = self.doc if self.doc is not None else self.state
        assert path is not None
        return _digest(b"doc" if self.doc is not None else b"state", _file_digest(path))

    @cached_property
    def key(self) -> str:
        """What tells rows apart, 32 hex digits: id, question, gold answers, document, every carried field."""
        content: list[Any] = [self.id, self.question, self.answers, self.document_key, self.carried]
        if self.prompt is not None:
            content.append(self.prompt.text)
        # Escapes keep lone surrogates; the order of fields in the line means nothing.
        return _digest(b"row", json.dumps(content, sort_keys=True).encode())


def id_digest(id: str | int | None) -> bytes:
    """12 bytes that stand for an id: 7 and "7" are one."""
    return hashlib.blake2b(str(id).encode("utf-8", "surrogatepass"), digest_size=12).digest()


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def _file_digest(path: str) -> bytes:
    """Of a file's content; b"" where it cannot be read: answering says why."""
    try:
        found = Path(path).stat()
        return _content_digest(path, found.st_mtime_ns, found.st_size)
    except (OSError, ValueError):
        return b""


@functools.lru_cache(maxsize=4096)
def _content_digest(path: str, modified_ns: int, size: int) -> bytes:
    """Of a file that was last written then: rows that share a document read it once."""
    if not Path(path).is_file():
        return b""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


class RecordReader(Iterator[Record | BadRow]):
    """The rows of a jsonl file, a path or "-" for stdin, as they come; gzip and zstd by their first bytes.

    A line that is no row is a BadRow, and the reading goes on. Blank lines are none. A row without an id has
    the number of its line. fields: the names of the fields. Raises DocumentError where the input itself
    cannot be opened.
    """

    def __init__(
        self, source: str | Path, fields: Fields | None = None, *, stdin: BinaryIO | None = None
    ) -> None:
        self._source = Source(source, stdin=stdin)
        self.name = self._source.name
        self.fields = fields or Fields()
        self.rows = 0
        """Rows so far, bad ones included."""
        self._folder = Path.cwd() if self._source.path is None else self._source.path.absolute().parent
        self._ids: dict[bytes, int] = {}  # digest of an id -> the line it stands on
        self._marks = self._returns = self._chats = 0
        self._lines = Lines(self._source.chunks())
        self._line = 0

    def stop(self) -> None:
        """Let the rows end here. From a signal handler it also ends a read that waits for input."""
        self._source.stop()

    def would_wait(self) -> bool:
        """Whether the next row has to be waited for: a pipe has nothing to give for the moment."""
        return not self._lines.pending and self._source.would_wait()

    def is_file(self, path: str | Path | int) -> bool:
        """Whether the input is this file, by whatever name or link; an int is an open descriptor."""
        return self._source.is_file(path)

    @property
    def notes(self) -> list[str]:
        """What was accepted so far and may not be meant, one sentence each."""
        said = []
        if self._marks:
            said.append(f"{self.name}: {_times(self._marks, 'byte order mark')} left out")
        if self._returns:
            said.append(f"{self.name}: {_times(self._returns, 'line')} ended with CR LF")
        if self._chats:
            said.append(
                f"{self.name}: {_times(self._chats, 'row')} asked for {', '.join(ANSWERS_DEPEND_ON[:3])}"
                " or the like: the options of this command decide"
            )
        return said

    def __next__(self) -> Record | BadRow:
        while True:
            try:
                line = next(self._lines)
            except (Damaged, DocumentError) as error:
                # The generator has ended with it: what can no longer be read is one more bad row.
                reason = str(error).removeprefix(f"{self.name}: ")
                kind = "damaged_file" if isinstance(error, Damaged) else "unreadable_file"
                return self._bad(self._line + 1, None, kind, f"the input {reason}; nothing after it was read")
            self._line = line.number
            data = self._without_ends(line)
            if data is None or data.strip():
                return self._row(line, data)

    def _without_ends(self, line: Line) -> bytes | None:
        data = line.data
        if data is not None and data.startswith(_BOM):
            self._marks += 1
            data = data.removeprefix(_BOM)
        if data is not None and data.endswith(b"\r"):
            self._returns += 1
            data = data[:-1]
        return data

    def _bad(self, line: int, id: str | int | None, kind: str, message: str) -> BadRow:
        self.rows += 1
        return BadRow(self.name, line, self.rows - 1, id, kind, message)

    def _row(self, line: Line, data: bytes | None) -> Record | BadRow:
        id: str | int | None = None
        try:
            if data is None:
                raise Wrong(
                    "too_long", f"the line has {line.bytes:,} bytes, more than {MAX_LINE_BYTES // 2**20} MiB"
                )
            row = parse(data)
            id = self._id(row, line.number)
            first = self._ids.setdefault(id_digest(id), line.number)
            if first != line.number:
                raise Wrong("duplicate_id", f"the id stands already on line {first}")
            return self._record(row, id, line.number)
        except Wrong as wrong:
            return self._bad(line.number, id, wrong.kind, str(wrong))

    def _id(self, row: Mapping[str, Any], line: int) -> str | int:
        name = self.fields.id
        if name not in row and "custom_id" in row:
            name = "custom_id"
        id = row.get(name)
        if id is None:
            return line
        if isinstance(id, bool) or not isinstance(id, str | int):
            raise Wrong("wrong_field", f"{name} is {kind_of(id)}: give text or a whole number")
        return id

    def _record(self, row: dict[str, Any], id: str | int, line: int) -> Record:
        fields = self.fields
        left_out = {fields.context}
        context, doc, state = (row.get(name) for name in (fields.context, fields.doc, fields.state))
        question = row.get(fields.question)
        extra: dict[str, Any] = {}
        if is_chat(row) and context is doc is state is question is None:
            left_out.add("body")
            try:
                context, question = chat(row["body"])
            except ValueError as error:
                raise Wrong("wrong_field", str(error)) from None
            self._chats += any(name in row["body"] for name in ANSWERS_DEPEND_ON)
            extra = {fields.question: question}
        if question is None:
            raise Wrong("missing_field", f"there is no {fields.question}")
        if context is doc is state is None:
            raise Wrong(
                "missing_field", f"there is no document: no {fields.context}, {fields.doc} or {fields.state}"
            )
        self._text(fields.question, question)
        doc = None if context is not None else doc
        state = None if context is not None or doc is not None else state
        path = next(
            (name for name, value in ((fields.doc, doc), (fields.state, state)) if value is not None), None
        )
        document = fields.context if path is None else path
        self._text(document, context if path is None else row[path])
        answers = _golds(row.get(fields.answers), fields.answers)
        carried = {name: value for name, value in row.items() if name not in left_out} | extra
        self.rows += 1
        return Record(
            file=self.name,
            line=line,
            number=self.rows - 1,
            id=id,
            question=question,
            answers=answers,
            context=context,
            doc=None if doc is None else str(self._folder / doc),
            state=None if state is None else str(self._folder / state),
            name=fields.context if path is None else row[path],
            carried=carried,
        )

    def _text(self, name: str, value: Any) -> None:
        if not isinstance(value, str):
            raise Wrong("wrong_field", f"{name} is {kind_of(value)}: give text")
        if not value.strip():
            raise Wrong("empty", f"{name} is empty")
        if "\0" in value:
            raise Wrong("wrong_field", f"{name} holds a NUL: it is no text")


def _golds(value: Any, name: str) -> tuple[str, ...]:
    """Gold answers: a text, a list of them, or SQuAD's {"text": [...]}; numbers as they are written."""
    if value is None:
        return ()
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        value = value["text"]
    golds = value if isinstance(value, list) else [value]
    for gold in golds:
        if isinstance(gold, bool) or not isinstance(gold, str | int | float):
            raise Wrong("wrong_field", f"{name} holds {kind_of(gold)}: give text, or a list of texts")
    return tuple(str(gold) for gold in golds)


def _times(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
