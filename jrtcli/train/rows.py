"""Documents with questions from every source, cut to a length: what a row of a batch is made from."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

from jrtcli.train import corpora, values, wordings
from jrtcli.train.corpora import Labelled, Paragraph
from jrtcli.train.documents import SPLITS, one_sheet
from jrtcli.train.values import Draw


class Asked(NamedTuple):
    """A question, its answer, and where the answer's value lies in the context."""

    question: str
    answer: str
    start: int
    end: int


class Source(NamedTuple):
    """A context and what can be asked of it; at least one question."""

    context: str
    asked: tuple[Asked, ...]


_HEADING = 100  # characters kept before a value that a window is cut around, so that its field name is there
_KIND_OF = {
    "510k number": "code", "predicate 510k number": "code", "applicant": "org", "measurand": "word",
    "panel": "class",
    "proprietary and established names": "title", "predicate device name": "title", "type of test": "phrase",
    "purpose for submission": "phrase", "regulation section": "reg", "product code": "code",
    "classification": "class", "special instrument requirements": "phrase",
}  # fmt: skip


@functools.cache
def by_key(docs: str, labels: str) -> dict[str, tuple[str, ...]]:
    """Every training value of each key."""
    found: dict[str, list[str]] = {}
    for doc in corpora.labelled(docs, labels, False):
        for label in doc.labels:
            found.setdefault(label.key, []).append(doc.text[label.start : label.end])
    return {key: tuple(texts) for key, texts in found.items()}


def generated(d: Draw, length_chars: int, split: str = "train") -> Source:
    """A sheet of the generator."""
    sheet = one_sheet(d, SPLITS[split], length_chars)
    shift = len(sheet.text) - len(sheet.text.lstrip())
    asked = tuple(Asked(f.question, f.value, f.start - shift, f.end - shift) for f in sheet.facts)
    return Source(sheet.text.strip(), asked)


def label_question(d: Draw, key: str) -> str:
    """The question for a labelled field: mostly its name with a colon, as the evaluation asks."""
    shown, r = key[:1].upper() + key[1:], d.random()
    if r < 0.65:
        return shown + ":"
    if r < 0.8:
        return shown
    return f"What is the {key}?" if r < 0.9 else wordings.question(d, False, 0.0).replace("{K}", key)


def regulatory(
    d: Draw, doc: Labelled, pool: dict[str, tuple[str, ...]], length_chars: int, swap: float
) -> Source:
    """A window of a labelled document; each value is replaced with probability `swap`, by another document's
    or a made-up one, so that no document can be learnt by heart. Some are broken into lines at their
    headings."""
    broken = d.random() < 0.35
    parts: list[str] = []
    asked: list[Asked] = []
    length = last = 0
    for label in doc.labels:
        between = doc.text[last : label.start]
        value = doc.text[label.start : label.end]
        if d.random() < swap:
            made = d.random() < 0.4
            value = values.value(d, _KIND_OF.get(label.key, "phrase")) if made else d.of(pool[label.key])
        if broken:
            between = _broken(between)
        parts += (between, value)
        start = length + len(between)
        length = start + len(value)
        asked.append(Asked(label_question(d, label.key), value, start, length))
        last = label.end
    rest = doc.text[last : last + length_chars]
    text = "".join(parts) + (_broken(rest) if broken else rest)
    return _window(d, text, tuple(asked), length_chars)


def _broken(text: str) -> str:
    """The text with newlines for spaces around headings: same length."""
    for cut in (". ", ": "):
        if text.endswith(cut):
            text = text[:-1] + "\n"
    for mark in ("A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L", "1", "2", "3", "4", "5"):
        text = text.replace(f" {mark}. ", f"\n{mark}. ")
    return text


def _window(d: Draw, text: str, asked: tuple[Asked, ...], length_chars: int) -> Source:
    """A cut of about `length_chars`: from the start half of the time, else around a question drawn."""
    first = 0
    anchor = d.of(asked)
    room = length_chars - (anchor.end - anchor.start) - _HEADING
    if d.random() < 0.5 and room > 0 and len(text) > length_chars:
        first = max(0, anchor.start - _HEADING - d.below(room))
    elif anchor.end > length_chars:
        first = max(0, anchor.start - _HEADING - max(0, room) // 2)
    if first:
        first = text.find(" ", first, anchor.start) + 1 or first
    heading = _HEADING // 2 if first else 0
    end = max(min(len(text), first + length_chars), anchor.end)
    cut = text[first:end]
    shift = first + len(cut) - len(cut.lstrip())
    cut = cut.strip()
    inside = tuple(
        Asked(a.question, a.answer, a.start - shift, a.end - shift)
        for a in asked
        if a.start >= shift + heading and a.end - shift <= len(cut)
    )
    return Source(cut, inside)


def passages(d: Draw, found: tuple[Paragraph, ...], length_chars: int) -> Source:
    """Paragraphs, one after another, up to the length, with the questions of all of them."""
    parts: list[str] = []
    asked: list[Asked] = []
    seen: set[str] = set()
    length = 0
    while not parts or length < length_chars * 0.75:
        paragraph = d.of(found)
        if paragraph.id in seen:
            break
        seen.add(paragraph.id)
        text = paragraph.text.strip()
        for question, answer in paragraph.pairs:
            at = text.find(answer)
            if at >= 0:
                asked.append(Asked(question, answer, length + at, length + at + len(answer)))
        parts.append(text)
        length += len(text) + 1
    return Source("\n".join(parts), tuple(asked))


def each_field(doc: Labelled, length_chars: int) -> Iterator[tuple[str, Source]]:
    """The unchanged document as the evaluation shows it, once per field: its first characters, or as far as
    the value lies. Each with an id made of the document's and the field's."""
    for key, start, end in doc.labels:
        asked = Asked(key[:1].upper() + key[1:] + ":", doc.text[start:end], start, end)
        yield f"{doc.id}#{key.replace(' ', '_')}", Source(doc.text[: max(length_chars, end)], (asked,))
