"""Questions about one document: a file with one per line, or of JSON lines with gold answers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jrtcli.errors import DocumentError, UsageError
from jrtcli.source import decode

MAX_BYTES = 64 * 2**20
"""More than this is a mistake, not a list of questions: `jrt batch` takes files of any size."""


@dataclass(frozen=True)
class Question:
    """A question, the answers that count as right (none: it is not scored), and its name in a report."""

    id: str
    text: str
    answers: tuple[str, ...] = ()


def read_questions(source: str) -> list[Question]:
    """The questions of a file, or of standard input for "-".

    A line each, empty ones left out; or, where the first line begins with "{", JSON objects with `question`
    and, if there are any, `answers` (or `answer`) and `id`; of the files of `jrt batch` those whose rows are
    all about one document. Raises DocumentError for a file that cannot be read, UsageError that names file
    and line for a wrong one.
    """
    name = "stdin" if source == "-" else source
    lines = re.split(r"\r\n?|\n", decode(_read(source, name), name))
    rows = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise UsageError(f"{name}: holds no question: write one on each line")
    if not rows[0][1].startswith("{"):
        return [Question(str(number), text) for number, (_, text) in enumerate(rows, start=1)]
    found = list(_objects(rows, name))
    seen: dict[str, int] = {}
    for (line, _), question in zip(rows, found, strict=True):
        if question.id in seen:
            raise UsageError(
                f"{name}:{line}: the id {question.id!r} stands on line {seen[question.id]} too:"
                " ids must differ"
            )
        seen[question.id] = line
    return found


def _objects(rows: list[tuple[int, str]], name: str) -> Iterator[Question]:
    about: set[str] = set()
    for number, (line, text) in enumerate(rows, start=1):
        where = f"{name}:{line}"
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            raise UsageError(f"{where}: is not JSON: each line is one object with a question") from None
        if not isinstance(row, dict):
            raise UsageError(f"{where}: is not an object: each line is one with a question")
        asked = row.get("question")
        if not isinstance(asked, str) or not asked.strip():
            raise UsageError(f"{where}: has no question: a text under the name `question`")
        about.add(str([row.get(kind) for kind in ("context", "doc", "state")]))
        if len(about) > 1:
            raise UsageError(f"{where}: is about another document than the lines before: take `jrt batch`")
        answers = row.get("answers", row.get("answer"))
        golds = [answers] if isinstance(answers, str) else [] if answers is None else answers
        if not isinstance(golds, list) or not all(isinstance(gold, str) for gold in golds):
            raise UsageError(f"{where}: answers must be a text or a list of texts")
        yield Question(_id(row.get("id"), number, where), asked, tuple(golds))


def _id(value: Any, number: int, where: str) -> str:
    if value is None:
        return str(number)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise UsageError(f"{where}: id must be a text or a number")
    return str(value)


def _read(source: str, name: str) -> bytes:
    try:
        if source == "-":
            if sys.stdin is None:
                raise DocumentError("stdin: is closed: there is nothing to read")
            raw = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(source).open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise DocumentError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{name}: is larger than {MAX_BYTES // 2**20} MiB: take `jrt batch`")
    return raw
