"""The items of a cell: rows of a task, cut and shown in the cell's order, as rows of a batch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jrt_prompts
from jrtcli.errors import UsageError
from jrtcli.evaluate.grid import Cell
from jrtcli.records import Record
from jrtcli.tasks.cut import cut
from jrtcli.tasks.task import Row, Task, row_id

if TYPE_CHECKING:
    from jrtcli.tokens import Tokenizer

Rows = Sequence[tuple[dict[str, Any], str]]


@dataclass(frozen=True)
class Item(Record):
    """A record of one cell. cell: its number among those that share a model."""

    cell: int = 0


def shown_rows(task: Task, rows: Rows, cell: Cell, tokenizer: Tokenizer) -> list[tuple[Row, str]]:
    """The rows with their documents cut for a cell; those that the cut drops are left out."""
    made: list[tuple[Row, str]] = []
    for row, where in rows:
        length = cell.length_tokens
        if length is not None and cell.oracle and task.cut_length_tokens and _published(task, row):
            length = task.cut_length_tokens
        shown: Row | None = row if length is None else cut(task, row, tokenizer, length, oracle=cell.oracle)
        if shown is not None:
            made.append((shown, where))
    return made


def _published(task: Task, row: Row) -> bool:
    return all(name in row for name in task.fields) and row.get("question") != row.get("orig_question")


def records(task: Task, shown: Sequence[tuple[Row, str]], cell: Cell, of: int = 0) -> list[Item]:
    """What is asked in a cell, one record a row, each with its own prompt where no template alone makes it.
    of: the cell's number among those of its model.

    Raises UsageError where there are too few rows to take the cell's examples from.
    """
    template = None if task.written(shown[0][0], cell.order) else jrt_prompts.load_template(cell.order)
    seen: set[str] = set()
    made = []
    for number, (row, where) in enumerate(shown):
        golds = task.golds(row)
        document = task.document(row)
        if not golds or not document.strip():
            continue
        id = row_id(row, number)
        id = id if id not in seen else f"{id}#{number}"
        seen.add(id)
        prompt = task.written(row, cell.order)
        if cell.shots:
            prompt = _with_examples(task, shown, number, cell, template)
        question = task.question(row)
        carried = {
            "task": task.name,
            "question": question,
            "answers": list(golds),
            "position": position(document, golds),
            "document_characters": len(document),
        }
        file, _, line = where.rpartition(":")
        made.append(
            Item(
                file=file,
                line=int(line),
                number=number,
                id=id,
                question=question,
                answers=golds,
                context=document,
                doc=None,
                state=None,
                name="context",
                carried=carried,
                prompt=prompt,
                cell=of,
            )
        )
    return made


def position(document: str, golds: Sequence[str]) -> float | None:
    """Where in the document the first gold stands, 0.0 at its beginning to 1.0; None where none does."""
    found = [
        match.start()
        for gold in golds
        if (match := re.search(re.escape(gold.strip()), document, re.IGNORECASE))
    ]
    return round(min(found) / max(1, len(document)), 6) if found else None


def _prompt(task: Task, row: Row, cell: Cell, template: jrt_prompts.Template | None) -> jrt_prompts.Prompt:
    written = task.written(row, cell.order)
    if written is not None:
        return written
    assert template is not None
    return template.render(task.document(row), task.question(row), reads=cell.reads)


def _with_examples(
    task: Task,
    shown: Sequence[tuple[Row, str]],
    number: int,
    cell: Cell,
    template: jrt_prompts.Template | None,
) -> jrt_prompts.Prompt:
    """The prompt after `shots` others with their answers: the next rows that are about other documents."""
    own = shown[number][0]
    seen = {task.document(own)}
    texts: list[str] = []
    for step in range(1, len(shown)):
        other = shown[(number + step) % len(shown)][0]
        if len(texts) == cell.shots:
            break
        if task.document(other) not in seen and task.golds(other):
            seen.add(task.document(other))
            # As in lm-evaluation-harness: a space before the answer, an empty line after it.
            texts.append(f"{_prompt(task, other, cell, template).text} {task.golds(other)[0].strip()}\n\n")
    if len(texts) < cell.shots:
        raise UsageError(
            f"{task.name}: --shots {cell.shots} needs as many rows about other documents: give more rows"
        )
    prompt = _prompt(task, own, cell, template)
    examples = jrt_prompts.Segment("text", "".join(texts))
    return jrt_prompts.Prompt((examples, *prompt.segments), prompt.stop)
