"""Any QA jsonl file as a task of its own: rows of context, question and answers, shown by templates."""

from __future__ import annotations

from typing import Any

from jrtcli.tasks.task import Row, Task, golds_of


def _document(row: Row) -> str:
    text: str = row["context"]
    return text


def _question(row: Row) -> str:
    asked: str = row["question"]
    return asked


def _golds(row: Row) -> tuple[str, ...]:
    return golds_of(row["answers"])


def _same(row: Row) -> dict[str, Any]:
    return dict(row)


def qa_task(name: str) -> Task:
    """The task of a file. It is not cut unless a length is asked for; then around its first answer."""
    return Task(
        name=name,
        description="questions of a file",
        datasets={1000: ""},
        fields=("context", "question", "answers"),
        cut_field="context",
        answer_keys=("answers",),
        once=None,
        twice=None,
        document=_document,
        question=_question,
        golds=_golds,
        from_qa=_same,
        length_tokens=None,
        orders=("cq", "cqcq"),
    )
