"""TriviaQA: a sentence to complete about a web or Wikipedia text (based_triviaqa)."""

from __future__ import annotations

import re

from jrtcli.tasks import cloze
from jrtcli.tasks.task import Row, Task

_MARKS = re.compile(r"\[PAR\]|\[DOC\]|\[TLE\]")


def clean(text: str) -> str:
    """The text without the data set's marks."""
    return _MARKS.sub("", text)


def document(row: Row) -> str:
    """The text that templates show."""
    return cloze.body(row, clean)


TASK = Task(
    name="triviaqa",
    description="trivia on web and Wikipedia texts",
    datasets={1000: "hazyresearch/based_triviaqa"},
    fields=cloze.FIELDS,
    cut_field="context",
    answer_keys=(),
    once=cloze.once(clean),
    twice=cloze.twice(clean),
    document=document,
    question=cloze.question,
    golds=cloze.golds,
    from_qa=cloze.from_qa,
)
