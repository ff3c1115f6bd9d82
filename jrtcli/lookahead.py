"""Which rows are answered beside each other: a bounded look ahead, by document and by length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jrtcli.records import Record

ROWS = 512
"""Rows looked ahead. More would group better and hold more documents in memory."""

CHARACTERS = 2**26
"""The same limit for the text of the documents."""


def look_ahead(
    records: Iterable[Record | None], *, rows: int = ROWS, characters: int = CHARACTERS
) -> Iterator[list[Record] | None]:
    """Rows of one document as one list; of the lists in view that of the longest document first.

    A document that the view ends in is held back, as it may go on; rows that are further apart than the view
    make two lists. None among the records ends the view there: it comes out as None behind what was in view.
    """
    held: dict[str, list[Record]] = {}
    count = size = 0
    for record in records:
        if record is None:
            yield from _by_length(held)
            yield None
            held, count, size = {}, 0, 0
            continue
        key = record.document_key
        if key not in held:
            held[key] = []
            size += _characters(record)
        held[key].append(record)
        count += 1
        if count >= rows or size >= characters:
            # The last document goes on, perhaps, unless it fills the view.
            kept = {key: held.pop(key)} if len(held) > 1 else {}
            yield from _by_length(held)
            held, count = kept, sum(map(len, kept.values()))
            size = _characters(record) if kept else 0
    yield from _by_length(held)


def _by_length(held: dict[str, list[Record]]) -> list[list[Record]]:
    return sorted(held.values(), key=lambda group: _characters(group[0]), reverse=True)


def _characters(record: Record) -> int:
    """Of the document, as far as they are known without reading a file."""
    return len(record.context or "")
