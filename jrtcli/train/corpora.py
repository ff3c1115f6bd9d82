"""Real documents for training: regulatory summaries with labelled fields, reading-comprehension paragraphs,
prose.

Each reader is cached by path. One document in ten (regulatory) and one article in ten (paragraphs) is the
*dev* part: never trained on, for choosing a checkpoint.
"""

from __future__ import annotations

import functools
import gzip
import json
import re
import tarfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from jrtcli.errors import JrtError


class Label(NamedTuple):
    """A labelled field: `text[start:end]` is the value of `key`."""

    key: str
    start: int
    end: int


class Labelled(NamedTuple):
    """A document with labelled fields, in order of place, none overlapping."""

    id: str
    text: str
    labels: tuple[Label, ...]


class Paragraph(NamedTuple):
    """A paragraph with (question, answer) pairs whose answers stand in it."""

    id: str
    text: str
    pairs: tuple[tuple[str, str], ...]


def _rows(path: str) -> list[dict[str, Any]]:
    opener = gzip.open if path.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.strip()]
    except FileNotFoundError:
        raise JrtError(f"{path}: no such training file; correct its path in the recipe") from None


@functools.cache
def labelled(docs: str, labels: str, dev: bool) -> tuple[Labelled, ...]:
    """Documents with their fields; dev: every tenth id in sorted order, else the others.

    Raises JrtError if a file is missing.
    """
    found: dict[str, list[Label]] = {}
    for row in _rows(labels):
        found.setdefault(row["id"], []).append(Label(row["key"], row["start"], row["end"]))
    texts = {row["id"]: row["text"] for row in _rows(docs)}
    chosen = [name for i, name in enumerate(sorted(texts)) if (i % 10 == 0) == dev]
    result = []
    for name in chosen:
        kept: list[Label] = []
        for label in sorted(found.get(name, []), key=lambda label: label.start):
            if not kept or label.start >= kept[-1].end:
                kept.append(label)
        if kept:
            result.append(Labelled(name, texts[name], tuple(kept)))
    return tuple(result)


@functools.cache
def paragraphs(path: str, dev: bool) -> tuple[Paragraph, ...]:
    """Paragraphs with their questions, split by article. Raises JrtError if the file is missing."""
    pairs: dict[str, list[tuple[str, str]]] = {}
    ids: dict[str, str] = {}
    for row in _rows(path):
        held = zlib.crc32(row.get("title", row["context"]).encode()) % 10 == 0
        answer = row["answers"][0].strip()
        if held == dev and answer and answer in row["context"] and "\n" not in answer:
            pairs.setdefault(row["context"], []).append((row["question"].strip(), answer))
            ids.setdefault(row["context"], str(row["id"]))
    return tuple(Paragraph(ids[text], text, tuple(found)) for text, found in pairs.items())


@functools.cache
def sentences(path: str, limit: int = 60_000) -> tuple[str, ...]:
    """Sentences of 20 to 220 characters from a folder or tar of .txt files, at most `limit`, evenly taken."""
    source = Path(path)
    if source.is_dir():
        texts = [p.read_text(encoding="utf-8", errors="replace") for p in sorted(source.glob("*.txt"))]
    elif source.is_file():
        with tarfile.open(source) as tar:
            members = sorted((m for m in tar.getmembers() if m.isfile()), key=lambda m: m.name)
            texts = [tar.extractfile(m).read().decode("utf-8", "replace") for m in members]  # type: ignore[union-attr]
    else:
        raise JrtError(f"{path}: no such folder or tar of texts; correct its path in the recipe")
    found = [
        sentence
        for text in texts
        for part in re.split(r"(?<=[.!?])\s+", text)
        if 20 <= len(sentence := " ".join(part.split())) <= 220
    ]
    step = max(1, len(found) // limit)
    return tuple(found[::step][:limit])


@functools.cache
def label_prose(docs: str, labels: str) -> tuple[str, ...]:
    """Sentences of the training part of labelled documents, beyond the fields: distractors of their own
    kind."""
    found = []
    for doc in labelled(docs, labels, False):
        for part in re.split(r"(?<=[.;])\s+", doc.text[doc.labels[-1].end :]):
            if 20 <= len(part) <= 220:
                found.append(part)
    return tuple(found)
