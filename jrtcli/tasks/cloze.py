"""The prompts that DROP, NQ and TriviaQA share: the model completes a sentence about the document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jrt_prompts import Segment
from jrtcli.tasks.task import Row, Written, golds_of, without_end

FIELDS = ("context", "question", "orig_question", "answers")

Clean = Callable[[str], str]


def body(row: Row, clean: Clean = str) -> str:
    """The document without a copy of the sentence at its end."""
    return without_end(clean(row["context"].strip()), row["question"].strip())


def once(clean: Clean = str) -> Written:
    """`D. Q`. clean: takes marks out of the document."""

    def written(row: Row) -> tuple[Segment, ...]:
        shown = body(row, clean).strip().strip(".") + "."
        return (
            Segment("context", shown),
            Segment("text", " "),
            Segment("question", row["question"].strip()),
        )

    return written


def twice(clean: Clean = str) -> Written:
    """`orig_question D.` and on a new line `D. Q`."""

    def written(row: Row) -> tuple[Segment, ...]:
        shown = Segment("context", body(row, clean).strip().strip(".").strip() + ".")
        return (
            Segment("question", row["orig_question"].strip(":")),
            Segment("text", " "),
            shown,
            Segment("text", "\n"),
            shown,
            Segment("text", " "),
            Segment("question", row["question"].strip()),
        )

    return written


def question(row: Row) -> str:
    """What a template asks: the original question."""
    asked: str = row["orig_question"]
    return asked


def golds(row: Row) -> tuple[str, ...]:
    """All answers."""
    return golds_of(row["answers"])


def from_qa(row: Row) -> dict[str, Any]:
    """A QA row: it has no sentence to complete, its question stands in both places."""
    return {**row, "orig_question": row["question"]}
