"""Row group: rows about one document, with what was read of it, or what can be read for all of them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jrtcli.document import DocumentState, load_state
from jrtcli.errors import DocumentError, NotResumable, UsageError
from jrtcli.records import Record
from jrtcli.source import Document, Piece, read_document

if TYPE_CHECKING:
    from jrtcli.ahead import Ahead
    from jrtcli.reader import Reader


class RowGroup(NamedTuple):
    """Rows about one document. state: what was read of it before. ahead: what of it can be read for all of
    them; None: nothing."""

    records: list[Record]
    document: Document
    state: DocumentState | None
    ahead: Ahead | None = None

    @classmethod
    def of(cls, records: list[Record], reader: Reader) -> RowGroup:
        """The group of rows that name one document. Raises DocumentError, StateError where it cannot be
        read."""
        document, state = _document(records[0], reader)
        ahead = None
        if state is None and len(records) > 1 and all(record.prompt is None for record in records):
            # This template, or this model, may have nothing to share.
            with suppress(UsageError, NotResumable):
                ahead = reader.ahead(document)
        return cls(records, document, state, ahead)


def _document(record: Record, reader: Reader) -> tuple[Document, DocumentState | None]:
    if record.context is not None:
        # As it is: positions are those of the row's own text.
        return Document(record.context, (Piece(record.name),)), None
    if record.state is not None:
        _check_file(record.state, record.name)
        state = load_state(record.state, reader.loaded)
        return state.document, state
    assert record.doc is not None
    _check_file(record.doc, record.name)
    return read_document(record.doc), None


def _check_file(path: str, name: str) -> None:
    """A row names a regular file: no pipe that never ends, no device."""
    if not Path(path).is_file():
        missing = not Path(path).exists()
        raise DocumentError(f"{name}: {'there is no such file' if missing else 'is no file'}")
