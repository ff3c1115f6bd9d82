"""The prompts that FDA and SWDE share: the model completes the value of a named field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jrt_prompts import Segment
from jrtcli.tasks.task import Row, Written, golds_of, without_end

FIELDS = ("text", "key", "value")
ANSWER_KEYS = ("key", "value")


def body(row: Row) -> str:
    """The document without the copy of its key that a published row ends with."""
    return without_end(row["text"], row["key"] + ":")


def cue(row: Row) -> str:
    """The key with a capital and a colon, which the value follows."""
    return row["key"][:1].upper() + row["key"][1:] + ":"


def once(ended: Callable[[str], str]) -> Written:
    """`D. K:`. ended: brings the document to its one full stop."""

    def written(row: Row) -> tuple[Segment, ...]:
        return (Segment("context", ended(body(row))), Segment("text", " "), Segment("question", cue(row)))

    return written


def twice(ended: Callable[[str], str]) -> Written:
    """`Information about K. D.` and on a new line `D. K:`."""

    def written(row: Row) -> tuple[Segment, ...]:
        shown = Segment("context", ended(body(row)))
        return (
            Segment("text", "Information about "),
            Segment("question", cue(row).strip(":")),
            Segment("text", ". "),
            shown,
            Segment("text", "\n"),
            shown,
            Segment("text", " "),
            Segment("question", cue(row)),
        )

    return written


def question(row: Row) -> str:
    """What a template asks: the QA row's own question, else the key and its colon."""
    own = row.get("question")
    return own if isinstance(own, str) and own.strip() else cue(row)


def golds(row: Row) -> tuple[str, ...]:
    """The value; of a QA row all its answers."""
    return golds_of(row.get("answers", row["value"]))


def from_qa(row: Row) -> dict[str, Any]:
    """A QA row; its `key`, else its question, is the name of the field."""
    key = str(row.get("key") or row["question"].strip().rstrip(":?"))
    return {**row, "text": row["context"], "key": key, "value": golds_of(row["answers"])[0]}
