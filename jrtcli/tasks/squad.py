"""SQuAD: a sentence to complete about a Wikipedia paragraph (based_squad)."""

from __future__ import annotations

from typing import Any

from jrt_prompts import Segment
from jrtcli.tasks.task import Row, Task, golds_of


def once(row: Row) -> tuple[Segment, ...]:
    """`text`: the passage and the sentence, as the row has them."""
    return (Segment("context", row["text"].strip()),)


def twice(row: Row) -> tuple[Segment, ...]:
    """`question context` and on a new line `text`; of the context what stands before "Question:", uncut."""
    return (
        Segment("question", row["question"]),
        Segment("text", " "),
        Segment("context", row["context"].split("Question:")[0]),
        Segment("text", "\n"),
        Segment("context", row["text"].strip()),
    )


def document(row: Row) -> str:
    """The passage that templates show: what of the context is left by the cut."""
    # `text` is what is cut; the passage itself where it still is whole.
    passage: str = row["context"].split("Question:")[0].strip()
    text: str = row["text"].strip()
    return passage if passage in text else text


def question(row: Row) -> str:
    """What a template asks."""
    asked: str = row["question"]
    return asked


def golds(row: Row) -> tuple[str, ...]:
    """The value; of a QA row all its answers."""
    return golds_of(row.get("answers", row["value"]))


def from_qa(row: Row) -> dict[str, Any]:
    """A QA row: its question follows the passage where a sentence to complete would."""
    text = f"{row['context'].strip()} {row['question'].strip()}"
    return {**row, "text": text, "value": golds_of(row["answers"])[0]}


TASK = Task(
    name="squad",
    description="SQuAD on Wikipedia paragraphs",
    datasets={1000: "hazyresearch/based-squad"},
    fields=("text", "context", "question", "value"),
    cut_field="text",
    answer_keys=("value",),
    once=once,
    twice=twice,
    document=document,
    question=question,
    golds=golds,
    from_qa=from_qa,
)
